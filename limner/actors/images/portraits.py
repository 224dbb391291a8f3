"""Portraits of accounts, each made in a process of its own that is given nothing but the picture.

A decoder with a fault is the way in for who sends pictures. So the pictures are decoded by another
program (``portrait``), which is given neither this one's memory and environment nor its connections
and files, and can open none, within limits that the kernel keeps; and what it answers is looked at
before it is believed. What is left to it even so is told there.
"""

import asyncio
import os
import signal
import struct
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import cast

from limner.actors.images import portrait
from limner.core.errors import Busy, Invalid, LimnerError, NotConfigured, TimedOut
from limner.core.logs import get_logger

log = get_logger("images")

# By its path: isolated Python does not see the folder that the service was started in.
PROGRAM = (sys.executable, "-I", str(Path(portrait.__file__)))
CHILDREN = 2
WAITING = 8
PATIENCE_S = 5.0
ANSWER_MAX_BYTES = 512 * 1024
PIECE_BYTES = 65_536
LAST_WORDS_S = 1.0
PNG = b"\x89PNG\r\n\x1a\n"
SIDES = struct.Struct(">II")
SIDES_AT = 16
"""Where a PNG has its width and height (PNG specification, 11.2.1)."""

BAD = "this is no PNG, JPEG or WebP picture that can be read"
REFUSALS = {
    portrait.NO_PICTURE: BAD,
    portrait.TOO_MANY_PIXELS: f"a picture has at most {portrait.PIXELS_MAX // 10**6} megapixels",
    portrait.TOO_MUCH_MEMORY: "reading this picture takes too much memory",
}


class Portraits:
    """Makes portraits, ``CHILDREN`` at once.

    Args:
        program: the command that makes one; see ``portrait``.
        limit_s: how long one may take.
        patience_s: how long one may wait for its turn.
    """

    def __init__(
        self,
        program: Sequence[str] = PROGRAM,
        *,
        limit_s: float = portrait.WALL_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._program = tuple(program)
        self._limit_s = limit_s
        self._patience_s = patience_s
        self._turns = asyncio.Semaphore(CHILDREN)
        self._waiting = 0

    async def make(self, picture: bytes) -> bytes:
        """Give the middle of a picture as a PNG of 256 x 256 pixels without any metadata.

        Raises:
            Invalid: it is no picture, or one that takes too much to be read.
            Busy: too many are being made.
            TimedOut: it was not made within the limit.
            NotConfigured: this system cannot bound a process.
        """
        if not looks_like_a_picture(picture):
            raise Invalid(BAD)
        async with self._turn():
            code, made = await self._run(picture)
        if code == 0 and _is_portrait(made):
            return made
        log.warning("no portrait", exit_code=code, size_bytes=len(picture))
        if code == portrait.NOT_CONFINED:
            raise NotConfigured("pictures cannot be read safely on this system")
        if code > 0 and code not in REFUSALS:
            raise LimnerError(f"the program that makes portraits ended with {code}")
        # A signal: the kernel ended it at one of its limits, or the decoder fell over.
        raise Invalid(REFUSALS.get(code, "reading this picture takes too much"))

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Wait for a turn.

        Raises:
            Busy: too many wait, or it took too long.
        """
        if self._waiting >= WAITING:
            raise Busy("too many pictures are being read", retry_after_s=self._patience_s)
        self._waiting += 1
        try:
            async with asyncio.timeout(self._patience_s):
                await self._turns.acquire()
        except TimeoutError:
            raise Busy("too many pictures are being read", retry_after_s=self._patience_s) from None
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._turns.release()

    async def _run(self, picture: bytes) -> tuple[int, bytes]:
        """Run the program once and give its exit code, negative for a signal, and its answer."""
        try:
            process = await asyncio.create_subprocess_exec(
                *self._program,
                stdin=PIPE,
                stdout=PIPE,
                stderr=DEVNULL,
                env={},
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise Busy("no process can be started now") from error
        # They are there: both were asked for.
        stdin = cast(asyncio.StreamWriter, process.stdin)
        stdout = cast(asyncio.StreamReader, process.stdout)
        feeding = asyncio.create_task(_feed(stdin, picture))
        try:
            async with asyncio.timeout(self._limit_s):
                made = await _answer(stdout)
                if len(made) > ANSWER_MAX_BYTES:
                    return -signal.SIGKILL, b""
                return await process.wait(), made
        except TimeoutError:
            raise TimedOut("reading this picture took too long") from None
        finally:
            await _end(process, stdout, feeding)


async def _feed(stdin: asyncio.StreamWriter, picture: bytes) -> None:
    """Write the picture; a process that has ended wants no more of it."""
    try:
        stdin.write(picture)
        await stdin.drain()
    except ConnectionError:
        pass
    finally:
        stdin.close()


async def _answer(stdout: asyncio.StreamReader) -> bytes:
    """Read what it writes: all, or a little more than it may."""
    made = bytearray()
    while len(made) <= ANSWER_MAX_BYTES:
        piece = await stdout.read(PIECE_BYTES)
        if not piece:
            break
        made += piece
    return bytes(made)


async def _end(process: Process, stdout: asyncio.StreamReader, feeding: asyncio.Task[None]) -> None:
    """Leave nothing behind: neither a process, nor one it started, nor a pipe."""
    feeding.cancel()
    await asyncio.wait([feeding])
    # The session is its own, so that its number is that of the group. A process that has been
    # reaped may have passed its number on.
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    with suppress(TimeoutError):
        async with asyncio.timeout(LAST_WORDS_S):
            while await stdout.read(PIECE_BYTES):
                continue
    await process.wait()


def looks_like_a_picture(content: bytes) -> bool:
    """Whether bytes begin as PNG, JPEG or WebP: for anything else no process is started."""
    is_webp = content[:4] == b"RIFF" and content[8:12] == b"WEBP"
    return is_webp or content.startswith((PNG, b"\xff\xd8\xff"))


def _is_portrait(made: bytes) -> bool:
    """Whether an answer is what was asked for; a program that was taken over may say anything."""
    side = portrait.SIDE_PX
    return made.startswith(PNG) and made[SIDES_AT : SIDES_AT + 8] == SIDES.pack(side, side)
