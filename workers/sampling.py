"""Which values the next trial of a search tries, and when a trial is not worth finishing. Optuna, by ask and tell.

The tree-structured Parzen estimator (Bergstra et al. 2011) proposes; a trial is pruned when its best value so far is
below the median of the others at the same epoch (Golovin et al. 2017, "median stopping rule").

Nothing is kept between two calls: a study is built from the history given, and its sampler's seed from (seed, number).
So what trial k tries is a function of the seed, k and the results before it, whatever died meanwhile. Knows nothing of
jobs or tables.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from workers.training.randomness import derive

optuna.logging.set_verbosity(optuna.logging.ERROR)

RANDOM_TRIALS = 10  # at most so many at random before the estimator is trusted; a third of a short search
JUDGED_AFTER = 4  # trials that the median is taken of, at least
UNJUDGED_SHARE = 0.2  # of a trial's epochs, at its beginning: a warm-up tells little

Space = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Tried:
    """A trial as far as it is known. `values` are the metric's, by epoch; `value` the one that counts."""

    parameters: dict[str, Any]
    values: dict[int, float]
    value: float | None = None
    outcome: Literal["complete", "pruned", "failed"] = "complete"


@dataclass(frozen=True)
class Sampling:
    space: Space
    seed: int
    trials: int
    maximise: bool

    def propose(self, number: int, before: list[Tried]) -> dict[str, Any]:
        """The values that trial `number` (from 1) tries, by pointer."""
        study = self._study(number, before)
        asked = study.ask(_distributions(self.space)).params
        return {pointer: _value(self.space[pointer], drawn) for pointer, drawn in sorted(asked.items())}

    def judge(self, before: list[Tried]) -> Callable[[Tried, int], bool]:
        """Says whether a trial, with its values up to now and its number of epochs, is poor enough to be given up."""
        study = self._study(0, before)

        def is_hopeless(trial: Tried, epochs: int) -> bool:
            if max(trial.values, default=0) <= max(1, UNJUDGED_SHARE * epochs):
                return False
            return study.pruner.prune(study, self._frozen(trial, optuna.trial.TrialState.RUNNING))

        return is_hopeless

    def _study(self, number: int, before: list[Tried]) -> optuna.Study:
        sampler = optuna.samplers.TPESampler(
            seed=derive(self.seed, "trial", number) % 2**32,
            n_startup_trials=min(RANDOM_TRIALS, max(self.trials // 3, 2)),
        )
        study = optuna.create_study(
            sampler=sampler,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=JUDGED_AFTER),
            direction="maximize" if self.maximise else "minimize",
        )
        states = optuna.trial.TrialState
        state_of = {"complete": states.COMPLETE, "pruned": states.PRUNED, "failed": states.FAIL}
        study.add_trials(self._frozen(trial, state_of[trial.outcome]) for trial in before)
        return study

    def _frozen(self, trial: Tried, state: optuna.trial.TrialState) -> optuna.trial.FrozenTrial:
        return optuna.trial.create_trial(
            state=state,
            value=trial.value if trial.outcome == "complete" else None,
            params={pointer: _drawn(self.space[pointer], value) for pointer, value in trial.parameters.items()},
            distributions=_distributions(self.space),
            intermediate_values=trial.values,
        )


def _distributions(space: Space) -> dict[str, BaseDistribution]:
    """In the order of the pointers, so that the order in which a client wrote them does not matter."""
    return {pointer: _distribution(space[pointer]) for pointer in sorted(space)}


def _distribution(dimension: dict[str, Any]) -> BaseDistribution:
    if dimension.get("choice") is not None:
        return CategoricalDistribution(range(len(dimension["choice"])))  # Optuna knows a choice by its place
    if dimension.get("int") is not None:
        return IntDistribution(*dimension["int"])
    low, high = dimension.get("uniform") or dimension["log_uniform"]
    return FloatDistribution(low, high, log=dimension.get("uniform") is None)


def _value(dimension: dict[str, Any], drawn: Any) -> Any:
    return drawn if dimension.get("choice") is None else dimension["choice"][drawn]


def _drawn(dimension: dict[str, Any], value: Any) -> Any:
    if dimension.get("choice") is None:
        return value
    return [json.dumps(one, sort_keys=True) for one in dimension["choice"]].index(json.dumps(value, sort_keys=True))
