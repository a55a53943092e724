"""A stored program as ONNX: the same operators, normalisation inside, without a trace of the machine that made it."""

import io
from collections.abc import Callable
from typing import Any

import onnx
import torch

OPSET = 20  # what ONNX Runtime 1.17 and later read


def to_onnx(program: bytes) -> bytes:
    """.pt2 bytes that we wrote -> an ONNX model: `images` (N, 3, S, S) uint8 RGB -> its outputs, for N of 1 to 1024."""
    exported = torch.export.load(io.BytesIO(program))
    outputs = exported.call_spec.out_spec
    assert outputs is not None
    made = torch.onnx.export(
        exported,
        input_names=["images"],
        output_names=outputs.context if outputs.type is dict else ["logits"],
        dynamo=True,
        opset_version=OPSET,
        external_data=False,
        verbose=False,
    )
    assert made is not None
    proto = made.model_proto
    for node in proto.graph.node:
        del node.metadata_props[:]  # stack traces, with paths of this machine
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info, *proto.graph.initializer):
        del value.metadata_props[:]
    del proto.graph.metadata_props[:]
    return bytes(proto.SerializeToString(deterministic=True))


def without(model: bytes, output: str) -> bytes:
    """The model without one of its outputs, and without what only that needed."""
    proto = onnx.load_from_string(model)
    graph = proto.graph
    keep(graph.output, lambda one: one.name != output)
    needed = {one.name for one in graph.output}
    for node in reversed(graph.node):  # in the order of computation
        if needed & set(node.output):
            needed.update(node.input)
    keep(graph.node, lambda node: bool(needed & set(node.output)))
    keep(graph.initializer, lambda one: one.name in needed)
    keep(graph.value_info, lambda one: one.name in needed)
    return bytes(proto.SerializeToString(deterministic=True))


def keep(field: Any, wanted: Callable[[Any], bool]) -> None:
    kept = [one for one in field if wanted(one)]
    del field[:]
    field.extend(kept)
