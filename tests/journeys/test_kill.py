"""``kill -9`` at every failpoint and at random moments: N wishes, N tasks, N mails, none twice."""

import asyncio
import importlib
import os
import pkgutil
import random
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import limner
from limner.core import failpoints
from tests.journeys.invariants import NOTHING, Allowed, hold
from tests.journeys.process import Died, Prepared, prepare
from tests.journeys.story import Journey, Variant, journey

pytestmark = [pytest.mark.journey, pytest.mark.timeout(150)]

MAILER_HANDS = 4
"""Mails that the mailer has in hand at once (setting ``concurrency``): a kill leaves at most these
between the beginning and the end of their sending."""

RANDOM_KILLS = 20
DEATH_LIMIT_S = 30.0

LOCAL = Variant()
KEYED = Variant(provider="keyed", llm=True)
FINDABLE = Variant(provider="findable")
SMTP = Variant(smtp=True)


@dataclass(frozen=True)
class Drive:
    """In which journey a step is passed, and at which visit of it the server shall die."""

    variant: Variant
    nth: int


DRIVEN: dict[str, Drive] = {
    "audit.seal": Drive(LOCAL, 2),
    "broker.ack": Drive(LOCAL, 20),
    "broker.publish": Drive(LOCAL, 25),
    "db.begin_effect": Drive(LOCAL, 8),
    "db.commit": Drive(LOCAL, 40),
    "jobs.claim": Drive(LOCAL, 1),
    "lease.renew": Drive(LOCAL, 1),
    "mailbox.row": Drive(LOCAL, 3),
    "objects.delete": Drive(replace(LOCAL, clears=True), 3),
    "objects.put": Drive(LOCAL, 4),
    "outbox.claim": Drive(KEYED, 2),
    "outgoing.request": Drive(KEYED, 6),
    "provider.status": Drive(KEYED, 4),
    "provider.submit": Drive(KEYED, 3),
    "schedule.fire": Drive(replace(LOCAL, scheduled=True), 1),
    "smtp.connect": Drive(SMTP, 2),
    "smtp.dot": Drive(SMTP, 3),
    "sse.write": Drive(replace(LOCAL, listens=True), 10),
}

EXCUSED: dict[str, str] = {}
"""Steps that no journey passes, each with the reason."""

RAISING = ("db.commit", "broker.publish", "provider.submit", "mailbox.row", "objects.put")


def _all_steps() -> frozenset[str]:
    """Import every module, so that each step has been declared, and give their names."""
    for module in pkgutil.walk_packages(limner.__path__, "limner."):
        importlib.import_module(module.name)
    return failpoints.steps()


STEPS = sorted(_all_steps())
SEED = int(os.environ.get("JOURNEY_SEED") or random.SystemRandom().getrandbits(32))
_fired: set[str] = set()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module", autouse=True)
def _told(request: pytest.FixtureRequest) -> Iterator[None]:
    """Print the seed, and at the end how many of the failpoints have fired."""
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    yield
    fired = {point for point in _fired if point.rpartition(".")[0] in STEPS}
    if reporter is not None:
        reporter.write_line(
            f"\nkill seed={SEED} failpoints fired/registered {len(fired)}/{2 * len(STEPS)}"
        )


def _allowed(variant: Variant, kills: int) -> Allowed:
    """A mail server cannot be asked what became of a mail; everything else can."""
    return Allowed(unknown=kills * MAILER_HANDS) if variant.smtp else NOTHING


async def _die_and_return(travelling: Journey, point: str, nth: int) -> None:
    """Travel until the failpoint kills the server, then go on without it and check everything."""
    server = travelling.limner
    with suppress(Died):
        await server.start(f"{point}:{nth}:kill")
        await travelling.play()
    # Some steps come only after the rest has settled, e.g. what the sweeper does.
    await server.ended(DEATH_LIMIT_S)
    assert server.code == -signal.SIGKILL, f"{point} ended with {server.code}"
    _fired.add(point)
    await _go_on(travelling)
    await hold(travelling, _allowed(travelling.world.variant, kills=1))


async def _go_on(travelling: Journey) -> None:
    await travelling.limner.start()
    await travelling.play()
    await travelling.heard()


def test_every_failpoint_is_driven_by_a_journey_or_excused() -> None:
    assert set(STEPS) == set(DRIVEN) | set(EXCUSED)
    assert not set(DRIVEN) & set(EXCUSED)
    assert set(RAISING) <= set(STEPS)


@pytest.mark.parametrize("step", sorted(DRIVEN))
async def test_a_server_killed_before_and_after_a_step_loses_and_doubles_nothing(
    step: str, prepared: Prepared, tmp_path: Path
) -> None:
    drive = DRIVEN[step]

    async def travel(point: str) -> None:
        folder = tmp_path / point
        folder.mkdir()
        async with journey(prepared, folder, drive.variant) as travelling:
            await _die_and_return(travelling, point, drive.nth)

    async with asyncio.TaskGroup() as both:
        for end in ("before", "after"):
            both.create_task(travel(f"{step}.{end}"))


async def test_an_order_whose_answer_was_lost_is_found_and_one_never_sent_is_sent_once(
    prepared: Prepared, tmp_path: Path
) -> None:
    async def travel(point: str) -> None:
        folder = tmp_path / point
        folder.mkdir()
        async with journey(prepared, folder, FINDABLE) as travelling:
            await _die_and_return(travelling, point, 2)

    async with asyncio.TaskGroup() as both:
        for end in ("before", "after"):
            both.create_task(travel(f"provider.submit.{end}"))


@pytest.mark.parametrize("pair", range(RANDOM_KILLS // 2))
async def test_a_server_killed_at_a_random_moment_loses_and_doubles_nothing(
    pair: int, prepared: Prepared, tmp_path: Path
) -> None:
    async def travel(number: int) -> None:
        dice = random.Random(f"{SEED}-{number}")  # noqa: S311 - repeatable by its seed
        variant = (LOCAL, SMTP, KEYED, LOCAL)[number % 4]
        moment_s = dice.uniform(0.0, 3.5)
        folder = tmp_path / str(number)
        folder.mkdir()
        async with journey(prepared, folder, variant) as travelling:
            server = travelling.limner
            await server.start()
            playing = asyncio.create_task(travelling.play())
            await asyncio.wait({playing}, timeout=moment_s)
            await server.kill()
            await asyncio.wait({playing})
            died = playing.exception()
            assert died is None or isinstance(died, Died), died
            await _go_on(travelling)
            try:
                await hold(travelling, _allowed(variant, kills=1))
            except AssertionError as error:
                error.add_note(f"JOURNEY_SEED={SEED}, kill {number} at {moment_s:.3f} s")
                raise

    async with asyncio.TaskGroup() as both:
        for number in (2 * pair, 2 * pair + 1):
            both.create_task(travel(number))


async def test_a_server_killed_again_and_again_during_one_journey_still_brings_it_to_its_end(
    prepared: Prepared, tmp_path: Path
) -> None:
    kills = 8
    dice = random.Random(f"{SEED}-again")  # noqa: S311 - repeatable by its seed
    async with journey(prepared, tmp_path, LOCAL) as travelling:
        for _ in range(kills):
            await travelling.limner.start()
            playing = asyncio.create_task(travelling.play())
            await asyncio.wait({playing}, timeout=dice.uniform(0.05, 0.8))
            await travelling.limner.kill()
            await asyncio.wait({playing})
            assert playing.exception() is None or isinstance(playing.exception(), Died)
        await _go_on(travelling)
        await hold(travelling)


@pytest.mark.timeout(240)
async def test_steps_that_fail_or_fail_after_they_were_done_lose_and_double_nothing(
    prepared: Prepared, tmp_path: Path
) -> None:
    # Most of such a journey is waiting for leases to end, so that four at once are no load.
    turns = asyncio.Semaphore(4)

    async def travel(step: str, action: str) -> None:
        drive = DRIVEN[step]
        folder = tmp_path / f"{step}-{action}"
        folder.mkdir()
        async with turns, journey(prepared, folder, drive.variant) as travelling:
            try:
                await travelling.limner.start(f"{step}:{drive.nth}:{action}")
                await travelling.play()
                await hold(travelling, Allowed(failures=True))
            except BaseException as error:
                error.add_note(f"{step}:{drive.nth}:{action}")
                raise

    async with asyncio.TaskGroup() as all_of_them:
        for step in RAISING:
            for action in ("raise", "execute-then-raise"):
                all_of_them.create_task(travel(step, action))
