"""What a deleted account leaves behind is erased piece by piece, and only that."""

import itertools
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from limner.actors.generator.messages import Generate
from limner.actors.mailer.messages import AccountMail, LinkWanted, Send
from limner.actors.poller.messages import Poll
from limner.actors.ports import Ports
from limner.actors.sweeper.actor import build
from limner.actors.sweeper.erasing import Erasing
from limner.actors.sweeper.messages import Erase, Forget
from limner.core.clock import HeldClock
from limner.core.ids import new_id
from limner.core.message import Message
from limner.storage.sql.accounts import User
from limner.storage.sql.audit import AuditLine
from limner.storage.sql.comments import Comment
from limner.storage.sql.deliveries import Delivery
from limner.storage.sql.jobs import RUNNING, Job
from limner.storage.sql.language import LanguageAnswer
from limner.storage.sql.mailbox import MailboxMail
from limner.storage.sql.messaging import DeadLetter, OutboxRow
from limner.storage.sql.schedules import Schedule
from limner.storage.sql.sessions import Session
from limner.storage.sql.sources import Source, create_source
from limner.storage.sql.suppressions import Suppression, hashed, is_suppressed
from limner.storage.sql.tasks import Task
from limner.storage.sql.users import avatars_of
from tests.fakes.ports import open_ports
from tests.fakes.stage import Stage


@pytest.fixture
async def ports(tmp_path: Path, migrated_file: Path, clock: HeldClock) -> AsyncIterator[Ports]:
    async with open_ports(tmp_path, clock=clock, migrated=migrated_file) as opened:
        yield opened


@pytest.fixture
def stage(ports: Ports) -> Stage:
    return Stage(ports, build(ports))


async def person(stage: Stage, state: str) -> User:
    """Store an account with one of everything that accounts make."""
    ident = new_id("user")
    user = User(id=ident, user_id=ident, state=state)
    source = Source(
        id=new_id("source"),
        state="active",
        user_id=ident,
        name="my notes",
        connector="http",
        options={"url": "https://x.test/anna"},
    )
    comment = Comment(
        id=new_id("comment"),
        state="task",
        user_id=ident,
        source_id=source.id,
        external_id=new_id("external"),
        author="Anna",
        text="draw a heron for anna@example.com",
    )
    task = Task(
        id=new_id("task"),
        state="submitted",
        user_id=ident,
        comment_id=comment.id,
        source_id=source.id,
        comment_text=comment.text,
        author="Anna",
        email="anna@example.com",
        prompt="a heron",
    )
    own = Job(id=new_id("job"), state="succeeded", user_id=ident, prompt="a heron")
    mail = Delivery(
        id=new_id("delivery"),
        state="sent",
        user_id=ident,
        task_id=None,
        address="anna@example.com",
        message_id=f"<{ident}@x.test>",
    )
    now = stage.ports.clock.now()
    session = Session(
        id=new_id("session"),
        user_id=ident,
        kind=Session.WEB,
        created_at=now,
        last_seen_at=now,
        idle_until=now,
        expires_at=now,
        address="192.0.2.1",
    )
    work = stage.ports.units.open("test")
    create_source(work, source, Poll(source_id=source.id))
    work.add(user, comment, task, own, mail, session)
    await stage.ports.units.commit(work)
    key = f"jobs/{own.id}/1-0.png"
    await stage.ports.objects.put(key, b"x", "image/png", size_limit_bytes=10)
    # One that the account names, and one that a crash has left.
    for name in ("1.png", "2.png"):
        picture = f"{avatars_of(ident)}{name}"
        await stage.ports.objects.put(picture, b"x", "image/png", size_limit_bytes=10)
    return user


async def words(user: User) -> list[str]:
    """Give all that is left of what an account wrote and who it wrote to."""
    source, comment = await Source.get(user_id=user.id), await Comment.get(user_id=user.id)
    task, job = await Task.get(user_id=user.id), await Job.get(user_id=user.id)
    mail = await Delivery.get(user_id=user.id)
    found = [source.external_id, str(source.options or ""), comment.text, comment.author]
    found += [task.email, task.prompt, task.comment_text, task.author, job.prompt, mail.address]
    return [one for one in found if one]


async def test_everything_that_a_deleted_account_made_is_erased(stage: Stage) -> None:
    user, other = await person(stage, "deleted"), await person(stage, "active")
    kept = await words(other)
    await stage.send(Erase(user_id=user.id))
    await stage.act()
    while await stage.waiting():
        await stage.act_later()
    assert await words(user) == []
    source, task = await Source.get(user_id=user.id), await Task.get(user_id=user.id)
    assert (source.state, source.name, task.state) == ("deleted", "erased", "cancelled")
    assert not await Schedule.exists(subject_id=source.id)
    assert not await Session.exists(user_id=user.id)
    assert await AuditLine.filter(event="user.erased", subject=user.id).count() == 1
    assert await words(other) == kept
    assert await Session.exists(user_id=other.id)
    objects = [entry.key for entry in await stage.ports.objects.list("jobs/")]
    assert objects == [f"jobs/{(await Job.get(user_id=other.id)).id}/1-0.png"]
    pictures = [entry.key for entry in await stage.ports.objects.list("avatars/")]
    assert pictures == [f"avatars/{other.id}/1.png", f"avatars/{other.id}/2.png"]


@pytest.mark.parametrize("state", ["active", "disabled"])
async def test_an_account_that_is_there_keeps_what_it_has(stage: Stage, state: str) -> None:
    user = await person(stage, state)
    kept = await words(user)
    await stage.send(Erase(user_id=user.id), Erase(user_id="user_none"), Erase(task_id="task_none"))
    await stage.act()
    assert await words(user) == kept
    assert await stage.waiting() == []
    assert await stage.dead() == []


async def test_a_large_account_is_erased_in_pieces(ports: Ports, stage: Stage) -> None:
    user = await person(stage, "deleted")
    for _ in range(4):
        await stage.keep(
            Job(id=new_id("job"), state="succeeded", user_id=user.id, prompt="a heron")
        )
    erasing = Erasing(ports, objects_per_piece=2)
    left = [5]
    for _ in range(6):
        work = ports.units.open("test")
        await erasing.handle(Erase(user_id=user.id), work)
        await ports.units.discard(work)
        left.append(await Job.filter(user_id=user.id).exclude(prompt="").count())
    assert left[-1] == 0
    assert all(before - after <= 2 for before, after in itertools.pairwise(left))


async def test_a_job_that_is_being_made_is_waited_for(stage: Stage) -> None:
    user = await person(stage, "deleted")
    await Job.filter(user_id=user.id).update(state=RUNNING)
    await stage.send(Erase(user_id=user.id))
    for _ in range(3):
        await stage.act_later()
    job = await Job.get(user_id=user.id)
    assert (job.state, job.cancel_requested, job.prompt) == (RUNNING, True, "a heron")
    await Job.filter(user_id=user.id).update(state="cancelled")
    while await stage.waiting():
        await stage.act_later()
    assert (await Job.get(user_id=user.id)).prompt == ""


async def mail_of(stage: Stage, message_id: str, recipient: str) -> None:
    ident = new_id("mail")
    key = f"mailbox/{ident}.eml"
    await stage.ports.objects.put(key, b"x", "message/rfc822", size_limit_bytes=10)
    await stage.keep(
        MailboxMail(
            id=ident,
            message_id=message_id,
            sender="limner@example.org",
            recipient=recipient,
            raw_key=key,
            size_bytes=1,
            created_at=stage.ports.clock.now(),
        )
    )


async def test_what_the_mailbox_has_kept_of_its_mails_goes_too(stage: Stage) -> None:
    user, other = await person(stage, "deleted"), await person(stage, "active")
    for one in (user, other):
        await mail_of(stage, f"<{one.id}@x.test>", "anna@example.com")
    task = await Task.get(user_id=user.id)
    await Delivery.filter(user_id=user.id).update(task_id=task.id)
    await stage.send(Erase(user_id=user.id))
    while await stage.waiting():
        await stage.act_later()
    assert [row.message_id for row in await MailboxMail.all()] == [f"<{other.id}@x.test>"]
    assert len(await stage.ports.objects.list("mailbox/")) == 1


async def test_what_the_model_answered_about_its_wishes_goes_too(stage: Stage) -> None:
    user, now = await person(stage, "deleted"), stage.ports.clock.now()
    await Task.filter(user_id=user.id).update(email="Anna@example.com")
    for ident, email in (("a", "anna@example.com"), ("b", "ben@example.com"), ("c", None)):
        await stage.keep(LanguageAnswer(id=ident, answer={"email": email}, created_at=now))
    await stage.send(Erase(user_id=user.id))
    while await stage.waiting():
        await stage.act_later()
    assert {row.id for row in await LanguageAnswer.all()} == {"b", "c"}


ANNA, BEN = "anna@example.com", "ben@example.com"


def carried(stage: Stage, message: Message, days: float) -> list[DeadLetter | OutboxRow]:
    """Give a message that waits and one that failed, so many days old."""
    at = stage.ports.clock.now() - timedelta(days=days)
    same = {"topic": message.topic, "message_id": new_id("message"), "body": message.to_bytes()}
    due = stage.ports.clock.now() + timedelta(days=1)
    return [
        DeadLetter(
            **same,
            id=new_id("dead"),
            consumer="mailer",
            attempt=4,
            reason="attempts_exhausted",
            created_at=at,
        ),
        OutboxRow(**same, id=new_id("row"), due_at=due, publish_after=due, created_at=at),
    ]


async def test_nothing_is_kept_of_a_deleted_accounts_address(stage: Stage) -> None:
    now = stage.ports.clock.now()
    await stage.keep(
        *carried(stage, LinkWanted(purpose="reset-password", address=ANNA), 1),
        *carried(stage, AccountMail(user_id="user_1", address=ANNA), 1),
        *carried(stage, Generate(user=ANNA, prompt="a heron"), 1),
        LanguageAnswer(id="a", answer={"email": ANNA}, created_at=now - timedelta(days=1)),
        Suppression(id="s", address=ANNA, reason="bounced", created_at=now),
    )
    await stage.send(Forget(address=ANNA, until=now))
    await stage.act()
    assert {(bytes(row.body), row.state) for row in await stage.dead()} == {(b"{}", "discarded")}
    assert await stage.waiting() == []
    assert not await LanguageAnswer.exists()
    assert (await Suppression.get()).address == hashed(ANNA)
    assert await is_suppressed(ANNA)


async def test_what_others_have_for_a_deleted_accounts_address_stays(stage: Stage) -> None:
    user, now = await person(stage, "active"), stage.ports.clock.now()
    kept = await words(user)
    await mail_of(stage, "<1@x.test>", ANNA)
    await stage.keep(
        *carried(stage, Send(to=ANNA, subject="x", text="y"), 1),
        *carried(stage, LinkWanted(purpose="reset-password", address=BEN), 1),
        # Of an account that was made with the same address after the deletion.
        *carried(stage, LinkWanted(purpose="verify-email", address=ANNA), -0.1),
    )
    await stage.send(Forget(address=ANNA, until=now))
    await stage.act()
    assert await words(user) == kept
    assert await MailboxMail.filter(recipient=ANNA).count() == 1
    assert {row.state for row in await stage.dead()} == {"open"}
    assert len(await stage.waiting()) == len(await stage.dead()) == 3


async def test_one_task_is_erased_by_its_id(stage: Stage) -> None:
    user = await person(stage, "active")
    task = await Task.get(user_id=user.id)
    await stage.send(Erase(task_id=task.id))
    await stage.act()
    assert (await Task.get(id=task.id)).email == ""
    assert (await Comment.get(id=task.comment_id)).text == ""
    assert (await Job.get(user_id=user.id)).prompt == "a heron"
