"""What operators use: audit log, suppressions, loops, queues, dead letters, health, metrics."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from limner.core.broker import QueueDepth
from limner.core.clock import HeldClock
from limner.core.errors import EngineUnavailable
from limner.core.health import Check
from limner.core.ids import new_id
from limner.core.supervisor import LoopStatus
from limner.core.unit import Commit
from limner.storage.sql import reading
from limner.storage.sql.audit import AuditLine
from limner.storage.sql.messaging import DeadLetter, OutboxRow
from limner.storage.sql.suppressions import Suppression, is_suppressed
from tests.fakes.front import Stage, problem, staged


@pytest.fixture
async def stage(migrated_file: Path, tmp_path: Path, clock: HeldClock) -> AsyncIterator[Stage]:
    async with staged(migrated_file, tmp_path, clock) as opened:
        yield opened


async def note(stage: Stage, event: str, subject: str = "") -> None:
    work = stage.work()
    work.audit(event, subject=subject, data={"a": "é\n"})
    await stage.front.units.commit(work)


async def test_the_audit_log_is_filtered_by_field_and_time(stage: Stage) -> None:
    admin = await stage.admin()
    await note(stage, "one", "x_1")
    stage.clock.advance(60)
    await note(stage, "two", "x_1")
    for query, expected in [
        ("event=one", ["one"]),
        ("subject=x_1", ["two", "one"]),
        ("subject=x_1&since=2026-11-22T12:01:00Z", ["two"]),
        ("subject=x_1&until=2026-11-22T12:01:00Z", ["one"]),
        ("actor=test&event=two", ["two"]),
        ("request_id=none", []),
    ]:
        page = await (await admin.get(f"/api/audit?{query}")).json()
        assert [line["event"] for line in page["data"]] == expected, query


async def test_the_audit_log_is_exported_whole_oldest_first(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "BATCH", 3)
    admin = await stage.admin()
    for number in range(8):
        await note(stage, f"event.{number}")
        stage.clock.advance(number % 2)
    answer = await admin.get("/api/audit/export")
    assert answer.content_type == "application/jsonl"
    assert "attachment" in answer.headers["Content-Disposition"]
    lines = [json.loads(line) for line in (await answer.text()).splitlines()]
    assert [line["event"] for line in lines] == [
        "key.created",
        *(f"event.{number}" for number in range(8)),
    ]
    assert len(lines) == await AuditLine.all().count()
    only = await admin.get("/api/audit/export?event=event.3")
    assert len((await only.text()).splitlines()) == 1


async def test_an_address_is_suppressed_and_written_to_again(stage: Stage) -> None:
    admin = await stage.admin()
    made = await admin.post("/api/suppressions", json={"address": "Anna@Example.com"})
    body = await made.json()
    assert (made.status, body["address"], body["reason"]) == (201, "anna@example.com", "manual")
    assert await is_suppressed("ANNA@example.com")
    assert (
        await admin.post("/api/suppressions", json={"address": "anna@example.com"})
    ).status == 409
    page = await (await admin.get("/api/suppressions?address=ANNA@example.com")).json()
    assert page["data"] == [body]
    assert (await (await admin.get("/api/suppressions?reason=bounced")).json())["data"] == []
    path = stage.path(made.headers["Location"])
    assert await (await admin.get(path)).json() == body
    assert (await admin.delete(path)).status == 204
    assert (await admin.delete(path)).status == 404
    assert not await is_suppressed("anna@example.com")


@pytest.mark.parametrize("address", ["nobody", "a@x.test, b@x.test", "a@x\r\nBcc: b@x.test"])
async def test_what_is_no_address_is_not_suppressed(stage: Stage, address: str) -> None:
    admin = await stage.admin()
    answer = await admin.post("/api/suppressions", json={"address": address})
    assert [one["pointer"] for one in (await problem(answer))["errors"]] == ["/address"]
    assert await Suppression.all().count() == 0


async def test_two_who_remove_a_suppression_at_once_are_told(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = await stage.admin()
    made = await admin.post("/api/suppressions", json={"address": "a@x.org"})
    commit = stage.front.units.commit

    async def commit_late(work: Any) -> Commit:
        monkeypatch.undo()
        await (await stage.admin()).delete(stage.path(made.headers["Location"]))
        return await commit(work)

    monkeypatch.setattr(stage.front.units, "commit", commit_late)
    assert (await admin.delete(stage.path(made.headers["Location"]))).status == 409


async def test_loops_are_shown_and_what_runs_elsewhere(stage: Stage) -> None:
    stage.loops["mailer"] = LoopStatus("mailer", "restarting", 3, "no disk")
    admin = await stage.admin()
    rows = {row["name"]: row for row in (await (await admin.get("/api/ops/actors")).json())["data"]}
    assert rows["mailer"] == {
        "name": "mailer",
        "state": "restarting",
        "restarts": 3,
        "last_error": "no disk",
    }
    assert rows["poller"]["state"] == "elsewhere"
    assert set(rows) == set(stage.front.actors)


async def test_queues_tell_how_full_they_are(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    depth = stage.front.broker.depth

    async def some(actor: str) -> QueueDepth:
        if actor == "mailer":
            return QueueDepth(ready=4, in_hand=1, oldest_age_s=2.5)
        if actor == "poller":
            raise EngineUnavailable("away")
        return await depth(actor)

    monkeypatch.setattr(stage.front.broker, "depth", some)
    admin = await stage.admin()
    body = await (await admin.get("/api/ops/queues")).json()
    rows = {row["actor"]: row for row in body["data"]}
    assert rows["mailer"] == {
        "name": "limner.mailer",
        "actor": "mailer",
        "ready": 4,
        "in_hand": 1,
        "oldest_age_s": 2.5,
    }
    assert rows["poller"]["ready"] is None
    assert body["outbox_rows"] == 0
    text = await (await admin.get("/metrics")).text()
    assert "limner_outbox_rows 0.0" in text


async def letter(stage: Stage, **fields: Any) -> DeadLetter:
    row = DeadLetter(
        id=new_id("dead"),
        state=fields.pop("state", "open"),
        created_at=stage.clock.now(),
        **{
            "consumer": "mailer",
            "topic": "mailer.send",
            "message_id": "m-1",
            "app_id": "shop",
            "body": b'{"to":"a@x.test"}',
            "attempt": 4,
            "reason": "permanent",
            "detail": "no template",
            **fields,
        },
    )
    await stage.add(row)
    return row


async def test_a_dead_letter_is_shown_and_sent_again_as_a_first_attempt(stage: Stage) -> None:
    row = await letter(stage)
    admin = await stage.admin()
    page = await (await admin.get("/api/ops/dead-letters?state=open&consumer=mailer")).json()
    assert [one["id"] for one in page["data"]] == [row.id]
    shown = await (await admin.get(f"/api/ops/dead-letters/{row.id}")).json()
    assert (shown["body"], shown["encoding"]) == ('{"to":"a@x.test"}', "utf-8")
    answer = await admin.post(f"/api/ops/dead-letters/{row.id}/retry")
    assert (await answer.json())["state"] == "retried"
    (message,) = await OutboxRow.filter(topic="mailer.send")
    assert bytes(message.body) == b'{"to":"a@x.test"}'
    assert (message.attempt, message.message_id != "m-1") == (1, True)
    for verb in ("retry", "discard"):
        assert (await admin.post(f"/api/ops/dead-letters/{row.id}/{verb}")).status == 409
    assert await OutboxRow.filter(topic="mailer.send").count() == 1


async def test_a_dead_letter_is_discarded(stage: Stage) -> None:
    row = await letter(stage, body=b"\xff")
    admin = await stage.admin()
    answer = await admin.post(f"/api/ops/dead-letters/{row.id}/discard")
    body = await answer.json()
    assert (body["state"], body["body"], body["encoding"]) == ("discarded", "/w==", "base64")
    assert await OutboxRow.all().count() == 0
    assert (await admin.get("/api/ops/dead-letters/dead_none")).status == 404


async def test_all_open_dead_letters_are_sent_again_but_those_settled_meanwhile(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        await letter(stage, message_id=f"m-{number}")
    await letter(stage, state="discarded")
    admin = await stage.admin()
    commit, calls = stage.front.units.commit, [0]

    async def commit_some(work: Any) -> Commit:
        calls[0] += 1
        if calls[0] == 2:
            await stage.front.units.discard(work)
            return Commit.STALE
        return await commit(work)

    monkeypatch.setattr("limner.http.api.ops.RETRY_BATCH", 2)
    monkeypatch.setattr(stage.front.units, "commit", commit_some)
    answer = await admin.post("/api/ops/dead-letters/retry-all")
    assert await answer.json() == {"retried": 4}
    assert await DeadLetter.filter(state="retried").count() == 4


async def test_probes_say_only_whether(stage: Stage) -> None:
    client = await stage.client()
    assert await (await client.get("/livez")).text() == "ok\n"
    ready = await client.get("/readyz")
    assert (ready.status, await ready.text()) == (200, "ok\n")
    for name in ("is_ready", "is_stopping"):
        setattr(stage, name, name == "is_stopping")
        answer = await client.get("/readyz")
        assert (answer.status, await answer.text()) == (503, "not ready\n")
        assert (await client.get("/livez")).status == 200
        setattr(stage, name, name == "is_ready")


@pytest.mark.parametrize("path", ["/readyz?verbose", "/readyz?verbose=1", "/healthz"])
async def test_the_report_needs_the_scope_and_is_the_worst_of_its_parts(
    stage: Stage, path: str
) -> None:
    nobody = await stage.client()
    assert (await nobody.get(path)).status == 401
    limited = await stage.client(await stage.key("tasks:read"))
    assert (await limited.get(path)).status == 403
    operator = await stage.client(await stage.key("ops:read"))
    stage.checks = [Check("database", "pass"), Check("disk", "warn", "90 MiB free", "make room")]
    answer = await operator.get(path)
    assert (answer.status, answer.content_type) == (200, "application/health+json")
    body = await answer.json(content_type=None)
    assert body == {
        "status": "warn",
        "checks": {
            "database": [{"status": "pass", "output": ""}],
            "disk": [{"status": "warn", "output": "90 MiB free make room"}],
        },
    }
    stage.checks.append(Check("broker", "fail", "away"))
    assert (await operator.get(path)).status == 503
    stage.checks.pop()
    stage.is_ready = False
    body = await (await operator.get(path)).json(content_type=None)
    assert body["checks"]["readiness"][0]["status"] == "fail"


async def test_metrics_survive_a_broker_that_is_away(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: str) -> QueueDepth:
        raise EngineUnavailable("away")

    monkeypatch.setattr(stage.front.broker, "depth", fail)
    admin = await stage.admin()
    answer = await admin.get("/metrics")
    assert answer.status == 200
    assert "limner_build_info" in await answer.text()
