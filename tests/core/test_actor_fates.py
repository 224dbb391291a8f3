"""Every delivery of an actor ends committed, scheduled again, or kept with its reason."""

import asyncio
import json
from typing import Any

import pytest
import structlog

from limner.core import failpoints
from limner.core.actor import Actor, ActorLoop
from limner.core.backoff import Backoff
from limner.core.brokers.embedded import EmbeddedBroker
from limner.core.clock import HeldClock
from limner.core.errors import (
    Ambiguous,
    Conflict,
    EngineUnavailable,
    FailpointReached,
    LeaseLost,
    LimnerError,
    NotFound,
    Refused,
    Stale,
    TimedOut,
    TooMany,
    Transient,
)
from limner.core.message import BODY_LIMIT_BYTES, Envelope
from limner.core.metrics import Metrics
from limner.core.unit import UnitOfWork
from limner.storage.sql.comments import Comment
from limner.storage.sql.messaging import DeadLetter, OutboxRow
from limner.storage.sql.outbox import Outbox
from limner.storage.sql.unit import SqlUnits
from tests.contracts.engines import eventually
from tests.fakes.actors import (
    Echo,
    Regretful,
    Say,
    Shout,
    Stage,
    Work,
    comment,
    handled_all,
    raising,
)


@pytest.fixture
async def stage(
    broker: EmbeddedBroker,
    units: SqlUnits,
    outbox: Outbox,
    clock: HeldClock,
    metrics: Metrics,
) -> Stage:
    await broker.start(["echo"])
    return Stage(broker, units, outbox, clock, metrics)


# Done


async def test_a_handled_message_is_committed_and_acknowledged(stage: Stage) -> None:
    echo = Echo()
    await stage.send(Say(text="hi", n=1), Say(text="ho", n=2))
    async with stage.running(stage.loop(echo)):
        await eventually(handled_all)
    assert sorted(one.n for one in echo.heard) == [1, 2]
    assert await Comment.all().count() == 2
    depth = await stage.broker.depth("echo")
    assert (depth.ready, depth.in_hand) == (0, 0)
    assert stage.counted() == {"done": 2.0}
    seconds = stage.metrics.registry.get_sample_value(
        "limner_job_duration_seconds_count", {"actor": "echo"}
    )
    assert seconds == 2


async def test_an_actor_takes_each_of_its_messages_to_its_own_handler(stage: Stage) -> None:
    quiet, loud = Echo(), Echo()
    loop = stage.loop(quiet, others={Shout: loud})
    for envelope in await stage.send(Say(text="hi"), Shout(text="HO")):
        await loop.settle(envelope)
    assert [one.text for one in quiet.heard] == ["hi"]
    assert [one.text for one in loud.heard] == ["HO"]


async def test_a_message_that_was_handled_before_changes_nothing(stage: Stage) -> None:
    echo = Echo()
    envelope = await stage.settle(echo)
    with structlog.testing.capture_logs() as logs:
        await stage.loop(echo).settle(envelope)
    assert len(echo.heard) == 2
    assert await Comment.all().count() == 1
    assert stage.counted() == {"done": 1.0}
    assert [line["why"] for line in logs if line["event"] == "unit dropped"] == ["repeated"]


@pytest.mark.parametrize("error", [Stale("moved on"), LeaseLost("somebody else's")])
async def test_who_finds_another_at_work_is_done_and_changes_nothing(
    stage: Stage, error: LimnerError
) -> None:
    await stage.settle(Echo(raising(error)))
    assert await Comment.all().count() == 0
    assert await handled_all()
    assert await DeadLetter.all().count() == 0
    assert stage.counted() == {"done": 1.0}


async def test_a_unit_whose_guard_failed_is_dropped_and_its_message_handled(stage: Stage) -> None:
    async def move(_: Any, work: UnitOfWork) -> None:
        work.move(comment(), expected="new", to="ignored")

    with structlog.testing.capture_logs() as logs:
        await stage.settle(Echo(move))
    assert await Comment.all().count() == 0
    assert await handled_all()
    assert [line["why"] for line in logs if line["event"] == "unit dropped"] == ["stale"]


# Again


@pytest.mark.parametrize(
    "error",
    [
        Transient("later"),
        TimedOut("too slow"),
        TooMany("slow down"),
        ZeroDivisionError("a bug"),
        FailpointReached("on purpose"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_transient_errors_and_bugs_come_again_after_a_jittered_wait(
    stage: Stage, error: Exception
) -> None:
    backoff = Backoff(first_s=40.0, cap_s=60.0)
    await stage.settle(Echo(raising(error)), attempt=2, backoff=backoff)
    assert await Comment.all().count() == 0
    row = await OutboxRow.get()
    assert row.attempt == 3
    assert 0 <= (row.due_at - stage.clock.now()).total_seconds() <= backoff.ceiling_s(2)
    assert stage.counted() == {"again": 1.0}


async def test_what_the_other_side_asks_to_wait_is_waited(stage: Stage) -> None:
    error = TooMany("slow down", retry_after_s=33.0)
    await stage.settle(Echo(raising(error)), backoff=Backoff(0.0, 0.0))
    row = await OutboxRow.get()
    assert (row.due_at - stage.clock.now()).total_seconds() == 33


async def test_a_handler_that_asks_for_a_retry_keeps_what_it_collected(stage: Stage) -> None:
    async def later(_: Any, work: UnitOfWork) -> None:
        work.retry("not ready", after_s=15)

    await stage.settle(Echo(later))
    assert await Comment.all().count() == 1
    assert (await OutboxRow.get()).attempt == 2
    assert stage.counted() == {"again": 1.0}


async def test_a_bug_is_logged_with_its_traceback(stage: Stage) -> None:
    with structlog.testing.capture_logs() as logs:
        await stage.settle(Echo(raising(KeyError("gone"))))
    (bug,) = (line for line in logs if line["event"] == "bug in a handler")
    assert (bug["exc_info"], bug["topic"]) == (True, "echo.say")
    assert not [line for line in logs if "traceback" in line]


async def test_a_handler_over_its_time_is_ended_and_comes_again(stage: Stage) -> None:
    ended = []

    async def hang(_: Any, __: UnitOfWork) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    await stage.settle(Echo(hang), timeout_s=0.02)
    assert ended == [True]
    assert (await OutboxRow.get()).attempt == 2


async def test_a_handlers_own_timeout_is_a_bug_and_not_the_time_limit(stage: Stage) -> None:
    with structlog.testing.capture_logs() as logs:
        await stage.settle(Echo(raising(TimeoutError())))
    assert [line for line in logs if line["event"] == "bug in a handler"]


@pytest.mark.parametrize("external_id", ["taken", "x" * 300], ids=["conflict", "bug"])
async def test_a_unit_that_cannot_be_committed_comes_again(stage: Stage, external_id: str) -> None:
    work = stage.units.open("test")
    work.add(comment(external_id="taken"))
    await stage.units.commit(work)

    async def add(_: Any, work: UnitOfWork) -> None:
        work.add(comment(external_id=external_id))

    await stage.settle(Echo(add))
    assert (await OutboxRow.get()).attempt == 2
    assert await Comment.all().count() == 1
    assert stage.counted() == {"again": 1.0}


async def test_a_unit_that_cannot_be_committed_at_the_last_attempt_is_a_dead_letter(
    stage: Stage,
) -> None:
    async def misuse(_: Any, work: UnitOfWork) -> None:
        work.change(comment(), no_such_column=1)

    await stage.settle(Echo(misuse), attempt=3)
    letter = await DeadLetter.get()
    assert (letter.reason, letter.attempt) == ("error", 3)
    assert "no_such_column" in letter.detail


async def test_a_commit_whose_answer_was_lost_is_not_repeated(stage: Stage) -> None:
    echo = Echo()
    (envelope,) = await stage.send(Say(text="hi"))
    failpoints.arm("db.commit:execute-then-raise")
    await stage.loop(echo).settle(envelope)
    assert await Comment.all().count() == 1
    assert await handled_all()
    assert await DeadLetter.all().count() == 0


# Never again


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (NotFound("no such comment"), "not_found"),
        (Refused("550 no such user", code="mailbox_unavailable"), "mailbox_unavailable"),
        (Conflict("twice"), "conflict"),
        (Ambiguous("cut after the dot"), "ambiguous"),
    ],
)
async def test_what_cannot_succeed_is_a_dead_letter_at_once(
    stage: Stage, error: LimnerError, reason: str
) -> None:
    await stage.settle(Echo(raising(error)))
    letter = await DeadLetter.get()
    assert (letter.reason, letter.detail, letter.attempt) == (reason, error.detail, 1)
    assert await Comment.all().count() == 0
    assert await handled_all()
    assert stage.counted() == {"dead": 1.0}


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (Transient("no answer"), "no answer"),
        (ZeroDivisionError("a bug"), "ZeroDivisionError: a bug"),
    ],
)
async def test_the_last_attempt_that_fails_is_a_dead_letter(
    stage: Stage, error: Exception, detail: str
) -> None:
    await stage.settle(Echo(raising(error)), attempt=3)
    letter = await DeadLetter.get()
    assert (letter.reason, letter.detail) == ("attempts_exhausted", detail)
    assert await handled_all()
    assert stage.counted() == {"dead": 1.0}


async def test_a_retry_asked_for_at_the_last_attempt_is_a_dead_letter(stage: Stage) -> None:
    async def later(_: Any, work: UnitOfWork) -> None:
        work.retry("still not ready", after_s=15)

    await stage.settle(Echo(later), attempt=3)
    letter = await DeadLetter.get()
    assert (letter.reason, letter.detail) == ("attempts_exhausted", "still not ready")
    assert await Comment.all().count() == 0


async def test_a_handler_may_bury_its_message_with_what_it_collected(stage: Stage) -> None:
    async def bury(_: Any, work: UnitOfWork) -> None:
        work.bury("spam", "three links")

    await stage.settle(Echo(bury))
    assert (await DeadLetter.get()).reason == "spam"
    assert await Comment.all().count() == 1
    assert stage.counted() == {"dead": 1.0}


DEEP = b"[" * 10_000 + b"]" * 10_000


@pytest.mark.parametrize(
    ("body", "topic", "reason", "detail"),
    [
        (b"", "echo.say", "invalid_message", "Invalid JSON"),
        (b"{", "echo.say", "invalid_message", "Invalid JSON"),
        (b"\xff\xfe", "echo.say", "invalid_message", "Invalid JSON"),
        (DEEP, "echo.say", "invalid_message", "Invalid JSON"),
        (b"[]", "echo.say", "invalid_message", "not a valid echo.say"),
        (b"{}", "echo.say", "invalid_message", "/text: Field required"),
        (b'{"text": 1}', "echo.say", "invalid_message", "/text"),
        (b'{"text": "a", "n": NaN}', "echo.say", "invalid_message", "NaN"),
        (b'{"text": "a", "more": 1}', "echo.say", "invalid_message", "/more"),
        (json.dumps({"text": "x" * 21}).encode(), "echo.say", "invalid_message", "/text"),
        (b"{}", "echo.whisper", "unknown_message", "echo takes echo.say, not echo.whisper"),
        (b" " * (BODY_LIMIT_BYTES + 1), "echo.say", "message_too_large", "over 1 MiB"),
    ],
    ids=lambda value: repr(value)[:24],
)
async def test_what_cannot_be_read_is_a_dead_letter_that_says_where(
    stage: Stage, body: bytes, topic: str, reason: str, detail: str
) -> None:
    echo = Echo()
    envelope = await stage.stored(Envelope("m", topic, body))
    await stage.loop(echo).settle(envelope)
    letter = await DeadLetter.get()
    assert letter.reason == reason
    assert detail in letter.detail
    assert bytes(letter.body) == body
    assert echo.heard == []
    assert await handled_all()
    assert stage.counted() == {"dead": 1.0}


async def test_an_actor_without_an_inbox_takes_no_messages(stage: Stage) -> None:
    idle: Actor[Say] = Actor(name="echo", concurrency=1, timeout_s=1, max_attempts=1)
    loop = ActorLoop(idle, stage.broker, stage.units, stage.clock, stage.metrics)
    await loop.settle((await stage.send(Say(text="hi")))[0])
    assert "takes no messages" in (await DeadLetter.get()).detail


# What a handler does when its message is given up


async def test_who_gives_up_puts_things_right_in_the_unit_of_the_dead_letter(stage: Stage) -> None:
    async def regret(message: Say, work: UnitOfWork) -> None:
        work.add(comment(external_id=f"regret {message.text}"))

    handler = Regretful(raising(Transient("no answer")), regret)
    await stage.settle(handler, attempt=3)
    assert handler.reasons == ["no answer"]
    assert [row.external_id for row in await Comment.all()] == ["regret hi"]
    assert (await DeadLetter.get()).reason == "attempts_exhausted"
    assert stage.counted() == {"dead": 1.0}


async def regret_with_a_clash(_: Any, work: UnitOfWork) -> None:
    work.add(comment(external_id="clash"), comment(external_id="clash"))


async def regret_what_has_moved_on(_: Any, work: UnitOfWork) -> None:
    work.add(comment())
    work.move(comment(), expected="new", to="ignored")


async def regret_with_an_open_transaction(_: Any, work: UnitOfWork) -> None:
    async with work.transaction() as connection:
        await connection.execute("DELETE FROM users")
        raise ZeroDivisionError


async def regret_for_ever(_: Any, __: UnitOfWork) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    "regret",
    [
        raising(Transient("gone too")),
        raising(ZeroDivisionError("a bug")),
        regret_with_a_clash,
        regret_what_has_moved_on,
        regret_with_an_open_transaction,
        regret_for_ever,
    ],
)
async def test_the_dead_letter_is_kept_whatever_putting_right_does(
    stage: Stage, regret: Work
) -> None:
    handler = Regretful(raising(NotFound("gone")), regret)
    await stage.settle(handler, timeout_s=0.2)
    assert (await DeadLetter.get()).detail == "gone"
    assert await Comment.all().count() == 0
    assert await handled_all()
    assert stage.counted() == {"dead": 1.0}
    await stage.settle(Echo())
    assert await Comment.all().count() == 1


async def test_an_engine_that_is_away_while_putting_right_leaves_the_message(stage: Stage) -> None:
    handler = Regretful(raising(NotFound("gone")), raising(EngineUnavailable("database")))
    (envelope,) = await stage.send(Say(text="hi"))
    with pytest.raises(EngineUnavailable):
        await stage.loop(handler).settle(envelope)
    assert await DeadLetter.all().count() == 0
    assert await OutboxRow.all().count() == 1
