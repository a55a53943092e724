"""An ONNX model behind ONNX Runtime or OpenVINO, on the processor. Strangeness is computed here, in float64.

The bytes are an .npz without pickles: `model`, an ONNX file, and what strangeness is computed from (see
workers.training.strangeness). A model may answer `strangeness` itself instead, as those of imported bundles do.
"""

import io
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from service.inference.programs import Backend, Floats, Outputs

Wide = NDArray[np.float64]
Run = Callable[[NDArray[np.uint8]], dict[str, Any]]


def pack(model: bytes, **head: Any) -> bytes:
    """An ONNX model: `images` (N, 3, S, S) uint8 RGB -> `logits`, and `features` (N, D) or `strangeness`, and `maps`.

    `head` of features: means (C, D), directions (D, R), rest ().
    """
    buffer = io.BytesIO()
    np.savez(buffer, model=np.frombuffer(model, np.uint8), **head)
    return buffer.getvalue()


def unpack(data: bytes) -> tuple[bytes, dict[str, Wide]]:
    """The model and the head of what was packed."""
    with np.load(io.BytesIO(data), allow_pickle=False) as files:
        head = {name: files[name].astype(np.float64) for name in files.files if name != "model"}
        return files["model"].tobytes(), head


class OnnxProgram:
    def __init__(self, run: Run, head: "Head | None") -> None:
        self._run = run
        self._head = head

    def outputs(self, pixels: NDArray[np.uint8]) -> Outputs:
        found = self._run(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))  # (N, 3, S, S)
        strangeness = found.get("strangeness") if self._head is None else self._head(found["features"])
        return _in_numbers(Outputs(found["logits"], strangeness, found.get("maps")))


def _in_numbers(found: Outputs) -> Outputs:
    """A network from elsewhere may answer with what is no number: then it knows nothing, and the picture is strange."""
    logits, strangeness, maps = found.logits, found.strangeness, found.maps
    lost = np.asarray(~np.isfinite(logits).all(axis=1))
    if lost.any():
        logits = np.where(lost[:, None], np.float32(0), logits)
        strangeness = None if strangeness is None else np.where(lost, np.float32(np.inf), strangeness)
    if strangeness is not None and np.isnan(strangeness).any():
        strangeness = np.where(np.isnan(strangeness), np.float32(np.inf), strangeness)
    if maps is not None and not np.isfinite(maps).all():
        maps = np.nan_to_num(maps, posinf=0, neginf=0)
    return Outputs(logits, strangeness, maps)


class Head:
    """(N, D) features -> (N,) squared Mahalanobis distances to the nearest mean, as workers.training.strangeness."""

    def __init__(self, means: Wide, directions: Wide, rest: Wide) -> None:
        self._means, self._directions, self._rest = means, directions, float(rest)
        self._along = means @ directions  # (C, R)

    def __call__(self, features: Floats) -> Floats:
        x = features.astype(np.float64)
        whole = _distances(x, self._means)  # (N, C)
        found = whole * self._rest - _distances(x @ self._directions, self._along)
        result: Floats = found.min(1).astype(np.float32)
        return result


def _distances(a: Wide, b: Wide) -> Wide:
    """(N, D), (C, D) -> (N, C) squared distances, without an (N, C, D) in between."""
    result: Wide = np.square(a).sum(1, keepdims=True) + np.square(b).sum(1) - 2 * a @ b.T
    return result


def load(data: bytes, backend: Backend, threads: int) -> OnnxProgram:
    threadpool_limits(1, "blas")  # for the process: numpy's own threads would only be in the engine's way
    model, head = unpack(data)
    run = (_openvino if backend.name == "openvino" else _onnxruntime)(model, backend.precision, threads)
    return OnnxProgram(run, Head(**head) if head else None)


def _onnxruntime(model: bytes, _precision: str, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads leave the cores to others
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(None, {"images": images}), strict=True))


def _openvino(model: bytes, precision: str, threads: int) -> Run:
    core = _openvino_core()
    settings = {
        "INFERENCE_PRECISION_HINT": "f32" if precision in ("fp32", "int8") else precision,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # each of several processes would pin its threads to the same cores
    }
    request = core.compile_model(core.read_model(model), "CPU", settings).create_infer_request()
    names = [_name(output.names) for output in request.model_outputs]

    def run(images: NDArray[np.uint8]) -> dict[str, Any]:
        found = request.infer([images], share_inputs=True)
        return {name: found[k].copy() for k, name in enumerate(names)}  # the next call writes into the same memory

    return run


def _openvino_core() -> Any:
    """OpenVINO's runtime alone: with it would come its conversion tools, which tell Google Analytics of each import."""
    sys.modules.setdefault("openvino.tools.ovc", None)  # type: ignore[arg-type]  # what None stands for cannot be imported
    import openvino

    return openvino.Core()


def _name(names: set[str]) -> str:
    """Of a tensor, which may go by several names."""
    return next(iter(names & {"logits", "strangeness", "features", "maps"}))


def bf16_pays() -> bool:
    """Has this processor instructions for bf16? Elsewhere it would be imitated, slowly."""
    return "BF16" in _openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
