"""The decisions of a run, as pure functions: how many steps next, what is better, when to stop."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence

TARGET_SECONDS = 0.3
"""Target duration of a compiled call: long enough to hide its overhead, and what several processes wait for each other
between two calls; short enough for the progress bar to move and for signals to be answered."""

FIRST_STEPS = 8
"""Steps of the first call: enough to measure, too few to keep anyone waiting."""

MAX_STEPS_PER_CALL = 1000

MAX_SECONDS_UNSAVED = 600.0
"""Default time after which a checkpoint is saved inside an epoch."""

MAX_SAVING_SHARE = 0.02
"""Default share of a run's time that checkpoints may take."""

LOWER_IS_BETTER = ("loss", "error", "mae", "mse", "rmse", "mape", "msle", "perplexity", "entropy", "divergence")
HIGHER_IS_BETTER = ("accuracy", "acc", "auc", "precision", "recall", "f1", "iou", "r2", "similarity")


def steps_next(remaining: int | None, seconds_per_step: float | None, fixed: int | None) -> int:
    """Number of steps of the next compiled call.

    Args:
        remaining: Steps until the next event, such as the end of the epoch; `None` if unknown.
        seconds_per_step: Duration of a step in the last call; `None` before it is measured.
        fixed: The setting `steps_per_call`; `None` fills `TARGET_SECONDS`.

    Returns:
        At least 1, and no more than `remaining`.
    """
    if fixed is not None:
        steps = fixed
    elif seconds_per_step is None:
        steps = FIRST_STEPS
    else:
        steps = min(max(1, int(TARGET_SECONDS / max(seconds_per_step, 1e-9))), MAX_STEPS_PER_CALL)
    return steps if remaining is None else min(steps, remaining)


def steps_to_event(step: int, left: int | None, most: int | None, every: Sequence[int | None]) -> int | None:
    """Number of train steps until the next event, such as a validation.

    Args:
        step: Train steps done.
        left: Batches left in the epoch; `None` if unknown.
        most: Train steps after which the run ends; `None` for no limit.
        every: Periods of events, in train steps; `None` for events that never happen.

    Returns:
        At least 1 before the end of the epoch and the limit; `None` if no event is known.
    """
    distances = [left, None if most is None else most - step, *(None if n is None else n - step % n for n in every)]
    return min((distance for distance in distances if distance is not None), default=None)


def expected_epochs(limit: int | None, most_steps: int | None, steps: int | None) -> int:
    """Largest number of epochs that a run may have, for callbacks and the progress bar.

    Args:
        limit: Maximum number of epochs; `None` if `most_steps` alone limits the run.
        most_steps: Maximum number of train steps; `None` for no limit.
        steps: Steps per epoch, at least 1; `None` if unknown.
    """
    return limit if limit is not None else -(-(most_steps or 1) // (steps or 1))


def finished(stop_reason: str) -> str:
    """Returns a sentence that a run is finished, and how it would train longer if a setting ended it."""
    name = stop_reason.partition("=")[0] if stop_reason.startswith("max_") else ""
    name = "patience" if " got no better for " in stop_reason else name
    if " reached stop_at=" in stop_reason:
        return f"The run is finished: {stop_reason}. To train longer, resume it with another --runner.stopping.stop_at."
    advice = f" To train longer, resume it with a higher {name} (--runner.{name})." if name else ""
    return f"The run is finished: {stop_reason}.{advice}"


def is_multiple(number: int, every: int | None) -> bool:
    """Whether a number is a multiple of `every`; false for `None`."""
    return every is not None and number % every == 0


def can_afford(spent: float, cost: float, elapsed: float) -> bool:
    """Whether one more checkpoint keeps saving within `MAX_SAVING_SHARE` of the time.

    Args:
        spent: Seconds spent on checkpoints so far.
        cost: Seconds that the last checkpoint took, as an estimate of the next; see `first_cost` before the first.
        elapsed: Seconds of the run so far.
    """
    return cost == 0 or spent + cost <= MAX_SAVING_SHARE * elapsed


def first_cost(state_bytes: int) -> float:
    """Seconds that the first checkpoint is estimated to take: 0 for a small one, which is saved at once."""
    return state_bytes / 1e9 if state_bytes > 1e8 else 0.0  # a digest is computed at about this rate


@dataclasses.dataclass(frozen=True)
class Every:
    """A period in epochs or train steps.

    Args:
        count: Its length.
        unit: `"epoch"` or `"step"`.
    """

    count: int
    unit: str

    @property
    def steps(self) -> int | None:
        """The period in train steps; `None` for a period in epochs."""
        return self.count if self.unit == "step" else None

    @property
    def epochs(self) -> int | None:
        """The period in epochs; `None` for a period in train steps."""
        return self.count if self.unit == "epoch" else None


def parse_every(given: int | str) -> Every:
    """Parses a period: `2` or `"2 epochs"`, or `"500 steps"`.

    Raises:
        ValueError: The value has another form.
    """
    found = re.fullmatch(r"\s*(\d+)\s*(epoch|step)?s?\s*", str(given)) if not isinstance(given, bool) else None
    if found is None or int(found[1]) < 1:
        raise ValueError(f"Received {given!r}: expected a number of epochs, such as 2 or '2 epochs', or '500 steps'.")
    return Every(int(found[1]), found[2] or "epoch")


def infer_mode(name: str) -> str:
    """Infers from the name of a value whether lower (`"min"`) or higher (`"max"`) is better.

    Raises:
        ValueError: The name contains no known word, or words of both directions.
    """
    parts = [part for part in name.split("/") if not part.isdigit()]  # `val/f1_score/0` is the score of a class
    words = parts[-1].lower().replace("-", "_").split("_")
    lower = any(word in words for word in LOWER_IS_BETTER)
    higher = any(word in words for word in HIGHER_IS_BETTER)
    if lower == higher:
        raise ValueError(
            f"The name {name!r} does not show whether lower or higher is better: give mode='min' or mode='max'."
        )
    return "min" if lower else "max"


@dataclasses.dataclass(frozen=True)
class Patience:
    """State of early stopping, immutable.

    Args:
        mode: `"min"` or `"max"`.
        best: Best monitored value so far; `None` before the first.
        waited: Epochs since the last improvement of at least `min_delta`.
        counted: The value of that improvement; `None` for the best value.
    """

    mode: str
    best: float | None = None
    waited: int = 0
    counted: float | None = None

    def after(self, value: float, min_delta: float = 0.0) -> Patience:
        """Returns the state after one more epoch, whose value improves if it is better by more than `min_delta`.

        NaN never improves. A value that is better by less may still be the best.
        """
        best = value if is_better(value, self.best, self.mode) else self.best
        counted = self.best if self.counted is None else self.counted
        least = value + min_delta if self.mode == "min" else value - min_delta
        if is_better(least, counted, self.mode):
            return Patience(self.mode, best, 0, None if best == value else value)
        return Patience(self.mode, best, self.waited + 1, None if counted == best else counted)

    def exhausted(self, patience: int | None) -> bool:
        """Whether the value did not improve for `patience` epochs; false for `None`."""
        return patience is not None and self.waited >= max(patience, 1)

    def reached(self, stop_at: float | None) -> bool:
        """Whether the best value is at least as good as `stop_at`; false for `None`."""
        return stop_at is not None and self.best is not None and not is_better(stop_at, self.best, self.mode)


def is_better(value: float, best: float | None, mode: str) -> bool:
    """Whether a value is strictly better than the best so far."""
    if math.isnan(value):
        return False
    if best is None:
        return True
    return value < best if mode == "min" else value > best
