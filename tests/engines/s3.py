"""A private S3: moto's server, which keeps everything in memory."""

import http.client
import itertools
import os
import sys
from collections.abc import Sequence
from contextlib import closing
from typing import ClassVar

from tests.engines.server import HOST, Server, exchange

ACCESS_KEY = "limner-tests"
SECRET_KEY = "the secret of the tests' objects"
REGION = "us-east-1"
_numbers = itertools.count(1)


class S3Server(Server):
    """``moto_server``; its objects do not survive its end, so cut a real fault by a proxy."""

    name: ClassVar[str] = "s3"
    port_names: ClassVar[Sequence[str]] = ("port",)

    def command(self) -> list[str]:
        return [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(self.port)]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONWARNINGS": "ignore"}

    def ready(self) -> bool:
        request = f"GET /moto-api/ HTTP/1.0\r\nHost: {HOST}\r\n\r\n".encode()
        return b" 200 " in exchange(self.port, request, 32, limit_s=5.0)

    @property
    def endpoint(self) -> str:
        """Where it is."""
        return f"http://{HOST}:{self.port}"

    def url(self, bucket: str, endpoint: str = "") -> str:
        """Give the setting for a bucket, at another endpoint if one stands in front."""
        return f"s3://{bucket}?endpoint={endpoint or self.endpoint}&region={REGION}"

    def fresh_bucket(self) -> str:
        """Make an empty bucket and give its name."""
        bucket = f"t{os.getpid()}-{next(_numbers)}"
        with closing(http.client.HTTPConnection(HOST, self.port, timeout=10)) as line:
            line.request("PUT", f"/{bucket}")
            status = line.getresponse().status
        assert status == 200, f"a bucket was refused with {status}"
        return bucket
