import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from limner.actors.poller.sample import comments as sample_comments
from tests.fakes.provider import FakeProvider
from tests.journeys.invariants import Books, findings_of, hold
from tests.journeys.process import Limner, Prepared, prepare, run, until
from tests.journeys.story import SECRET, SETTLED, Journey, Variant, journey, wishes

pytestmark = [pytest.mark.journey, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(tmp_path_factory.mktemp("prepared"))


@asynccontextmanager
async def demo(prepared: Prepared, folder: Path) -> AsyncIterator[tuple[Limner, FakeProvider]]:
    """Serve a home whose two sources read the sample comments; one provider fails all it takes."""
    async with FakeProvider(polls=1, token=SECRET) as provider:
        provider.ending = "error"
        settings = {"LIMNER_ALLOW_PRIVATE_HOSTS": provider.host}
        home = prepared.copy(folder / "home")
        async with Limner(home, prepared.key, settings) as limner:
            await limner.start()
            yield limner, provider


async def _tell(limner: Limner, provider: FakeProvider) -> list[str]:
    """Make the failing provider and the two sources of the demo; give the sources' ids."""
    await limner.request("PUT", "/api/settings/secrets/acme", {"value": SECRET})
    await limner.request("PUT", "/api/settings", {"status_first_delay_s": 0.3})
    failing = {"name": "failing-demo", "kind": "both", **provider.config()}
    await limner.request("POST", "/api/providers", failing)
    idents = []
    for name, options in (("demo", {}), ("failing", {"provider": "failing-demo"})):
        body = {"name": name, "connector": "demo", "interval_s": 86_400, "options": options}
        idents.append((await limner.request("POST", "/api/sources", body))["id"])
    return idents


async def _poll(limner: Limner, sources: list[str]) -> None:
    """Poll each source once, to its end."""
    for ident in sources:
        asked = await limner.request("POST", f"/api/sources/{ident}/poll")
        assert not asked["already_running"]

    async def read() -> bool:
        queues = await limner.get("/api/ops/queues")
        moving = [one for one in await limner.listed("/api/sources") if one["polling"]]
        moving += [one for one in await limner.listed("/api/tasks") if one["state"] not in SETTLED]
        return queues["outbox_rows"] == 0 and not moving

    await until(read, 60, "the end of both polls and of all that came of them")


async def test_the_demo_feed_becomes_pictures_and_mails_and_a_second_poll_adds_nothing(
    prepared: Prepared, tmp_path: Path
) -> None:
    expected = {one["id"]: one["expect"] for one in sample_comments()}
    async with demo(prepared, tmp_path) as (limner, provider):
        sources = await _tell(limner, provider)
        await _poll(limner, sources)
        first = await limner.listed("/api/comments")
        tasks = {one["comment"]["external_id"]: one for one in await limner.listed("/api/tasks")}
        states = {one["external_id"]: one["state"] for one in first}
        states |= {ident: task["state"] for ident, task in tasks.items()}
        assert states == expected

        await _poll(limner, sources)
        assert await limner.listed("/api/comments") == first
        assert len(await limner.listed("/api/tasks")) == len(tasks)

        mails = await limner.listed("/api/mailbox")
        emailed = [task for task in tasks.values() if task["state"] == "emailed"]
        assert sorted(mail["to"][0] for mail in mails) == sorted(one["email"] for one in emailed)
        for task in emailed:
            status, content_type, content = await limner.fetch(task["result_url"])
            assert (status, content_type.partition("/")[0]) == (200, task["kind"])
            assert len(content) > 1000
        assert tasks["demo-12"]["error"] == "the prompt was not understood"
        await limner.stop()
    assert Books(tmp_path / "home").count("SELECT 1 FROM dead_letters") == 0


async def test_a_mail_in_the_mailbox_carries_its_picture_and_says_whose_wish_it_was(
    prepared: Prepared, tmp_path: Path
) -> None:
    async with journey(prepared, tmp_path, Variant()) as travelling:
        await travelling.limner.start()
        await travelling.play()
        limner = travelling.limner
        tasks = {one["email"]: one for one in await limner.listed("/api/tasks", kind="image")}
        for row in await limner.listed("/api/mailbox"):
            mail = await limner.get(f"/api/mailbox/{row['id']}")
            task = tasks.get(row["to"][0])
            if task is None:
                continue
            pictures = [
                one for one in mail["attachments"] if one["content_type"].startswith("image/")
            ]
            assert pictures, mail["attachments"]
            _, content_type, content = await limner.fetch(pictures[0]["url"])
            assert content_type == "image/png"
            assert content == (await limner.fetch(task["result_url"]))[2]
        await hold(travelling)


VARIANTS = {
    "the local model and the mailbox": Variant(),
    "a provider, SMTP and a language model": Variant(provider="findable", smtp=True, llm=True),
    "clients that listen": Variant(listens=True),
    "a schedule that polls": Variant(scheduled=True),
}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
async def test_the_whole_story_holds_all_invariants_with(
    variant: Variant, prepared: Prepared, tmp_path: Path
) -> None:
    async with journey(prepared, tmp_path, variant) as travelling:
        await travelling.limner.start()
        await travelling.play()
        await travelling.heard()
        await _poll_again(travelling)
        if travelling.world.smtp is not None:
            wanted = sum(wish.expect == "emailed" for wish in wishes())
            assert sum(travelling.world.smtp.copies.values()) == wanted
        await hold(travelling)
        verified = await asyncio.to_thread(run, travelling.limner.home, "audit", "verify")
        assert verified.code == 0, verified


TAMPERINGS = {
    "a comment twice": (
        "I-COM",
        (
            "INSERT INTO comments (id, user_id, trace_id, state, version, created_at, updated_at, "
            "source_id, external_id, author, text, task_id, reason) SELECT id || 'x', user_id, "
            "trace_id, state, version, created_at, updated_at, 'another', external_id, author, "
            "text, task_id, reason FROM comments LIMIT 1"
        ),
    ),
    "a task that was lost": ("I-COM", "DELETE FROM tasks WHERE state = 'needs_review'"),
    "a task that is stuck": ("I-TERM", "UPDATE tasks SET state = 'running' WHERE rowid = 1"),
    "a lease that was left": ("I-TERM", "UPDATE jobs SET lease_until = created_at"),
    "a poll that broke off": ("I-TERM", "UPDATE sources SET broken = 1"),
    "a state that was skipped": ("I-MONO", "DELETE FROM timeline WHERE state = 'succeeded'"),
    "an end that came twice": (
        "I-MONO",
        (
            "INSERT INTO timeline (kind, object_id, n, at, type, state, detail, data, user_id) "
            "SELECT kind, object_id, n + 1, at, type, state, detail, data, user_id FROM timeline "
            "WHERE type = 'done' LIMIT 1"
        ),
    ),
    "a job twice": ("I-ONCE", "UPDATE jobs SET task_id = (SELECT MIN(task_id) FROM jobs)"),
    "a mail that was lost": ("I-MAIL", "DELETE FROM mailbox WHERE rowid = 1"),
    "a mail nobody knows of": ("I-MAIL", "UPDATE deliveries SET state = 'unknown'"),
    "a mail to somebody else": ("I-MAIL", "UPDATE deliveries SET address = 'eve@example.com'"),
    "a mail that was counted twice": (
        "I-MAIL",
        (
            "INSERT INTO audit (id, at, event, actor, subject, request_id, trace_id, data, hash) "
            "SELECT id || 'x', at, event, actor, subject, request_id, trace_id, data, '' "
            "FROM audit WHERE event = 'mail.sent' LIMIT 1"
        ),
    ),
    "a message that waits": (
        "I-OUT",
        (
            "INSERT INTO outbox (id, message_id, app_id, topic, kind, body, trace_id, attempt, "
            "due_at, publish_after, created_at) SELECT 'x', 'x', '', 'x.y', 'command', '', '', 1, "
            "created_at, created_at, created_at FROM tasks LIMIT 1"
        ),
    ),
    "a picture that was lost": (
        "I-OBJ",
        "UPDATE tasks SET result_key = 'jobs/none' WHERE state = 'emailed'",
    ),
    "a picture that was cut": (
        "I-OBJ",
        "UPDATE mailbox SET size_bytes = size_bytes + 1",
    ),
    "an audit line that was changed": ("I-AUDIT", "UPDATE audit SET actor = 'x' WHERE seq = 1"),
}


async def test_the_checks_find_every_kind_of_loss_and_doubling(
    prepared: Prepared, tmp_path: Path
) -> None:
    async with journey(prepared, tmp_path, Variant()) as travelling:
        await travelling.limner.start()
        await travelling.play()
        await hold(travelling)
        path = travelling.limner.home / "limner.db"
        content = path.read_bytes()
        for name, (invariant, statement) in TAMPERINGS.items():
            with closing(sqlite3.connect(path)) as books, books:
                books.execute("PRAGMA journal_mode = DELETE")
                books.execute(statement)
            found = await findings_of(travelling)
            assert any(finding.startswith(invariant) for finding in found), (name, found)
            path.write_bytes(content)
        key = travelling.limner.key
        with (tmp_path / "home-1.stderr").open("a") as errors:
            errors.write(f'Traceback\n{{"level": "info", "event": "{key}"}}\n{{"level":"error"}}\n')
        found = await findings_of(travelling)
        assert [finding.split(":")[0] for finding in found] == [
            "I-LEAK not JSON",
            "I-LEAK tells a secret or an address",
            "I-LEAK an error",
        ]


async def _poll_again(travelling: Journey) -> None:
    """Poll a second time and demand that nothing comes of it."""
    limner = travelling.limner
    before = {path: await limner.listed(path) for path in ("/api/comments", "/api/deliveries")}
    asked = len(travelling.world.feed.asked)
    source = await travelling.source()
    await limner.request("POST", f"/api/sources/{source['id']}/poll")
    await until(lambda: len(travelling.world.feed.asked) > asked, 20, "a second poll")
    await travelling.settled()
    assert {path: await limner.listed(path) for path in before} == before
