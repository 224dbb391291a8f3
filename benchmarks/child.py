"""Measurements in processes of their own, so that memory and caches of one are not another's.

``await call(function, **arguments)`` runs an async function of a module in a fresh interpreter,
under the same event loop as the server, and gives the JSON object it returns, if any. ``together``
runs several that begin at the same moment: each says by ``await gate()`` that it is ready.
"""

import asyncio
import importlib
import json
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from limner.core import logs

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 900.0
TOLD_CHARACTERS = 4000
LINE_LIMIT_BYTES = 1 << 20
READY = "ready"
UVLOOP, PLAIN = "uvloop", "plain"

Measured = dict[str, Any]
Function = Callable[..., Awaitable[Measured | None]]


class ChildFailed(RuntimeError):
    """A measurement ended with an error, or did not end."""


@dataclass(frozen=True)
class Call:
    """A function to be run in a child; ``loop`` is ``UVLOOP``, or ``PLAIN`` for asyncio's own."""

    function: Function
    arguments: Mapping[str, Any] = field(default_factory=dict)
    loop: str = UVLOOP


class Child:
    """A started child: ready, told to go, and heard to the end."""

    def __init__(self, call: Call, process: asyncio.subprocess.Process) -> None:
        self._name = call.function.__module__
        self._process = process
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._in, self._out = process.stdin, process.stdout
        self._errors = asyncio.create_task(process.stderr.read())

    @classmethod
    async def start(cls, call: Call) -> "Child":
        """Start an interpreter that runs ``call``."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.child"),
            *(call.function.__module__, call.function.__qualname__, call.loop),
            json.dumps(dict(call.arguments)),
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=LINE_LIMIT_BYTES,
        )
        return cls(call, process)

    async def ready(self) -> None:
        """Wait until the child is at its gate.

        Raises:
            ChildFailed: it ended before.
        """
        line = await self._out.readline()
        if line.decode().strip() != READY:
            await self._fail()

    def go(self) -> None:
        """Open the gate."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self._in.write(b"go\n")

    async def result(self) -> Measured:
        """Give what the child measured, as soon as it says so.

        Raises:
            ChildFailed: it ended without.
        """
        last = b""
        while not last.startswith(b"{"):
            last = await self._out.readline()
            if not last:
                await self._fail()
        measured: Measured = json.loads(last)
        return measured

    async def end(self) -> None:
        """Let the child end by itself.

        Raises:
            ChildFailed: it ended with an error.
        """
        self._in.close()
        await self._out.read()
        await self._process.wait()
        if self._process.returncode:
            await self._fail()

    async def _fail(self) -> None:
        code = await self._process.wait()
        told = (await self._errors).decode(errors="replace")[-TOLD_CHARACTERS:]
        raise ChildFailed(f"{self._name}: exit {code}\n{told}")

    async def close(self) -> None:
        """Kill it if it still runs."""
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        await self._errors


async def call(function: Function, *, limit_s: float = LIMIT_S, **arguments: Any) -> Measured:
    """Run ``function(**arguments)`` in a child process; both ways through JSON.

    Raises:
        ChildFailed: it raised, or took longer than ``limit_s``.
    """
    child = await Child.start(Call(function, arguments))
    try:
        async with asyncio.timeout(limit_s):
            measured = await child.result()
            await child.end()
    except TimeoutError:
        raise ChildFailed(f"{function.__module__}: no end within {limit_s:g} s") from None
    finally:
        await child.close()
    return measured


async def together(
    calls: Sequence[Call],
    *,
    usage: Callable[[], Mapping[str, float]] = dict,
    limit_s: float = LIMIT_S,
) -> tuple[list[Measured], dict[str, float]]:
    """Run gated functions side by side; give what each measured, and what ``usage`` rose by.

    ``usage`` is read when the gates open and when the last child has told its figures.

    Raises:
        ChildFailed: one raised, or they took longer than ``limit_s``.
    """
    children = [await Child.start(call) for call in calls]
    try:
        async with asyncio.timeout(limit_s):
            await asyncio.gather(*(child.ready() for child in children))
            before = usage()
            for child in children:
                child.go()
            measured = await asyncio.gather(*(child.result() for child in children))
            after = usage()
            await asyncio.gather(*(child.end() for child in children))
    except TimeoutError:
        names = ", ".join(call.function.__module__ for call in calls)
        raise ChildFailed(f"{names}: no end within {limit_s:g} s") from None
    finally:
        await asyncio.gather(*(child.close() for child in children))
    return measured, {name: after[name] - seconds for name, seconds in before.items()}


async def gate() -> None:
    """Say in a child that everything is prepared, and wait for the word to begin."""
    print(READY, flush=True)
    await asyncio.to_thread(sys.stdin.readline)


def main(module: str, name: str, loop: str, arguments: str) -> None:
    """Be the child: measure, then print one line of JSON; logs as a server's, to stderr.

    What the measurement before has left to be written is written first, or this one would pay.
    """
    os.sync()
    logs.configure("info")
    function = getattr(importlib.import_module(module), name)

    async def measure() -> None:
        measured: Measured | None = await function(**json.loads(arguments))
        print(json.dumps(measured or {}), flush=True)

    if sys.platform == "win32" or loop == PLAIN:
        asyncio.run(measure())
    else:
        import uvloop

        uvloop.run(measure())


if __name__ == "__main__":
    main(*sys.argv[1:])
