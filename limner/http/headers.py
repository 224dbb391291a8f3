"""Headers that every answer carries, and which other origins may call.

The policy allows nothing that is not ours and nothing inline; what users or models made is served
in a sandbox (ASVS 5.0 chapter 3.4).
"""

from urllib.parse import parse_qsl, urlsplit

from aiohttp import hdrs, web

from limner.core.errors import Forbidden
from limner.http.auth import csrf
from limner.http.auth.callers import Caller
from limner.http.auth.cookies import is_https
from limner.http.auth.csrf import SAFE_METHODS
from limner.http.call import FRONT, REQUEST_ID
from limner.http.ports import Front

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src {images}; "
    "media-src {images}; connect-src 'self'; frame-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
SANDBOX_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data: cid:; sandbox"
MEDIA_POLICY = "default-src 'none'; sandbox"
HSTS = "max-age=31536000"
CORS_METHODS = "GET, POST, PUT, PATCH, DELETE"
CORS_HEADERS = (
    "Authorization, Content-Type, If-None-Match, Idempotency-Key, Last-Event-ID, Prefer, "
    "X-Request-Id, traceparent"
)
CORS_EXPOSED = (
    "ETag, Idempotency-Replayed, Link, Location, RateLimit, RateLimit-Policy, Retry-After, "
    "X-Request-Id"
)
PREFLIGHT_S = 600
FIRST_ERROR = 400


async def secure(request: web.Request, response: web.StreamResponse) -> None:
    """Add what is missing to the headers of an answer, just before they are sent."""
    front = request.app[FRONT]
    headers = response.headers
    headers.setdefault("Content-Security-Policy", policy(front))
    headers.setdefault("X-Content-Type-Options", "nosniff")
    headers.setdefault("X-Frame-Options", "DENY")
    # Not no-referrer: with it browsers send "Origin: null" with our own forms (Fetch, 3.2).
    headers.setdefault("Referrer-Policy", "same-origin")
    headers.setdefault("Cross-Origin-Opener-Policy", "same-origin")
    headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
    headers.setdefault("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
    if is_https(front):
        headers.setdefault("Strict-Transport-Security", HSTS)
    # What may be kept says so itself; everything else is somebody's own.
    headers.setdefault(hdrs.CACHE_CONTROL, "no-store")
    headers.setdefault("X-Request-Id", request.get(REQUEST_ID, ""))
    headers.pop(hdrs.SERVER, None)
    await csrf.remember_visitor(request, response)
    _allow_origin(front, request, response)


def policy(front: Front) -> str:
    """Give the Content-Security-Policy of our own pages.

    Pictures may also come from the object store, where that is another origin.
    """
    images = " ".join(dict.fromkeys(["'self'", *_object_origins(front)]))
    return POLICY.format(images=images)


def _object_origins(front: Front) -> list[str]:
    """Give the origins of the object store's links, if it serves them itself."""
    if front.signed_objects is not None:
        return [_origin(front.settings.base_url)]
    given = dict(parse_qsl(urlsplit(front.settings.objects).query))
    endpoint = given.get("public_endpoint") or given.get("endpoint", "")
    return [_origin(endpoint)] if endpoint else ["https:"]


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _allow_origin(front: Front, request: web.Request, response: web.StreamResponse) -> None:
    """Let a configured origin read the answer; never with the browser's own credentials."""
    allowed = front.settings.http.cors_origins
    if not allowed:
        return
    response.headers.add(hdrs.VARY, hdrs.ORIGIN)
    origin = request.headers.get(hdrs.ORIGIN)
    if origin in allowed:
        response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
        response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = CORS_EXPOSED


def preflight(front: Front, request: web.Request) -> web.Response | None:
    """Answer a preflight of a configured origin (Fetch standard, section 3.3)."""
    asked = hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
    known = request.headers.get(hdrs.ORIGIN) in front.settings.http.cors_origins
    if request.method != "OPTIONS" or not asked or not known:
        return None
    return web.Response(
        status=204,
        headers={
            hdrs.ACCESS_CONTROL_ALLOW_METHODS: CORS_METHODS,
            hdrs.ACCESS_CONTROL_ALLOW_HEADERS: CORS_HEADERS,
            hdrs.ACCESS_CONTROL_MAX_AGE: str(PREFLIGHT_S),
        },
    )


def refuse_foreign(request: web.Request, caller: Caller) -> None:
    """Refuse a change that another site makes a browser ask for, signed in or not.

    Browsers say where a request comes from (Sec-Fetch-Site, else Origin); other programs say
    nothing and hold no cookies of somebody else. An Authorization header and a signed path are
    nothing that a browser adds by itself. A configured origin may ask without a cookie.

    Raises:
        Forbidden: the request comes from another site.
    """
    if request.method in SAFE_METHODS or hdrs.AUTHORIZATION in request.headers:
        return
    if csrf.is_signed(request) or not _is_foreign(request):
        return
    friends = request.app[FRONT].settings.http.cors_origins
    if not caller.by_cookie and request.headers.get(hdrs.ORIGIN) in friends:
        return
    raise Forbidden("this request comes from another site", code="foreign_origin")


def _is_foreign(request: web.Request) -> bool:
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site not in {"same-origin", "none"}
    origin = request.headers.get(hdrs.ORIGIN)
    own = {request.host, urlsplit(request.app[FRONT].settings.base_url).netloc}
    return origin is not None and urlsplit(origin).netloc not in own
