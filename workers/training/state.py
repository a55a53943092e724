"""The state of a training run, to bytes and back: safetensors and JSON, never pickle.

Weights, optimiser moments, the step number and a few counters are all there is: every random draw and every learning
rate is a function of the step (see `randomness`, `optim`).
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from safetensors.torch import load, save
from torch import nn

from workers.training.compiling import compiled
from workers.training.data import Split
from workers.training.initialisation import begin
from workers.training.networks import build
from workers.training.optim import optimizer
from workers.training.randomness import seed_globally
from workers.training.weights import Initial, put_into


@dataclass
class Counters:
    """Everything of a run that is not a tensor."""

    step: int = 0  # steps done
    epoch_loss: float = 0.0  # sums over the pictures of the epoch under way
    epoch_correct: int = 0
    best_epoch: int = 0
    best_score: float = -1.0  # of validation: see loop.Run.score
    best_loss: float = float("inf")
    lowest_loss: float = float("inf")  # of validation, for early stopping
    epochs_since_lowest: int = 0
    ended: str = ""  # why it ended before its last step
    total: int = 0  # steps of the whole run; a budget may change it
    revisions: list[tuple[int, int]] = field(default_factory=list)  # (step, total) whenever it did
    seconds: float = 0.0  # that the job has used, for the budget


@dataclass
class TrainState:
    network: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    learned: list[nn.Parameter]
    forward: Callable[[torch.Tensor], torch.Tensor]  # the network, or what was compiled of it
    average: dict[str, torch.Tensor] | None = None  # of the network's tensors, when there is an EMA
    counters: Counters = field(default_factory=Counters)

    def to_bytes(self) -> bytes:
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        tensors |= {f"average.{name}": tensor for name, tensor in (self.average or {}).items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in moments.items()}
        meta = {"counters": asdict(self.counters), "scaler": self.scaler.state_dict()}
        copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
        return save(copies, {"fovea": json.dumps(meta)})

    def clear_gradients(self) -> None:
        self.network.zero_grad(set_to_none=True)
        self.optimizer.zero_grad(set_to_none=True)  # has views of some

    def revise(self, total: int) -> None:
        """From the present step on, the run has `total` steps."""
        self.counters.total = total
        self.counters.revisions.append((self.counters.step, total))

    def is_finite(self) -> bool:
        """Are all weights numbers?"""
        return all(bool(parameter.isfinite().all()) for parameter in self.network.parameters())

    def follow(self, decay: float) -> None:
        """Moves the average towards the network, faster in the first steps. Counts are copied."""
        if self.average is None:
            return
        step, now = self.counters.step, self.network.state_dict()
        weight = 1 - min(decay, (1 + step) / (10 + step))
        floats = [name for name, tensor in now.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([self.average[name] for name in floats], [now[name] for name in floats], weight)
        if counts := list(now.keys() - floats):
            torch._foreach_copy_([self.average[name] for name in counts], [now[name] for name in counts])

    def load_bytes(self, data: bytes) -> None:
        """Restores exactly what `to_bytes` wrote; raises when names or shapes are not this network's."""
        tensors, meta = load(data), _metadata(data)
        self.network.load_state_dict(_under(tensors, "network."))
        if self.average is not None:
            saved = _under(tensors, "average.")
            for name, tensor in self.average.items():
                tensor.copy_(saved[name])
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in _under(tensors, "optimizer.").items():
            index, _, moment = name.partition(".")
            state.setdefault(int(index), {})[moment] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.scaler.load_state_dict(meta["scaler"])
        self.counters = Counters(**meta["counters"])


def start(
    spec: dict[str, Any],
    classes: int,
    seed: int,
    device: str,
    plan: dict[str, Any],
    initial: Initial | None = None,
    train: Split | None = None,
) -> TrainState:
    """A fresh run of a resolved spec; `plan` is what `precision.choose` found.

    `train` may be left out where no first step follows: the weights are to be replaced, or only timed.
    """
    seed_globally(seed, "init")
    network = build(spec["network"], spec["image_size"], classes, spec["normalisation"])
    begin(network, spec["initialisation"], train, seed)
    if initial is not None:
        put_into(getattr(network, "body", network), initial.tensors, with_head=initial.with_head)
    network = network.to(device)
    if plan["channels_last"]:
        network = network.to(memory_format=torch.channels_last)
    scaler = torch.amp.GradScaler(device.partition(":")[0], enabled=plan["precision"] == "fp16")
    average = {name: tensor.clone() for name, tensor in network.state_dict().items()} if spec["ema"] else None
    backbone_rate = spec["transfer"]["backbone_rate"] if spec["transfer"] else 1.0
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    forward = compiled(network) if plan.get("compiled") else network
    made = optimizer(network, spec["optimizer"], backbone_rate)
    return TrainState(network, made, scaler, learned, forward, average)


def prepare(device: str, threads: int) -> None:
    """Threads, and as much determinism as torch can give. On GPUs fp32 products are TF32's, as convolutions are."""
    torch.set_num_threads(threads)
    if device != "cpu":
        if ":" in device:
            torch.cuda.set_device(device)  # streams and graphs are on it too
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS does not repeat itself
        torch.set_float32_matmul_precision("high")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs 7 % of a step
    torch.backends.cudnn.benchmark = False


def network_of(data: bytes) -> dict[str, torch.Tensor]:
    """The tensors in a checkpoint that a model is made of: the average where there is one, else the network's."""
    tensors = load(data)
    return _under(tensors, "average.") or _under(tensors, "network.")


def weights_sha256(tensors: dict[str, torch.Tensor]) -> str:
    """One hash over names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data if tensor.ndim else tensor.numpy().tobytes())
    return digest.hexdigest()


def _under(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _metadata(data: bytes) -> dict[str, Any]:
    length = int.from_bytes(data[:8], "little")
    meta: dict[str, Any] = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["fovea"])
    return meta
