"""The session cookie: a signed token that names the account and ends after 30 days.

Over https it carries the prefix ``__Host-``, which binds it to this host and to encrypted
connections (RFC 6265bis section 4.1.3.2).
"""

from datetime import timedelta
from urllib.parse import urlsplit

from aiohttp import web

from limner.core.errors import Unauthenticated
from limner.http.ports import Front

NAME = "limner_session"
PURPOSE = "session"
LIFE_S = 30 * 24 * 3600


def is_https(front: Front) -> bool:
    """Whether the service is reached over https."""
    return urlsplit(front.settings.base_url).scheme == "https"


def name_of(front: Front) -> str:
    """Give the cookie's name."""
    return f"__Host-{NAME}" if is_https(front) else NAME


def read(front: Front, request: web.Request) -> str | None:
    """Give the cookie's value, if there is one."""
    return request.cookies.get(name_of(front))


def user_of(front: Front, token: str) -> str:
    """Give the id of the account that a cookie names.

    Raises:
        Unauthenticated: it is not ours or has expired.
    """
    payload = front.signer.open(PURPOSE, token, front.clock.now())
    user = payload.get("user")
    if not isinstance(user, str):
        raise Unauthenticated("This session is not valid", code="token_invalid")
    return user


def put(front: Front, response: web.Response, user_id: str) -> None:
    """Sign ``user_id`` in with this answer."""
    now = front.clock.now()
    payload = {"user": user_id, "at": int(now.timestamp())}
    response.set_cookie(
        name_of(front),
        front.signer.token(PURPOSE, payload, now + timedelta(seconds=LIFE_S)),
        max_age=LIFE_S,
        path="/",
        secure=is_https(front),
        httponly=True,
        samesite="Lax",
    )


def clear(front: Front, response: web.Response) -> None:
    """Sign out with this answer."""
    response.del_cookie(
        name_of(front), path="/", secure=is_https(front), httponly=True, samesite="Lax"
    )
