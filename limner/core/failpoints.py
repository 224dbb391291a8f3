"""Named places where a test can make the process die, fail or stall.

Every step of an adapter that touches the outside declares its name at import and wraps the work in
``async with step(NAME)``, which gives two points: ``NAME.before`` and ``NAME.after``. Setting
``LIMNER_FAILPOINT=name[:nth][:action]`` arms one of them; without a suffix the name means
``.before``, or ``.after`` for the action ``execute-then-raise`` ("the caller saw an error, yet the
work was done", as Temporal's fault injection calls it).
"""

import asyncio
import os
import signal
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import cache
from typing import Literal, cast, get_args

from limner.core.errors import FailpointReached, Invalid

Action = Literal["kill", "raise", "sleep", "execute-then-raise"]
SLEEP_S = 2.0

_names: set[str] = set()
_fired: set[str] = set()


@dataclass
class Armed:
    """One failpoint, waiting for its nth visit."""

    point: str
    nth: int
    action: Action
    visits: int = 0


_armed: Armed | None = None


def declare(name: str) -> str:
    """Register a step under ``name`` and give the name back."""
    _names.add(name)
    return name


def steps() -> frozenset[str]:
    """Give the names of all steps whose modules have been imported."""
    return frozenset(_names)


def fired() -> frozenset[str]:
    """Give the points that acted in this process."""
    return frozenset(_fired)


def parse(text: str) -> Armed:
    """Read ``name[:nth][:action]``.

    Raises:
        Invalid: unknown action, or a count that is no positive number.
    """
    name, *rest = text.split(":")
    nth, action = 1, "raise"
    for part in rest:
        if part.isdecimal() and int(part) > 0:
            nth = int(part)
        elif part in get_args(Action):
            action = part
        else:
            raise Invalid(
                f"LIMNER_FAILPOINT: {part!r} is neither a count nor one of "
                f"{', '.join(get_args(Action))}"
            )
    if not name.endswith((".before", ".after")):
        name += ".after" if action == "execute-then-raise" else ".before"
    return Armed(name, nth, cast("Action", action))


def arm(text: str | None) -> None:
    """Arm one failpoint, or none."""
    global _armed  # noqa: PLW0603 - one failpoint per process, set by the composition root
    _armed = parse(text) if text else None


async def reach(point: str) -> None:
    """Act if ``point`` is armed and this is its nth visit."""
    armed = _armed
    if armed is None or armed.point != point:
        return
    armed.visits += 1
    if armed.visits != armed.nth:
        return
    _fired.add(point)
    if armed.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif armed.action == "sleep":
        await asyncio.sleep(SLEEP_S)
    else:
        raise FailpointReached(f"failpoint {point}")


class _Step:
    """One declared step, surrounded by its two points."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    async def __aenter__(self) -> None:
        if _armed is not None:
            await reach(f"{self._name}.before")

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if _armed is not None and kind is None:
            await reach(f"{self._name}.after")


@cache
def step(name: str) -> AbstractAsyncContextManager[None]:
    """Surround one declared step with its two points; costs next to nothing while none is armed."""
    return _Step(name)
