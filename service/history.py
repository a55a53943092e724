"""What the parts of finished jobs took here, over what a plain formula says of them: how the next ones are foretold.

A ratio is kept for this very network at this size, for the network at any, and for all networks; what is known of the
most special of them is taken. Little is known of a network by its first jobs, so the spread of a guess stays around
their median and narrows with each.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from service import measurements
from service.settings import Settings

KEPT = 50  # ratios of each kind, newest last
ENOUGH = 8  # of them below which the spread is a guess
POINTS = (np.arange(9) + 0.5) / 9  # of a distribution that is told by nine equally likely values


@dataclass(frozen=True)
class Part:
    name: str
    low: float  # what the ratio is guessed to be: in one job of twenty less,
    middle: float
    high: float  # and in one more

    def on(self, settings: Settings) -> "Part":
        """The same where a graphics card trains: of which a processor's jobs say nothing."""
        return replace(self, name=f"card_{self.name}") if settings.on_gpu else self


START = Part("start", 0.4, 1.0, 2.5)  # until the first step
PACE = Part("pace", 0.4, 1.0, 2.5)  # of training
END = Part("end", 0.5, 0.9, 1.3)  # after the last step, where engines are measured
QUICK_END = Part("quick_end", 0.5, 0.9, 1.3)  # and where the budget leaves no time for that
SHARE = Part("share", 0.2, 0.7, 1.0)  # of the planned steps, where early stopping may end a run
GOAL = Part("goal", 0.1, 0.5, 1.0)  # and where a goal may
BUDGET = Part("budget", 0.85, 0.95, 1.05)  # of a job that would have taken longer
MEMORY = Part("memory", 0.6, 1.0, 1.5)


def median(session: Session, part: Part, spec: dict[str, Any] | None = None) -> float:
    """Of the ratios of this part, for a resolved spec; of all networks without one."""
    return float(np.median(ratios(session, part, spec)))


def ratios(session: Session, part: Part, spec: dict[str, Any] | None = None) -> NDArray[np.float64]:
    """(9,) equally likely values of truth over formula, rising."""
    guess = np.interp(POINTS, (0.05, 0.5, 0.95), (part.low, part.middle, part.high))
    for key in _keys(part, spec):
        known = _kept(session, key)
        if len(known) >= ENOUGH:
            return np.quantile(known, POINTS)
        if known:
            spread: NDArray[np.float64] = (guess / part.middle) ** (1 / np.sqrt(1 + len(known)))
            return float(np.median(known)) * spread
    return guess


def is_known(session: Session, part: Part, spec: dict[str, Any] | None = None) -> bool:
    """Has any job taught something of it?"""
    return any(_kept(session, key) for key in _keys(part, spec))


def learn(session: Session, part: Part, spec: dict[str, Any], ratio: float) -> None:
    """Takes in what a finished job took of this part, over the formula."""
    for key in _keys(part, spec):
        measurements.keep(session, key, {"ratios": [*_kept(session, key), ratio][-KEPT:]})


def _kept(session: Session, key: str) -> list[float]:
    found = measurements.known(session, key)
    return [] if found is None else list(found["ratios"])


def _keys(part: Part, spec: dict[str, Any] | None) -> list[str]:
    """From the most special to the most general."""
    everything = f"history:{part.name}"
    if spec is None:
        return [everything]
    network = spec["network"]
    exact = hashlib.sha256(json.dumps(network, sort_keys=True).encode()).hexdigest()[:16]
    name = network if isinstance(network, str) else "layers"
    return [f"{everything}:{exact}:{spec['image_size']}", f"{everything}:{name}", everything]
