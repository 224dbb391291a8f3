"""The relay: what waits in the outbox reaches its queue when it is due."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from limner.actors.mailer.messages import Deliver
from limner.actors.ports import Ports
from limner.actors.relay.actor import build
from limner.core.clock import HeldClock
from limner.storage.sql import outbox
from tests.contracts.engines import eventually
from tests.fakes.ports import open_ports


@pytest.fixture
async def ports(tmp_path: Path, migrated_file: Path, clock: HeldClock) -> AsyncIterator[Ports]:
    async with open_ports(tmp_path, clock=clock, migrated=migrated_file) as opened:
        yield opened


async def test_a_delayed_message_is_published_when_it_is_due(
    ports: Ports, clock: HeldClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "TICK_S", 0.01)
    work = ports.units.open("test")
    work.send(Deliver(delivery_id="delivery_1"), after_s=60)
    await ports.units.commit(work)
    actor = build(ports)
    assert actor.handlers == {}
    (loop,) = actor.loops
    stop = asyncio.Event()
    running = asyncio.ensure_future(loop.run(stop))

    async def arrived() -> bool:
        return (await ports.broker.depth("mailer")).ready == 1

    clock.advance(59)
    assert await ports.outbox.relay_once() == 0
    assert not await arrived()
    clock.advance(1)
    await eventually(arrived)
    stop.set()
    async with asyncio.timeout(10):
        await running
