"""The decisions of a run, as pure functions: how many steps next, what is better, when to stop."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence

TARGET_SECONDS = 0.075
"""Time one compiled call should take: long enough that its overhead disappears, short enough that
the progress bar moves and a signal is answered."""

MAX_STEPS_PER_CALL = 1000

MOST_SECONDS_UNSAVED = 600.0
"""Time after which a run is saved inside an epoch too, unless told otherwise."""

SHARE_OF_SAVING = 0.02
"""Part of a run's time that checkpoints may take, unless told otherwise."""

LOWER_IS_BETTER = ("loss", "error", "mae", "mse", "rmse", "mape", "msle", "perplexity", "entropy", "divergence")
HIGHER_IS_BETTER = ("accuracy", "acc", "auc", "precision", "recall", "f1", "iou", "r2", "similarity")


def steps_next(remaining: int | None, seconds_per_step: float | None, fixed: int | None) -> int:
    """How many steps the next compiled call runs.

    Args:
        remaining: Steps until the next event, such as the end of the epoch; `None` if not known.
        seconds_per_step: Time that a step took in the last call; `None` before it is known.
        fixed: Steps per call that were asked for; `None` to fill `TARGET_SECONDS`.

    Returns:
        At least 1, and no more than `remaining`.
    """
    if fixed is not None:
        steps = fixed
    elif seconds_per_step is None:
        steps = 8  # enough to measure, too few to keep anyone waiting
    else:
        steps = int(TARGET_SECONDS / max(seconds_per_step, 1e-9))
    steps = max(1, min(steps, MAX_STEPS_PER_CALL if fixed is None else steps))
    return steps if remaining is None else min(steps, remaining)


def steps_to_event(step: int, left: int | None, most: int | None, every: Sequence[int | None]) -> int | None:
    """Train steps until something is to be done between two of them.

    Args:
        step: Train steps done.
        left: Batches left in the epoch; `None` if not known.
        most: Train steps after which the run ends; `None` if it does not.
        every: Something is to be done at each multiple of these; `None` never.

    Returns:
        At least 1 if something is left to do; `None` if no event is known.
    """
    distances = [left, None if most is None else most - step, *(None if n is None else n - step % n for n in every)]
    return min((distance for distance in distances if distance is not None), default=None)


def is_multiple(number: int, every: int | None) -> bool:
    """Whether a number is a multiple of `every`; never with `None`."""
    return every is not None and number % every == 0


def can_afford(spent: float, cost: float, elapsed: float) -> bool:
    """Whether one more checkpoint leaves their share of the time within `SHARE_OF_SAVING`.

    Args:
        spent: Seconds that checkpoints took so far.
        cost: Seconds that the next will take, as the last one did; 0 before the first.
        elapsed: Seconds of the run so far.
    """
    return cost == 0 or spent + cost <= SHARE_OF_SAVING * elapsed


@dataclasses.dataclass(frozen=True)
class Every:
    """How often something is done.

    Args:
        count: Every so many.
        unit: `"epoch"` or `"step"`.
    """

    count: int
    unit: str

    @property
    def steps(self) -> int | None:
        """Train steps from one to the next; `None` where epochs count."""
        return self.count if self.unit == "step" else None

    @property
    def epochs(self) -> int | None:
        """Epochs from one to the next; `None` where steps count."""
        return self.count if self.unit == "epoch" else None


def parse_every(given: int | str) -> Every:
    """Reads `2` or `"2 epochs"`, or `"500 steps"`.

    Raises:
        ValueError: It is something else.
    """
    found = re.fullmatch(r"\s*(\d+)\s*(epoch|step)?s?\s*", str(given)) if not isinstance(given, bool) else None
    if found is None or int(found[1]) < 1:
        raise ValueError(f"Received {given!r}: expected a number of epochs, such as 2 or '2 epochs', or '500 steps'.")
    return Every(int(found[1]), found[2] or "epoch")


def infer_mode(name: str) -> str:
    """Whether lower (`"min"`) or higher (`"max"`) is better for a value, from its name.

    Raises:
        ValueError: The name does not tell.
    """
    words = name.rsplit("/", 1)[-1].lower().replace("-", "_").split("_")
    lower = any(word in words for word in LOWER_IS_BETTER)
    higher = any(word in words for word in HIGHER_IS_BETTER)
    if lower == higher:
        raise ValueError(
            f"Whether {name!r} is better low or high cannot be told from its name: give mode='min' or 'max'."
        )
    return "min" if lower else "max"


@dataclasses.dataclass(frozen=True)
class Patience:
    """How the monitored value went so far. Each epoch gives a new one.

    Args:
        mode: `"min"` or `"max"`.
        best: Best value so far; `None` before the first.
        waited: Epochs since the best one.
    """

    mode: str
    best: float | None = None
    waited: int = 0

    def after(self, value: float) -> Patience:
        """Patience after one more epoch. A value that is not a number is never better."""
        if is_better(value, self.best, self.mode):
            return Patience(self.mode, value, 0)
        return dataclasses.replace(self, waited=self.waited + 1)

    def exhausted(self, patience: int | None) -> bool:
        """Whether `patience` epochs went by without a better value; never with `None`."""
        return patience is not None and self.waited >= max(patience, 1)


def is_better(value: float, best: float | None, mode: str) -> bool:
    """Whether a value is strictly better than the best so far."""
    if math.isnan(value):
        return False
    if best is None:
        return True
    return value < best if mode == "min" else value > best


def weighted_mean(values: Sequence[float], weights: Sequence[float]) -> float:
    """Mean of values with weights, such as a step's loss weighted by its examples."""
    return math.fsum(v * w for v, w in zip(values, weights, strict=True)) / math.fsum(weights)
