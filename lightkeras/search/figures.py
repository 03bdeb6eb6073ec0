"""Figures of a search, and the importance of each hyperparameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightkeras import plots
from lightkeras.hparams import Choices
from lightkeras.runs.results import SearchResult, Trial
from lightkeras.search.space import Space

LEAST_TRIALS = 8  # a forest needs at least as many
_TREES, _SHUFFLES = 200, 20


def write(result: SearchResult, space: Space, folder: Path) -> list[Path]:
    """Writes the figures of a search and returns their paths, without those that need more completed trials."""
    trials, written = result.trials, []

    def save(name: str, figure: Any) -> None:
        plots.save(figure, folder / f"{name}.png")
        written.append(folder / f"{name}.png")

    if trials:
        values = [trial.objective for trial in trials]
        statuses = [trial.status for trial in trials]
        save("objective", plots.objective_over_trials(values, statuses, result.objective, result.mode))
    done = [trial for trial in trials if trial.status == "completed"]
    if done:
        columns = _columns(done, space)
        heights = [trial.objective for trial in done if trial.objective is not None]
        log = {name: found.log for name, found in space.ranges.items() if not isinstance(found, Choices)}
        save("hyperparameters", plots.objective_over_hyperparameters(columns, heights, result.objective, log))
    if len(done) >= LEAST_TRIALS:
        found = importance(done, space)
        method = (
            "rise of the squared error when it is shuffled,\nin variances of the objective\n"
            f"(random forest of {_TREES} trees; {100 * found.explained:.0f} % explained out of bag)"
        )
        save("importance", plots.importance(found.shares, found.spreads, method))
    return written


class Importance:
    """Importance by hyperparameter, its standard deviation over shuffles, and the forest's out-of-bag R squared."""

    def __init__(self, shares: Mapping[str, float], spreads: Mapping[str, float], explained: float) -> None:
        self.shares, self.spreads, self.explained = shares, spreads, explained


def importance(trials: Sequence[Trial], space: Space) -> Importance:
    """Permutation importance of each hyperparameter (Breiman, "Random Forests", Machine Learning 2001).

    A random forest predicts the objective of the completed trials from the hyperparameters. The importance of one is
    the rise of the forest's error when its values are shuffled between the trials.
    """
    import warnings

    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    columns = _columns(trials, space)
    x = np.stack([_numbers(name, chosen, space) for name, chosen in columns.items()], axis=1)
    y = np.array([trial.objective for trial in trials], dtype=np.float64)
    if not y.std():
        return Importance(dict.fromkeys(columns, 0.0), dict.fromkeys(columns, 0.0), 0.0)
    forest = RandomForestRegressor(_TREES, oob_score=True, random_state=0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Some inputs do not have OOB scores")
        forest.fit(x, y)
    found = permutation_importance(forest, x, y, n_repeats=_SHUFFLES, random_state=0, scoring="r2")
    names = list(columns)
    return Importance(
        dict(zip(names, found.importances_mean.tolist(), strict=True)),
        dict(zip(names, found.importances_std.tolist(), strict=True)),
        max(0.0, float(forest.oob_score_)),
    )


def _columns(trials: Sequence[Trial], space: Space) -> dict[str, list[Any]]:
    """Values of each searched hyperparameter; `None` where it was inactive."""
    return {
        name: [None if name in trial.inactive else trial.hparams[name] for trial in trials] for name in space.ranges
    }


def _numbers(name: str, chosen: Sequence[Any], space: Space) -> np.ndarray:
    """A column for the forest: choices by their index, inactive ones below all others."""
    found = space.ranges[name]
    if isinstance(found, Choices):
        return np.array([-1.0 if value is None else float(found.values.index(value)) for value in chosen])
    least = found.low - (found.high - found.low) - 1.0
    return np.array([least if value is None else float(value) for value in chosen])
