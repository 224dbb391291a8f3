"""How outside effects begin: a commit of their own, a lease and a fencing token that rises."""

import asyncio
from datetime import timedelta

import pytest

from limner.core import failpoints
from limner.core.errors import EngineUnavailable, FailpointReached, LeaseLost, Stale
from limner.core.unit import Commit
from limner.storage.sql.deliveries import Delivery
from limner.storage.sql.leases import Leases
from limner.storage.sql.messaging import InboxRow
from limner.storage.sql.tasks import Task
from limner.storage.sql.timeline import lines_after
from tests.contracts.engines import START, eventually
from tests.contracts.units import Sql, World, delivery, task

LEASE_S = 15.0


async def begin(world: World, mail: Delivery) -> int:
    work = world.units.open("mailer")
    return await work.begin(mail, expected=("pending", "sending"), to="sending", lease_s=LEASE_S)


async def test_a_beginning_is_stored_at_once_and_the_end_names_its_token(world: World) -> None:
    mail = delivery()
    await world.commit(mail)
    envelope = await world.send()
    work = world.receive(envelope)
    token = await work.begin(
        mail, expected="pending", to="sending", lease_s=LEASE_S, subject="your picture"
    )
    stored = await Delivery.get(id=mail.id)
    assert (stored.state, stored.token, stored.subject) == ("sending", token, "your picture")
    assert stored.lease_until == START + timedelta(seconds=LEASE_S)
    assert (token, mail.token) == (1, 1)
    work.move(mail, expected="sending", to="sent", token=token, sent_at=work.now)
    assert await world.units.commit(work) is Commit.DONE
    stored = await Delivery.get(id=mail.id)
    assert (stored.state, stored.lease_until, stored.sent_at) == ("sent", None, START)


async def test_a_beginning_does_not_count_as_handling_the_message(any_world: World) -> None:
    mail = delivery()
    await any_world.commit(mail)
    envelope = await any_world.send()
    work = any_world.receive(envelope)
    await work.begin(mail, expected="pending", to="sending", lease_s=LEASE_S)
    await any_world.units.discard(work)
    assert await InboxRow.filter(consumer="echo").count() == 0
    assert await any_world.units.commit(any_world.receive(envelope)) is Commit.DONE


async def test_a_row_under_a_live_lease_is_not_taken(world: World) -> None:
    mail = delivery()
    await world.commit(mail)
    assert await begin(world, mail) == 1
    await world.sql.pass_time(LEASE_S - 0.001)
    with pytest.raises(Stale):
        await begin(world, mail)


async def test_after_the_lease_another_worker_gets_a_higher_token_and_the_first_is_fenced(
    world: World,
) -> None:
    mail = delivery()
    await world.commit(mail)
    first = await begin(world, mail)
    late = world.units.open("mailer")
    late.move(mail, expected="sending", to="sent", token=first)
    await world.sql.pass_time(LEASE_S)
    second = await begin(world, mail)
    assert second == first + 1
    assert await world.units.commit(late) is Commit.STALE
    assert (await Delivery.get(id=mail.id)).state == "sending"
    work = world.units.open("mailer")
    work.move(mail, expected="sending", to="sent", token=second)
    assert await world.units.commit(work) is Commit.DONE


async def test_a_row_that_is_gone_or_in_another_state_is_not_taken(world: World) -> None:
    with pytest.raises(Stale):
        await begin(world, delivery())
    sent = delivery(state="failed")
    await world.commit(sent)
    with pytest.raises(Stale):
        await begin(world, sent)
    assert (await Delivery.get(id=sent.id)).token == 0


async def test_of_workers_that_begin_at_once_one_does(world: World) -> None:
    mail = delivery()
    await world.commit(mail)
    outcomes = await asyncio.gather(
        *(begin(world, delivery(id=mail.id)) for _ in range(10)), return_exceptions=True
    )
    assert outcomes.count(1) == 1
    assert sum(isinstance(outcome, Stale) for outcome in outcomes) == 9


async def test_a_beginning_of_a_kind_with_a_timeline_is_told_and_announced_at_the_end(
    world: World,
) -> None:
    async with world.broker.subscribe() as events:
        wish = task(state="extracted")
        await world.commit(wish)
        await anext(events)
        work = world.units.open("submitter")
        token = await work.begin(wish, expected="extracted", to="submitted", lease_s=LEASE_S)
        assert [line.state for line in await lines_after(wish.id, 0)] == ["extracted", "submitted"]
        work.move(wish, expected="submitted", to="running", token=token)
        assert await world.units.commit(work) is Commit.DONE
        told = [(await asyncio.wait_for(anext(events), 10)).topic for _ in range(2)]
    assert told == ["task.submitted", "task.running"]
    assert [line.n for line in await lines_after(wish.id, 0)] == [1, 2, 3]


async def test_beginning_again_in_the_same_state_adds_no_line(world: World) -> None:
    wish = task(state="submitted")
    await world.commit(wish)
    work = world.units.open("submitter")
    assert await work.begin(wish, expected="submitted", to="submitted", lease_s=LEASE_S) == 1
    assert len(await lines_after(wish.id, 0)) == 1
    assert work.events == []


async def test_a_beginning_whose_answer_was_lost_holds_the_lease(world: World) -> None:
    mail = delivery()
    await world.commit(mail)
    failpoints.arm("db.begin_effect:execute-then-raise")
    with pytest.raises(FailpointReached):
        await begin(world, mail)
    failpoints.arm(None)
    with pytest.raises(Stale):
        await begin(world, mail)
    await world.sql.pass_time(LEASE_S)
    assert await begin(world, mail) == 2


# Leases


@pytest.fixture
def leases(sql: Sql) -> Leases:
    return Leases(sql.database, LEASE_S, heartbeat_s=0.01)


async def lease_end_s(mail: Delivery) -> float | None:
    until = (await Delivery.get(id=mail.id)).lease_until
    return None if until is None else (until - START).total_seconds()


async def begun(world: World) -> tuple[Delivery, int]:
    mail = delivery()
    await world.commit(mail)
    return mail, await begin(world, mail)


async def test_a_renewed_lease_lasts_longer_and_changes_nothing_else(
    world: World, leases: Leases
) -> None:
    mail, token = await begun(world)
    version = (await Delivery.get(id=mail.id)).version
    await world.sql.pass_time(10)
    await leases.renew(mail, token)
    assert await lease_end_s(mail) == 10 + LEASE_S
    assert (await Delivery.get(id=mail.id)).version == version


async def test_only_the_newest_token_renews_and_only_while_there_is_a_lease(
    world: World, leases: Leases
) -> None:
    mail, token = await begun(world)
    with pytest.raises(LeaseLost):
        await leases.renew(mail, token - 1)
    work = world.units.open("mailer")
    work.move(mail, expected="sending", to="sent", token=token)
    await world.units.commit(work)
    with pytest.raises(LeaseLost):
        await leases.renew(mail, token)


async def test_a_kept_lease_is_renewed_as_long_as_the_block_runs(
    world: World, leases: Leases
) -> None:
    mail, token = await begun(world)
    async with leases.keep(mail, token):
        for passed_s in (10.0, 20.0, 30.0):
            await world.sql.pass_time(10)

            async def renewed(end_s: float = passed_s + LEASE_S) -> bool:
                return await lease_end_s(mail) == end_s

            await eventually(renewed)


async def test_a_lost_lease_ends_the_block(world: World, leases: Leases) -> None:
    mail, token = await begun(world)

    async def work() -> None:
        async with leases.keep(mail, token):
            await world.sql.database.write().execute(
                "UPDATE deliveries SET token = token + 1 WHERE id = ?", [mail.id]
            )
            await asyncio.Event().wait()

    with pytest.raises(LeaseLost):
        await asyncio.wait_for(work(), 10)
    current = asyncio.current_task()
    assert current is not None
    assert current.cancelling() == 0


async def test_a_lease_that_cannot_be_renewed_in_time_ends_the_block(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    mail, token = await begun(world)
    leases = Leases(world.sql.database, lease_s=0.2, heartbeat_s=0.02)
    tries: list[int] = []

    async def away(*_: object) -> None:
        tries.append(1)
        raise EngineUnavailable("database: gone")

    monkeypatch.setattr(leases, "renew", away)

    async def work() -> None:
        async with leases.keep(mail, token):
            await asyncio.Event().wait()

    with pytest.raises(LeaseLost, match="could not renew"):
        await asyncio.wait_for(work(), 10)
    assert len(tries) > 1


async def test_a_renewal_that_hangs_ends_the_block_when_the_lease_ends(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    mail, token = await begun(world)
    leases = Leases(world.sql.database, lease_s=0.1, heartbeat_s=0.02)

    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(leases, "renew", hang)

    async def work() -> None:
        async with leases.keep(mail, token):
            await asyncio.Event().wait()

    with pytest.raises(LeaseLost, match="could not renew"):
        await asyncio.wait_for(work(), 10)


async def test_a_renewal_that_fails_for_another_reason_ends_the_block(
    world: World, leases: Leases
) -> None:
    mail, token = await begun(world)

    async def work() -> None:
        async with leases.keep(mail, token):
            await asyncio.Event().wait()

    failpoints.arm("lease.renew")
    with pytest.raises(LeaseLost, match="failpoint"):
        await asyncio.wait_for(work(), 10)


async def test_the_engine_may_be_away_for_a_while(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    mail, token = await begun(world)
    leases = Leases(world.sql.database, lease_s=30.0, heartbeat_s=0.01)
    renew, done = leases.renew, asyncio.Event()
    failures = 3

    async def sometimes(row: Delivery, number: int) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise EngineUnavailable("database: gone")
        await renew(row, number)
        done.set()

    monkeypatch.setattr(leases, "renew", sometimes)
    async with leases.keep(mail, token):
        await asyncio.wait_for(done.wait(), 10)


async def test_who_cancels_the_block_from_outside_cancels_it(world: World, leases: Leases) -> None:
    mail, token = await begun(world)
    inside = asyncio.Event()

    async def work() -> None:
        async with leases.keep(mail, token):
            inside.set()
            await asyncio.Event().wait()

    working = asyncio.create_task(work())
    await asyncio.wait_for(inside.wait(), 10)
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working


async def test_an_error_in_the_block_goes_out_as_it_is(world: World, leases: Leases) -> None:
    mail, token = await begun(world)
    with pytest.raises(ZeroDivisionError):
        async with leases.keep(mail, token):
            raise ZeroDivisionError


async def test_ended_leases_are_found_oldest_first_in_the_states_asked_for(
    world: World, leases: Leases
) -> None:
    mails = []
    for _ in range(3):
        mail, _token = await begun(world)
        mails.append(mail)
        await world.sql.pass_time(1)
    states = ("sending",)
    assert await leases.expired(Delivery, states) == []
    await world.sql.pass_time(LEASE_S - 2)
    assert await leases.expired(Delivery, states) == [mails[0].id, mails[1].id]
    assert await leases.expired(Delivery, ("sent", "unknown")) == []
    assert await leases.expired(Task, ("submitted", "running")) == []


async def test_at_an_embedded_start_all_leases_end(world: World, leases: Leases) -> None:
    mail, _ = await begun(world)
    idle = delivery()
    await world.commit(idle)
    await leases.void_all((Delivery, Task))
    assert await leases.expired(Delivery, ("sending",)) == [mail.id]
    assert await lease_end_s(idle) is None
    assert await begin(world, mail) == 2
