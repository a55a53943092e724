"""The files of a bundle: the network as ONNX, a card for people and one for programs, the service's own code for
pictures and answers, golden pictures with their answers, and a script that checks it all.

The same model version gives the same bytes. It knows no database and no HTTP.
"""

import hashlib
import inspect
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from service import images
from service.inference import conformal, score

Files = dict[str, bytes]

NOISE_PICTURES = 2
OF_IMAGES = "from service.errors import InvalidValue, ServiceError, UnsupportedMediaType\n"
ALONE = '''

class ServiceError(ValueError):
    """Why a picture was refused."""

    def __init__(self, code: str, detail: str, hint: str = "") -> None:
        super().__init__(f"{code}: {detail} {hint}")


InvalidValue = UnsupportedMediaType = ServiceError

'''


@dataclass(frozen=True)
class Golden:
    """A picture file and what the service answers."""

    name: str
    data: bytes
    labels: list[str]
    probabilities: dict[str, float]
    strangeness: float | None


def archive(model: bytes, card: dict[str, Any], goldens: list[Golden]) -> bytes:
    """The zip. `card` has model, version and all that the model version's card has."""
    files = {
        "model.onnx": model,
        "card.json": _json(card),
        "CARD.md": _text(card).encode(),
        "labels.txt": "".join(f"{name}\n" for name in card["classes"]).encode(),
        "golden.json": _json([_golden(one) for one in goldens]),
        **{f"golden/{one.name}": one.data for one in goldens},
        **_code(),
    }
    files["manifest.json"] = _json({name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())})
    return _zip(files)


def noise(size: int) -> list[tuple[str, bytes]]:
    """Pictures of nothing, so that a bundle has golden ones when those of its dataset are gone."""
    random = np.random.default_rng(0)
    found = []
    for number in range(NOISE_PICTURES):
        buffer = io.BytesIO()
        pixels = random.integers(0, 256, (size + number, 2 * size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(buffer, "png")
        found.append((f"noise-{number}.png", buffer.getvalue()))
    return found


def _code() -> Files:
    """The service's decoder and arithmetic as they are; of ours, the decoder needs only the names of its errors."""
    decoder = inspect.getsource(images)
    assert decoder.count(OF_IMAGES) == 1
    return {
        "pictures.py": decoder.replace(OF_IMAGES, ALONE).encode(),
        "score.py": inspect.getsource(score).encode(),
        "conformal.py": inspect.getsource(conformal).encode(),
        "verify.py": Path(__file__).with_name("verify.py").read_bytes(),
    }


def _golden(one: Golden) -> dict[str, Any]:
    answer = {"labels": one.labels, "probabilities": one.probabilities, "strangeness": one.strangeness}
    return {"file": f"golden/{one.name}", **answer}


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True).encode()


def _text(card: dict[str, Any]) -> str:
    certificate, lineage = card["certificate"], card["lineage"]
    rows = {
        "classes": ", ".join(card["classes"]),
        "task": card["task"],
        "metrics on the test split": ", ".join(f"{name} {value:.4g}" for name, value in card["metrics"].items()),
        "dataset": f"{card['dataset']}, digest {lineage['dataset']['digest']}",
        "network": json.dumps(lineage["spec"]["network"]),
        "parameters": f"{card['parameters']:,}",
        "weights (SHA-256)": card["weights_sha256"],
        "trained": f"{lineage['trained_at']}, seed {lineage['seed']}, job {lineage['job']}",
        "served by": f"{certificate['engine']}" + (f": {certificate['reason']}" if "reason" in certificate else ""),
        "certificate": f"{certificate['top1_equal']} of {certificate['n']} answers equal to the trained network's, "
        f"probabilities within {certificate['max_probability_difference']:.1e}",
    }
    squash = "sigmoid" if score.several(card) else "softmax"
    table = "".join(f"| {name} | {value.replace('|', '&#124;')} |\n" for name, value in rows.items())
    return f"""# {card["model"]}, version {card["version"]}

| | |
|---|---|
{table}
## How to use it

`python verify.py` checks the bundle; `python verify.py photo.jpg` classifies. Both need onnxruntime, numpy and pillow.

`model.onnx` takes `images`: uint8, (N, 3, {card["image_size"]}, {card["image_size"]}), RGB, 0 to 255; normalisation is
inside. It gives `logits` (N, {len(card["classes"])}), in the order of `labels.txt`, and `strangeness` (N,).
A picture becomes pixels by `pictures.py`: upright by its EXIF orientation, to RGB by the table at its head, squashed to
the square by Pillow's bilinear filter. Probabilities are the {squash} of the logits over the temperature
{card["temperature"]:.6g} (`score.py`); `conformal.py` turns strangeness into p-values and probabilities into prediction
sets, with the numbers of `card.json`.
"""


def _zip(files: Files) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as target:
        for name, data in sorted(files.items()):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            target.writestr(entry, data)
    return buffer.getvalue()
