"""A message that came with a fault is buried before anybody looks for its handler."""

from dataclasses import replace

import pytest

from limner.core.brokers.embedded import EmbeddedBroker
from limner.core.clock import HeldClock
from limner.core.message import Envelope
from limner.core.metrics import Metrics
from limner.storage.sql.messaging import DeadLetter
from limner.storage.sql.outbox import Outbox
from limner.storage.sql.unit import SqlUnits
from tests.fakes.actors import Echo, Stage


@pytest.fixture
async def stage(
    broker: EmbeddedBroker, units: SqlUnits, outbox: Outbox, clock: HeldClock, metrics: Metrics
) -> Stage:
    await broker.start(["echo"])
    return Stage(broker, units, outbox, clock, metrics)


async def test_a_fault_becomes_the_dead_letters_reason_and_no_handler_is_called(
    stage: Stage,
) -> None:
    echo = Echo()
    sound = Envelope("m1", "echo.say", b'{"text": "hi"}', app_id="shop")
    faulty = replace(sound, fault=("invalid_header", "the header attempt is 7.5"))
    await stage.loop(echo).settle(faulty)
    (letter,) = await DeadLetter.all()
    assert (letter.reason, letter.detail) == ("invalid_header", "the header attempt is 7.5")
    assert (letter.consumer, letter.message_id) == ("echo", "m1")
    assert bytes(letter.body) == sound.body
    assert echo.heard == []
    assert stage.counted() == {"dead": 1.0}


async def test_a_fault_of_a_message_nobody_takes_is_its_reason_too(stage: Stage) -> None:
    faulty = Envelope("m1", "x" * 200, b"\xff", app_id="", fault=("no_message_id", "none"))
    await stage.loop(Echo()).settle(faulty)
    (letter,) = await DeadLetter.all()
    assert (letter.reason, letter.topic) == ("no_message_id", "x" * 64)
