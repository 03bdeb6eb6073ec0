"""When a loss or a variable is no longer finite: which step broke it, and where in the step.

Many steps run in one call, so that the state has moved on when a broken loss shows. A `Watchdog` takes a
snapshot of the state between two calls, as often as it costs little; `locate` puts the last one back and runs
the steps again, one at a time, until one breaks. It leaves the task at the state before that step.

    watchdog.look(position, ...)                # after each call: Alarm, or None
    found = locate(task, train_stepper, watchdog.snapshot, alarm)
    found.broken                                # the step, the batch, the first layer that broke
    found.stream                                # the batches after it, to go on without that batch
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import final

import keras
import numpy as np

from lightkeras.data.feed import ArrayFeed
from lightkeras.data.structure import Structure
from lightkeras.engine.base import Engine, StepLogs, Stream
from lightkeras.system import random_states
from lightkeras.system.digest import Digest
from lightkeras.system.variables import read_variables, write_variables
from lightkeras.task import Task
from lightkeras.training.divergence.explain import explain_step, is_float
from lightkeras.training.divergence.watchdog import Alarm, Position, Snapshot, alarm_of, first_not_finite
from lightkeras.training.stepper import Stepper, bound_engine


@dataclasses.dataclass(frozen=True)
class Broken:
    """The step that broke a run.

    Args:
        step: The step, from 1, over the run.
        epoch: Its epoch, from 1.
        batch: Its batch in the epoch, from 1.
        what: What is not finite: `"train/loss"`, or the path of a variable.
        value: Its value.
        where: A sentence: the first thing in the step that is not finite.
        examples: Numbers of the batch's examples in arrays held in memory; empty for a stream.
    """

    step: int
    epoch: int
    batch: int
    what: str
    value: float
    where: str
    examples: tuple[int, ...] = ()

    def __str__(self) -> str:
        return (
            f"{self.what} became {self.value} at step {self.step:,} (epoch {self.epoch}, batch {self.batch:,}): "
            f"{self.where}"
        )


@dataclasses.dataclass(frozen=True)
class Located:
    """What `locate` found. The task is at the state before the broken step.

    Args:
        broken: The step.
        repeated: Whether the step broke again. If not, the task is at the state of the snapshot, and
            `batch` and `stream` are `None`.
        batch: Its batch, NumPy arrays.
        shapes: What `Stream.shapes` gave for it.
        stream: The batches after it: going on with them skips it.
        logs: What the step logged, by plain name.
        digests: Digests of the variables after the step, by key.
    """

    broken: Broken
    repeated: bool
    batch: Structure | None = None
    shapes: list[list[int | None]] | None = None
    stream: Stream | None = None
    logs: Mapping[str, float] = dataclasses.field(default_factory=dict)
    digests: Mapping[str, str] = dataclasses.field(default_factory=dict)


def digests_of(variables: Mapping[str, keras.Variable]) -> dict[str, str]:
    """Digests of the values of variables, to the bit; but a NaN is a NaN, whatever its bits."""
    found = {}
    for key, array in read_variables(variables).items():
        if is_float(array):
            array[np.isnan(array)] = np.nan
        found[key] = Digest(f"{array.shape}:{array.dtype};", array).hex()
    return found


def locate(
    task: Task,
    train_stepper: Stepper,
    snapshot: Snapshot,
    alarm: Alarm,
    *,
    unwatched: frozenset[str] = frozenset(),
) -> Located:
    """Finds the step that broke a run, by running again what came after a snapshot.

    Afterwards the variables, the means of `train_stepper` and the global generators are those before that step.

    Args:
        task: The task.
        train_stepper: The pass over the train split. No other stream of it should be open that has a state
            of its own, such as a generator.
        snapshot: The last state that was whole.
        alarm: What was noticed.
        unwatched: `Watchdog.unwatched`.

    Returns:
        The step; or, where no step broke when it was run again, what was noticed, and that.
    """
    try:
        found = _repeat(task, train_stepper, snapshot, alarm, unwatched)
    except Exception as error:  # the run broke before this did, and that is what must be told
        return _not_repeated(task, train_stepper, snapshot, alarm, f"{type(error).__name__}: {error}")
    if found is not None:
        return found
    count = alarm.step - snapshot.position.step
    why = (
        f"none of the {count:,} steps after step {snapshot.position.step:,} broke when they were run again. "
        "Something else changed the state or the batches meanwhile, such as a callback or a stream whose order "
        "cannot be brought back; or the step is not deterministic, as some are not on a GPU"
    )
    return _not_repeated(task, train_stepper, snapshot, alarm, why)


@final
class _Rerun:
    """The steps after a snapshot, run again."""

    def __init__(self, task: Task, train_stepper: Stepper, snapshot: Snapshot) -> None:
        self.task, self.position = task, snapshot.position
        self._train_stepper = train_stepper
        _put_back(task, snapshot)
        at = snapshot.position
        self.stream = train_stepper.resume(at.epoch, at.batch, snapshot.means, snapshot.stream)

    def run(self, count: int) -> StepLogs:
        """The next steps: `count` of them, or fewer at the end of an epoch."""
        self._enter_epoch()
        left = self._left()
        logs = self._train_stepper.program.run(self.stream, count if left is None else min(count, left))
        if not logs.steps:
            self._next_epoch()
            logs = self._train_stepper.program.run(self.stream, count)
        if not logs.steps:
            raise ValueError(f"Epoch {self.position.epoch + 1} of the train split gave no batch.")
        self._moved(logs.steps)
        return logs

    def next_batch(self) -> Structure:
        self._enter_epoch()
        batch = self.stream.next_batch()
        if batch is None:
            self._next_epoch()
            batch = self.stream.next_batch()
        self._moved(1)
        return batch

    def _left(self) -> int | None:
        steps = self._train_stepper.steps
        return None if steps is None else steps - self.position.batch

    def _enter_epoch(self) -> None:
        if self._left() == 0:
            self._next_epoch()

    def _next_epoch(self) -> None:
        self.position = dataclasses.replace(self.position, epoch=self.position.epoch + 1, batch=0)
        self.stream = self._train_stepper.begin(self.position.epoch)

    def _moved(self, steps: int) -> None:
        at = self.position
        self.position = Position(at.step + steps, at.epoch, at.batch + steps)


def _repeat(
    task: Task,
    train_stepper: Stepper,
    snapshot: Snapshot,
    alarm: Alarm,
    unwatched: frozenset[str],
) -> Located | None:
    engine, rerun = bound_engine(task), _Rerun(task, train_stepper, snapshot)
    found = _first_broken(rerun, engine, alarm.step, unwatched)
    if found is None:
        return None
    alarm, logs = found
    digests = digests_of(task.variables())
    del rerun  # and its stream, which may read from the same place as the next
    # The second time up to the step alone: a copy of the state before every step would cost far more.
    rerun = _Rerun(task, train_stepper, snapshot)
    while rerun.position.step < alarm.step - 1:
        began = time.perf_counter()
        done = rerun.run(alarm.step - 1 - rerun.position.step)
        train_stepper.add(done, time.perf_counter() - began)
    batch = rerun.next_batch()
    position, feed = rerun.position, train_stepper.feed
    examples: tuple[int, ...] = ()
    if isinstance(feed, ArrayFeed):
        examples = tuple(feed.indices(position.epoch, position.batch - 1, 1, train_stepper.seed)[0].tolist())
    where = explain_step(task, engine, batch, examples)
    broken = Broken(alarm.step, position.epoch + 1, position.batch, alarm.what, alarm.value, where, examples)
    values = {name: float(column[0]) for name, column in logs.values.items()}
    return Located(broken, True, batch, rerun.stream.shapes(), rerun.stream, values, digests)


def _first_broken(rerun: _Rerun, engine: Engine, last: int, unwatched: frozenset[str]) -> tuple[Alarm, StepLogs] | None:
    """What breaks first up to the step `last`, and the logs of that step."""
    variables = rerun.task.variables()
    watched = {key: variable for key, variable in variables.items() if key not in unwatched}
    while rerun.position.step < last:
        logs = rerun.run(1)
        alarm = first_not_finite(logs, rerun.position.step - 1)
        if alarm is None and (found := engine.not_finite(watched)):
            alarm = alarm_of(watched[found[0]], rerun.position.step)
        if alarm is not None:
            return alarm, logs
    return None


def _not_repeated(task: Task, train_stepper: Stepper, snapshot: Snapshot, alarm: Alarm, why: str) -> Located:
    at, steps = snapshot.position, train_stepper.steps
    _put_back(task, snapshot)
    epoch, batch = at.epoch, at.batch + alarm.step - at.step
    while steps is not None and batch > steps:
        epoch, batch = epoch + 1, batch - steps
    where = f"the step could not be repeated: {why}. The state is that after step {at.step:,}"
    return Located(Broken(alarm.step, epoch + 1, batch, alarm.what, alarm.value, where), repeated=False)


def _put_back(task: Task, snapshot: Snapshot) -> None:
    variables = task.variables()
    # A generator that something drew from for the first time after the snapshot is in no step of it.
    write_variables({key: variables[key] for key in snapshot.arrays}, snapshot.arrays)
    random_states.write(snapshot.random)
