"""Watchdog: checks the variables of a run for NaN and infinity, and keeps a snapshot of the last finite state."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, final

import keras
import numpy as np

from lightkeras.engine.base import Engine, StepLogs
from lightkeras.engine.stream import Stream
from lightkeras.system.variables import read_variables
from lightkeras.task import GRADIENT_NORM, Task

# One budget for both starved short runs: they ended before a second check was due, with all weights lost.
SHARE = 0.005
"""Share of the time that checks may take, and that snapshots may take: 1 % together."""

SHARE_AT_EPOCH = 0.1
"""Share of the time for a snapshot at an epoch's start: rerunning steps does not repeat what callbacks change there."""


@dataclasses.dataclass(frozen=True)
class Position:
    """Progress of a run: steps done in it, epochs finished, batches done in the current epoch."""

    step: int
    epoch: int
    batch: int


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """The state of a run between two steps, in the host's memory.

    Args:
        position: Progress of the run.
        arrays: Values of the task's variables by key.
        stream: Result of `Stream.state`.
        means: Result of `Stepper.state`.
        random: States of the global random generators when the epoch began, see `random_states.read`.
    """

    position: Position
    arrays: Mapping[str, np.ndarray]
    stream: bytes | None
    means: Mapping[str, Any]
    random: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Alarm:
    """A logged value or a variable that is not finite.

    Args:
        what: `"train/loss"`, or the path of a variable.
        value: Its value, or its first value that is not finite.
        step: Number of the step after which it was noticed, from 1 over the run.
    """

    what: str
    value: float
    step: int

    def __str__(self) -> str:
        return f"{self.what} became {self.value} at step {self.step:,}"


def is_due(since: float, cost: float, share: float) -> bool:
    """Whether an action of `cost` seconds is within its share of the time, `since` seconds after it was last done."""
    return cost <= share * since


def first_not_finite(logs: StepLogs, step: int) -> Alarm | None:
    """Returns the first loss of a call after `step` steps that is not finite; checks all values if none is a loss.

    The norm of gradients may overflow in steps that an optimizer with a loss scale skips.
    """
    found = []
    checked = ["loss"] if "loss" in logs.values else [n for n in logs.values if not n.startswith(GRADIENT_NORM)]
    for name in checked:
        finite = np.isfinite(logs.values[name])
        if not finite.all():
            first = int(finite.argmin())
            found.append(Alarm(f"train/{name}", float(logs.values[name][first]), step + first + 1))
    return min(found, key=lambda alarm: alarm.step, default=None)


@dataclasses.dataclass(frozen=True)
class _Last:
    """When an action last ended, and how long it took, in seconds."""

    ended: float
    cost: float

    def is_due(self, now: float, share: float) -> bool:
        return is_due(now - self.ended, self.cost, share)


@final
class Watchdog:
    """Checks that all variables are finite, and keeps a snapshot of the last state in which they were.

    A finite loss is not enough: a relu turns NaN into zero. Checks and snapshots take about 0.5 % of the time each.
    The snapshot takes as much of the host's memory as the state. Variables of metrics are not checked, nor are
    variables that are not finite from the start, such as a running minimum.
    """

    def __init__(self, task: Task, engine: Engine, clock: Callable[[], float] = time.monotonic) -> None:
        self._task, self._engine, self._clock = task, engine, clock
        self._unwatched: set[str] | None = None
        self._checked = self._taken = _Last(-math.inf, 0.0)
        self.snapshot: Snapshot | None = None

    def timing(self, now: float | None = None) -> tuple[bool, bool, bool]:
        """What depends on the clock: whether a snapshot at an epoch's start, one inside it, and a check are due."""
        now = self._clock() if now is None else now
        snapshots = (self._taken.is_due(now, share) for share in (SHARE_AT_EPOCH, SHARE))
        return *snapshots, self._checked.is_due(now, SHARE)  # type: ignore[return-value]

    def watch(
        self,
        position: Position,
        stream: Stream,
        means: Mapping[str, Any],
        random: Mapping[str, Any],
        epoch_begins: bool = False,
        takes: bool | None = None,
        agreed: tuple[bool, bool, bool] | None = None,
    ) -> Alarm | None:
        """Checks the variables and takes a snapshot, each if it is due. The first call does both.

        The arguments are what a `Snapshot` holds. `epoch_begins` is true after the callbacks of a new epoch. `takes`
        decides whether to take a snapshot, which is then checked; `None` takes one if it is due. `agreed` is the
        result of `timing` of another process; `None` decides by the clock.

        Returns:
            A variable that is not finite; `None` if all are finite, or if no check was due.
        """
        now = self._clock()
        at_epoch, inside, checks = self.timing(now) if agreed is None or self.snapshot is None else agreed
        if takes is None or self.snapshot is None:
            takes = at_epoch if epoch_begins else inside
        if not takes and not checks:
            return None
        compiles = self._unwatched is None  # the first check, so its time is not the cost
        alarm = self.check(position.step)
        ended = self._clock()
        self._checked = _Last(ended, 0.0 if compiles else ended - now)
        if takes and alarm is None:
            self._take(ended, position, stream, means, random)
        return alarm

    def take_snapshot(
        self, position: Position, stream: Stream, means: Mapping[str, Any], random: Mapping[str, Any]
    ) -> None:
        """Takes a snapshot now, of a state that is known to be finite; see `watch` for the arguments."""
        self._take(self._clock(), position, stream, means, random)

    def _take(
        self, began: float, position: Position, stream: Stream, means: Mapping[str, Any], random: Mapping[str, Any]
    ) -> None:
        self.snapshot = None  # its memory is free before more is held
        held = self._engine.hold(self._task.variables())
        self.snapshot = Snapshot(position, held.arrays, stream.state(), copy.deepcopy(means), random)
        ended = self._clock()
        self._taken = _Last(ended, ended - began + held.seconds_to_come(time.perf_counter))

    def check(self, step: int) -> Alarm | None:
        """Checks the variables now, after `step` train steps, and returns one that is not finite, or `None`."""
        variables = self._task.variables()
        found = self._engine.not_finite(variables)
        if self._unwatched is None:
            self._unwatched = _of_metrics(self._task) | set(found)
        wrong = [key for key in found if key not in self._unwatched]
        return alarm_of(variables[wrong[0]], step) if wrong else None

    @property
    def unwatched(self) -> frozenset[str]:
        """Keys of variables that are not checked."""
        return frozenset(self._unwatched or ())


def _of_metrics(task: Task) -> set[str]:
    """Keys of the variables of metrics, which do not affect training."""
    owned = {id(variable) for metric in task.metrics() for variable in metric.variables}
    return {key for key, variable in task.variables().items() if id(variable) in owned}


def alarm_of(variable: keras.Variable, step: int) -> Alarm:
    """The alarm about a variable that is not finite."""
    values = read_variables({"": variable})[""]
    return Alarm(variable.path, float(values[~np.isfinite(values)][0]), step)
