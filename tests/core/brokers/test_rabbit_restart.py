"""kill -9 of the broker: what was confirmed is there when it comes back."""

import asyncio
import signal
from collections.abc import Iterator

import pytest

from limner.core.broker import Outcome
from limner.core.brokers import rabbit, rabbit_link
from limner.core.clock import SystemClock
from limner.core.errors import EngineUnavailable
from limner.core.ids import uuid7
from limner.core.message import Envelope
from tests.contracts.engines import eventually, prepare
from tests.core.brokers.vhost import RABBITMQ, coming, command, started
from tests.engines.rabbitmq import RabbitServer

pytestmark = [pytest.mark.real, pytest.mark.timeout(150)]

MESSAGES = 300
RESTART_LIMIT_S = 60.0


@pytest.fixture(scope="module")
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RabbitServer]:
    """Give a RabbitMQ that nobody else uses, so that it may be killed."""
    prepare(RABBITMQ, request)
    with RabbitServer(tmp_path_factory.mktemp("private") / "rabbit") as running:
        yield running


def names_are_on_disk(server: RabbitServer) -> bool:
    """Whether the broker knows its queues again after kill -9.

    RabbitMQ 3.10 writes the names of new quorum queues late; one that is not there finds no
    leader ever again.
    """
    (folder,) = server.folder.glob("mnesia/*/quorum/*/")
    tables = [(folder / name).read_bytes() for name in ("names.dets", "meta.dets")]
    queues = [config.parent.name.encode() for config in folder.glob("*/config")]
    return all(queue in table for queue in queues for table in tables)


async def test_a_broker_that_falls_silent_is_unavailable_within_the_limit(
    server: RabbitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = await asyncio.to_thread(server.fresh_vhost)
    async with started(url, "echo", clock=SystemClock()) as broker:
        assert await broker.publish([command()]) == [Outcome.CONFIRMED]
        for module, limit in (
            (rabbit, "PUBLISH_LIMIT_S"),
            (rabbit, "CHECK_LIMIT_S"),
            (rabbit_link, "CONNECT_LIMIT_S"),
            (rabbit_link, "CLOSE_LIMIT_S"),
        ):
            monkeypatch.setattr(module, limit, 0.3)

        async def goes_through() -> bool:
            try:
                return await broker.publish([command(7)]) == [Outcome.CONFIRMED]
            except EngineUnavailable:
                return False

        async def is_silent() -> bool:
            return not await goes_through()

        server.signal(signal.SIGSTOP)
        try:
            await eventually(is_silent, 5)
            with pytest.raises(EngineUnavailable):
                await asyncio.wait_for(broker.check(), 5)
        finally:
            server.signal(signal.SIGCONT)
        monkeypatch.undo()
        await eventually(goes_through)


async def test_what_was_confirmed_survives_the_broker_and_everything_begins_again(
    server: RabbitServer,
) -> None:
    url = await asyncio.to_thread(server.fresh_vhost)
    async with started(url, "echo", clock=SystemClock()) as broker:
        sent = [command(n, sent_at=SystemClock().now()) for n in range(MESSAGES)]
        assert await broker.publish(sent) == [Outcome.CONFIRMED] * MESSAGES

        async def is_on_disk() -> bool:
            return await asyncio.to_thread(names_are_on_disk, server)

        await eventually(is_on_disk)
        async with broker.subscribe() as events, broker.consume("echo", 10) as deliveries:
            held = [await coming(deliveries) for _ in range(10)]
            await asyncio.to_thread(server.kill)
            for ended in (events, deliveries):
                with pytest.raises(EngineUnavailable):
                    await asyncio.wait_for(anext(ended), 10)
            for one in held:
                await one.ack()
        for attempt in (broker.publish([command()]), broker.check()):
            with pytest.raises(EngineUnavailable):
                await attempt
        await asyncio.to_thread(server.start)

        refusals: list[str] = []

        async def answers() -> bool:
            try:
                await broker.check()
                ident = uuid7().hex
                late = Envelope(ident, "echo.late", b"{}", outbox_id=ident)
                return await broker.publish([late]) == [Outcome.CONFIRMED]
            except EngineUnavailable as error:
                refusals.append(error.detail)
                return False

        try:
            await eventually(answers, RESTART_LIMIT_S)
        except TimeoutError:
            pytest.fail(f"the broker came back, and yet: {refusals[-1]}\n{server.log_tail()}")
        got: set[str] = set()
        async with broker.consume("echo", 50) as deliveries:
            while not got.issuperset(one.message_id for one in sent):
                delivery = await coming(deliveries)
                got.add(delivery.envelope.message_id)
                await delivery.ack()
        async with broker.subscribe() as events:
            event = command(0, "task.failed", kind="event")
            await broker.publish([event])
            assert (await asyncio.wait_for(anext(events), 10)).message_id == event.message_id
