"""The child process that runs one engine over pictures and times it: `python -m workers.engine_run`, order on stdin.

A process of its own, because the threads of two engines in one would be in each other's way, and because a model that
came from elsewhere may do anything to the engine that reads it: its environment is empty, and its memory, files and
seconds are limited by itself before it reads the first byte of the model. It knows no database and no secret.
"""

import json
import resource
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.inference.programs import TIMED, Outputs, Program, Stored, joined, load, parse

BATCH = 64
SAMPLE = 8  # pictures that are answered alone and together
SLOW_MS = 20.0  # for that many: of a network that takes longer no larger batch is timed
SECONDS, LEAST = 0.2, 3  # of timing, and runs of each
MAX_OPEN_FILES = 256


@dataclass(frozen=True)
class Foreign:
    """What a model from elsewhere is held to."""

    classes: int
    batch: int  # pictures in the largest that serving makes
    memory_bytes: int
    seconds: int  # of the processor


class Checked:
    """A program from elsewhere, whose outputs have the shapes of a Fovea model's; else the process ends, saying so."""

    def __init__(self, program: Program, classes: int) -> None:
        self._program = program
        self._classes = classes

    def outputs(self, pixels: NDArray[np.uint8]) -> Outputs:
        found = self._program.outputs(pixels)
        if (fault := shape_fault(found, len(pixels), self._classes, pixels.shape[1])) is not None:
            sys.exit(fault)
        return found


def shape_fault(found: Outputs, pictures: int, classes: int, side: int) -> str | None:
    """The first of the outputs that has not the shape of a Fovea model's for pictures of side x side pixels."""
    if found.logits.shape != (pictures, classes):
        return f"its logits are {found.logits.shape} and not {(pictures, classes)}"
    if found.strangeness is not None and found.strangeness.shape != (pictures,):
        return f"its strangeness is {found.strangeness.shape} and not {(pictures,)}"
    if found.maps is None:
        return None
    rows, *sides = found.maps.shape
    if rows != pictures or len(sides) != 2 or not all(1 <= one <= side for one in sides):
        return f"its maps are {found.maps.shape} and not {pictures} of sides from 1 to {side}"
    return None


def main() -> None:
    order = json.loads(sys.stdin.readline())
    foreign = Foreign(**order["foreign"]) if order["foreign"] else None
    program = _program(order, foreign)
    packed = np.load(order["pixels"], mmap_mode="r", allow_pickle=False)
    rows = np.array(order["rows"], dtype=np.int64)
    outputs = joined([program.outputs(packed[rows[at : at + BATCH]]) for at in range(0, len(rows), BATCH)])
    sample = sample_of(packed, rows)
    arrays: dict[str, Any] = {"logits": outputs.logits, "strangeness": outputs.strangeness, "maps": outputs.maps}
    arrays["alone"] = np.concatenate([program.outputs(sample[k : k + 1]).logits for k in range(len(sample))])
    arrays["together"] = program.outputs(sample).logits
    if foreign is not None:
        _add_full(arrays, program, packed[rows], foreign.batch)
    np.savez(order["answers"], **{name: array for name, array in arrays.items() if array is not None})
    print(json.dumps({"ms": milliseconds(program, sample)}))


def _program(order: dict[str, Any], foreign: Foreign | None) -> Program:
    backend = parse(order["backend"])
    if foreign is not None:
        _import(backend.name)  # its libraries are ours; the model is not
        limit(foreign.memory_bytes, foreign.seconds)
    program = load(Stored(Path(order["program"]).read_bytes(), backend), "cpu", order["threads"])
    return program if foreign is None else Checked(program, foreign.classes)


def _add_full(arrays: dict[str, Any], program: Program, pictures: NDArray[np.uint8], batch: int) -> None:
    """The pictures once more, in turn until they fill the largest batch: `together`, as before: `alone`."""
    places = np.arange(batch) % len(pictures)
    full = program.outputs(pictures[places]).logits
    arrays["alone"] = np.concatenate([arrays["alone"], arrays["logits"][places]])
    arrays["together"] = np.concatenate([arrays["together"], full])


def sample_of(packed: NDArray[np.uint8], rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """`SAMPLE` pictures, spread over the rows; some twice where there are few."""
    return np.ascontiguousarray(packed[rows[np.linspace(0, len(rows) - 1, SAMPLE).astype(int)]])


def milliseconds(program: Program, sample: NDArray[np.uint8]) -> dict[str, float]:
    """The median for each batch size of `TIMED`, as a client would wait for it; of a slow network none above `SAMPLE`.

    In turns, as requests come: an engine may prepare itself anew whenever the size changes.
    """
    program.outputs(sample)
    largest = SAMPLE if _milliseconds(program, sample) > SLOW_MS else max(TIMED)
    batches = {size: np.resize(sample, (size, *sample.shape[1:])) for size in TIMED if size <= largest}
    for size in batches.keys() - {SAMPLE}:
        program.outputs(batches[size])
    times: dict[int, list[float]] = {size: [] for size in batches}
    ending = time.perf_counter() + SECONDS
    while len(times[1]) < LEAST or time.perf_counter() < ending:
        for size, batch in batches.items():
            times[size].append(_milliseconds(program, batch))
    return {str(size): round(statistics.median(measured), 4) for size, measured in times.items()}


def _milliseconds(program: Program, batch: NDArray[np.uint8]) -> float:
    began = time.perf_counter()
    program.outputs(batch)
    return (time.perf_counter() - began) * 1000


def _import(name: str) -> None:
    __import__(name)


def limit(memory_bytes: int, seconds: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    space = pages * resource.getpagesize() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (space, space))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_OPEN_FILES, MAX_OPEN_FILES))


def answers_of(file: Any) -> dict[str, NDArray[Any]]:
    with np.load(file, allow_pickle=False) as found:
        return {name: found[name] for name in found.files}


if __name__ == "__main__":
    main()
