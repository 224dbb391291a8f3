"""Cookies of ours: the session of a browser, and what tells a visitor's browser from another's.

A value is 256 random bits and nothing else; of a session's the database has the SHA-256. Over
https a name carries the prefix ``__Host-``, which binds the cookie to this host and to encrypted
connections (RFC 6265bis section 4.1.3.2).
"""

from urllib.parse import urlsplit

from aiohttp import hdrs, web

from limner.http.ports import Front

SESSION = "limner_session"
VISITOR = "limner_visitor"


def is_https(front: Front) -> bool:
    """Whether the service is reached over https."""
    return urlsplit(front.settings.base_url).scheme == "https"


def name_of(front: Front, name: str = SESSION) -> str:
    """Give the cookie's name as browsers know it."""
    return f"__Host-{name}" if is_https(front) else name


def read(front: Front, request: web.Request, name: str = SESSION) -> str | None:
    """Give the cookie's value, if there is one."""
    return request.cookies.get(name_of(front, name))


def put(
    front: Front,
    response: web.StreamResponse,
    value: str,
    *,
    life_s: int | None,
    name: str = SESSION,
) -> None:
    """Set a cookie with this answer; without ``life_s`` it ends with the browser."""
    response.set_cookie(
        name_of(front, name),
        value,
        max_age=life_s,
        path="/",
        secure=is_https(front),
        httponly=True,
        samesite="Lax",
    )


def put_late(
    front: Front,
    response: web.StreamResponse,
    value: str,
    *,
    life_s: int | None,
    name: str,
) -> None:
    """Set a cookie just before the answer is sent, when its others are among the headers."""
    put(front, response, value, life_s=life_s, name=name)
    cookie = response.cookies[name_of(front, name)]
    response.headers.add(hdrs.SET_COOKIE, cookie.OutputString())


def clear(front: Front, response: web.StreamResponse, name: str = SESSION) -> None:
    """Take a cookie back with this answer."""
    response.del_cookie(
        name_of(front, name), path="/", secure=is_https(front), httponly=True, samesite="Lax"
    )
