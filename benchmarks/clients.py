"""Clients of a front: so many requests at once, and the processor time they cost its process."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
from aiohttp import ClientSession, TCPConnector

from benchmarks.child import Measured, gate

PID, DONE = "pid", "done"
"""Files by which the front says which process it is, and the clients that they have finished."""

PROMPT = "a red circle"
WARM_PART = 10
"""A tenth of the requests come first and are not counted."""

TICK_S = 0.01
"""The system counts another process' time in such ticks: what is shorter is none or one."""

Ask = Callable[[int], Awaitable[str]]


class WrongAnswer(RuntimeError):
    """The front gave another answer than was measured for."""


class Clients:
    """Reads jobs and makes them."""

    def __init__(self, session: ClientSession, url: str, jobs: list[str]) -> None:
        self._session = session
        self._url = url
        self._jobs = jobs

    async def read(self, n: int) -> str:
        """Read a job.

        Raises:
            WrongAnswer: the answer was another one.
        """
        ident = self._jobs[n % len(self._jobs)]
        async with self._session.get(f"{self._url}/api/generate/{ident}") as answer:
            if answer.status != 200 or (await answer.json())["id"] != ident:
                raise WrongAnswer(f"{answer.status}: {await answer.text()}")
        return f"{n}"

    async def write(self, n: int) -> str:
        """Ask for a picture under a key of its own.

        Raises:
            WrongAnswer: the answer was another one.
        """
        async with self._session.post(
            f"{self._url}/api/generate/image",
            json={"prompt": PROMPT},
            headers={"Idempotency-Key": f"request-{n}"},
        ) as answer:
            if answer.status != 202:
                raise WrongAnswer(f"{answer.status}: {await answer.text()}")
            ident: str = (await answer.json())["id"]
        return ident


async def drive(
    home: str, url: str, key: str, jobs: list[str], wanted: dict[str, int], at_once: int
) -> Measured:
    """Send the ``wanted`` numbers of reads, then of writes, ``at_once`` at the same time.

    Gives for each kind the seconds and the processor seconds of the front's process.

    Raises:
        WrongAnswer: an answer was wrong, or two requests made one job.
    """
    await gate()
    front = psutil.Process(int((Path(home) / PID).read_text()))
    connector, headers = TCPConnector(limit=at_once), {"Authorization": f"Bearer {key}"}
    measured: Measured = {}
    try:
        async with ClientSession(connector=connector, headers=headers) as session:
            clients = Clients(session, url, jobs)
            for kind, ask in (("read", clients.read), ("write", clients.write)):
                measured[kind] = await _measured(front, ask, wanted[kind], at_once)
    finally:
        (Path(home) / DONE).touch()
    return measured


async def _measured(front: psutil.Process, ask: Ask, requests: int, at_once: int) -> Measured:
    warm = requests // WARM_PART
    await _send(ask, range(warm), at_once)
    before_s, started = _cpu_s(front), time.perf_counter()
    made = await _send(ask, range(warm, warm + requests), at_once)
    seconds = time.perf_counter() - started
    cpu_s = max(TICK_S, _cpu_s(front) - before_s)
    if len(made) != requests:
        raise WrongAnswer(f"{requests} requests made {len(made)} jobs")
    return {"seconds": seconds, "cpu_s": cpu_s}


async def _send(ask: Ask, numbers: range, at_once: int) -> set[str]:
    left = iter(numbers)
    made: set[str] = set()

    async def one_by_one() -> None:
        for n in left:
            made.add(await ask(n))

    await asyncio.gather(*(one_by_one() for _ in range(at_once)))
    return made


def _cpu_s(process: psutil.Process) -> float:
    used = process.cpu_times()
    return float(used.user + used.system)
