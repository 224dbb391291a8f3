import io

import numpy as np
import pytest
from blurhash_rs import blurhash_decode
from PIL import Image, PngImagePlugin

from limner.actors.generator.pictures import blurhash, png, scaled
from limner.core.errors import Invalid

HALVES = np.zeros((64, 64, 3), np.uint8)
HALVES[:, :32] = (225, 30, 35)
HALVES[:, 32:] = (35, 80, 225)


def test_an_enlarged_picture_has_the_asked_size_and_the_same_halves() -> None:
    image = scaled(HALVES, 512, 512)
    assert image.size == (512, 512)
    assert image.getpixel((100, 300)) == (225, 30, 35)
    assert image.getpixel((400, 300)) == (35, 80, 225)


def test_another_aspect_is_cut_evenly_and_not_squeezed() -> None:
    rings = np.zeros((64, 64, 3), np.uint8)
    rings[28:36, 28:36] = 255
    wide = np.asarray(scaled(rings, 256, 128))[..., 0] > 127
    assert wide.shape == (128, 256)
    rows, columns = np.nonzero(wide)
    assert (rows.min() + rows.max()) / 2 == pytest.approx(63.5, abs=1)
    assert (columns.min() + columns.max()) / 2 == pytest.approx(127.5, abs=1)
    assert np.ptp(rows) == pytest.approx(np.ptp(columns), abs=2)
    assert np.ptp(rows) == pytest.approx(31, abs=3)


def test_a_picture_of_the_asked_size_is_untouched() -> None:
    assert (np.asarray(scaled(HALVES, 64, 64)) == HALVES).all()


@pytest.mark.parametrize(("width", "height"), [(0, 64), (64, -1), (4097, 64), (64, 5000)])
def test_a_size_out_of_bounds_is_refused(width: int, height: int) -> None:
    with pytest.raises(Invalid, match="4096"):
        scaled(HALVES, width, height)


def test_a_png_holds_the_pixels_and_no_metadata() -> None:
    image = Image.fromarray(HALVES)
    image.info["comment"] = "who made it"
    image.info["dpi"] = (72, 72)
    image.getexif()[0x010E] = "what it shows"
    content = png(image)
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    chunks = (b"tEXt", b"iTXt", b"zTXt", b"eXIf", b"pHYs", b"tIME", b"iCCP")
    assert not [kind for kind in chunks if kind in content]
    with Image.open(io.BytesIO(content)) as read:
        assert isinstance(read, PngImagePlugin.PngImageFile)
        assert read.info == {}
        assert (np.asarray(read) == HALVES).all()


def test_a_blurhash_of_four_by_three_parts_shows_the_colours() -> None:
    code = blurhash(scaled(HALVES, 256, 256))
    assert len(code) == 4 + 2 * 4 * 3
    assert code[0] == "L"  # (4 - 1) + (3 - 1) * 9 = 21, the 22nd of the alphabet
    blurred = np.asarray(blurhash_decode(code, 32, 32)).astype(int)
    left, right = blurred[:, 4], blurred[:, 27]
    assert (left[:, 0] > left[:, 2]).all()
    assert (right[:, 2] > right[:, 0]).all()
