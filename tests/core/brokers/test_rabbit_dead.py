"""What kills its consumers comes again once, as a new attempt, and is then a row."""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from limner.actors.sweeper.drain import PUT_BACK_S, Drain
from limner.core.broker import DELIVERY_LIMIT
from limner.core.brokers.rabbit_topology import DEAD, ready_messages
from limner.core.brokers.rabbit_topology import DELIVERY_LIMIT as DELIVERIES
from limner.core.clock import HeldClock
from limner.storage.sql.messaging import InboxRow, OutboxRow
from tests.contracts.engines import START, eventually
from tests.core.brokers.service import Service, open_service
from tests.core.brokers.vhost import Vhost, Written, coming, fresh_vhost

pytestmark = pytest.mark.real


@pytest.fixture
async def vhost(request: pytest.FixtureRequest) -> AsyncIterator[Vhost]:
    async with fresh_vhost(request) as opened:
        yield opened


@pytest.fixture
async def service(vhost: Vhost, tmp_path: Path, migrated_file: Path) -> AsyncIterator[Service]:
    clock = HeldClock(START)
    async with open_service(vhost, tmp_path, migrated_file, clock) as opened:
        yield opened


async def give_up(service: Service, attempt: int) -> None:
    """Take and return a message as often as the broker allows; then wait for it to be dead."""
    async with service.broker.consume("echo", 1) as deliveries:
        for _ in range(DELIVERIES + 1):
            delivery = await coming(deliveries)
            assert delivery.envelope.attempt == attempt
            await delivery.release()

    async def is_dead() -> bool:
        ask = service.broker._publishing.ask
        return await ask(partial(ready_messages, queue=DEAD)) == 1

    await eventually(is_dead)


async def settle(service: Service) -> None:
    """Have the drain take one message."""
    async with service.broker.dead() as dead:
        delivery = await coming(dead)
        await Drain(service.ports).settle(delivery.envelope)
        await delivery.ack()


async def pass_time(service: Service, seconds: float) -> None:
    clock = service.ports.clock
    assert isinstance(clock, HeldClock)
    clock.advance(seconds)
    await service.ports.outbox.relay_once()


async def test_a_message_that_is_given_up_comes_again_once_and_is_then_a_dead_letter(
    service: Service,
) -> None:
    sent = Written(b'{"text": "boom"}', properties={"message_id": "m1", "app_id": "shop"})
    await service.vhost.write(sent)
    await give_up(service, attempt=1)
    await settle(service)
    (row,) = await OutboxRow.all()
    assert (row.message_id, row.app_id, row.topic) == ("m1", "shop", "echo.say")
    assert (row.attempt, bytes(row.body)) == (2, sent.body)
    assert await service.letters() == []
    await pass_time(service, PUT_BACK_S - 1)
    assert await OutboxRow.all().count() == 1
    await pass_time(service, 1)
    await give_up(service, attempt=2)
    await settle(service)
    (letter,) = await service.letters()
    assert (letter.consumer, letter.reason, letter.attempt) == ("echo", DELIVERY_LIMIT, 2)
    assert (letter.message_id, bytes(letter.body)) == ("m1", sent.body)
    assert "limner.echo" in letter.detail
    assert await OutboxRow.all().count() == 0


async def test_what_is_put_back_is_handled_as_if_nothing_had_happened(service: Service) -> None:
    await service.vhost.write(Written(properties={"message_id": "m1"}))
    await give_up(service, attempt=1)
    async with service.running():

        async def is_put_back() -> bool:
            return await OutboxRow.all().count() == 1

        await eventually(is_put_back)
        await pass_time(service, PUT_BACK_S)
        await service.settled(heard=1, letters=0)
    assert [one.text for one in service.echo.heard] == ["hi"]
    assert await service.letters() == []
    assert await InboxRow.filter(consumer="echo").count() == 2
