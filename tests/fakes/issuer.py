"""An OpenID provider on loopback that is strict with its client, and lies when told to.

It follows OpenID Connect Core 1.0 and RFC 7636: a code is for one client, one redirect_uri, one
challenge and one use. ``claims``, ``header``, ``answer`` and ``forge`` change what it says.
"""

import base64
import hashlib
import json
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote_plus, urlsplit

from aiohttp import web
from aiohttp.test_utils import TestServer
from joserfc import jws
from joserfc.jwk import ECKey, Key
from yarl import URL

from limner.core.clock import Clock

CLIENT_ID = "limner"
CLIENT_SECRET = "a secret: with+signs%"
LIFE_S = 300
ANNA: dict[str, Any] = {
    "sub": "anna-at-the-issuer",
    "email": "anna@example.com",
    "email_verified": True,
    "name": "Anna Example",
}


def key_pair(kid: str = "first") -> ECKey:
    """Make a key that signs ID tokens."""
    return ECKey.generate_key("P-256", {"kid": kid, "use": "sig", "alg": "ES256"})


def encoded(raw: bytes) -> str:
    """Give base64url without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@dataclass
class Issuer:
    """See the module. ``account`` is who is signed in there; ``asked`` counts calls by path."""

    clock: Clock
    url: str = ""
    account: dict[str, Any] = field(default_factory=lambda: dict(ANNA))
    key: Key = field(default_factory=key_pair)
    shown: list[dict[str, Any]] | None = None
    client_secret: str = CLIENT_SECRET
    methods: list[str] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    claims: dict[str, Any] = field(default_factory=dict)
    header: dict[str, Any] = field(default_factory=dict)
    answer: dict[str, Any] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    forge: Callable[[str], str] = str
    statuses: dict[str, int] = field(default_factory=dict)
    raw: dict[str, bytes] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    tokens: dict[str, dict[str, Any]] = field(default_factory=dict)
    token_error: str = ""

    def approve(self, location: str) -> str:
        """Do what the person does there: check the request and give the way back."""
        asked = dict(parse_qsl(urlsplit(location).query, strict_parsing=True))
        assert location.startswith(self.url + "/authorize?"), location
        assert asked["response_type"] == "code"
        assert asked["client_id"] == CLIENT_ID
        assert "openid" in asked["scope"].split()
        assert asked["code_challenge_method"] == "S256"
        assert min(map(len, (asked["state"], asked["nonce"], asked["code_challenge"]))) >= 43
        code = secrets.token_urlsafe(16)
        self.codes[code] = asked
        back = {"code": code, "state": asked["state"], "iss": self.url, **self.answer}
        given = {name: value for name, value in back.items() if value is not None}
        return str(URL(asked["redirect_uri"]).with_query(given))

    def signed(self, claims: dict[str, Any]) -> str:
        """Give an ID token, whatever its header says."""
        header = {"alg": "ES256", "kid": self.key.get("kid"), "typ": "JWT", **self.header}
        kept = {name: value for name, value in header.items() if value is not None}
        message = f"{encoded(json.dumps(kept).encode())}.{encoded(json.dumps(claims).encode())}"
        algorithm = jws.JWSRegistry.algorithms[str(header["alg"])]
        return f"{message}.{encoded(algorithm.sign(message.encode(), self.key))}"

    async def handle(self, request: web.Request) -> web.Response:
        self.asked[request.path] += 1
        if request.path in self.raw:
            return web.Response(body=self.raw[request.path], content_type="application/json")
        if request.path in self.statuses:
            return web.json_response({"error": "later"}, status=self.statuses[request.path])
        match request.path:
            case "/.well-known/openid-configuration":
                return web.json_response(self._metadata())
            case "/jwks":
                return web.json_response({"keys": self._shown()})
            case "/token":
                return await self._token(request)
            case "/userinfo":
                return self._userinfo(request)
        raise web.HTTPNotFound

    def _metadata(self) -> dict[str, Any]:
        told = {
            "issuer": self.url,
            "authorization_endpoint": self.url + "/authorize",
            "token_endpoint": self.url + "/token",
            "jwks_uri": self.url + "/jwks",
            "userinfo_endpoint": self.url + "/userinfo",
            "token_endpoint_auth_methods_supported": self.methods,
            "authorization_response_iss_parameter_supported": True,
            **self.metadata,
        }
        return {name: value for name, value in told.items() if value is not None}

    def _shown(self) -> list[dict[str, Any]]:
        if self.shown is not None:
            return self.shown
        return [dict(self.key.as_dict(private=False))]

    async def _token(self, request: web.Request) -> web.Response:
        form = {name: str(value) for name, value in (await request.post()).items()}
        if self.token_error:
            return web.json_response({"error": self.token_error}, status=400)
        if not self._is_client(request, form):
            return web.json_response({"error": "invalid_client"}, status=401)
        asked = self.codes.pop(form.get("code", ""), None)
        if asked is None or form["grant_type"] != "authorization_code":
            return web.json_response({"error": "invalid_grant"}, status=400)
        hashed = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        if (
            encoded(hashed) != asked["code_challenge"]
            or form["redirect_uri"] != asked["redirect_uri"]
        ):
            return web.json_response({"error": "invalid_grant"}, status=400)
        access = secrets.token_urlsafe(16)
        self.tokens[access] = dict(self.account)
        told = {
            "access_token": access,
            "token_type": "Bearer",
            "expires_in": LIFE_S,
            "id_token": self.forge(self.signed(self._claims(asked["nonce"], access))),
            **self.info,
        }
        return web.json_response({name: one for name, one in told.items() if one is not None})

    def _is_client(self, request: web.Request, form: dict[str, str]) -> bool:
        methods = self.methods or ["client_secret_basic"]
        scheme, _, pair = request.headers.get("Authorization", "").partition(" ")
        if scheme == "Basic" and "client_secret_basic" in methods:
            ident, _, secret = base64.b64decode(pair).decode().partition(":")
            given = (unquote_plus(ident), unquote_plus(secret))
            return given == (CLIENT_ID, self.client_secret) and "client_secret" not in form
        if "client_secret_post" in methods and not scheme:
            return (form.get("client_id"), form.get("client_secret")) == (
                CLIENT_ID,
                self.client_secret,
            )
        return "none" in methods and not scheme and form.get("client_id") == CLIENT_ID

    def _claims(self, nonce: str, access: str) -> dict[str, Any]:
        now = int(self.clock.now().timestamp())
        is_edwards = self.key.key_type == "OKP"
        whole = (hashlib.sha512 if is_edwards else hashlib.sha256)(access.encode()).digest()
        told = {
            "iss": self.url,
            "aud": CLIENT_ID,
            "exp": now + LIFE_S,
            "iat": now,
            "nonce": nonce,
            "at_hash": encoded(whole[: len(whole) // 2]),
            **self.account,
            **self.claims,
        }
        return {name: value for name, value in told.items() if value is not None}

    def _userinfo(self, request: web.Request) -> web.Response:
        _, _, access = request.headers.get("Authorization", "").partition(" ")
        if access not in self.tokens:
            return web.json_response({"error": "invalid_token"}, status=401)
        return web.json_response(self.tokens[access])


@asynccontextmanager
async def issuing(clock: Clock, **fields: Any) -> AsyncIterator[Issuer]:
    """Serve an issuer on loopback."""
    issuer = Issuer(clock, **fields)
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", issuer.handle)
    server = TestServer(application, host="127.0.0.1")
    await server.start_server()
    issuer.url = f"http://127.0.0.1:{server.port}"
    try:
        yield issuer
    finally:
        await server.close()
