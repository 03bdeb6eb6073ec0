"""keras-tuner's oracles, fed with our ranges. Imported for a search alone."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, final

import keras_tuner
from keras_tuner.engine import base_tuner
from keras_tuner.errors import FailedTrialError

from lightkeras.hparams import Choices, IntRange, Range

__all__ = ["FailedTrialError", "make_oracle", "search"]

RunTrial = Callable[[int, Mapping[str, Any], "int | None"], float]


def make_oracle(
    kind: str, space: Mapping[str, Range], objective: str, mode: str, trials: int | None, epochs: int, seed: int
) -> keras_tuner.Oracle:
    """An oracle over the ranges.

    Args:
        kind: `"random"`, `"bayesian"`, `"hyperband"` or `"grid"`.
        space: Ranges by name.
        objective: Name of the value to search for.
        mode: `"min"` or `"max"`.
        trials: Most trials; `None` for no limit.
        epochs: Most epochs of one trial, for hyperband.
        seed: Seed of its choices.
    """
    settings: dict[str, Any] = {
        "objective": keras_tuner.Objective(objective, mode),
        "hyperparameters": _hyperparameters(space),
        "allow_new_entries": False,
        # keras-tuner takes 0 for no seed, and counts up from one: neighbours would share most of their trials.
        "seed": random.Random(seed).randrange(1, 2**31),
        # A trial that failed is recorded with its reason; the search goes on to its end.
        "max_consecutive_failed_trials": 10**9,
    }
    if kind == "hyperband":
        oracle = keras_tuner.oracles.HyperbandOracle(max_epochs=epochs, **settings)
        oracle.max_trials = trials
        return oracle
    kinds = {
        "random": keras_tuner.oracles.RandomSearchOracle,
        "bayesian": keras_tuner.oracles.BayesianOptimizationOracle,
        "grid": keras_tuner.oracles.GridSearchOracle,
    }
    return kinds[kind](max_trials=trials, **settings)


def search(oracle: keras_tuner.Oracle, space: Mapping[str, Range], folder: Path, run_trial: RunTrial) -> None:
    """Runs trials until the oracle has no more.

    Args:
        oracle: The oracle.
        space: Ranges by name, those that the oracle was made for.
        folder: Directory of the search; keras-tuner keeps its own files in `oracle/` there.
        run_trial: Called with the trial's number (from 0), its hyperparameters, and the epochs it is
            granted (`None` for no limit of its own); returns the objective, or raises
            `FailedTrialError`.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"(currentThread|getName)\(\) is deprecated")  # keras-tuner does
        _Search(run_trial, space, oracle=oracle, directory=str(folder), project_name="oracle").search(verbose=0)


@final
class _Search(base_tuner.BaseTuner):  # type: ignore[misc]
    def __init__(self, run_trial: RunTrial, space: Mapping[str, Range], **settings: Any) -> None:
        super().__init__(**settings)
        self._run_trial, self._space = run_trial, space
        self._count = 0

    def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> float:
        values = trial.hyperparameters.values
        chosen = {name: _as_declared(found, values[name]) for name, found in self._space.items()}
        number, self._count = self._count, self._count + 1
        return self._run_trial(number, chosen, values.get("tuner/epochs"))


def _hyperparameters(space: Mapping[str, Range]) -> keras_tuner.HyperParameters:
    found = keras_tuner.HyperParameters()
    for name, values in space.items():
        if isinstance(values, Choices):
            found.Choice(name, list(values.values))
        elif isinstance(values, IntRange):
            step = None if values.log else values.step
            found.Int(name, values.low, values.high, step=step, sampling=_sampling(values.log))
        else:
            found.Float(name, values.low, values.high, step=values.step, sampling=_sampling(values.log))
    return found


def _as_declared(found: Range, value: Any) -> Any:
    """The value in its declared type: keras-tuner hands booleans back as 0 and 1."""
    return next(own for own in found.values if own == value) if isinstance(found, Choices) else value


def _sampling(log: bool) -> str:
    return "log" if log else "linear"
