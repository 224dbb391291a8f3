"""Letters: what a mail shows, where it leads, and how it is stopped."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from limner.actors.mailer.actor import build
from limner.actors.ports import Ports
from limner.core.clock import HeldClock
from limner.core.errors import Unauthenticated
from limner.storage.sql.deliveries import Delivery
from limner.storage.sql.tasks import Task
from tests.fakes.deliveries import ADDRESS, finished, kept, mailed, picture, words
from tests.fakes.ports import open_ports
from tests.fakes.stage import Stage


@pytest.fixture
async def ports(tmp_path: Path, migrated_file: Path, clock: HeldClock) -> AsyncIterator[Ports]:
    async with open_ports(tmp_path, clock=clock, migrated=migrated_file) as opened:
        yield opened


@pytest.fixture
def stage(ports: Ports) -> Stage:
    return Stage(ports, build(ports))


async def fate(delivery: Delivery) -> tuple[str, str | None]:
    """Give the states of a delivery and of its task."""
    row = await Delivery.get(id=delivery.id)
    task = await Task.get_or_none(id=row.task_id)
    return row.state, task.state if task else None


async def test_the_mail_shows_the_picture_and_leads_to_it(stage: Stage, clock: HeldClock) -> None:
    task = await finished(stage.ports)
    delivery = await mailed(stage.ports, task)
    await stage.act()
    (mail,) = await kept(stage.ports)
    assert mail["To"] == ADDRESS
    assert mail["From"] == "Limner <limner@limner.test>"
    assert mail["Message-ID"] == delivery.message_id
    assert delivery.message_id.endswith(".result.1@limner.test>")
    (shown,) = [part for part in mail.walk() if part.get_content_type() == "image/png"]
    assert shown.get_payload(decode=True) == picture()
    assert f"cid:{str(shown['Content-ID']).strip('<>')}" in words(mail, "html")
    for text in (words(mail), words(mail, "html")):
        assert "a red fox in the snow" in text
        assert "This link works for 1 hour." in text
        token = text.split("https://limner.test/r/")[1].split()[0].split('"')[0]
        signer = stage.ports.signer
        assert signer.open("result", token, clock.now()) == {"task": task.id}
        with pytest.raises(Unauthenticated):
            signer.open("result", token, clock.now() + timedelta(seconds=3600))


async def test_the_reader_can_stop_these_mails_with_one_click(
    stage: Stage, clock: HeldClock
) -> None:
    await mailed(stage.ports, await finished(stage.ports))
    await stage.act()
    (mail,) = await kept(stage.ports)
    assert mail["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    link = str(mail["List-Unsubscribe"])
    assert link.startswith("<https://limner.test/unsubscribe/")
    token = link.removeprefix("<https://limner.test/unsubscribe/").rstrip(">")
    assert stage.ports.signer.open("unsubscribe", token, clock.now()) == {"address": ADDRESS}
    assert token in words(mail, "html")


async def test_the_life_of_the_link_is_a_setting(stage: Stage) -> None:
    await stage.tune(result_link_ttl_s=172_800)
    await mailed(stage.ports, await finished(stage.ports))
    await stage.act()
    (mail,) = await kept(stage.ports)
    assert "This link works for 2 days." in words(mail)


async def test_a_chinese_wish_gets_a_chinese_mail(stage: Stage) -> None:
    await mailed(stage.ports, await finished(stage.ports, language="zh", prompt="一只红狐狸"))
    await stage.act()
    (mail,) = await kept(stage.ports)
    assert mail["Subject"] == "您的图片已生成"
    assert "一只红狐狸" in words(mail)


async def test_a_video_is_shown_by_its_first_frame(stage: Stage) -> None:
    task = await finished(
        stage.ports, media="video", result_key="jobs/job_1/1-0.webm", poster_key="jobs/job_1/p.png"
    )
    await stage.ports.objects.put(task.poster_key, picture(), "image/png", size_limit_bytes=9999)
    await mailed(stage.ports, task)
    await stage.act()
    (mail,) = await kept(stage.ports)
    assert mail["Subject"] == "Your video is ready"
    assert [part.get_filename() for part in mail.walk() if part.get_filename()] == ["video.png"]


@pytest.mark.parametrize(
    ("content", "content_type", "limit_bytes"),
    [
        (None, "image/png", 5_242_880),
        (picture(), "image/png", 100),
        (picture(), "image/png", 0),
        (picture(), "image/avif", 5_242_880),
        (b"\x89PNG\r\n\x1a\n but no picture", "image/png", 5_242_880),
        (picture()[:30], "image/png", 5_242_880),
    ],
    ids=["missing", "too large", "not wanted", "not for mails", "broken", "cut off"],
)
async def test_what_a_mail_cannot_show_is_only_linked(
    stage: Stage, content: bytes | None, content_type: str, limit_bytes: int
) -> None:
    await stage.tune(inline_picture_max_bytes=limit_bytes)
    task = await finished(stage.ports)
    await stage.ports.objects.delete(task.result_key)
    if content is not None:
        await stage.ports.objects.put(
            task.result_key, content, content_type, size_limit_bytes=100_000
        )
    delivery = await mailed(stage.ports, task)
    await stage.act()
    assert await fate(delivery) == ("sent", "emailed")
    (mail,) = await kept(stage.ports)
    assert "https://limner.test/r/" in words(mail, "html")
    assert [part.get_content_maintype() for part in mail.walk()] == ["multipart", "text", "text"]
