"""RabbitMQ beyond the port: its topology, and what happens when somebody meddles with it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import structlog
from pamqp import commands as spec

from limner.core import failpoints
from limner.core.broker import Broker, Outcome
from limner.core.brokers import rabbit
from limner.core.brokers.rabbit import KNOWN_S, RabbitBroker
from limner.core.clock import HeldClock, SystemClock
from limner.core.errors import EngineUnavailable, FailpointReached, NotConfigured
from limner.core.message import Envelope
from tests.contracts.engines import START, eventually
from tests.core.brokers.vhost import Vhost, coming, command, fresh_vhost, started
from tests.engines.server import free_port

pytestmark = pytest.mark.real


@pytest.fixture
async def vhost(request: pytest.FixtureRequest) -> AsyncIterator[Vhost]:
    async with fresh_vhost(request) as opened:
        yield opened


@pytest.fixture
async def broker(vhost: Vhost) -> AsyncIterator[RabbitBroker]:
    async with started(vhost.url, "echo", "other") as opened:
        yield opened


async def goes_through(broker: Broker) -> bool:
    """Whether a command gets into the queue ``echo``."""
    try:
        return await broker.publish([command()]) == [Outcome.CONFIRMED]
    except EngineUnavailable:
        return False


# Topology


async def test_the_topology_is_declared_as_producers_and_operators_know_it(
    vhost: Vhost, broker: RabbitBroker
) -> None:
    assert broker.durable
    exchanges = {one["name"]: one for one in await vhost.api("GET", "exchanges")}
    for name in ("limner.commands", "limner.events", "limner.dead"):
        assert (exchanges[name]["type"], exchanges[name]["durable"]) == ("topic", True)
    assert exchanges["limner.commands"]["arguments"] == {"alternate-exchange": "limner.dead"}
    queues = {one["name"]: one for one in await vhost.api("GET", "queues")}
    assert sorted(queues) == ["limner.dead", "limner.echo", "limner.other"]
    assert all(queue["durable"] for queue in queues.values())
    assert queues["limner.echo"]["arguments"] == {
        "x-queue-type": "quorum",
        "x-delivery-limit": 20,
        "x-dead-letter-exchange": "limner.dead",
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }
    assert queues["limner.dead"]["arguments"]["x-queue-type"] == "quorum"
    bindings = {
        (one["source"], one["routing_key"], one["destination"])
        for one in await vhost.api("GET", "bindings")
        if one["source"]
    }
    assert bindings == {
        ("limner.commands", "echo.#", "limner.echo"),
        ("limner.commands", "other.#", "limner.other"),
        ("limner.dead", "#", "limner.dead"),
    }


async def test_a_subscriber_has_a_bounded_queue_that_goes_with_it(
    vhost: Vhost, broker: RabbitBroker
) -> None:
    async def subscribers() -> list[dict[str, object]]:
        found = await vhost.api("GET", "queues")
        return [one for one in found if one["name"].startswith("limner.events.")]

    async with broker.subscribe():
        (queue,) = await subscribers()
        assert queue["arguments"] == {"x-max-length": 1000, "x-overflow": "drop-head"}
        assert (queue["exclusive"], queue["auto_delete"], queue["type"]) == (True, True, "classic")

    async def is_gone() -> bool:
        return await subscribers() == []

    await eventually(is_gone)


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("queues/{}/limner.echo", {"durable": True}, "queue limner.echo"),
        ("queues/{}/limner.dead", {"durable": True}, "queue limner.dead"),
        ("exchanges/{}/limner.commands", {"type": "topic"}, "exchange limner.commands"),
        ("exchanges/{}/limner.events", {"type": "fanout"}, "exchange limner.events"),
    ],
)
async def test_what_is_there_with_other_arguments_is_named_with_its_mend(
    vhost: Vhost, path: str, body: dict[str, object], named: str
) -> None:
    kind, _, name = path.split("/")
    await vhost.api("PUT", f"{kind}/{name}", body)
    broker = RabbitBroker(vhost.url, SystemClock())
    with pytest.raises(NotConfigured, match=named) as caught:
        await broker.start(["echo"])
    assert "Delete it (rabbitmq" in caught.value.detail
    await vhost.api("DELETE", f"{kind}/{name}")
    await broker.start(["echo"])
    await broker.aclose()


async def test_who_only_looks_declares_nothing(vhost: Vhost) -> None:
    broker = RabbitBroker(vhost.url, SystemClock())
    await broker.check()
    assert (await broker.depth("echo")).ready == 0
    assert await broker.publish([command()]) == [Outcome.UNROUTABLE]
    await broker.aclose()
    names = {one["name"] for one in await vhost.api("GET", "exchanges")}
    assert not {name for name in names if name.startswith("limner.")}
    assert await vhost.api("GET", "queues") == []


async def test_a_user_without_permission_is_told_which_one(vhost: Vhost) -> None:
    server, address = vhost.server, urlsplit(vhost.url)
    name = f"user-{address.path[1:]}"
    limited = {"configure": "^$", "write": ".*", "read": ".*"}

    def make_user() -> None:
        server.api("PUT", f"/users/{name}", {"password": "pw", "tags": ""})
        server.api("PUT", f"/permissions{address.path}/{name}", limited)

    await asyncio.to_thread(make_user)
    broker = RabbitBroker(
        f"amqp://{name}:pw@{address.hostname}:{address.port}{address.path}", SystemClock()
    )
    with pytest.raises(NotConfigured, match="rabbitmqctl set_permissions"):
        await broker.start([])
    await broker.aclose()
    await asyncio.to_thread(server.api, "DELETE", f"/users/{name}")


# Out of reach


@pytest.mark.parametrize(
    ("user", "path", "sentence"),
    [
        ("guest:wrong", "", "refuses the user name or password"),
        ("guest:guest", "/nowhere", "refuses the virtual host"),
    ],
)
async def test_who_is_not_let_in_is_told_why_and_no_password_is_told(
    vhost: Vhost, user: str, path: str, sentence: str
) -> None:
    address = urlsplit(vhost.url)
    path = path or address.path
    broker = RabbitBroker(f"amqp://{user}@{address.hostname}:{address.port}{path}", SystemClock())
    with pytest.raises(EngineUnavailable, match=sentence) as caught:
        await broker.start([])
    assert "wrong" not in caught.value.detail
    await broker.aclose()


async def test_a_broker_that_is_not_there_is_unavailable_for_everything() -> None:
    broker = RabbitBroker(f"amqp://guest:guest@127.0.0.1:{free_port()}/", SystemClock())

    async def consumed() -> None:
        async with broker.consume("echo", 1):
            pytest.fail("nobody is there")

    async def subscribed() -> None:
        async with broker.subscribe():
            pytest.fail("nobody is there")

    for attempt in (
        broker.start(["echo"]),
        broker.publish([command()]),
        broker.depth("echo"),
        broker.check(),
        consumed(),
        subscribed(),
    ):
        with pytest.raises(EngineUnavailable):
            await attempt
    await broker.aclose()


async def test_a_broker_that_was_closed_opens_no_connection_again(broker: RabbitBroker) -> None:
    await broker.aclose()
    with pytest.raises(EngineUnavailable, match="closed by this process"):
        await broker.check()


async def test_a_lost_connection_is_told_to_all_and_opened_again_by_the_next(
    vhost: Vhost, broker: RabbitBroker
) -> None:
    await broker.publish([command(1), command(2)])
    async with broker.subscribe() as events, broker.consume("echo", 1) as deliveries:
        held = await coming(deliveries)
        waiting = [asyncio.ensure_future(anext(events)), asyncio.ensure_future(anext(deliveries))]
        await asyncio.sleep(0)
        for link in (broker._consuming, broker._publishing):
            assert link._opened is not None
            link._opened.wire.abort()
        for one in waiting:
            with pytest.raises(EngineUnavailable):
                await asyncio.wait_for(one, 10)
        await held.ack()
        await held.release()
        with pytest.raises(EngineUnavailable):
            await anext(deliveries)
    await eventually(lambda: goes_through(broker))
    async with broker.consume("echo", 5) as deliveries:
        bodies = {(await coming(deliveries)).envelope.body for _ in range(3)}
    assert bodies == {b'{"text": "0"}', b'{"text": "1"}', b'{"text": "2"}'}


async def test_what_is_in_flight_when_the_connection_is_lost_is_not_called_confirmed(
    broker: RabbitBroker,
) -> None:
    publishing = asyncio.ensure_future(broker.publish([command(n) for n in range(3000)]))
    await asyncio.sleep(0)
    assert broker._publishing._opened is not None

    async def is_under_way() -> bool:
        return broker._publisher is not None and bool(broker._publisher._unconfirmed)

    await eventually(is_under_way)
    assert not publishing.done()
    broker._publishing._opened.wire.abort()
    with pytest.raises(EngineUnavailable):
        await publishing
    assert broker._publisher is not None
    assert not broker._publisher._unconfirmed
    await eventually(lambda: goes_through(broker))


async def test_while_the_broker_blocks_publishers_nothing_is_sent_and_the_connection_stays(
    broker: RabbitBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await goes_through(broker)
    monkeypatch.setattr(rabbit, "PUBLISH_LIMIT_S", 0.1)
    opened = broker._publishing._opened
    assert opened is not None
    heard: Any = opened.underlying  # the broker's word, without filling its memory
    await heard._Connection__handle_connection_blocked(spec.Connection.Blocked("low on memory"))
    for _ in range(2):
        with pytest.raises(EngineUnavailable, match="no confirm in time"):
            await broker.publish([command(1)])
    assert broker._publishing._opened is opened
    await heard._Connection__handle_connection_unblocked(spec.Connection.Unblocked())
    assert await goes_through(broker)
    async with broker.consume("echo", 5) as deliveries:
        got = [(await coming(deliveries)).envelope.body for _ in range(2)]
    assert got == [b'{"text": "0"}'] * 2


async def test_a_bug_in_the_taking_of_messages_is_logged_and_ends_the_consumer(
    broker: RabbitBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Envelope:
        raise ZeroDivisionError

    await broker.publish([command()])
    with monkeypatch.context() as patched:
        patched.setattr(rabbit, "envelope_of", fail)
        with structlog.testing.capture_logs() as logs:
            async with broker.consume("echo", 1) as deliveries:
                with pytest.raises(EngineUnavailable, match="a bug"):
                    await coming(deliveries)
    assert [line["event"] for line in logs] == ["a lane failed"]
    async with broker.consume("echo", 1) as deliveries:
        await (await coming(deliveries)).ack()


# Meddling


async def test_a_queue_that_was_deleted_under_its_consumer_is_declared_again(
    vhost: Vhost, broker: RabbitBroker
) -> None:
    async with broker.consume("echo", 1) as deliveries:
        await vhost.api("DELETE", "queues/limner.echo")
        with pytest.raises(EngineUnavailable, match="deleted"):
            await coming(deliveries)
    sent = command()
    assert await broker.publish([sent]) == [Outcome.CONFIRMED]
    async with broker.consume("echo", 1) as deliveries:
        assert (await coming(deliveries)).envelope.message_id == sent.message_id


async def test_a_consumer_declares_its_queue_if_it_was_deleted_before(
    vhost: Vhost, broker: RabbitBroker
) -> None:
    await vhost.api("DELETE", "queues/limner.echo")
    async with broker.consume("echo", 1) as deliveries:
        assert await broker.publish([command()]) == [Outcome.CONFIRMED]
        await (await coming(deliveries)).ack()


async def test_a_command_whose_queue_was_deleted_unnoticed_is_dead_and_not_lost(
    vhost: Vhost, broker: RabbitBroker
) -> None:
    await vhost.api("DELETE", "queues/limner.echo")
    sent = command()
    assert await broker.publish([sent]) == [Outcome.CONFIRMED]
    async with broker.dead() as dead:
        got = (await coming(dead)).envelope
    assert got.message_id == sent.message_id
    assert got.fault == ("unroutable", "no queue takes 'echo.say'")


async def test_where_even_the_queue_of_the_dead_was_deleted_a_command_is_unroutable(
    vhost: Vhost, broker: RabbitBroker
) -> None:
    for name in ("limner.echo", "limner.dead"):
        await vhost.api("DELETE", f"queues/{name}")
    sent = command(1)
    outcomes = await broker.publish([sent, sent, command(2, "other.do")])
    assert outcomes == [Outcome.UNROUTABLE, Outcome.UNROUTABLE, Outcome.CONFIRMED]


async def test_an_exchange_that_was_deleted_is_declared_again(
    vhost: Vhost, broker: RabbitBroker
) -> None:
    assert await goes_through(broker)
    await vhost.api("DELETE", "exchanges/limner.commands")
    with pytest.raises(EngineUnavailable):
        await broker.publish([command()])
    await broker.start(["echo", "other"])
    assert await goes_through(broker)


async def test_the_queues_of_other_processes_are_found_and_remembered_for_a_while(
    vhost: Vhost,
) -> None:
    clock = HeldClock(START)
    async with started(vhost.url, "echo", clock=clock) as broker:
        late = command(0, "late.do")
        assert await broker.publish([late]) == [Outcome.UNROUTABLE]
        async with started(vhost.url, "late"):
            assert await broker.publish([late]) == [Outcome.CONFIRMED]
        await vhost.api("DELETE", "queues/limner.late")
        assert await broker.publish([late]) == [Outcome.CONFIRMED]
        clock.advance(KNOWN_S)
        assert await broker.publish([late]) == [Outcome.UNROUTABLE]


async def test_no_endless_number_of_queues_is_remembered(
    vhost: Vhost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rabbit, "KNOWN_LIMIT", 2)
    async with started(vhost.url, "a", "b", "c"), started(vhost.url) as broker:
        for topic in ("a.do", "b.do", "c.do"):
            assert await broker.publish([command(0, topic)]) == [Outcome.CONFIRMED]
        assert set(broker._known) == {"c"}


async def test_depth_of_an_actor_without_a_queue_is_nothing(broker: RabbitBroker) -> None:
    depth = await broker.depth("nobody")
    assert (depth.ready, depth.in_hand) == (0, 0)


@pytest.mark.parametrize("point", ["broker.publish.before", "broker.publish.after"])
async def test_the_failpoints_of_publishing_are_passed(broker: RabbitBroker, point: str) -> None:
    failpoints.arm(f"{point}:1:raise")
    with pytest.raises(FailpointReached):
        await broker.publish([command()])


async def test_what_amqp_cannot_carry_holds_up_nothing_else(broker: RabbitBroker) -> None:
    outcomes = await broker.publish([command(1), command(2, app_id="x" * 300), command(3)])
    assert outcomes == [Outcome.CONFIRMED, Outcome.UNROUTABLE, Outcome.CONFIRMED]
