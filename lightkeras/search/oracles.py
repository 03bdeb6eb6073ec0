"""keras-tuner's oracles, as ask and tell. Imported only by searches.

An oracle's answers depend only on its seed and on the calls of `ask` and `tell` before. An oracle is never saved: a new
one that gets the events of the journal in the same order is in the same state.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, final

import keras_tuner
from keras_tuner.engine import trial as trial_module

from lightkeras.hparams import Choices, IntRange, Range
from lightkeras.search.space import Space


@dataclasses.dataclass(frozen=True)
class Answer:
    """Answer of an oracle that is asked for a trial.

    Args:
        status: `"RUNNING"`: a new trial; `"IDLE"`: none until another trial has ended; `"STOPPED"`: no more trials.
        trial: The oracle's name for it.
        values: Hyperparameters by name, without those that are not used.
        epochs: Maximum epochs, in all; `None` for those of the runner.
        parent: The oracle's name for the trial that it continues; `None` starts anew.
    """

    status: str
    trial: str | None = None
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    epochs: int | None = None
    parent: str | None = None


@final
class Oracle:
    """An oracle of keras-tuner over a space.

    Args:
        kind: `"random"`, `"bayesian"`, `"hyperband"` or `"grid"`.
        space: The searched hyperparameters.
        objective: Name of the value to optimize.
        mode: `"min"` or `"max"`.
        trials: Maximum number of trials; `None` for no limit.
        epochs: Maximum epochs of one trial, for hyperband.
        seed: Seed of its choices.
    """

    def __init__(
        self, kind: str, space: Space, objective: str, mode: str, trials: int | None, epochs: int, seed: int
    ) -> None:
        self._space, self._objective, self._asked = space, objective, 0
        settings: dict[str, Any] = {
            "objective": keras_tuner.Objective(objective, mode),
            "hyperparameters": _hyperparameters(space),
            "allow_new_entries": False,
            # keras-tuner treats 0 as no seed, and increments it per trial: neighbouring seeds would share most trials.
            "seed": random.Random(seed).randrange(1, 2**31),
            # A failed trial is recorded with its reason, and does not end the search.
            "max_consecutive_failed_trials": 10**9,
        }
        self._oracle: Any
        if kind == "hyperband":
            self._oracle = _Hyperband(max_epochs=epochs, **settings)
            self._oracle.max_trials = trials
        else:
            kinds = {"random": _Random, "bayesian": _Bayesian, "grid": _Grid}
            self._oracle = kinds[kind](max_trials=trials, **settings)
        self._oracle.verbose = 0

    def ask(self) -> Answer:
        """Asks for a trial. After `"IDLE"`, only ask again when a trial has ended."""
        self._asked += 1
        with _quiet():
            # A new name for each call: keras-tuner returns the same trial for the same name.
            trial = self._oracle.create_trial(f"question {self._asked}")
        if trial.status != "RUNNING":
            return Answer(trial.status)
        values = trial.hyperparameters.values
        parent = values.get("tuner/trial_id")
        return Answer(
            trial.status, trial.trial_id, self._as_declared(values), values.get("tuner/epochs"), parent or None
        )

    def tell(self, trial: str, value: float | None, epoch: int = 0) -> None:
        """Records the objective of a trial (`None` if it failed), and the epoch in which it was reached."""
        with _quiet():
            if value is not None:
                self._oracle.update_trial(trial, {self._objective: value}, step=epoch)
            ended = self._oracle.trials[trial]
            statuses = trial_module.TrialStatus
            ended.status = statuses.FAILED if value is None else statuses.COMPLETED
            self._oracle.end_trial(ended)

    def correct(self, trial: str, values: Mapping[str, Any]) -> None:
        """Replaces the values that the oracle chose for a trial."""
        known = self._oracle.trials[trial].hyperparameters.values
        kept = {name: value for name, value in known.items() if name.startswith("tuner/")}
        self._oracle.trials[trial].hyperparameters.values = {**kept, **values}

    def _as_declared(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the used values in their declared types: keras-tuner returns booleans as 0 and 1."""
        return {
            name: next(own for own in found.values if own == values[name])
            if isinstance(found, Choices)
            else values[name]
            for name, found in self._space.ranges.items()
            if name in values
        }


class _Unsaved:
    """Keeps keras-tuner from saving the oracle."""

    def save(self) -> None:
        """Does nothing: the journal of the search restores the oracle."""

    def _save_trial(self, trial: Any) -> None:
        """Does nothing, see `save`."""


class _Random(_Unsaved, keras_tuner.oracles.RandomSearchOracle):  # type: ignore[misc]
    pass


class _Bayesian(_Unsaved, keras_tuner.oracles.BayesianOptimizationOracle):  # type: ignore[misc]
    pass


class _Hyperband(_Unsaved, keras_tuner.oracles.HyperbandOracle):  # type: ignore[misc]
    pass


class _Grid(_Unsaved, keras_tuner.oracles.GridSearchOracle):  # type: ignore[misc]
    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Like keras-tuner's, but does not wait for a trial to end before it chooses the next one.

        keras-tuner waits because a trial could add hyperparameters. Here the space is known from the start, and
        several workers must be kept busy.
        """
        found: dict[str, Any] = super().populate_space(trial_id)
        if found["status"] == "RUNNING" and trial_id not in self._populate_next:
            self._populate_next.append(trial_id)
        return found


def _hyperparameters(space: Space) -> keras_tuner.HyperParameters:
    found = keras_tuner.HyperParameters()
    for name, values in space.ranges.items():
        declared = _declared(name, values)
        config = declared.get_config()
        # The same as `conditional_scope` writes, which cannot express two independent conditions.
        config["conditions"] = [
            {"class_name": "Parent", "config": {"name": other, "values": list(needed)}}
            for other, needed in _all_needed(name, space).items()
        ]
        found.merge([type(declared).from_config(config)])
    return found


def _all_needed(name: str, space: Space) -> dict[str, tuple[Any, ...]]:
    """Returns the conditions of a hyperparameter, after those of the hyperparameters that it depends on."""
    found: dict[str, tuple[Any, ...]] = {}
    for other, values in space.when.get(name, {}).items():
        found |= _all_needed(other, space)
        found[other] = values
    return found


def _declared(name: str, values: Range) -> Any:
    kinds = keras_tuner.engine.hyperparameters
    if isinstance(values, Choices):
        return kinds.Choice(name, list(values.values))
    step = None if values.log else values.step
    kind = kinds.Int if isinstance(values, IntRange) else kinds.Float
    return kind(name, values.low, values.high, step=step, sampling="log" if values.log else "linear")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"(currentThread|getName)\(\) is deprecated")  # keras-tuner does
        yield
