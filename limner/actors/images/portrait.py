"""One portrait out of one picture that nobody trusts: a program of its own, with little to lose.

It is started for each picture by ``portraits``, gets the picture on stdin and gives the portrait
on stdout; its exit code says what became of it. Nothing of this service is imported, and before
the picture is read, all is given up that only getting ready needed: nothing can be opened any more,
no file, no connection, nothing of other processes under ``/proc``.

The user's rights stay. Where Linux has Landlock (5.13 and later), what they would allow without
opening anything is refused too: to delete, move, make or run files, to trace the user's other
processes or reach into their memory; since 6.2 to shorten files, since 6.12 to send signals to
others. To change modes and times of files remains. None of this binds root for certain.
"""

import contextlib
import io
import os
import signal
import sys
import warnings

SIDE_PX = 256
PIXELS_MAX = 24_000_000
PICTURE_MAX_BYTES = 1 << 20
FORMATS = ("PNG", "JPEG", "WEBP")

MEMORY_BYTES = 512 << 20
CPU_S = 5
OPEN_FILES = 16
WALL_S = 10

CREATE_RULESET, RESTRICT_SELF, NO_NEW_PRIVILEGES = 444, 446, 38
"""Calls of Landlock, the same on all kinds of machines, and the prctl that it demands."""
FILES, TRUNCATE, TRUNCATE_SINCE = (1 << 13) - 1, 1 << 14, 3
SCOPES, SCOPES_SINCE = 0b11, 6
"""Its bits, and the version of Landlock that knows those which the first does not."""

NO_PICTURE, TOO_MANY_PIXELS, TOO_MUCH_MEMORY, NOT_CONFINED = 65, 66, 67, 70
"""Exit codes; 65 and 70 as in sysexits.h."""


def confine() -> None:
    """Bound what this process may take: memory, time, files; the limits cannot be raised again.

    Raises:
        OSError: the system does not know such a limit.
        ValueError: it does not allow to set one.
        ImportError: it has no limits at all.
    """
    import resource

    for kind, most in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CPU, CPU_S),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        _, hard = resource.getrlimit(kind)
        bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (bound, bound))
    # Also if whoever started this is gone and cannot end it any more.
    signal.alarm(WALL_S)


def withdraw() -> None:
    """Give up what only getting ready needed: nothing can be opened any more.

    A file, a connection and whatever else is opened needs a descriptor, and none is left to be had.

    Raises:
        OSError, ValueError, ImportError: as in ``confine``.
    """
    import resource

    # Without it, less is refused; no reason to refuse pictures.
    with contextlib.suppress(ImportError, OSError, AttributeError):
        wall_off()
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))


def wall_off() -> None:
    """Have Landlock refuse everything it knows of files, other processes and their signals.

    A set of rules without an exception (landlock(7), linux/landlock.h). Does nothing on a kernel
    without it.

    Raises:
        ImportError, OSError, AttributeError: the system's library cannot be called.
    """
    if sys.platform != "linux":
        return
    import ctypes

    libc = ctypes.CDLL(None)
    libc.syscall.restype = ctypes.c_long
    version = libc.syscall(ctypes.c_long(CREATE_RULESET), None, ctypes.c_size_t(0), 1)
    if version < 1:
        return
    files = FILES | (TRUNCATE if version >= TRUNCATE_SINCE else 0)
    scopes = SCOPES if version >= SCOPES_SINCE else 0
    rules = (ctypes.c_uint64 * 3)(files, 0, scopes)
    made = libc.syscall(
        ctypes.c_long(CREATE_RULESET), rules, ctypes.c_size_t(ctypes.sizeof(rules)), 0
    )
    if made >= 0:
        libc.prctl(NO_NEW_PRIVILEGES, *(ctypes.c_ulong(one) for one in (1, 0, 0, 0)))
        libc.syscall(ctypes.c_long(RESTRICT_SELF), ctypes.c_long(made), 0)
        os.close(made)


def portrait_of(picture: bytes) -> bytes:
    """Give the middle of a picture as a PNG of 256 x 256 pixels without any metadata.

    The first frame counts. The orientation that EXIF names is applied.

    Raises:
        DecompressionBombError: it has more than ``PIXELS_MAX`` pixels; nothing was decoded.
        MemoryError: it takes more than ``MEMORY_BYTES``.
        Exception: whatever the decoder raises at what is no picture.
    """
    from PIL import Image, ImageOps

    Image.MAX_IMAGE_PIXELS = PIXELS_MAX
    # What is odd about a picture and can be read nevertheless is nobody's concern.
    warnings.simplefilter("ignore")
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    with Image.open(io.BytesIO(picture), formats=FORMATS) as opened:
        # A JPEG can be decoded at a fraction of its size; the others do nothing here.
        opened.draft("RGB", (2 * SIDE_PX, 2 * SIDE_PX))
        opened.load()
        mode = "RGBA" if opened.has_transparency_data else "RGB"
        whole = opened if opened.mode == mode else opened.convert(mode)
        side = min(whole.size)
        left, top = (whole.width - side) / 2, (whole.height - side) / 2
        small = whole.resize(
            (SIDE_PX, SIDE_PX),
            Image.Resampling.LANCZOS,
            box=(left, top, left + side, top + side),
            reducing_gap=2.0,
        )
        # A square can be turned when it is small. What is no EXIF turns nothing.
        with contextlib.suppress(Exception):
            small = ImageOps.exif_transpose(small)
    made = io.BytesIO()
    # From its bare pixels: what else the picture carried stays behind.
    Image.frombytes(mode, small.size, small.tobytes()).save(made, "PNG", optimize=True)
    return made.getvalue()


def main() -> int:
    """Read, make, write; give the exit code."""
    try:
        confine()
        # Before anything untrusted is read: without its library nothing is the picture's fault.
        # And all of it that such pictures need, for later nothing can be loaded.
        from PIL import Image, ImageOps, MpoImagePlugin, TiffImagePlugin, WebPImagePlugin  # noqa: F401

        Image.preinit()
        withdraw()
    except (ImportError, OSError, ValueError):
        return NOT_CONFINED
    picture = sys.stdin.buffer.read(PICTURE_MAX_BYTES + 1)
    try:
        made = portrait_of(picture)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return TOO_MANY_PIXELS
    except MemoryError:
        return TOO_MUCH_MEMORY
    except Exception:  # noqa: BLE001 - decoders raise all kinds of errors at broken pictures
        return NO_PICTURE
    sys.stdout.buffer.write(made)
    sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    code = main()
    # Nothing is left to be tidied up, and tidying up could be what the picture waits for.
    os._exit(code)
