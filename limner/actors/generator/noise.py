"""Normal noise from a seed, number for number what ``torch.randn`` draws on a CPU.

So a seed means the same picture here and in every tool that is built on torch.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BLOCK = 16
"""Values made together; torch draws fewer than this by another formula."""

WORD_MASK = 0xFFFFFFFF
MANTISSA_MASK = 0xFFFFFF
"""A float32 uniform takes the low 24 bits of a word."""


class NoiseSource:
    """One seeded stream of normal values; each call goes on where the last one ended.

    Source: ATen's ``normal_fill``: uniforms of 24 bits from a Mersenne twister, turned into
    normals by Box and Muller in blocks of 16 (8 radii, then 8 angles). The values differ from
    torch's by no more than 2.4e-7, as logarithm and cosine are rounded in their own way.
    """

    def __init__(self, seed: int) -> None:
        # torch takes seeds of 64 bits and feeds the low 32 to the twister.
        self._words = np.random.RandomState(seed & WORD_MASK)

    def normal(self, shape: Sequence[int]) -> NDArray[np.float32]:
        """Return the next values of the stream as a float32 array of ``shape``.

        Raises:
            ValueError: fewer than 16 values are asked for.
        """
        count = math.prod(shape)
        if count < BLOCK:
            message = f"at least {BLOCK} values at a time, not {count}"
            raise ValueError(message)
        uniforms = self._uniform(count)
        values = np.empty(count, np.float32)
        whole = count - count % BLOCK
        values[:whole] = _box_muller(uniforms[:whole])
        if whole < count:
            # The last block is drawn anew and covers the tail of the one before.
            values[-BLOCK:] = _box_muller(self._uniform(BLOCK))
        return values.reshape(tuple(shape))

    def _uniform(self, count: int) -> NDArray[np.float32]:
        words = self._words.randint(0, 2**32, size=count, dtype=np.uint32)
        return (words & MANTISSA_MASK).astype(np.float32) * np.float32(2**-24)


def _box_muller(uniforms: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn blocks of 16 uniforms in [0, 1) into as many normals."""
    blocks = uniforms.reshape(-1, 2, BLOCK // 2)
    radius = np.sqrt(-2 * np.log(1 - blocks[:, 0]))
    angle = np.float32(2 * math.pi) * blocks[:, 1]
    normals = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    flat: NDArray[np.float32] = normals.reshape(-1).astype(np.float32, copy=False)
    return flat
