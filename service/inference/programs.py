"""An exported program as a function of numpy arrays. It knows nothing of networks, models or HTTP.

`torch.export.load` can fall back to pickle, so only bytes that our own worker wrote, and whose SHA-256 was checked,
come here (see docs/decisions/0005).
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Outputs:
    """What a program says about N pictures. Programs of earlier versions give logits only."""

    logits: Floats  # (N, K)
    strangeness: Floats | None = None  # (N,): larger is less like the training pictures
    maps: Floats | None = None  # (N, h, w): where the first class was seen, a class activation map

    def __getitem__(self, rows: slice) -> "Outputs":
        strangeness = None if self.strangeness is None else self.strangeness[rows]
        return Outputs(self.logits[rows], strangeness, None if self.maps is None else self.maps[rows])


def joined(parts: Sequence[Outputs]) -> Outputs:
    """The outputs of one program for several batches, as of one."""
    if len(parts) == 1:
        return parts[0]
    return Outputs(
        np.concatenate([part.logits for part in parts]),
        _joined([part.strangeness for part in parts]),
        _joined([part.maps for part in parts]),
    )


def _joined(arrays: list[Floats | None]) -> Floats | None:
    present = [array for array in arrays if array is not None]
    return np.concatenate(present) if present else None


class Program:
    """(N, S, S, 3) uint8 RGB -> (N, K) float32 logits; `outputs` gives all that the program knows."""

    def __init__(self, module: torch.nn.Module, device: str) -> None:
        self._module = module
        self._device = device

    def __call__(self, pixels: NDArray[np.uint8]) -> Floats:
        return self.outputs(pixels).logits

    def outputs(self, pixels: NDArray[np.uint8]) -> Outputs:
        images = torch.from_numpy(pixels).to(self._device).permute(0, 3, 1, 2).contiguous()  # (N, 3, S, S)
        with torch.inference_mode():
            found = self._module(images)
        named = found if isinstance(found, dict) else {"logits": found}
        return Outputs(**{name: tensor.float().cpu().numpy() for name, tensor in named.items()})


def load(data: bytes, device: str, threads: int) -> Program:
    torch.set_num_threads(threads)
    return Program(torch.export.load(io.BytesIO(data)).module().to(device), device)


def weights_of(data: bytes) -> dict[str, torch.Tensor]:
    """The tensors of the network inside a program, by the names that they had in training."""
    tensors = torch.export.load(io.BytesIO(data)).state_dict
    inside = {name.partition("network.")[2]: tensor for name, tensor in tensors.items() if "network." in name}
    return {name.removeprefix("body."): tensor.detach() for name, tensor in inside.items()}


def pick_device(wanted: str) -> str:
    """`auto` is the GPU when there is one."""
    return wanted if wanted != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
