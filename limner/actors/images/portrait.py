"""One portrait out of one picture that nobody trusts: a program of its own, with nothing to lose.

It is started for each picture by ``portraits``, gets the picture on stdin and gives the portrait
on stdout; its exit code says what became of it. The limits are set before the decoder's library is
imported, and nothing of this service is: neither settings nor secrets are in its reach.
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
        from PIL import Image
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
