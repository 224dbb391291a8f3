"""A door before an S3 server that takes any signature: it lets in what S3 itself would.

Written after "Authenticating Requests: Using Query Parameters (AWS Signature Version 4)" in the
Amazon S3 API Reference, not after the driver that signs.
"""

import hashlib
import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, quote

import aiohttp
from aiohttp import web
from yarl import URL

ALGORITHM = "AWS4-HMAC-SHA256"
LONGEST_S = 604_800
KEPT = ("Content-Type", "Content-Disposition", "ETag", "Last-Modified")


class Refused(Exception):
    """The signature does not cover the request, or no longer."""


class SignatureDoor:
    """Verifies each request's signature, then hands it to the server behind.

    Args:
        endpoint: of the server behind.
        access_key: the only one that is known.
        secret_key: what belongs to it.
    """

    def __init__(self, endpoint: str, access_key: str, secret_key: str) -> None:
        self._endpoint = endpoint
        self._access_key = access_key
        self._secret_key = secret_key
        self._passed = timedelta()
        self._session: aiohttp.ClientSession | None = None

    async def pass_time(self, seconds: float) -> None:
        """Move the clock that links end by."""
        self._passed += timedelta(seconds=seconds)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[str]:
        """Listen on loopback and give the endpoint."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        async with aiohttp.ClientSession(auto_decompress=False) as self._session:
            try:
                yield f"http://{host}:{port}"
            finally:
                await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        try:
            self.verify(request)
        except (Refused, KeyError, ValueError) as error:
            return web.Response(status=403, text=f"{type(error).__name__}: {error}")
        assert self._session is not None
        # The server behind asks only whether there is a signature.
        scope = request.query["X-Amz-Credential"]
        headers = {"Authorization": f"{ALGORITHM} Credential={scope}"}
        if "Content-Type" in request.headers:
            headers["Content-Type"] = request.headers["Content-Type"]
        path, _, query = request.raw_path.partition("?")
        rest = "&".join(pair for pair in query.split("&") if not pair.startswith("X-Amz-"))
        sent = self._session.request(
            request.method,
            URL(f"{self._endpoint}{path}?{rest}", encoded=True),
            data=await request.read() if request.can_read_body else None,
            headers=headers,
        )
        async with sent as response:
            body = await response.read()
            kept = {name: response.headers[name] for name in KEPT if name in response.headers}
            return web.Response(status=response.status, body=body, headers=kept)

    def verify(self, request: web.Request) -> None:
        """Verify a request.

        Raises:
            Refused: changed, too late, or signed by someone else.
            KeyError: there is no signature, or a signed header is missing.
            ValueError: a parameter cannot be read.
        """
        path, _, text = request.raw_path.partition("?")
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text))
        query = dict(pairs)
        signature = query.pop("X-Amz-Signature")
        if len(query) != len(pairs) - 1 or query["X-Amz-Algorithm"] != ALGORITHM:
            raise Refused("query")
        access_key, *scope = query["X-Amz-Credential"].split("/")
        if access_key != self._access_key or scope[3:] != ["aws4_request"]:
            raise Refused("credential")
        self._verify_time(query["X-Amz-Date"], int(query["X-Amz-Expires"]), scope[0])
        names = query["X-Amz-SignedHeaders"].split(";")
        if "host" not in names or any(
            name.lower().startswith("x-amz-") and name.lower() not in names
            for name in request.headers
        ):
            raise Refused("headers")
        canonical = "\n".join(
            [
                request.method,
                path,
                "&".join(f"{_encoded(name)}={_encoded(query[name])}" for name in sorted(query)),
                *(f"{name}:{' '.join(request.headers[name].split())}" for name in names),
                "",
                query["X-Amz-SignedHeaders"],
                "UNSIGNED-PAYLOAD",
            ]
        )
        told = [ALGORITHM, query["X-Amz-Date"], "/".join(scope), _sha256(canonical)]
        if not hmac.compare_digest(self._sign(scope, "\n".join(told)), signature):
            raise Refused("signature")

    def _verify_time(self, date: str, expires_s: int, day: str) -> None:
        signed_at = datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        now = datetime.now(UTC) + self._passed
        if not 1 <= expires_s <= LONGEST_S or day != date[:8]:
            raise Refused("expires")
        if now >= signed_at + timedelta(seconds=expires_s):
            raise Refused("expired")

    def _sign(self, scope: list[str], told: str) -> str:
        key = f"AWS4{self._secret_key}".encode()
        for step in scope:
            key = hmac.digest(key, step.encode(), "sha256")
        return hmac.digest(key, told.encode(), "sha256").hex()


def _encoded(text: str) -> str:
    return quote(text, safe="-_.~")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
