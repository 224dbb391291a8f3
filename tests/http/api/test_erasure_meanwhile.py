"""Erasing while others are at work: nothing that they have in hand comes back."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from limner.actors.intent.actor import Intent, Reader
from limner.actors.intent.messages import Read
from limner.actors.sweeper.erasing import Erasing
from limner.actors.sweeper.messages import Erase, Forget
from limner.core.clock import HeldClock
from limner.core.ids import new_id
from limner.core.unit import Commit
from limner.storage.sql import erasure
from limner.storage.sql.accounts import User
from limner.storage.sql.audit import AuditLine
from limner.storage.sql.comments import Comment
from limner.storage.sql.jobs import Job
from limner.storage.sql.messaging import DeadLetter, OutboxRow
from limner.storage.sql.tasks import Task
from limner.storage.sql.users import delete_user
from tests.fakes.front import Stage, problem, staged
from tests.fakes.ports import ports_of

ANNA = "anna@example.com"
BEN = "ben@example.com"
WISH = f"draw a red fox, send it to {ANNA} please"


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        yield opened


async def erase(stage: Stage, status: int, email: str = ANNA) -> dict[str, int]:
    answer = await (await stage.admin()).post("/api/erasure", json={"email": email})
    assert answer.status == status, await answer.text()
    found: dict[str, int] = await answer.json()
    return found


async def sweep(stage: Stage, command: Erase) -> None:
    """Have the sweeper handle a command once."""
    work = stage.work()
    await Erasing(ports_of(stage.front)).handle(command, work)
    await stage.front.units.commit(work)


class SlowReader(Reader):
    """Reads as ever, and says when it has begun and waits until it may end."""

    def __init__(self, stage: Stage) -> None:
        ports = ports_of(stage.front)
        super().__init__(ports.tunables, ports.llm, ports.clock, ports.metrics)
        self.has_begun, self.may_end = asyncio.Event(), asyncio.Event()

    async def decide(self, *given: Any) -> Any:
        self.has_begun.set()
        await self.may_end.wait()
        return await super().decide(*given)


async def fresh(stage: Stage, user_id: str, text: str = WISH) -> Comment:
    row = Comment(
        id=new_id("comment"),
        state="new",
        user_id=user_id,
        source_id="source_1",
        external_id=new_id("external"),
        author="Anna",
        text=text,
    )
    await stage.add(row)
    return row


@pytest.mark.parametrize("of", ["address", "account"])
async def test_a_comment_that_is_being_read_becomes_no_task(stage: Stage, of: str) -> None:
    user = await stage.user()
    row = await fresh(stage, user.id)
    reader, work = SlowReader(stage), ports_of(stage.front).units.open("intent")
    async with asyncio.timeout(20):
        reading = asyncio.create_task(Intent(reader).handle(Read(comment_id=row.id), work))
        await reader.has_begun.wait()
        if of == "address":
            assert (await erase(stage, 200))["comments"] == 1
        else:
            gone = stage.work()
            await delete_user(gone, await User.get(id=user.id), because="own_wish")
            await stage.front.units.commit(gone)
            await sweep(stage, Erase(user_id=user.id))
        reader.may_end.set()
        await reading
    assert await stage.front.units.commit(work) is Commit.STALE
    left = await Comment.get(id=row.id)
    assert (left.state, left.text, left.author) == ("ignored", "", "")
    assert not await Task.exists()
    assert not await OutboxRow.filter(topic="submitter.submit").exists()


@pytest.mark.parametrize("email", [ANNA, ""])
async def test_a_comment_that_has_just_become_a_task_goes_with_it(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, email: str
) -> None:
    row = await fresh(stage, stage.owner.id)
    task = Task(
        id=new_id("task"),
        state="needs_review",
        user_id=row.user_id,
        comment_id=row.id,
        source_id="source_1",
        comment_text=WISH,
        author="Anna",
        email=email,
        prompt="a red fox",
    )
    comment = erasure.Eraser.comment

    async def overtaken(self: erasure.Eraser, found: Comment) -> bool:
        if not await Task.exists():
            work = stage.work()
            work.add(task)
            work.move(found, expected="new", to="task", task_id=task.id)
            await stage.front.units.commit(work)
        return await comment(self, found)

    monkeypatch.setattr(erasure.Eraser, "comment", overtaken)
    await erase(stage, 200)
    left, said = await Task.get(id=task.id), await Comment.get(id=row.id)
    assert (left.state, left.email, left.prompt, left.comment_text) == ("cancelled", "", "", "")
    assert (said.state, said.text, said.author) == ("task", "", "")


async def test_a_comment_that_never_stands_still_is_said_to(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fresh(stage, stage.owner.id)

    async def overtaken(self: erasure.Eraser, found: Comment) -> bool:
        return False

    monkeypatch.setattr(erasure.Eraser, "comment", overtaken)
    answer = await (await stage.admin()).post("/api/erasure", json={"email": ANNA})
    found = await problem(answer)
    assert (found["status"], found["code"]) == (409, "stale")


async def test_an_address_that_stands_as_the_author_goes_too(stage: Stage) -> None:
    row = await fresh(stage, stage.owner.id, text="")
    await Comment.filter(id=row.id).update(author=ANNA)
    assert (await erase(stage, 200))["comments"] == 1
    assert (await Comment.get(id=row.id)).author == ""


async def test_nobody_is_told_that_all_is_erased_while_a_job_is_being_made(stage: Stage) -> None:
    task = await stage.task("running", email=ANNA)
    job = Job(
        id=new_id("job"), state="running", user_id=task.user_id, task_id=task.id, prompt="a heron"
    )
    await stage.add(job)
    assert (await erase(stage, 202))["tasks"] == 1
    # Asked again it finds no task of the address, and the job is not erased all the same.
    assert (await erase(stage, 202))["tasks"] == 0
    await Job.filter(id=job.id).update(state="cancelled")
    await sweep(stage, Erase(task_id=task.id))
    await erase(stage, 200)
    assert (await Job.get(id=job.id)).prompt == ""


async def test_nobody_is_told_that_all_is_erased_while_an_account_is_not(stage: Stage) -> None:
    user = await stage.user()
    await User.filter(id=user.id).update(email=ANNA)
    await fresh(stage, user.id, text="a comment that names nobody")
    client = await stage.signed_in(user)
    assert (await client.delete("/api/me")).status == 204
    await erase(stage, 202)
    for _ in range(3):
        await sweep(stage, Erase(user_id=user.id))
    assert await AuditLine.exists(event="user.erased", subject=user.id)
    await erase(stage, 200)


def forget(address: str, until: datetime, **changes: Any) -> DeadLetter:
    return DeadLetter(
        id=new_id("dead"),
        consumer="sweeper",
        topic=changes.pop("topic", Forget.topic),
        message_id=new_id("message"),
        body=changes.pop("body", Forget(address=address, until=until).to_bytes()),
        attempt=4,
        reason="attempts_exhausted",
        created_at=until,
    )


async def test_a_command_to_forget_that_failed_is_emptied_too(stage: Stage) -> None:
    anna, ben = forget(ANNA, stage.clock.now()), forget(BEN, stage.clock.now())
    await stage.add(anna, ben)
    assert (await erase(stage, 200))["messages"] == 1
    assert bytes((await DeadLetter.get(id=anna.id)).body) == b"{}"
    assert BEN in bytes((await DeadLetter.get(id=ben.id)).body).decode()


@pytest.mark.parametrize(
    "named",
    [f"https://x.test/?email={ANNA}", "anna at example dot com", f"{ANNA}-thanks", f"'{ANNA}'"],
)
async def test_an_address_far_back_in_a_long_mail_is_found(stage: Stage, named: str) -> None:
    others = " ".join(f"u{number}@x{number}.org" for number in range(150))
    text = f"{'<p>word</p> ' * 3_000} {others} {named} {'word ' * 3_000}"

    def letter(wording: str) -> DeadLetter:
        body = json.dumps({"to": "x@y.test", "html": wording}).encode()
        return forget("", stage.clock.now(), topic="mailer.send", body=body)

    anna, joanna = letter(text), letter(text.replace("anna", "joanna"))
    await stage.add(anna, joanna)
    assert (await erase(stage, 200))["messages"] == 1
    assert bytes((await DeadLetter.get(id=anna.id)).body) == b"{}"
    assert (await DeadLetter.get(id=joanna.id)).state == "open"
