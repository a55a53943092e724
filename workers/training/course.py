"""A plan and how it was changed on the way: each change holds from its step on.

A job that goes back to a checkpoint changes its plan from that checkpoint's step on, so a reproduction takes the same
course without going back: what came after the checkpoint before the change is no part of the run.
"""

from typing import Any


def changed(plan: dict[str, Any], step: int, change: dict[str, Any]) -> dict[str, Any]:
    """The plan with `change` in force from `step` on."""
    return plan | {"changes": [*plan.get("changes", ()), [step, change]]}


def planned(plan: dict[str, Any], name: str, otherwise: Any, step: int | None = None) -> Any:
    """What the plan says of `name` at a step, or at its end: the latest change that says something."""
    for since, change in reversed(plan.get("changes", ())):
        if name in change and (step is None or step >= since):
            return change[name]
    return plan.get(name, otherwise)
