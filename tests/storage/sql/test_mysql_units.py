"""Units of work on MariaDB whose connection is cut, or that wait for each other."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from pymysql import err

from limner.core.errors import EngineUnavailable
from limner.core.unit import Commit
from limner.storage.sql.comments import Comment
from limner.storage.sql.connection import Connection
from limner.storage.sql.deliveries import Delivery
from limner.storage.sql.leases import Leases
from limner.storage.sql.mysql import Session
from limner.storage.sql.tasks import Task
from limner.storage.sql.timeline import lines_after
from tests.contracts.engines import Engine, held, prepare
from tests.contracts.mariadb import cut, empty_database, own_id
from tests.contracts.units import (
    Say,
    Sql,
    World,
    comment,
    delivery,
    durable_process,
    embedded_process,
    mariadb,
    task,
)
from tests.engines.missing import no_mariadb

LIMIT_S = 20.0
pytestmark = pytest.mark.real


@pytest.fixture(params=[embedded_process, durable_process], ids=["embedded", "durable"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    prepare(Engine("mariadb", mariadb, real=True, missing=no_mariadb), request)
    make: Callable[[Sql], World] = request.param
    async with empty_database() as (database, clock):
        opened = make(Sql(database, clock, held(clock)))
        await opened.broker.start(["echo"])
        yield opened
        await opened.settle()


class Cutter:
    """A step that has its own connection cut the first time it runs."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    async def __call__(self, connection: Connection) -> None:
        self.seen.append(await own_id(connection))
        if len(self.seen) == 1:
            await cut(self.seen[0])


async def test_a_unit_whose_connection_is_cut_is_repeated_whole(world: World) -> None:
    wish = task()
    await world.commit(wish)
    cutter, envelope = Cutter(), await world.send()
    work = world.receive(envelope)
    work.move(wish, expected="pending", to="extracted")
    work.step(cutter)
    work.add(comment())
    work.send(Say(text="answer"), after_s=60)
    assert await world.units.commit(work) is Commit.DONE
    assert len(cutter.seen) == 2
    assert await Comment.all().count() == 1
    assert [line.n for line in await lines_after(wish.id, 0)] == [1, 2]
    assert await world.outbox.depth() == 1
    assert await world.units.commit(world.receive(envelope)) is Commit.REPEATED


async def test_a_unit_whose_connection_is_cut_as_it_commits_is_stored_once(world: World) -> None:
    cutter, envelope = Cutter(), await world.send()
    work = world.receive(envelope)
    work.add(comment())
    work.step(cutter)
    assert await world.units.commit(work) is Commit.DONE
    assert await Comment.all().count() == 1


@pytest.mark.parametrize("is_stored", [True, False], ids=["stored", "not_stored"])
async def test_a_unit_whose_commit_was_not_answered_is_stored_once(
    world: World, monkeypatch: pytest.MonkeyPatch, is_stored: bool
) -> None:
    original, lost = Session.commit, 0

    async def commit(self: Session) -> None:
        nonlocal lost
        lost += 1
        monkeypatch.setattr(Session, "commit", original)
        if is_stored:
            await original(self)
        self.close()
        raise err.OperationalError(2013, "Lost connection to MySQL server during query")

    envelope = await world.send()
    work = world.receive(envelope)
    work.add(comment())
    work.send(Say(text="answer"), after_s=60)
    monkeypatch.setattr(Session, "commit", commit)
    with pytest.raises(EngineUnavailable):
        await world.units.commit(work)
    assert await world.units.commit(work) is (Commit.REPEATED if is_stored else Commit.DONE)
    assert lost == 1
    assert await Comment.all().count() == 1
    assert await world.outbox.depth() == 1


async def test_an_early_transaction_that_is_cut_stores_nothing_and_its_message_comes_again(
    world: World,
) -> None:
    envelope, cutter = await world.send(), Cutter()
    work = world.receive(envelope)
    async with work.transaction() as connection:
        await connection.execute("INSERT INTO language_usage (id, tokens, calls) VALUES ('x',1,1)")
    work.step(cutter)
    work.add(comment())
    with pytest.raises(EngineUnavailable):
        await world.units.commit(work)
    assert await Comment.all().count() == 0
    again = world.receive(envelope)
    again.add(comment())
    assert await world.units.commit(again) is Commit.DONE


async def test_units_that_wait_for_each_other_are_both_done(world: World) -> None:
    one, two = delivery(), delivery()
    await world.commit(one, two)
    both, runs = asyncio.Barrier(2), list[str]()

    def meeting(name: str) -> Callable[[Any], Any]:
        async def meet(_: Connection) -> None:
            runs.append(name)
            if runs.count(name) == 1:
                await both.wait()

        return meet

    async def commit(process: World, first: Delivery, second: Delivery) -> Commit:
        work = process.units.open("http")
        work.change(first, error=first.id)
        work.step(meeting(first.id))
        work.change(second, error=first.id)
        return await process.units.commit(work)

    async with asyncio.timeout(LIMIT_S):
        outcomes = await asyncio.gather(
            commit(world, one, two), commit(durable_process(world.sql), two, one)
        )
    assert set(outcomes) == {Commit.DONE}
    assert len(runs) >= 3
    for row in (one, two):
        assert (await Delivery.get(id=row.id)).version == 3


async def test_processes_that_change_the_same_rows_in_any_order_lose_nothing(
    world: World,
) -> None:
    wishes = [task() for _ in range(4)]
    await world.commit(*wishes)
    processes = [world, embedded_process(world.sql), durable_process(world.sql)]

    async def note(n: int) -> Commit:
        work = processes[n % 3].units.open("generator")
        for place in range(4):
            work.note(wishes[(n * 7 + place * (1 if n % 2 else 3)) % 4], "log", {"n": n})
        return await processes[n % 3].units.commit(work)

    outcomes = await asyncio.gather(*(note(n) for n in range(45)))
    assert outcomes == [Commit.DONE] * 45
    for wish in wishes:
        lines = await lines_after(wish.id, 0)
        assert [line.n for line in lines] == list(range(1, 47))
        assert (await Task.get(id=wish.id)).version == 46
    for process in processes:
        await process.settle()


async def test_a_lease_is_renewed_although_nothing_changes_by_it(world: World) -> None:
    mail = delivery()
    await world.commit(mail)
    token = await world.units.open("mailer").begin(
        mail, expected="pending", to="sending", lease_s=15.0
    )
    leases = Leases(world.sql.database)
    for _ in range(2):
        await leases.renew(mail, token)
