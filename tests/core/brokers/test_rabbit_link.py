"""What the driver says and does not say becomes one error, and no cancellation is lost."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import aiormq.abc
import pytest
from aiormq.exceptions import AMQPConnectionError, ChannelInvalidStateError
from pamqp import commands as spec

from limner.core.brokers.rabbit_lane import CHANNEL_LIMIT, Lane
from limner.core.brokers.rabbit_link import HEARTBEAT_S, Link, close_lane, translated
from limner.core.brokers.rabbit_wire import Wire
from limner.core.errors import EngineUnavailable, NotConfigured
from tests.contracts.engines import eventually
from tests.core.brokers.vhost import LIMIT_S, Vhost, Written, fresh_vhost


@pytest.fixture
async def vhost(request: pytest.FixtureRequest) -> AsyncIterator[Vhost]:
    async with fresh_vhost(request) as opened:
        yield opened


@pytest.fixture
async def link(vhost: Vhost) -> AsyncIterator[Link]:
    opened = Link(vhost.url, "test", nothing)
    yield opened
    await opened.aclose()


async def nothing(_: Any) -> None:
    """Declare nothing."""


@pytest.mark.parametrize(
    "error",
    [
        AMQPConnectionError("gone"),
        ChannelInvalidStateError("closed"),
        ConnectionResetError(104, "reset by peer"),
        RuntimeError("closed"),
        TimeoutError(),
        asyncio.CancelledError(),
    ],
    ids=repr,
)
async def test_whatever_the_driver_raises_is_an_engine_out_of_reach(error: BaseException) -> None:
    with pytest.raises(EngineUnavailable, match="broker: asking"), translated("asking"):
        raise error


@pytest.mark.parametrize("error", [KeyError("bug"), NotConfigured("ours"), EngineUnavailable("x")])
async def test_what_is_not_the_drivers_passes_as_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, translated("asking"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize("answer", [None, ValueError("odd"), AMQPConnectionError("gone")], ids=repr)
async def test_a_cancellation_that_the_driver_swallowed_is_made_up_for(
    answer: Exception | None,
) -> None:
    began = asyncio.Event()

    async def swallowing() -> None:
        with translated("asking"):
            try:
                began.set()
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if answer is not None:
                    raise answer from None

    task = asyncio.create_task(swallowing())
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, LIMIT_S)


async def test_a_time_limit_of_the_caller_stays_a_time_limit() -> None:
    async def asking() -> None:
        with translated("asking"):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await asking()


def test_the_heartbeat_is_ours_unless_the_url_says_otherwise() -> None:
    async def links() -> list[str]:
        urls = ("amqp://host/v", "amqp://host/v?heartbeat=3")
        return [str(Link(url, "test", nothing)._url.query["heartbeat"]) for url in urls]

    assert asyncio.run(links()) == [str(HEARTBEAT_S), "3"]


async def test_a_connection_has_no_endless_number_of_channels() -> None:
    full: Any = SimpleNamespace(channels=dict.fromkeys(range(1, CHANNEL_LIMIT + 1)))
    with pytest.raises(RuntimeError, match="all 2047 channels"):
        Lane(cast("aiormq.abc.AbstractConnection", full), Wire())


@pytest.mark.real
async def test_those_who_need_the_connection_at_once_share_one(link: Link) -> None:
    opened = await asyncio.gather(*(link.opened() for _ in range(5)))
    assert len({id(one) for one in opened}) == 1


@pytest.mark.real
async def test_the_numbers_of_closed_lanes_are_used_again_and_their_messages_told_apart(
    link: Link,
) -> None:
    numbers = set()
    for _ in range(5):
        lane = await link.lane()
        numbers.add(lane.number)
        await lane.close()
        told: list[str] = []
        lane.watch(told.append)
        assert told == ["the connection is closed"]
        lane.write(b"never sent")
    assert len(numbers) <= 2
    assert len((await link.opened()).wire.headers) == len(numbers)
    assert await link.ask(alive)


async def alive(channel: Any) -> bool:
    await channel.set_qos(prefetch_count=0)
    return True


@pytest.mark.real
async def test_messages_that_were_on_their_way_to_a_closed_lane_end_no_connection(
    link: Link, vhost: Vhost
) -> None:
    await link.ask(with_queue)
    ahead = [Written(exchange="", routing_key="many", body=b"x" * 100) for _ in range(500)]
    await vhost.write(*ahead)
    opened = await link.opened()
    for pauses in range(24):
        lane = await link.lane()
        beginning = asyncio.ensure_future(lane.rpc(spec.Basic.Consume(queue="many")))
        for _ in range(pauses):
            await asyncio.sleep(0)
        # The driver forgets a channel at once whose question was given up.
        beginning.cancel()
        await asyncio.wait({beginning})
        await link.finish(close_lane(lane))
        assert await link.ask(alive)
    assert await link.opened() is opened


async def with_queue(channel: Any) -> None:
    await channel.declare_queue("many")


@pytest.mark.real
async def test_a_lane_that_does_not_open_leaves_nothing_behind(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    channels = (await link.opened()).underlying.channels
    before = dict(channels)

    opening = Lane.open

    async def fail(lane: Lane, timeout: float) -> None:
        await opening(lane, timeout)
        raise AMQPConnectionError("gone")

    with monkeypatch.context() as patched:
        patched.setattr(Lane, "open", fail)
        with pytest.raises(EngineUnavailable):
            await link.lane()

    async def is_gone() -> bool:
        return channels == before

    await (await link.lane()).close()
    await eventually(is_gone)


@pytest.mark.real
async def test_a_channel_on_which_a_question_failed_is_not_asked_again(link: Link) -> None:
    channels: list[Any] = []

    async def fail(channel: Any) -> None:
        channels.append(channel)
        raise KeyError

    for _ in range(2):
        with pytest.raises(KeyError):
            await link.ask(fail)
    assert channels[0] is not channels[1]

    async def are_closed() -> bool:
        return all(channel.is_closed for channel in channels)

    await eventually(are_closed)


@pytest.mark.real
async def test_closing_waits_for_what_is_being_ended(link: Link) -> None:
    await link.opened()
    gate, ended = asyncio.Event(), asyncio.Event()

    async def ending() -> None:
        await gate.wait()
        ended.set()

    caller = asyncio.create_task(link.finish(ending()))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.wait({caller})
    closing = asyncio.create_task(link.aclose())
    await asyncio.sleep(0)
    gate.set()
    await asyncio.wait_for(closing, LIMIT_S)
    assert ended.is_set()
    await link.drop_if_silent()
