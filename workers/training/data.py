"""Packed pictures as batches. Nothing is decoded here, and no per-picture Python runs in an epoch."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from workers.training.randomness import generator


@dataclass(frozen=True)
class Split:
    """Rows of a packed cache. `packed` is (M, S, S, 3) uint8, usually mapped from a file.

    `labels` are (N,) int64, or (N, K) float32 of zeros and ones where a picture may have several.
    """

    packed: NDArray[np.uint8]
    rows: NDArray[np.int64]  # (N,) into packed
    labels: torch.Tensor  # on the device
    on_device: torch.Tensor | None  # (N, S, S, 3) uint8, when the whole split fits there
    device: str

    @classmethod
    def of(cls, packed: NDArray[np.uint8], rows: NDArray[np.int64], labels: NDArray[Any], device: str) -> "Split":
        """Keeps the whole split on a GPU when it takes less than half of the free memory there."""
        fits = device != "cpu" and len(rows) * packed[:1].nbytes < torch.cuda.mem_get_info(device)[0] / 2
        whole = torch.from_numpy(packed[rows]).to(device) if fits else None
        return cls(packed, rows, torch.from_numpy(labels).to(device), whole, device)

    def __len__(self) -> int:
        return len(self.rows)

    def images(self, chosen: torch.Tensor) -> torch.Tensor:
        """(B,) indices into the split -> (B, 3, S, S) uint8 on the device, channels last in memory."""
        if self.on_device is not None:
            return self.on_device[chosen.to(self.device)].permute(0, 3, 1, 2)
        taken = torch.from_numpy(self.packed[self.rows[chosen.numpy()]])  # (B, S, S, 3)
        if self.device != "cpu":
            taken = taken.pin_memory()  # so that the copy does not wait for the device
        return taken.to(self.device, non_blocking=True).permute(0, 3, 1, 2)

    def batches(self, order: torch.Tensor, size: int) -> Iterator[torch.Tensor]:
        """The images of (N,) indices, `size` at a time. A GPU that cannot hold the split gets the next while it works.

        One that does hold it is told the order once: each copy would wait for all that was launched before.
        """
        if self.device == "cpu":
            yield from map(self.images, torch.split(order, size))
        elif self.on_device is not None:
            yield from map(self.images, torch.split(order.to(self.device), size))
        else:
            yield from one_ahead(self.images, torch.split(order, size))


def one_ahead(images: Callable[[torch.Tensor], torch.Tensor], chosen: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """map(images, chosen) by a thread that is one batch ahead of who asks."""
    with ThreadPoolExecutor(1) as thread:
        coming = None
        for indices in chosen:
            following = thread.submit(images, indices)
            if coming is not None:
                yield coming.result()
            coming = following
        if coming is not None:
            yield coming.result()


def epoch_order(seed: int, epoch: int, count: int) -> torch.Tensor:
    """(N,) int64: the order of the training pictures in this epoch."""
    return torch.randperm(count, generator=generator(seed, "order", epoch))
