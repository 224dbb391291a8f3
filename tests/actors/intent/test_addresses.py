"""Addresses are found as people write them, and never guessed from parts of something else."""

import time
import unicodedata

import pytest
from email_validator import validate_email
from hypothesis import given
from hypothesis import strategies as st

from limner.actors.intent.addresses import LENGTH_MAX, find_addresses, fold, normalise, scan

ONE = [
    ("anna@example.com", "anna@example.com"),
    ("发到abc@qq.com谢谢", "abc@qq.com"),
    ("邮箱：abc@qq.com。谢谢", "abc@qq.com"),
    ("abc＠qq．com", "abc@qq.com"),
    ("ａｂｃ＠ｑｑ．ｃｏｍ", "abc@qq.com"),
    ("abc@qq。com", "abc@qq.com"),
    ("abc@qq.com。Draw it well", "abc@qq.com"),
    ("abc@qq.com。cn", "abc@qq.com"),
    ("ab\u200bc@q\u00adq.com", "abc@qq.com"),
    ("name at qq dot com", "name@qq.com"),
    ("name (at) qq (dot) com", "name@qq.com"),
    ("name(at)qq(dot)com", "name@qq.com"),
    ("name（at）qq（dot）com", "name@qq.com"),
    ("name[at]qq[dot]com", "name@qq.com"),
    ("name {AT} qq {DOT} com", "name@qq.com"),
    ("name 艾特 qq 点 com", "name@qq.com"),
    ("name艾特qq点com", "name@qq.com"),
    ("name [at] example.com", "name@example.com"),
    ("name@example dot com", "name@example.com"),
    ("name@qq点com", "name@qq.com"),
    ("name at qq.com dot cn", "name@qq.com.cn"),
    ("name AT Example DOT Org", "name@example.org"),
    ("bob at gmail.com", "bob@gmail.com"),
    ("bob @ gmail.com", "bob@gmail.com"),
    ("bob @qq.com", "bob@qq.com"),
    ("anna dot smith at example dot co dot uk", "anna.smith@example.co.uk"),
    ("anna underscore smith at example dot com", "anna_smith@example.com"),
    ("anna dash b plus art at example dot com", "anna-b+art@example.com"),
    ("anna点smith艾特example点com", "anna.smith@example.com"),
    ("anna[.]smith(at)example(.)com", "anna.smith@example.com"),
    ("draw a red dot anna at example dot com", "anna@example.com"),
    ("mail me at anna at example dot com", "anna@example.com"),
    ("look at bob at example dot com", "bob@example.com"),
    ("Bob.Smith+art@EXAMPLE.Com", "Bob.Smith+art@example.com"),
    ("o'brien@example.com", "o'brien@example.com"),
    ("'bob@example.com'", "bob@example.com"),
    ("<bob@example.com>, (bob@example.com)", "bob@example.com"),
    ("mailto:bob@example.com", "bob@example.com"),
    ("...bob@example.com...", "bob@example.com"),
    ("-bob@example.com-谢谢", "bob@example.com"),
    ("bob@example.com!!!", "bob@example.com"),
    ("bob@example.com.Thanks a lot", "bob@example.com"),
    ("bob@example.com.please", "bob@example.com"),
    ("bob@mail.example.com.", "bob@mail.example.com"),
    ("abc@qq.com 点10个赞", "abc@qq.com"),
    ("abc@qq.com点赞", "abc@qq.com"),
    ("abc@qq.com dot product", "abc@qq.com"),
    ("abc@qq.com@小红薯", "abc@qq.com"),
    ("abc@qq.com_谢谢", "abc@qq.com"),
    ("메일은abc@naver.com이에요", "abc@naver.com"),
    ("bob@xn--fsq.com", "bob@xn--fsq.com"),
    ("bob@my-site.example.co.uk", "bob@my-site.example.co.uk"),
    ("12345678@qq.com", "12345678@qq.com"),
    ("anna@example.com\u3000Anna@EXAMPLE.com", "anna@example.com"),
]

NONE = [
    "",
    "name#qq.com",
    "a..b@x",
    "a..b@example.com",
    "a.@example.com",
    "a@b.123",
    "a@b.c",
    "a@example",
    "a@localhost",
    "a@printer.local",
    "a@-example.com",
    "a@example..com",
    "@example.com",
    "a@b.com@c.com",
    "@bob@mastodon.social",
    "josém@example.com",
    "аbc@qq.com",  # a Cyrillic а before it
    "abc@qq.comé",
    "abc@exämple.com",
    "bob@example.com_x",
    '"bob"@example.com',
    "bob@[127.0.0.1]",
    "look at the dot in the middle",
    "she looks at polka dot dresses",
    "reach me at gmail dot com",
    "write us at the dot com office",
    "see you at example.com",
    "see you @ starbucks.com",
    "a" * 65 + "@example.com",
    "a@" + "b" * 64 + ".com",
    "画一张 @小红薯",
    "艾特 小明",
]


@pytest.mark.parametrize(("text", "address"), ONE)
def test_an_address_is_found_however_it_is_written(text: str, address: str) -> None:
    assert find_addresses(text) == [address]


@pytest.mark.parametrize("text", NONE)
def test_what_is_no_address_is_not_guessed_into_one(text: str) -> None:
    assert find_addresses(text) == []


def test_several_addresses_are_told_in_order_and_once() -> None:
    text = "b@example.com, a@example.com；B@example.com c@example.org"
    assert find_addresses(text) == ["b@example.com", "a@example.com", "c@example.org"]


def test_a_header_injection_gives_two_addresses_and_no_line_end() -> None:
    found = find_addresses("a@example.com\r\nBcc: v@example.com")
    assert found == ["a@example.com", "v@example.com"]


def test_the_place_of_an_address_is_what_spells_it() -> None:
    plain = normalise("给 anna dot b at example dot com 谢谢")
    [found] = scan(plain)
    assert plain[found.start : found.end] == "anna dot b at example dot com"


def test_at_most_twenty_addresses_are_told() -> None:
    text = " ".join(f"user{n}@example.com" for n in range(100))
    assert find_addresses(text) == [f"user{n}@example.com" for n in range(20)]


def test_the_search_ends_after_a_hundred_candidates() -> None:
    assert find_addresses("a..b@example.com " * 100 + "good@example.com") == []
    assert find_addresses("a..b@example.com " * 99 + "good@example.com") == ["good@example.com"]


def test_an_address_that_the_length_limit_cuts_is_not_found_in_part() -> None:
    filler = "字" * LENGTH_MAX
    for whole, part in [
        (" anna@example.com", " anna@example.co"),
        (" bo at example dot co dot uk", " bo at example dot co"),
        (" a@mail.example.org", " a@mail.example"),
    ]:
        before = filler[: LENGTH_MAX - len(part)]
        assert find_addresses(before + part) != []
        assert find_addresses(before + whole) == []


def test_expansion_by_normalisation_is_bounded() -> None:
    folded = fold("ﷺ" * 9_000)
    assert folded.is_cut
    assert len(folded.plain) <= LENGTH_MAX


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ａ\u3000Ｂ", "A B"),
        ("  a\t\r\n b  ", "a b"),
        ("画\u200b一\u2060张\ufeff", "画一张"),
        ("a\u202eb\U000e0041c\x00d\ud800", "abcd"),
        ("e\u200b\u0301", "é"),
        ("好，行！", "好,行!"),
        ("①", "1"),
    ],
)
def test_normalising_leaves_what_can_be_seen(text: str, expected: str) -> None:
    assert normalise(text) == expected


def test_the_wording_keeps_chinese_punctuation_at_equal_length() -> None:
    folded = fold("Ａ，Ｂ：好！（c）；d？～")
    assert folded.wording == "A，B：好！（c）；d？～"
    assert folded.plain == "A,B:好!(c);d?~"
    assert not folded.is_cut


@given(st.text())
def test_normalising_twice_changes_nothing_more(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    assert len(fold(text).wording) == len(once)
    assert not any(unicodedata.category(one) in {"Cc", "Cf", "Cs"} for one in once)


PIECES = st.sampled_from(
    [
        *("a", "B", "7", ".", "-", "_", "'", "@", "＠", " at ", " dot ", "(at)", "[dot]", "艾特"),
        *("点", "com", "qq", "example.com", "example", "co.uk", " ", "。", "é", "谢谢", "\u200b"),
    ]
)


@given(st.lists(PIECES, max_size=12).map("".join) | st.text(max_size=80))
def test_every_address_found_is_one_that_the_validator_accepts(text: str) -> None:
    for address in find_addresses(text):
        assert address.isascii()
        valid = validate_email(address, check_deliverability=False)
        assert valid.ascii_email is not None
        assert valid.ascii_email.lower() == address.lower()
        assert address.partition("@")[2] == address.partition("@")[2].lower()


@given(
    st.from_regex(r"[a-z][a-z0-9]{2,10}", fullmatch=True).filter(lambda name: name != "dot"),
    st.sampled_from(["@", "＠", "(at)", "[at]", " [at] ", "艾特", " 艾特 "]),
    st.sampled_from([".", "．", "(dot)", " [dot] ", "点", " 点 "]),
    st.sampled_from(["发到", "邮箱：", "my email is ", "(", "\n", ""]),
    st.sampled_from(["谢谢", "。", ", thanks", ")", "\n", ""]),
)
def test_every_manner_of_writing_is_understood(
    name: str, at: str, dot: str, before: str, after: str
) -> None:
    assert find_addresses(f"{before}{name}{at}example{dot}com{after}") == [f"{name}@example.com"]


def best_s(text: str) -> float:
    """Give the shortest of five scans, in seconds of this thread, without the limit on length."""
    times = []
    for _ in range(5):
        start = time.thread_time()
        find_addresses(text)
        times.append(time.thread_time() - start)
    return min(times)


@pytest.mark.parametrize("piece", ["a", "a.", "a-", "a at ", "a dot ", "a@", "a点", "(at)", "-.'"])
def test_the_time_for_a_hostile_text_grows_with_its_length_and_no_faster(piece: str) -> None:
    short, long = (piece * LENGTH_MAX)[:1_000], (piece * LENGTH_MAX)[:LENGTH_MAX]
    assert best_s(long) < 60 * best_s(short) + 0.01


def test_beyond_the_limit_length_costs_nothing() -> None:
    assert best_s("a" * 50_000) < 30 * best_s("a" * 5_000) + 0.01
