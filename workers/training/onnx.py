"""A stored program as ONNX: the same operators, normalisation inside, without a trace of the machine that made it."""

import io

import torch

OPSET = 20  # what ONNX Runtime 1.17 and later read
NAMES = ("logits", "strangeness", "maps")  # in the order of a program's outputs; older ones have fewer


def to_onnx(program: bytes) -> bytes:
    """.pt2 bytes that we wrote -> an ONNX model: `images` (N, 3, S, S) uint8 RGB -> NAMES, for N of 1 to 1024."""
    exported = torch.export.load(io.BytesIO(program))
    outputs = exported.graph_signature.user_outputs
    made = torch.onnx.export(
        exported,
        input_names=["images"],
        output_names=list(NAMES[: len(outputs)]),
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
