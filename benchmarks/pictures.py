"""Picture sets made by code, for benchmarks to run anywhere."""

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image


def write_zip(target: Path, count: int, side: int, classes: int, kind: str = "png") -> None:
    """`count` pictures of smooth noise, tinted by class, one folder per class."""
    random = np.random.default_rng(0)
    with zipfile.ZipFile(target, "w") as archive:
        for number in range(count):
            label = number % classes
            coarse = random.integers(0, 200, (8, 8, 3), dtype=np.uint8)
            coarse[..., label % 3] = np.minimum(coarse[..., label % 3] + 20 + 10 * (label // 3), 255)
            picture = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
            buffer = io.BytesIO()
            picture.save(buffer, kind)
            archive.writestr(f"class{label}/{number:06}.{kind}", buffer.getvalue())
