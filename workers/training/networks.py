"""From a resolved spec to a network. What a list of layers may contain is decided in `service.layers`."""

from typing import Any

import torch
from torch import nn

from service.layers import (
    Activation,
    Conv,
    Dense,
    DepthwiseConv,
    Layer,
    LayersNetwork,
    Residual,
    shortcut_stride,
)
from service.presets import PRESETS
from workers.training.augment import MEAN, STD
from workers.training.convolution import lighten

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of torchvision's weights

MONOTONE = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Sigmoid, nn.Tanh)
ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky_relu": nn.LeakyReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
}


class Imagenet(nn.Module):
    """A network that was trained on pictures normalised by ImageNet's channel means and deviations."""

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        deviation = torch.tensor(IMAGENET_STD).view(3, 1, 1)
        self.register_buffer("scale", STD / deviation, persistent=False)
        self.register_buffer("shift", (MEAN - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / deviation, persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.body(self.rescaled(images))
        return logits

    def rescaled(self, images: torch.Tensor) -> torch.Tensor:
        return images * self.scale + self.shift


def build(network: str | dict[str, Any], image_size: int, classes: int, normalisation: str = "plain") -> nn.Module:
    """(N, 3, S, S) float -> (N, K) logits. Weights are drawn from torch's global generator: seed it first."""
    body = _build(network, image_size, classes)
    return Imagenet(body) if normalisation == "imagenet" else body


def _build(network: str | dict[str, Any], image_size: int, classes: int) -> nn.Module:
    if isinstance(network, str) and network not in PRESETS:
        from torchvision.models import get_model  # seconds, and only for the networks that need it

        module: nn.Module = get_model(network, weights=None, num_classes=classes)
        return lighten(module)
    layers = PRESETS[network] if isinstance(network, str) else LayersNetwork.model_validate(network)
    return _from_layers(layers, image_size, classes)


def _from_layers(network: LayersNetwork, image_size: int, classes: int) -> nn.Module:
    modules: list[nn.Module] = []
    shape: tuple[int, ...] = (3, image_size, image_size)
    for layer in network.layers:
        made, shape = _layer(layer, shape)
        _append(modules, made)
    flat, features = _flattened(shape)
    return lighten(nn.Sequential(*modules, *flat, nn.Linear(features, classes)))


def _append(modules: list[nn.Module], made: list[nn.Module]) -> None:
    """A maximum goes before the activation it follows, where both orders give the same: there is less to activate."""
    swap = modules and isinstance(modules[-1], MONOTONE) and any(isinstance(one, nn.MaxPool2d) for one in made)
    place = len(modules) - 1 if swap else len(modules)
    modules[place:place] = made


def _layer(layer: Layer, shape: tuple[int, ...]) -> tuple[list[nn.Module], tuple[int, ...]]:
    if layer.conv is not None:
        return _conv(layer.conv, shape)
    if layer.depthwise_conv is not None:
        return _depthwise(layer.depthwise_conv, shape)
    if layer.residual is not None:
        block = ResidualBlock(layer.residual, shape)
        return [block], block.out
    if layer.dense is not None:
        return _dense(layer.dense, shape)
    if layer.kind in ("max_pool", "avg_pool"):
        size, stride = layer.pool.size, layer.pool.stride or layer.pool.size
        pool = nn.MaxPool2d(size, stride) if layer.max_pool is not None else nn.AvgPool2d(size, stride)
        return [pool], (shape[0], *((side - size) // stride + 1 for side in shape[1:]))
    if layer.flatten is not None:
        flat, features = _flattened(shape)
        return flat, (features,)
    if layer.global_avg_pool is not None:
        return [nn.AdaptiveAvgPool2d(1), nn.Flatten()], (shape[0],)
    if layer.batch_norm is not None:
        return [_norm(shape)], shape
    if layer.dropout is not None:
        return [nn.Dropout(layer.dropout.p)], shape
    return _activation(layer.activation), shape


def _conv(conv: Conv, shape: tuple[int, ...]) -> tuple[list[nn.Module], tuple[int, ...]]:
    padding = conv.padding_px
    module = nn.Conv2d(shape[0], conv.filters, conv.kernel, conv.stride, padding, bias=conv.has_bias)
    sides = ((side + 2 * padding - conv.kernel) // conv.stride + 1 for side in shape[1:])
    norm: list[nn.Module] = [nn.BatchNorm2d(conv.filters)] if conv.batch_norm else []
    return [module, *norm, *_activation(conv.activation)], (conv.filters, *sides)


def _depthwise(conv: DepthwiseConv, shape: tuple[int, ...]) -> tuple[list[nn.Module], tuple[int, ...]]:
    channels, filters, padding = shape[0], shape[0] * conv.multiplier, conv.padding_px
    module = nn.Conv2d(channels, filters, conv.kernel, conv.stride, padding, groups=channels, bias=conv.has_bias)
    sides = ((side + 2 * padding - conv.kernel) // conv.stride + 1 for side in shape[1:])
    norm: list[nn.Module] = [nn.BatchNorm2d(filters)] if conv.batch_norm else []
    return [module, *norm, *_activation(conv.activation)], (filters, *sides)


class ResidualBlock(nn.Module):
    """activation(body(x) + shortcut(x)); the shortcut is a strided 1x1 convolution where the shapes differ."""

    def __init__(self, residual: Residual, shape: tuple[int, ...]) -> None:
        super().__init__()
        modules: list[nn.Module] = []
        self.out = shape
        for layer in residual.layers:
            made, self.out = _layer(layer, self.out)
            _append(modules, made)
        self.body = nn.Sequential(*modules)
        self.shortcut: nn.Module = nn.Identity()
        if self.out != shape:
            self.shortcut = nn.Conv2d(shape[0], self.out[0], 1, shortcut_stride(shape, self.out))
        self.activation = nn.Sequential(*_activation(residual.activation))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        added: torch.Tensor = self.activation(self.body(images) + self.shortcut(images))
        return added


def _dense(dense: Dense, shape: tuple[int, ...]) -> tuple[list[nn.Module], tuple[int, ...]]:
    flat, features = _flattened(shape)
    module = nn.Linear(features, dense.units, bias=dense.has_bias)
    norm: list[nn.Module] = [nn.BatchNorm1d(dense.units)] if dense.batch_norm else []
    return [*flat, module, *norm, *_activation(dense.activation)], (dense.units,)


def _flattened(shape: tuple[int, ...]) -> tuple[list[nn.Module], int]:
    if len(shape) == 1:
        return [], shape[0]
    return [nn.Flatten()], shape[0] * shape[1] * shape[2]


def _norm(shape: tuple[int, ...]) -> nn.Module:
    return nn.BatchNorm2d(shape[0]) if len(shape) == 3 else nn.BatchNorm1d(shape[0])


def _activation(name: Activation | None) -> list[nn.Module]:
    return [] if name is None else [ACTIVATIONS[name]()]
