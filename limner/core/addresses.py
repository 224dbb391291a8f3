"""Where an outgoing call may go: the guard against requests to our own networks (SSRF).

Whoever enters a URL (a source, a provider, a webhook) makes this machine connect somewhere. The
guard reads the URL with the parser that also makes the request, refuses every spelling of a host
that is not plain, and lets the connector see validated addresses only, so that the address that
was checked is the address that is connected to and a name that changes its answer gains nothing.
"""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from limner.core.errors import Refused

MAX_URL_CHARACTERS = 8_000
DNS_THREADS = 8

# Ports whose protocols can mistake the lines of an HTTP request for their own commands. The list
# of the Fetch standard (section 2.9, "port blocking"), and the databases, brokers, caches and
# remote shells that usually stand behind a server like this one.
_FETCH_PORTS = (
    {0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95}
    | {101, 102, 103, 104, 109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179}
    | {389, 427, 465, 512, 513, 514, 515, 526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601}
    | {636, 989, 990, 993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566}
    | {6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080}
)
_ENGINE_PORTS = (
    {445, 873, 1433, 1521, 2181, 2375, 2376, 2379, 2380, 3306, 3389, 4369, 5432, 5671, 5672}
    | {5900, 5984, 6379, 6380, 9042, 9092, 9200, 9300, 11211, 15672, 25672, 26379}
    | {27017, 27018, 27019, 33060}
)
DENIED_PORTS = frozenset(_FETCH_PORTS | _ENGINE_PORTS)

# What ``is_global`` of Python 3.11 lets through although it leads, or may lead, back inside:
# NAT64, 6to4 and its relays, protocol assignments, segment routing, documentation.
_NOT_PUBLIC = tuple(
    ipaddress.ip_network(each)
    for each in (
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "2002::/16",
        "192.0.0.0/24",
        "192.88.99.0/24",
        "3fff::/20",
        "5f00::/16",
    )
)
# IANA has given out no other global unicast addresses; the rest holds IPv4-compatible addresses,
# site-local ones and other things that routers may read in their own way.
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_AUTHORITY = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)")
_NAME = re.compile(
    r"(?=.{1,253}$)[a-z0-9_](?:[a-z0-9_-]{0,62})(?:\.[a-z0-9_](?:[a-z0-9_-]{0,62}))*",
)
# A last label of digits, or hexadecimal: the URL standard reads such a host as an IPv4 address.
_NUMERIC_END = re.compile(r"(?:^|\.)(?:[0-9]+|0x[0-9a-f]*)$")


class Resolver(Protocol):
    """How names become addresses."""

    async def addresses(self, host: str, port: int) -> Sequence[str]:
        """Give the addresses of ``host``, IPv4 and IPv6, in the order to try.

        Raises:
            OSError: the name cannot be resolved.
        """
        ...

    async def aclose(self) -> None:
        """Give back what it holds."""
        ...


class SystemResolver:
    """The machine's resolver, in threads of its own.

    A name server that never answers so holds up other names at worst, and not the threads that
    the rest of the process works in.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(DNS_THREADS, thread_name_prefix="dns")

    async def addresses(self, host: str, port: int) -> Sequence[str]:
        """Ask getaddrinfo."""
        found = await asyncio.get_running_loop().run_in_executor(
            self._threads,
            lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM),
        )
        return [str(each[4][0]) for each in found]

    async def aclose(self) -> None:
        """Forget the questions that no thread has taken up."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def refused(reason: str) -> Refused:
    """Give the error of the guard; ``reason`` says what about the address is not allowed."""
    return Refused(reason, code="address_refused")


def is_public(address: str) -> bool:
    """Say whether ``address``, a literal of either family, belongs to the public internet.

    An IPv4 address mapped into IPv6 (RFC 4291 section 2.5.5.2) is judged as the IPv4 address.
    What is no address at all, or carries a scope, is not public.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.scope_id is not None:
            return False
        ip = ip.ipv4_mapped or ip
    if not ip.is_global or ip.is_multicast or any(ip in net for net in _NOT_PUBLIC):
        return False
    return ip.version == 4 or ip in _GLOBAL_UNICAST


class AddressGuard:
    """Decides about URLs before a request and about addresses before a connection.

    ``allowed`` holds ``host:port`` entries, as written in URLs (``[::1]:8080`` for IPv6), that
    are let through whatever they resolve to and whatever their port is.
    """

    def __init__(self, allowed: frozenset[str]) -> None:
        self._allowed = frozenset(each.strip().lower() for each in allowed)

    def allows(self, host: str, port: int) -> bool:
        """Say whether the operator has listed this host and port."""
        return (f"[{host}]:{port}" if ":" in host else f"{host}:{port}") in self._allowed

    def check(self, url: URL) -> None:
        """Check scheme, port and, where the host is an address itself, the address.

        Raises:
            Refused: code ``address_refused``, with the reason.
        """
        host, port = url.raw_host or "", url.port or 0
        if self.allows(host, port):
            return
        if port in DENIED_PORTS:
            raise refused(f"port {port} is not a port of web servers")
        if (":" in host or _NUMERIC_END.search(host)) and not is_public(host):
            raise refused(f"{host} is not an address of the public internet")

    def check_addresses(self, host: str, port: int, found: Sequence[str]) -> None:
        """Check what a name resolved to; one bad address among good ones refuses the name.

        Raises:
            Refused: code ``address_refused``.
        """
        if not self.allows(host, port) and not all(is_public(each) for each in found):
            # The address stays unsaid: who entered the URL shall not map our network with it.
            raise refused(f"{host} leads to an address outside the public internet")


def parse_url(text: str) -> URL:
    """Read an absolute http or https URL with a plain host, as the request will be made.

    Names are mapped by IDNA (full-width digits and dots become plain ones) and lower-cased, and
    an IPv4 address must be in its usual form of four decimal numbers.

    Raises:
        Refused: code ``address_refused``, with the reason.
    """
    if len(text) > MAX_URL_CHARACTERS or _CONTROL.search(text):
        raise refused("the URL is too long or contains control characters")
    authority = _AUTHORITY.match(text)
    if authority is not None and "@" in authority.group(1):
        raise refused("the URL must not contain a user name or password")
    try:
        url = URL(text)
        host = (url.raw_host or "").removesuffix(".")
    except ValueError:
        raise refused("this is not a URL") from None
    if url.scheme not in {"http", "https"} or not url.absolute:
        raise refused("only http:// and https:// URLs are allowed")
    if ":" in host:
        plain = "%" not in host
    elif _NUMERIC_END.search(host):
        plain = _is_dotted_quad(host)
    else:
        plain = _NAME.fullmatch(host) is not None
    if not plain:
        raise refused("the URL's host is not a plain name or address")
    return url.with_host(host).with_fragment(None)


def _is_dotted_quad(host: str) -> bool:
    try:
        return str(ipaddress.IPv4Address(host)) == host
    except ValueError:
        return False


class GuardedResolver(AbstractResolver):
    """The connector's resolver: asks, checks, and gives exactly what was checked.

    Without a guard (addresses of the operator) it only asks.
    """

    def __init__(self, resolver: Resolver, guard: AddressGuard | None) -> None:
        self._resolver = resolver
        self._guard = guard

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Give the addresses of ``host``.

        Raises:
            OSError: the name cannot be resolved.
            Refused: code ``address_refused``.
        """
        found = await self._resolver.addresses(host, port)
        if not found:
            raise OSError(f"{host} has no address")
        if self._guard is not None:
            self._guard.check_addresses(host, port, found)
        return [
            ResolveResult(
                hostname=host,
                host=each,
                port=port,
                family=socket.AF_INET6 if ":" in each else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for each in found
        ]

    async def close(self) -> None:
        """Leave the resolver open; its owner closes it."""
