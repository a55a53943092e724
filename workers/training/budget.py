"""How many steps a run has, given the seconds it may take: the schedule is compressed to them while it runs.

The plan is made anew as the speed becomes known, and each change is kept with its step: replayed, a run with a budget
ends with the same weights although the clock no longer decides.
"""

LEAST_CHANGE = 0.01  # of the steps that are left; smaller ones would only fill the record


def total_steps(step: int, planned: int, wanted: int, left: float, step_seconds: float) -> int:
    """Steps of the whole run: as many as fit, at most those wanted; `planned` when that is nearly the same.

    `left` are the seconds for steps after the present one, `step_seconds` the mean of one, validation included.
    """
    total = min(step + max(int(left / step_seconds), 1), wanted)
    return planned if abs(total - planned) <= LEAST_CHANGE * (planned - step) else total
