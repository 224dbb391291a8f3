"""Connections: heads that are late, too large or no heads, clients that do not read, and room."""

import asyncio
import json
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong
from structlog.testing import capture_logs

from limner.core.clock import HeldClock
from limner.http import access, frames
from limner.http.listener import LOOKS, Bounds, fault_of, queued_bytes, room
from limner.http.problems import BadRequest, HeadTooLarge, TooSlow
from limner.http.sse import HUB
from tests.fakes.front import Stage, staged, until

Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]

SOON = Bounds(head_s=0.2, idle_s=0.4, stall_s=0.3)
HOST = b"Host: 127.0.0.1\r\n"
JSON = b"Content-Type: application/json\r\n"
HELLO = b"GET /livez HTTP/1.1\r\n" + HOST
SECURED = {
    "content-security-policy",
    "x-content-type-options",
    "referrer-policy",
    "cache-control",
    "x-request-id",
}
ASK = b"GET /openapi.json HTTP/1.1\r\n" + HOST
HALVES = 500
PAUSE_S = 0.02
PATIENCE_S = 10.0


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        yield opened


@pytest.fixture
async def hasty(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    """A front with short bounds."""
    async with staged(migrated_file, tmp_path, clock, bounds=SOON) as opened:
        yield opened


@asynccontextmanager
async def line_to(stage: Stage) -> AsyncIterator[Line]:
    reader, writer = await asyncio.open_connection("127.0.0.1", stage.server.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def answer_of(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """Give status, headers and body of the next answer."""
    async with asyncio.timeout(PATIENCE_S):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        headers = {
            name.lower(): value.strip() for name, _, value in (one.partition(":") for one in lines)
        }
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    return int(first.split(" ")[1]), headers, body


async def is_closed(reader: asyncio.StreamReader) -> bool:
    async with asyncio.timeout(PATIENCE_S):
        try:
            return await reader.read(1) == b""
        except ConnectionResetError:
            return True


def assert_problem(
    answer: tuple[int, dict[str, str], bytes], status: int, code: str
) -> dict[str, Any]:
    found, headers, body = answer
    assert (found, headers["content-type"]) == (status, "application/problem+json")
    assert set(headers) >= SECURED
    assert "server" not in headers
    problem: dict[str, Any] = json.loads(body)
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["request_id"] == headers["x-request-id"] != ""
    return problem


# What the two ends of a chain of proxies could read as different requests (RFC 9112 section 11.2).
SMUGGLED: list[tuple[str, bytes]] = [
    ("a length and chunks",
     b"POST /livez HTTP/1.1\r\n" + HOST + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n"
     b"0\r\n\r\nX"),
    ("chunks and a length",
     b"POST /livez HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n"
     b"0\r\n\r\nX"),
    ("two lengths", b"POST /livez HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\n"
     b"Content-Length: 2\r\n\r\nab"),
    ("the same length twice", b"POST /livez HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\n"
     b"Content-Length: 1\r\n\r\na"),
    ("a list of lengths", b"POST /livez HTTP/1.1\r\n" + HOST + b"Content-Length: 1, 1\r\n\r\na"),
    ("a length with a sign", b"POST /livez HTTP/1.1\r\n" + HOST + b"Content-Length: +1\r\n\r\na"),
    ("a length below zero", b"POST /livez HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\na"),
    ("a length in hex", b"POST /livez HTTP/1.1\r\n" + HOST + b"Content-Length: 0x1\r\n\r\na"),
    ("chunks by a folded line", b"POST /livez HTTP/1.1\r\n" + HOST
     + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"),
    ("a folded header", HELLO + b"X-A: a\r\n b\r\n\r\n"),
    ("chunks that are not the last coding", b"POST /livez HTTP/1.1\r\n" + HOST
     + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
    ("another coding alone", b"POST /livez HTTP/1.1\r\n" + HOST
     + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    ("a space before the colon", b"POST /livez HTTP/1.1\r\n" + HOST
     + b"Content-Length : 1\r\n\r\na"),
    ("lines that end without a return", b"GET /livez HTTP/1.1\nHost: 127.0.0.1\nX-A: a\n\n"),
    ("one line that ends without a return",
     b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\nX-A: a\r\n\r\n"),
    ("a return within a value", HELLO + b"X-A: a\rb\r\n\r\n"),
    ("a null within a value", HELLO + b"X-A: a\0b\r\n\r\n"),
    ("a header without a name", HELLO + b": a\r\n\r\n"),
    ("a header without a colon", HELLO + b"nonsense\r\n\r\n"),
    ("a method with a space", b"G ET /livez HTTP/1.1\r\n" + HOST + b"\r\n"),
    ("a version nobody knows", b"GET /livez HTTP/9.9\r\n" + HOST + b"\r\n"),
    ("no version", b"GET /livez\r\n" + HOST + b"\r\n"),
    ("the first bytes of TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40)),
    ("two hosts", b"GET /livez HTTP/1.1\r\n" + HOST + HOST + b"\r\n"),
]  # fmt: skip


@pytest.mark.parametrize("raw", [row[1] for row in SMUGGLED], ids=[row[0] for row in SMUGGLED])
async def test_what_could_be_read_in_two_ways_is_refused_and_the_line_closed(
    stage: Stage, raw: bytes
) -> None:
    async with line_to(stage) as (reader, writer):
        writer.write(raw + b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n")
        assert_problem(await answer_of(reader), 400, "bad_request")
        assert await is_closed(reader)


@pytest.mark.parametrize(
    "size",
    ["X-A: " + "a" * 64_000, "\r\n".join(f"X-{n}: a" for n in range(10_000)), "X" * 9_000 + ": a"],
    ids=["64 kB in a header", "10,000 headers", "a long name"],
)
async def test_a_head_that_is_too_large_is_refused_and_the_line_closed(
    stage: Stage, size: str
) -> None:
    async with line_to(stage) as (reader, writer):
        writer.write(HELLO + size.encode() + b"\r\n\r\n")
        status, headers, body = await answer_of(reader)
        assert status in {400, 431}
        assert set(headers) >= SECURED
        assert json.loads(body)["status"] == status
        assert await is_closed(reader)


async def test_a_head_of_many_middling_headers_is_refused_before_it_is_whole(stage: Stage) -> None:
    async with line_to(stage) as (reader, writer):
        writer.write(HELLO)
        for number in range(20):
            writer.write(f"X-{number}: {'a' * 4000}\r\n".encode())
            await writer.drain()
        assert_problem(await answer_of(reader), 431, "headers_too_large")
        assert await is_closed(reader)


async def test_a_path_that_is_too_long_is_refused(stage: Stage) -> None:
    async with line_to(stage) as (reader, writer):
        writer.write(b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n")
        assert_problem(await answer_of(reader), 431, "headers_too_large")
        assert await is_closed(reader)


async def test_what_was_refused_is_counted_and_logged_and_not_repeated(stage: Stage) -> None:
    canary = "canary-of-a-secret"
    with capture_logs() as logs:
        async with line_to(stage) as (reader, writer):
            writer.write(f"GET /{canary} HTTP/1.1\r\n{canary}\r\n\r\n".encode())
            _, _, body = await answer_of(reader)
    assert canary not in body.decode() + repr(logs)
    assert [line["status"] for line in logs if line["event"] == "request"] == [400]
    samples = stage.front.metrics.http_requests.labels("other", "unmatched", "400")
    assert samples._value.get() == 1


async def test_an_expectation_that_nobody_can_meet_is_a_problem_too(stage: Stage) -> None:
    async with line_to(stage) as (reader, writer):
        writer.write(HELLO + b"Expect: miracles\r\n\r\n")
        assert_problem(await answer_of(reader), 417, "expectation_failed")
        assert await is_closed(reader)


async def test_who_asks_before_sending_a_body_is_told_to_go_on(stage: Stage) -> None:
    key = (await stage.key("admin")).encode()
    body = b'{"text": "draw a cat"}'
    async with line_to(stage) as (reader, writer):
        writer.write(
            b"POST /api/intent/test HTTP/1.1\r\n" + HOST + JSON + b"Expect: 100-continue\r\n"
            b"Authorization: Bearer " + key + b"\r\nContent-Length: 22\r\n\r\n"
        )
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await answer_of(reader))[0] == 200


async def test_half_a_head_is_answered_and_cut_in_time(hasty: Stage) -> None:
    async with line_to(hasty) as (reader, writer):
        writer.write(HELLO + b"X-A: a")
        assert_problem(await answer_of(reader), 408, "timed_out")
        assert await is_closed(reader)


async def test_a_head_that_comes_drop_by_drop_gains_no_time(hasty: Stage) -> None:
    async with line_to(hasty) as (reader, writer):
        writer.write(HELLO)
        answer = asyncio.create_task(answer_of(reader))
        number = 0
        while not answer.done():
            number += 1
            writer.write(f"X-{number}: a\r\n".encode())
            await asyncio.wait({answer}, timeout=0.02)
        assert_problem(await answer, 408, "timed_out")


async def test_a_connection_without_a_word_is_closed_without_one(hasty: Stage) -> None:
    async with line_to(hasty) as (reader, _):
        assert await is_closed(reader)


async def test_a_connection_that_lies_idle_after_a_request_is_closed(hasty: Stage) -> None:
    async with line_to(hasty) as (reader, writer):
        writer.write(HELLO + b"\r\n")
        assert (await answer_of(reader))[0] == 200
        assert await is_closed(reader)


async def test_a_later_head_has_its_time_from_its_first_byte_on(hasty: Stage) -> None:
    async with line_to(hasty) as (reader, writer):
        for _ in range(2):
            writer.write(HELLO + b"\r\n")
            assert (await answer_of(reader))[0] == 200
        writer.write(HELLO)
        assert_problem(await answer_of(reader), 408, "timed_out")
        assert await is_closed(reader)


async def test_a_body_has_more_time_than_a_head(hasty: Stage) -> None:
    key = (await hasty.key("admin")).encode()
    loop = asyncio.get_running_loop()
    async with line_to(hasty) as (reader, writer):
        writer.write(
            b"POST /api/intent/test HTTP/1.1\r\n" + HOST + JSON
            + b"Authorization: Bearer " + key + b"\r\nContent-Length: 22\r\n\r\n{"
        )  # fmt: skip
        await writer.drain()
        late_s = loop.time() + SOON.head_s * 2
        await until(lambda: loop.time() >= late_s)
        writer.write(b'"text": "draw a cat"}')
        assert (await answer_of(reader))[0] == 200


async def test_half_requests_by_the_hundred_do_not_keep_others_from_being_served(
    migrated_file: Path, tmp_path: Path, clock: HeldClock
) -> None:
    room()
    async with AsyncExitStack() as stack:
        bounds = Bounds(head_s=2.0)
        stage = await stack.enter_async_context(
            staged(migrated_file, tmp_path, clock, bounds=bounds)
        )
        halves = []
        for _ in range(HALVES):
            reader, writer = await stack.enter_async_context(line_to(stage))
            writer.write(HELLO + b"X-A: ")
            halves.append((reader, writer))
        client = await stage.admin()
        loop, took_s = asyncio.get_running_loop(), []
        for _ in range(40):
            began_s = loop.time()
            assert (await client.get("/api/tasks")).status == 200
            took_s.append(loop.time() - began_s)
        assert sorted(took_s)[37] < 0.2
        answers = await asyncio.gather(*(answer_of(reader) for reader, _ in halves))
        assert {status for status, _, _ in answers} == {408}
        assert all(await asyncio.gather(*(is_closed(reader) for reader, _ in halves)))
        assert (await client.get("/api/tasks")).status == 200


async def test_when_there_is_no_room_a_connection_is_turned_away_with_a_word(
    migrated_file: Path, tmp_path: Path, clock: HeldClock
) -> None:
    async with AsyncExitStack() as stack:
        stage = await stack.enter_async_context(
            staged(migrated_file, tmp_path, clock, bounds=Bounds(connections=2))
        )
        held = [await stack.enter_async_context(line_to(stage)) for _ in range(2)]
        for reader, writer in held:
            writer.write(HELLO + b"\r\n")
            assert (await answer_of(reader))[0] == 200
        async with line_to(stage) as (reader, _):
            answer = await answer_of(reader)
            assert_problem(answer, 503, "too_many_connections")
            assert answer[1]["retry-after"] == "5"
            assert await is_closed(reader)
        held[0][1].close()
        server = stage.server.runner.server  # type: ignore[union-attr]
        await until(lambda: len(server.connections) == 1)  # type: ignore[union-attr]
        async with line_to(stage) as (reader, writer):
            writer.write(HELLO + b"\r\n")
            assert (await answer_of(reader))[0] == 200


async def narrow_line(stage: Stage) -> socket.socket:
    """Connect with small buffers in both kernels: what is not read waits in the process."""
    for site in stage.server.runner.sites:  # type: ignore[union-attr]
        for listening in site._server.sockets:  # type: ignore[union-attr]
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    line.setblocking(False)
    await asyncio.get_running_loop().sock_connect(line, ("127.0.0.1", stage.server.port))
    return line


def was_cut(logs: list[Any]) -> bool:
    return any("does not read" in one["event"] for one in logs)


async def test_a_client_that_does_not_read_is_cut(hasty: Stage) -> None:
    line = await narrow_line(hasty)
    with capture_logs() as logs:
        _, writer = await asyncio.open_connection(sock=line, limit=1024)
        writer.write(ASK + b"\r\n")
        await until(lambda: was_cut(logs), 20)
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def test_a_client_that_stops_reading_after_a_while_is_cut(hasty: Stage) -> None:
    loop = asyncio.get_running_loop()
    with capture_logs() as logs, await narrow_line(hasty) as line:
        await loop.sock_sendall(line, (ASK + b"\r\n") * 20)
        await read_slowly(line, 4 * SOON.stall_s)
        assert not was_cut(logs)
        await until(lambda: was_cut(logs), 20)


async def read_slowly(line: socket.socket, lasts_s: float = 60.0) -> bytes:
    """Read a little, then pause, until the end or for so long; gives what was read."""
    loop, got, left = asyncio.get_running_loop(), bytearray(), b"more"
    began_s = loop.time()
    while left and loop.time() - began_s < lasts_s:
        left = await loop.sock_recv(line, 4096)
        got += left
        await asyncio.sleep(PAUSE_S)
    return bytes(got)


async def test_a_client_that_reads_slowly_but_does_read_gets_everything(hasty: Stage) -> None:
    loop = asyncio.get_running_loop()
    with capture_logs() as logs, await narrow_line(hasty) as line:
        began_s = loop.time()
        await loop.sock_sendall(line, ASK + b"\r\n" + ASK + b"Connection: close\r\n\r\n")
        got = await read_slowly(line)
        # All the while more than the transport's low-water mark was waiting.
        assert loop.time() - began_s > 4 * SOON.stall_s
    assert not was_cut(logs)
    first, second = (part.partition(b"\r\n\r\n")[2] for part in got.split(b"HTTP/1.1 200 OK")[1:])
    assert json.loads(first) == json.loads(second)


async def test_a_client_that_takes_less_than_is_written_to_it_does_read(hasty: Stage) -> None:
    """Of an event stream: what waits grows all the while, up to the bound that streams have."""
    client = await hasty.admin()
    answer = await client.get("/api/stream")
    hub = hasty.server.app[HUB]
    await until(lambda: len(hub.seats.streams()) == 1)
    [stream] = hub.seats.streams()
    line, waits, aborted = stream._line, [100_000], list[bool]()
    assert line is not None
    before = line._untaken_bytes
    stream.write(frames.PING)
    assert line._untaken_bytes - before == len(frames.PING.chunk)
    transport = SimpleNamespace(
        get_extra_info=lambda _: None,
        get_write_buffer_size=lambda: waits[0],
        abort=lambda: aborted.append(True),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(line, "transport", transport)
        line.pause_writing()
        for taken in [1] * 3 * LOOKS + [0] * LOOKS:
            assert not aborted
            line._stop_stall()
            line.expect_written(500)
            waits[0] += 500 - taken
            line._look()
        assert aborted
    line.resume_writing()
    answer.close()


def test_where_the_kernel_does_not_tell_what_it_holds_it_counts_as_nothing() -> None:
    with socket.socket() as line:
        assert queued_bytes(line) == 0
    assert queued_bytes(line) == queued_bytes(None) == 0


async def test_a_client_that_takes_what_the_kernel_holds_does_read(hasty: Stage) -> None:
    """The kernel asks for more in large portions: until then nothing of ours becomes less."""
    count, aborted = 3 * LOOKS, list[bool]()
    line: Any = hasty.server.runner.server()  # type: ignore[union-attr, misc]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        line.transport = SimpleNamespace(
            get_extra_info={"socket": ours}.get,
            get_write_buffer_size=lambda: 100_000,
            abort=lambda: aborted.append(True),
        )
        for _ in range(count):
            ours.send(b"x")
        assert queued_bytes(ours) >= count
        line.pause_writing()
        for place in range(count + LOOKS):
            assert not aborted
            line._stop_stall()
            if place < count:
                theirs.recv(1)
            line._look()
        assert queued_bytes(ours) == 0
        assert aborted


async def test_a_bug_outside_of_all_handlers_is_answered_without_its_text_or_the_path(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("canary")

    monkeypatch.setattr(access, "new_trace_id", fail)
    with capture_logs() as logs:
        async with line_to(stage) as (reader, writer):
            writer.write(b"GET /sign-in/canary HTTP/1.1\r\n" + HOST + b"\r\n")
            answer = await answer_of(reader)
            assert assert_problem(answer, 500, "internal")["instance"] == "/"
            assert b"canary" not in answer[2]
            assert await is_closed(reader)
    assert any(line["event"] == "a request failed outside of its handler" for line in logs)


async def test_a_bug_after_an_answer_was_begun_only_ends_the_line(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def begin(request: web.Request, _: Any) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"begun")
        raise RuntimeError("canary")

    server = stage.server.runner.server  # type: ignore[union-attr]
    monkeypatch.setattr(server, "_inner", lambda request: begin(request, None))
    async with line_to(stage) as (reader, writer):
        writer.write(HELLO + b"\r\n")
        async with asyncio.timeout(PATIENCE_S):
            told = await reader.read()
    assert b"begun" in told
    assert b"canary" not in told
    assert b"500" not in told


async def test_a_redirect_that_aiohttp_raises_passes_as_it_is(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def redirect(_: Any) -> web.StreamResponse:
        raise web.HTTPFound("/elsewhere")

    server = stage.server.runner.server  # type: ignore[union-attr]
    monkeypatch.setattr(server, "_inner", redirect)
    async with line_to(stage) as (reader, writer):
        writer.write(HELLO + b"\r\n")
        status, headers, _ = await answer_of(reader)
    assert (status, headers["location"]) == (302, "/elsewhere")


def test_errors_of_the_parser_become_ours() -> None:
    late = TooSlow("late")
    assert fault_of(late) is late
    assert isinstance(fault_of(LineTooLong(b"secret", 1)), HeadTooLarge)
    found = fault_of(BadHttpMessage("secret"))
    assert isinstance(found, BadRequest)
    assert "secret" not in found.detail


@pytest.mark.parametrize(
    ("limits", "expected", "raised_to"),
    [
        ((1024, 1_048_576), 10_000, 10_256),
        ((1024, 4096), 3840, 4096),
        ((1024, -1), 10_000, 10_256),
        ((-1, -1), 10_000, None),
        ((65_536, 65_536), 10_000, None),
        ((100, 100), 1, 100),
    ],
)
def test_the_room_is_what_the_system_grants(
    monkeypatch: pytest.MonkeyPatch,
    limits: tuple[int, int],
    expected: int,
    raised_to: int | None,
) -> None:
    granted = [limits]

    def grant(_: int, wanted: tuple[int, int]) -> None:
        granted.append(wanted)

    monkeypatch.setattr(resource, "getrlimit", lambda _: granted[-1])
    monkeypatch.setattr(resource, "setrlimit", grant)
    assert room() == expected
    assert (granted[1][0] if len(granted) > 1 else None) == raised_to


def test_a_system_that_grants_nothing_more_leaves_what_there_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any) -> None:
        raise ValueError("not allowed")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert room() == 768
