"""Measurements in processes of their own, so that memory and caches of one are not another's.

``await call(function, **arguments)`` runs an async function of a module in a fresh interpreter,
under the same event loop as the server, and gives the JSON object it returns.
"""

import asyncio
import importlib
import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from limner.core import logs

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 900.0
TOLD_CHARACTERS = 4000

Measured = dict[str, Any]


class ChildFailed(RuntimeError):
    """A measurement ended with an error, or did not end."""


async def call(
    function: Callable[..., Awaitable[Measured]], *, limit_s: float = LIMIT_S, **arguments: Any
) -> Measured:
    """Run ``function(**arguments)`` in a child process; both ways through JSON.

    Raises:
        ChildFailed: it raised, or took longer than ``limit_s``.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.child", function.__module__, function.__qualname__),
        json.dumps(arguments),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(limit_s):
            out, err = await process.communicate()
    except TimeoutError:
        raise ChildFailed(f"{function.__module__}: no end within {limit_s:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        told = err.decode(errors="replace")[-TOLD_CHARACTERS:]
        raise ChildFailed(f"{function.__module__}: exit {process.returncode}\n{told}")
    measured: Measured = json.loads(out.decode().splitlines()[-1])
    return measured


def main(module: str, name: str, arguments: str) -> None:
    """Be the child: measure, then print one line of JSON; logs as a server's, to stderr.

    What the measurement before has left to be written is written first, or this one would pay.
    """
    os.sync()
    logs.configure("info")
    function = getattr(importlib.import_module(module), name)

    async def measure() -> Measured:
        measured: Measured = await function(**json.loads(arguments))
        return measured

    if sys.platform == "win32":
        measured = asyncio.run(measure())
    else:
        import uvloop

        measured = uvloop.run(measure())
    print(json.dumps(measured))


if __name__ == "__main__":
    main(*sys.argv[1:])
