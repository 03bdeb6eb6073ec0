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
import numpy as np
from keras_tuner.engine import trial as trial_module
from sklearn.exceptions import ConvergenceWarning

from lightkeras.hparams import Choices, IntRange, Range
from lightkeras.search.records import same_name
from lightkeras.search.space import Space

MOST_LISTED = 10_000  # combinations of a space that are listed to find those not tried
CANDIDATES = 500  # points that are compared where there are more
NEAR = 1e-3  # of a continuous range: values that are nearer to each other count as the same


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

    No combination is tried twice, unless hyperband continues its trial. keras-tuner sees the values of a range with
    steps as indices, because it loses the upper end of many ranges to rounding.

    Args:
        kind: `"random"`, `"bayesian"`, `"hyperband"` or `"grid"`.
        space: The searched hyperparameters.
        objective: Name of the value to optimize.
        mode: `"min"` or `"max"`.
        trials: Maximum number of trials; `None` for no limit.
        epochs: Maximum epochs of one trial, for hyperband; `None` if they are not limited.
        seed: Seed of its choices.
    """

    def __init__(
        self, kind: str, space: Space, objective: str, mode: str, trials: int | None, epochs: int | None, seed: int
    ) -> None:
        self._kind, self._codec, self._objective, self._trials = kind, _Codec(space), objective, trials
        self._oracle = _make(kind, self._codec, objective, mode, epochs, seed)
        self._asked = 0

    def ask(self, replayed: str | None = None) -> Answer:
        """Asks for a trial. After `"IDLE"`, only ask again when a trial has ended.

        Args:
            replayed: Status that the journal has for this question; `None` for a new one. Searches of earlier versions
                may have tried a combination twice, or not all of them.
        """
        if self._trials is not None and len(self._oracle.trials) >= self._trials:
            return Answer("STOPPED")
        self._asked += 1
        self._oracle.replayed = replayed
        with _quiet():
            # A new name for each call: keras-tuner returns the same trial for the same name.
            trial = self._oracle.create_trial(f"question {self._asked}")
        if trial.status != "RUNNING":
            return Answer(trial.status)
        values = trial.hyperparameters.values
        parent = values.get("tuner/trial_id")
        return Answer(
            trial.status, trial.trial_id, self._codec.decode(values), values.get("tuner/epochs"), parent or None
        )

    def tell(self, trial: str, value: float | None, epoch: int = 0) -> None:
        """Records the objective of a trial (`None` if it failed), and the epoch in which it was reached."""
        name = same_name(trial)
        with _quiet():
            if value is not None:
                self._oracle.update_trial(name, {self._objective: value}, step=epoch)
            ended = self._oracle.trials[name]
            statuses = trial_module.TrialStatus
            ended.status = statuses.FAILED if value is None else statuses.COMPLETED
            self._oracle.end_trial(ended)

    def correct(self, trial: str, values: Mapping[str, Any]) -> None:
        """Replaces the values that the oracle chose for a trial."""
        corrected = self._oracle.trials[same_name(trial)]
        known = corrected.hyperparameters.values
        kept = {name: value for name, value in known.items() if name.startswith("tuner/")}
        corrected.hyperparameters.values = {**kept, **self._codec.encode(values)}
        self._oracle.corrected(corrected)

    def why_stopped(self) -> str:
        """Returns why there are no more trials."""
        asked, count = len(self._oracle.trials), self._codec.space.count()
        if self._trials is not None and asked >= self._trials:
            left = ""
            if self._kind == "grid" and count != asked:
                left = f" of the {count} combinations of the grid"
            elif self._kind == "hyperband" and not self._oracle.is_complete():
                left = " before hyperband had run all its brackets"
            return f"trials={self._trials} reached{left}"
        if count is not None and len(self._oracle.tried()) >= count:
            return f"the space is exhausted: all its {count} combinations were tried"
        if self._kind == "hyperband":
            missing = "could not fill its brackets, because trials failed"
            return f"hyperband {'has run all its brackets' if self._oracle.is_complete() else missing}"
        return "the oracle gave up: it found no combination that had not been tried"


@final
class _Codec:
    """Hyperparameters as keras-tuner sees them: a value of a range that is drawn evenly is an index.

    Args:
        space: The searched hyperparameters.
    """

    def __init__(self, space: Space) -> None:
        self.space = space

    def encode(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Returns values as keras-tuner sees them."""
        return {name: self._encoded(name, value) for name, value in values.items()}

    def decode(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the used values in their declared types, in the order of declaration."""
        return {
            name: found.value(values[name]) if _is_indexed(found) else _between(found, values[name])
            for name, found in self.space.ranges.items()
            if name in values
        }

    def inside(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Returns values of keras-tuner, none of which lies beyond the ends of its range."""
        return self.encode(self.decode(values))

    def hyperparameters(self) -> keras_tuner.HyperParameters:
        """Returns the space of an oracle."""
        made = keras_tuner.HyperParameters()
        for name, found in self.space.ranges.items():
            declared = _declared(name, found)
            config = declared.get_config()
            # The same as `conditional_scope` writes, which cannot express two independent conditions.
            config["conditions"] = [
                {
                    "class_name": "Parent",
                    "config": {"name": other, "values": [self._encoded(other, value) for value in needed]},
                }
                for other, needed in _all_needed(name, self.space).items()
            ]
            made.merge([type(declared).from_config(config)])
        return made

    def _encoded(self, name: str, value: Any) -> Any:
        found = self.space.ranges[name]
        return found.index(value) if _is_indexed(found) else value


class _Ours:
    """What the oracles of a search share: none is saved, and none repeats a combination.

    `codec` is set after construction, because keras-tuner's constructors take no other arguments.
    """

    codec: _Codec
    replayed: str | None = None

    def save(self) -> None:
        """Does nothing: the journal of the search restores the oracle."""

    def _save_trial(self, trial: Any) -> None:
        """Does nothing, see `save`."""

    def corrected(self, trial: Any) -> None:
        """Records the corrected values of a trial as tried."""
        self._record_values(trial)  # type: ignore[attr-defined]

    def tried(self) -> set[tuple[tuple[str, Any], ...]]:
        """Returns the combinations of all trials."""
        return {self._key(trial.hyperparameters.values) for trial in self.trials.values()}  # type: ignore[attr-defined]

    def untried(self) -> list[dict[str, Any]]:
        """Returns the combinations that were not tried; empty if they are too many to list."""
        count = self.codec.space.count()
        if count is None or count > MOST_LISTED:
            return []
        tried, found = self.tried(), map(self.codec.encode, self.codec.space.combinations())
        return [values for values in found if self._key(values) not in tried]

    def _random_values(self) -> dict[str, Any] | None:
        """Like keras-tuner's, which gives up after 20 draws of values that were tried."""
        values: dict[str, Any] | None = super()._random_values()  # type: ignore[misc]
        if values is None and self.replayed in (None, "RUNNING") and (left := self.untried()):
            return random.Random(self._seed_state).choice(left)  # type: ignore[attr-defined]
        return values

    def _key(self, values: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
        return tuple((name, values[name]) for name in self.codec.space.ranges if name in values)


class _Random(_Ours, keras_tuner.oracles.RandomSearchOracle):  # type: ignore[misc]
    pass


class _Bayesian(_Ours, keras_tuner.oracles.BayesianOptimizationOracle):  # type: ignore[misc]
    """keras-tuner's, but it does not repeat a combination, and learns from trials that failed."""

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        found: dict[str, Any] = super().populate_space(trial_id)
        return found if found["values"] else {"status": "STOPPED", "values": None}

    def _vector_to_values(self, vector: Any) -> dict[str, Any]:
        """Values of a point: keras-tuner calls it with the best one.

        Returns:
            The values, or those of the best other point if they were tried; empty if every combination was.
        """
        values = self._inside(vector)
        if not self._was_tried(values):
            return values
        if (self.codec.space.count() or MOST_LISTED + 1) <= MOST_LISTED:
            others = self.untried()
        else:
            rng = np.random.default_rng([self.seed, len(self.trials)])
            drawn = rng.random((CANDIDATES, len(self._nonfixed_space())))
            others = [other for other in map(self._inside, drawn) if not self._was_tried(other)]
        if not others:
            return values if self.replayed == "RUNNING" else {}
        mean, deviation = self.gpr.predict(np.array([self._vector_of(other) for other in others]), return_std=True)
        return others[int(np.argmin(mean - self.beta * deviation))]

    def _vectorize_trials(self) -> tuple[Any, Any]:
        """Like keras-tuner's, which leaves out failed trials and therefore proposes their values again.

        A failed trial counts as the worst that did not fail.
        """
        x, y = super()._vectorize_trials()
        failed = [self._vector_of(t.hyperparameters.values) for t in self.trials.values() if t.status == "FAILED"]
        return (np.concatenate([x, failed]), np.concatenate([y, np.full(len(failed), y.max())])) if failed else (x, y)

    def _inside(self, vector: Any) -> dict[str, Any]:
        return self.codec.inside(super()._vector_to_values(vector))

    def _vector_of(self, values: Mapping[str, Any]) -> list[float]:
        return [one.value_to_prob(values.get(one.name, one.default)) for one in self._nonfixed_space()]

    def _was_tried(self, values: Mapping[str, Any]) -> bool:
        return any(self._same(values, trial.hyperparameters.values) for trial in self.trials.values())

    def _same(self, values: Mapping[str, Any], others: Mapping[str, Any]) -> bool:
        return values.keys() == others.keys() and all(
            abs(one.value_to_prob(values[one.name]) - one.value_to_prob(others[one.name])) < NEAR
            if isinstance(one, keras_tuner.engine.hyperparameters.Float)
            else values[one.name] == others[one.name]
            for one in self._nonfixed_space()
            if one.name in values
        )


class _Hyperband(_Ours, keras_tuner.oracles.HyperbandOracle):  # type: ignore[misc]
    def is_complete(self) -> bool:
        """Returns True if every bracket was run."""
        self._remove_completed_brackets()
        begun = self._current_bracket == 0 and self._current_iteration + 1 == self.hyperband_iterations
        return begun and not self._brackets


class _Grid(_Ours, keras_tuner.Oracle):  # type: ignore[misc]
    """Every combination, in the order of declaration.

    keras-tuner's own waits for trials to end before it chooses the next one, because a trial could add hyperparameters.
    """

    left: Iterator[dict[str, Any]] | None = None

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        if self.replayed not in (None, "RUNNING"):  # that of an earlier version waited for trials to end
            return {"status": self.replayed, "values": None}
        if self.left is None:
            self.left = map(self.codec.encode, self.codec.space.combinations())
        for values in self.left:
            if not self._duplicate(values):
                return {"status": "RUNNING", "values": values}
        return {"status": "STOPPED", "values": None}

    def corrected(self, trial: Any) -> None:
        super().corrected(trial)
        self.left = None  # what was to be tried in its place is not


def _make(kind: str, codec: _Codec, objective: str, mode: str, epochs: int | None, seed: int) -> Any:
    settings: dict[str, Any] = {
        "objective": keras_tuner.Objective(objective, mode),
        "hyperparameters": codec.hyperparameters(),
        "allow_new_entries": False,
        # keras-tuner treats 0 as no seed, and increments it per trial: neighbouring seeds would share most trials.
        "seed": random.Random(seed).randrange(1, 2**31),
        # A failed trial is recorded with its reason, and does not end the search.
        "max_consecutive_failed_trials": 10**9,
    }
    oracle: Any
    if kind == "hyperband":
        if epochs is None:
            raise ValueError("oracle='hyperband' divides epochs among trials: expected Runner(max_epochs=...).")
        oracle = _Hyperband(max_epochs=epochs, **settings)
    else:
        oracle = {"random": _Random, "bayesian": _Bayesian, "grid": _Grid}[kind](**settings)
    oracle.max_trials = None  # the names of trials depend on it, and a search may be extended
    oracle.codec, oracle.verbose = codec, 0
    return oracle


def _all_needed(name: str, space: Space) -> dict[str, tuple[Any, ...]]:
    """Returns the conditions of a hyperparameter, after those of the hyperparameters that it depends on."""
    found: dict[str, tuple[Any, ...]] = {}
    for other, values in space.when.get(name, {}).items():
        found |= _all_needed(other, space)
        found[other] = values
    return found


def _is_indexed(found: Range) -> bool:
    return isinstance(found, Choices) or (not found.log and found.count is not None)


def _between(found: Range, value: Any) -> Any:
    """A number of a range without steps; keras-tuner's may lie beyond the upper end, or just below it by rounding."""
    if isinstance(found, Choices):
        return value
    if isinstance(found, IntRange):
        return min(max(value, found.low), found.high)
    for end in (found.low, found.high):
        if abs(value - end) <= 1e-12 * max(abs(found.low), abs(found.high)):
            return end
    return min(max(value, found.low), found.high)


def _declared(name: str, found: Range) -> Any:
    kinds = keras_tuner.engine.hyperparameters
    if _is_indexed(found):
        return kinds.Int(name, 0, (found.count or 1) - 1)
    if isinstance(found, Choices):  # a choice always has an index
        raise TypeError(f"{name} is {found}.")
    kind = kinds.Int if isinstance(found, IntRange) else kinds.Float
    return kind(name, found.low, found.high, sampling="log" if found.log else "linear")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"(currentThread|getName)\(\) is deprecated")  # keras-tuner does
        warnings.simplefilter("ignore", ConvergenceWarning)  # of the Gaussian process: nothing that a user can change
        yield
