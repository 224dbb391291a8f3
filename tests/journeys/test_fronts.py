"""Two fronts over the same engines are one service: accounts, sessions, limits, keys, streams."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.contracts.engines import prepare
from tests.journeys.cluster import ALL_ENGINES, Cluster, Member, Part, cluster, shared_engines
from tests.journeys.process import until

pytestmark = [pytest.mark.journey, pytest.mark.real, pytest.mark.timeout(180)]

PARTS = (
    Part("one", "mailer,generator", http=True),
    Part("two", "none", http=True),
)
PASSWORD = "a heron at the window"
REVOKED_WITHIN_S = 5.0
TOKEN = re.compile(r"/verify-email\?token=([A-Za-z0-9_-]+)")


@pytest.fixture(autouse=True)
def _engines(request: pytest.FixtureRequest) -> None:
    prepare(ALL_ENGINES, request)


@asynccontextmanager
async def two_fronts(folder: Path) -> AsyncIterator[tuple[Cluster, Member, Member]]:
    async with shared_engines() as engines, cluster(engines, PARTS, folder) as made:
        await made.start()
        one, two = made.fronts
        yield made, one, two
        await made.stop()


class Person:
    """Somebody with an account, at whichever front they like."""

    def __init__(self, http: aiohttp.ClientSession, email: str) -> None:
        self._http = http
        self.email = email

    async def post(
        self, front: Member, path: str, body: Any = None, token: str = "", **headers: str
    ) -> tuple[int, dict[str, Any], dict[str, str]]:
        return await self._send("POST", front, path, body, token, headers)

    async def get(self, front: Member, path: str, token: str) -> tuple[int, dict[str, Any]]:
        status, body, _ = await self._send("GET", front, path, None, token, {})
        return status, body

    async def delete(self, front: Member, path: str, token: str) -> int:
        status, _, _ = await self._send("DELETE", front, path, None, token, {})
        return status

    async def _send(
        self,
        method: str,
        front: Member,
        path: str,
        body: Any,
        token: str,
        headers: dict[str, str],
    ) -> tuple[int, dict[str, Any], dict[str, str]]:
        if token:
            headers["Authorization"] = f"Bearer {token}"
        async with self._http.request(
            method, front.url + path, json=body, headers=headers
        ) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text else {}, dict(answer.headers)

    async def make_account(self, one: Member, two: Member) -> None:
        """Register at one front and verify at the other, by the mail that comes."""
        body = {"email": self.email, "password": PASSWORD, "name": "Anna"}
        status, made, _ = await self.post(one, "/api/auth/register", body)
        assert status == 201, made

        async def token() -> str:
            mails = (await one.request("GET", "/api/mailbox"))["data"]
            for mail in mails:
                if mail["to"] == [self.email]:
                    whole = await one.request("GET", f"/api/mailbox/{mail['id']}")
                    found = TOKEN.search(whole["text"])
                    return found[1] if found else ""
            return ""

        found = ""

        async def arrived() -> bool:
            nonlocal found
            found = await token()
            return bool(found)

        await until(arrived, 30, "the mail that verifies")
        status, body, _ = await self.post(two, "/api/auth/verify-email", {"token": found})
        assert status == 200, body

    async def sign_in(self, front: Member) -> dict[str, Any]:
        """Give the tokens of a new session."""
        body = {"email": self.email, "password": PASSWORD}
        status, tokens, _ = await self.post(front, "/api/auth/login", body)
        assert status == 200, tokens
        return tokens


@asynccontextmanager
async def somebody(one: Member, two: Member) -> AsyncIterator[Person]:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
        person = Person(http, "anna@example.org")
        await person.make_account(one, two)
        yield person


async def test_what_one_front_grants_and_revokes_holds_at_the_other(tmp_path: Path) -> None:
    async with two_fronts(tmp_path) as (made, one, two), somebody(one, two) as anna:
        tokens = await anna.sign_in(one)
        access = tokens["access_token"]
        assert (await anna.get(two, "/api/me", access))[1]["email"] == anna.email

        await asyncio.to_thread(made.engines.redis.flush, made.engines.databases)
        assert (await anna.get(two, "/api/me", access))[0] == 200

        status, renewed, _ = await anna.post(
            two, "/api/auth/refresh", {"refresh_token": tokens["refresh_token"]}
        )
        assert status == 200, renewed
        status, _, _ = await anna.post(
            one, "/api/auth/refresh", {"refresh_token": tokens["refresh_token"]}
        )
        assert status == 401, "a refresh token is used once"

        async def refused() -> bool:
            answers = [await anna.get(front, "/api/me", access) for front in (one, two)]
            return all(status == 401 for status, _ in answers)

        await until(refused, REVOKED_WITHIN_S, "the end of the session at both fronts")
        status, _, _ = await anna.post(
            two, "/api/auth/refresh", {"refresh_token": renewed["refresh_token"]}
        )
        assert status == 401, "the family ends with a reuse"


async def test_a_stream_at_one_front_ends_when_its_session_is_revoked_at_the_other(
    tmp_path: Path,
) -> None:
    async with two_fronts(tmp_path) as (_, one, two), somebody(one, two) as anna:
        watching, deciding = await anna.sign_in(two), await anna.sign_in(one)
        status, page = await anna.get(one, "/api/sessions", deciding["access_token"])
        assert status == 200
        other = next(session for session in page["data"] if not session["current"])
        async with aiohttp.ClientSession() as http:
            headers = {"Authorization": f"Bearer {watching['access_token']}"}
            async with http.get(f"{two.url}/api/stream", headers=headers) as stream:
                assert stream.status == 200
                await stream.content.readany()
                ended = f"/api/sessions/{other['id']}"
                assert await anna.delete(one, ended, deciding["access_token"]) == 204
                async with asyncio.timeout(REVOKED_WITHIN_S + 1):
                    while await stream.content.readany():
                        continue


async def test_a_picture_that_is_asked_for_at_one_front_is_followed_at_the_other(
    tmp_path: Path,
) -> None:
    async with two_fronts(tmp_path) as (_, one, two), somebody(one, two) as anna:
        access = (await anna.sign_in(one))["access_token"]
        wish = {"prompt": "a red circle", "seed": 1}
        key = {"Idempotency-Key": '"the-same"'}
        async with aiohttp.ClientSession() as http:
            headers = {"Authorization": f"Bearer {access}"}
            async with http.get(f"{two.url}/api/stream", headers=headers) as stream:
                first = await anna.post(one, "/api/generate/image", wish, access, **key)
                again = await anna.post(two, "/api/generate/image", wish, access, **key)
                assert (first[0], again[0]) == (202, 202), (first, again)
                assert first[1]["id"] == again[1]["id"]
                assert again[2]["Idempotency-Replayed"] == "true"
                heard = b""
                async with asyncio.timeout(60):
                    while b'"succeeded"' not in heard:
                        heard += await stream.content.readany()
        assert first[1]["id"].encode() in heard
        status, job = await anna.get(two, f"/api/generate/{first[1]['id']}", access)
        assert (status, job["state"], len(job["outputs"])) == (200, "succeeded", 1)


async def test_a_limit_is_one_for_both_fronts_and_survives_a_flushed_cache(tmp_path: Path) -> None:
    async with two_fronts(tmp_path) as (made, one, two):
        await one.request(
            "PUT",
            "/api/settings",
            {"rate_limit_anonymous_per_s": 0.1, "rate_limit_anonymous_burst": 6},
        )
        async with aiohttp.ClientSession() as http:

            async def ask(front: Member) -> int:
                async with http.get(f"{front.url}/docs") as answer:
                    return answer.status

            async def limited() -> bool:
                await asyncio.to_thread(made.engines.redis.flush, made.engines.databases)
                found = [await ask(front) for front in (one, two) * 4]
                return found == [200] * 6 + [429] * 2

            # The other front knows the new limit some seconds later; each look flushes first, so
            # that what is counted begins anew and is counted at both.
            await until(limited, 15, "six requests for both fronts together", look_s=0.5)
            assert await ask(one) == await ask(two) == 429
