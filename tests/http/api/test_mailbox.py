"""The mailbox over REST: mails parsed, their files behind links, their HTML in a sandbox."""

from collections.abc import AsyncIterator
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path

import pytest
from aiohttp import ClientSession

from limner.core.clock import HeldClock
from limner.core.ids import new_id
from limner.storage.sql.mailbox import MailboxMail
from tests.fakes.front import Stage, problem, staged

PNG = b"\x89PNG\r\n\x1a\n" + b"x" * 50


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        yield opened


def message() -> EmailMessage:
    mail = EmailMessage(policy=SMTP)
    mail["From"] = "Limner <limner@example.org>"
    mail["To"] = "anna@example.com"
    mail["Subject"] = "你的图片 {{7*7}}"
    mail["Received"] = "from a"
    mail["Received"] = "from b"
    mail.set_content("Here it is: {{7*7}}\n")
    mail.add_alternative('<p>Here</p><img src="cid:pic@x"><script>alert(1)</script>', "html")
    html = mail.get_body(("html",))
    assert isinstance(html, EmailMessage)
    html.add_related(PNG, "image", "png", cid="<pic@x>", filename="image.png")
    mail.add_attachment(b"<script>", "text", "html", filename="../x\u202egnp.html")
    return mail


async def keep(stage: Stage, mail: EmailMessage | None = None) -> MailboxMail:
    raw = (mail or message()).as_bytes()
    ident = new_id("mail")
    key = f"mailbox/{ident}.eml"
    await stage.front.objects.put(key, raw, "message/rfc822", size_limit_bytes=1 << 20)
    row = MailboxMail(
        id=ident,
        message_id=f"<{ident}@x>",
        sender="limner@example.org",
        recipient="anna@example.com",
        subject="你的图片 {{7*7}}",
        raw_key=key,
        size_bytes=len(raw),
        created_at=stage.clock.now(),
    )
    await stage.add(row)
    return row


async def test_a_mail_is_listed_and_shown_whole(stage: Stage) -> None:
    row = await keep(stage)
    admin = await stage.admin()
    page = await (await admin.get("/api/mailbox?to=anna@example.com")).json()
    assert page["data"] == [
        {
            "id": row.id,
            "to": ["anna@example.com"],
            "from": "limner@example.org",
            "subject": "你的图片 {{7*7}}",
            "created_at": "2026-11-22T12:00:00Z",
        }
    ]
    mail = await (await admin.get(f"/api/mailbox/{row.id}")).json()
    assert {name: mail[name] for name in page["data"][0]} == page["data"][0]
    assert mail["text"].strip() == "Here it is: {{7*7}}"
    assert "<script>" in mail["html"]
    assert mail["headers"]["Subject"] == "你的图片 {{7*7}}"
    assert mail["headers"]["Received"] == "from a, from b"
    columns = ("name", "content_type", "size_bytes")
    assert [tuple(one[name] for name in columns) for one in mail["attachments"]] == [
        ("image.png", "image/png", len(PNG)),
        ("../x\u202egnp.html", "text/html", 8),
    ]


async def test_a_mail_is_not_sent_again_while_the_links_to_its_files_work(stage: Stage) -> None:
    row = await keep(stage)
    admin = await stage.admin()
    path = f"/api/mailbox/{row.id}"
    seen = {"If-None-Match": (await admin.get(path)).headers["ETag"]}
    assert (await admin.get(path, headers=seen)).status == 304
    stage.clock.advance(1800)
    assert (await admin.get(path, headers=seen)).status == 200
    bare = EmailMessage(policy=SMTP)
    bare["To"] = "ben@example.com"
    bare.set_content("Nothing is added.")
    path = f"/api/mailbox/{(await keep(stage, bare)).id}"
    seen = {"If-None-Match": (await admin.get(path)).headers["ETag"]}
    stage.clock.advance(10_000)
    assert (await admin.get(path, headers=seen)).status == 304


async def test_a_file_opens_by_its_link_and_only_by_its_own(stage: Stage) -> None:
    row = await keep(stage)
    admin = await stage.admin()
    files = (await (await admin.get(f"/api/mailbox/{row.id}")).json())["attachments"]
    async with ClientSession() as anybody:
        async with anybody.get(files[0]["url"]) as answer:
            assert (answer.status, await answer.read()) == (200, PNG)
            assert answer.content_type == "image/png"
            assert "sandbox" in answer.headers["Content-Security-Policy"]
        async with anybody.get(files[1]["url"]) as answer:
            assert answer.content_type == "application/octet-stream"
            assert answer.headers["Content-Disposition"].startswith("attachment; ")
            assert "\u202e" not in answer.headers["Content-Disposition"]
        other = files[1]["url"].replace("/attachments/1", "/attachments/0")
        async with anybody.get(other) as answer:
            assert answer.status == 403
        async with anybody.get(files[0]["url"].partition("?")[0]) as answer:
            assert answer.status == 401
        stage.clock.advance(3600)
        async with anybody.get(files[0]["url"]) as answer:
            assert (await problem(answer))["code"] == "token_expired"
    path = f"/api/mailbox/{row.id}/attachments"
    assert (await admin.get(f"{path}/0")).status == 200
    assert (await admin.get(f"{path}/9")).status == 404
    assert (await admin.get(f"{path}/-1")).status == 404
    limited = await stage.client(await stage.key("tasks:read"))
    assert (await limited.get(f"{path}/0")).status == 403


async def test_the_html_can_do_nothing_and_brings_its_pictures(stage: Stage) -> None:
    row = await keep(stage)
    admin = await stage.admin()
    answer = await admin.get(f"/api/mailbox/{row.id}/html")
    text = await answer.text()
    policy = answer.headers["Content-Security-Policy"]
    assert "sandbox" in policy
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert "cid:pic@x" not in text
    assert 'src="data:image/png;base64,' in text


async def test_a_mail_without_html_or_files_is_shown_too(stage: Stage) -> None:
    plain = EmailMessage(policy=SMTP)
    plain["Subject"] = "x"
    plain.set_content("only text")
    row = await keep(stage, plain)
    admin = await stage.admin()
    mail = await (await admin.get(f"/api/mailbox/{row.id}")).json()
    assert (mail["html"], mail["attachments"], mail["text"].strip()) == ("", [], "only text")


async def test_mails_are_removed_with_their_bytes_one_or_all(stage: Stage) -> None:
    rows = [await keep(stage) for _ in range(3)]
    admin = await stage.admin()
    assert (await admin.delete(f"/api/mailbox/{rows[0].id}")).status == 204
    assert (await admin.get(f"/api/mailbox/{rows[0].id}")).status == 404
    assert (await admin.delete(f"/api/mailbox/{rows[0].id}")).status == 404
    assert len(await stage.front.objects.list("mailbox/")) == 2
    assert (await admin.delete("/api/mailbox")).status == 204
    assert await MailboxMail.all().count() == 0
    assert list(await stage.front.objects.list("mailbox/")) == []
    assert (await admin.delete("/api/mailbox")).status == 204
