"""The address guard: every way to write a forbidden address, and the ones that are fine."""

import asyncio
import socket
import threading
from collections.abc import Sequence

import pytest

from limner.core.addresses import (
    AddressGuard,
    GuardedResolver,
    SystemResolver,
    is_public,
    parse_url,
)
from limner.core.errors import Refused

GUARD = AddressGuard(frozenset())

FORBIDDEN = [
    # Loopback and its spellings
    "http://127.0.0.1/",
    "http://127.1/",
    "http://127.0.1/",
    "http://0x7f000001/",
    "http://0X7F.0.0.1/",
    "http://2130706433/",
    "http://017700000001/",
    "http://0177.0.0.1/",
    "http://127.0.0.1./",
    "http://127.0.0.01/",
    "http://127.0.0.0x1/",
    "http://[::1]/",
    "http://[0:0:0:0:0:0:0:1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[::7f00:1]/",
    "http://127。0。0。1/",
    "http://127．0．0．1/",
    "http://１２７.０.０.１/",
    "http://①②⑦.⓪.⓪.①/",
    "http://%31%32%37.0.0.1/",
    # Private, link-local, shared, unspecified, reserved
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://192.168.1.1/",
    "http://169.254.169.254/latest/meta-data/",
    "http://[::ffff:169.254.169.254]/",
    "http://100.64.0.1/",
    "http://0.0.0.0/",
    "http://0/",
    "http://198.18.0.1/",
    "http://192.0.0.8/",
    "http://192.0.2.1/",
    "http://192.88.99.1/",
    "http://224.0.0.1/",
    "http://240.0.0.1/",
    "http://255.255.255.255/",
    "http://[::]/",
    "http://[fd00::1]/",
    "http://[fe80::1]/",
    "http://[fe80::1%25eth0]/",
    "http://[fec0::1]/",
    "http://[ff02::1]/",
    "http://[2001:db8::1]/",
    "http://[2001::1]/",
    "http://[3fff::1]/",
    "http://[5f00::1]/",
    "http://[4000::1]/",
    # Translation and tunnels to the inside
    "http://[64:ff9b::127.0.0.1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[64:ff9b:1::7f00:1]/",
    "http://[2002:7f00:1::]/",
    # Users, passwords and what confuses parsers
    "http://user@example.com/",
    "http://user:password@example.com/",
    "http://@example.com/",
    "http://example.com\\@127.0.0.1/",
    "http://127.0.0.1\\.example.com/",
    "http://exa mple.com/",
    "http://example.com\t/",
    "http://example.com\r\nHost: internal/",
    "http://example.com/\x00",
    "http://ex%61mple.com/",
    "http://a..b/",
    "http://-a.example/",
    "http://" + "a" * 64 + ".example/",
    "http://" + "a." * 130 + "example/",
    "http://example.com:80:90/",
    "http://example.com:port/",
    "http://[::1/",
    "http://a\u00adb.example/",
    # Ports
    "http://example.com:0/",
    "http://example.com:22/",
    "http://example.com:25/",
    "http://example.com:3306/",
    "http://example.com:5432/",
    "http://example.com:5672/",
    "http://example.com:6379/",
    "http://example.com:11211/",
    "http://example.com:27017/",
    "http://example.com:70000/",
    "https://93.184.216.34:6379/",
    # Schemes
    "file:///etc/passwd",
    "gopher://example.com/_x",
    "ftp://example.com/",
    "dict://example.com:11211/",
    "javascript:alert(1)",
    "data:text/plain,x",
    "//example.com/",
    "/relative",
    "http:example.com",
    "http:///path",
    "https://",
    "",
    "http://example.com/" + "a" * 8_000,
]


@pytest.mark.parametrize("url", FORBIDDEN)
def test_a_forbidden_url_is_refused_before_anything_is_asked(url: str) -> None:
    with pytest.raises(Refused) as caught:
        GUARD.check(parse_url(url))
    assert caught.value.code == "address_refused"


@pytest.mark.parametrize(
    ("url", "read"),
    [
        ("https://example.com", "https://example.com"),
        ("HTTP://EXAMPLE.com./x#y", "http://example.com/x"),
        ("https://example.com:8443/?q=a%20b", "https://example.com:8443/?q=a%20b"),
        ("http://example.com:80/", "http://example.com/"),
        ("http://93.184.216.34/", "http://93.184.216.34/"),
        ("http://[2606:4700::1111]:8080/", "http://[2606:4700::1111]:8080/"),
        ("http://[::ffff:93.184.216.34]/", "http://[::ffff:5db8:d822]/"),
        ("https://bücher.example/é", "https://xn--bcher-kva.example/%C3%A9"),
        ("https://ｅｘａｍｐｌｅ。com/", "https://example.com/"),
        ("http://my_host.example/a@b?c=@", "http://my_host.example/a@b?c=@"),
        ("http://3com.example/", "http://3com.example/"),
    ],
)
def test_a_plain_url_is_read_and_let_through(url: str, read: str) -> None:
    parsed = parse_url(url)
    GUARD.check(parsed)
    assert str(parsed) == read


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8"]
)
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    ["", "example.com", "127.1", "2130706433", "2606:4700::1%eth0", "127.0.0.1", "::ffff:10.0.0.1"],
)
def test_what_is_not_a_public_address_is_not_public(address: str) -> None:
    assert not is_public(address)


def test_what_the_operator_lists_is_let_through_with_its_port_alone() -> None:
    guard = AddressGuard(frozenset({"127.0.0.1:6379", " LOCALHOST:8080", "[::1]:9000"}))
    for url in ("http://127.0.0.1:6379/", "http://[::1]:9000/", "http://localhost:8080/"):
        guard.check(parse_url(url))
    guard.check_addresses("localhost", 8080, ["127.0.0.1", "::1"])
    for url in ("http://127.0.0.1:6380/", "http://127.0.0.2:6379/", "http://[::1]:9001/"):
        with pytest.raises(Refused):
            guard.check(parse_url(url))
    with pytest.raises(Refused):
        guard.check_addresses("localhost", 8081, ["127.0.0.1"])


class Answers:
    """A resolver that says what it is told to."""

    def __init__(self, *found: str) -> None:
        self.found = found

    async def addresses(self, host: str, port: int) -> Sequence[str]:
        return self.found

    async def aclose(self) -> None:
        return


async def test_the_connector_gets_exactly_the_addresses_that_were_checked() -> None:
    resolver = GuardedResolver(Answers("93.184.216.34", "2606:4700::1111"), GUARD)
    found = await resolver.resolve("example.com", 443)
    assert [(each["host"], each["port"], each["family"]) for each in found] == [
        ("93.184.216.34", 443, socket.AF_INET),
        ("2606:4700::1111", 443, socket.AF_INET6),
    ]
    await resolver.close()


@pytest.mark.parametrize(
    "found", [("127.0.0.1",), ("93.184.216.34", "127.0.0.1"), ("93.184.216.34", "fd00::1")]
)
async def test_one_bad_address_refuses_the_name_and_is_not_told(found: tuple[str, ...]) -> None:
    with pytest.raises(Refused) as caught:
        await GuardedResolver(Answers(*found), GUARD).resolve("evil.example", 80)
    assert "evil.example" in str(caught.value)
    assert found[-1] not in str(caught.value)


async def test_a_name_without_addresses_is_an_error_of_the_resolver() -> None:
    with pytest.raises(OSError, match="no address"):
        await GuardedResolver(Answers(), None).resolve("example.com", 80)


async def test_the_operators_names_are_not_checked() -> None:
    (found,) = await GuardedResolver(Answers("10.0.0.5"), None).resolve("llm", 8000)
    assert found["host"] == "10.0.0.5"


async def test_the_system_resolver_resolves_in_threads_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[str, int, str]] = []

    def getaddrinfo(host: str, port: int, **_: object) -> object:
        asked.append((host, port, threading.current_thread().name))
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34", port)),
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2606:4700::1111", port, 0, 0)),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    resolver = SystemResolver()
    found = await asyncio.wait_for(resolver.addresses("example.com", 443), 5)
    assert list(found) == ["93.184.216.34", "2606:4700::1111"]
    ((host, port, thread),) = asked
    assert (host, port) == ("example.com", 443)
    assert thread.startswith("dns")
    await resolver.aclose()
