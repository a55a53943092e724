"""Checks this bundle, or classifies pictures with it. Needs onnxruntime, numpy and pillow, nothing else.

    python verify.py                  are all files whole, and are the golden pictures answered as they were?
    python verify.py a.jpg b.png      what is on these?
    python verify.py --help           this text

The exit code is 1 when something is not as it should be. `pictures.py`, `score.py` and `conformal.py` beside this file
are the very code with which the service reads pictures and turns the network's outputs into answers.
"""

import hashlib
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

HERE = Path(__file__).parent
TOLERANCE = 1e-4  # of a probability
STRANGENESS = 1e-3  # of itself: distances between features add up what probabilities level out
MAX_PIXELS = 10**9


def main(names: list[str]) -> int:
    """The exit code."""
    if {"-h", "--help"} & set(names):
        print(__doc__)
        return 0
    card = json.loads((HERE / "card.json").read_text("utf-8"))
    if names:
        return classify(Model(card), names)
    faults = damaged()
    if not faults:
        faults = different(Model(card))
    for fault in faults:
        print(fault)
    print("the bundle is NOT as it was made" if faults else f"{card['model']}:{card['version']} is as it was made")
    return 1 if faults else 0


def classify(model: "Model", names: list[str]) -> int:
    """A line of JSON for each picture; 1 when a file is not there or not a picture, which is said on standard error."""
    code = 0
    for name in names:
        try:
            print(json.dumps({"file": name, **model.answer(Path(name).read_bytes())}, ensure_ascii=False))
        except (OSError, ValueError) as error:  # the decoder's own errors are ValueErrors
            print(f"{name}: {error}", file=sys.stderr)
            code = 1
    return code


def damaged() -> list[str]:
    """Files whose SHA-256 is not that of the manifest."""
    manifest = json.loads((HERE / "manifest.json").read_text("utf-8"))
    found = []
    for name, sha256 in manifest.items():
        path = HERE / name
        if not path.is_file():
            found.append(f"{name} is missing")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            found.append(f"{name} was changed")
    return found


def different(model: "Model") -> list[str]:
    """Golden pictures that are answered otherwise than by the service."""
    found = []
    for golden in json.loads((HERE / "golden.json").read_text("utf-8")):
        answer = model.answer((HERE / golden["file"]).read_bytes())
        gap = float(
            np.max([abs(answer["probabilities"][name] - value) for name, value in golden["probabilities"].items()])
        )
        if not gap <= TOLERANCE:  # nor is one that is no number
            found.append(f"{golden['file']}: a probability differs by {gap:.6f}")
        elif not math.isclose(answer["strangeness"] or 0, golden["strangeness"] or 0, rel_tol=STRANGENESS):
            found.append(
                f"{golden['file']}: its strangeness is {answer['strangeness']} and not {golden['strangeness']}"
            )
        elif not may_be(golden["labels"], answer["probabilities"], model.card):
            found.append(f"{golden['file']}: {answer['labels']} and not {golden['labels']}")
    return found


def may_be(labels: list[str], chances: dict[str, float], card: dict[str, Any]) -> bool:
    """Could these be the labels, if each probability may be off by the tolerance? Of a tie either is right."""
    if card.get("thresholds") is None:
        return len(labels) == 1 and max(chances.values()) - chances.get(labels[0], -1) <= 2 * TOLERANCE
    limits = dict(zip(card["classes"], card["thresholds"], strict=True))
    sure = {name for name, limit in limits.items() if chances[name] >= limit + TOLERANCE}
    possible = {name for name, limit in limits.items() if chances[name] >= limit - TOLERANCE}
    return sure <= set(labels) <= possible


class Model:
    """The network in onnxruntime, on the CPU, with what the card says of its answers."""

    def __init__(self, card: dict[str, Any]) -> None:
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.card = card
        self._session = onnxruntime.InferenceSession(HERE / "model.onnx", options, providers=["CPUExecutionProvider"])
        self._names = [output.name for output in self._session.get_outputs()]

    def answer(self, data: bytes) -> dict[str, Any]:
        """Labels and probabilities of an encoded picture, and how often one of the training's kind looks as strange."""
        import conformal
        import pictures
        import score

        card = self.card
        pixels = pictures.decode(data, card["image_size"], max_pixels=MAX_PIXELS).pixels  # (S, S, 3) uint8
        batch = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])  # (1, 3, S, S)
        outputs = dict(zip(self._names, self._session.run(None, {"images": batch}), strict=True))
        chances = score.chances(outputs["logits"], card)[0]
        ranks = score.ranked(chances, card["classes"], len(chances))
        found: dict[str, Any] = {
            "labels": score.labels(chances, card),
            "probabilities": {row["label"]: row["probability"] for row in ranks},
            "strangeness": None,
            "p_value": None,
        }
        if "strangeness" in outputs and "strangeness" in card:
            seen = outputs["strangeness"].astype(np.float64)
            found["strangeness"] = float(seen[0])
            found["p_value"] = round(float(conformal.p_values(card["strangeness"], seen)[0]), 6)
        return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
