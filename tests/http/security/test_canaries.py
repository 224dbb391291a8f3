"""Secrets end nowhere: not in logs, metrics, problems, streams, audit lines, or the database.

(ASVS 5.0, 13.3, 16.2.5, 16.4.1 and 16.5.) Every kind of secret is used as it is meant to be, then
put wherever it does not belong, on every route, which fails by a bug a second time.
"""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse

from limner.http.table import ROUTES
from limner.storage.sql.audit import AuditLine
from tests.fakes import sign_ins
from tests.fakes.front import Stage
from tests.fakes.issuer import Issuer
from tests.http.security.belongings import absent, all_rows, path_of
from tests.http.security.canaries import (
    EMAIL,
    Canaries,
    bytes_of,
    drive,
    leaks,
    logged,
    misplaced,
)

APART = 12
"""No factor is shared with the number of places, so that all of them meet all routes."""
IN_PATH = ("/sign-in/{token}", "/r/{signed}", "/unsubscribe/{signed}")


issuer, stage = sign_ins.issuer, sign_ins.oauth_stage


async def listening(stage: Stage, found: Canaries, response: ClientResponse) -> None:
    """Keep all frames of a stream until it ends."""
    async for part in response.content.iter_any():
        found.frames += part.decode()


async def misuse(stage: Stage, found: Canaries) -> int:
    """Put every secret where it does not belong, on routes one after another; count requests."""
    client = await stage.client()
    places = [(secret, one) for secret in found.secrets.values() for one in misplaced(secret)]
    sent = 0
    for turn, (secret, request) in enumerate(places):
        # Each place of each secret on some routes; in all turns each route with each place.
        for route in ROUTES[turn % APART :: APART]:
            path = path_of(route, absent())
            if route.path in IN_PATH:
                path = route.path.partition("{")[0] + secret.replace(" ", "_").replace("/", "_")
            answer = await client.request(route.method, path, allow_redirects=False, **request)
            sent += 1
            await found.seen(answer)
    return sent


async def test_no_secret_is_found_where_it_does_not_belong(
    stage: Stage, issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Canaries()
    admin = await stage.admin()
    stream = await admin.get("/api/stream")
    hearing = asyncio.create_task(listening(stage, found, stream))
    with logged() as output:
        await drive(stage, issuer, found)
        assert len(found.secrets) >= 20
        sent = await misuse(stage, found)
        with monkeypatch.context() as broken:

            def fail(*_: Any) -> None:
                raise RuntimeError("broken")

            broken.setattr("limner.http.routes.authorise", fail)
            before = len(found.problems)
            sent += await misuse(stage, found)
            assert len(found.problems) > before
        metrics = await (await admin.get("/metrics")).text()
    stream.close()
    hearing.cancel()
    await asyncio.gather(hearing, return_exceptions=True)
    assert sent > 2000
    assert leaks(found, output.getvalue()) == []
    assert EMAIL not in output.getvalue()
    assert leaks(found, metrics) == []
    assert EMAIL not in metrics
    # A page that a browser's own session asked for has the token of its forms.
    assert leaks(found, "\n".join(found.problems), but=("csrf",)) == []
    assert found.frames
    assert leaks(found, found.frames) == []
    audit = str(await AuditLine.all().values())
    assert "user.signed_in" in audit
    assert leaks(found, audit) == []
    assert EMAIL not in audit
    await assert_not_stored(stage, found, tmp_path)


async def assert_not_stored(stage: Stage, found: Canaries, folder: Path) -> None:
    """Look at every row, and where there are files of the database at every byte."""
    rows = str(await all_rows())
    assert EMAIL in rows, "an address is stored, and found if one looks for it"
    assert leaks(found, rows) == []
    raw = base64.b32decode(found.secrets["totp_secret"])
    assert str(raw)[2:-1] not in rows
    if not (folder / "front.db").exists():
        return
    await stage.front.database.write().execute("PRAGMA wal_checkpoint(TRUNCATE)", [])
    stored = await asyncio.to_thread(bytes_of, folder)
    assert EMAIL in stored
    assert leaks(found, stored) == []
    assert raw.decode("latin-1") not in stored


BREAKS = (
    *("a\r\nb", "a\nlevel=error msg=forged", "a\r", "\u2028forged", "\x1b[31mred", "\x00", "\x85x"),
    '"},{"level":"error","event":"forged',
)


async def test_nobody_writes_lines_of_their_own_into_the_log(stage: Stage) -> None:
    client, admin = await stage.client(), await stage.admin()
    with logged() as output:
        for text in BREAKS:
            await client.post("/api/auth/login", json={"email": text, "password": text})
            await admin.post("/api/sources", json={"name": text, "connector": text})
            await admin.post("/api/intent/test", json={"text": text})
            await admin.get("/api/tasks", params={"email": text, text: "1"})
            await client.get("/nothing", params={"x": text})
            await client.get(f"/api/tasks/{text.replace('/', '')}")
    lines = output.getvalue().split("\n")
    assert lines.pop() == ""
    read = [json.loads(line) for line in lines]
    assert len(read) > 40
    assert {one["level"] for one in read} <= {"debug", "info", "warning"}
    assert not [line for line in lines if "forged" in json.loads(line).get("event", "")]
    assert not [one for one in output.getvalue() if one < " " and one != "\n"]


QUOTED = (
    "Authorization: Bearer {secret}",
    "'Authorization': 'Bearer {secret}'",
    "limner_session={secret}",
    "__Host-limner_session={secret}; Path=/",
    "/reset-password?token={secret}",
    "https://x.test/auth/oidc/callback?code={secret}&state={secret}",
    "https://x.test/o/a?signature={secret}&expires=1",
    "otpauth://totp/x?secret={secret}&issuer=y",
    "{{'password': '{secret}'}}",
    '{{"refresh_token": "{secret}"}}',
    '{{"new_password":"{secret}"}}',
    "lim_{secret}",
    "limr_{secret}",
    "eyJhbGciOiJFZERTQSJ9.{secret}.{secret}",
    "mysql://limner:{secret}@db.test/limner",
)


async def test_a_bug_that_quotes_a_request_quotes_no_secret_into_the_log(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "canary0123456789ABCDEFGHIJKLMNOP"
    admin = await stage.admin()
    for quoted in QUOTED:
        told = quoted.format(secret=secret)
        monkeypatch.setattr(stage.front.intent, "test", _failing(f"could not read {told}"))
        with logged() as output:
            answer = await admin.post("/api/intent/test", json={"text": "x"})
        assert answer.status == 500
        assert "could not read" in output.getvalue()
        assert secret not in output.getvalue(), quoted
        assert secret not in await answer.text()


def _failing(told: str) -> Callable[[str], Awaitable[None]]:
    async def fail(_: str) -> None:
        raise RuntimeError(told)

    return fail
