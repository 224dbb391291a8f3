"""Ringing: what lost its message with the broker's disk goes on; nothing else is rung."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from limner.actors.intent.actor import build as build_intent
from limner.actors.intent.messages import Read
from limner.actors.mailer.actor import build as build_mailer
from limner.actors.mailer.messages import Deliver
from limner.actors.ports import Ports
from limner.actors.registry import ACTORS
from limner.actors.status.actor import build as build_status
from limner.actors.status.messages import Check
from limner.actors.submitter.actor import build as build_submitter
from limner.actors.submitter.messages import Submit
from limner.actors.sweeper import ringing as ringing_module
from limner.actors.sweeper.actor import build
from limner.actors.sweeper.ringing import RING_AFTER_S, RING_AGAIN_S, RING_ROWS, Ringer
from limner.core.actor import Actor, ActorLoop
from limner.core.clock import HeldClock
from limner.core.errors import EngineUnavailable
from limner.core.ids import new_id
from limner.core.message import Message
from limner.storage.cache.memory import MemoryCache, MemoryLock
from limner.storage.sql.comments import Comment
from limner.storage.sql.deliveries import Delivery, create_delivery
from limner.storage.sql.jobs import Job
from limner.storage.sql.messaging import DeadLetter, OutboxRow
from limner.storage.sql.outbox import Outbox
from limner.storage.sql.providers import Provider
from limner.storage.sql.tasks import Task
from limner.storage.sql.unit import SqlUnits
from tests.contracts.engines import eventually
from tests.core.brokers.vhost import coming, fresh_vhost, started
from tests.fakes.broker import DurableBroker
from tests.fakes.deliveries import finished, kept
from tests.fakes.ports import open_ports
from tests.fakes.provider import FakeProvider
from tests.fakes.stage import Stage

LIMIT_S = 10.0
WISH = "draw a red fox in the snow, send it to fox@example.com please"
TOPICS = {message.topic for message in (Read, Submit, Check, Deliver)}


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    async with FakeProvider(polls=0) as running:
        yield running


@pytest.fixture
async def broker(clock: HeldClock) -> AsyncIterator[DurableBroker]:
    opened = DurableBroker(clock)
    await opened.start(ACTORS)
    yield opened
    await opened.aclose()


@pytest.fixture
async def ports(
    tmp_path: Path, migrated_file: Path, clock: HeldClock, broker: DurableBroker, fake: FakeProvider
) -> AsyncIterator[Ports]:
    async with open_ports(
        tmp_path, clock=clock, migrated=migrated_file, allow_private_hosts=[fake.host]
    ) as opened:
        outbox = Outbox(opened.database, broker, clock, opened.metrics)
        units = SqlUnits(opened.database, broker, clock, outbox.offer)
        yield replace(opened, broker=broker, outbox=outbox, units=units)
        await outbox.drain()


@pytest.fixture
def ringer(ports: Ports) -> Ringer:
    return Ringer(ports)


async def lose(ports: Ports) -> None:
    """Wipe the broker's disk: its queues come back empty."""
    await ports.outbox.drain()
    await ports.broker.aclose()
    await ports.broker.start(ACTORS)


async def hear(ports: Ports, actor: Actor[Any]) -> None:
    """Have an actor take all that its queue holds."""
    await ports.outbox.drain()
    given = actor.with_defaults(concurrency=1, timeout_s=20, max_attempts=4)
    loop = ActorLoop(given, ports.broker, ports.units, ports.clock, ports.metrics)
    async with ports.broker.consume(actor.name, 1) as deliveries:
        while (await ports.broker.depth(actor.name)).ready:
            delivery = await anext(deliveries)
            await loop.settle(delivery.envelope)
            await delivery.ack()
    if actor.close is not None:
        await actor.close()
    await ports.outbox.drain()


async def sent(ports: Ports) -> Counter[tuple[str, str]]:
    """Count the commands that reached the queues, by topic and the id they name."""
    await ports.outbox.drain()
    assert isinstance(ports.broker, DurableBroker)
    return Counter(
        (one.topic, next(iter(json.loads(one.body).values())))
        for one in ports.broker.published
        if one.topic in TOPICS
    )


async def comment(ports: Ports, text: str = WISH, **fields: Any) -> Comment:
    values = {"source_id": "source_1", "external_id": new_id("external"), "user_id": "user_1"}
    row = Comment(id=new_id("comment"), state="new", text=text, **{**values, **fields})
    await Stage(ports).keep(row)
    return row


async def task(ports: Ports, state: str, **fields: Any) -> Task:
    return await finished(ports, state=state, **{"result_key": "", **fields})


async def delivery(ports: Ports) -> Delivery:
    work = ports.units.open("test")
    row = create_delivery(work, await finished(ports), "limner.test", 1)
    await ports.units.commit(work)
    return row


async def acme(ports: Ports, fake: FakeProvider) -> Provider:
    """Have all pictures made by a provider that is asked over HTTP."""
    row = Provider(
        id=new_id("provider"), state="active", name="acme", media="both", config=fake.config()
    )
    await Stage(ports).keep(row)
    await Stage(ports).tune(image_provider="acme")
    return row


Waiting = tuple[Any, Message]


async def one_of_each(ports: Ports) -> list[Waiting]:
    """Give a row of each kind that waits for a message, with the message."""
    new, pending = await comment(ports), await task(ports, "pending")
    extracted = await task(ports, "extracted")
    asked = [
        await task(ports, state, provider="acme", provider_job_id="j1", round=n)
        for n, state in ((1, "submitted"), (3, "running"))
    ]
    mail = await delivery(ports)
    return [
        (new, Read(comment_id=new.id)),
        (pending, Read(comment_id=pending.comment_id)),
        (extracted, Submit(task_id=extracted.id)),
        *((row, Check(task_id=row.id, round=row.round)) for row in asked),
        (mail, Deliver(delivery_id=mail.id)),
    ]


def named(message: Message) -> tuple[str, str]:
    return message.topic, next(iter(message.model_dump().values()))


async def rounds(ringer: Ringer, count: int = 2) -> int:
    """Ring in so many rounds; a task with a provider is rung in the second at the earliest."""
    return sum([await ringer.ring() for _ in range(count)])


# What was lost goes on


async def test_a_comment_whose_message_was_lost_becomes_a_task(
    ringer: Ringer, ports: Ports, clock: HeldClock
) -> None:
    row = await comment(ports)
    await Stage(ports).send(Read(comment_id=row.id))
    await lose(ports)
    clock.advance(RING_AFTER_S)
    assert await ringer.ring() == 1
    await hear(ports, build_intent(ports))
    made = await Task.get(comment_id=row.id)
    assert made.state == "extracted"
    assert (await sent(ports))[Submit.topic, made.id] == 1


async def test_a_retried_task_whose_message_was_lost_is_taken_on_again(
    ringer: Ringer, ports: Ports, clock: HeldClock
) -> None:
    read = await comment(ports)
    row = await task(ports, "pending", comment_id=read.id, round=2)
    await Comment.filter(id=read.id).update(state="task")
    clock.advance(RING_AFTER_S)
    assert await ringer.ring() == 1
    await hear(ports, build_intent(ports))
    assert (await Task.get(id=row.id)).state == "extracted"


async def test_an_extracted_task_whose_message_was_lost_becomes_a_job(
    ringer: Ringer, ports: Ports, clock: HeldClock
) -> None:
    row = await task(ports, "extracted")
    await Stage(ports).send(Submit(task_id=row.id))
    await lose(ports)
    clock.advance(RING_AFTER_S)
    assert await ringer.ring() == 1
    await hear(ports, build_submitter(ports))
    assert (await Task.get(id=row.id)).state == "submitted"
    assert await Job.filter(task_id=row.id).count() == 1


async def test_a_task_whose_check_was_lost_is_asked_about_and_succeeds(
    ringer: Ringer, ports: Ports, clock: HeldClock, fake: FakeProvider
) -> None:
    await acme(ports, fake)
    row = await task(ports, "extracted", round=2)
    await Stage(ports).send(Submit(task_id=row.id))
    await hear(ports, build_submitter(ports))
    clock.advance(RING_AFTER_S)
    assert await rounds(ringer) == 0, "its first check is in the outbox"
    assert await ports.outbox.relay_once() == 1
    await lose(ports)
    assert await rounds(ringer) == 1
    await hear(ports, build_status(ports))
    assert (await Task.get(id=row.id)).state == "succeeded"
    assert await Delivery.filter(task_id=row.id, state="pending").count() == 1


async def test_a_mail_whose_message_was_lost_goes_out_once(
    ringer: Ringer, ports: Ports, clock: HeldClock
) -> None:
    row = await delivery(ports)
    await Stage(ports).send(Deliver(delivery_id=row.id))
    await lose(ports)
    clock.advance(RING_AFTER_S)
    assert await ringer.ring() == 1
    await hear(ports, build_mailer(ports))
    assert (await Delivery.get(id=row.id)).state == "sent"
    assert len(await kept(ports)) == 1


async def test_each_kind_is_rung_with_its_message_in_its_round(
    ringer: Ringer, ports: Ports, clock: HeldClock
) -> None:
    rows = await one_of_each(ports)
    clock.advance(RING_AFTER_S)
    assert await rounds(ringer) == len(rows)
    assert await sent(ports) == Counter(named(message) for _, message in rows)
    assert isinstance(ports.broker, DurableBroker)
    bodies = [json.loads(one.body) for one in ports.broker.published if one.topic == Check.topic]
    assert sorted((body["round"], body["n"]) for body in bodies) == [(1, 1), (3, 1)]


async def test_two_processes_that_ring_the_same_rows_do_everything_once(
    ports: Ports, clock: HeldClock
) -> None:
    read, wish, mail = await comment(ports), await task(ports, "extracted"), await delivery(ports)
    clock.advance(RING_AFTER_S)
    assert [await Ringer(ports).ring() for _ in range(2)] == [3, 0], "the first is in the queues"
    for actor, message in (
        (build_intent(ports), Read(comment_id=read.id)),
        (build_submitter(ports), Submit(task_id=wish.id)),
        (build_mailer(ports), Deliver(delivery_id=mail.id)),
    ):
        await Stage(ports).send(message)
        await hear(ports, actor)
    assert await Task.filter(comment_id=read.id).count() == 1
    assert await Job.filter(task_id=wish.id).count() == 1
    assert len(await kept(ports)) == 1
    assert await DeadLetter.all().count() == 0


# What is left alone


async def test_what_has_not_stood_still_for_long_is_not_rung(
    ringer: Ringer, ports: Ports, clock: HeldClock
) -> None:
    rows = await one_of_each(ports)
    clock.advance(RING_AFTER_S - 1)
    assert await rounds(ringer) == 0
    clock.advance(1)
    assert await rounds(ringer) == len(rows)


async def test_what_waits_for_no_message_is_not_rung(
    ringer: Ringer, ports: Ports, clock: HeldClock
) -> None:
    for state in sorted(Task.transitions.keys() - {"pending", "extracted", "submitted", "running"}):
        await task(ports, state, provider="acme")
    for state in ("submitted", "running"):
        await task(ports, state, provider="local")
    for state in ("ignored", "no_address", "task"):
        await Comment.filter(id=(await comment(ports)).id).update(state=state)
    for state in sorted(Delivery.transitions.keys() - {"pending"}):
        await Delivery.filter(id=(await delivery(ports)).id).update(state=state)
    clock.advance(RING_AFTER_S)
    assert await rounds(ringer) == 0


async def test_nothing_is_rung_while_its_actors_queue_holds_anything(
    ringer: Ringer, ports: Ports, clock: HeldClock
) -> None:
    rows = await one_of_each(ports)
    await Stage(ports).send(
        *(
            kind(**{name: "another"})
            for kind, name in (
                (Read, "comment_id"),
                (Submit, "task_id"),
                (Check, "task_id"),
                (Deliver, "delivery_id"),
            )
        )
    )
    clock.advance(RING_AFTER_S)
    before = await sent(ports)
    assert await rounds(ringer, 3) == 0
    assert await sent(ports) == before
    await lose(ports)
    assert await rounds(ringer) == len(rows)


async def test_nothing_is_rung_when_messages_come_while_the_rows_are_read(
    ringer: Ringer, ports: Ports, clock: HeldClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = await task(ports, "extracted")
    clock.advance(RING_AFTER_S)
    lost = ringer._lost

    async def then_sent(*args: Any) -> Any:
        found = await lost(*args)
        if found:
            await Stage(ports).send(Submit(task_id=row.id))
            await ports.outbox.drain()
        return found

    monkeypatch.setattr(ringer, "_lost", then_sent)
    assert await ringer.ring() == 0
    assert (await sent(ports))[Submit.topic, row.id] == 1


async def test_a_row_whose_delayed_message_is_in_the_outbox_is_not_rung_until_that_is_gone(
    ringer: Ringer, ports: Ports, clock: HeldClock
) -> None:
    rows = await one_of_each(ports)
    other = await task(ports, "extracted")
    work = ports.units.open("test")
    for _, message in rows:
        work.send(message, after_s=86_400)
    await ports.units.commit(work)
    clock.advance(RING_AFTER_S)
    assert await rounds(ringer, 3) == 1
    assert await sent(ports) == Counter([(Submit.topic, other.id)])
    await lose(ports)
    clock.advance(86_400)
    assert await ports.outbox.relay_once() == len(rows)
    await lose(ports)
    assert await rounds(ringer) == len(rows) + 1


async def test_too_many_kept_messages_of_a_topic_stop_its_rings_alone(
    ringer: Ringer, ports: Ports, clock: HeldClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ringing_module, "CARRIER_ROWS", 2)
    await one_of_each(ports)
    work = ports.units.open("test")
    for n in range(3):
        work.send(Submit(task_id=f"another_{n}"), after_s=86_400)
    await ports.units.commit(work)
    await lose(ports)
    clock.advance(RING_AFTER_S)
    await rounds(ringer)
    rung = Counter(topic for topic, _ in (await counted_rings(ports)).elements())
    assert rung == {Read.topic: 2, Check.topic: 2, Deliver.topic: 1}


async def test_kept_messages_that_are_none_of_ours_hold_nothing_up(
    ringer: Ringer, ports: Ports, clock: HeldClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ringing_module, "CARRIER_ROWS", 4)
    row = await task(ports, "extracted")
    for n, body in enumerate((b"{", b"\xff", b'["x"]', b'{"task_id": 1}', b" " * 1_000_000)):
        later = clock.now() + timedelta(days=1)
        await Stage(ports).keep(
            OutboxRow(
                id=f"m{n}",
                message_id=f"m{n}",
                app_id="shop",
                topic=Submit.topic,
                body=body,
                due_at=later,
                publish_after=later,
                created_at=clock.now(),
            )
        )
    clock.advance(RING_AFTER_S)
    assert await ringer.ring() == 1
    assert (await sent(ports))[Submit.topic, row.id] == 1


async def counted_rings(ports: Ports) -> Counter[tuple[str, str]]:
    """Count what is in the queues now."""
    await ports.outbox.drain()
    assert isinstance(ports.broker, DurableBroker)
    return Counter(
        (one.topic, next(iter(json.loads(one.body).values())))
        for queue in ports.broker._queues.values()
        for one in queue.ready
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda ports: task(ports, "extracted"),
        lambda ports: task(ports, "submitted", provider="acme"),
        delivery,
    ],
)
async def test_a_row_under_a_lease_is_not_rung(
    ringer: Ringer, ports: Ports, clock: HeldClock, make: Callable[[Ports], Awaitable[Any]]
) -> None:
    row = await make(ports)
    lease_s = RING_AFTER_S + 10
    work = ports.units.open("test")
    token = await work.begin(row, expected=row.state, to=row.state, lease_s=lease_s)
    clock.advance(RING_AFTER_S)
    assert await rounds(ringer) == 0
    await type(row).filter(id=row.id, token=token).update(lease_until=None)
    assert await rounds(ringer) == 1


async def test_a_task_with_a_provider_is_rung_when_it_was_missed_in_two_rounds(
    ringer: Ringer, ports: Ports, clock: HeldClock
) -> None:
    row = await task(ports, "running", provider="acme")
    clock.advance(RING_AFTER_S)
    assert await ringer.ring() == 0, "its check may be in somebody's hand"
    work = ports.units.open("status")
    work.send(Check(task_id=row.id, n=2), after_s=60)
    await ports.units.commit(work)
    assert await ringer.ring() == 0, "it was"
    clock.advance(60)
    assert await ports.outbox.relay_once() == 1
    await lose(ports)
    assert [await ringer.ring() for _ in range(2)] == [0, 1]


async def test_what_was_rung_is_not_rung_again_for_a_while(
    ringer: Ringer, ports: Ports, clock: HeldClock
) -> None:
    rows = await one_of_each(ports)
    clock.advance(RING_AFTER_S)
    assert await rounds(ringer) == len(rows)
    await lose(ports)
    clock.advance(RING_AGAIN_S - 1)
    assert await rounds(ringer) == 0
    clock.advance(1)
    assert await rounds(ringer) == len(rows)


async def test_a_ring_that_could_not_be_committed_is_rung_again(
    ringer: Ringer, ports: Ports, clock: HeldClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await task(ports, "extracted")
    clock.advance(RING_AFTER_S)

    async def away(_: Any) -> None:
        raise EngineUnavailable("database: gone")

    with monkeypatch.context() as outage:
        outage.setattr(ports.units, "commit", away)
        with pytest.raises(EngineUnavailable):
            await ringer.ring()
    assert await ringer.ring() == 1


@pytest.mark.parametrize(("state", "rung"), [("open", 0), ("discarded", 0), ("retried", 1)])
async def test_a_row_whose_message_is_a_dead_letter_is_the_operators(
    ringer: Ringer, ports: Ports, clock: HeldClock, state: str, rung: int
) -> None:
    row = await comment(ports)
    letter = DeadLetter(
        id=new_id("dead"), consumer="intent", topic=Read.topic, message_id="m1", attempt=4,
        body=Read(comment_id=row.id).to_bytes(), reason="error", state=state,
        created_at=clock.now(),
    )  # fmt: skip
    await Stage(ports).keep(letter)
    clock.advance(RING_AFTER_S)
    assert await ringer.ring() == rung


async def test_a_dead_letter_from_before_the_rows_last_change_holds_nothing_up(
    ringer: Ringer, ports: Ports, clock: HeldClock
) -> None:
    ident = new_id("task")
    letter = DeadLetter(
        id=new_id("dead"), consumer="submitter", topic=Submit.topic, message_id="m1", attempt=4,
        body=Submit(task_id=ident).to_bytes(), reason="attempts_exhausted", created_at=clock.now(),
    )  # fmt: skip
    await Stage(ports).keep(letter)
    clock.advance(60)
    await task(ports, "extracted", id=ident, round=2)
    clock.advance(RING_AFTER_S)
    assert await ringer.ring() == 1


async def test_a_round_rings_so_many_of_each_kind_the_oldest_first(
    ringer: Ringer, ports: Ports, clock: HeldClock
) -> None:
    waiting = [Comment(**values(n)) for n in range(RING_ROWS)]
    await Stage(ports).keep(*waiting)
    clock.advance(1)
    late = await comment(ports)
    mail = await delivery(ports)
    clock.advance(RING_AFTER_S)
    assert await ringer.ring() == RING_ROWS + 1
    queued = await counted_rings(ports)
    assert queued == Counter([*((Read.topic, row.id) for row in waiting), (Deliver.topic, mail.id)])
    await lose(ports)
    assert await ringer.ring() == 1
    assert await counted_rings(ports) == Counter([(Read.topic, late.id)])


def values(n: int) -> dict[str, Any]:
    return {
        "id": new_id("comment"),
        "state": "new",
        "source_id": "source_1",
        "external_id": f"x{n}",
        "text": WISH,
    }


async def test_rows_that_wait_rightly_do_not_hide_those_behind_them(
    ringer: Ringer, ports: Ports, clock: HeldClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ringing_module, "RING_ROWS", 2)
    postponed = [await delivery(ports) for _ in range(5)]
    work = ports.units.open("mailer")
    for row in postponed:
        work.send(Deliver(delivery_id=row.id), after_s=86_400)
    await ports.units.commit(work)
    clock.advance(1)
    lost = [await delivery(ports) for _ in range(3)]
    clock.advance(RING_AFTER_S)
    assert await ringer.ring() == 2
    await lose(ports)
    assert await ringer.ring() == 1
    assert await sent(ports) == Counter((Deliver.topic, row.id) for row in lost)


async def test_what_is_remembered_is_bounded(
    ringer: Ringer, ports: Ports, clock: HeldClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ringing_module, "RUNG_ROWS", 3)
    await Stage(ports).keep(*(Comment(**values(n)) for n in range(5)))
    clock.advance(RING_AFTER_S)
    assert await ringer.ring() == 5
    await lose(ports)
    assert await ringer.ring() == 2
    clock.advance(RING_AGAIN_S)
    ringer._forget()
    assert not ringer._rung_s


# The loop


async def test_where_no_broker_is_durable_nothing_is_rung(
    tmp_path: Path, migrated_file: Path, clock: HeldClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ringing_module, "RING_EVERY_S", 0.001)
    async with open_ports(tmp_path, clock=clock, migrated=migrated_file) as opened:
        await task(opened, "extracted")
        clock.advance(RING_AFTER_S)
        ringer, stop = Ringer(opened), asyncio.Event()
        assert await rounds(ringer) == 0
        monkeypatch.setattr(ringer, "ring_alone", None)
        running = asyncio.create_task(ringer.run(stop))
        done, _ = await asyncio.wait({running}, timeout=0.05)
        assert not done, "a round would have ended it, and a loop that ends is started again"
        stop.set()
        await asyncio.wait_for(running, LIMIT_S)
        assert await Stage(opened).waiting() == []


async def test_the_sweeper_rings_until_it_is_stopped(
    ports: Ports, clock: HeldClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ringing_module, "RING_EVERY_S", 0.01)
    (loop,) = [loop for loop in build(ports).loops if loop.name == "sweeper.ring"]
    stop = asyncio.Event()
    running = asyncio.ensure_future(loop.run(stop))
    for _ in range(2):
        row = await task(ports, "extracted")
        clock.advance(RING_AFTER_S)

        async def rung(ident: str = row.id) -> bool:
            return (await sent(ports))[Submit.topic, ident] == 1

        await eventually(rung)
        await lose(ports)
    stop.set()
    await asyncio.wait_for(running, LIMIT_S)


async def test_a_broker_that_is_away_ends_the_loop_for_the_supervisor(
    ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ringing_module, "RING_EVERY_S", 0.01)

    async def away(_: str) -> None:
        raise EngineUnavailable("broker: gone")

    monkeypatch.setattr(ports.broker, "depth", away)
    with pytest.raises(EngineUnavailable):
        await asyncio.wait_for(Ringer(ports).run(asyncio.Event()), LIMIT_S)


async def test_while_another_process_rings_this_one_does_not(
    ringer: Ringer, ports: Ports, clock: HeldClock
) -> None:
    await task(ports, "extracted")
    clock.advance(RING_AFTER_S)
    async with ports.cache.lock(ringing_module.LOCK, 30):
        assert await ringer.ring_alone() == 0
    assert await ringer.ring_alone() == 1


async def test_without_a_cache_it_rings_all_the_same(ports: Ports, clock: HeldClock) -> None:
    class Away(MemoryCache):
        @asynccontextmanager
        async def lock(self, name: str, ttl_s: float) -> AsyncIterator[MemoryLock]:
            raise EngineUnavailable("cache: connection refused")
            yield

    await task(ports, "extracted")
    clock.advance(RING_AFTER_S)
    assert await Ringer(replace(ports, cache=Away(clock))).ring_alone() == 1


# Over RabbitMQ


@pytest.mark.real
async def test_a_queue_that_rabbitmq_lost_is_made_up_for(
    request: pytest.FixtureRequest, ports: Ports, clock: HeldClock
) -> None:
    async with fresh_vhost(request) as vhost, started(vhost.url, *ACTORS, clock=clock) as rabbit:
        outbox = Outbox(ports.database, rabbit, clock, ports.metrics)
        units = SqlUnits(ports.database, rabbit, clock, outbox.offer)
        real = replace(ports, broker=rabbit, outbox=outbox, units=units)
        row = await comment(real)
        await Stage(real).send(Read(comment_id=row.id))
        await outbox.drain()
        clock.advance(RING_AFTER_S)
        ringer = Ringer(real)

        async def is_queued() -> bool:
            return (await rabbit.depth("intent")).ready == 1

        await eventually(is_queued)
        assert await ringer.ring() == 0, "its message is in the queue"
        await vhost.api("DELETE", "queues/limner.intent")
        await rabbit.start(ACTORS)
        assert await ringer.ring() == 1
        await outbox.drain()
        intent = build_intent(real).with_defaults(concurrency=1, timeout_s=20, max_attempts=4)
        async with rabbit.consume("intent", 1) as deliveries:
            taken = await coming(deliveries)
            await ActorLoop(intent, rabbit, units, clock, real.metrics).settle(taken.envelope)
            await taken.ack()
        assert (await Task.get(comment_id=row.id)).state == "extracted"
        await outbox.drain()
