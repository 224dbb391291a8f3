"""The ceiling on servers: aio-pika and aiomysql as everyone writes them, and nothing else.

One durable quorum queue, 100 messages in hand, each acknowledged on its own; a stage of a chain is
one UPDATE on a pool of 20 connections and the next message, published with a confirm.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import aio_pika
from aio_pika.abc import AbstractIncomingMessage, AbstractRobustConnection

from benchmarks import memory
from benchmarks.child import Measured, gate
from benchmarks.count import Count
from benchmarks.stock import parts
from benchmarks.transactions import pooled

QUEUE = "raw"
PREFETCH = 100
AT_ONCE = 500
SETTLE_S = 10.0
LOOK_S = 0.02
UPDATE = "UPDATE job SET state = %s, updated = NOW(6) WHERE id = %s"
TABLE = (
    "CREATE TABLE job (id INT PRIMARY KEY, state SMALLINT NOT NULL, updated DATETIME(6) NOT NULL)"
)

Take = Callable[[AbstractIncomingMessage], Awaitable[None]]


async def fill(broker_url: str, database_url: str, wanted: int, stages: int) -> None:
    """Make the queue, and the rows of chains; publish the first message of each."""
    if stages:
        async with pooled(database_url) as pool, pool.acquire() as connection:
            cursor = await connection.cursor()
            await cursor.execute(TABLE)
            for part in parts(range(wanted), AT_ONCE):
                rows = ", ".join(f"({n}, 0, NOW(6))" for n in part)
                await cursor.execute(f"INSERT INTO job (id, state, updated) VALUES {rows}")
            await cursor.close()
    connection = await aio_pika.connect_robust(broker_url)
    async with connection:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        await channel.declare_queue(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
        for part in parts(range(wanted), AT_ONCE):
            await asyncio.gather(*(_publish(channel, [n, 1]) for n in part))


async def jobs(broker_url: str, wanted: int) -> Measured:
    """Take and acknowledge ``wanted`` messages."""
    count = Count(wanted)

    async def take(message: AbstractIncomingMessage) -> None:
        count.begin()
        await message.ack()
        count.one()

    async with await aio_pika.connect_robust(broker_url) as connection:
        return await _consume(connection, take, count)


async def chain(broker_url: str, database_url: str, wanted: int, stages: int) -> Measured:
    """Take ``wanted`` chains through their stages."""
    count = Count(wanted)
    async with (
        pooled(database_url) as pool,
        await aio_pika.connect_robust(broker_url) as publishing,
        await aio_pika.connect_robust(broker_url) as consuming,
    ):
        channel = await publishing.channel(publisher_confirms=True, on_return_raises=True)

        async def take(message: AbstractIncomingMessage) -> None:
            count.begin()
            row, stage = json.loads(message.body)
            async with pool.acquire() as connection, connection.cursor() as cursor:
                await cursor.execute(UPDATE, (stage, row))
            if stage < stages:
                await _publish(channel, [row, stage + 1])
            await message.ack()
            if stage == stages:
                count.one()

        measured = await _consume(consuming, take, count)
        async with pool.acquire() as connection, connection.cursor() as cursor:
            await cursor.execute("SELECT COUNT(*) FROM job WHERE state = %s", (stages,))
            if (await cursor.fetchone())[0] != wanted:
                raise RuntimeError("not all rows were moved to the end")
    return measured


async def _consume(connection: AbstractRobustConnection, take: Take, count: Count) -> Measured:
    faults: list[BaseException] = []

    async def safely(message: AbstractIncomingMessage) -> None:
        try:
            await take(message)
        except Exception as error:
            faults.append(error)
            count.stop.set()

    channel = await connection.channel()
    await channel.set_qos(prefetch_count=PREFETCH)
    queue = await channel.declare_queue(QUEUE, passive=True)
    await gate()
    await queue.consume(safely)
    await count.stop.wait()
    told = count.told()
    if faults:
        raise faults[0]
    async with asyncio.timeout(SETTLE_S):
        while (await queue.declare()).message_count:  # noqa: ASYNC110 - the broker rings no bell
            await asyncio.sleep(LOOK_S)
    return {
        **told,
        "resident_mib": memory.resident_mib(),
        "peak_mib": memory.peak_mib(),
    }


async def _publish(channel: Any, content: list[int]) -> None:
    message = aio_pika.Message(
        json.dumps(content).encode(), delivery_mode=aio_pika.DeliveryMode.PERSISTENT
    )
    await channel.default_exchange.publish(message, routing_key=QUEUE, mandatory=True)
