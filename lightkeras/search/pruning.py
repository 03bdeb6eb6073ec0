"""When a trial is stopped early: pure functions of the reports."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Sequence

from lightkeras.system.messages import check_whole

Reports = Sequence[tuple[int, float]]
"""Ascending epochs, counted from 1, each with the value of the objective."""

RULES = ("median", "halving")


@dataclasses.dataclass(frozen=True)
class Pruning:
    """When trials that do worse than others are stopped.

    Args:
        rule: `"median"`: stops a trial whose best value so far is worse than the median, over the completed trials,
            of their mean value up to the same epoch (Golovin et al., "Google Vizier", KDD 2017).
            `"halving"`: of the trials that reach an epoch `first * factor**k`, one continues only if it is among
            the best 1/`factor` of them: asynchronous successive halving (Li et al., "A System for Massively Parallel
            Hyperparameter Tuning", MLSys 2020), in the form of Ray Tune and Optuna, which stops trials rather
            than pausing them. `None` stops none.
        first: Epochs before which no trial is stopped.
        trials: Completed trials that the median needs.
        factor: One of this many trials continues, for halving.

    Raises:
        ValueError: A setting out of its range.

    Examples:
        >>> from lightkeras import Tuner
        >>> from lightkeras.testing import TwoMoons
        >>> tuner = Tuner(TwoMoons, trials=30, pruning=Pruning("median", first=3))
        >>> tuner.pruning.trials  # completed trials before the first one is stopped
        3
    """

    rule: str | None = None
    first: int = 1
    trials: int = 3
    factor: int = 3

    def __post_init__(self) -> None:
        if self.rule is not None and self.rule not in RULES:
            raise ValueError(f"Pruning(rule={self.rule!r}): expected 'median', 'halving' or None.")
        for name, least in {"first": 1, "trials": 1, "factor": 2}.items():
            check_whole("Pruning", name, getattr(self, name), least)

    def verdict(self, mine: Reports, others: Iterable[Reports], completed: Iterable[Reports], mode: str) -> str | None:
        """Returns the reason to stop a trial after its last report; `None` if it continues.

        Args:
            mine: Reports of the trial.
            others: Reports of all other trials, ended or not.
            completed: Reports of the completed trials.
            mode: Whether the objective is better low (`"min"`) or high (`"max"`).
        """
        if self.rule is None or not mine or mine[-1][0] < self.first:
            return None
        if self.rule == "median":
            return self._below_median(mine, list(completed), mode)
        return self._not_among_best(mine, list(others), mode)

    def _below_median(self, mine: Reports, completed: Sequence[Reports], mode: str) -> str | None:
        epoch = mine[-1][0]
        parts = [[value for at, value in reports if at <= epoch] for reports in completed]
        means = [statistics.fmean(values) for values in parts if values]
        if len(means) < self.trials:
            return None
        best, median = _best((value for _, value in mine), mode), statistics.median(means)
        if not _worse(best, median, mode):
            return None
        return (
            f"its best value {best:.6g} after epoch {epoch} is worse than {median:.6g}, the median of the mean values "
            f"of {len(means)} completed trials"
        )

    def _not_among_best(self, mine: Reports, others: Sequence[Reports], mode: str) -> str | None:
        epoch = mine[-1][0]
        rung = max(n for n in range(epoch.bit_length() + 1) if self.first * self.factor**n <= epoch)
        at = self.first * self.factor**rung
        if any(at <= before < epoch for before, _ in mine):
            return None  # this rung was checked before
        value = mine[-1][1]
        there = [found for reports in others if (found := _first_from(reports, at)) is not None]
        better = sum(_worse(value, found, mode) for found in there)
        keep = max(1, (len(there) + 1) // self.factor)
        if better < keep:
            return None
        return (
            f"its value {value:.6g} at epoch {epoch} is place {better + 1} of the {len(there) + 1} trials that "
            f"reached it, of which the best {keep} continue"
        )


@dataclasses.dataclass(frozen=True)
class Chance:
    """When a trial is stuck at chance level, and fails.

    Args:
        value: Objective of a model that learned nothing, such as an accuracy of 0.5; `None` checks nothing.
        epochs: Epochs after which a trial that is not better is stuck.

    Raises:
        ValueError: A setting out of its range.

    Examples:
        >>> from lightkeras import Tuner
        >>> from lightkeras.testing import TwoMoons
        >>> tuner = Tuner(TwoMoons, objective="val/accuracy", chance=Chance(0.5, epochs=5))
        >>> tuner.chance.epochs
        5
    """

    value: float | None = None
    epochs: int = 3

    def __post_init__(self) -> None:
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"Chance(value={self.value!r}): expected a finite number.")
        check_whole("Chance", "epochs", self.epochs, 1)

    def verdict(self, mine: Reports, objective: str, mode: str) -> str | None:
        """Returns the reason why a trial has failed; `None` if it has not."""
        if self.value is None or not mine or mine[-1][0] < self.epochs:
            return None
        best = _best((value for _, value in mine), mode)
        if _worse(self.value, best, mode):
            return None
        return f"stuck at chance: {objective} is {best:.6g} after epoch {mine[-1][0]}, not better than {self.value:g}"


def not_finite(epoch: int, value: float, objective: str) -> str | None:
    """Returns the reason why a trial has diverged; `None` if it has not."""
    return None if math.isfinite(value) else f"diverged: {objective} is {value} after epoch {epoch}"


def is_better(value: float, than: float, mode: str) -> bool:
    """Returns True if a value of the objective is better than another."""
    return _worse(than, value, mode)


def _first_from(reports: Reports, epoch: int) -> float | None:
    return next((value for at, value in reports if at >= epoch), None)


def _best(values: Iterable[float], mode: str) -> float:
    return min(values) if mode == "min" else max(values)


def _worse(value: float, than: float, mode: str) -> bool:
    return value > than if mode == "min" else value < than
