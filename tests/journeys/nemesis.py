"""What a chaos run does to a cluster: blows, drawn by a seed, each struck and mended."""

import asyncio
import random
import signal
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from tests.engines.server import Server
from tests.journeys.cluster import Cluster, Member
from tests.journeys.process import until

Kind = Literal["kill9", "sigstop", "rabbit-kill", "db-kill", "redis-kill", "objects-cut"]

FROZEN_S = 17.0
"""Longer than a lease: what a frozen process holds is taken up by others."""
PAUSE_S = (0.3, 2.0)
AWAY_S = (0.0, 1.5)
SETTLED_LIMIT_S = 15.0


@dataclass(frozen=True)
class Blow:
    """One fault: after ``pause_s`` at ``target``, and mended after ``away_s``."""

    kind: Kind
    target: str
    pause_s: float
    away_s: float


def plan(seed: int, members: list[str], *, rabbit_kills: int = 1) -> list[Blow]:
    """Draw an order in which each process and each engine is struck, one process twice."""
    dice = random.Random(seed)  # noqa: S311 - repeatable by its seed
    blows: list[tuple[Kind, str]] = [("kill9", name) for name in members]
    blows += [("kill9", dice.choice(members)), ("sigstop", dice.choice(members))]
    blows += [("rabbit-kill", "broker")] * rabbit_kills
    blows += [("db-kill", "database")] * 2
    blows += [("redis-kill", "cache"), ("objects-cut", "objects")]
    dice.shuffle(blows)
    return [
        Blow(kind, target, dice.uniform(*PAUSE_S), dice.uniform(*AWAY_S)) for kind, target in blows
    ]


@dataclass
class Nemesis:
    """Strikes at a cluster and counts its blows."""

    cluster: Cluster
    struck: Counter[str] = field(default_factory=Counter)

    async def strike(self, blow: Blow) -> None:
        """Do one blow and mend it; the cluster may still suffer from it afterwards."""
        await asyncio.sleep(blow.pause_s)
        self.struck[blow.kind] += 1
        engines = self.cluster.engines
        match blow.kind:
            case "kill9":
                await self._kill(blow)
            case "sigstop":
                await self._freeze(blow)
            case "rabbit-kill":
                # RabbitMQ writes the names of new queues a second later.
                await until(lambda: engines.rabbitmq.settled, SETTLED_LIMIT_S, "queues on disk")
                await _restart(engines.rabbitmq, blow)
            case "db-kill":
                await _restart(engines.mariadb, blow)
            case "redis-kill":
                await _restart(engines.redis, blow)
            case "objects-cut":
                await engines.proxies["objects"].refuse()
                await asyncio.sleep(blow.away_s)
                await engines.proxies["objects"].heal()

    async def _kill(self, blow: Blow) -> None:
        member = self._member(blow)
        await member.kill()
        await asyncio.sleep(blow.away_s)
        await member.start()

    async def _freeze(self, blow: Blow) -> None:
        member = self._member(blow)
        member.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(FROZEN_S)
        finally:
            member.signal(signal.SIGCONT)

    def _member(self, blow: Blow) -> Member:
        return next(one for one in self.cluster.members if one.name == blow.target)


async def _restart(server: Server, blow: Blow) -> None:
    await asyncio.to_thread(server.kill)
    await asyncio.sleep(blow.away_s)
    await asyncio.to_thread(server.start)
