"""Answers that break off: the connection ends with them, and nothing else is written to it."""

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from structlog.testing import capture_logs

from limner.core.clock import HeldClock
from limner.core.errors import EngineUnavailable
from limner.core.objects import Reading
from limner.http import access
from limner.http.api import audit
from limner.http.call import FRONT
from limner.storage.sql.reading import batches
from tests.fakes.front import PATIENCE_S, Stage, staged

BODY = bytes(range(256)) * 4
NEXT = "GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        yield opened


async def heard(
    server: TestServer, path: str, *headers: str, version: str = "1.1"
) -> tuple[bytes, bytes, bool]:
    """Ask for a path and, on the same connection, for something else, and read to the end.

    Gives the head and the rest of all that came, and whether the connection was reset.
    """
    reader, writer = await asyncio.open_connection(server.host, server.port)
    lines = [f"GET {path} HTTP/{version}", "Host: x", *headers, "", ""]
    # HTTP/1.0 knows no second request.
    writer.write(("\r\n".join(lines) + (NEXT if version == "1.1" else "")).encode())
    got, is_reset = io.BytesIO(), False
    try:
        async with asyncio.timeout(PATIENCE_S):
            while piece := await reader.read(65_536):
                got.write(piece)
    except ConnectionResetError:
        is_reset = True
    finally:
        writer.close()
    head, _, rest = got.getvalue().partition(b"\r\n\r\n")
    return head, rest, is_reset


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def breaking(error: Exception, sent: int, *, length: bool = False, ended: bool = False) -> Handler:
    """Give a handler that fails within its answer, when so many bytes have been sent."""

    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if length:
            response.content_length = len(BODY)
        await response.prepare(request)
        if sent:
            await response.write(BODY[:sent])
        if ended:
            await response.write_eof()
        raise error

    return handle


@asynccontextmanager
async def served(stage: Stage, handler: Handler) -> AsyncIterator[TestServer]:
    """Serve a handler within what happens around every request."""
    application = web.Application(middlewares=[access.trace, access.mend])
    application[FRONT] = stage.front
    application.on_response_prepare.append(access.begin)
    application.router.add_get("/breaks", handler)
    application.router.add_get("/livez", never)
    server = TestServer(application, host="127.0.0.1")
    async with server:
        yield server


async def never(_: web.Request) -> web.StreamResponse:
    raise AssertionError("no request is served on a connection that was broken")


ERRORS: list[tuple[Exception, int, list[str]]] = [
    (EngineUnavailable("the disk went away"), 503, ["an answer broke off", "request"]),
    (RuntimeError("a bug"), 500, ["an answer broke off", "request"]),
    (TimeoutError(), 500, ["an answer broke off", "request"]),
    (web.HTTPFound("/elsewhere"), 500, ["an answer broke off", "request"]),
    (web.HTTPNotFound(), 500, ["an answer broke off", "request"]),
    (ConnectionResetError(), 499, ["request"]),
]
NAMES = [type(error).__name__ for error, *_ in ERRORS]


@pytest.mark.parametrize(("error", "status", "events"), ERRORS, ids=NAMES)
@pytest.mark.parametrize("sent", [0, 1, len(BODY) - 1, len(BODY)])
async def test_an_answer_of_a_length_is_never_filled_up_nor_followed(
    stage: Stage, error: Exception, status: int, events: list[str], sent: int
) -> None:
    async with served(stage, breaking(error, sent, length=True)) as server:
        with capture_logs() as lines:
            head, rest, _ = await heard(server, "/breaks")
    assert BODY.startswith(rest)
    assert len(rest) <= sent
    assert b"HTTP/" not in head[1:]
    assert [line["event"] for line in lines] == events
    assert lines[-1]["status"] == status


@pytest.mark.parametrize(("error", "status", "events"), ERRORS, ids=NAMES)
@pytest.mark.parametrize("sent", [0, 1, len(BODY)])
async def test_an_answer_in_chunks_gets_no_end(
    stage: Stage, error: Exception, status: int, events: list[str], sent: int
) -> None:
    async with served(stage, breaking(error, sent)) as server:
        with capture_logs() as lines:
            head, rest, _ = await heard(server, "/breaks")
    assert (b"%x\r\n%b\r\n" % (sent, BODY[:sent])).startswith(rest)
    assert b"HTTP/" not in head[1:]
    assert [line["event"] for line in lines] == events
    assert lines[-1]["status"] == status


@pytest.mark.parametrize("length", [True, False])
async def test_what_fails_behind_the_end_writes_nothing_more(stage: Stage, length: bool) -> None:
    handler = breaking(RuntimeError("late"), len(BODY), length=length, ended=True)
    async with served(stage, handler) as server:
        head, rest, _ = await heard(server, "/breaks")
    assert head.startswith(b"HTTP/1.1 200")
    assert rest == (BODY if length else b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY))


async def test_an_answer_that_only_the_connections_end_ends_is_reset(stage: Stage) -> None:
    async with served(stage, breaking(RuntimeError("a bug"), 100)) as server:
        head, _, is_reset = await heard(server, "/breaks", version="1.0")
    assert is_reset or not head
    assert b"Transfer-Encoding" not in head


async def test_what_fails_around_it_all_writes_no_second_answer(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("the metrics are broken")

    async def whole(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = len(BODY)
        await response.prepare(request)
        await response.write(BODY)
        return response

    monkeypatch.setattr(access, "_note", fail)
    async with served(stage, whole) as server:
        head, rest, _ = await heard(server, "/breaks")
    assert (head[:12], rest) == (b"HTTP/1.1 200", BODY)


# The front's own answers


@pytest.mark.parametrize("sent", [100, len(BODY) - 1, len(BODY)])
async def test_an_object_that_cannot_be_read_to_its_end_is_not_padded(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, sent: int
) -> None:
    objects = stage.front.objects
    await objects.put("a/b.png", BODY, "image/png", size_limit_bytes=len(BODY))
    path, whole = stage.path(await objects.presign("GET", "a/b.png", 600)), objects.get

    @asynccontextmanager
    async def get(key: str, start: int, end: int | None) -> AsyncIterator[Reading]:
        async def chunks() -> AsyncIterator[bytes]:
            yield BODY[:sent]
            raise EngineUnavailable("the disk went away")

        async with whole(key, start=start, end=end) as reading:
            yield replace(reading, chunks=chunks())

    monkeypatch.setattr(objects, "get", get)
    head, rest, _ = await heard(stage.server, path)
    assert f"Content-Length: {len(BODY)}".encode() in head or not head
    assert BODY[:sent].startswith(rest)


async def test_an_export_of_the_log_that_breaks_off_has_no_end(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(rows: Any, column: str) -> AsyncIterator[list[Any]]:
        async for batch in batches(rows, column):
            yield batch
        raise EngineUnavailable("the database went away")

    monkeypatch.setattr(audit, "batches", broken)
    key = await stage.key("admin")
    head, rest, _ = await heard(stage.server, "/api/audit/export", f"Authorization: Bearer {key}")
    assert b"Transfer-Encoding: chunked" in head or not head
    assert b"HTTP/" not in rest
    assert not rest.endswith(b"0\r\n\r\n")
