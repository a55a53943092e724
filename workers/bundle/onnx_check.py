"""Is an ONNX file from elsewhere one that may be run? `python -m workers.bundle.onnx_check`, order on stdin.

A process of its own with limits, for parsing it is C++. Allowed are the standard operators, without those that loop,
draw at random or answer with as many numbers as a picture makes them: what a picture costs must not depend on it.
"""

import json
import sys
from pathlib import Path
from typing import Any

import onnx
from onnx import AttributeProto, ModelProto, TensorProto, ValueInfoProto, checker

from workers.engine_run import limit

MAX_NODES = 20_000
OUTPUTS = {"logits", "strangeness", "features", "maps"}
REFUSED = {
    *("If", "Loop", "Scan", "SequenceMap"),
    *("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"),
    *("NonZero", "Compress", "Unique", "NonMaxSuppression", "Range", "ImageDecoder", "TfIdfVectorizer"),
    *("StringNormalizer", "StringConcat", "StringSplit", "RegexFullMatch"),
}


def main() -> None:
    order = json.loads(sys.stdin.readline())
    limit(**order["limits"])
    print(json.dumps({"fault": fault(Path(order["model"]).read_bytes(), order["classes"], order["image_size"])}))


def fault(data: bytes, classes: int, image_size: int) -> str | None:
    """The first reason not to run it."""
    try:
        model = onnx.load_from_string(data)
    except Exception:  # noqa: BLE001 - protobuf raises of many kinds
        return "model.onnx is not an ONNX file"
    return _strange_parts(model) or _unsound(model) or _other_interface(model, classes, image_size)


def _strange_parts(model: ModelProto) -> str | None:
    graph = model.graph
    if len(graph.node) > MAX_NODES:
        return f"it has {len(graph.node)} nodes; {MAX_NODES} are accepted"
    if model.functions or model.training_info or graph.sparse_initializer:
        return "it has functions, training information or sparse tensors"
    domains = {one.domain for one in model.opset_import} | {node.domain for node in graph.node}
    if domains - {"", "ai.onnx"}:
        return f"it needs operators that are not standard: {sorted(domains)}"[:300]
    refused = sorted({node.op_type for node in graph.node if _is_refused(node.op_type)})
    if refused:
        return f"it has operators that are not accepted: {', '.join(refused)}"[:300]
    attributes = [one for node in graph.node for one in node.attribute]
    if any(one.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) or one.ref_attr_name for one in attributes):
        return "it has graphs within the graph"
    tensors = [*graph.initializer, *(one.t for one in attributes), *(t for one in attributes for t in one.tensors)]
    if any(one.data_location == TensorProto.EXTERNAL or one.external_data for one in tensors):
        return "it refers to other files"
    return None


def _is_refused(kind: str) -> bool:
    return kind in REFUSED or kind.startswith(("Sequence", "Optional"))


def _unsound(model: ModelProto) -> str | None:
    try:
        checker.check_model(model, full_check=True)
    except Exception as error:  # noqa: BLE001 - checker and shape inference raise of many kinds
        return f"it is not valid ONNX: {str(error).strip().splitlines()[0] if str(error).strip() else error!r}"[:300]
    return None


def _other_interface(model: ModelProto, classes: int, image_size: int) -> str | None:
    constants = {one.name for one in model.graph.initializer}
    inputs = [one for one in model.graph.input if one.name not in constants]
    images = (TensorProto.UINT8, [None, 3, image_size, image_size])
    if [one.name for one in inputs] != ["images"] or not _is(inputs[0], *images):
        return f"its input is not `images`, uint8 (N, 3, {image_size}, {image_size})"
    outputs = {one.name: one for one in model.graph.output}
    if "logits" not in outputs or set(outputs) - OUTPUTS:
        return f"its outputs are {sorted(outputs)}, and should be logits and some of {sorted(OUTPUTS)}"[:300]
    if not _is(outputs["logits"], TensorProto.FLOAT, [None, classes]):
        return f"its logits are not float (N, {classes})"
    ranks = {"strangeness": 1, "features": 2, "maps": 3}
    for name, rank in ranks.items():
        if name in outputs and not _is(outputs[name], TensorProto.FLOAT, [None] * rank):
            return f"its {name} are not float with {rank} dimensions"
    return None


def _is(value: ValueInfoProto, kind: int, shape: list[int | None]) -> bool:
    """None in `shape` is any size."""
    told: Any = value.type.tensor_type
    if told.elem_type != kind or len(told.shape.dim) != len(shape):
        return False
    return all(size is None or dim.dim_value == size for dim, size in zip(told.shape.dim, shape, strict=True))


if __name__ == "__main__":
    main()
