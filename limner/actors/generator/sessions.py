"""onnxruntime sessions: which device runs them, how many threads, and what their errors mean."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from limner.actors.generator.cancellation import SILENT, Cancellation
from limner.core.errors import NotConfigured, Permanent

DeviceName = Literal["auto", "cpu", "cuda"]
CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"

ELEMENT_TYPES: Mapping[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}


@dataclass(frozen=True, slots=True)
class Device:
    """Where a model runs: ``name`` is cpu or cuda, ``reason`` a sentence for the operator."""

    name: Literal["cpu", "cuda"]
    providers: tuple[str, ...]
    reason: str


def choose_device(asked: DeviceName, available: Sequence[str]) -> Device:
    """Return the device for what is ``asked``, given onnxruntime's ``available`` providers.

    Raises:
        NotConfigured: CUDA is demanded and this onnxruntime was built without it.
    """
    if asked == "cpu":
        return Device("cpu", (CPU,), "The device is set to cpu.")
    if CUDA in available:
        return Device("cuda", (CUDA, CPU), "onnxruntime offers CUDA.")
    if asked == "cuda":
        raise NotConfigured(
            "The device is set to cuda, but this onnxruntime has no CUDA; "
            "install the extra limner[gpu] or set the device to auto."
        )
    return Device("cpu", (CPU,), "onnxruntime offers no CUDA (the extra limner[gpu] brings it).")


def default_threads() -> int:
    """Return one thread fewer than the cores this process may use, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (cores or 1) - 1)


class Session:
    """One ONNX graph, ready to run.

    Inputs are cast to the types the exporter chose, so that a float16 model or one with integer
    timesteps needs nothing from its caller.
    """

    def __init__(self, path: Path, device: Device, threads: int) -> None:
        """Load the graph in ``path``.

        Raises:
            NotConfigured: the file is not a graph that onnxruntime can run.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = SILENT
        # A spinning thread takes a core from the event loop between two steps.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        self._path = path
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=list(device.providers)
            )
        except Exception as error:  # onnxruntime's errors share no base class of their own
            raise NotConfigured(f"onnxruntime cannot load {path}: {error}") from error
        self._types = {entry.name: entry.type for entry in self._session.get_inputs()}
        self._ranks = {entry.name: len(entry.shape) for entry in self._session.get_inputs()}
        self.device = _active(device, self._session.get_providers())

    def run(
        self, inputs: Mapping[str, NDArray[Any]], cancel: Cancellation | None = None
    ) -> NDArray[np.float32]:
        """Return the first output for ``inputs``.

        Raises:
            Cancelled: ``cancel`` was terminated before or during the run.
            Permanent: the graph refuses the inputs or fails.
        """
        if cancel is not None:
            cancel.check()
        feed = {name: self._fitted(name, value) for name, value in inputs.items()}
        try:
            output = self._session.run(None, feed, cancel.run_options if cancel else None)[0]
        except Exception as error:  # as above; a terminated run raises a plain Fail
            if cancel is not None:
                cancel.check()
            raise Permanent(f"{self._path.parent.name}: {error}") from error
        return np.asarray(output, np.float32)

    def _fitted(self, name: str, value: NDArray[Any]) -> NDArray[Any]:
        kind = self._types.get(name, "nothing")
        if kind not in ELEMENT_TYPES:
            raise NotConfigured(
                f"{self._path}: the input {name} is {kind}, which is not supported."
            )
        # Some exporters give the timestep no batch axis; all rows share it anyway.
        value = value[0] if self._ranks[name] == 0 and value.ndim else value
        return np.ascontiguousarray(value, ELEMENT_TYPES[kind])


def _active(asked: Device, providers: Sequence[str]) -> Device:
    """Return the device that really runs: onnxruntime falls back to the CPU in silence."""
    if asked.name == "cuda" and CUDA not in providers:
        return Device("cpu", (CPU,), "CUDA is offered but did not start; the CPU runs instead.")
    return replace(asked, providers=tuple(providers))


def available_providers() -> tuple[str, ...]:
    """Return the providers this onnxruntime was built with."""
    return tuple(onnxruntime.get_available_providers())
