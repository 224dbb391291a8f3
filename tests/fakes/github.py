"""GitHub on loopback, written after its documentation and strict where that is.

https://docs.github.com/en/apps/oauth-apps/building-oauth-apps/authorizing-oauth-apps: the token
endpoint answers as JSON only if asked for it, tells of errors with status 200, and takes a code
once, within ten minutes, with the redirect_uri and the verifier that belong to it. The API of an
Enterprise Server is at ``/api/v3``; it wants a User-Agent.
"""

import base64
import hashlib
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

CLIENT_ID = "Iv1.0123456789abcdef"
CLIENT_SECRET = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class GitHub:
    """See the module. ``emails`` are those of the one who is signed in there."""

    url: str = ""
    user: dict[str, Any] = field(
        default_factory=lambda: {"id": 583231, "login": "octocat", "name": "The Octocat"}
    )
    emails: Any = field(
        default_factory=lambda: [
            {"email": "old@example.com", "primary": False, "verified": True, "visibility": None},
            {"email": "Anna@Example.com", "primary": True, "verified": True, "visibility": None},
        ]
    )
    answer: dict[str, str] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    tokens: dict[str, frozenset[str]] = field(default_factory=dict)

    def approve(self, location: str) -> str:
        """Do what the person does there: check the request and give the way back."""
        asked = dict(parse_qsl(urlsplit(location).query, strict_parsing=True))
        assert location.startswith(self.url + "/login/oauth/authorize?"), location
        assert asked["client_id"] == CLIENT_ID
        assert asked["code_challenge_method"] == "S256"
        code = secrets.token_hex(10)
        self.codes[code] = asked
        back = {"code": code, "state": asked["state"], **self.answer}
        return str(URL(asked["redirect_uri"]).with_query(back))

    async def token(self, request: web.Request) -> web.Response:
        """Exchange a code."""
        form = {name: str(value) for name, value in (await request.post()).items()}
        told = self._exchange(form)
        if "application/json" not in request.headers.get("Accept", ""):
            return web.Response(text=urlencode(told))
        return web.json_response(told)

    def _exchange(self, form: dict[str, str]) -> dict[str, str]:
        if (form.get("client_id"), form.get("client_secret")) != (CLIENT_ID, CLIENT_SECRET):
            return {"error": "incorrect_client_credentials"}
        asked = self.codes.pop(form.get("code", ""), None)
        if asked is None:
            return {"error": "bad_verification_code"}
        if form.get("redirect_uri") != asked["redirect_uri"]:
            return {"error": "redirect_uri_mismatch"}
        hashed = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        if base64.urlsafe_b64encode(hashed).rstrip(b"=").decode() != asked["code_challenge"]:
            return {"error": "bad_verification_code"}
        token = "gho_" + secrets.token_hex(18)
        self.tokens[token] = frozenset(asked["scope"].split())
        return {"access_token": token, "scope": asked["scope"], "token_type": "bearer"}

    async def api(self, request: web.Request) -> web.Response:
        """Answer a call of the REST API."""
        if not request.headers.get("User-Agent"):
            raise web.HTTPForbidden
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() not in {"bearer", "token"} or token not in self.tokens:
            return web.json_response({"message": "Bad credentials"}, status=401)
        path = request.path.removeprefix("/api/v3")
        if path in self.statuses:
            return web.json_response({"message": "no"}, status=self.statuses[path])
        if path == "/user":
            return web.json_response(self.user)
        if path == "/user/emails" and self.tokens[token] & {"user", "user:email"}:
            return web.json_response(self.emails)
        return web.json_response({"message": "Not Found"}, status=404)


@asynccontextmanager
async def github_server() -> AsyncIterator[GitHub]:
    """Serve it on loopback."""
    github = GitHub()
    application = web.Application()
    application.router.add_post("/login/oauth/access_token", github.token)
    application.router.add_get("/api/v3/{path:.*}", github.api)
    server = TestServer(application, host="127.0.0.1")
    await server.start_server()
    github.url = f"http://127.0.0.1:{server.port}"
    try:
        yield github
    finally:
        await server.close()
