"""Idempotency-Key: what is sent twice is made once, and answered as the first time."""

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient
from pydantic import BaseModel
from structlog.testing import capture_logs

from limner.core.clock import HeldClock
from limner.core.errors import EngineUnavailable, LimnerError, NotConfigured
from limner.core.unit import Commit, UnitOfWork
from limner.http import idempotency, server
from limner.http.answers import Answer
from limner.http.body import LIMIT_BYTES
from limner.http.call import Call
from limner.http.openapi import document
from limner.http.routes import OPEN, Route
from limner.http.table import ROUTES
from limner.storage.sql import idempotency as stored
from limner.storage.sql.accounts import ApiKey, effective_scopes
from limner.storage.sql.audit import AuditLine
from limner.storage.sql.faults import Deadlocked
from limner.storage.sql.idempotency import LEASE_S, IdempotentRequest
from limner.storage.sql.sources import Source
from limner.storage.sql.suppressions import Suppression
from tests.contracts.engines import eventually
from tests.fakes.front import PROVIDER, Stage, problem, staged, until

Client = TestClient[Any, Any]
Committing = Callable[[UnitOfWork], Awaitable[Commit]]

PATH = "/api/suppressions"
BODY = {"address": "anna@example.com", "reason": "manual"}
SOURCES = "/api/sources"
SOURCE = {"name": "x", "connector": "demo"}
KEY = {"Idempotency-Key": '"8e03978e-40d5-43dd-bc93-6894a57f9324"'}
RACERS = 50
CREATING = {
    "/api/auth/register",
    "/api/deliveries/{id}/resend",
    "/api/generate/image",
    "/api/keys",
    "/api/providers",
    "/api/sources",
    "/api/suppressions",
    "/api/users",
}
SESSION = "makes or ends a session: its secrets are not to be stored"
MAIL = "asks for a mail, few of which are sent to one address"
STATE = "moves an object on, which can be done once"
AGAIN = "comes to the same when it is done again"
NOT_CREATING = {
    "/api/auth/email/change": MAIL,
    "/api/auth/login": SESSION,
    "/api/auth/logout": SESSION,
    "/api/auth/password/change": AGAIN,
    "/api/auth/password/forgot": MAIL,
    "/api/auth/password/reset": "the link is good once",
    "/api/auth/refresh": SESSION,
    "/api/auth/verify-email": AGAIN,
    "/api/auth/verify-email/resend": MAIL,
    "/api/erasure": AGAIN,
    "/api/generate/{id}/cancel": STATE,
    "/api/intent/test": "changes nothing",
    "/api/me/export": "changes nothing",
    "/api/me/totp": "the newest secret counts",
    "/api/me/totp/confirm": STATE,
    "/api/me/totp/recovery-codes": "the newest codes count",
    "/api/notifications/read": AGAIN,
    "/api/notifications/read-all": AGAIN,
    "/api/ops/dead-letters/retry-all": STATE,
    "/api/ops/dead-letters/{id}/discard": STATE,
    "/api/ops/dead-letters/{id}/retry": STATE,
    "/api/providers/{id}/callback/{signed}": "has a task looked at",
    "/api/providers/{id}/test": "makes nothing here, but an order at the provider each time",
    "/api/settings/revert": AGAIN,
    "/api/sources/{id}/poll": "no second poll begins while one runs or is asked for",
    "/api/tasks/{id}/approve": STATE,
    "/api/tasks/{id}/cancel": STATE,
    "/api/tasks/{id}/reject": STATE,
    "/api/tasks/{id}/retry": STATE,
    "/api/deliveries/{id}/resolve": STATE,
    "/auth/{name}/link": "leads a browser away",
}


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        yield opened


async def ask(client: Client, body: Any = None, path: str = PATH, **headers: str) -> ClientResponse:
    return await client.post(path, json=BODY if body is None else body, headers={**KEY, **headers})


@dataclass
class Held:
    """Commits that wait for ``gate``; ``reached`` says that one does."""

    gate: asyncio.Event
    reached: asyncio.Event


async def hold_commits(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Held:
    """Let commits of requests wait."""
    commit: Committing = stage.front.units.commit
    held = Held(asyncio.Event(), asyncio.Event())

    async def wait(work: UnitOfWork) -> Commit:
        held.reached.set()
        await held.gate.wait()
        return await commit(work)

    monkeypatch.setattr(stage.front.units, "commit", wait)
    return held


async def test_a_request_that_is_sent_again_gets_the_stored_answer(stage: Stage) -> None:
    client = await stage.admin()
    first = await ask(client)
    made = await first.json()
    assert (first.status, first.headers.get("Idempotency-Replayed")) == (201, None)
    again = await ask(client)
    assert await again.json() == made
    assert (again.status, again.headers["Idempotency-Replayed"]) == (201, "true")
    assert again.headers["Location"] == first.headers["Location"]
    assert again.headers["Content-Type"] == first.headers["Content-Type"]
    assert again.headers["X-Request-Id"] != first.headers["X-Request-Id"]
    assert await Suppression.all().count() == 1
    assert await AuditLine.filter(event="suppression.created").count() == 1


@pytest.mark.parametrize(
    ("path", "body", "table"),
    [
        (PATH, BODY, Suppression),
        ("/api/sources", {"name": "x", "connector": "demo"}, Source),
        ("/api/providers", PROVIDER, None),
        ("/api/keys", {"scopes": ["tasks:read"]}, None),
    ],
)
async def test_whatever_is_made_by_a_post_is_made_once(
    stage: Stage, path: str, body: dict[str, Any], table: Any
) -> None:
    client = await stage.admin()
    answers = [await ask(client, body, path) for _ in range(3)]
    assert [answer.status for answer in answers] == [201, 201, 201]
    assert len({(await answer.json())["id"] for answer in answers}) == 1
    assert table is None or await table.all().count() == 1


async def test_a_key_that_is_shown_once_is_shown_again_and_never_stored_in_clear(
    stage: Stage,
) -> None:
    client = await stage.admin()
    body = {"scopes": ["tasks:read"]}
    secrets = [(await (await ask(client, body, "/api/keys")).json())["key"] for _ in range(2)]
    assert secrets[0] == secrets[1]
    assert await ApiKey.filter(prefix=secrets[0][:12]).count() == 1
    row = await IdempotentRequest.get()
    assert row.answer_sealed is not None
    assert secrets[0].encode() not in bytes(row.answer_sealed)
    # What is sealed for one request is worth nothing in the row of another.
    with pytest.raises(NotConfigured):
        stage.front.sealer.open("idempotent:request_other", row.answer_sealed)


async def test_nobody_can_try_a_body_against_what_is_stored(stage: Stage) -> None:
    """A body may hold a password, so that its fingerprint must be worth nothing without our key."""
    client = await stage.admin()
    await ask(client)
    row = await IdempotentRequest.get()
    body = json.dumps(BODY, sort_keys=True, separators=(",", ":")).encode()
    rights = " ".join([*sorted(effective_scopes(stage.owner)), "endless"])
    line = f"POST {PATH}\n{rights}\n".encode()
    assert row.fingerprint == stage.front.sealer.digest("idempotent", line + body)
    assert row.fingerprint != hashlib.sha256(line + body).hexdigest()


async def test_spaces_and_the_order_of_names_make_no_other_body(stage: Stage) -> None:
    client = await stage.admin()
    first = await ask(client)
    spaced = '{ "reason": "manual",\n "address": "anna@example.com" }'
    again = await client.post(
        PATH, data=spaced, headers={**KEY, "Content-Type": "application/json"}
    )
    assert await again.json() == await first.json()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (PATH, {**BODY, "reason": "bounced"}),
        (PATH, {"address": "anna@example.com"}),
        ("/api/keys", {"scopes": ["tasks:read"]}),
    ],
)
async def test_a_key_that_stands_for_another_request_is_refused(
    stage: Stage, path: str, body: dict[str, Any]
) -> None:
    client = await stage.admin()
    await ask(client)
    refused = await ask(client, body, path)
    assert (refused.status, (await problem(refused))["code"]) == (422, "idempotency_key_reused")
    assert await IdempotentRequest.all().count() == 1


async def test_large_bodies_are_compared_too(stage: Stage) -> None:
    client = await stage.admin()
    large = {"name": "x", "connector": "demo", "options": {"a": "x" * (LIMIT_BYTES // 4)}}
    first = await ask(client, large, "/api/sources")
    again = await ask(client, large, "/api/sources")
    assert await first.json() == await again.json()
    large["options"] = {"a": "y" * (LIMIT_BYTES // 4)}
    assert (await ask(client, large, "/api/sources")).status == 422


async def test_each_account_has_keys_of_its_own(stage: Stage) -> None:
    other = await stage.user("admin")
    body = {"name": "x", "connector": "demo"}
    for client in (await stage.admin(), await stage.client(await stage.key("admin", user=other))):
        answer = await ask(client, body, "/api/sources")
        assert (answer.status, answer.headers.get("Idempotency-Replayed")) == (201, None)
    assert await Source.all().count() == 2


async def test_two_credentials_of_one_account_share_its_keys(stage: Stage) -> None:
    first, again = await ask(await stage.admin()), await ask(await stage.admin())
    assert await first.json() == await again.json()
    assert again.headers["Idempotency-Replayed"] == "true"


@pytest.mark.parametrize(
    ("scopes", "expires_s"),
    [(("account:write",), None), (("tasks:read", "account:write"), None), (("admin",), 3600)],
)
async def test_a_credential_with_other_rights_is_not_given_what_was_made(
    stage: Stage, scopes: tuple[str, ...], expires_s: float | None
) -> None:
    """Else a lesser key would get the secret of the key that an administrator made."""
    body = {"scopes": ["admin"]}
    made = await (await ask(await stage.admin(), body, "/api/keys")).json()
    lesser = await stage.client(await stage.key(*scopes, expires_s=expires_s))
    refused = await ask(lesser, body, "/api/keys")
    assert (refused.status, (await problem(refused))["code"]) == (422, "idempotency_key_reused")
    assert made["key"] not in await refused.text()
    again = await ask(await stage.admin(), body, "/api/keys")
    assert (await again.json())["key"] == made["key"], "who has the same rights is given it"


async def test_whoever_has_lost_a_right_is_not_given_what_was_made(stage: Stage) -> None:
    user = await stage.user("admin")
    client = await stage.client(await stage.key("sources:write", "users:write", user=user))
    assert (await ask(client, SOURCE, SOURCES)).status == 201
    work = stage.work()
    work.change(user, role="user")
    await stage.front.units.commit(work)
    refused = await ask(client, SOURCE, SOURCES)
    assert (refused.status, (await problem(refused))["code"]) == (422, "idempotency_key_reused")


async def test_visitors_of_one_address_share_its_keys_and_those_who_are_known_have_others(
    migrated_file: Path, tmp_path: Path, clock: HeldClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = Counter[str]()

    async def count(call: Call) -> Made:
        runs[call.caller.id] += 1
        return Made(number=runs.total())

    def staging() -> Any:
        return staged(migrated_file, tmp_path, clock)

    async with with_routes(monkeypatch, staging, count=count) as stage:
        one, other, known = await stage.client(), await stage.client(), await stage.admin()
        answers = [await ask(client, {}, "/api/count") for client in (one, other, known)]
        assert [(await answer.json())["number"] for answer in answers] == [1, 1, 2]
        assert runs == {"": 1, stage.owner.id: 1}


@pytest.mark.parametrize(
    "key", ['"a\\"b\\\\c"', '"two words"', "8e03978e:/x", '"' + "k" * 255 + '"']
)
async def test_a_key_is_a_string_in_quotes_or_a_token(stage: Stage, key: str) -> None:
    client = await stage.admin()
    headers = {"Idempotency-Key": key}
    statuses = [(await ask(client, **headers)).status for _ in range(2)]
    assert statuses == [201, 201]


async def test_a_key_is_the_same_with_and_without_quotes(stage: Stage) -> None:
    client = await stage.admin()
    await ask(client, **{"Idempotency-Key": "abc"})
    again = await ask(client, **{"Idempotency-Key": ' "abc" '})
    assert again.headers["Idempotency-Replayed"] == "true"


@pytest.mark.parametrize(
    "key", ["", '""', "two words", '"open', 'a"b', "a,b", "é", "k" * 256, '"' + "k" * 256 + '"']
)
async def test_a_key_of_no_form_is_refused(stage: Stage, key: str) -> None:
    refused = await ask(await stage.admin(), **{"Idempotency-Key": key})
    assert (refused.status, (await problem(refused))["code"]) == (400, "idempotency_key_invalid")
    assert not await Suppression.exists()


async def test_two_keys_are_refused(stage: Stage) -> None:
    client = await stage.admin()
    refused = await client.post(
        PATH, json=BODY, headers=[("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    )
    assert refused.status == 400


async def test_a_route_that_makes_nothing_takes_no_notice_of_a_key(stage: Stage) -> None:
    task = await stage.task("failed")
    client = await stage.admin()
    assert (await client.post(f"/api/tasks/{task.id}/retry", headers=KEY)).status == 202
    assert not await IdempotentRequest.exists()


def test_every_post_that_makes_something_obeys_a_key() -> None:
    posts = {
        route.path: route for route in ROUTES if route.method == "POST" and route.is_documented
    }
    assert set(posts) == CREATING | set(NOT_CREATING), "say of a new POST whether it creates"
    assert not CREATING & set(NOT_CREATING)
    assert {route.path for route in ROUTES if route.creates} == CREATING
    assert {path for path, route in posts.items() if route.status == 201} <= CREATING


def test_what_a_post_has_made_has_a_place_that_the_description_names() -> None:
    paths = document(ROUTES, "1")["paths"]
    located = set()
    for path, methods in paths.items():
        answers = methods.get("post", {}).get("responses", {})
        if any("Location" in one.get("headers", {}) for one in answers.values()):
            located.add(path)
    assert located == CREATING | {"/auth/{name}/link"}, "a link leads a browser away"


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        ({"address": "anna@example.com", "reason": "nonsense"}, 422),
        ({"address": "no address"}, 422),
    ],
)
async def test_what_was_refused_may_be_mended_and_sent_with_the_same_key(
    stage: Stage, wrong: dict[str, Any], status: int
) -> None:
    client = await stage.admin()
    assert (await ask(client, wrong)).status == status
    assert not await IdempotentRequest.exists()
    assert (await ask(client)).status == 201


async def test_a_conflict_is_not_kept_either(stage: Stage) -> None:
    client = await stage.admin()
    taken = await client.post(PATH, json=BODY)
    assert (await ask(client)).status == 409
    await client.delete(f"{PATH}/{(await taken.json())['id']}")
    assert (await ask(client)).status == 201


@pytest.mark.parametrize("error", [EngineUnavailable("away"), RuntimeError("a bug")])
async def test_what_failed_here_may_be_sent_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def fail(_: UnitOfWork) -> Commit:
        raise error

    client = await stage.admin()
    with monkeypatch.context() as patched:
        patched.setattr(stage.front.units, "commit", fail)
        assert (await ask(client)).status >= 500
    assert not await IdempotentRequest.exists()
    assert (await ask(client)).status == 201


async def test_a_request_that_still_runs_is_told_to_come_back(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await stage.admin()
    held = await hold_commits(stage, monkeypatch)
    first = asyncio.create_task(ask(client))
    await held.reached.wait()
    running = await ask(client)
    assert (running.status, running.headers["Retry-After"]) == (409, "1")
    assert (await problem(running))["code"] == "idempotency_key_in_use"
    other = await ask(client, {**BODY, "reason": "bounced"})
    assert (other.status, (await problem(other))["code"]) == (422, "idempotency_key_reused")
    held.gate.set()
    assert (await first).status == 201
    assert (await ask(client)).headers["Idempotency-Replayed"] == "true"


async def test_of_many_at_once_one_makes_the_object(stage: Stage) -> None:
    client = await stage.admin()
    answers = await asyncio.gather(*(ask(client) for _ in range(RACERS)))
    statuses = [answer.status for answer in answers]
    assert set(statuses) <= {201, 409}
    fresh = [
        answer
        for answer in answers
        if answer.status == 201 and "Idempotency-Replayed" not in answer.headers
    ]
    assert len(fresh) == 1
    assert {(await problem(answer))["code"] for answer in answers if answer.status == 409} <= {
        "idempotency_key_in_use"
    }
    bodies = [await answer.text() for answer in answers if answer.status == 201]
    assert len(set(bodies)) == 1
    assert await Suppression.all().count() == 1


async def test_a_run_that_lost_its_lease_makes_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if its process had stood still for a minute, or died before its commit."""
    client = await stage.admin()
    with monkeypatch.context() as patched:
        held = await hold_commits(stage, patched)
        slow = asyncio.create_task(ask(client, SOURCE, SOURCES))
        await held.reached.wait()
        stage.clock.advance(LEASE_S + 1)
    newer = await ask(client, SOURCE, SOURCES)
    assert (newer.status, newer.headers.get("Idempotency-Replayed")) == (201, None)
    held.gate.set()
    stale = await slow
    assert (stale.status, (await problem(stale))["code"]) == (409, "stale")
    assert await Source.all().count() == 1
    assert (await IdempotentRequest.get()).token == 2
    assert await (await ask(client, SOURCE, SOURCES)).json() == await newer.json()


async def test_a_stale_run_that_fails_leaves_the_newer_marker_alone(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await stage.admin()
    held = await hold_commits(stage, monkeypatch)
    slow = asyncio.create_task(ask(client, SOURCE, SOURCES))
    await held.reached.wait()
    stage.clock.advance(LEASE_S + 1)
    newer = asyncio.create_task(ask(client, SOURCE, SOURCES))
    await eventually(lambda: IdempotentRequest.exists(token=2))
    held.gate.set()
    statuses = sorted([(await slow).status, (await newer).status])
    assert statuses == [201, 409]
    assert await Source.all().count() == 1
    row = await IdempotentRequest.get()
    assert (row.token, row.status) == (2, 201)


async def test_a_long_run_keeps_its_lease(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "RENEWED_EVERY_S", 0.01)
    client = await stage.admin()
    held = await hold_commits(stage, monkeypatch)
    first = asyncio.create_task(ask(client))
    await held.reached.wait()
    at_first = (await IdempotentRequest.get()).lease_until
    stage.clock.advance(LEASE_S - 1)
    await eventually(lambda: IdempotentRequest.exists(lease_until__gt=at_first))
    stage.clock.advance(LEASE_S - 1)
    assert (await ask(client)).status == 409
    held.gate.set()
    assert (await first).status == 201


def failing(trouble: Exception) -> tuple[list[str], Callable[..., Awaitable[bool]]]:
    """Give a call of the store that always fails, and a list of how often it was made."""
    tries: list[str] = []

    async def fail(*_: Any) -> bool:
        tries.append("renew")
        raise trouble

    return tries, fail


@pytest.mark.parametrize("trouble", [EngineUnavailable("away"), Deadlocked("undone")])
async def test_a_lease_that_cannot_be_renewed_or_given_back_ends_by_itself(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    tries, fail = failing(trouble)
    client = await stage.admin()
    with monkeypatch.context() as patched, capture_logs() as logs:
        patched.setattr(idempotency, "RENEWED_EVERY_S", 0.001)
        patched.setattr(stored, "renew", fail)
        patched.setattr(stored, "release", fail)
        gate = asyncio.Event()

        async def never(_: UnitOfWork) -> Commit:
            await gate.wait()
            raise EngineUnavailable("away")

        patched.setattr(stage.front.units, "commit", never)
        first = asyncio.create_task(ask(client))
        await until(lambda: len(tries) >= 2)
        gate.set()
        # The error of the request itself is told, not that of giving its marker back.
        assert (await problem(await first))["code"] == "engine_unavailable"
    events = {line["event"] for line in logs}
    assert {"a lease was not renewed", "a marker stays until its lease ends"} <= events
    assert (await ask(client)).status == 409
    stage.clock.advance(LEASE_S)
    assert (await ask(client)).status == 201


@pytest.mark.parametrize("trouble", [EngineUnavailable("away"), Deadlocked("undone")])
async def test_an_answer_that_was_committed_is_given_though_its_lease_was_not_renewed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    tries, fail = failing(trouble)
    client = await stage.admin()
    held = await hold_commits(stage, monkeypatch)
    with monkeypatch.context() as patched:
        patched.setattr(idempotency, "RENEWED_EVERY_S", 0.001)
        patched.setattr(stored, "renew", fail)
        first = asyncio.create_task(ask(client))
        await until(lambda: len(tries) >= 2)
        held.gate.set()
        assert (await first).status == 201
    assert (await ask(client)).headers["Idempotency-Replayed"] == "true"


def is_renewed() -> bool:
    """Whether a request's lease is being held."""
    names = [getattr(task.get_coro(), "__name__", "") for task in asyncio.all_tasks()]
    return "_held" in names


@pytest.mark.parametrize("meanwhile", [False, True])
async def test_who_has_kept_the_answer_holds_it_no_longer_and_has_lost_nothing(
    migrated_file: Path,
    tmp_path: Path,
    clock: HeldClock,
    monkeypatch: pytest.MonkeyPatch,
    meanwhile: bool,
) -> None:
    """``meanwhile``: the answer is kept while a renewal is under way, which therefore fails."""
    renew, outcomes = stored.renew, list[bool]()
    begun, kept, gate = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slowly(database: Any, run: stored.Run) -> bool:
        begun.set()
        await kept.wait()
        outcomes.append(await renew(database, run))
        return outcomes[-1]

    async def slow(call: Call) -> Answer:
        if meanwhile:
            await begun.wait()
        answer = await call.answered(call.work(), Answer(Made(number=1)))
        kept.set()
        await gate.wait()
        return answer

    def staging() -> Any:
        return staged(migrated_file, tmp_path, clock)

    monkeypatch.setattr(idempotency, "RENEWED_EVERY_S", 0.001 if meanwhile else 0.5)
    monkeypatch.setattr(stored, "renew", slowly)
    with capture_logs() as logs:
        async with with_routes(monkeypatch, staging, slow=slow) as stage:
            first = asyncio.create_task(ask(await stage.client(), {}, "/api/slow"))
            await kept.wait()
            await until(lambda: not is_renewed())
            gate.set()
            assert (await first).status == 201
    assert outcomes == [False] or not meanwhile
    assert not any("taken a request over" in line["event"] for line in logs)


async def test_who_has_lost_a_request_stops_renewing_it(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "RENEWED_EVERY_S", 0.001)
    client = await stage.admin()
    held = await hold_commits(stage, monkeypatch)
    with capture_logs() as logs:
        first = asyncio.create_task(ask(client))
        await held.reached.wait()
        await IdempotentRequest.all().delete()
        await until(lambda: any("taken a request over" in line["event"] for line in logs))
        held.gate.set()
        assert (await first).status == 409
    assert not await Suppression.exists()


async def test_a_marker_that_vanishes_while_it_is_looked_at_is_taken_anew(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first run fails and gives its marker back between another's insert and its look."""
    asked = stored.Asked("request_1", "", "f")
    first = await stored.claim(stage.front.database, asked)
    assert isinstance(first, stored.Run)
    writer = stage.front.database.write()
    query = type(writer).query
    vanishing = [True]

    async def vanish(connection: Any, sql: str, values: Any = ()) -> list[dict[str, Any]]:
        if "FROM idempotent_requests" in sql and vanishing.pop(0):
            await stored.release(stage.front.database, first)
            vanishing.append(False)
        return await query(connection, sql, values)

    monkeypatch.setattr(type(writer), "query", vanish)
    assert await stored.claim(stage.front.database, asked) == stored.Run("request_1", 1)


async def test_of_two_who_find_a_dead_run_one_takes_it_over(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = stored.Asked("request_1", "", "f")
    assert await stored.claim(stage.front.database, asked) == stored.Run("request_1", 1)
    stage.clock.advance(LEASE_S)
    take_over, late = stored._take_over, []

    async def overtaken(writer: Any, dead: stored.Run) -> bool:
        # The other one comes between the look and the change.
        late.append(dead)
        return await take_over(writer, dead) and await take_over(writer, dead)

    monkeypatch.setattr(stored, "_take_over", overtaken)
    found = await stored.claim(stage.front.database, asked)
    assert isinstance(found, stored.Earlier)
    assert (found.status, found.sealed) == (None, None)
    row = await IdempotentRequest.get()
    assert (row.token, row.lease_until) == (2, stage.clock.now() + timedelta(seconds=LEASE_S))
    assert late == [stored.Run("request_1", 1)]


async def test_who_never_gets_hold_of_a_key_is_told_to_come_back(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = stored.Asked("request_1", "", "f")
    await stored.claim(stage.front.database, asked)
    stage.clock.advance(LEASE_S)

    async def never(*_: Any) -> bool:
        return False

    monkeypatch.setattr(stored, "_take_over", never)
    found = await stored.claim(stage.front.database, asked)
    assert isinstance(found, stored.Earlier)
    assert found.status is None


class Made(BaseModel):
    """What the routes below give."""

    number: int


@asynccontextmanager
async def with_routes(
    monkeypatch: pytest.MonkeyPatch, staging: Callable[[], Any], **handlers: Any
) -> AsyncIterator[Stage]:
    """Serve a front that has a POST to /api/NAME for each handler as well."""
    more = [
        Route("POST", f"/api/{name}", handler, name, OPEN, status=201, creates=True)
        for name, handler in handlers.items()
    ]
    with monkeypatch.context() as patched:
        patched.setattr(server, "ROUTES", [*ROUTES, *more])
        async with staging() as opened:
            yield opened


async def test_answers_of_all_forms_are_kept_even_where_nothing_was_committed(
    migrated_file: Path, tmp_path: Path, clock: HeldClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = Counter[str]()

    async def model(_: Call) -> Made:
        runs["model"] += 1
        return Made(number=runs["model"])

    async def bare(_: Call) -> Answer:
        runs["bare"] += 1
        return Answer(None, 204, {"X-Number": str(runs["bare"])})

    def staging() -> Any:
        return staged(migrated_file, tmp_path, clock)

    async with with_routes(monkeypatch, staging, model=model, bare=bare) as stage:
        client = await stage.client()
        for _ in range(2):
            made = await ask(client, {}, "/api/model", **{"Idempotency-Key": "m"})
            assert (made.status, await made.json()) == (201, {"number": 1})
            left = await client.post("/api/bare", headers={"Idempotency-Key": "b"})
            assert (left.status, left.headers["X-Number"], await left.read()) == (204, "1", b"")
        assert left.headers["Idempotency-Replayed"] == "true"
        assert runs == {"model": 1, "bare": 1}
        # Nobody in particular has asked: other addresses have keys of their own.
        assert {row.user_id for row in await IdempotentRequest.all()} == {""}


async def test_an_answer_that_could_not_be_given_again_is_a_bug_and_keeps_no_marker(
    migrated_file: Path, tmp_path: Path, clock: HeldClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def raw(_: Call) -> web.StreamResponse:
        return web.Response()

    def staging() -> Any:
        return staged(migrated_file, tmp_path, clock)

    async with with_routes(monkeypatch, staging, raw=raw) as stage:
        client = await stage.client()
        assert (await ask(client, {}, "/api/raw")).status == 500
        assert not await IdempotentRequest.exists()
        plain = await client.post("/api/raw", json={})
        assert plain.status == 200


async def test_an_answer_sealed_under_another_secret_key_is_not_made_again(stage: Stage) -> None:
    client = await stage.admin()
    await ask(client)
    row = await IdempotentRequest.get()
    row.answer_sealed = b"\0" * 64
    await row.save()
    refused = await ask(client)
    assert (refused.status, (await problem(refused))["code"]) == (503, "not_configured")
    assert await Suppression.all().count() == 1


def test_the_errors_have_the_statuses_of_the_draft() -> None:
    errors: list[tuple[LimnerError, int]] = [
        (idempotency.KeyReused("x"), 422),
        (idempotency.StillRunning("x"), 409),
    ]
    assert all(error.status == status for error, status in errors)
