"""Watchdog over the variables of a run: notices NaN and infinity, and keeps a snapshot of the last good state."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, final

import keras
import numpy as np

from lightkeras.engine.base import Engine, StepLogs, Stream
from lightkeras.system.variables import read_variables
from lightkeras.task import Task

SHARE = 0.005
"""Share of the time that checking the state may take, and that snapshots of it may: 1 % together."""


SHARE_AT_EPOCH = 0.1
"""That of a snapshot where an epoch begins: callbacks may have changed the state, which no repeat of steps does."""


@dataclasses.dataclass(frozen=True)
class Position:
    """How far a run has come.

    Args:
        step: Train steps done in the run.
        epoch: Epochs finished.
        batch: Batches done of the epoch that goes on.
    """

    step: int
    epoch: int
    batch: int


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """The state of a run between two steps, in the host's memory.

    Args:
        position: Where the run was.
        arrays: Values of the task's variables by key.
        stream: What `Stream.state` gave.
        means: What `Pass.state` gave.
        random: The global generators when the epoch began, see `randomness`.
    """

    position: Position
    arrays: Mapping[str, np.ndarray]
    stream: bytes | None
    means: Mapping[str, Any]
    random: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Alarm:
    """Something that is not finite.

    Args:
        what: `"train/loss"`, or the path of a variable.
        value: Its value, or the first of its values that is not finite.
        step: The step, counted from 1 over the run, that it was noticed after.
    """

    what: str
    value: float
    step: int

    def __str__(self) -> str:
        return f"{self.what} became {self.value} at step {self.step:,}"


def is_due(since: float, cost: float, share: float) -> bool:
    """Whether something that costs `cost` seconds may be done `since` seconds after it was last done."""
    return cost <= share * since


def first_not_finite(logs: StepLogs, step: int) -> Alarm | None:
    """The first loss of a call that is not finite; of any value where no loss is logged.

    Args:
        logs: The logs.
        step: Train steps done before the call.
    """
    found = []
    for name in [name for name in logs.values if name == "loss"] or list(logs.values):
        wrong = np.flatnonzero(~np.isfinite(logs.values[name]))
        if len(wrong):
            found.append(Alarm(f"train/{name}", float(logs.values[name][wrong[0]]), step + int(wrong[0]) + 1))
    return min(found, key=lambda alarm: alarm.step, default=None)


@dataclasses.dataclass(frozen=True)
class _Last:
    """When something was last done, and how long it took, in seconds."""

    ended: float
    cost: float

    def is_due(self, now: float, share: float) -> bool:
        return is_due(now - self.ended, self.cost, share)


@final
class Watchdog:
    """Looks whether all variables are finite, and keeps a snapshot of when they last were.

    Each costs at most about 0.5 % of the time. The snapshot takes as much of the host's memory as the state.
    Variables of metrics are not watched, nor are those that are not finite from the start, such as a
    smallest value so far.

    Args:
        task: The task.
        engine: Its engine.
        clock: Seconds, from anywhere.
    """

    def __init__(self, task: Task, engine: Engine, clock: Callable[[], float] = time.monotonic) -> None:
        self._task, self._engine, self._clock = task, engine, clock
        self._unwatched: set[str] | None = None
        self._checked = self._taken = _Last(-math.inf, 0.0)
        self.snapshot: Snapshot | None = None

    def look(
        self,
        position: Position,
        stream: Stream,
        means: Mapping[str, Any],
        random: Mapping[str, Any],
        epoch_begins: bool = False,
    ) -> Alarm | None:
        """Checks the variables and takes a snapshot, each if it is due. The first call does both.

        Args:
            position: Where the run is.
            stream: The batches that come next.
            means: What `Pass.state` gives.
            random: The global generators when the epoch began.
            epoch_begins: Whether the epoch begins here, after its callbacks were told.

        Returns:
            A variable that is not finite; `None` if all are, or if it was not due.
        """
        now = self._clock()
        takes = self._taken.is_due(now, SHARE_AT_EPOCH if epoch_begins else SHARE)
        if not takes and not self._checked.is_due(now, SHARE):
            return None
        if self._unwatched is None:
            self.check(position.step)  # compiles, which says nothing of the cost
            now = self._clock()
        alarm = self.check(position.step)
        ended = self._clock()
        self._checked = _Last(ended, ended - now)
        if takes and alarm is None:
            self._keep(ended, position, stream, means, random)
        return alarm

    def keep(self, position: Position, stream: Stream, means: Mapping[str, Any], random: Mapping[str, Any]) -> None:
        """Takes a snapshot of a state that is known to be whole, whatever it costs.

        Args:
            position: As in `look`.
            stream: As in `look`.
            means: As in `look`.
            random: As in `look`.
        """
        self._keep(self._clock(), position, stream, means, random)

    def _keep(
        self, began: float, position: Position, stream: Stream, means: Mapping[str, Any], random: Mapping[str, Any]
    ) -> None:
        arrays = read_variables(self._task.variables())
        self.snapshot = Snapshot(position, arrays, stream.state(), copy.deepcopy(means), random)
        ended = self._clock()
        self._taken = _Last(ended, ended - began)

    def check(self, step: int) -> Alarm | None:
        """A variable that is not finite, whatever it costs to look; for a state that is to be kept.

        Args:
            step: Train steps done.
        """
        variables = self._task.variables()
        found = self._engine.not_finite(variables)
        if self._unwatched is None:
            self._unwatched = _of_metrics(self._task) | set(found)
        wrong = [key for key in found if key not in self._unwatched]
        return alarm_of(variables[wrong[0]], step) if wrong else None

    @property
    def unwatched(self) -> frozenset[str]:
        """Keys of variables that may be anything."""
        return frozenset(self._unwatched or ())


def _of_metrics(task: Task) -> set[str]:
    """Keys of the variables of metrics: what they hold is no part of learning."""
    owned = {id(variable) for metric in task.metrics() for variable in metric.variables}
    return {key for key, variable in task.variables().items() if id(variable) in owned}


def alarm_of(variable: keras.Variable, step: int) -> Alarm:
    values = read_variables({"": variable})[""]
    return Alarm(variable.path, float(values[~np.isfinite(values)][0]), step)
