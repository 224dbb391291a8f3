"""A Limner of its own in a child process: started, killed, started again, driven over REST.

``async with Limner(home) as limner`` reaps its child by its pid, whatever happens. The home is a
copy of one that ``prepare`` has migrated; its port stays the same over all starts, so that links
in mails stay true. What the processes wrote to stderr is kept, start by start.
"""

import asyncio
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

RUN = str(Path(__file__).resolve().parents[2] / "run.py")
START_LIMIT_S = 30.0
COMMAND_LIMIT_S = 30.0
END_LIMIT_S = 35.0
REQUEST_LIMIT_S = 20.0
LOOK_S = 0.03
NOT_OURS = ("LIMNER_", "COV_CORE_")
ALIASES = ("DATABASE_URL", "REDIS_URL", "JWT_SECRET", "LOG_LEVEL", "SMTP_URL", "SMTP_FROM")


class Died(Exception):
    """The server's process has ended."""


class Answered(Exception):
    """The server answered with an error; ``status`` and ``body`` are what it said."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(f"{status}: {body}")
        self.status = status
        self.body = body


@dataclass(frozen=True)
class Answer:
    """What a server said to one request."""

    status: int
    text: str
    retry_after_s: float

    @property
    def document(self) -> Any:
        """The JSON of its body."""
        return json.loads(self.text) if self.text else None


@dataclass(frozen=True)
class Finished:
    """How a command ended."""

    code: int
    out: str
    err: str


async def until(
    condition: Callable[[], object], limit_s: float, what: str, look_s: float = LOOK_S
) -> None:
    """Wait until ``condition`` gives something true, or an awaitable of it.

    Raises:
        AssertionError: it did not within ``limit_s``; ``what`` names it.
    """
    deadline = time.monotonic() + limit_s
    while True:
        answer = condition()
        if await answer if isinstance(answer, Awaitable) else answer:
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {limit_s:g} s")
        await asyncio.sleep(look_s)


def environment(home: Path, settings: Mapping[str, str]) -> dict[str, str]:
    """Give a child's environment: ours without any setting of Limner's, and ``settings``."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(NOT_OURS) and name not in ALIASES
    }
    return {**clean, "LIMNER_HOME": str(home), **settings}


def run(home: Path, *arguments: str, **settings: str) -> Finished:
    """Run one command of ``run.py`` to its end."""
    ended = subprocess.run(
        [sys.executable, RUN, *arguments],
        cwd=home.parent,
        env=environment(home, settings),
        capture_output=True,
        text=True,
        timeout=COMMAND_LIMIT_S,
        check=False,
    )
    return Finished(ended.returncode, ended.stdout, ended.stderr)


@dataclass(frozen=True)
class Prepared:
    """A home with the newest schema and an owner, and a key of the owner's; never served itself."""

    home: Path
    key: str

    def copy(self, target: Path) -> Path:
        """Copy the home to ``target`` and give that."""
        shutil.copytree(self.home, target)
        return target


def prepare(folder: Path) -> Prepared:
    """Make a home in ``folder`` with ``run.py migrate`` and ``run.py key create``."""
    home = folder / "home"
    migrated = run(home, "migrate")
    assert migrated.code == 0, migrated.err
    made = run(home, "key", "create")
    assert made.code == 0, made.err
    return Prepared(home, made.out.strip())


_ports = itertools.count()


def free_port() -> int:
    """Give a port that nobody listens on and that no other test of this run is given.

    From below the range that outgoing connections take theirs from, a block per process: a port
    that the system picks may be taken again before the server listens on it.
    """
    block = 20_000 + os.getpid() % 200 * 50
    while True:
        port = block + next(_ports) % 50
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


@dataclass
class Limner:
    """One home and the processes that serve it, one after the other."""

    home: Path
    key: str
    settings: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    starts: int = 0
    _child: subprocess.Popen[bytes] | None = None
    _session: aiohttp.ClientSession | None = None
    _nobody: aiohttp.ClientSession | None = None

    @property
    def url(self) -> str:
        """Where the front is."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of the child."""
        assert self._child is not None, "nothing was started"
        return self._child.pid

    async def __aenter__(self) -> Self:
        self._session = _session({"Authorization": f"Bearer {self.key}"})
        self._nobody = _session({})
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.reap()
        for session in (self._session, self._nobody):
            if session is not None:
                await session.close()

    # The process

    def launch(self, *arguments: str, failpoint: str = "") -> None:
        """Start ``run.py serve`` without waiting for anything."""
        assert self.code is not None or self._child is None, "the one before still runs"
        self.starts += 1
        settings = {**self.settings, **({"LIMNER_FAILPOINT": failpoint} if failpoint else {})}
        with (
            self._log("stdout", self.starts).open("wb") as out,
            self._log("stderr", self.starts).open("wb") as err,
        ):
            self._child = subprocess.Popen(
                [sys.executable, RUN, "serve", "--port", str(self.port), *arguments],
                cwd=self.home.parent,
                env=environment(self.home, settings),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    async def start(self, failpoint: str = "") -> None:
        """Start the server and wait until ``/readyz`` says 200.

        Raises:
            Died: it ended before that.
        """
        self.launch(failpoint=failpoint)

        async def ready() -> bool:
            self._demand_life()
            return await self.probe("/readyz") == 200

        await until(ready, START_LIMIT_S, "ready")

    @property
    def code(self) -> int | None:
        """The exit code of the child; None while it runs."""
        return self._child.poll() if self._child is not None else None

    def _demand_life(self) -> None:
        if self.code is not None:
            raise Died(f"exit code {self.code}\n{self.stderr()[-2000:]}")

    def signal(self, number: int) -> None:
        """Send a signal to the child."""
        assert self._child is not None
        self._child.send_signal(number)

    async def ended(self, limit_s: float = END_LIMIT_S) -> int:
        """Wait for the end of the child and give its exit code."""
        await until(lambda: self.code is not None, limit_s, "the end of the process")
        assert self.code is not None
        return self.code

    async def kill(self) -> None:
        """``kill -9`` and reap."""
        self.signal(signal.SIGKILL)
        assert await self.ended() in {-signal.SIGKILL, 0}

    async def stop(self) -> None:
        """SIGTERM, and demand exit code 0 before 30 s."""
        self.signal(signal.SIGTERM)
        assert await self.ended(30) == 0, self.stderr()[-4000:]

    def reap(self) -> None:
        """End the child, if it still runs."""
        if self._child is not None and self._child.poll() is None:
            self._child.kill()
            self._child.wait(10)

    # What it wrote

    def _log(self, name: str, start: int) -> Path:
        return self.home.parent / f"{self.home.name}-{start}.{name}"

    def stderr(self, start: int = 0) -> str:
        """Give what one start (default: the last) wrote to stderr."""
        return self._log("stderr", start or self.starts).read_text("utf-8")

    def stdout(self, start: int = 0) -> str:
        """Give what one start (default: the last) wrote to stdout."""
        return self._log("stdout", start or self.starts).read_text("utf-8")

    def stderr_lines(self) -> list[str]:
        """Give all whole lines of stderr; a killed process may leave a half one at the end."""
        lines = []
        for start in range(1, self.starts + 1):
            text = self.stderr(start)
            lines += text[: text.rfind("\n") + 1].splitlines()
        return lines

    # REST

    async def probe(self, path: str) -> int:
        """Give the status of a GET without a key; 0 if nobody answers."""
        assert self._nobody is not None
        try:
            async with self._nobody.get(f"{self.url}{path}") as answer:
                return answer.status
        except (aiohttp.ClientError, OSError):
            return 0

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        params: Mapping[str, str] | None = None,
    ) -> Any:
        """Make one request and give the JSON of its answer; waits where it is told to (429).

        Raises:
            Died: no answer, because the process has ended.
            Answered: with an error.
        """
        try:
            while True:
                answer = await self.ask(method, path, body, params)
                if answer.status != 429:
                    break
                await asyncio.sleep(answer.retry_after_s)
        except (aiohttp.ClientError, OSError) as error:
            # The connection ends a moment before the process can be waited for.
            await until(lambda: self.code is not None, 5, f"an end, after {error!r}")
            raise Died(f"{method} {path}: {error!r}") from error
        if answer.status >= 400:
            raise Answered(answer.status, answer.document)
        return answer.document

    async def ask(
        self, method: str, path: str, body: Any = None, params: Mapping[str, str] | None = None
    ) -> "Answer":
        """Make one request, once, and give whatever comes back.

        Raises:
            aiohttp.ClientError, OSError: nothing comes back.
        """
        assert self._session is not None
        async with self._session.request(
            method, f"{self.url}{path}", json=body, params=params
        ) as answer:
            text = await answer.text()
        return Answer(answer.status, text, float(answer.headers.get("Retry-After", 0)))

    async def get(self, path: str, **params: str) -> Any:
        """GET, as ``request``."""
        return await self.request("GET", path, params=params)

    async def listed(self, path: str, **params: str) -> list[dict[str, Any]]:
        """Give all rows of a list, page by page."""
        rows: list[dict[str, Any]] = []
        page = {"limit": "200", **params}
        while True:
            answer = await self.get(path, **page)
            rows += answer["data"]
            if answer["next_cursor"] is None:
                return rows
            page["cursor"] = answer["next_cursor"]

    async def fetch(self, url: str) -> tuple[int, str, bytes]:
        """GET a signed link without a key; give status, type and bytes."""
        assert self._nobody is not None
        async with self._nobody.get(url) as answer:
            return answer.status, answer.content_type, await answer.read()

    @asynccontextmanager
    async def streaming(self, path: str, last: str = "") -> AsyncIterator[aiohttp.ClientResponse]:
        """Open an event stream, from after the event ``last`` on."""
        assert self._session is not None
        headers = {"Last-Event-ID": last} if last else {}
        limit = aiohttp.ClientTimeout(total=120)
        async with self._session.get(f"{self.url}{path}", headers=headers, timeout=limit) as answer:
            yield answer


def _session(headers: dict[str, str]) -> aiohttp.ClientSession:
    """Open a session that never uses a connection twice: one of a killed server tells nothing."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(force_close=True, limit=0),
        timeout=aiohttp.ClientTimeout(total=REQUEST_LIMIT_S),
        headers=headers,
    )
