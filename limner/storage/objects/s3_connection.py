"""The client of an S3 store: made when first needed, one for the life of the process."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any, Final

from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore.handlers import add_expect_header

from limner.core.errors import EngineUnavailable
from limner.storage.objects.s3_address import Address
from limner.storage.objects.s3_errors import translated

CALL_S = 45.0
"""How long a call without a body may take, its repetitions included."""
TRANSFER_S = 120.0
"""How long one part may take on its way up; a body on its way down is timed between its pieces."""
CONNECT_S = 3.0
READ_S = 15.0
ATTEMPTS: Final = 3
CONNECTIONS: Final = 32


class Connection:
    """Gives the driver's client, and a second one that only signs links to the public endpoint."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._stack = AsyncExitStack()
        self._lock = asyncio.Lock()
        self._client: Any = None
        self._signing: Any = None
        self._closed = False

    async def call(self, operation: str, limit_s: float = CALL_S, **parameters: Any) -> Any:
        """Ask the bucket; ``operation`` is a method of the driver's client.

        Raises:
            NotFound: no such object.
            Invalid: code ``range_not_satisfiable``.
            EngineUnavailable: see ``s3_errors``.
        """
        with translated():
            async with asyncio.timeout(limit_s):
                client, _ = await self._clients()
                method = getattr(client, operation)
                return await method(Bucket=self.address.bucket, **parameters)

    async def sign(self, operation: str, expires_s: int, **parameters: Any) -> str:
        """Sign a URL for an operation on the bucket; nothing is sent.

        Raises:
            EngineUnavailable: there are no keys to sign with.
        """
        with translated():
            async with asyncio.timeout(CALL_S):
                _, client = await self._clients()
                url: str = await client.generate_presigned_url(
                    operation,
                    Params={"Bucket": self.address.bucket, **parameters},
                    ExpiresIn=expires_s,
                )
                return url

    async def aclose(self) -> None:
        """Close what is open; calls from now on are refused."""
        async with self._lock:
            self._closed = True
            self._client = self._signing = None
            await self._stack.aclose()

    async def _clients(self) -> tuple[Any, Any]:
        if self._client is None:
            async with self._lock:
                if self._closed:
                    raise EngineUnavailable("The object store is closed")
                if self._client is None:
                    await self._open()
        return self._client, self._signing

    async def _open(self) -> None:
        address = self.address
        session = AioSession()
        client = await self._enter(session, address.endpoint)
        if address.public_endpoint not in {None, address.endpoint}:
            self._signing = await self._enter(session, address.public_endpoint)
        else:
            self._signing = client
        self._client = client

    async def _enter(self, session: AioSession, endpoint: str | None) -> Any:
        client = await self._stack.enter_async_context(
            session.create_client(
                "s3",
                region_name=self.address.region,
                endpoint_url=endpoint,
                aws_access_key_id=self.address.access_key or None,
                aws_secret_access_key=self.address.secret_key or None,
                config=_config(_addressing(endpoint, self.address.bucket)),
            )
        )
        # A server that does not know "Expect: 100-continue" would let every upload wait in vain.
        client.meta.events.unregister("before-call.s3", add_expect_header)
        client.meta.events.register("before-call.s3", _stay_in_region)
        return client


def _stay_in_region(params: dict[str, Any], **_: Any) -> None:
    """Keep the driver from looking for another region after a redirect.

    It asks the same server where the bucket is, which may redirect again, without an end; and
    links, which nobody redirects, need the right region in the settings anyway.
    """
    params["context"].setdefault("s3_redirect", {})["redirected"] = True


def _addressing(endpoint: str | None, bucket: str) -> str:
    """Say where a URL carries the bucket: in its host at Amazon, in its path elsewhere.

    Left to itself the driver signs links for Amazon's global host, which redirects to the bucket's
    region, where the signature is void. A bucket with dots fits no certificate as a host.
    """
    return "virtual" if endpoint is None and "." not in bucket else "path"


def _config(addressing: str) -> AioConfig:
    return AioConfig(
        # The driver's data files are read in a thread, not on the loop.
        warm_up_loader_caches=True,
        signature_version="s3v4",
        connect_timeout=CONNECT_S,
        read_timeout=READ_S,
        max_pool_connections=CONNECTIONS,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        # The checksums that newer drivers add to everything are unknown to some S3 stores, and
        # the hash of a body would be taken on the loop: we sign a Content-MD5 of our own instead.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={
            "addressing_style": addressing,
            "payload_signing_enabled": False,
        },
    )
