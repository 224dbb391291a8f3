"""What goes out when a unit of work has committed: messages, events, audit lines."""

import asyncio

from limner.core.message import Event
from limner.core.unit import Commit
from limner.storage.sql.audit import AuditLine
from limner.storage.sql.messaging import OutboxRow
from limner.storage.sql.tasks import Task
from limner.storage.sql.timeline import lines_after
from tests.contracts.units import Say, Sql, World, durable_process, message, task
from tests.fakes.broker import DurableBroker


async def test_events_follow_the_commit_and_name_object_and_user(any_world: World) -> None:
    async with any_world.broker.subscribe() as events:
        wish = task(user_id="user_1", trace_id="ab" * 16)
        await any_world.commit(wish)
        work = any_world.units.open("intent")
        work.move(wish, expected="pending", to="extracted", data={"by": "rules"})
        work.note(wish, "log", {"text": "x"})
        stale = any_world.units.open("intent")
        stale.move(wish, expected="needs_review", to="extracted")
        assert await any_world.units.commit(stale) is Commit.STALE
        assert await any_world.units.commit(work) is Commit.DONE
        heard = [await asyncio.wait_for(anext(events), 10) for _ in range(3)]
    told = [Event.from_bytes(envelope.body) for envelope in heard]
    assert [event.type for event in told] == ["task.pending", "task.extracted", "task.log"]
    assert [envelope.topic for envelope in heard] == [event.type for event in told]
    assert all(envelope.kind == "event" for envelope in heard)
    assert {event.user_id for event in told} == {"user_1"}
    assert {event.subject["id"] for event in told} == {wish.id}
    assert {envelope.trace_id for envelope in heard} == {"ab" * 16}
    assert told[1].data == {"by": "rules", "state": "extracted"}
    assert len({event.id for event in told}) == 3


async def test_messages_go_out_after_the_commit_delayed_ones_stay(any_world: World) -> None:
    work = any_world.units.open("test")
    work.send(Say(text="now"))
    work.send(Say(text="later"), after_s=60)
    work.send_stored("echo.say", b'{"text": "stored"}')
    assert (await any_world.broker.depth("echo")).ready == 0
    assert await any_world.units.commit(work) is Commit.DONE
    await any_world.settle()
    assert (await any_world.broker.depth("echo")).ready == 2
    async with any_world.broker.consume("echo", 2) as deliveries:
        bodies = [(await anext(deliveries)).envelope.body for _ in range(2)]
    assert bodies == [Say(text="now").to_bytes(), b'{"text": "stored"}']


async def test_a_unit_follows_the_trace_of_what_it_is_about(world: World) -> None:
    work = world.units.open("test", message(trace_id="ab" * 16))
    assert work.trace_id == "ab" * 16
    work.follow("")
    assert work.trace_id == "ab" * 16
    work.follow("cd" * 16)
    work.send(Say())
    assert work.commands[0][0].trace_id == "cd" * 16


async def test_a_row_keeps_its_own_trace_and_time_of_making(world: World) -> None:
    row = task(trace_id="ee" * 16)
    work = world.units.open("test", None)
    work.add(row)
    await world.units.commit(work)
    assert (await Task.get(id=row.id)).trace_id == "ee" * 16


async def test_an_audit_line_names_the_person_if_there_is_one(world: World) -> None:
    work = world.units.open("http")
    work.actor_id = "user_7"
    work.audit("key.created")
    await world.units.commit(work)
    assert (await AuditLine.get()).actor == "user_7"


async def test_events_are_told_once_and_not_stored_by_a_durable_broker_either(sql: Sql) -> None:
    world = durable_process(sql)
    assert isinstance(world.broker, DurableBroker)
    world.broker.away = True
    made = task()
    await world.commit(made)
    assert await OutboxRow.all().count() == 0
    assert [line.state for line in await lines_after(made.id, 0)] == ["pending"]
    world.broker.away = False
    async with world.broker.subscribe() as events:
        await world.commit(task())
        assert (await asyncio.wait_for(anext(events), 10)).topic == "task.pending"


async def test_events_of_an_embedded_broker_need_no_row(world: World) -> None:
    await world.commit(task())
    assert await OutboxRow.all().count() == 0
