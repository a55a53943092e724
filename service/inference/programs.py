"""An exported program as a function of numpy arrays. It knows nothing of networks, models or HTTP.

`torch.export.load` can fall back to pickle, so only bytes that our own worker wrote, and whose SHA-256 was checked,
come here (see docs/decisions/0005).
"""

import io
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

Program = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""(N, S, S, 3) uint8 RGB -> (N, K) float32 logits."""


def load(data: bytes, device: str, threads: int) -> Program:
    torch.set_num_threads(threads)
    module = torch.export.load(io.BytesIO(data)).module().to(device)

    def run(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        images = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).contiguous()  # (N, 3, S, S)
        with torch.inference_mode():
            logits: NDArray[np.float32] = module(images).float().cpu().numpy()
        return logits

    return run


def weights_of(data: bytes) -> dict[str, torch.Tensor]:
    """The tensors of the network inside a program, by the names that they had in training."""
    tensors = torch.export.load(io.BytesIO(data)).state_dict
    inside = {name.removeprefix("network."): tensor for name, tensor in tensors.items()}
    return {name.removeprefix("body."): tensor.detach() for name, tensor in inside.items()}


def pick_device(wanted: str) -> str:
    """`auto` is the GPU when there is one."""
    return wanted if wanted != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
