"""The decisions of a run, as pure functions: how many steps next, what is better, when to stop."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

TARGET_SECONDS = 0.075
"""Time one compiled call should take: long enough that its overhead disappears, short enough that
the progress bar moves and a signal is answered."""

MAX_STEPS_PER_CALL = 1000

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
class Progress:
    """How the monitored value went so far. Each epoch gives a new one.

    Args:
        mode: `"min"` or `"max"`.
        best: Best value so far; `None` before the first.
        waited: Epochs since the best one.
    """

    mode: str
    best: float | None = None
    waited: int = 0

    def after(self, value: float) -> Progress:
        """Progress after one more epoch. A value that is not a number is never better."""
        if is_better(value, self.best, self.mode):
            return Progress(self.mode, value, 0)
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
