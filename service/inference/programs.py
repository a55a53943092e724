"""What serves: a program as a function of numpy arrays, whichever engine runs it. It knows neither networks nor HTTP.

Importing this imports no engine; `load` imports the one that it needs, so that a process has no threads of another.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
TIMED = (1, 8, 64)  # pictures in a pass, as certificates tell of them


@dataclass(frozen=True)
class Outputs:
    """What a program says about N pictures. Programs of earlier versions give logits only."""

    logits: Floats  # (N, K)
    strangeness: Floats | None = None  # (N,): larger is less like the training pictures
    maps: Floats | None = None  # (N, h, w): where the first class was seen, a class activation map

    def __getitem__(self, rows: slice) -> "Outputs":
        strangeness = None if self.strangeness is None else self.strangeness[rows]
        return Outputs(self.logits[rows], strangeness, None if self.maps is None else self.maps[rows])


def rows_fault(found: Outputs, pictures: int) -> str | None:
    """Why this cannot be what a program says of so many pictures; None if it can."""
    named = (("logits", found.logits), ("strangeness", found.strangeness), ("maps", found.maps))
    for name, array in named:
        if array is not None and array.shape[:1] != (pictures,):
            return f"of {pictures} pictures it gives {name} of the shape {array.shape}"
    return None


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


class Program(Protocol):
    def outputs(self, pixels: NDArray[np.uint8]) -> Outputs:
        """(N, S, S, 3) uint8 RGB -> what is said of each picture, whatever it is batched with."""


@dataclass(frozen=True)
class Backend:
    """What runs a program, and in which precision."""

    name: str  # torch, onnxruntime, openvino
    precision: str = "fp32"

    def __str__(self) -> str:
        return f"{self.name} {self.precision}"

    @property
    def exact(self) -> bool:
        """fp32 answers as the trained network does, but for the last bits."""
        return self.precision == "fp32"

    @property
    def kind(self) -> str:
        """Which of a model version's programs it runs: bf16 is made of fp32 when the program is loaded, and a version
        in int8 has no other."""
        return "torch" if self.name == "torch" else "onnx"


TORCH = Backend("torch")


def parse(text: str) -> Backend:
    """The backend that a certificate writes as `openvino bf16`."""
    name, _, precision = text.partition(" ")
    return Backend(name, precision)


@dataclass(frozen=True)
class Stored:
    """Bytes that our own worker wrote, checked against their SHA-256, and what they are for."""

    data: bytes
    backend: Backend = TORCH
    quick: bool = False  # needs less for a picture than handing it to another thread is worth


def load(stored: Stored, device: str, threads: int) -> Program:
    """`device` as in the settings: only torch knows graphics cards; the others are for processors."""
    if stored.backend.name == "torch":
        from service.inference import torch_program

        return torch_program.load(stored.data, torch_program.pick_device(device), threads)
    from service.inference import onnx_program

    return onnx_program.load(stored.data, stored.backend, threads)
