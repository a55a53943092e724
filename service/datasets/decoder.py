"""The child process that decodes pictures: `python -m service.datasets.decoder`, fed and watched by `packing`.

First line of stdin: the work order; every further line: one job. One JSON line of stdout per job, in order. It knows no
database, no settings and no secret: its environment is empty, its memory, files and seconds per picture are limited by
itself before it reads the first byte of anybody's picture. Pixels go straight into the row of the cache file by pwrite
(a full disk is then an error, where a memory map would be a SIGBUS).
"""

import hashlib
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from service import images
from service.datasets import archive
from service.datasets.zip_format import Entry
from service.errors import ServiceError

MAX_OPEN_FILES = 32


def main() -> None:
    order = json.loads(sys.stdin.buffer.readline())
    cache = os.open(order["cache"], os.O_WRONLY) if order["cache"] else None
    with Path(order["archive"]).open("rb") as file:
        Image.init()  # loads every codec before the limits
        _limit(order["memory_bytes"])
        _say({"ready": True})
        for line in sys.stdin.buffer:
            _limit_seconds(order["timeout_seconds"])
            _say(_answer(json.loads(line), order, file, cache))


def _answer(job: dict[str, Any], order: dict[str, Any], file: BinaryIO, cache: int | None) -> dict[str, Any]:
    entry = Entry("", *job["entry"])
    try:
        data = archive.read(file, entry, order["max_bytes"])
        decoded = images.decode(data, order["size"], max_pixels=order["max_pixels"])
    except ServiceError as error:
        return {"row": job["row"], "error": error.as_dict()}
    except MemoryError:
        problem = {"code": "image_corrupt", "message": "The picture needs too much memory.", "hint": None}
        return {"row": job["row"], "error": problem}
    if cache is not None:
        _write(cache, decoded.pixels, order["data_offset"] + job["row"] * decoded.pixels.nbytes)
    return {"row": job["row"], "sha256": hashlib.sha256(data).hexdigest()} | _facts(decoded)


def _facts(decoded: images.Decoded) -> dict[str, Any]:
    size = f"{decoded.width}x{decoded.height}:".encode()
    return {
        "pixel_sha256": hashlib.sha256(size + decoded.pixels.data).hexdigest(),
        "width": decoded.width,
        "height": decoded.height,
        "grey": decoded.grey,
        "dhash": dhash(decoded.pixels),
        "format": decoded.format,
    }


def dhash(pixels: images.Pixels) -> str:
    """64 bits, as 16 hex digits: is each of 9 x 8 grey cells darker than its right neighbour?"""
    grey = Image.fromarray(pixels).convert("L").resize((9, 8), Image.Resampling.BOX)
    cells = np.frombuffer(grey.tobytes(), np.uint8).reshape(8, 9)
    return np.packbits(cells[:, :-1] < cells[:, 1:]).tobytes().hex()


def _write(cache: int, pixels: images.Pixels, offset: int) -> None:
    left = memoryview(pixels.tobytes())
    while left:
        written = os.pwrite(cache, left, offset)
        left, offset = left[written:], offset + written


def _say(answer: dict[str, Any]) -> None:
    os.write(sys.stdout.fileno(), json.dumps(answer).encode() + b"\n")


def _limit(memory_bytes: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    space = pages * resource.getpagesize() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (space, space))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_OPEN_FILES, MAX_OPEN_FILES))


def _limit_seconds(timeout: float) -> None:
    """Processor seconds for the next picture: an orphan stuck in a codec dies too, where no parent watches."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft = int(usage.ru_utime + usage.ru_stime + timeout) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


if __name__ == "__main__":
    main()
