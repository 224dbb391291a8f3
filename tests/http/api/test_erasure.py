"""Erasing an address: nothing that names it is left, nothing else is touched."""

import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from limner.actors.sweeper.erasing import Erasing
from limner.actors.sweeper.messages import Erase
from limner.core.clock import HeldClock
from limner.core.ids import new_id
from limner.core.unit import Commit
from limner.storage.sql.accounts import User
from limner.storage.sql.audit import AuditLine
from limner.storage.sql.comments import Comment
from limner.storage.sql.deliveries import Delivery
from limner.storage.sql.erasure import TRIES
from limner.storage.sql.identities import Identity
from limner.storage.sql.jobs import Job
from limner.storage.sql.language import LanguageAnswer
from limner.storage.sql.mailbox import MailboxMail
from limner.storage.sql.messaging import DeadLetter, OutboxRow
from limner.storage.sql.suppressions import Suppression, hashed, is_suppressed, suppress
from limner.storage.sql.tasks import Task
from limner.storage.sql.timeline import TimelineLine
from tests.fakes.front import Stage, problem, staged
from tests.fakes.ports import ports_of

ANNA = "anna@example.com"
BEN = "ben@example.com"
NOTHING = {
    "account": 0,
    "tasks": 0,
    "comments": 0,
    "deliveries": 0,
    "mails": 0,
    "language_answers": 0,
    "messages": 0,
}


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        yield opened


async def erase(stage: Stage, email: str = ANNA, status: int = 200) -> dict[str, int]:
    answer = await (await stage.admin()).post("/api/erasure", json={"email": email})
    assert answer.status == status, await answer.text()
    found: dict[str, int] = await answer.json()
    return found


async def put(stage: Stage, key: str) -> None:
    await stage.front.objects.put(key, b"x", "image/png", size_limit_bytes=10)


async def keys(stage: Stage) -> list[str]:
    return [entry.key for entry in await stage.front.objects.list()]


async def comment(stage: Stage, text: str, state: str = "ignored") -> Comment:
    row = Comment(
        id=new_id("comment"),
        state=state,
        user_id=stage.owner.id,
        source_id="source_1",
        external_id=new_id("external"),
        author="somebody",
        text=text,
    )
    await stage.add(row)
    return row


async def delivery(stage: Stage, address: str, state: str, task_id: str | None) -> Delivery:
    ident = new_id("delivery")
    row = Delivery(
        id=ident,
        state=state,
        user_id=stage.owner.id,
        task_id=task_id,
        address=address,
        subject="your heron",
        message_id=f"<{ident}@x.test>",
        variables={"name": "Anna"},
    )
    await stage.add(row)
    return row


async def mail(stage: Stage, address: str) -> None:
    ident = new_id("mail")
    key = f"mailbox/{ident}.eml"
    await put(stage, key)
    await stage.add(
        MailboxMail(
            id=ident,
            message_id=f"<{ident}@x.test>",
            sender="limner@example.org",
            recipient=address,
            raw_key=key,
            size_bytes=1,
            created_at=stage.clock.now(),
        )
    )


async def drawn(stage: Stage, email: str, state: str = "emailed", **fields: Any) -> Task:
    """Store a task with a job, pictures and a mail."""
    task = await stage.task(
        state, email=email, result_key=f"results/{new_id('file')}.png", **fields
    )
    job = Job(
        id=new_id("job"),
        state="succeeded",
        user_id=task.user_id,
        task_id=task.id,
        prompt="a heron",
        outputs=[{"key": "jobs/x/1-0.png"}],
        warnings=["heron: not known, left out"],
    )
    await stage.add(job)
    await put(stage, task.result_key)
    await put(stage, f"jobs/{job.id}/1-0.png")
    await delivery(stage, email, "sent", task.id)
    await mail(stage, email)
    return task


async def test_nothing_that_names_the_address_is_left(stage: Stage, tmp_path: Path) -> None:
    task = await drawn(stage, ANNA)
    await stage.add(
        LanguageAnswer(id="a" * 64, answer={"email": ANNA}, created_at=stage.clock.now())
    )
    erased = await erase(stage)
    assert erased == NOTHING | {"tasks": 1, "mails": 1, "language_answers": 1}
    row = await Task.get(id=task.id)
    assert (row.email, row.prompt, row.comment_text, row.author, row.result_key) == ("",) * 5
    assert row.state == "emailed"
    said = await Comment.get(id=task.comment_id)
    assert (said.text, said.author) == ("", "")
    assert said.external_id
    sent = await Delivery.get(task_id=task.id)
    assert (sent.address, sent.subject, sent.variables, sent.state) == ("", "", {}, "sent")
    job = await Job.get(task_id=task.id)
    assert (job.prompt, job.outputs, job.warnings) == ("", [], [])
    lines = await TimelineLine.filter(object_id=task.id)
    assert lines
    assert all((line.detail, line.data) == ("", {}) for line in lines)
    assert await keys(stage) == []
    if stage.front.database.dialect == "sqlite":
        dumped = "\n".join(sqlite3.connect(tmp_path / "front.db").iterdump())
        assert "anna" not in dumped.lower()


async def test_what_belongs_to_others_stays_as_it_is(stage: Stage) -> None:
    await drawn(stage, ANNA)
    task = await drawn(stage, BEN, comment_text="to ben@example.com", author="Ben")
    await Comment.filter(id=task.comment_id).update(text="to ben@example.com", author="Ben")
    await erase(stage)
    row = await Task.get(id=task.id)
    assert (row.email, row.prompt, row.author) == (BEN, "a red circle", "Ben")
    assert (await Comment.get(id=task.comment_id)).text == "to ben@example.com"
    assert (await Delivery.get(task_id=task.id)).address == BEN
    assert (await MailboxMail.get()).recipient == BEN
    assert len(await keys(stage)) == 3


async def test_asked_again_it_finds_nothing_and_says_so(stage: Stage) -> None:
    await drawn(stage, ANNA)
    await erase(stage)
    assert await erase(stage) == NOTHING
    assert await AuditLine.filter(event="erasure.done").count() == 2


async def test_the_audit_log_knows_the_hash_and_the_chain_holds(stage: Stage) -> None:
    await drawn(stage, ANNA)
    await erase(stage, " Anna@Example.com ")
    line = await AuditLine.get(event="erasure.done")
    assert line.data["address"] == hashed(ANNA)
    assert line.data["tasks"] == 1
    assert "example.com" not in json.dumps(line.data)


@pytest.mark.parametrize(
    "state",
    ["pending", "needs_review", "extracted", "submitted", "running", "succeeded", "unknown"],
)
async def test_a_task_on_its_way_is_cancelled_and_its_mail_never_begins(
    stage: Stage, state: str
) -> None:
    task = await stage.task(state, email=ANNA)
    waiting = await delivery(stage, ANNA, "pending", task.id)
    queued = Job(
        id=new_id("job"), state="queued", user_id=task.user_id, task_id=task.id, prompt="a heron"
    )
    await stage.add(queued)
    await erase(stage)
    row = await Task.get(id=task.id)
    assert (row.state, row.email) == ("cancelled", "")
    mail_row, job = await Delivery.get(id=waiting.id), await Job.get(id=queued.id)
    assert (mail_row.state, mail_row.address) == ("failed", "")
    assert (job.state, job.prompt) == ("cancelled", "")


async def test_a_job_that_is_being_made_is_stopped_and_looked_at_again(stage: Stage) -> None:
    task = await stage.task("running", email=ANNA)
    job = Job(
        id=new_id("job"), state="running", user_id=task.user_id, task_id=task.id, prompt="a heron"
    )
    await stage.add(job)
    await put(stage, f"jobs/{job.id}/1-0.png")
    await erase(stage, status=202)
    row = await Job.get(id=job.id)
    assert (row.state, row.cancel_requested) == ("running", True)
    later = await OutboxRow.get(topic="sweeper.erase")
    assert json.loads(bytes(later.body)) == {"user_id": "", "task_id": task.id}
    assert later.due_at > stage.clock.now()


async def test_a_mail_that_is_under_way_ends_by_itself_without_its_address(stage: Stage) -> None:
    row = await delivery(stage, "ANNA@example.com", "sending", None)
    assert (await erase(stage))["deliveries"] == 1
    left = await Delivery.get(id=row.id)
    assert (left.state, left.address, left.variables) == ("sending", "", {})


@pytest.mark.parametrize(
    "text",
    [
        "nice! anna@example.com",
        "write to ANNA@Example.com please",
        "anna at example dot com, draw nothing",
        "anna(at)example(dot)com",
        "ａｎｎａ＠ｅｘａｍｐｌｅ．ｃｏｍ",
    ],
)
async def test_comments_that_name_the_address_in_any_way_are_erased(
    stage: Stage, text: str
) -> None:
    named, other = await comment(stage, text), await comment(stage, "hannah@example.com")
    assert (await erase(stage))["comments"] == 1
    assert (await Comment.get(id=named.id)).text == ""
    assert (await Comment.get(id=other.id)).text == "hannah@example.com"


async def test_a_task_for_somebody_else_forgets_only_who_was_named(stage: Stage) -> None:
    text = "draw it for anna@example.com and ben@example.com"
    task = await stage.task("emailed", email=BEN, comment_text=text)
    waiting = await stage.task("needs_review", email="", comment_text=text)
    await Comment.all().update(text=text)
    assert (await erase(stage))["comments"] == 2
    row, reviewed = await Task.get(id=task.id), await Task.get(id=waiting.id)
    assert (row.email, row.prompt, row.comment_text) == (BEN, "a red circle", "")
    assert (reviewed.state, reviewed.prompt) == ("cancelled", "")


async def test_a_suppressed_address_stays_so_and_only_its_hash_is_kept(stage: Stage) -> None:
    work = stage.work()
    work.step(suppress(ANNA, "complained", stage.clock.now()))
    await stage.front.units.commit(work)
    await erase(stage)
    row = await Suppression.get()
    assert row.address.startswith("sha256:")
    assert row.reason == "complained"
    for form in (ANNA, "Anna@Example.com"):
        assert await is_suppressed(form)
    assert not await is_suppressed(BEN)
    client = await stage.admin()
    again = await client.post("/api/suppressions", json={"address": ANNA})
    assert again.status == 409
    work = stage.work()
    work.step(suppress(ANNA, "unsubscribed", stage.clock.now()))
    await stage.front.units.commit(work)
    assert [one.address for one in await Suppression.all()] == [row.address]
    found = await (await client.get("/api/suppressions", params={"address": ANNA})).json()
    assert [one["id"] for one in found["data"]] == [row.id]
    assert (await client.delete(f"/api/suppressions/{row.id}")).status == 204
    assert not await is_suppressed(ANNA)


async def test_a_suppression_that_is_there_twice_becomes_one(stage: Stage) -> None:
    now = stage.clock.now()
    for address in (hashed(ANNA), ANNA):
        await stage.add(
            Suppression(id=new_id("suppression"), address=address, reason="manual", created_at=now)
        )
    await erase(stage)
    assert (await Suppression.get()).address == hashed(ANNA)


async def test_messages_that_carry_the_address_are_emptied_or_taken_back(stage: Stage) -> None:
    now = stage.clock.now()

    def letter(address: str, topic: str = "mailer.send") -> DeadLetter:
        body = json.dumps({"to": address, "subject": "x", "text": "y"}).encode()
        return DeadLetter(
            id=new_id("dead"),
            consumer="mailer",
            topic=topic,
            message_id=new_id("message"),
            body=body,
            attempt=1,
            reason="invalid",
            detail=f"no mailbox {address}",
            created_at=now,
        )

    anna, ben = letter(ANNA), letter(BEN)
    rows = [
        OutboxRow(
            id=new_id("row"),
            message_id=new_id("message"),
            topic="mailer.send",
            body=json.dumps({"to": address}).encode(),
            due_at=now,
            publish_after=now,
            created_at=now,
        )
        for address in (ANNA, BEN)
    ]
    await stage.add(anna, ben, *rows)
    assert (await erase(stage))["messages"] == 2
    emptied, kept = await DeadLetter.get(id=anna.id), await DeadLetter.get(id=ben.id)
    assert (bytes(emptied.body), emptied.detail, emptied.state) == (b"{}", "", "discarded")
    assert (BEN.encode() in bytes(kept.body), kept.state) == (True, "open")
    left = await OutboxRow.filter(topic="mailer.send")
    assert [row.id for row in left] == [rows[1].id]
    assert (await erase(stage))["messages"] == 0


async def test_the_account_of_the_address_goes_too(stage: Stage) -> None:
    user, other = await stage.user(), await stage.user()
    await User.filter(id=user.id).update(email=ANNA, name="Anna")
    await stage.add(
        Identity(
            id=new_id("identity"),
            user_id=other.id,
            provider="github",
            issuer="https://github.com",
            subject="1",
            email="Anna@example.com",
            created_at=stage.clock.now(),
        )
    )
    browser = await stage.signed_in(user)
    assert (await erase(stage, status=202))["account"] == 1
    left = await User.get(id=user.id)
    assert (left.state, left.email, left.name) == ("deleted", None, "")
    assert (await browser.get("/api/me")).status == 401
    assert (await Identity.get()).email == ""
    command = await OutboxRow.get(topic="sweeper.erase")
    assert json.loads(bytes(command.body))["user_id"] == user.id
    assert (await AuditLine.get(event="user.deleted")).data == {"because": "erasure"}
    # As long as not all is erased that the account had made, nobody is told that it is.
    assert (await erase(stage, status=202))["account"] == 0
    work = stage.work()
    await Erasing(ports_of(stage.front)).handle(Erase(user_id=user.id), work)
    await stage.front.units.commit(work)
    assert (await erase(stage))["account"] == 0


async def test_the_last_administrator_is_not_erased_and_neither_is_anything_else(
    stage: Stage,
) -> None:
    await User.filter(id=stage.owner.id).update(email=ANNA)
    task = await drawn(stage, ANNA)
    answer = await (await stage.admin()).post("/api/erasure", json={"email": ANNA})
    assert (await problem(answer))["code"] == "last_admin"
    assert (await Task.get(id=task.id)).email == ANNA


@pytest.mark.parametrize("email", ["", "nobody", "a@x.test, b@x.test", "%", "x" * 321])
async def test_what_is_no_address_is_refused(stage: Stage, email: str) -> None:
    answer = await (await stage.admin()).post("/api/erasure", json={"email": email})
    assert answer.status == 422


async def test_a_wildcard_in_an_address_stands_for_itself(stage: Stage) -> None:
    task = await stage.task("emailed", email=ANNA)
    await erase(stage, "a__a@example.com")
    assert (await Task.get(id=task.id)).email == ANNA


async def test_many_objects_are_erased_in_pieces(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limner.storage.sql.erasure.PIECE", 2)
    monkeypatch.setattr("limner.storage.sql.address_erasure.PIECE", 2)
    monkeypatch.setattr("limner.storage.sql.reading.BATCH", 2)
    for _ in range(5):
        await stage.task("emailed", email=ANNA)
        await delivery(stage, ANNA, "sent", None)
        await mail(stage, ANNA)
        await comment(stage, ANNA)
    counts = {"tasks": 5, "comments": 5, "deliveries": 5, "mails": 5}
    assert await erase(stage) == NOTHING | counts


async def test_a_task_that_never_stands_still_is_said_to(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = await stage.task("running", email=ANNA)
    tries = []
    commit = stage.front.units.commit

    async def stale(work: Any) -> Commit:
        if work.consumer == "erasure":
            tries.append(work)
            return Commit.STALE
        return await commit(work)

    monkeypatch.setattr(stage.front.units, "commit", stale)
    answer = await (await stage.admin()).post("/api/erasure", json={"email": ANNA})
    found = await problem(answer)
    assert (found["status"], found["code"]) == (409, "stale")
    assert len(tries) == TRIES
    monkeypatch.undo()
    assert (await Task.get(id=task.id)).email == ANNA
