import numpy as np
import pytest

from limner.actors.generator.noise import NoiseSource

# torch.randn(shape, generator=torch.Generator().manual_seed(seed)) of torch 2.13 on a CPU: the
# first and the last six values, their sum, and the sum of each times its index.
EXPECTED = [
    (
        0,
        (16,),
        [-1.12584, -1.15236, -0.2505786, -0.4338788, 0.8487104, 0.6920092],
        [0.3499832, 0.3081339, 0.1198415, 1.237658, 1.116777, -0.2472782],
        -1.90911431,
        14.7479721,
    ),
    (
        42,
        (16, 8, 8),
        [1.926915, 1.487284, 0.9007172, -2.105521, 0.6784185, -1.234545],
        [-1.377605, -0.4410471, 0.1417587, 1.108468, 0.5544233, 1.58175],
        8.98197284,
        -3782.85516,
    ),
    (
        1234567890123,
        (5, 7),
        [-0.5685415, -0.199217, 1.039984, -0.4995631, 0.6927227, -1.518513],
        [-0.7757093, 0.2457965, 0.51693, 0.2398252, 0.5539419, -1.010437],
        -5.70358731,
        -90.1697817,
    ),
    (
        7,
        (100,),
        [-0.8201345, 0.3956312, 0.8989085, -1.388404, -0.166996, 0.28515],
        [0.4603166, -1.153208, -0.6894252, -0.04951321, -1.223924, 0.6402726],
        -17.5132986,
        -1029.0909,
    ),
]

# The last four of the 17 values that the same generator draws next.
NEXT = {
    0: [2.302205, -1.468894, -1.586689, 1.203224],
    42: [0.7824703, -0.06465863, -0.000230207, 0.5693083],
    1234567890123: [0.4223156, -1.788225, 0.59758, 0.4922911],
    7: [1.370501, -0.3758893, 0.1689013, -0.5415421],
}


@pytest.mark.parametrize(("seed", "shape", "first", "last", "total", "moment"), EXPECTED)
def test_noise_is_what_torch_draws_from_the_same_seed(
    seed: int,
    shape: tuple[int, ...],
    first: list[float],
    last: list[float],
    total: float,
    moment: float,
) -> None:
    source = NoiseSource(seed)
    values = source.normal(shape)
    flat = values.ravel().astype(np.float64)
    assert values.shape == shape
    assert values.dtype == np.float32
    assert flat[:6] == pytest.approx(first, abs=1e-6)
    assert flat[-6:] == pytest.approx(last, abs=1e-6)
    assert flat.sum() == pytest.approx(total, abs=1e-4)
    assert (flat * np.arange(flat.size)).sum() == pytest.approx(moment, abs=1e-2)
    assert source.normal((17,))[-4:] == pytest.approx(NEXT[seed], abs=1e-6)


def test_seeds_beyond_32_bits_wrap_as_in_torch() -> None:
    assert (NoiseSource(2**40 + 5).normal((16,)) == NoiseSource(5).normal((16,))).all()


def test_fewer_than_sixteen_values_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 16"):
        NoiseSource(0).normal((3, 5))
