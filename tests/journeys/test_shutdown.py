"""How a server ends: politely at the first SIGTERM, at once at the second; and when it refuses."""

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from tests.journeys.invariants import Books, hold
from tests.journeys.process import Limner, Prepared, prepare, run, until
from tests.journeys.story import Journey, Listener, Variant, journey

pytestmark = [pytest.mark.journey, pytest.mark.timeout(120)]

AT_ONCE_S = 2.0
EXIT_LIMIT_S = 30.0
DRAIN_S = 25.0


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(tmp_path_factory.mktemp("prepared"))


async def _hold_a_poll(travelling: Journey) -> None:
    """Start the server and have its poller wait for a feed that does not answer."""
    await travelling.limner.start()
    await travelling.prepare()
    travelling.world.feed.hold()
    await travelling.poll()
    await until(lambda: travelling.world.feed.in_flight == 1, 10, "a request in hand")


async def _not_ready(limner: Limner) -> None:
    async def refused() -> bool:
        return await limner.probe("/readyz") == 503

    await until(refused, AT_ONCE_S, "503 at /readyz")


async def test_sigterm_makes_it_unready_at_once_and_lets_it_finish_what_is_in_hand(
    prepared: Prepared, tmp_path: Path
) -> None:
    async with journey(prepared, tmp_path, Variant()) as travelling:
        limner = travelling.limner
        await _hold_a_poll(travelling)
        limner.signal(signal.SIGTERM)
        await _not_ready(limner)
        assert await limner.probe("/livez") == 200
        assert limner.code is None, "it must not end while it has work in hand"
        travelling.world.feed.go()
        assert await limner.ended(EXIT_LIMIT_S) == 0, limner.stderr()
        books = Books(limner.home)
        assert books.count("SELECT 1 FROM comments") == 4, "the page in hand was saved"
        assert books.count("SELECT 1 FROM outbox WHERE attempt > 1") == 0
        await limner.start()
        await travelling.play()
        await hold(travelling)


async def test_sigterm_under_load_loses_no_attempt_and_the_next_start_finishes_the_rest(
    prepared: Prepared, tmp_path: Path
) -> None:
    async with journey(prepared, tmp_path, Variant()) as travelling:
        limner = travelling.limner
        await limner.start()
        await travelling.prepare()
        await travelling.poll()
        books = Books(limner.home)
        busy = "SELECT 1 FROM jobs WHERE state = 'running'"
        await until(lambda: books.count(busy) > 0, 20, "a job in hand")
        limner.signal(signal.SIGTERM)
        began = time.monotonic()
        assert await limner.ended(EXIT_LIMIT_S) == 0, limner.stderr()
        assert time.monotonic() - began < EXIT_LIMIT_S
        assert books.count("SELECT 1 FROM jobs WHERE lease_until IS NOT NULL") == 0
        assert books.count("SELECT 1 FROM deliveries WHERE state = 'sending'") == 0
        assert books.count("SELECT 1 FROM outbox WHERE attempt > 1") == 0
        await limner.start()
        await travelling.play()
        assert books.count("SELECT 1 FROM jobs WHERE attempts <> 1") == 0
        await hold(travelling)


async def test_what_cannot_finish_within_the_drain_is_released_and_it_still_exits_with_0(
    prepared: Prepared, tmp_path: Path
) -> None:
    async with journey(prepared, tmp_path, Variant(provider="keyed")) as travelling:
        limner, provider = travelling.limner, travelling.world.provider
        assert provider is not None
        provider.submits(then="hangs")
        await limner.start()
        await travelling.prepare()
        await travelling.poll()
        await until(lambda: len(provider.submissions) == 4, 20, "submissions in hand")
        limner.signal(signal.SIGTERM)
        began = time.monotonic()
        assert await limner.ended(EXIT_LIMIT_S) == 0, limner.stderr()
        assert DRAIN_S - 5 < time.monotonic() - began < EXIT_LIMIT_S
        provider.submits()
        await limner.start()
        await travelling.play()
        await hold(travelling)


async def test_a_listening_client_is_told_when_to_come_back_and_its_stream_ends(
    prepared: Prepared, tmp_path: Path
) -> None:
    async with journey(prepared, tmp_path, Variant()) as travelling:
        limner = travelling.limner
        await limner.start()
        await travelling.play()
        (waiting,) = await limner.listed("/api/tasks", state="needs_review")
        listener = Listener(limner, waiting["id"])
        travelling.listeners[waiting["id"]] = listener
        await until(lambda: listener.connections == 1 and listener.last > 0, 10, "a stream")
        assert len(listener.retries_ms) == 1
        await limner.stop()
        await until(lambda: len(listener.retries_ms) == 2, 5, "a last word")
        assert 1000 <= listener.retries_ms[-1] <= 5000
        await limner.start()
        await until(lambda: listener.connections == 2, 10, "the client's return")
        await limner.request("POST", f"/api/tasks/{waiting['id']}/reject")
        await listener.ended()
        numbers = [one.id for one in listener.heard if one.id]
        assert numbers == sorted(set(numbers))
        assert [one.event for one in listener.heard].count("done") == 1


async def test_a_second_sigterm_ends_it_at_once_and_the_next_start_finds_everything(
    prepared: Prepared, tmp_path: Path
) -> None:
    async with journey(prepared, tmp_path, Variant()) as travelling:
        limner = travelling.limner
        await _hold_a_poll(travelling)
        limner.signal(signal.SIGTERM)
        await _not_ready(limner)
        limner.signal(signal.SIGTERM)
        began = time.monotonic()
        assert await limner.ended(AT_ONCE_S) == 1
        assert time.monotonic() - began < AT_ONCE_S
        travelling.world.feed.go()
        await limner.start()
        await travelling.play()
        await hold(travelling)


async def test_ctrl_c_ends_it_as_sigterm_does(prepared: Prepared, tmp_path: Path) -> None:
    async with Limner(prepared.copy(tmp_path / "home"), prepared.key) as limner:
        await limner.start()
        limner.signal(signal.SIGINT)
        assert await limner.ended(EXIT_LIMIT_S) == 0


async def test_a_home_in_use_is_refused_to_a_second_server_and_to_migrate_but_not_to_commands(
    prepared: Prepared, tmp_path: Path
) -> None:
    home = prepared.copy(tmp_path / "home")
    async with Limner(home, prepared.key) as limner:
        await limner.start()
        for arguments in (["serve", "--port", "0"], ["migrate"]):
            refused = await asyncio.to_thread(run, home, *arguments)
            assert refused.code == 1
            assert f"{home} is in use by process {limner.pid}" in refused.err
            assert "LIMNER_HOME" in refused.err
        made = await asyncio.to_thread(run, home, "key", "create")
        assert made.code == 0
        assert made.out.startswith("lim_")
        await limner.kill()
        freed = await asyncio.to_thread(run, home, "migrate")
        assert freed.code == 0, "the lock of a killed process is free"


def test_an_old_schema_is_refused_with_the_command_that_mends_it(tmp_path: Path) -> None:
    refused = run(tmp_path / "home", "serve", "--port", "0")
    assert refused.code == 1
    assert "run.py migrate" in refused.err
    assert "Traceback" not in refused.err


def test_an_unknown_setting_is_a_usage_error_that_names_the_nearest(
    prepared: Prepared, tmp_path: Path
) -> None:
    home = prepared.copy(tmp_path / "home")
    refused = run(home, "serve", LIMNER_CONCURENCY="4")
    assert refused.code == 2
    assert "Did you mean LIMNER_CONCURRENCY?" in refused.err


async def test_a_port_that_is_taken_is_refused_with_a_sentence(
    prepared: Prepared, tmp_path: Path
) -> None:
    async with Limner(prepared.copy(tmp_path / "one"), prepared.key) as first:
        await first.start()
        home = prepared.copy(tmp_path / "two")
        refused = await asyncio.to_thread(run, home, "serve", "--port", str(first.port))
        assert refused.code == 1
        assert str(first.port) in refused.err
        assert "Traceback" not in refused.err


async def test_a_production_server_refuses_failpoints(prepared: Prepared, tmp_path: Path) -> None:
    home = prepared.copy(tmp_path / "home")
    refused = await asyncio.to_thread(
        run,
        home,
        "serve",
        LIMNER_ENVIRONMENT="production",
        LIMNER_SECRET_KEY=os.urandom(32).hex(),
        LIMNER_FAILPOINT="db.commit:1:kill",
    )
    assert refused.code == 2
    assert "LIMNER_FAILPOINT" in refused.err
