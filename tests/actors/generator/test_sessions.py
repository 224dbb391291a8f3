import os
from pathlib import Path

import numpy as np
import pytest

from limner.actors.generator import sessions
from limner.actors.generator.cancellation import Cancellation, Cancelled
from limner.actors.generator.folder import builtin_path
from limner.actors.generator.sessions import CPU, CUDA, Device, Session, choose_device
from limner.core.errors import NotConfigured, Permanent

ON_CPU = Device("cpu", (CPU,), "said so")
IDS = np.zeros((2, 28), np.int64)


@pytest.fixture(scope="module")
def session() -> Session:
    return Session(builtin_path() / "text_encoder" / "model.onnx", ON_CPU, 1)


def test_auto_takes_cuda_where_it_is_and_says_why() -> None:
    assert choose_device("auto", (CUDA, CPU)).providers == (CUDA, CPU)
    fallback = choose_device("auto", (CPU,))
    assert (fallback.name, fallback.providers) == ("cpu", (CPU,))
    assert "no CUDA" in fallback.reason


def test_cpu_is_taken_when_asked_even_beside_cuda() -> None:
    chosen = choose_device("cpu", (CUDA, CPU))
    assert chosen == Device("cpu", (CPU,), "The device is set to cpu.")


def test_cuda_that_is_demanded_and_missing_is_refused() -> None:
    assert choose_device("cuda", (CUDA, CPU)).name == "cuda"
    with pytest.raises(NotConfigured, match=r"limner\[gpu\]"):
        choose_device("cuda", (CPU,))


def test_cuda_that_did_not_start_is_told() -> None:
    asked = choose_device("auto", (CUDA, CPU))
    assert sessions._active(asked, [CUDA, CPU]) == asked
    fallen = sessions._active(asked, [CPU])
    assert (fallen.name, fallen.providers) == ("cpu", (CPU,))
    assert "did not start" in fallen.reason


def test_a_core_is_left_to_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, threads in ((8, 7), (2, 1), (1, 1)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=cores: set(range(n)))
        assert sessions.default_threads() == threads


def test_the_cpu_provider_is_always_there() -> None:
    assert CPU in sessions.available_providers()


def test_a_run_gives_the_first_output_as_float32(session: Session) -> None:
    output = session.run({"input_ids": IDS.astype(np.int32)})
    assert output.shape == (2, 28, 96)
    assert output.dtype == np.float32
    assert session.device.providers == (CPU,)


def test_a_terminated_cancellation_starts_no_run(session: Session) -> None:
    cancel = Cancellation()
    assert session.run({"input_ids": IDS}, cancel).any()
    cancel.terminate()
    with pytest.raises(Cancelled):
        session.run({"input_ids": IDS}, cancel)


class Sudden(Cancellation):
    """Lets the run begin and ends it then: onnxruntime meets it in the middle."""

    def check(self) -> None:
        super().check()
        self.terminate()


def test_a_run_that_has_begun_is_ended_by_onnxruntime_itself(session: Session) -> None:
    with pytest.raises(Cancelled) as caught:
        session.run({"input_ids": IDS}, Sudden())
    assert "terminate" in str(caught.value.__context__)
    assert session.run({"input_ids": IDS}, Cancellation()).any()


def test_inputs_the_graph_does_not_take_are_refused(session: Session) -> None:
    with pytest.raises(Permanent, match="text_encoder"):
        session.run({"input_ids": IDS[:, :5]})
    with pytest.raises(Permanent, match="text_encoder"):
        session.run({"input_ids": IDS[:, :5]}, Cancellation())
    with pytest.raises(NotConfigured, match="the input words is nothing"):
        session.run({"words": IDS})


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a graph")
    with pytest.raises(NotConfigured, match="cannot load"):
        Session(path, ON_CPU, 1)


def test_inputs_are_cast_to_what_the_exporter_chose(session: Session) -> None:
    other = Session.__new__(Session)
    other._path = Path("model.onnx")
    other._types = {"sample": "tensor(float16)", "timestep": "tensor(int64)"}
    other._ranks = {"sample": 4, "timestep": 0}
    sample = other._fitted("sample", np.ones((1, 4, 2, 2), np.float32))
    timestep = other._fitted("timestep", np.full(3, 999.0, np.float32))
    assert sample.dtype == np.float16
    assert timestep.dtype == np.int64
    assert timestep.tolist() == [999]
    assert session._fitted("input_ids", IDS).flags.c_contiguous
