"""The tensors of the Open Inference Protocol (KServe, V2) as pictures, and answers as its tensors. It knows no HTTP.

Numbers come as JSON or, by the binary tensor data extension, as little-endian bytes behind the JSON; an element of
BYTES is then its length (4 bytes) and itself. In JSON an encoded picture is base64.
"""

import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.api import pictures
from service.api.answering import Picture
from service.errors import BadRequest, InvalidValue, PayloadTooLarge
from service.images import Pixels
from service.settings import Settings

INPUT = "image"
DTYPES: dict[str, np.dtype[Any]] = {"UINT8": np.dtype("u1"), "FP32": np.dtype("<f4")}

Json = dict[str, Any]


class _Part(BaseModel):
    """Members that an extension adds are let through, as the protocol wants it."""

    model_config = ConfigDict(extra="ignore", strict=True)
    parameters: Json = {}


class InputTensor(_Part):
    name: str
    datatype: str
    shape: Annotated[list[Annotated[int, Field(ge=0, le=2**31)]], Field(min_length=1, max_length=8)]
    data: list[Any] | None = None


class WantedOutput(_Part):
    name: str


class InferRequest(_Part):
    id: str | None = Field(None, max_length=200)
    inputs: list[InputTensor] = Field(min_length=1)
    outputs: list[WantedOutput] | None = None


@dataclass(frozen=True)
class OutputTensor:
    """`values` is a float32 array, or strings (N,)."""

    name: str
    values: NDArray[np.float32] | list[str]

    @property
    def shape(self) -> list[int]:
        return [len(self.values)] if isinstance(self.values, list) else list(self.values.shape)

    @property
    def datatype(self) -> str:
        return "BYTES" if isinstance(self.values, list) else "FP32"


def read(body: bytes, json_bytes: str | None, settings: Settings) -> tuple[InferRequest, list[Picture]]:
    """The request and its pictures. `json_bytes` is the header that says where binary data begin.

    Raises 400, 413 or 422, naming the place by JSON pointer.
    """
    end = len(body) if json_bytes is None else _length(json_bytes, len(body))
    if end > settings.max_infer_json_bytes:
        raise PayloadTooLarge(
            "json_too_large",
            f"the JSON has {end} bytes; at most {settings.max_infer_json_bytes} are accepted",
            hint="send the tensor as binary data (set_data_from_numpy(…, binary_data=True))",
        )
    try:
        request = InferRequest.model_validate_json(body[:end])
    except ValidationError as error:
        raise pictures.invalid_json(error, body[:end]) from error
    if len(request.inputs) != 1 or request.inputs[0].name != INPUT:
        raise _invalid("unknown_input", f"the only input is {INPUT!r}", "GET the model's metadata", "/inputs")
    tensor, binary = request.inputs[0], memoryview(body)[end:]
    size = tensor.parameters.get("binary_data_size")
    if size is None and tensor.data is None:
        raise _invalid("data_missing", "the tensor has no data", "send `data`, or binary tensor data")
    if size != (None if tensor.data is not None else len(binary)):
        raise _invalid(
            "binary_data_size",
            f"{len(binary)} bytes follow the JSON, and binary_data_size is {size}",
            "send both alike",
        )
    return request, _pictures(tensor, None if size is None else binary, settings)


def _length(text: str, body_bytes: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19) or int(text) > body_bytes:
        raise BadRequest(
            "inference_header", f"Inference-Header-Content-Length is {text[:50]!r}", hint="the length of the JSON part"
        )
    return int(text)


def _pictures(tensor: InputTensor, binary: memoryview | None, settings: Settings) -> list[Picture]:
    pictures.check_count(tensor.shape[0], settings)
    if tensor.datatype == "BYTES":
        found = _encoded(tensor.data or []) if binary is None else _elements(binary)
        _check_shape(tensor, len(found), 1)
        return found
    if tensor.datatype not in DTYPES:
        hint = "send BYTES (encoded pictures), UINT8 or FP32 (pixels)"
        raise _invalid(
            "datatype_unsupported", f"{tensor.datatype[:50]!r} is not understood", hint, "/inputs/0/datatype"
        )
    values = _numbers(tensor, binary)
    _check_shape(tensor, values.size, 4)
    shaped: Pixels = _pixels(values).reshape(tuple(tensor.shape))
    return list(shaped)


def _check_shape(tensor: InputTensor, count: int, rank: int) -> None:
    """`rank` 1 is [N] (or [N, 1]), 4 is [N, height, width, 3]."""
    shape = tensor.shape
    fits = shape[-1] == 3 and len(shape) == 4 if rank == 4 else shape[1:] in ([], [1])
    if not fits or math.prod(shape) != count or count == 0:
        wanted = "[N, height, width, 3]" if rank == 4 else "[N]"
        raise _invalid(
            "shape_mismatch",
            f"{count} elements of {tensor.datatype} in the shape {shape}",
            f"{tensor.datatype} has the shape {wanted}, and as many elements",
            "/inputs/0/shape",
        )


def _encoded(data: list[Any]) -> list[Picture]:
    texts = [one[0] if isinstance(one, list) and len(one) == 1 else one for one in data]
    found: list[Picture] = []
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise _invalid("invalid_value", "not a string", "base64 of an encoded picture", f"/inputs/0/data/{place}")
        found.append(pictures.from_base64(text, f"/inputs/0/data/{place}"))
    return found


def _elements(binary: memoryview) -> list[Picture]:
    found: list[Picture] = []
    at = 0
    while at < len(binary):
        size = struct.unpack_from("<I", binary, at)[0] if at + 4 <= len(binary) else -1
        if size < 0 or at + 4 + size > len(binary):
            raise _invalid("binary_data_truncated", "an element ends beyond the data", "4 bytes of length, then it")
        found.append(bytes(binary[at + 4 : at + 4 + size]))
        at += 4 + size
    return found


def _numbers(tensor: InputTensor, binary: memoryview | None) -> NDArray[Any]:
    dtype = DTYPES[tensor.datatype]
    if binary is not None:
        whole = len(binary) // dtype.itemsize * dtype.itemsize
        return np.frombuffer(binary[:whole], dtype) if whole == len(binary) else np.empty(0, dtype)
    try:
        values = np.array(tensor.data).ravel()
    except (ValueError, OverflowError):  # ragged
        values = np.array([None])
    if values.size and values.dtype.kind not in ("iu" if tensor.datatype == "UINT8" else "iuf"):
        raise _invalid("invalid_value", f"not numbers of {tensor.datatype}", "flat, or nested as the shape says")
    return values if tensor.datatype == "UINT8" else values.astype(np.float64)


def _pixels(values: NDArray[Any]) -> Pixels:
    """0..255 of whole numbers, 0..1 of floats: what is scaled otherwise is refused, not misread."""
    floats = values.dtype.kind == "f"
    most = 1 if floats else 255
    if values.size and not (values.min() >= 0 and values.max() <= most):  # false for NaN too
        raise _invalid(
            "pixel_range",
            f"values from {values.min():g} to {values.max():g}; they go from 0 to {most}",
            "FP32 is 0..1 and UINT8 0..255, in RGB; the model itself normalises",
        )
    scaled: NDArray[Any] = np.rint(values * 255.0) if floats else values
    return np.ascontiguousarray(scaled, dtype=np.uint8)


def _invalid(code: str, detail: str, hint: str, param: str = "/inputs/0/data") -> InvalidValue:
    return InvalidValue(code, detail, hint=hint, param=param)


# answers


def select(request: InferRequest, made: Sequence[OutputTensor]) -> list[tuple[OutputTensor, bool]]:
    """The outputs that are wanted, all unless some are named, and whether each goes as binary data."""
    every = request.parameters.get("binary_data_output") is True
    if not request.outputs:
        return [(tensor, every) for tensor in made]
    by_name = {tensor.name: tensor for tensor in made}
    for place, output in enumerate(request.outputs):
        if output.name not in by_name:
            hint = f"this model version gives {', '.join(by_name)}"
            raise _invalid("unknown_output", f"there is no {output.name[:50]!r}", hint, f"/outputs/{place}/name")
    return [(by_name[one.name], one.parameters.get("binary_data", every) is True) for one in request.outputs]


def write(head: Json, outputs: Sequence[tuple[OutputTensor, bool]]) -> tuple[bytes, bytes]:
    """The JSON, and the binary data that follow it."""
    shown: list[Json] = []
    binary: list[bytes] = []
    for tensor, as_binary in outputs:
        one: Json = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if as_binary:
            binary.append(_packed(tensor.values))
            one["parameters"] = {"binary_data_size": len(binary[-1])}
        else:
            one["data"] = tensor.values if isinstance(tensor.values, list) else _shortest(tensor.values)
        shown.append(one)
    return json.dumps({**head, "outputs": shown}, ensure_ascii=False).encode(), b"".join(binary)


def _shortest(values: NDArray[np.float32]) -> list[float]:
    """The shortest decimals that read back as the same float32."""
    return [float(str(value)) for value in values.ravel()]


def _packed(values: NDArray[np.float32] | list[str]) -> bytes:
    if not isinstance(values, list):
        return values.astype("<f4").tobytes()
    texts = [text.encode() for text in values]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)
