"""An ONNX network in eight bits, from its answers to a few hundred training pictures (Jacob et al. 2018).

Layers from the first to the one before the class layer: weights with a scale for each channel, activations with the
least and largest value seen. Normalisation, the class layer, features, strangeness and maps stay as they are. The first
layer is not spared: floats that differ in the last bit by what a picture is batched with would be rounded differently.
"""

import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from workers.training.onnx import keep

MOST_PICTURES = 256  # to calibrate on
BATCH = 16
HEAVY = ("Conv", "Gemm", "MatMul")
KINDS = [*HEAVY, "Add", "Clip", "Concat", "MaxPool", "Relu"]

Pixels = NDArray[np.uint8]


class NotQuantisable(Exception):
    """The message is for people."""


def batches(packed: Pixels, rows: NDArray[np.int64]) -> Iterator[Pixels]:
    """At most 256 of the pictures `packed[rows]` of (M, S, S, 3), always the same, as (n, 3, S, S)."""
    chosen = rows[np.random.default_rng(0).permutation(len(rows))[:MOST_PICTURES]]
    for start in range(0, len(chosen), BATCH):
        yield np.ascontiguousarray(packed[np.sort(chosen[start : start + BATCH])].transpose(0, 3, 1, 2))


def to_int8(model: bytes, pictures: Iterator[Pixels]) -> bytes:
    """`images` (N, 3, S, S) uint8 -> `logits`, `features` … as before, with QuantizeLinear and DequantizeLinear.

    Weights have seven bits: on processors without VNNI sums of eight would be cut off, and answers be others there.
    Raises NotQuantisable; ends as `pictures` does when that raises.
    """
    reader = _Reader(pictures)
    try:
        made = _quantised(model, reader)
    except NotQuantisable:
        raise
    except Exception as error:  # whatever a network's operators make of it, but for what the pictures raise
        if reader.failed:
            raise
        reason = (str(error) or repr(error)).splitlines()[0][:200]
        raise NotQuantisable(f"its operators cannot be written in eight bits: {reason}") from error
    del made.metadata_props[:]
    used = {node.domain for node in made.graph.node}
    keep(made.opset_import, lambda one: one.domain in used)
    return bytes(made.SerializeToString(deterministic=True))


def _quantised(model: bytes, reader: "_Reader") -> Any:
    from onnxruntime import quantization

    with tempfile.TemporaryDirectory() as folder:
        whole, small = Path(folder) / "whole.onnx", Path(folder) / "int8.onnx"
        named = _named(_folded(model, whole))
        quantization.quant_utils.add_pre_process_metadata(named)  # else it says that this should have been done
        onnx.save(named, whole)
        inner = _inner(named.graph)
        if not any(node.op_type in HEAVY for node in named.graph.node if node.name in inner):
            raise NotQuantisable("it has no layer before its class layer that eight bits would make faster")
        quantization.quantize_static(
            whole,
            small,
            reader,
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=KINDS,
            nodes_to_exclude=[node.name for node in named.graph.node if node.name not in inner],
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
        )
        return onnx.load(small)


def _folded(model: bytes, path: Path) -> Any:
    """Batch normalisation in the weights, constants computed, all operators standard ones. Writes to `path`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return onnx.shape_inference.infer_shapes(onnx.load(path))


class _Reader:
    """What onnxruntime asks for its calibration pictures."""

    def __init__(self, pictures: Iterator[Pixels]) -> None:
        self._pictures = pictures
        self.failed = False

    def get_next(self) -> dict[str, Pixels] | None:
        try:
            batch = next(self._pictures, None)
        except BaseException:
            self.failed = True
            raise
        return None if batch is None else {"images": batch}


def _named(proto: Any) -> Any:
    """With a name for each node, and each another."""
    for number, node in enumerate(proto.graph.node):
        node.name = f"{node.op_type}_{number}"
    return proto


def _inner(graph: Any) -> set[str]:
    """The nodes on the way to the logits that have a layer before them, or are one, and a layer after them."""
    makers = {output: node for node in graph.node for output in node.output}
    follows, after = defaultdict(list), set()
    for node in graph.node:
        for name in node.input:
            follows[name].append(node)
    before: set[str] = set()  # nodes that are a layer or have one before them
    for node in graph.node:  # in the order of computation
        if node.op_type in HEAVY or any(makers[name].name in before for name in node.input if name in makers):
            before.add(node.name)
    leading = _leading(graph, makers)
    for node in reversed(graph.node):
        later = [one for name in node.output for one in follows[name] if one.name in leading]
        if any(one.op_type in HEAVY or one.name in after for one in later):
            after.add(node.name)
    return before & after & leading


def _leading(graph: Any, makers: dict[str, Any]) -> set[str]:
    """The nodes that the logits need."""
    found: set[str] = set()
    needed = {"logits"}
    for node in reversed(graph.node):
        if needed & set(node.output):
            found.add(node.name)
            needed.update(node.input)
    return found
