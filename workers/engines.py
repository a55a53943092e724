"""Which engine is to serve a model version: each answers the whole test split and is timed, in a process of its own.

Engines of fp32 must answer as the trained network does. Those of less precision may differ in a few answers, but must
not lose by it (exact McNemar test on the truth), and must be clearly faster than the best of fp32.
"""

import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.comparison import mcnemar
from service.inference.choice import pace
from service.inference.programs import Backend, Outputs, Program, parse
from service.inference.score import probabilities, sigmoids
from workers import engine_run
from workers.training.export import TOLERANCE, certify

log = logging.getLogger("fovea.job")

AGREEMENT = 0.99  # of the answers, for less precision than fp32
ALPHA = 0.05  # worse with a p-value below it is significantly worse
GAIN = 0.9  # of the time of the best of fp32 is what less precision may take at most
TRIAL_SECONDS = 600


@dataclass(frozen=True)
class Reference:
    """What candidates are held against: the trained network's answers, and the truth."""

    logits: NDArray[np.float32]  # (N, K)
    labels: NDArray[Any]  # (N,) class numbers, or (N, K) zeros and ones

    @property
    def several(self) -> bool:
        return self.labels.ndim == 2

    def right(self, logits: NDArray[np.float32]) -> NDArray[np.bool_]:
        if self.several:
            result: NDArray[np.bool_] = ((logits > 0) == (self.labels > 0)).all(1)
            return result
        return np.asarray(logits.argmax(1) == self.labels)


@dataclass(frozen=True)
class Answered:
    """What an engine said of the pictures, how fast, and how much it depends on what a picture is batched with."""

    outputs: Outputs
    milliseconds: dict[str, float]  # by batch size
    alone: NDArray[np.float32]  # (n, K) logits of a sample, each picture by itself
    together: NDArray[np.float32]  # and in one batch; of a foreign program also in the largest that serving makes


class TrialFailed(Exception):
    """The engine's process did not come to its end; the message is for people."""


def here(program: Program, outputs: Outputs, packed: NDArray[np.uint8], rows: NDArray[np.int64]) -> Answered:
    """Of a program of this process whose outputs are known."""
    sample = engine_run.sample_of(packed, rows)
    alone = np.concatenate([program.outputs(sample[k : k + 1]).logits for k in range(len(sample))])
    return Answered(outputs, engine_run.milliseconds(program, sample), alone, program.outputs(sample).logits)


def elsewhere(
    program: Path,
    backend: Backend,
    pixels: Path,
    rows: Sequence[int],
    threads: int,
    *,
    foreign: engine_run.Foreign | None = None,
) -> Answered:
    """Of a program in a process of its own, about the rows of an .npy of (N, S, S, 3) uint8. Raises TrialFailed."""
    with tempfile.TemporaryDirectory() as folder:
        answers = Path(folder) / "answers.npz"
        order = {
            "program": str(program),
            "backend": str(backend),
            "pixels": str(pixels),
            "rows": [int(row) for row in rows],
            "threads": threads,
            "answers": str(answers),
            "foreign": None if foreign is None else asdict(foreign),
        }
        told = _run(order)
        found = engine_run.answers_of(answers)
    outputs = Outputs(found["logits"], found.get("strangeness"), found.get("maps"))
    return Answered(outputs, told["ms"], found["alone"], found["together"])


def _run(order: dict[str, Any]) -> Any:
    try:
        done = subprocess.run(
            [sys.executable, "-m", "workers.engine_run"],
            input=json.dumps(order) + "\n",
            env={"PATH": "", "OPENBLAS_NUM_THREADS": "1"},
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            timeout=TRIAL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TrialFailed(f"it took longer than {TRIAL_SECONDS} seconds") from error
    if done.returncode != 0:
        log.warning("%s: %s", order["backend"], done.stderr.strip()[-2000:])
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise TrialFailed(last[0][:300])
    return json.loads(done.stdout.splitlines()[-1])


# --- the certificate -------------------------------------------------------------------------------------------------


def row_of(backend: Backend, found: Answered, reference: Reference, test: slice) -> dict[str, Any]:
    """What the certificate says of one candidate, of whose outputs `test` are those of the test split."""
    logits = found.outputs.logits[test]
    compared = certify(reference.logits, logits, several=reference.several)
    chances = sigmoids if reference.several else probabilities
    apart = float(np.abs(chances(found.alone, 1.0) - chances(found.together, 1.0)).max())
    before, after = reference.right(reference.logits), reference.right(logits)
    p_worse = mcnemar(int((before & ~after).sum()), int((after & ~before).sum()))["p_worse"]
    facts = {
        "engine": str(backend),
        "ms": found.milliseconds,
        "top1_equal": compared["top1_equal"],
        "max_probability_difference": compared["max_probability_difference"],
        "batch_difference": apart,
        "p_worse": p_worse,
    }
    why = _objection(backend, facts, compared, bool(np.isfinite(logits).all()))
    return {**facts, "passed": why is None, "why": why}


def failed_row(backend: Backend, why: str) -> dict[str, Any]:
    nothing = dict.fromkeys(("top1_equal", "max_probability_difference", "batch_difference", "p_worse"))
    return {"engine": str(backend), "ms": {}, **nothing, "passed": False, "why": why}


def _objection(backend: Backend, facts: dict[str, Any], compared: dict[str, Any], finite: bool) -> str | None:
    agreement = compared["top1_equal"] / max(compared["n"], 1)
    if not finite:
        return "some answers are no numbers"
    if not facts["batch_difference"] <= TOLERANCE:
        return f"an answer depends on its batch, by {facts['batch_difference']:.1e}"
    if backend.precision == "int8":
        return None  # what it may lose is said by who asked for it: see workers.quantise
    if backend.exact:
        return None if compared["passed"] else "it does not answer as the trained network does"
    if agreement < AGREEMENT:
        return f"{agreement:.1%} of the answers are the trained network's; {AGREEMENT:.0%} must be"
    if facts["p_worse"] <= ALPHA:
        return f"it is significantly worse on the test split (p = {facts['p_worse']:.2g})"
    return None


def certificate(rows: list[dict[str, Any]], n: int, threads: int, note: str | None = None) -> dict[str, Any]:
    """Chooses among the candidates. `note` says why others were not tried."""
    passed = sorted((row for row in rows if row["passed"]), key=lambda row: pace(row["ms"]))
    exact = [row for row in passed if parse(row["engine"]).exact]
    fast = [row for row in passed if row not in exact and (not exact or pace(row["ms"]) <= GAIN * pace(exact[0]["ms"]))]
    chosen = (fast or exact or rows)[0]
    return {
        "engine": chosen["engine"],
        "n": n,
        **{key: chosen[key] for key in ("top1_equal", "max_probability_difference", "passed")},
        "tolerance": TOLERANCE,
        "agreement": AGREEMENT,
        "reason": _reason(chosen, rows, note),
        "threads": threads,
        "candidates": rows,
    }


def _reason(chosen: dict[str, Any], rows: list[dict[str, Any]], note: str | None) -> str:
    if len(rows) == 1:
        return note or "no other engine could be tried"
    others = [row for row in rows if row["ms"] and row is not chosen]
    spread = "; ".join(f"{row['engine']} {shown(row['ms'])}" for row in others)
    return f"the fastest that may be: {shown(chosen['ms'])}, against {spread}"


def shown(milliseconds: dict[str, float]) -> str:
    """`1 picture in 0.3 ms, 8 in 1.1 ms, 64 in 7.2 ms`."""
    (_, one), *larger = milliseconds.items()
    return ", ".join([f"1 picture in {one:.3g} ms", *(f"{size} in {value:.3g} ms" for size, value in larger)])
