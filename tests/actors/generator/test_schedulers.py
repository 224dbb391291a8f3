import numpy as np
import pytest

from limner.actors.generator.noise import NoiseSource
from limner.actors.generator.schedulers import FlowMatchEuler, scheduler_for
from limner.core.errors import Invalid, NotConfigured

CONFIG = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "shift": 3.0,
}


def test_the_noise_levels_without_a_shift_are_evenly_spaced() -> None:
    scheduler = FlowMatchEuler({}, 4)
    assert scheduler.sigmas == pytest.approx([1, 0.667, 0.334, 0.001, 0], abs=1e-6)
    assert scheduler.timesteps == pytest.approx([1000, 667, 334, 1], abs=1e-3)


def test_the_noise_levels_are_shifted_at_the_ends_and_at_the_points() -> None:
    # By hand: the low end becomes 3 * 0.001 / 1.002; the middle of the two ends, 0.5014970,
    # becomes 3 * 0.5014970 / 2.0029940.
    low = 0.003 / 1.002
    middle = (1 + low) / 2
    levels = [1, 3 * middle / (1 + 2 * middle), 3 * low / (1 + 2 * low), 0]
    scheduler = scheduler_for(CONFIG, 3)
    assert isinstance(scheduler, FlowMatchEuler)
    assert scheduler.sigmas == pytest.approx(levels, abs=1e-6)
    assert levels[1] == pytest.approx(0.7511210, abs=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 8])
def test_a_straight_path_ends_at_the_picture(steps: int) -> None:
    picture = NoiseSource(1).normal((2, 4, 4, 4))
    noise = NoiseSource(2).normal((2, 4, 4, 4))
    scheduler = scheduler_for(CONFIG, steps)
    latents = noise * np.float32(scheduler.initial_scale)
    for index in range(steps):
        assert scheduler.model_input(latents, index) is latents
        latents, clean = scheduler.advance(noise - picture, latents, index)
        assert clean == pytest.approx(picture, abs=1e-5)
    assert latents == pytest.approx(picture, abs=1e-5)
    assert latents.dtype == np.float32


def test_an_unknown_scheduler_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(NotConfigured, match=r"DDIMScheduler.*FlowMatchEulerDiscreteScheduler"):
        scheduler_for({"_class_name": "DDIMScheduler"}, 8)


def test_an_option_that_would_change_the_numbers_is_refused() -> None:
    with pytest.raises(NotConfigured, match="use_karras_sigmas"):
        scheduler_for({**CONFIG, "use_karras_sigmas": True}, 8)
    scheduler_for({**CONFIG, "use_karras_sigmas": False}, 8)


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_a_number_of_steps_out_of_bounds_is_refused(steps: int) -> None:
    with pytest.raises(Invalid, match="1 to 1000"):
        scheduler_for(CONFIG, steps)
