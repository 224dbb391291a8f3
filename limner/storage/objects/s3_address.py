"""The setting of an S3 store: ``s3://bucket?endpoint=…&region=…&public_endpoint=…``."""

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

from limner.core.errors import NotConfigured

REGION = "us-east-1"
OPTIONS = ("endpoint", "public_endpoint", "region")

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_REGION = re.compile(r"[a-z0-9-]{1,64}")


@dataclass(frozen=True)
class Address:
    """Which bucket, where, and with which keys.

    ``endpoint`` is ``None`` for Amazon's own; ``public_endpoint`` is where links lead, if that is
    somewhere else. Both keys empty means: as the machine is set up (environment, profile, role).
    """

    bucket: str
    endpoint: str | None
    public_endpoint: str | None
    region: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)


def read_address(url: str, access_key: str, secret_key: str) -> Address:
    """Read the settings of the store.

    Raises:
        NotConfigured: code ``settings``; the sentence says what is wrong.
    """
    parts = urlsplit(url)
    if parts.scheme != "s3" or not _BUCKET.fullmatch(parts.netloc):
        raise _misread("it names no bucket (3 to 63 of a-z, 0-9, dot and hyphen)")
    if parts.path not in {"", "/"} or parts.fragment:
        raise _misread("the bucket is Limner's alone: no path follows it")
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    options = dict(pairs)
    unknown = sorted(set(options) - set(OPTIONS))
    if unknown or len(options) != len(pairs):
        raise _misread(f"its options are {', '.join(OPTIONS)}, each once")
    region = options.get("region", REGION)
    if not _REGION.fullmatch(region):
        raise _misread("region is a name such as us-east-1")
    if bool(access_key) != bool(secret_key):
        raise NotConfigured(
            "LIMNER_OBJECTS_ACCESS_KEY and LIMNER_OBJECTS_SECRET_KEY go together: set both or none",
            code="settings",
        )
    return Address(
        bucket=parts.netloc,
        endpoint=_endpoint("endpoint", options),
        public_endpoint=_endpoint("public_endpoint", options),
        region=region,
        access_key=access_key,
        secret_key=secret_key,
    )


def _endpoint(name: str, options: dict[str, str]) -> str | None:
    """Give an endpoint without a slash at its end, if there is one."""
    text = options.get(name)
    if text is None:
        return None
    try:
        parts = urlsplit(text)
        fine = parts.scheme in {"http", "https"} and bool(parts.hostname)
        fine = fine and not (parts.username or parts.query or parts.fragment)
        fine = fine and (parts.port is None or parts.port > 0)
    except ValueError:
        fine = False
    if not fine:
        raise _misread(f"{name} is written https://host[:port]")
    return text.rstrip("/")


def _misread(why: str) -> NotConfigured:
    form = "s3://BUCKET?endpoint=https://HOST:PORT&region=REGION&public_endpoint=https://HOST"
    return NotConfigured(f"LIMNER_OBJECTS_URL: {why}. It is written {form}", code="settings")
