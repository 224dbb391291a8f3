"""What a unit of work keeps to when the answer to its COMMIT is lost: stored once, or not at all.

On either database the transaction is run, or not, and its caller hears nothing of it; what cuts a
real connection stands in ``tests/storage/sql/test_mysql_units.py``.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from limner.core.errors import EngineUnavailable, Stale
from limner.core.unit import Commit
from limner.storage.sql.comments import Comment
from limner.storage.sql.database import Database
from limner.storage.sql.deliveries import Delivery
from limner.storage.sql.faults import CommitUnsure
from limner.storage.sql.messaging import OutboxRow
from tests.contracts.engines import START
from tests.contracts.units import Say, World, comment, delivery

LEASE_S = 15.0

either_way = pytest.mark.parametrize("is_stored", [True, False], ids=["stored", "not_stored"])


@pytest.fixture
def lose_answers(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give what makes the next ``times`` transactions end without an answer."""

    def lose(*, is_stored: bool, times: int = 1) -> None:
        left = [is_stored] * times

        def losing(whole: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
            async def run(*args: Any) -> Any:
                if not left:
                    return await whole(*args)
                if left.pop():
                    await whole(*args)
                raise CommitUnsure("the line went dead")

            return run

        for name in ("_run_once", "run_batch"):
            monkeypatch.setattr(Database, name, losing(getattr(Database, name)))

    return lose


@either_way
async def test_a_request_hears_done_and_is_stored_once(
    world: World, lose_answers: Callable[..., None], is_stored: bool
) -> None:
    work = world.units.open("http")
    work.add(comment())
    work.send(Say())
    lose_answers(is_stored=is_stored)
    assert await world.units.commit(work) is Commit.DONE
    assert await Comment.all().count() == 1
    assert await OutboxRow.all().count() == 1


@either_way
async def test_a_message_is_handled_once_when_its_unit_is_committed_again(
    any_world: World, lose_answers: Callable[..., None], is_stored: bool
) -> None:
    envelope = await any_world.send()
    work = any_world.receive(envelope)
    work.add(comment())
    work.send(Say(text="answer"))
    lose_answers(is_stored=is_stored)
    with pytest.raises(EngineUnavailable):
        await any_world.units.commit(work)
    assert await any_world.units.commit(work) is (Commit.REPEATED if is_stored else Commit.DONE)
    await any_world.settle()
    assert await Comment.all().count() == 1
    again = any_world.receive(envelope)
    again.add(comment())
    assert await any_world.units.commit(again) is Commit.REPEATED
    assert await Comment.all().count() == 1


@either_way
async def test_units_of_one_group_are_each_stored_once(
    any_world: World, lose_answers: Callable[..., None], is_stored: bool
) -> None:
    async def commit(n: int) -> Commit:
        work = any_world.units.open("http")
        work.add(comment(external_id=str(n)))
        return await any_world.units.commit(work)

    lose_answers(is_stored=is_stored)
    outcomes = await asyncio.gather(*(commit(n) for n in range(12)))
    assert outcomes == [Commit.DONE] * 12
    stored = await Comment.all().values_list("external_id", flat=True)
    assert sorted(int(str(n)) for n in stored) == list(range(12))


@either_way
async def test_a_beginning_is_found_again_and_begins_once(
    world: World, lose_answers: Callable[..., None], is_stored: bool
) -> None:
    mail = delivery()
    await world.commit(mail)
    lose_answers(is_stored=is_stored)
    work = world.units.open("mailer")
    token = await work.begin(mail, expected="pending", to="sending", lease_s=LEASE_S)
    stored = await Delivery.get(id=mail.id)
    assert (token, stored.token, stored.version, stored.state) == (1, 1, 2, "sending")
    assert stored.lease_until == START + timedelta(seconds=LEASE_S)
    work.move(mail, expected="sending", to="sent", token=token)
    assert await world.units.commit(work) is Commit.DONE


@pytest.mark.parametrize(
    ("away", "lease_s"), [(2, LEASE_S), (9, 0.1)], ids=["for a moment", "for longer than the lease"]
)
async def test_a_beginning_is_looked_for_until_its_lease_would_end(
    world: World,
    lose_answers: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    away: int,
    lease_s: float,
) -> None:
    mail, read, looks = delivery(), Database.read, 0
    await world.commit(mail)

    def look(self: Database) -> Any:
        nonlocal looks
        looks += 1
        if looks <= away:
            raise EngineUnavailable("it is starting")
        return read(self)

    lose_answers(is_stored=True)
    monkeypatch.setattr("limner.storage.sql.beginnings.LOOK_S", 0.05)
    monkeypatch.setattr(Database, "read", look)
    work = world.units.open("mailer")
    beginning = work.begin(mail, expected="pending", to="sending", lease_s=lease_s)
    if lease_s == LEASE_S:
        assert await beginning == 1
        assert looks == away + 1
        return
    with pytest.raises(EngineUnavailable, match="starting"):
        await beginning


async def test_a_beginning_of_another_worker_is_not_taken_for_ones_own(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    mail, run_once = delivery(), Database._run_once
    await world.commit(mail)

    async def lose(self: Database, work: Callable[[Any], Awaitable[Any]]) -> Any:
        """Undo the transaction, and let another worker begin a moment later."""

        async def fail(connection: Any) -> None:
            await work(connection)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await run_once(self, fail)
        monkeypatch.setattr(Database, "_run_once", run_once)
        world.sql.clock.advance(0.001)
        other = world.units.open("mailer")
        taken = await other.begin(
            delivery(id=mail.id), expected="pending", to="sending", lease_s=LEASE_S
        )
        assert taken == 1
        raise CommitUnsure("the line went dead")

    monkeypatch.setattr(Database, "_run_once", lose)
    with pytest.raises(Stale):
        await world.units.open("mailer").begin(
            mail, expected="pending", to="sending", lease_s=LEASE_S
        )
    assert (await Delivery.get(id=mail.id)).token == 1
