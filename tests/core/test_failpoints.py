"""Failpoints: read from one setting, they act once, and every step has both of its points."""

import asyncio
import importlib
import os
import pkgutil
import re
import signal
import sys
import time
from pathlib import Path

import pytest

import limner
from limner.core import failpoints
from limner.core.errors import FailpointReached, Invalid
from limner.core.failpoints import Armed, arm, declare, fired, parse, reach, step, steps

STEPS = [
    "audit.seal",
    "broker.ack",
    "broker.publish",
    "db.begin_effect",
    "db.commit",
    "jobs.claim",
    "lease.renew",
    "mailbox.row",
    "objects.delete",
    "objects.put",
    "outbox.claim",
    "outgoing.request",
    "provider.status",
    "provider.submit",
    "schedule.fire",
    "smtp.connect",
    "smtp.dot",
    "sse.write",
]
SOURCES = [path.read_text() for path in Path(limner.__path__[0]).rglob("*.py")]


def test_the_list_of_steps_that_chaos_must_visit_is_complete() -> None:
    for module in pkgutil.walk_packages(limner.__path__, "limner."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    of_tests = {name for name in steps() if name.startswith("test.")}
    assert sorted(steps() - of_tests) == STEPS


@pytest.mark.parametrize("name", STEPS)
def test_every_step_is_reached_before_and_after_its_work(name: str) -> None:
    declared = re.compile(rf'^(\w+) = declare\("{re.escape(name)}"\)$', re.MULTILINE)
    (constant,) = (found[1] for text in SOURCES if (found := declared.search(text)))
    whole = rf"async with [^:]*\bstep\({constant}\)"
    halves = [rf'reach\(f"{{{constant}}}\.{half}"\)' for half in ("before", "after")]
    assert any(
        re.search(whole, text) or all(re.search(half, text) for half in halves) for text in SOURCES
    )


@pytest.mark.parametrize(
    ("text", "point", "nth", "action"),
    [
        ("db.commit", "db.commit.before", 1, "raise"),
        ("db.commit.after", "db.commit.after", 1, "raise"),
        ("db.commit.before:kill", "db.commit.before", 1, "kill"),
        ("db.commit:3", "db.commit.before", 3, "raise"),
        ("db.commit:3:sleep", "db.commit.before", 3, "sleep"),
        ("db.commit:sleep:3", "db.commit.before", 3, "sleep"),
        ("db.commit:execute-then-raise", "db.commit.after", 1, "execute-then-raise"),
        ("db.commit.before:execute-then-raise", "db.commit.before", 1, "execute-then-raise"),
    ],
)
def test_a_failpoint_is_read(text: str, point: str, nth: int, action: str) -> None:
    armed = parse(text)
    assert (armed.point, armed.nth, armed.action, armed.visits) == (point, nth, action, 0)


@pytest.mark.parametrize("text", ["a:0", "a:-1", "a:explode", "a:", "a:1.5", "a:²"])
def test_what_is_no_failpoint_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="LIMNER_FAILPOINT"):
        parse(text)


async def test_nothing_happens_unless_armed() -> None:
    arm(None)
    await reach("test.idle.before")
    arm("")
    async with step("test.idle"):
        pass
    assert "test.idle.before" not in fired()


async def test_before_the_work_is_not_done_and_after_it_is() -> None:
    done: list[str] = []

    async def work() -> None:
        async with step("test.work"):
            done.append("work")

    arm("test.work")
    with pytest.raises(FailpointReached, match=r"test\.work\.before"):
        await work()
    assert done == []
    arm("test.work:execute-then-raise")
    with pytest.raises(FailpointReached, match=r"test\.work\.after"):
        await work()
    assert done == ["work"]
    assert {"test.work.before", "test.work.after"} <= fired()


async def test_only_the_nth_visit_acts() -> None:
    arm("test.nth:2")
    await reach("test.nth.before")
    await reach("test.other.before")
    with pytest.raises(FailpointReached):
        await reach("test.nth.before")
    await reach("test.nth.before")


async def test_work_that_failed_does_not_reach_the_point_after_it() -> None:
    arm("test.fails.after")
    with pytest.raises(ZeroDivisionError):
        async with step("test.fails"):
            raise ZeroDivisionError


async def test_a_sleeping_failpoint_stalls_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failpoints, "SLEEP_S", 0.02)
    arm("test.slow:sleep")
    started = time.perf_counter()
    await reach("test.slow.before")
    assert time.perf_counter() - started >= 0.02


KILLED = """
import asyncio
from limner.core.failpoints import arm, reach
arm("test.dies:kill")
print("alive", flush=True)
asyncio.run(reach("test.dies.before"))
print("survived", flush=True)
"""


async def test_a_killing_failpoint_ends_the_process_like_a_power_cut() -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(child.communicate(), 30)
    assert child.returncode == -signal.SIGKILL
    assert out == b"alive\n"


async def test_killing_is_sent_to_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, sign: sent.append((pid, sign)))
    arm("test.dies:kill")
    await reach("test.dies.before")
    assert sent == [(os.getpid(), signal.SIGKILL)]


def test_declaring_gives_the_name_back() -> None:
    assert declare("test.declared") == "test.declared"
    assert "test.declared" in steps()


def test_an_armed_failpoint_counts_from_nothing() -> None:
    assert Armed("a.before", 1, "raise").visits == 0
