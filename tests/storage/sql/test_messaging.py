"""Dead letters in a person's hand: tried again or let go, once."""

from typing import Any

import pytest

from limner.core.unit import Commit
from limner.storage.sql.audit import AuditLine
from limner.storage.sql.messaging import DeadLetter, settle_dead_letter
from tests.contracts.units import Say, World


async def buried(world: World) -> DeadLetter:
    work = world.receive(await world.send("bury me"))
    work.bury("refused", "no such mailbox")
    assert await world.units.commit(work) is Commit.DONE
    return await DeadLetter.get()


async def settle(world: World, letter: DeadLetter, *, again: bool) -> tuple[Commit, Any]:
    work = world.units.open("http")
    work.actor_id = "user_1"
    settle_dead_letter(work, letter, again=again)
    return await world.units.commit(work), work


async def test_a_letter_tried_again_goes_out_as_a_new_message(world: World) -> None:
    letter = await buried(world)
    outcome, work = await settle(world, letter, again=True)
    assert outcome is Commit.DONE
    (envelope,) = (envelope for envelope, _ in work.commands)
    assert (envelope.topic, envelope.body) == ("echo.say", Say(text="bury me").to_bytes())
    assert (envelope.attempt, envelope.trace_id) == (1, letter.trace_id)
    assert envelope.message_id != letter.message_id
    assert await world.units.commit(world.receive(envelope)) is Commit.DONE
    stored = await DeadLetter.get()
    assert (stored.state, stored.settled_at) == ("retried", world.sql.clock.now())
    line = await AuditLine.get()
    assert (line.event, line.subject, line.actor) == ("dead_letter.retried", letter.id, "user_1")


async def test_a_letter_let_go_sends_nothing(world: World) -> None:
    letter = await buried(world)
    outcome, work = await settle(world, letter, again=False)
    assert (outcome, work.commands) == (Commit.DONE, [])
    assert (await DeadLetter.get()).state == "discarded"


@pytest.mark.parametrize("again", [True, False])
async def test_a_letter_is_settled_once(world: World, again: bool) -> None:
    letter = await buried(world)
    assert (await settle(world, letter, again=False))[0] is Commit.DONE
    assert (await settle(world, letter, again=again))[0] is Commit.STALE
    assert await world.outbox.depth() == 0
    assert await AuditLine.all().count() == 1
