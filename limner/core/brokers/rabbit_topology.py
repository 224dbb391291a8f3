"""What Limner declares on RabbitMQ: three exchanges, a queue per actor, a queue for the dead.

Arguments of queues never change after a release, since a queue that exists with others cannot be
declared; what is tunable is a policy, which the operator sets.
"""

from collections.abc import Iterable

import aio_pika
from aio_pika.abc import AbstractChannel
from aiormq.exceptions import ChannelAccessRefused, ChannelNotFoundEntity, ChannelPreconditionFailed
from pamqp.common import FieldTable

from limner.core.errors import NotConfigured

COMMANDS = "limner.commands"
EVENTS = "limner.events"
DEAD = "limner.dead"
ALL = "#"
DELIVERY_LIMIT = 20
# The dead have no further queue to go to: beyond a limit (20 by default from RabbitMQ 4 on) they
# would be dropped, and quorum queues of RabbitMQ 3 know no word for "none".
NO_DELIVERY_LIMIT = 1_000_000_000
QUORUM: FieldTable = {"x-queue-type": "quorum"}
COMMAND_QUEUE: FieldTable = {
    **QUORUM,
    "x-delivery-limit": DELIVERY_LIMIT,
    "x-dead-letter-exchange": DEAD,
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
}
DEAD_QUEUE: FieldTable = {**QUORUM, "x-delivery-limit": NO_DELIVERY_LIMIT}
# A command that no queue takes is not lost but dead, whoever sent it.
COMMAND_EXCHANGE: FieldTable = {"alternate-exchange": DEAD}


def queue_name(actor: str) -> str:
    """Give the name of the queue with an actor's commands."""
    return f"limner.{actor}"


async def declare(channel: AbstractChannel, actors: Iterable[str]) -> None:
    """Declare everything; what is there already stays as it is.

    Raises:
        NotConfigured: something of the same name is there with other arguments, or may not be
            declared.
    """
    await _exchange(channel, DEAD)
    await _exchange(channel, COMMANDS, COMMAND_EXCHANGE)
    await _exchange(channel, EVENTS)
    await _queue(channel, DEAD, DEAD_QUEUE, DEAD, ALL)
    for actor in actors:
        await declare_queue(channel, actor)


async def declare_queue(channel: AbstractChannel, actor: str) -> None:
    """Declare the queue of one actor.

    Raises:
        NotConfigured: as ``declare``.
    """
    await _queue(channel, queue_name(actor), COMMAND_QUEUE, COMMANDS, f"{actor}.#")


async def ready_messages(channel: AbstractChannel, queue: str) -> int | None:
    """Give how many messages wait in a queue; None, and a closed channel, if there is none."""
    try:
        found = await channel.declare_queue(queue, passive=True)
    except ChannelNotFoundEntity:
        return None
    return found.declaration_result.message_count or 0


async def _exchange(
    channel: AbstractChannel, name: str, arguments: FieldTable | None = None
) -> None:
    try:
        await channel.declare_exchange(
            name, aio_pika.ExchangeType.TOPIC, durable=True, arguments=arguments
        )
    except (ChannelPreconditionFailed, ChannelAccessRefused) as error:
        raise NotConfigured(_sentence("exchange", name, error), code="broker_topology") from error


async def _queue(
    channel: AbstractChannel, name: str, arguments: FieldTable, exchange: str, key: str
) -> None:
    try:
        queue = await channel.declare_queue(name, durable=True, arguments=dict(arguments))
        await queue.bind(exchange, key)
    except (ChannelPreconditionFailed, ChannelAccessRefused) as error:
        raise NotConfigured(_sentence("queue", name, error), code="broker_topology") from error


def _sentence(kind: str, name: str, error: Exception) -> str:
    """Say which object is in the way and how to mend it."""
    if isinstance(error, ChannelAccessRefused):
        return (
            f"RabbitMQ does not let this user declare the {kind} {name}: {error}. Give it the "
            "permissions: rabbitmqctl set_permissions -p VHOST USER '^limner\\..*' "
            "'^limner\\..*' '^limner\\..*'"
        )
    mend = (
        f"rabbitmqctl delete_queue {name}, after its messages were handled or moved"
        if kind == "queue"
        else f"rabbitmqadmin delete exchange name={name}, or on the management page"
    )
    return (
        f"RabbitMQ has the {kind} {name} with other arguments than Limner's: {error}. "
        f"Delete it ({mend}) and start again: Limner declares it anew"
    )
