"""From the model's pixels to files: the asked size, PNG, BlurHash."""

import io

import blurhash_rs
from PIL import Image, ImageOps

from limner.actors.generator.pipeline import Pixels
from limner.core.errors import Invalid

MOST_PX = 4096
"""The longest side that is ever made."""

BLURHASH_PARTS = (4, 3)
BLURHASH_SIDE_PX = 32
"""BlurHash looks at a few waves only; a small copy gives the same one a thousand times faster."""


def scaled(pixels: Pixels, width: int, height: int) -> Image.Image:
    """Return the picture [h, w, 3] at ``width`` × ``height`` pixels, cut evenly to cover them.

    Raises:
        Invalid: a side is outside 1 to 4096.
    """
    if not (1 <= width <= MOST_PX and 1 <= height <= MOST_PX):
        raise Invalid(f"A picture of {width} × {height} pixels; 1 to {MOST_PX} are possible.")
    image = Image.fromarray(pixels)
    if image.size == (width, height):
        return image
    # Bicubic: Lanczos draws rings around the model's hard edges when it enlarges that much.
    return ImageOps.fit(image, (width, height), method=Image.Resampling.BICUBIC)


def png(image: Image.Image) -> bytes:
    """Return the picture as a PNG without any metadata."""
    bare = Image.new("RGB", image.size)
    bare.paste(image)
    file = io.BytesIO()
    bare.save(file, format="PNG", compress_level=6)
    return file.getvalue()


def blurhash(image: Image.Image) -> str:
    """Return the BlurHash of the picture, 4 waves across and 3 down."""
    small = image.convert("RGB").resize((BLURHASH_SIDE_PX, BLURHASH_SIDE_PX), Image.Resampling.BOX)
    across, down = BLURHASH_PARTS
    return blurhash_rs.blurhash_encode(small, x_components=across, y_components=down)
