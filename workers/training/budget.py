"""How many steps a run has, given the seconds it may take: the schedule is compressed to them while it runs.

The plan is made anew as the speed becomes known, and each change is kept with its step: replayed, a run with a budget
ends with the same weights although the clock no longer decides.
"""

from dataclasses import dataclass

EXPORT_SECONDS = 3.0  # export, certificate and registration, beside the passes over the pictures
ENGINE_SECONDS = 5.0  # to write ONNX, start three engines and time them, beside their passes over the pictures
ENGINES_FROM = 30.0  # seconds of a budget below which torch serves, unmeasured
FORWARD_SHARE = 0.4  # of a training step, for a forward pass of the same batch
LEAST_CHANGE = 0.01  # of the steps that are left; smaller ones would only fill the record


def may_measure_engines(budget: dict[str, float] | None) -> bool:
    """Is a job's budget, if it has one, long enough for a choice of the engine?"""
    return budget is None or budget["seconds"] >= ENGINES_FROM


@dataclass(frozen=True)
class Budget:
    seconds: float  # for the whole job
    batch_size: int
    pictures_at_end: int  # forward passes over pictures once training is over
    seconds_at_end: float = EXPORT_SECONDS  # beside them

    def total(self, step: int, planned: int, wanted: int, used: float, step_seconds: float) -> int:
        """Steps of the whole run: as many as fit, at most those wanted; `planned` when that is nearly the same.

        `used` are the job's seconds so far, `step_seconds` the mean seconds of a step, validation included.
        """
        ending = self.seconds_at_end + self.pictures_at_end / self.batch_size * step_seconds * FORWARD_SHARE
        fitting = step + max(int((self.seconds - used - ending) / step_seconds), 1)
        total = min(fitting, wanted)
        return planned if abs(total - planned) <= LEAST_CHANGE * (planned - step) else total
