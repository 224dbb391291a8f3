"""Reports while an engine is away: they answer, soon, and to nobody who may not read them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from limner.core.broker import QueueDepth
from limner.core.clock import HeldClock
from limner.core.errors import EngineUnavailable
from limner.http.api import health
from limner.http.auth import callers
from limner.http.auth.callers import OPS_READ, REPORTS, recent_callers
from limner.http.table import ROUTES
from limner.storage.sql.accounts import ApiKey, User, revoke_key
from limner.storage.sql.remembered import LIFE_S
from tests.fakes.front import PATIENCE_S, Stage, problem, staged

READ_BY_OPERATORS = ("/healthz", "/readyz?verbose", "/metrics")
BRIEF_S = 0.1

Outage = Callable[[], AbstractContextManager[None]]


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        yield opened


@pytest.fixture(params=["refuses", "is silent"])
def outage(stage: Stage, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Outage:
    """Give what takes the database away for a block; both ways of being away."""
    monkeypatch.setattr(callers, "LOOK_UP_LIMIT_S", BRIEF_S)
    monkeypatch.setattr(health, "ANSWER_LIMIT_S", BRIEF_S)

    async def refuse(*_: object) -> None:
        raise EngineUnavailable("The database is out of reach")

    async def keep_silent(*_: object) -> None:
        await asyncio.Event().wait()

    @contextmanager
    def away() -> Iterator[None]:
        database = stage.front.database
        lost = refuse if request.param == "refuses" else keep_silent
        with monkeypatch.context() as patched:
            for client in (database.read().client, database.write().client):
                for name in ("execute_query", "execute_query_dict"):
                    patched.setattr(client, name, lost)
            yield

    return away


def test_the_reports_are_routes_that_need_one_scope() -> None:
    routes = [route for route in ROUTES if route.path in REPORTS]
    assert sorted(route.path for route in routes) == sorted(REPORTS)
    assert {route.method for route in routes} == {"GET"}
    closed = [route for route in routes if route.path != "/readyz"]
    assert {route.access for route in [*closed, health.VERBOSE]} == {OPS_READ}


async def test_an_operator_who_was_let_in_lately_reads_all_reports_without_a_database(
    stage: Stage, outage: Outage
) -> None:
    operator = await stage.client(await stage.key(OPS_READ))
    browser = await stage.signed_in()
    for client in (operator, browser):
        assert (await client.get("/healthz")).status == 200
    with outage():
        for client in (operator, browser):
            for path in READ_BY_OPERATORS:
                answer = await client.get(path)
                assert answer.status == 200, (path, await answer.text())
            assert (await client.head("/healthz")).status == 200


async def test_whom_the_database_has_never_vouched_for_reads_nothing(
    stage: Stage, outage: Outage
) -> None:
    new = await stage.client(await stage.key(OPS_READ))
    invented = await stage.client("lim_" + "x" * 43)
    nobody = await stage.client()
    with outage():
        for path in READ_BY_OPERATORS:
            for client in (new, invented):
                answer = await client.get(path)
                assert answer.status == 503
                assert (await problem(answer))["code"] == "engine_unavailable"
            assert (await nobody.get(path)).status == 401


async def test_a_key_as_a_cookie_or_a_cookie_as_a_key_is_not_believed(
    stage: Stage, outage: Outage
) -> None:
    browser = await stage.signed_in()
    assert (await browser.get("/healthz")).status == 200
    token = next(one.value for one in browser.session.cookie_jar if one.key == "limner_session")
    as_key = await stage.client(token)
    with outage():
        assert (await as_key.get("/healthz")).status == 401


async def test_who_lacks_the_scope_is_not_believed_either(stage: Stage, outage: Outage) -> None:
    limited = await stage.client(await stage.key("tasks:read"))
    assert (await limited.get("/api/tasks")).status == 200
    assert (await limited.get("/healthz")).status == 403
    with outage():
        for path in READ_BY_OPERATORS:
            assert (await limited.get(path)).status == 503


@pytest.mark.parametrize("outage", ["refuses"], indirect=True)
async def test_nothing_but_the_reports_is_allowed_that_way(stage: Stage, outage: Outage) -> None:
    admin = await stage.admin()
    assert (await admin.get("/healthz")).status == 200
    assert (await admin.get("/api/keys")).status == 200
    stage.clock.advance(LIFE_S)
    with outage():
        for route in ROUTES:
            if route.path in REPORTS or route.access == "open":
                continue
            path = route.path.replace("{", "").replace("}", "")
            answer = await admin.request(route.method, path)
            assert answer.status == 503, (route.method, route.path, answer.status)
        for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            assert (await admin.request(method, "/healthz")).status == 503
        for path in ("/healthz/", "/Healthz", "/metrics/x", "/healthz/x"):
            assert (await admin.get(path)).status == 503


@pytest.mark.parametrize("outage", ["refuses"], indirect=True)
async def test_after_five_minutes_nobody_is_believed_any_more(stage: Stage, outage: Outage) -> None:
    operator = await stage.client(await stage.key(OPS_READ))
    assert (await operator.get("/healthz")).status == 200
    with outage():
        stage.clock.advance(299)
        assert (await operator.get("/healthz")).status == 200
        stage.clock.advance(1)
        assert (await operator.get("/healthz")).status == 503
    assert (await operator.get("/healthz")).status == 200


async def _revoke(stage: Stage) -> None:
    work = stage.work()
    revoke_key(work, await ApiKey.get())
    await stage.front.units.commit(work)


async def _disable(stage: Stage) -> None:
    work = stage.work()
    work.move(await User.get(id=stage.owner.id), expected="active", to="disabled")
    await stage.front.units.commit(work)


@pytest.mark.parametrize("outage", ["refuses"], indirect=True)
@pytest.mark.parametrize("end", [_revoke, _disable])
async def test_whom_the_database_has_refused_is_not_believed_afterwards(
    stage: Stage, outage: Outage, end: Callable[[Stage], Any]
) -> None:
    operator = await stage.client(await stage.key(OPS_READ))
    browser = await stage.signed_in()
    for client in (operator, browser):
        assert (await client.get("/healthz")).status == 200
    await end(stage)
    refused = [client for client in (operator, browser) if client is operator or end is _disable]
    for client in refused:
        assert (await client.get("/api/tasks")).status == 401
    with outage():
        for client in refused:
            assert (await client.get("/healthz")).status == 503


@pytest.mark.parametrize("outage", ["refuses"], indirect=True)
async def test_a_session_that_was_never_begun_reads_nothing_without_a_database(
    stage: Stage, outage: Outage
) -> None:
    browser = await stage.signed_in()
    assert (await browser.get("/healthz")).status == 200
    client = await stage.client()
    with outage():
        forged = {"Cookie": f"limner_session={'x' * 43}"}
        assert (await client.get("/healthz", headers=forged)).status == 503


@pytest.mark.parametrize("outage", ["refuses"], indirect=True)
async def test_a_session_that_ends_meanwhile_is_believed_no_longer(
    stage: Stage, outage: Outage
) -> None:
    await stage.settings(session_life_s=300)
    browser = await stage.signed_in()
    stage.clock.advance(200)
    assert (await browser.get("/healthz")).status == 200
    with outage():
        stage.clock.advance(99)
        assert (await browser.get("/healthz")).status == 200
        stage.clock.advance(1)
        assert (await browser.get("/healthz")).status == 503


async def test_no_credential_is_kept_in_memory(stage: Stage) -> None:
    secret = await stage.key(OPS_READ)
    operator = await stage.client(secret)
    assert (await operator.get("/healthz")).status == 200
    recent = recent_callers(stage.front)
    assert len(recent) == 1
    assert secret not in repr(vars(recent))


async def test_metrics_wait_for_a_silent_broker_only_so_long_and_tell_the_rest(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "ANSWER_LIMIT_S", BRIEF_S)
    asked, given_up = [], []

    async def keep_silent(actor: str) -> QueueDepth:
        asked.append(actor)
        try:
            await asyncio.Event().wait()
        finally:
            given_up.append(actor)
        raise AssertionError

    monkeypatch.setattr(stage.front.broker, "depth", keep_silent)
    stage.front.metrics.outbox_rows.set(7)
    admin = await stage.admin()
    async with asyncio.timeout(PATIENCE_S):
        text = await (await admin.get("/metrics")).text()
    assert "limner_outbox_rows 0.0" in text, "the database answered"
    assert sorted(asked) == sorted(given_up) == sorted(stage.front.actors), "all at once"


async def test_metrics_ask_for_all_queues_at_once(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = asyncio.Barrier(len(stage.front.actors))

    async def meet(_: str) -> QueueDepth:
        await together.wait()
        return QueueDepth(ready=3, in_hand=0)

    monkeypatch.setattr(stage.front.broker, "depth", meet)
    admin = await stage.admin()
    text = await (await admin.get("/metrics")).text()
    for actor in stage.front.actors:
        assert f'limner_queue_depth{{queue="limner.{actor}"}} 3.0' in text
