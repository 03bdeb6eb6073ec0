"""keras-tuner's oracles, asked and told. Imported for a search alone.

An oracle's answer follows from its seed and from what it was asked and told before: told again, in the same order,
what the journal of a search holds, a new oracle goes on where the old one stopped. So none is ever saved.
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
    """What an oracle says when it is asked for a trial.

    Args:
        status: `"RUNNING"`: there is one; `"IDLE"`: not before another trial has ended; `"STOPPED"`: never again.
        trial: The oracle's name for it.
        values: Hyperparameters by name; those that are not used are left out.
        epochs: Epochs it is granted, in all; `None` for no limit of its own.
        parent: The trial that it goes on with, by the oracle's name; `None` begins anew.
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
        space: What is searched.
        objective: Name of the value to search for.
        mode: `"min"` or `"max"`.
        trials: Most trials; `None` for no limit.
        epochs: Most epochs of one trial, for hyperband.
        seed: Seed of its choices.
    """

    def __init__(
        self, kind: str, space: Space, objective: str, mode: str, trials: int | None, epochs: int, seed: int
    ) -> None:
        self._space, self._objective = space, objective
        self._oracle = _make(kind, space, objective, mode, trials, epochs, seed)
        self._asked = 0

    def ask(self) -> Answer:
        """Asks for a trial. To be asked again after `"IDLE"` only when a trial has ended."""
        self._asked += 1
        with _quiet():
            # A name of its own for each question: one that asks again gets the trial it has.
            trial = self._oracle.create_trial(f"question {self._asked}")
        if trial.status != "RUNNING":
            return Answer(trial.status)
        values = trial.hyperparameters.values
        parent = values.get("tuner/trial_id")
        return Answer(
            trial.status, trial.trial_id, self._as_declared(values), values.get("tuner/epochs"), parent or None
        )

    def tell(self, trial: str, value: float | None, epoch: int = 0) -> None:
        """Tells how a trial ended.

        Args:
            trial: The oracle's name for it.
            value: Its value of the objective; `None` if it failed.
            epoch: Epoch in which it was reached.
        """
        with _quiet():
            if value is not None:
                self._oracle.update_trial(trial, {self._objective: value}, step=epoch)
            ended = self._oracle.trials[trial]
            statuses = trial_module.TrialStatus
            ended.status = statuses.FAILED if value is None else statuses.COMPLETED
            self._oracle.end_trial(ended)

    def correct(self, trial: str, values: Mapping[str, Any]) -> None:
        """Makes the oracle believe that it had chosen other values for a trial."""
        known = self._oracle.trials[trial].hyperparameters.values
        kept = {name: value for name, value in known.items() if name.startswith("tuner/")}
        self._oracle.trials[trial].hyperparameters.values = {**kept, **values}

    def _as_declared(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values of those in use, in their declared types: keras-tuner hands booleans back as 0 and 1."""
        return {
            name: next(own for own in found.values if own == values[name])
            if isinstance(found, Choices)
            else values[name]
            for name, found in self._space.ranges.items()
            if name in values
        }


class _Unsaved:
    """Keeps an oracle off the disk."""

    def save(self) -> None:
        """The journal of the search is what an oracle is made from again."""

    def _save_trial(self, trial: Any) -> None:
        """As `save`."""


class _Random(_Unsaved, keras_tuner.oracles.RandomSearchOracle):  # type: ignore[misc]
    pass


class _Bayesian(_Unsaved, keras_tuner.oracles.BayesianOptimizationOracle):  # type: ignore[misc]
    pass


class _Hyperband(_Unsaved, keras_tuner.oracles.HyperbandOracle):  # type: ignore[misc]
    pass


class _Grid(_Unsaved, keras_tuner.oracles.GridSearchOracle):  # type: ignore[misc]
    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """As keras-tuner's, which waits for a trial to end before it goes on from it, lest a trial add to the space.

        Here the space is known from the start, and several workers are to be kept busy.
        """
        found: dict[str, Any] = super().populate_space(trial_id)
        if found["status"] == "RUNNING" and trial_id not in self._populate_next:
            self._populate_next.append(trial_id)
        return found


def _make(
    kind: str, space: Space, objective: str, mode: str, trials: int | None, epochs: int, seed: int
) -> keras_tuner.Oracle:
    settings: dict[str, Any] = {
        "objective": keras_tuner.Objective(objective, mode),
        "hyperparameters": _hyperparameters(space),
        "allow_new_entries": False,
        # keras-tuner takes 0 for no seed, and counts up from one: neighbours would share most of their trials.
        "seed": random.Random(seed).randrange(1, 2**31),
        # A trial that failed is recorded with its reason; the search goes on to its end.
        "max_consecutive_failed_trials": 10**9,
    }
    oracle: Any
    if kind == "hyperband":
        oracle = _Hyperband(max_epochs=epochs, **settings)
        oracle.max_trials = trials
    else:
        oracle = {"random": _Random, "bayesian": _Bayesian, "grid": _Grid}[kind](max_trials=trials, **settings)
    oracle.verbose = 0
    return oracle


def _hyperparameters(space: Space) -> keras_tuner.HyperParameters:
    found = keras_tuner.HyperParameters()
    for name, values in space.ranges.items():
        declared = _declared(name, values)
        config = declared.get_config()
        # As `conditional_scope` writes them; it knows no hyperparameter that depends on two which do not on each other.
        config["conditions"] = [
            {"class_name": "Parent", "config": {"name": other, "values": list(needed)}}
            for other, needed in _all_needed(name, space).items()
        ]
        found.merge([type(declared).from_config(config)])
    return found


def _all_needed(name: str, space: Space) -> dict[str, tuple[Any, ...]]:
    """What a hyperparameter depends on, and before it what that depends on."""
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
    return kind(name, values.low, values.high, step=step, sampling=_sampling(values.log))


def _sampling(log: bool) -> str:
    return "log" if log else "linear"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"(currentThread|getName)\(\) is deprecated")  # keras-tuner does
        yield
