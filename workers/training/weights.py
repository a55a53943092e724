"""Weights that others trained: found, checked against the network's names and shapes, and put into it.

Only safetensors, or `torch.load(weights_only=True)`, which builds nothing but tensors; never a pickle of anything else.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from safetensors.torch import load_file
from torch import nn

from service.errors import InvalidValue
from workers.training.optim import head_of

Tensors = dict[str, torch.Tensor]
PATTERNS = ("{}.safetensors", "{}_imagenet*.safetensors", "{}.pth", "{}-*.pth")  # the last is torchvision's own


@dataclass(frozen=True)
class Initial:
    """What a training begins with. `with_head`: the class layer too, where the classes are the same."""

    tensors: Tensors
    with_head: bool = False


def pretrained(name: str, folder: Path | None) -> Tensors:
    """ImageNet weights of a torchvision network, from `folder` if they lie there, else by torchvision's download."""
    if folder is not None:
        for pattern in PATTERNS:
            for path in sorted(folder.glob(pattern.format(name))):
                return _read(path)
    from torchvision.models import get_model_weights

    try:
        found: Tensors = get_model_weights(name).DEFAULT.get_state_dict(progress=False, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        raise InvalidValue(
            "weights_unavailable",
            f"the pretrained weights of {name} are not on this machine and cannot be downloaded ({error})",
            hint=f"put {name}.safetensors or torchvision's {name}-*.pth into FOVEA_WEIGHTS_DIR",
            param="/spec/initial_weights",
        ) from error
    return found


def _read(path: Path) -> Tensors:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise _mismatch(f"{path.name} cannot be read as weights ({type(error).__name__})") from error
    if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise _mismatch(f"{path.name} is no mapping of names to tensors")
    return loaded


def put_into(network: nn.Module, tensors: Tensors, *, with_head: bool) -> None:
    """Copies the tensors into the network; the class layer keeps its own unless `with_head`.

    Raises InvalidValue (code `weights_mismatch`) naming the first tensor that is missing, unknown or of another shape.
    """
    head = {f"{_name_of(network, head_of(network))}.{name}" for name in ("weight", "bias")}
    wanted = {name: tensor for name, tensor in network.state_dict().items() if with_head or name not in head}
    given = {name: tensor for name, tensor in tensors.items() if with_head or name not in head}
    if unknown := sorted(given.keys() ^ wanted.keys()):
        raise _mismatch(f"{unknown[0]} is {'missing' if unknown[0] in wanted else 'not part of this network'}")
    for name, tensor in given.items():
        if tensor.shape != wanted[name].shape:
            raise _mismatch(f"{name} has shape {tuple(tensor.shape)}, the network's is {tuple(wanted[name].shape)}")
    network.load_state_dict(given, strict=False)


def _name_of(network: nn.Module, wanted: nn.Module) -> str:
    names: dict[nn.Module, str] = {module: name for name, module in network.named_modules()}
    return names[wanted]


def _mismatch(detail: str) -> InvalidValue:
    return InvalidValue(
        "weights_mismatch",
        detail,
        hint="use weights of the same network, as torchvision names its tensors",
        param="/spec/initial_weights",
    )
