"""Schedulers: the way from noise to a picture, chosen by ``_class_name`` in one table."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from limner.core.errors import Invalid, NotConfigured

Latents = NDArray[np.float32]
"""Latents of a batch: [rows, channels, height, width]."""


class Advance(NamedTuple):
    """What one step gives.

    ``latents`` go into the next step; ``clean`` is the model's present idea of the finished
    latents, which makes the better preview.
    """

    latents: Latents
    clean: Latents


class Scheduler(Protocol):
    """The steps of one run; it keeps no state of a row, so rows may leave the batch."""

    @property
    def initial_scale(self) -> float:
        """What unit noise is multiplied by before the first step."""
        ...

    @property
    def timesteps(self) -> NDArray[np.float32]:
        """What the model is told at each step, in the units it was trained with: [steps]."""
        ...

    def model_input(self, latents: Latents, index: int) -> Latents:
        """Return ``latents`` as the model expects them at step ``index``."""
        ...

    def advance(self, output: Latents, latents: Latents, index: int) -> Advance:
        """Return the latents after step ``index`` (counted from 0), given the model's output."""
        ...


class FlowMatchEuler:
    """Euler's method over the straight path from noise to picture.

    The noise levels (sigma, from 1 to 0) are evenly spaced, then shifted towards noise:
    ``shift * s / (1 + (shift - 1) * s)``, once for the ends and once for the points.
    Source: FlowMatchEulerDiscreteScheduler of diffusers 0.42, whose numbers these are.
    """

    initial_scale = 1.0

    def __init__(self, config: Mapping[str, Any], steps: int) -> None:
        for option in _FLOW_OPTIONS_NOT_SUPPORTED:
            if config.get(option):
                raise NotConfigured(f"The scheduler option {option} is not supported.")
        train_steps = int(config.get("num_train_timesteps", 1000))
        shift = float(config.get("shift", 1.0))
        ends = _shifted(np.array([1.0, 1.0 / train_steps]), shift)
        levels = _shifted(np.linspace(ends[0], ends[1], steps), shift)
        self.timesteps: NDArray[np.float32] = (levels * train_steps).astype(np.float32)
        self.sigmas: NDArray[np.float32] = np.append(levels, 0.0).astype(np.float32)

    def model_input(self, latents: Latents, index: int) -> Latents:
        """Return ``latents`` as they are."""
        del index
        return latents

    def advance(self, output: Latents, latents: Latents, index: int) -> Advance:
        """Follow the velocity ``output`` from one noise level to the next."""
        here, there = self.sigmas[index], self.sigmas[index + 1]
        return Advance(latents + (there - here) * output, latents - here * output)


def _shifted(levels: NDArray[np.float64], shift: float) -> NDArray[np.float64]:
    return shift * levels / (1 + (shift - 1) * levels)


_FLOW_OPTIONS_NOT_SUPPORTED = (
    "use_dynamic_shifting",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "invert_sigmas",
    "stochastic_sampling",
    "shift_terminal",
)

SCHEDULERS: Mapping[str, Callable[[Mapping[str, Any], int], Scheduler]] = {
    "FlowMatchEulerDiscreteScheduler": FlowMatchEuler,
}


def scheduler_for(config: Mapping[str, Any], steps: int) -> Scheduler:
    """Return the scheduler that ``scheduler_config.json`` names, set to ``steps`` steps.

    Raises:
        NotConfigured: no such scheduler here, or an option of it that is not supported.
        Invalid: ``steps`` is outside 1 to 1000.
    """
    name = config.get("_class_name")
    make = SCHEDULERS.get(str(name))
    if make is None:
        supported = ", ".join(SCHEDULERS)
        raise NotConfigured(f"The scheduler {name} is not supported; supported: {supported}.")
    if not 1 <= steps <= 1000:
        raise Invalid(f"{steps} steps; 1 to 1000 are possible.")
    return make(config, steps)
