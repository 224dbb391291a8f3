"""Calls to a provider of identities: bounded in size and time, every failure with its mend."""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlencode

from yarl import URL

from limner.core.addresses import parse_url
from limner.core.answers import Limits
from limner.core.errors import (
    Ambiguous,
    Forbidden,
    Invalid,
    LimnerError,
    Permanent,
    Refused,
    Transient,
)
from limner.core.logs import get_logger
from limner.http.ports import Front

log = get_logger("http")

LIMITS = Limits(max_bytes=1_000_000, total_s=10.0, connect_s=5.0)
TOO_MANY = 429
FIRST_SERVER_ERROR = 500
SHOWN_CHARACTERS = 100


class ProviderFault(LimnerError):
    """The provider does not do what this service needs of it; its operator has to mend that."""

    code = "provider_failed"
    status = 502


@dataclass(frozen=True)
class Told:
    """What a provider answered: a status and a JSON object, empty if there was none."""

    status: int
    content: Mapping[str, Any]

    def text(self, name: str) -> str:
        """Give a member that is a string, or an empty one."""
        value = self.content.get(name)
        return value if isinstance(value, str) else ""


def away(label: str) -> Transient:
    """Give the error for a provider that does not answer; the mend is to wait or go another way."""
    return Transient(
        f"{label} does not answer now. Try again in a minute, or sign in another way",
        code="provider_away",
    )


def faulty(label: str, reason: str) -> ProviderFault:
    """Give the error for a provider that answers, but not as it must."""
    return ProviderFault(
        f"Signing in by {label} does not work: {reason}. "
        "Sign in another way, and tell whoever runs this service"
    )


def distrusted(label: str, reason: str) -> Forbidden:
    """Give the error for an answer that must not be believed."""
    log.warning("an answer about an identity was not believed", provider=label, reason=reason)
    return Forbidden(
        f"What {label} answered cannot be trusted: {reason}. Begin again",
        code="oauth_refused",
    )


async def ask(
    front: Front,
    label: str,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    form: Mapping[str, str] | None = None,
) -> tuple[int, Any]:
    """Send a request and give status and JSON; a status from 500 on never comes back.

    ``form`` is sent as application/x-www-form-urlencoded.

    Raises:
        Transient: code ``provider_away``: no answer in time, or one that says to come later.
        ProviderFault: the answer is no JSON, or too large.
    """
    sent = {"Accept": "application/json", **(headers or {})}
    body = None
    if form is not None:
        sent["Content-Type"] = "application/x-www-form-urlencoded"
        body = urlencode(form).encode()
    try:
        answer = await front.outgoing.request(
            method, url, headers=sent, body=body, limits=LIMITS, guarded=False
        )
    except (Transient, Ambiguous) as error:
        log.warning("a provider of identities is away", provider=label, error=error.detail)
        raise away(label) from error
    except (Permanent, ValueError) as error:
        raise faulty(label, "its address or its answer is not usable") from error
    if answer.status >= FIRST_SERVER_ERROR or answer.status == TOO_MANY:
        log.warning("a provider of identities is away", provider=label, status=answer.status)
        raise away(label)
    try:
        return answer.status, await answer.json()
    except Invalid as error:
        raise faulty(label, f"it answered {answer.status} without JSON") from error


async def ask_object(
    front: Front,
    label: str,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    form: Mapping[str, str] | None = None,
) -> Told:
    """Send a request and give an answer that must be a JSON object; errors as ``ask``."""
    status, content = await ask(front, label, method, url, headers=headers, form=form)
    if not isinstance(content, dict):
        raise faulty(label, f"it answered {status} without a JSON object")
    return Told(status, content)


def shown(text: str) -> str:
    """Give what the other side said, cut and without what is not printable, for an error."""
    return "".join(each for each in text[:SHOWN_CHARACTERS] if each.isprintable())


def is_loopback(host: str) -> bool:
    """Whether a URL's host is this machine by its name or address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def trusted_url(text: str, *, issuer: str | None = None) -> URL:
    """Give an address of a provider: https, or plain http on this machine.

    An ``issuer`` with https must have all its addresses under https.

    Raises:
        Refused: it is neither.
    """
    url = parse_url(text)
    plain_is_fine = issuer is None or issuer.startswith("http:")
    if url.scheme != "https" and not (plain_is_fine and is_loopback(url.host or "")):
        raise Refused("an address that is neither https nor, for http, on this machine")
    return url
