"""How time is said."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limner.actors.mailer.phrases import PHRASES, Language, duration


@pytest.mark.parametrize(
    ("seconds", "en", "zh"),
    [
        (-5, "1 second", "1 秒"),
        (0, "1 second", "1 秒"),
        (1, "1 second", "1 秒"),
        (59, "59 seconds", "59 秒"),
        (60, "1 minute", "1 分钟"),
        (90, "90 seconds", "90 秒"),
        (121, "2 minutes", "2 分钟"),
        (3_599, "59 minutes", "59 分钟"),
        (3_600, "1 hour", "1 小时"),
        (5_400, "90 minutes", "90 分钟"),
        (7_200, "2 hours", "2 小时"),
        (86_400, "1 day", "1 天"),
        (100_000, "27 hours", "27 小时"),
        (604_800, "7 days", "7 天"),
    ],
)
def test_a_time_span_is_said_in_one_unit(seconds: int, en: str, zh: str) -> None:
    assert duration(seconds, "en") == en
    assert duration(seconds, "zh") == zh


@given(st.integers(1, 10**8))
def test_no_more_time_is_promised_than_there_is(seconds: int) -> None:
    count, unit = duration(seconds, "en").split(" ")
    size_s = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}[unit.rstrip("s")]
    assert seconds - size_s < int(count) * size_s <= seconds


@pytest.mark.parametrize("language", ["zh", "en"])
def test_every_language_says_everything(language: Language) -> None:
    phrases = PHRASES[language]
    for kind in ("image", "video"):
        for table in (phrases.ready, phrases.open, phrases.shows, phrases.why):
            assert table[kind]
    assert phrases.expiry.count("{duration}") == 1
