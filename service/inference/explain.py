"""Where a network saw its answer, as a picture."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def heat_map(activation: NDArray[np.float32], side: int) -> bytes:
    """(h, w) class activation map -> grey PNG of `side` x `side` pixels: white where most, black where nothing or
    against the class. It lies over the picture as the network saw it, squashed to a square."""
    positive = np.maximum(activation, 0)
    scaled = positive * (255 / max(float(positive.max()), 1e-12))
    picture = Image.fromarray(np.round(scaled).astype(np.uint8)).resize((side, side), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    picture.save(buffer, "png")
    return buffer.getvalue()
