"""The layer language: what a `layers` network may contain, and the arithmetic that refuses an impossible one.

Nothing is allocated and no engine is imported here: shapes, parameters and multiply-adds are plain integers.
`workers.training.networks` builds the same list; a test holds the two together.
"""

from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from math import prod
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from service.errors import InvalidValue

Activation = Literal["relu", "relu6", "leaky_relu", "sigmoid", "tanh", "gelu", "silu", "hardswish"]

DEEPEST = 16  # residual blocks in each other: networks that learn have two, and exporting recurses many calls a block
_depth: ContextVar[int] = ContextVar("residual blocks around what is being validated", default=0)

SPATIAL = ("conv", "depthwise_conv", "residual", "max_pool", "avg_pool", "global_avg_pool")

Filters = Annotated[int, Field(ge=1, le=4096, description="channels it gives")]
Units = Annotated[int, Field(ge=1, le=65536, description="features it gives")]
Side = Annotated[int, Field(ge=1, le=31)]


class Strict(BaseModel):
    """Base of everything a client may post: unknown fields, NaN and silent conversions are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class Affine(Strict):
    """Numbers times weights, and what follows at once."""

    batch_norm: bool = Field(False, description="batch normalisation before the activation")
    bias: bool | None = Field(
        None, description="a number of its own for each that it gives; where left out, unless batch_norm is on"
    )
    activation: Activation | None = Field(None, description="what its numbers go through; null: nothing")

    @property
    def has_bias(self) -> bool:
        return not self.batch_norm if self.bias is None else self.bias

    def extra_parameters(self, filters: int) -> int:
        """Those beside the weights."""
        return filters * (2 * self.batch_norm + self.has_bias)


class Conv(Affine):
    """Convolution, then batch normalisation if asked for, then the activation."""

    filters: Filters
    kernel: Side = Field(3, description="side of the window, in pixels")
    stride: Side = Field(1, description="pixels between two windows")
    padding: Annotated[int, Field(ge=0, le=15)] | Literal["same"] = Field("same", description="'same' is kernel // 2")

    @property
    def padding_px(self) -> int:
        return self.kernel // 2 if self.padding == "same" else self.padding


class DepthwiseConv(Affine):
    """A convolution of each channel by itself; then batch normalisation if asked for, then the activation."""

    kernel: Side = Field(3, description="side of the window, in pixels")
    stride: Side = Field(1, description="pixels between two windows")
    padding: Annotated[int, Field(ge=0, le=15)] | Literal["same"] = Field("same", description="'same' is kernel // 2")
    multiplier: Annotated[int, Field(ge=1, le=16)] = Field(1, description="filters of each channel")

    @property
    def padding_px(self) -> int:
        return self.kernel // 2 if self.padding == "same" else self.padding


class Residual(Strict):
    """Layers whose input is added to their output (He et al. 2016), then the activation.

    Where the shapes differ, the input goes through a 1x1 convolution with the stride that makes them equal. Blocks may
    be nested 16 deep.
    """

    layers: "list[Layer]" = Field(min_length=1, max_length=20)
    activation: Activation | None = Field(None, description="what the sum goes through; null: nothing")

    @model_validator(mode="wrap")
    @classmethod
    def _not_too_deep(cls, given: Any, inner: ModelWrapValidatorHandler[Self]) -> Self:
        if (depth := _depth.get()) >= DEEPEST:
            raise ValueError(f"residual blocks are nested more than {DEEPEST} deep")
        token = _depth.set(depth + 1)
        try:
            return inner(given)
        finally:
            _depth.reset(token)


class Pool(Strict):
    size: Side = Field(2, description="side of the window, in pixels")
    stride: Side | None = Field(None, description="size when left out")


class Dropout(Strict):
    p: float = Field(0.5, ge=0, lt=1, description="share of the numbers that a training step leaves out")


class Dense(Affine):
    units: Units


class Empty(Strict):
    """A layer without options: `{"flatten": {}}`."""


class Layer(Strict):
    """One layer, written as an object with one key: `{"conv": {"filters": 32}}`, `{"max_pool": 2}`."""

    conv: Conv | None = None
    depthwise_conv: DepthwiseConv | None = None
    residual: Residual | None = None
    max_pool: Pool | Side | None = None
    avg_pool: Pool | Side | None = None
    batch_norm: Empty | None = None
    activation: Activation | None = None
    dropout: Dropout | None = None
    flatten: Empty | None = None
    global_avg_pool: Empty | None = None
    dense: Dense | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if len(self._given()) != 1:
            raise ValueError(f"a layer is an object with exactly one of the keys {', '.join(type(self).model_fields)}")
        return self

    @model_serializer(mode="wrap")
    def _only_given(self, inner: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in inner(self).items() if value is not None}

    def _given(self) -> list[str]:
        return [name for name in type(self).model_fields if getattr(self, name) is not None]

    @property
    def kind(self) -> str:
        return self._given()[0]

    @property
    def pool(self) -> Pool:
        size = self.max_pool or self.avg_pool
        assert size is not None
        return size if isinstance(size, Pool) else Pool(size=size)


class LayersNetwork(Strict):
    """A network as a list of layers. The class layer is added; a missing flatten before a dense layer too."""

    layers: list[Layer] = Field(min_length=1, max_length=200)


def takes_any_size(network: LayersNetwork) -> bool:
    """Do its weights fit pictures of every size? Only when everything is pooled away before the first dense layer."""
    for layer in network.layers:
        if layer.global_avg_pool is not None:
            return True
        if layer.flatten is not None or layer.dense is not None:
            return False
    return False


def can_be_whitened(network: LayersNetwork, image_size: int) -> bool:
    """Does it begin with a convolution that has no more filters than there are directions of a patch, both ways?

    Patches are taken within the picture, so its window must not be larger.
    """
    first = network.layers[0].conv
    return first is not None and first.filters <= 2 * 3 * first.kernel**2 and first.kernel <= image_size


@dataclass(frozen=True)
class LayerShape:
    """What one layer makes of one picture. `out` is (channels, height, width), or (features,) once flat."""

    kind: str
    out: tuple[int, ...]
    parameters: int
    multiply_adds: int
    inner: int = 0  # activations of the layers within

    @property
    def activations(self) -> int:
        return prod(self.out) + self.inner


def shapes(network: LayersNetwork, image_size: int, classes: int) -> list[LayerShape]:
    """Shape, parameters and multiply-adds of every layer, the class layer last.

    Raises InvalidValue (code `impossible_shape`) naming the first layer that cannot follow the one before it.
    """
    return list(_shapes(network, image_size, classes))


def _shapes(network: LayersNetwork, image_size: int, classes: int) -> Iterator[LayerShape]:
    shape: tuple[int, ...] = (3, image_size, image_size)
    for index, layer in enumerate(network.layers):
        row = _after(layer, shape, f"/spec/network/layers/{index}/{layer.kind}")
        shape = row.out
        yield row
    yield _dense("classes", Dense(units=classes), shape)


def _after(layer: Layer, shape: tuple[int, ...], param: str) -> LayerShape:
    kind = layer.kind
    if kind in SPATIAL and len(shape) != 3:
        raise InvalidValue(
            "impossible_shape",
            f"{kind} needs a picture, but the layer before it is flat with {shape[0]} features",
            hint="put convolutions and pools before flatten, global_avg_pool and dense",
            param=param,
        )
    if layer.conv is not None:
        return _conv(layer.conv, shape, param)
    if layer.depthwise_conv is not None:
        return _depthwise(layer.depthwise_conv, shape, param)
    if layer.residual is not None:
        return _residual(layer.residual, shape, param)
    if kind in ("max_pool", "avg_pool"):
        size, stride = layer.pool.size, layer.pool.stride or layer.pool.size
        return LayerShape(kind, (shape[0], *_slide(shape, size, stride, 0, param)), 0, 0)
    if layer.dense is not None:
        return _dense(kind, layer.dense, shape)
    if kind == "global_avg_pool":
        return LayerShape(kind, (shape[0],), 0, 0)
    if kind == "flatten":
        return LayerShape(kind, (prod(shape),), 0, 0)
    return LayerShape(kind, shape, 2 * shape[0] if kind == "batch_norm" else 0, 0)


def _conv(conv: Conv, shape: tuple[int, ...], param: str) -> LayerShape:
    height, width = _slide(shape, conv.kernel, conv.stride, conv.padding_px, param)
    weights = shape[0] * conv.filters * conv.kernel**2
    parameters = weights + conv.extra_parameters(conv.filters)
    return LayerShape("conv", (conv.filters, height, width), parameters, weights * height * width)


def _depthwise(conv: DepthwiseConv, shape: tuple[int, ...], param: str) -> LayerShape:
    height, width = _slide(shape, conv.kernel, conv.stride, conv.padding_px, param)
    filters = shape[0] * conv.multiplier
    weights = filters * conv.kernel**2
    parameters = weights + conv.extra_parameters(filters)
    return LayerShape("depthwise_conv", (filters, height, width), parameters, weights * height * width)


def _residual(residual: Residual, shape: tuple[int, ...], param: str) -> LayerShape:
    rows: list[LayerShape] = []
    out = shape
    for index, layer in enumerate(residual.layers):
        rows.append(_after(layer, out, f"{param}/layers/{index}/{layer.kind}"))
        out = rows[-1].out
    if out != shape:
        shortcut_stride(shape, out, param)
        weights = shape[0] * out[0]
        rows.append(LayerShape("shortcut", out, weights + out[0], weights * out[1] * out[2]))
    return LayerShape(
        "residual",
        out,
        sum(row.parameters for row in rows),
        sum(row.multiply_adds for row in rows),
        inner=sum(row.activations for row in rows),
    )


def shortcut_stride(before: tuple[int, ...], after: tuple[int, ...], param: str = "/spec/network") -> int:
    """The stride of the 1x1 convolution that gives a residual block's input the shape of its output."""
    if len(after) == 3:
        for stride in range(1, 32):
            if all((side - 1) // stride + 1 == wanted for side, wanted in zip(before[1:], after[1:], strict=True)):
                return stride
    raise InvalidValue(
        "impossible_shape",
        f"no shortcut leads from {'x'.join(map(str, before))} to {'x'.join(map(str, after))}",
        hint="within a residual block keep pictures pictures, and pad so that only strides make them smaller",
        param=param,
    )


def _dense(kind: str, dense: Dense, shape: tuple[int, ...]) -> LayerShape:
    weights = prod(shape) * dense.units
    return LayerShape(kind, (dense.units,), weights + dense.extra_parameters(dense.units), weights)


def _slide(shape: tuple[int, ...], size: int, stride: int, padding: int, param: str) -> tuple[int, int]:
    """Height and width after sliding a window of `size` by `stride` over a picture padded on every side."""
    if size > min(shape[1:]) + 2 * padding:
        raise InvalidValue(
            "impossible_shape",
            f"a window of {size} does not fit into {shape[1]}x{shape[2]} pixels (padding {padding})",
            hint="use fewer or smaller pools and strides, or a larger image_size",
            param=param,
        )
    height, width = ((side + 2 * padding - size) // stride + 1 for side in shape[1:])
    return height, width
