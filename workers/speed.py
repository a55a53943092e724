"""How fast a training's steps are here, seen from outside: what a budget and the time left are reckoned with."""

import time

from workers.training.loop import Run, StepProgress

WRITE_SHARE = 0.02  # of the time, that checkpoints may take


class Speed:
    """Of the steps since the first progress: those before it are slow, for a process warms up in them.

    Checkpoints are left out, as one may take longer than all steps before it; their share is added instead.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._began: tuple[float, int] | None = None
        self._writing = 0.0

    @property
    def seen(self) -> float:
        """Seconds over which steps have been timed."""
        return 0.0 if self._began is None else max(time.monotonic() - self._began[0] - self._writing, 1e-9)

    def see(self, progress: StepProgress) -> None:
        if self._began is None:
            self._began = time.monotonic(), progress.step

    def wrote(self, seconds: float) -> None:
        """A checkpoint took so long."""
        if self._began is not None:
            self._writing += seconds

    def step_seconds(self, progress: StepProgress) -> float | None:
        """Mean seconds of a step that is to come, validation and checkpoints included; None before any was timed."""
        if self._began is None or progress.step == self._began[1]:
            return None
        first, seen = self._began[1], self.seen
        coming = self._run.work(progress.step, progress.steps, progress.steps)
        done = self._run.work(first, progress.step, progress.steps)
        writing = max(WRITE_SHARE, self._writing / (seen + self._writing))
        return seen / (progress.step - first) * coming / done * (1 + writing)
