"""An exported program of torch: the engine that runs everywhere, on processors and graphics cards.

`torch.export.load` can fall back to pickle, so only bytes that our own worker wrote, and whose SHA-256 was checked,
come here (see docs/decisions/0005). Importing this imports torch, which takes seconds.
"""

import io

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export.passes import move_to_device_pass

from service.inference.cuda_graphs import graphed
from service.inference.programs import Floats, Outputs


class TorchProgram:
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
        named = {name: named[name] for name in ("logits", "strangeness", "maps") if name in named}
        return Outputs(**{name: tensor.float().cpu().numpy() for name, tensor in named.items()})


def load(data: bytes, device: str, threads: int) -> TorchProgram:
    """On a graphics card fp32 is fp32, as the certificate says, and passes are CUDA graphs where those pay."""
    torch.set_num_threads(threads)
    program = torch.export.load(io.BytesIO(data))
    module = on_device(program, device)
    if device != "cpu":
        if ":" in device:
            torch.cuda.set_device(device)  # streams and graphs are on it too
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        module = graphed(module, _side(program), device)
    return TorchProgram(module, device)


def on_device(program: torch.export.ExportedProgram, device: str) -> torch.nn.Module:
    """What was exported on a processor: its graph says so of every tensor that it makes or checks."""
    moved = program if device == "cpu" else move_to_device_pass(program, device)
    module: torch.nn.Module = moved.module()
    return module


def _side(program: torch.export.ExportedProgram) -> int:
    """In pixels, of the pictures that it takes."""
    assert program.example_inputs is not None
    (images,), _ = program.example_inputs
    return int(images.shape[-1])


def weights_of(data: bytes) -> dict[str, torch.Tensor]:
    """The tensors of the network inside a program, by the names that they had in training."""
    tensors = torch.export.load(io.BytesIO(data)).state_dict
    inside = {name.partition("network.")[2]: tensor for name, tensor in tensors.items() if "network." in name}
    return {name.removeprefix("body."): tensor.detach() for name, tensor in inside.items()}


def pick_device(wanted: str) -> str:
    """`auto` is the GPU when there is one."""
    return wanted if wanted != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
