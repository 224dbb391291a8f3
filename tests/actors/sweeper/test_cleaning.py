"""Cleaning: what has served its time goes, what anything names stays."""

import os
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from limner.actors.ports import Ports
from limner.actors.sweeper import cleaning
from limner.actors.sweeper.actor import build
from limner.actors.sweeper.messages import Clean, Retain
from limner.core.clock import HeldClock
from limner.core.ids import new_id
from limner.storage.objects.local import LocalObjects
from limner.storage.sql.accounts import SignInLink, User
from limner.storage.sql.action_links import ActionLink
from limner.storage.sql.audit import AuditLine
from limner.storage.sql.comments import Comment
from limner.storage.sql.deliveries import Delivery
from limner.storage.sql.idempotency import IdempotentRequest
from limner.storage.sql.identities import Authorization
from limner.storage.sql.jobs import Job
from limner.storage.sql.language import LanguageAnswer
from limner.storage.sql.mailbox import MailboxMail
from limner.storage.sql.messaging import InboxRow
from limner.storage.sql.notifications import Notification
from limner.storage.sql.schedules import ScheduleRun
from limner.storage.sql.sessions import RefreshToken, Session
from limner.storage.sql.tasks import Task
from limner.storage.sql.timeline import TimelineLine
from tests.fakes.deliveries import finished
from tests.fakes.ports import open_ports
from tests.fakes.stage import Stage

DAY_S = 86_400.0


@pytest.fixture
async def ports(tmp_path: Path, migrated_file: Path, clock: HeldClock) -> AsyncIterator[Ports]:
    async with open_ports(tmp_path, clock=clock, migrated=migrated_file) as opened:
        yield opened


@pytest.fixture
def stage(ports: Ports) -> Stage:
    return Stage(ports, build(ports))


def ago(ports: Ports, days: float) -> datetime:
    return ports.clock.now() - timedelta(days=days)


async def put(ports: Ports, key: str, age_s: float) -> None:
    """Store an object that was last written ``age_s`` seconds ago."""
    assert isinstance(ports.objects, LocalObjects)
    await ports.objects.put(key, b"x", "image/png", size_limit_bytes=10)
    written = ports.clock.now().timestamp() - age_s
    os.utime(ports.objects._folder.path_of(key), (written, written))


async def keys(ports: Ports) -> list[str]:
    return [entry.key for entry in await ports.objects.list()]


async def clean(stage: Stage) -> None:
    await stage.send(Clean())
    assert await stage.act() == 1
    assert await stage.dead() == []


async def test_rows_go_when_they_have_served_their_time(
    stage: Stage, ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleaning, "ROWS_PER_DELETE", 2)
    for number, days in enumerate((13.9, 14.1, 15, 20, 40, 50)):
        name = f"{days}"
        await stage.keep(
            InboxRow(id=name, consumer="mailer", at=ago(ports, days)),
            ScheduleRun(
                id=name,
                schedule_id="s",
                fire_at=ago(ports, days),
                started_at=ago(ports, days + 16),
            ),
            SignInLink(
                id=name,
                user_id="user_1",
                sha256=f"{number}",
                expires_at=ago(ports, days - 13),
                created_at=ago(ports, days),
            ),
        )
        await stage.keep(*_of_the_front(name, number, ago(ports, days - 13)))
    await clean(stage)
    for table in (ActionLink, Authorization, RefreshToken, IdempotentRequest):
        assert {row.id for row in await table.all()} == {"13.9"}, table
    assert {row.id for row in await Session.all()} == {"13.9", "13.9_revoked"}
    assert {row.id for row in await Notification.all()} == {"13.9"}
    assert {row.id for row in await InboxRow.filter(consumer="mailer")} == {"13.9"}
    assert {row.id for row in await ScheduleRun.all()} == {"13.9"}
    assert {row.id for row in await SignInLink.all()} == {"13.9"}


def _of_the_front(name: str, number: int, at: datetime) -> list[Any]:
    """Give a row of each table of the front that ended at ``at``, or was made then."""
    user: dict[str, Any] = {"id": name, "user_id": "user_1", "created_at": at}
    ends = {**user, "expires_at": at}
    return [
        ActionLink(**ends, purpose=ActionLink.VERIFY),
        Authorization(
            id=name,
            provider="oidc",
            state_sha256=f"{number}",
            browser_sha256="x",
            sealed=b"x",
            created_at=at,
            expires_at=at,
        ),
        Session(**ends, kind=Session.WEB, last_seen_at=at, idle_until=at),
        Session(
            **{**ends, "id": f"{name}_revoked", "expires_at": at + timedelta(days=30)},
            kind=Session.WEB,
            last_seen_at=at,
            idle_until=at + timedelta(days=14),
            revoked_at=at,
        ),
        RefreshToken(**ends, session_id=name, sha256=f"{number}"),
        IdempotentRequest(**user, fingerprint="x", lease_until=at),
        Notification(**{**user, "created_at": at - timedelta(days=89)}, kind="x"),
    ]


async def test_an_object_that_nothing_names_goes_after_a_day(stage: Stage, ports: Ports) -> None:
    for prefix in ("avatars/user_0", "jobs/job_0", "results/task_0", "mailbox"):
        await put(ports, f"{prefix}/old.png", DAY_S + 60)
        await put(ports, f"{prefix}/young.png", DAY_S - 60)
    await put(ports, "elsewhere/old.png", 10 * DAY_S)
    await clean(stage)
    assert await keys(ports) == [
        "avatars/user_0/young.png",
        "elsewhere/old.png",
        "jobs/job_0/young.png",
        "mailbox/young.png",
        "results/task_0/young.png",
    ]


async def test_what_a_row_names_stays_however_old_it_is(stage: Stage, ports: Ports) -> None:
    video = await finished(
        ports, media="video", result_key="results/task_v/1-1.webm", poster_key="results/task_v/p"
    )
    picture = await finished(ports, result_key="results/task_p/1-1.png")
    job = Job(
        id="job_1",
        state="succeeded",
        prompt="a fox",
        outputs=[
            {"key": "jobs/job_1/2-0.webm", "poster_key": "jobs/job_1/2-0-poster.png"},
            {"key": "jobs/job_1/2-1.webm"},
        ],
    )
    taken_over = await finished(ports, result_key="jobs/job_gone/1-0.png")
    mail = MailboxMail(
        id="mail_1",
        message_id="<a@b.c>",
        sender="a@b.c",
        recipient="d@e.f",
        raw_key="mailbox/mail_1.eml",
        size_bytes=1,
        created_at=ports.clock.now(),
    )
    await stage.keep(job, mail)
    user = User(id="user_a", user_id="user_a", state="active", avatar_key="avatars/user_a/1.png")
    await stage.keep(user)
    named = [
        user.avatar_key,
        "jobs/job_1/2-0-poster.png",
        "jobs/job_1/2-0.webm",
        "jobs/job_1/2-1.webm",
        taken_over.result_key,
        mail.raw_key,
        picture.result_key,
        video.poster_key,
        video.result_key,
    ]
    orphans = ["avatars/user_a/0.png", "avatars/user_b/1.png", "avatars/x"]
    orphans += [
        "jobs/job_1/1-0.webm",
        "jobs/job_1/2-0",
        "jobs/job_2/2-0.webm",
        "mailbox/mail_2.eml",
    ]
    for key in (*named, *orphans):
        await put(ports, key, 400 * DAY_S)
    await clean(stage)
    assert await keys(ports) == sorted(named)


async def test_orphans_are_found_behind_any_number_of_pages(
    stage: Stage, ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleaning, "PAGE", 2)
    for number in range(5):
        await put(ports, f"results/task_0/{number}.png", (number % 2 + 0.5) * DAY_S)
    await clean(stage)
    assert await keys(ports) == [f"results/task_0/{number}.png" for number in (0, 2, 4)]


async def test_the_timelines_of_what_ended_long_ago_go_and_their_objects_stay(
    stage: Stage, ports: Ports
) -> None:
    names = {}
    for name, days, state in (
        ("old", 91, "emailed"),
        ("young", 89, "emailed"),
        ("on", 91, "running"),
    ):
        task = await finished(ports, state=state)
        writer, at = ports.database.write(), ago(ports, days)
        await writer.execute("UPDATE tasks SET updated_at = ? WHERE id = ?", [at, task.id])
        await writer.execute("UPDATE timeline SET at = ? WHERE object_id = ?", [at, task.id])
        names[task.id] = name
    await clean(stage)
    assert {names[line.object_id] for line in await TimelineLine.all()} == {"young", "on"}
    assert await Task.all().count() == 3


async def commented(stage: Stage, days: float, task: Task | None = None) -> Comment:
    row = Comment(
        id=new_id("comment"),
        state="task" if task else "ignored",
        source_id="source_1",
        external_id=new_id("external"),
        author="a reader",
        text="draw a fox, reader@example.org",
        task_id=task.id if task else None,
        created_at=ago(stage.ports, days),
    )
    await stage.keep(row)
    return row


async def aged(stage: Stage, state: str, days: float, **fields: Any) -> tuple[Task, Comment]:
    """Store a task that was last changed ``days`` ago, with its comment."""
    task = await finished(
        stage.ports,
        state=state,
        result_key="",
        author="a reader",
        comment_text="draw a fox, reader@example.org",
        created_at=ago(stage.ports, days),
        **fields,
    )
    return task, await commented(stage, days, task)


async def retain(stage: Stage) -> None:
    await stage.send(Retain())
    await stage.act()
    assert await stage.dead() == []


@pytest.mark.parametrize("state", ["emailed", "failed", "cancelled", "expired"])
async def test_addresses_and_words_of_ended_tasks_are_erased_in_time(
    stage: Stage, state: str
) -> None:
    await stage.tune(retention_days=30)
    old, young = await aged(stage, state, 31), await aged(stage, state, 29)
    await retain(stage)
    for (task, comment), erased in ((old, True), (young, False)):
        row, said = await Task.get(id=task.id), await Comment.get(id=comment.id)
        kept = (row.email, row.comment_text, row.author, said.text, said.author)
        assert all(text == "" for text in kept) is erased
        assert all(kept) is not erased
        assert row.state == state
    line = await AuditLine.get(event="retention.erased")
    assert line.data == {"tasks": 1, "days": 30}


@pytest.mark.parametrize(
    "state",
    ["pending", "needs_review", "extracted", "submitted", "running", "succeeded", "unknown"],
)
async def test_a_task_that_has_not_ended_keeps_what_it_needs(stage: Stage, state: str) -> None:
    task, comment = await aged(stage, state, 4000)
    await retain(stage)
    row, said = await Task.get(id=task.id), await Comment.get(id=comment.id)
    assert all((row.email, row.comment_text, row.author, said.text, said.author))


async def test_the_words_of_a_task_that_had_no_address_are_erased_too(stage: Stage) -> None:
    task, _ = await aged(stage, "expired", 91, email="")
    await retain(stage)
    row = await Task.get(id=task.id)
    assert (row.comment_text, row.author) == ("", "")


async def test_comments_of_which_nothing_came_are_erased(stage: Stage) -> None:
    old, young = await commented(stage, 91), await commented(stage, 89)
    await retain(stage)
    assert (await Comment.get(id=old.id)).text == ""
    assert (await Comment.get(id=young.id)).text != ""


@pytest.mark.parametrize(
    ("state", "erased"),
    [
        ("sent", True),
        ("failed", True),
        ("suppressed", True),
        ("pending", False),
        ("sending", False),
        ("unknown", True),
    ],
)
async def test_deliveries_that_have_ended_forget_to_whom(
    stage: Stage, state: str, erased: bool
) -> None:
    rows = [
        Delivery(
            id=f"delivery_{days}",
            state=state,
            address="reader@example.org",
            message_id=f"<{days}@limner.test>",
            subject="Hello reader",
            variables={"text": "Hello"},
            error="550 no mailbox reader@example.org",
            created_at=ago(stage.ports, days),
        )
        for days in (91, 89)
    ]
    await stage.keep(*rows)
    await retain(stage)
    old, young = [await Delivery.get(id=row.id) for row in rows]
    left = (old.address, old.subject, old.variables, old.error)
    assert (left == ("", "", {}, "")) is erased
    assert all(left) is not erased
    assert all((young.address, young.subject, young.variables, young.error))


async def test_a_delivery_without_an_address_forgets_its_words_too(stage: Stage) -> None:
    row = Delivery(
        id="delivery_1",
        state="failed",
        address="",
        message_id="<1@limner.test>",
        error="550 no mailbox reader@example.org",
        created_at=ago(stage.ports, 91),
    )
    await stage.keep(row)
    await retain(stage)
    assert (await Delivery.get(id=row.id)).error == ""


@pytest.mark.parametrize(
    ("state", "erased"), [("emailed", True), ("cancelled", True), ("unknown", False)]
)
async def test_a_mail_of_which_nobody_knows_is_kept_as_long_as_its_task(
    stage: Stage, state: str, erased: bool
) -> None:
    task, _ = await aged(stage, state, 4000)
    row = Delivery(
        id="delivery_1",
        state="unknown",
        task_id=task.id,
        address="reader@example.org",
        message_id="<1@limner.test>",
        created_at=ago(stage.ports, 4000),
    )
    await stage.keep(row)
    await retain(stage)
    assert ((await Delivery.get(id=row.id)).address == "") is erased


async def test_the_author_of_a_comment_without_words_is_erased(stage: Stage) -> None:
    row = await commented(stage, 91)
    await Comment.filter(id=row.id).update(text="")
    await retain(stage)
    assert (await Comment.get(id=row.id)).author == ""


async def test_kept_mails_and_answers_go_with_their_bytes(stage: Stage) -> None:
    ports = stage.ports
    for days in (89, *range(91, 200)):
        await stage.keep(
            MailboxMail(
                id=f"mail_{days}",
                message_id=f"<{days}@b.c>",
                sender="a@b.c",
                recipient="d@e.f",
                raw_key=f"mailbox/mail_{days}.eml",
                size_bytes=1,
                created_at=ago(ports, days),
            ),
            LanguageAnswer(id=f"{days}", answer={"email": "d@e.f"}, created_at=ago(ports, days)),
        )
        if days < 95:
            await put(ports, f"mailbox/mail_{days}.eml", days * DAY_S)
    await retain(stage)
    assert [row.id for row in await MailboxMail.all()] == ["mail_89"]
    assert [row.id for row in await LanguageAnswer.all()] == ["89"]
    assert await keys(ports) == ["mailbox/mail_89.eml"]


async def test_erasing_twice_erases_nothing_more(stage: Stage) -> None:
    await aged(stage, "emailed", 91)
    for _ in range(2):
        await retain(stage)
    lines = await AuditLine.filter(event="retention.erased").order_by("id")
    assert [line.data["tasks"] for line in lines] == [1, 0]


async def test_what_a_crash_left_of_an_object_is_deleted_after_a_day(
    ports: Ports, stage: Stage, tmp_path: Path
) -> None:
    await ports.objects.put("jobs/a", b"whole", "text/plain", size_limit_bytes=100)
    incoming = next(tmp_path.rglob("incoming"))
    left, fresh = incoming / "left", incoming / "fresh"
    now = ports.clock.now().timestamp()
    for path, at in ((left, now - DAY_S - 60), (fresh, now)):
        path.write_bytes(b"half")
        os.utime(path, (at, at))
    await stage.send(Clean())
    await stage.act()
    assert not left.exists()
    assert fresh.exists()
