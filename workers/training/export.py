"""From a trained network to a self-contained program: uint8 pixels in, answers out, and proof that they are the same.

Beside the logits a program gives the strangeness of each picture and, where the network ends in the mean over all
places and one linear layer, the class activation map of its first answer (Zhou et al. 2016). Both come from the
activations of the one forward pass.
"""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from service.inference.score import probabilities, sigmoids
from workers.training.augment import normalise
from workers.training.optim import head_of
from workers.training.strangeness import MOST_PICTURES, Strangeness, features, fit

MAX_BATCH = 1024
TOLERANCE = 1e-4
FIT_BATCH = 128


class Classifier(nn.Module):
    """(N, 3, S, S) uint8 RGB -> (N, K) float32 logits: normalisation is part of the program.

    `averaging` is the spec's test_time_augmentation: the logits are the mean over the picture and its mirror image
    ("flip"), or half those of the picture and a quarter those of it shifted by a 32nd of its side to either corner
    ("translate"; Jordan 2024, "94% on CIFAR-10 in 3.29 seconds"), or both.
    """

    def __init__(self, network: nn.Module, *, averaging: str | None = None) -> None:
        super().__init__()
        self.network = network
        self.flip = averaging in ("flip", "flip_translate")
        self.translate = averaging in ("translate", "flip_translate")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pixels = normalise(images)
        logits = self._shifted(pixels)
        return (logits + self._shifted(pixels.flip(3))) / 2 if self.flip else logits

    def _shifted(self, pixels: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(pixels)
        if not self.translate:
            return logits
        by = -(-pixels.shape[3] // 32)
        wide = F.pad(pixels, (by, by, by, by), mode="replicate")
        corners = self.network(wide[:, :, : -2 * by, : -2 * by]) + self.network(wide[:, :, 2 * by :, 2 * by :])
        mean: torch.Tensor = logits / 2 + corners / 4
        return mean


class Served(nn.Module):
    """(N, 3, S, S) uint8 RGB -> {"logits": (N, K), "strangeness": (N,), "features": (N, D), "maps": (N, h, w) or none}.

    Of the features an engine of less precision can compute strangeness outside: service.inference.onnx_program.
    """

    def __init__(self, classifier: Classifier, strangeness: Strangeness, image_size: int) -> None:
        super().__init__()
        self.classifier = classifier
        self.strangeness = strangeness
        self.places = _before_the_mean(Classifier(classifier.network), image_size)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        layer = head_of(self.classifier)
        logits, read, seen = watched(self.classifier, images, layer, self.places)
        known = features(read)
        found = {"logits": logits, "strangeness": self.strangeness(known), "features": known}
        if seen is not None and isinstance(layer, nn.Linear):
            found["maps"] = torch.einsum("nc,nchw->nhw", layer.weight[logits.argmax(1)], seen)
        return found


def watched(
    classifier: Classifier, images: torch.Tensor, layer: nn.Module, places: str | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """The logits, and of the picture as it is: what the class layer read, what the module named `places` answered."""
    read: list[torch.Tensor] = []
    seen: list[torch.Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        if not read:  # further views of the picture come after the class layer has read the first
            seen.append(output)

    hooks = [layer.register_forward_pre_hook(lambda _module, inputs: read.append(inputs[0]))]
    if places is not None:
        hooks.append(classifier.get_submodule(places).register_forward_hook(keep))
    try:
        logits = classifier(images)
    finally:
        for hook in hooks:
            hook.remove()
    return logits, read[0], seen[-1] if seen else None


def _before_the_mean(classifier: Classifier, image_size: int) -> str | None:
    """The module whose answer (N, C, h, w) has as its mean over all places what the class layer reads.

    Found by trying, whatever a network calls its parts; None when there is no such module, or but one place.
    """
    answers: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            answers[name] = output

        return hook

    hooks = [module.register_forward_hook(keep(name)) for name, module in classifier.named_modules() if name]
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (2, 3, image_size, image_size), generator=generator, dtype=torch.uint8)
    with torch.inference_mode():
        _, read, _ = watched(classifier, noise, head_of(classifier), None)
    for hook in hooks:
        hook.remove()
    return next((name for name, answer in reversed(answers.items()) if _is_mean(read, answer)), None)


def _is_mean(read: torch.Tensor, answer: torch.Tensor) -> bool:
    fits = read.ndim == 2 and answer.ndim == 4 and answer.shape[1] == read.shape[1] and answer.shape[2:].numel() > 1
    return fits and torch.allclose(answer.mean((2, 3)), read, rtol=1e-4, atol=1e-6)


def fitted(classifier: Classifier, packed: NDArray[np.uint8], rows: NDArray[np.int64], labels: NDArray[Any]) -> Served:
    """The classifier with a strangeness fitted on (at most 1000 of) the training pictures `packed[rows]`.

    `packed` is (M, S, S, 3) uint8 and `labels` (M,), on the CPU as the classifier is. Where a picture may have several
    labels they are (M, K), and its distance is that to the mean of all.
    """
    owners = labels if labels.ndim == 1 else np.zeros(len(labels), dtype=np.int64)
    classifier.eval()
    chosen = rows[np.random.default_rng(0).permutation(len(rows))[:MOST_PICTURES]]
    plain, layer, read = Classifier(classifier.network), head_of(classifier), []
    for start in range(0, len(chosen), FIT_BATCH):
        batch = torch.from_numpy(packed[chosen[start : start + FIT_BATCH]]).permute(0, 3, 1, 2).contiguous()
        with torch.inference_mode():
            read.append(features(watched(plain, batch, layer, None)[1]))
    return Served(classifier, fit(torch.cat(read), torch.from_numpy(owners[chosen])), packed.shape[1])


def export_program(module: nn.Module, image_size: int) -> bytes:
    """A Classifier or what is Served of it, as .pt2 bytes, for batches of 1 to 1024."""
    example = torch.zeros(2, 3, image_size, image_size, dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    program = torch.export.export(module.eval().cpu(), (example,), dynamic_shapes=({0: batch},))
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def certify(trained: NDArray[np.float32], served: NDArray[np.float32], *, several: bool = False) -> dict[str, Any]:
    """Compares (N, K) logits of the trained network and of the program: every answer, every probability.

    The answer is the first class; with `several` labels, on which side of one half each class lies, but for those that
    lie closer to it than the tolerance.
    """
    chances = sigmoids if several else probabilities
    difference = np.abs(chances(trained, 1.0) - chances(served, 1.0))
    worst = float(difference.max()) if difference.size else 0.0
    if several:
        close = np.abs(chances(trained, 1.0) - 0.5) <= TOLERANCE
        same = (((trained > 0) == (served > 0)) | close).all(1)
    else:
        same = trained.argmax(1) == served.argmax(1)
    equal = int(same.sum())
    passed = equal == len(trained) and bool(worst <= TOLERANCE)  # which no number that is none is
    return {
        "n": len(trained),
        "top1_equal": equal,
        "max_probability_difference": worst,
        "tolerance": TOLERANCE,
        "passed": passed,
    }
