"""What becomes of a picture: its middle, the right way up, and nothing else of it."""

import ctypes
import io
import os
import resource
import signal
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from limner.actors.images import portrait
from limner.actors.images.portrait import portrait_of

SIDE = portrait.SIDE_PX
ORIENTATION, GPS = 0x0112, 0x8825
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def quarters(size: tuple[int, int] = (400, 400)) -> Image.Image:
    """Give a picture whose quarters are red and green above blue and white."""
    small = Image.new("RGB", (2, 2))
    small.putdata([RED, GREEN, BLUE, WHITE])
    return small.resize(size, Image.Resampling.NEAREST)


def written(image: Image.Image, kind: str, **options: Any) -> bytes:
    made = io.BytesIO()
    image.save(made, kind, **options)
    return made.getvalue()


def read(made: bytes) -> Image.Image:
    """Read a portrait, which must be nothing but one."""
    image = Image.open(io.BytesIO(made), formats=["PNG"])
    image.load()
    assert image.size == (SIDE, SIDE)
    assert image.info == {}
    assert not image.getexif()
    return image


def corners(made: bytes) -> list[tuple[int, ...]]:
    """Give the colours of the quarters, with each channel off or on."""
    image = read(made).convert("RGB")
    places = [(60, 60), (190, 60), (60, 190), (190, 190)]
    found: list[Any] = [image.getpixel(place) for place in places]
    return [tuple(255 if one > 128 else 0 for one in pixel) for pixel in found]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("size", [(400, 400), (800, 400), (300, 1000), (2000, 1999), (2, 2)])
def test_the_middle_of_a_picture_becomes_a_square(kind: str, size: tuple[int, int]) -> None:
    image = quarters(size)
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    options = {"lossless": True} if kind == "WEBP" else options
    assert corners(portrait_of(written(image, kind, **options))) == [RED, GREEN, BLUE, WHITE]


def test_what_is_beside_the_middle_is_cut_off() -> None:
    wide = Image.new("RGB", (900, 300), "red")
    wide.paste(quarters((300, 300)), (300, 0))
    made = read(portrait_of(written(wide, "PNG"))).convert("RGB")
    left: Any = made.getpixel((1, 250))
    right: Any = made.getpixel((254, 5))
    assert left[2] > 240 > 15 > left[0]
    assert right[1] > 240 > 15 > right[0]


TURNED = {
    1: [RED, GREEN, BLUE, WHITE],
    2: [GREEN, RED, WHITE, BLUE],
    3: [WHITE, BLUE, GREEN, RED],
    4: [BLUE, WHITE, RED, GREEN],
    5: [RED, BLUE, GREEN, WHITE],
    6: [BLUE, RED, WHITE, GREEN],
    7: [WHITE, GREEN, BLUE, RED],
    8: [GREEN, WHITE, RED, BLUE],
    9: [RED, GREEN, BLUE, WHITE],
}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", TURNED)
def test_the_orientation_of_exif_is_applied_and_the_place_is_gone(
    kind: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    exif[0x010E] = "private words"
    exif.get_ifd(GPS).update({1: "N", 2: (52.0, 31.0, 0.0), 3: "E", 4: (13.0, 24.0, 0.0)})
    picture = written(quarters(), kind, exif=exif.tobytes())
    assert b"private words" in picture
    assert Image.open(io.BytesIO(picture)).getexif().get_ifd(GPS)
    made = portrait_of(picture)
    assert corners(made) == TURNED[orientation]
    assert b"private" not in made
    assert b"eXIf" not in made


def test_texts_profiles_and_comments_are_gone() -> None:
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Author", "private words")
    notes.add_itxt("XML:com.adobe.xmp", "<x>private words</x>")
    for picture in (
        written(quarters(), "PNG", pnginfo=notes, icc_profile=b"a profile", dpi=(300, 300)),
        written(quarters(), "JPEG", comment=b"private words", icc_profile=b"a profile"),
        written(quarters(), "WEBP", xmp=b"private words", icc_profile=b"a profile"),
    ):
        made = portrait_of(picture)
        assert corners(made) == [RED, GREEN, BLUE, WHITE]
        assert b"private" not in made
        assert [name for name, _ in chunks(made) if name not in {"IHDR", "IDAT", "IEND"}] == []


def chunks(made: bytes) -> list[tuple[str, bytes]]:
    found, at = [], 8
    while at < len(made):
        (size,) = struct.unpack_from(">I", made, at)
        found.append((made[at + 4 : at + 8].decode(), made[at + 8 : at + 8 + size]))
        at += 12 + size
    return found


def test_broken_exif_turns_nothing() -> None:
    picture = written(quarters(), "JPEG", exif=b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff broken")
    assert corners(portrait_of(picture)) == [RED, GREEN, BLUE, WHITE]


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_of_what_moves_the_first_picture_counts(kind: str) -> None:
    later = [Image.new("RGB", (400, 400), colour) for colour in ("black", "green")]
    moving = written(quarters(), kind, save_all=True, append_images=later, duration=50)
    assert getattr(Image.open(io.BytesIO(moving)), "n_frames", 1) == 3
    assert corners(portrait_of(moving)) == [RED, GREEN, BLUE, WHITE]


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        *(("1", "PNG"), ("L", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("I;16", "PNG")),
        *(("RGBA", "PNG"), ("RGBA", "WEBP"), ("L", "JPEG"), ("CMYK", "JPEG")),
    ],
)
def test_every_kind_of_pixel_is_read(mode: str, kind: str) -> None:
    made = read(portrait_of(written(Image.new(mode, (300, 200)), kind)))
    assert made.mode == ("RGBA" if mode in {"LA", "RGBA"} else "RGB")


def test_what_is_transparent_stays_so() -> None:
    image = Image.new("RGBA", (300, 300), (255, 0, 0, 0))
    for kind in ("PNG", "WEBP"):
        pixel: Any = read(portrait_of(written(image, kind))).getpixel((5, 5))
        assert pixel[3] == 0


def header(width: int, height: int) -> bytes:
    """Give a PNG that says how large it is, and has nothing else."""
    content = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + content
        + struct.pack(">I", zlib.crc32(content))
        + struct.pack(">I", len(pixels))
        + b"IDAT"
        + pixels
        + struct.pack(">I", zlib.crc32(b"IDAT" + pixels))
    )


@pytest.mark.parametrize("size", [(50_000, 50_000), (4899, 4900), (2**31 - 1, 1), (24_000_001, 1)])
def test_too_many_pixels_are_refused_by_the_header(size: tuple[int, int]) -> None:
    with pytest.raises((Image.DecompressionBombError, Image.DecompressionBombWarning)):
        portrait_of(header(*size))


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "PPM", "ICO", "TGA"])
def test_other_formats_are_not_opened(kind: str) -> None:
    with pytest.raises(UnidentifiedImageError):
        portrait_of(written(quarters((64, 64)), kind))


# The program


class Pipes:
    """Stands for ``sys`` with pipes that remember."""

    def __init__(self, picture: bytes) -> None:
        self.stdin, self.stdout = Wrapped(picture), Wrapped()


class Wrapped:
    def __init__(self, content: bytes = b"") -> None:
        self.buffer = io.BytesIO(content)


def ran(monkeypatch: pytest.MonkeyPatch, picture: bytes) -> tuple[int, bytes]:
    """Run the program's main in this process, which must not be bounded."""
    pipes = Pipes(picture)
    monkeypatch.setattr(portrait, "sys", pipes)
    monkeypatch.setattr(portrait, "confine", lambda: None)
    monkeypatch.setattr(portrait, "withdraw", lambda: None)
    return portrait.main(), pipes.stdout.buffer.getvalue()


@pytest.mark.parametrize(
    ("picture", "code"),
    [
        (b"", portrait.NO_PICTURE),
        (b"GIF89a/*<svg onload=alert(1)>*/=1;", portrait.NO_PICTURE),
        (written(quarters(), "PNG")[:-200], portrait.NO_PICTURE),
        (written(quarters(), "JPEG")[:1000], portrait.NO_PICTURE),
        (written(quarters(), "WEBP")[:60], portrait.NO_PICTURE),
        (header(100, 100), portrait.NO_PICTURE),
        (header(50_000, 50_000), portrait.TOO_MANY_PIXELS),
        (header(4899, 4900), portrait.TOO_MANY_PIXELS),
    ],
    ids=["empty", "polyglot", "cut PNG", "cut JPEG", "cut WebP", "no pixels", "bomb", "a bit much"],
)
def test_the_exit_code_says_why_there_is_no_portrait(
    monkeypatch: pytest.MonkeyPatch, picture: bytes, code: int
) -> None:
    assert ran(monkeypatch, picture) == (code, b"")


def test_a_portrait_goes_to_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    code, made = ran(monkeypatch, written(quarters(), "WEBP"))
    assert code == 0
    read(made)


def test_memory_that_runs_out_has_its_own_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(picture: bytes) -> bytes:
        raise MemoryError

    monkeypatch.setattr(portrait, "portrait_of", greedy)
    assert ran(monkeypatch, b"x") == (portrait.TOO_MUCH_MEMORY, b"")


@pytest.mark.parametrize("step", ["confine", "withdraw"])
@pytest.mark.parametrize("error", [OSError, ValueError, ImportError])
def test_without_limits_nothing_is_read(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception], step: str
) -> None:
    def refused() -> None:
        raise error

    pipes = Pipes(written(quarters(), "PNG"))
    monkeypatch.setattr(portrait, "sys", pipes)
    monkeypatch.setattr(portrait, "confine", lambda: None)
    monkeypatch.setattr(portrait, "withdraw", lambda: None)
    monkeypatch.setattr(portrait, step, refused)
    assert portrait.main() == portrait.NOT_CONFINED
    assert pipes.stdin.buffer.tell() == 0


def test_every_limit_is_set_and_none_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: dict[int, tuple[int, int]] = {}
    alarms: list[int] = []
    hard = {resource.RLIMIT_NOFILE: 8, resource.RLIMIT_CPU: 1000}
    monkeypatch.setattr(
        resource, "getrlimit", lambda kind: (0, hard.get(kind, resource.RLIM_INFINITY))
    )
    monkeypatch.setattr(resource, "setrlimit", limits.__setitem__)
    monkeypatch.setattr(signal, "alarm", alarms.append)
    portrait.confine()
    assert limits == {
        resource.RLIMIT_AS: (512 << 20, 512 << 20),
        resource.RLIMIT_CPU: (5, 5),
        resource.RLIMIT_NOFILE: (8, 8),
        resource.RLIMIT_FSIZE: (0, 0),
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_NPROC: (0, 0),
    }
    assert alarms == [portrait.WALL_S]


@pytest.mark.parametrize("error", [None, OSError, ImportError, AttributeError])
def test_no_descriptor_is_left_whether_or_not_there_is_a_wall(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception] | None
) -> None:
    done: list[Any] = []

    def wall_off() -> None:
        done.append("wall")
        if error is not None:
            raise error

    monkeypatch.setattr(portrait, "wall_off", wall_off)
    monkeypatch.setattr(resource, "setrlimit", lambda *limit: done.append(limit))
    portrait.withdraw()
    assert done == ["wall", (resource.RLIMIT_NOFILE, (0, 0))]


class Library:
    """Stands for the system's library, with a Landlock of some version or none."""

    def __init__(self, version: int, ruleset: int = 3) -> None:
        self.version, self.ruleset = version, ruleset
        self.calls: list[tuple[Any, ...]] = []
        self.syscall = Syscall(self)

    def prctl(self, *given: Any) -> int:
        self.calls.append(("prctl", given[0], *(one.value for one in given[1:])))
        return 0


class Syscall:
    restype: Any = None

    def __init__(self, library: Library) -> None:
        self.library = library

    def __call__(self, number: Any, *given: Any) -> int:
        if number.value == portrait.RESTRICT_SELF:
            self.library.calls.append(("restrict", given[0].value, given[1]))
            return 0
        if given[0] is None:
            assert given[2] == 1
            return self.library.version
        self.library.calls.append(("rules", list(given[0]), given[1].value, given[2]))
        return self.library.ruleset


def walled(monkeypatch: pytest.MonkeyPatch, library: Library) -> list[tuple[Any, ...]]:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr(os, "close", lambda number: library.calls.append(("close", number)))
    portrait.wall_off()
    monkeypatch.undo()
    return library.calls


@pytest.mark.parametrize(
    ("version", "files", "scopes"),
    [
        (1, 0x1FFF, 0),
        (2, 0x1FFF, 0),
        (3, 0x5FFF, 0),
        (5, 0x5FFF, 0),
        (6, 0x5FFF, 3),
        (9, 0x5FFF, 3),
    ],
)
def test_the_wall_is_as_high_as_the_kernel_knows(
    monkeypatch: pytest.MonkeyPatch, version: int, files: int, scopes: int
) -> None:
    assert walled(monkeypatch, Library(version)) == [
        ("rules", [files, 0, scopes], 24, 0),
        ("prctl", 38, 1, 0, 0, 0),
        ("restrict", 3, 0),
        ("close", 3),
    ]


def test_a_kernel_without_walls_is_asked_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    assert walled(monkeypatch, Library(-1)) == []
    assert [call[0] for call in walled(monkeypatch, Library(6, ruleset=-1))] == ["rules"]
    other = Library(6)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert walled(monkeypatch, other) == []


def test_the_program_names_nothing_of_the_service() -> None:
    source = Path(portrait.__file__).read_text()
    imports = [line for line in source.splitlines() if line.startswith(("import ", "from "))]
    assert all(line.split()[1].partition(".")[0] in sys.stdlib_module_names for line in imports)
    assert "limner" not in source.partition('"""')[2].partition('"""')[2]
