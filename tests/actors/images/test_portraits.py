"""The processes that make portraits: bounded, looked at, ended, and never too many."""

import asyncio
import contextlib
import importlib.util
import io
import json
import os
import struct
import sys
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image, PngImagePlugin

from limner.actors.images import portrait, portraits
from limner.actors.images.portraits import PNG, Portraits, looks_like_a_picture
from limner.core.errors import Busy, Invalid, LimnerError, NotConfigured, TimedOut
from tests.fakes.front import until

LOAD = f"""
import importlib.util, json, os, signal, sys, time
spec = importlib.util.spec_from_file_location("portrait", {portrait.__file__!r})
portrait = importlib.util.module_from_spec(spec)
spec.loader.exec_module(portrait)
"""
ORIENTATION, GPS = 0x0112, 0x8825
HANG = "import time\ntime.sleep(50)"


def picture(kind: str = "PNG", size: tuple[int, int] = (300, 200)) -> bytes:
    made = io.BytesIO()
    Image.new("RGB", size, "teal").save(made, kind)
    return made.getvalue()


def bomb(side: int) -> bytes:
    """Give a small PNG of so many pixels a side, all black."""

    def chunk(name: bytes, content: bytes) -> bytes:
        check = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)

    packer = zlib.compressobj(9)
    line = bytes(1 + 4 * side)
    pixels = b"".join([*(packer.compress(line) for _ in range(side)), packer.flush()])
    head = struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0)
    return PNG + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def program(code: str) -> list[str]:
    return [sys.executable, "-I", "-c", code]


OTHERS: set[psutil.Process] = set()
"""Processes that this one had started before the test: servers of other tests."""


def children() -> set[psutil.Process]:
    """Give the processes that this test has started, and those that they have started.

    What the others start meanwhile is none of this test's: only its own are descended from.
    """
    found = set(psutil.Process().children()) - OTHERS
    for child in list(found):
        with contextlib.suppress(psutil.NoSuchProcess):
            found.update(child.children(recursive=True))
    return found


@pytest.fixture(autouse=True)
async def nobody_left() -> AsyncIterator[None]:
    """Look that no process is left, neither running nor waiting to be reaped."""
    OTHERS.clear()
    OTHERS.update(psutil.Process().children())
    yield
    await until(lambda: not children())


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
async def test_a_picture_becomes_a_portrait(kind: str) -> None:
    made = await Portraits().make(picture(kind))
    image = Image.open(io.BytesIO(made))
    assert (image.format, image.size) == ("PNG", (256, 256))
    pixel = image.convert("RGB").getpixel((128, 128))
    assert isinstance(pixel, tuple)
    assert max(abs(one - wanted) for one, wanted in zip(pixel, (0, 128, 128), strict=True)) < 4


def rich() -> dict[str, bytes]:
    """Give pictures with all that decoders look at beside the pixels."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    exif.get_ifd(GPS).update({1: "N", 2: (52.0, 31.0, 0.0)})
    xmp = b'<x:xmpmeta><tiff:Orientation="6"/></x:xmpmeta>'
    notes = PngImagePlugin.PngInfo()
    notes.add_itxt("XML:com.adobe.xmp", xmp.decode())
    notes.add_text("Author", "Żółw", zip=True)
    extra: dict[str, Any] = {"exif": exif.tobytes(), "icc_profile": b"a profile"}
    image = Image.effect_noise((300, 200), 50)
    more = [Image.new("RGB", (300, 200), "red")]
    kinds: list[tuple[str, Image.Image, str, dict[str, Any]]] = [
        ("PNG", image, "PNG", {**extra, "pnginfo": notes}),
        ("palette", image.convert("P"), "PNG", {"transparency": 3}),
        ("deep", image.convert("I;16"), "PNG", {}),
        ("moving PNG", more[0], "PNG", {"save_all": True, "append_images": [image]}),
        ("JPEG", image.convert("RGB"), "JPEG", {**extra, "xmp": xmp, "comment": b"x"}),
        ("CMYK", image.convert("CMYK"), "JPEG", {"progressive": True}),
        ("MPO", image.convert("RGB"), "MPO", {"save_all": True, "append_images": more}),
        ("WebP", image.convert("RGBA"), "WEBP", {**extra, "xmp": xmp}),
        ("moving WebP", more[0], "WEBP", {"save_all": True, "append_images": [image]}),
    ]
    made: dict[str, bytes] = {}
    for name, one, kind, options in kinds:
        file = io.BytesIO()
        one.save(file, kind, **options)
        made[name] = file.getvalue()
    return made


async def test_what_the_decoders_need_is_there_before_nothing_can_be_opened() -> None:
    for name, content in rich().items():
        assert await Portraits().make(content) == portrait.portrait_of(content), name


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x89PNG",
        b"GIF89a/*\x01\x00\x01\x00*/=1;alert(1)//",
        b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
        b"<!doctype html><script>alert(1)</script>",
        b"RIFF\x00\x00\x00\x00WAVEfmt ",
        b"%PDF-1.7",
        b"II*\x00",
    ],
)
async def test_what_is_no_picture_starts_no_process(content: bytes) -> None:
    assert not looks_like_a_picture(content)
    with pytest.raises(Invalid, match="no PNG, JPEG or WebP"):
        await Portraits(["/there/is/none"]).make(content)


@pytest.mark.parametrize(
    "content",
    [
        PNG + b"<html><script>alert(1)</script></html>",
        b"\xff\xd8\xff\xe0/*<svg onload=alert(1)>*/",
        b"RIFF\xff\xff\xff\xffWEBPVP8L" + bytes(100),
        picture()[:-100],
        picture("JPEG")[:500],
    ],
    ids=["html", "script", "webp of nothing", "cut png", "cut jpeg"],
)
async def test_what_only_begins_as_a_picture_is_refused(content: bytes) -> None:
    with pytest.raises(Invalid, match="no PNG, JPEG or WebP"):
        await Portraits().make(content)


async def test_a_picture_of_fifty_thousand_pixels_a_side_is_refused() -> None:
    size = struct.pack(">II", 50_000, 50_000)
    head = b"IHDR" + size + b"\x08\x06\x00\x00\x00"
    whole = picture()
    content = whole[:12] + head + struct.pack(">I", zlib.crc32(head)) + whole[33:]
    with pytest.raises(Invalid, match="24 megapixels"):
        await Portraits().make(content)


def _status(name: str) -> int:
    """Give a line of this process's memory, in bytes (proc(5))."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(f"{name}:")]
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_a_bomb_unfolds_elsewhere() -> None:
    content = bomb(4_800)
    assert len(content) < portrait.PICTURE_MAX_BYTES
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    made = await Portraits().make(content)
    assert _status("VmHWM") - before < 16 << 20
    assert len(made) < 10_000


async def test_a_bomb_that_is_larger_than_the_limit_goes_no_further() -> None:
    # With the memory that it is started with and no more than a few pictures' beside.
    code = LOAD + "portrait.MEMORY_BYTES = 128 << 20\nos._exit(portrait.main())"
    with pytest.raises(Invalid, match="too much"):
        await Portraits(program(code)).make(bomb(4_800))


async def test_who_counts_for_too_long_is_ended_by_the_kernel() -> None:
    busy = "portrait.CPU_S = 1\nportrait.confine()\nwhile True: pass"
    with pytest.raises(Invalid, match="too much"):
        await Portraits(program(LOAD + busy)).make(picture())


LOOK = """
before = set(sys.modules)
portrait.confine()
def tried(act):
    try:
        act()
    except OSError as error:
        return type(error).__name__
    return "done"
def crowd():
    kept = [open("/dev/null") for _ in range(100)]
def fill():
    with open(sys.argv[1], "w") as file:
        file.write("x")
def grow():
    return bytearray(600 << 20)
try:
    grow()
    grown = "done"
except MemoryError:
    grown = "MemoryError"
print(json.dumps({
    "environment": dict(os.environ),
    "folder": os.getcwd(),
    "files": sorted(os.listdir("/proc/self/fd")),
    "crowd": tried(crowd),
    "fill": tried(fill),
    "grow": grown,
    "pillow": any(name.partition(".")[0] == "PIL" for name in before),
    "limner": any(name.startswith("limner.") for name in before),
    "session": os.getsid(0) == os.getpid(),
}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_the_process_has_the_picture_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMNER_SECRET_KEY", "a secret")
    with (tmp_path / "open").open("w") as ours:
        os.set_inheritable(ours.fileno(), True)
        # SIGXFSZ is ignored by Python, so that writing fails instead.
        command = [*program(LOAD + LOOK), str(tmp_path / "made")]
        code, answer = await Portraits(command)._run(b"")
    assert code == 0
    found = json.loads(answer)
    assert "LIMNER_SECRET_KEY" not in found["environment"]
    assert set(found["environment"]) <= {"LC_CTYPE"}
    # Three pipes, and the folder of this very list.
    assert len(found["files"]) == 4
    assert (found["folder"], found["session"]) == ("/", True)
    assert (found["crowd"], found["fill"], found["grow"]) == ("OSError", "OSError", "MemoryError")
    assert (found["pillow"], found["limner"]) == (False, False)


def test_the_program_is_where_it_is_looked_for() -> None:
    executable, isolated, path = portraits.PROGRAM
    assert (executable, isolated) == (sys.executable, "-I")
    assert importlib.util.spec_from_file_location("portrait", path) is not None
    assert Path(path).is_file()


async def test_who_hangs_is_killed_with_all_it_has_started() -> None:
    code = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {HANG!r}])\n" + HANG
    # Long enough that it is the cancelling that ends it, however busy the machine is.
    making = asyncio.create_task(Portraits(program(code), limit_s=60.0).make(picture()))
    await until(lambda: len(children()) >= 2)
    started = children()
    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making
    await until(lambda: not any(one.is_running() for one in started))


async def test_who_takes_too_long_is_killed() -> None:
    with pytest.raises(TimedOut):
        await Portraits(program(HANG), limit_s=0.2).make(picture())


async def test_who_gives_up_waiting_leaves_no_process() -> None:
    making = asyncio.create_task(Portraits(program(HANG)).make(picture()))
    await until(lambda: bool(children()))
    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making


@pytest.mark.parametrize(
    "answer",
    [
        "while True: sys.stdout.buffer.write(bytes(100_000))",
        "sys.stdout.write('<html><script>alert(1)</script>')",
        "pass",
        f"sys.stdout.buffer.write({picture(size=(300, 300))!r})",
        "os.kill(os.getpid(), signal.SIGSEGV)",
    ],
    ids=["floods", "a page", "nothing", "another size", "falls over"],
)
async def test_an_answer_that_is_no_portrait_is_not_believed(answer: str) -> None:
    code = "import os, signal, sys\nsys.stdin.buffer.read()\n" + answer
    with pytest.raises(Invalid, match="too much"):
        await Portraits(program(code)).make(picture())


async def test_a_fault_of_ours_is_not_the_pictures() -> None:
    with pytest.raises(LimnerError) as caught:
        await Portraits(program("raise SystemExit(3)")).make(picture())
    assert caught.value.status == 500
    with pytest.raises(NotConfigured):
        await Portraits(program(f"raise SystemExit({portrait.NOT_CONFINED})")).make(picture())
    with pytest.raises(Busy):
        await Portraits(["/there/is/none"]).make(picture())


async def test_who_does_not_read_is_not_waited_for() -> None:
    big = picture() + bytes(1 << 20)
    with pytest.raises(LimnerError, match="ended with 3"):
        await Portraits(program("raise SystemExit(3)")).make(big)


async def test_two_are_made_at_once_and_few_wait() -> None:
    made = Portraits(program(HANG), patience_s=30.0)
    tasks = [
        asyncio.create_task(made.make(picture()))
        for _ in range(portraits.CHILDREN + portraits.WAITING)
    ]
    await until(lambda: len(children()) >= 2 and made._waiting == portraits.WAITING)
    with pytest.raises(Busy) as caught:
        await made.make(picture())
    assert caught.value.retry_after_s == 30.0
    assert len(children()) == portraits.CHILDREN
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert made._waiting == 0
    made._program = portraits.PROGRAM
    assert await made.make(picture())


async def test_patience_ends() -> None:
    made = Portraits(program(HANG), patience_s=0.05)
    tasks = [asyncio.create_task(made.make(picture())) for _ in range(portraits.CHILDREN)]
    await until(lambda: len(children()) >= portraits.CHILDREN)
    with pytest.raises(Busy):
        await made.make(picture())
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
