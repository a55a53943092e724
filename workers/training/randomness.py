"""Every random draw is a pure function of (seed, purpose, numbers), so a checkpoint needs no generator states."""

import hashlib

import torch


def derive(seed: int, purpose: str, *numbers: int) -> int:
    """63 bits that depend on every argument and on nothing else."""
    text = ":".join(map(str, (seed, purpose, *numbers)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, purpose: str, *numbers: int) -> torch.Generator:
    return torch.Generator().manual_seed(derive(seed, purpose, *numbers))


def seed_globally(seed: int, purpose: str, *numbers: int) -> None:
    """For what draws from torch's global generators: initialisation and dropout.

    As torch.manual_seed, which notes the whole call stack for devices that are not in use: half a millisecond.
    """
    value = derive(seed, purpose, *numbers)
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(value)
