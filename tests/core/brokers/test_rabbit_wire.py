"""Frames are read so that no message can end the connection."""

import asyncio
import struct
from collections import deque

import pytest
from pamqp import commands as spec
from pamqp import frame as frames
from pamqp.body import ContentBody
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat

from limner.core.brokers.rabbit_wire import FRAME_LIMIT_BYTES, FrameReader, Wire

PROPERTIES = spec.Basic.Properties(message_id="m1", headers={"attempt": 2})


def source(*data: bytes) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    for part in data:
        reader.feed_data(part)
    reader.feed_eof()
    return reader


async def frame_of(reader: FrameReader) -> bytes:
    """Read as the driver does: 1 byte, 6, then all that the size says and the end mark."""
    head = await reader.readexactly(1) + await reader.readexactly(6)
    return head + await reader.readexactly(struct.unpack(">I", head[3:7])[0] + 1)


async def test_every_frame_of_other_channels_passes_as_it_is() -> None:
    sent = [
        frames.marshal(Heartbeat(), 0),
        frames.marshal(spec.Basic.Deliver("t", 1, False, "x", "k"), 2),
        frames.marshal(ContentHeader(0, 3, PROPERTIES), 2),
        frames.marshal(ContentBody(b"abc"), 2),
    ]
    reader = FrameReader(source(*sent), {7: deque()})
    assert [await frame_of(reader) for _ in sent] == sent
    assert reader.at_eof()


async def test_the_properties_of_a_lanes_messages_are_kept_and_not_passed() -> None:
    kept: deque[bytes] = deque()
    header = ContentHeader(0, 3, PROPERTIES)
    reader = FrameReader(source(frames.marshal(header, 7)), {7: kept})
    _, channel, bare = frames.unmarshal(await frame_of(reader))
    assert isinstance(bare, ContentHeader)
    assert (channel, bare.body_size, bare.properties.message_id) == (7, 3, None)
    assert kept == deque([header.marshal()])


async def test_a_cut_in_the_middle_of_a_frame_is_an_end_of_the_stream() -> None:
    data = frames.marshal(ContentBody(b"abc"), 7)
    reader = FrameReader(source(data[:-2]), {})
    with pytest.raises(asyncio.IncompleteReadError):
        await frame_of(reader)


async def test_what_is_no_amqp_is_not_read_into_memory() -> None:
    head = struct.pack(">BHI", 1, 0, FRAME_LIMIT_BYTES + 1)
    reader = FrameReader(source(head), {})
    with pytest.raises(ConnectionError, match="no AMQP"):
        await frame_of(reader)


async def test_a_wire_that_was_never_opened_swallows_what_is_written() -> None:
    wire = Wire()
    wire.write(b"x")
    await wire.drain()
    wire.abort()
    assert not wire.is_open
