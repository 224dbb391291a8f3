"""The outgoing client against real servers on loopback that behave well and badly."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
import pytest_asyncio

from limner.core.clock import HeldClock
from limner.core.errors import (
    Invalid,
    Refused,
)
from limner.core.outgoing import Outgoing, encode_json
from tests.fakes.names import Names, client
from tests.fakes.raw_http import (
    RawHttp,
    answer,
)

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
PUBLIC = "93.184.216.34"


@pytest_asyncio.fixture
async def server() -> AsyncIterator[RawHttp]:
    async with RawHttp() as running:
        yield running


@pytest_asyncio.fixture
async def other() -> AsyncIterator[RawHttp]:
    async with RawHttp() as running:
        yield running


@pytest_asyncio.fixture
async def outgoing(server: RawHttp) -> AsyncIterator[Outgoing]:
    async with client(server, resolver=Names(), clock=HeldClock(NOW)) as running:
        yield running


# What goes over the wire


async def test_an_answer_comes_whole_with_status_headers_and_time(
    server: RawHttp, outgoing: Outgoing
) -> None:
    server.script(answer(404, b'{"a": [1]}', {"X-Seen": "yes", "Retry-After": "3"}))
    got = await outgoing.request("get", server.url + "x?y=1")
    assert (got.status, got.body, got.url) == (404, b'{"a": [1]}', server.url + "x?y=1")
    assert (got.headers["x-seen"], got.received_at, got.retry_after_s()) == ("yes", NOW, 3)
    assert await got.json() == {"a": [1]}
    (request,) = server.requests
    assert (request.method, request.target) == ("GET", "/x?y=1")


async def test_json_body_headers_and_key_are_sent(server: RawHttp, outgoing: Outgoing) -> None:
    await outgoing.request(
        "POST",
        server.url,
        headers={"Authorization": "Bearer t", "Accept": "application/json"},
        json={"prompt": "画 😀", "n": 1},
        idempotency_key="job_1",
    )
    (request,) = server.requests
    assert request.body == '{"prompt":"画 😀","n":1}'.encode()
    assert request.headers["content-type"] == "application/json"
    assert request.headers["authorization"] == "Bearer t"
    assert request.headers["accept"] == "application/json"
    assert request.headers["idempotency-key"] == "job_1"
    assert request.headers["user-agent"] == "Limner"
    assert request.headers["accept-encoding"] == "gzip, deflate"


async def test_a_long_body_is_sent_as_it_is(server: RawHttp, outgoing: Outgoing) -> None:
    body = bytes(range(256)) * 8_192
    await outgoing.request("PUT", server.url, body=body, headers={"Content-Type": "image/png"})
    assert server.requests[0].body == body


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-A", "b\r\nBcc: c"),
        ("X-A", "b\x00"),
        ("X-A\r\nB", "c"),
        ("X A", "b"),
        ("", "b"),
        ("Host", "internal"),
        ("content-length", "5"),
        ("Transfer-Encoding", "chunked"),
        ("Connection", "keep-alive"),
        ("Upgrade", "h2c"),
        ("Expect", "100-continue"),
    ],
)
async def test_headers_that_would_reframe_the_request_are_refused(
    server: RawHttp, outgoing: Outgoing, name: str, value: str
) -> None:
    with pytest.raises(Invalid) as caught:
        await outgoing.request("GET", server.url, headers={name: value})
    assert caught.value.code == "header_invalid"
    assert server.connections == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800"])
def test_what_is_no_json_is_not_sent(value: object) -> None:
    with pytest.raises(Invalid):
        encode_json({"a": value})


async def test_neither_proxies_nor_cookies_are_used(
    server: RawHttp, outgoing: Outgoing, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/")
    server.script(answer(200, b"", {"Set-Cookie": "a=b"}))
    for _ in range(2):
        assert (await outgoing.request("GET", server.url)).status == 200
    assert "cookie" not in server.requests[1].headers
    assert server.connections == 2


# The guard


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:{port}/", "http://127.1:{port}/", "http://[::ffff:127.0.0.1]:{port}/"],
)
async def test_loopback_is_refused_without_a_connection(server: RawHttp, url: str) -> None:
    async with client(resolver=Names()) as guarded:
        with pytest.raises(Refused) as caught:
            await guarded.request("POST", url.format(port=server.port))
    assert caught.value.code == "address_refused"
    assert server.connections == 0


async def test_a_name_that_leads_inside_is_refused_without_a_connection(server: RawHttp) -> None:
    names = Names(evil_test=[["127.0.0.1"]])
    async with client(resolver=names) as guarded:
        with pytest.raises(Refused) as caught:
            await guarded.request("POST", f"http://evil.test:{server.port}/")
    assert caught.value.code == "address_refused"
    assert (names.asked, server.connections) == (["evil.test"], 0)


async def test_a_name_that_rebinds_is_refused_when_it_does(
    server: RawHttp, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = Names(rebind_test=[[PUBLIC], ["127.0.0.1"]])
    loop = asyncio.get_running_loop()
    connect = loop.sock_connect
    reached: list[str] = []

    async def to_the_server(sock: Any, address: Any) -> None:
        # The public internet of this test is the server on loopback.
        reached.append(address[0])
        await connect(sock, ("127.0.0.1", address[1]))

    monkeypatch.setattr(loop, "sock_connect", to_the_server)
    url = f"http://rebind.test:{server.port}/"
    async with client(resolver=names) as guarded:
        assert (await guarded.request("GET", url)).status == 200
        # Asked once: what was checked is what was connected to.
        assert (names.asked, reached) == (["rebind.test"], [PUBLIC])
        assert server.requests[0].headers["host"] == f"rebind.test:{server.port}"
        with pytest.raises(Refused):
            await guarded.request("GET", url)
    assert reached == [PUBLIC]
    assert server.connections == 1


async def test_the_operators_addresses_are_not_guarded_and_lend_no_connection(
    server: RawHttp,
) -> None:
    async with client(resolver=Names(llm=[["127.0.0.1"]])) as outgoing:
        for url in (server.url, f"http://llm:{server.port}/"):
            assert (await outgoing.request("GET", url, guarded=False)).status == 200
            with pytest.raises(Refused):
                await outgoing.request("GET", url)
    assert server.connections == 2


async def test_a_listed_name_may_lead_inside(server: RawHttp) -> None:
    entry = f"dev.test:{server.port}"
    names = Names(dev_test=[["127.0.0.1"]])
    async with client(resolver=names, allowed=frozenset({entry})) as outgoing:
        assert (await outgoing.request("GET", f"http://{entry}/")).status == 200


# Its life


async def test_a_closed_client_has_closed_its_resolver_and_opens_nothing(server: RawHttp) -> None:
    names = Names()
    async with client(server, resolver=names) as outgoing:
        await outgoing.request("GET", server.url)
    assert names.closed
    with pytest.raises(RuntimeError, match="closed"):
        await outgoing.request("GET", server.url)


async def test_the_default_resolver_is_the_machines() -> None:
    async with client() as outgoing:
        with pytest.raises(Refused):
            await outgoing.request("GET", "http://localhost:8080/")
