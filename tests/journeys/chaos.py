"""Chaos: 100 comments through a cluster whose processes and engines are killed, one by one.

``python -m tests.journeys.chaos --seeds 10`` runs ten seeds, ``--seed N`` one, and prints for each
what was done and what came of it; exit 1 if an invariant does not hold. A mail whose fate nobody
can know is ``unknown``: visible, and at most as many as the mailer had in hand at the blows that
can part a mail from its commit.
"""

import argparse
import asyncio
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.engines import missing
from tests.journeys.cluster import THREE, Part, private_engines
from tests.journeys.invariants import Allowed
from tests.journeys.nemesis import Blow, Nemesis, plan
from tests.journeys.server_books import (
    ABOUT_LOST_ENGINES,
    INVARIANTS,
    Travel,
    crowd,
    travel,
)

COMMENTS = 100
SETTLE_LIMIT_S = 180.0
MAILER_HANDS = 4
"""Mails that one process has in hand at once (setting ``concurrency``)."""

ENGINES = "rabbitmq,mariadb,redis,s3"
PARTING = {"kill9", "sigstop", "db-kill"}
"""Blows that can come between a mail's last dot and the commit that knows of it."""


@dataclass(frozen=True)
class Verdict:
    """What a run found; ``lines`` is what it prints."""

    seed: int
    findings: list[str]
    lines: list[str]

    @property
    def held(self) -> bool:
        """Whether every invariant does."""
        return not self.findings


async def chaos(
    seed: int,
    folder: Path,
    *,
    comments: int = COMMENTS,
    parts: tuple[Part, ...] = THREE,
    rabbit_kills: int = 1,
) -> Verdict:
    """Run one seed in a folder and judge it."""
    began = time.monotonic()
    blows = plan(seed, [part.name for part in parts], rabbit_kills=rabbit_kills)
    wanted = crowd(comments)
    async with (
        private_engines(folder) as engines,
        # New comments are read as they come: a source is polled every five seconds.
        travel(engines, parts, folder, wanted, scheduled=True) as travelling,
    ):
        nemesis = Nemesis(travelling.cluster)
        await travelling.cluster.start()
        await _under_fire(travelling, nemesis, blows)
        try:
            await travelling.settled(SETTLE_LIMIT_S)
            unknown = MAILER_HANDS * sum(nemesis.struck[kind] for kind in PARTING)
            findings = await travelling.findings(
                Allowed(unknown=unknown, logged=ABOUT_LOST_ENGINES)
            )
        except AssertionError as error:
            findings = [f"I-TERM {error}", *travelling.errors()]
        lines = await asyncio.to_thread(
            lambda: _told(seed, travelling, nemesis, findings, time.monotonic() - began)
        )
    return Verdict(seed, findings, lines)


async def _under_fire(travelling: Travel, nemesis: Nemesis, blows: list[Blow]) -> None:
    """Let comments come in, some before each blow and the rest after the last."""
    feed = travelling.journey.world.feed
    coming = list(feed.comments)
    share = len(coming) // (len(blows) + 1)
    feed.comments = [coming.pop() for _ in range(share)]
    await travelling.prepare()
    for blow in blows:
        feed.comments = [*(coming.pop() for _ in range(share)), *feed.comments]
        await nemesis.strike(blow)
    feed.comments = [*coming, *feed.comments]


def _told(
    seed: int, travelling: Travel, nemesis: Nemesis, findings: list[str], wall_s: float
) -> list[str]:
    books, smtp = travelling.books, travelling.journey.world.smtp
    assert smtp is not None
    wanted = {wish.id for wish in travelling.wanted}
    stored = Counter(row["external_id"] for row in books.rows("SELECT external_id FROM comments"))
    tasks = Counter(row["state"] for row in books.rows("SELECT state FROM tasks"))
    deliveries = books.rows("SELECT state, message_id FROM deliveries")
    mails = Counter(row["state"] for row in deliveries)
    settled = tasks.total() - sum(tasks[state] for state in ("pending", "extracted", "running"))
    copies = smtp.copies
    lost = sum(row["state"] == "sent" and not copies[row["message_id"]] for row in deliveries)
    doubled = (
        f"duplicated={copies.total() - len(copies)} "
        f"unknown={mails['unknown']}(visible {tasks['unknown']})"
    )
    faults = _counted(nemesis.struck)
    verdicts = [
        f"{name} {'FAILED' if any(one.startswith(name) for one in findings) else 'ok'}"
        for name in INVARIANTS
    ]
    return [
        f"chaos seed={seed} engines={ENGINES} wall={wall_s:.0f}s faults: {faults}",
        f"comments {_found(wanted, stored)}",
        f"tasks settled={settled}/{tasks.total()} {_counted(tasks)}",
        f"mail copies={copies.total()} lost={lost} {doubled}",
        f"{'  '.join(verdicts)}       repro: python -m tests.journeys.chaos --seed {seed}",
        *_distinct(findings),
    ]


def _distinct(findings: list[str]) -> list[str]:
    """Give one finding of each sort, with how many there are."""
    sorts: dict[str, list[str]] = {}
    for finding in findings:
        sorts.setdefault(re.sub(r"[0-9a-f]*[0-9][0-9a-f]*", "#", finding)[:300], []).append(finding)
    return [f"{len(alike)} x {alike[0]}" for alike in sorts.values()]


def _found(wanted: set[str], stored: Counter[str]) -> str:
    there = set(stored)
    return (
        f"attempt={len(wanted)} ok={len(wanted & there)} lost={len(wanted - there)} "
        f"duplicated={stored.total() - len(stored)} unexpected={len(there - wanted)}"
    )


def _counted(counts: Counter[str]) -> str:
    return " ".join(f"{name}={count}" for name, count in sorted(counts.items()))


async def _main(arguments: argparse.Namespace) -> int:
    seeds = range(1, arguments.seeds + 1) if arguments.seed is None else [arguments.seed]
    failed = []
    for seed in seeds:
        folder = Path(tempfile.mkdtemp(prefix=f"limner-chaos-{seed}-"))
        verdict = await chaos(
            seed, folder, comments=arguments.comments, rabbit_kills=arguments.rabbit_kills
        )
        print("\n".join(verdict.lines), flush=True)
        if verdict.held:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            failed.append(seed)
            print(f"logs: {folder}", flush=True)
    print(f"seeds={len(seeds)} failed={failed}")
    return 1 if failed else 0


def main(words: Sequence[str] | None = None) -> int:
    """Run the seeds that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.journeys.chaos")
    parser.add_argument("--seeds", type=int, default=1, help="run the seeds 1 to N")
    parser.add_argument("--seed", type=int, help="run this one")
    parser.add_argument("--comments", type=int, default=COMMENTS)
    parser.add_argument("--rabbit-kills", type=int, default=1)
    arguments = parser.parse_args(words)
    if reason := missing.no_engines():
        print(reason, file=sys.stderr)
        return 1
    return asyncio.run(_main(arguments))


if __name__ == "__main__":
    sys.exit(main())
