"""Locates the step that made a loss or a variable NaN or infinite, and the place in the step.

A compiled call runs many steps, so a broken loss shows only after further updates. `Watchdog` takes snapshots between
calls; `locate` restores the last one and reruns the steps one at a time until one breaks.

    watchdog.watch(position, ...)               # after each call: Alarm, or None
    found = locate(task, train_stepper, watchdog.snapshot, alarm)
    found.broken                                # the step, the batch, the first layer that broke
    found.stream                                # the batches after it, to continue without that batch
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
from lightkeras.engine.base import Engine, StepLogs
from lightkeras.engine.stream import Stream
from lightkeras.system import random_states
from lightkeras.system.digest import Digest
from lightkeras.system.variables import read_variables, write_variables
from lightkeras.task import Task
from lightkeras.training.divergence.explain import explain_step, is_float
from lightkeras.training.divergence.watchdog import Alarm, Position, Snapshot, alarm_of, first_not_finite
from lightkeras.training.stepper import Stepper, bound_engine


@dataclasses.dataclass(frozen=True)
class BrokenStep:
    """A step after which a value is not finite.

    Args:
        step: Number of the step, from 1 over the run.
        epoch: Its epoch, from 1.
        batch: Its batch in the epoch, from 1.
        what: The value that is not finite: `"train/loss"`, or the path of a variable.
        value: Its value.
        where: Sentence that names the first value in the step that is not finite.
        examples: Indices of the batch's examples in the arrays in memory; empty for a stream.
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
class LocatedStep:
    """Result of `locate`. The task holds the state before the broken step.

    Args:
        broken: The step.
        repeated: Whether the step broke again when rerun. If not, the task holds the state of the snapshot, and
            `batch` and `stream` are `None`.
        batch: Its batch, NumPy arrays.
        shapes: Result of `Stream.shapes` for the batch.
        stream: The batches after it: continuing with them skips the batch.
        logs: Values that the step logged, by plain name.
        digests: Digests of the variables after the step, by key.
        compiled_size: See `Program.compiled_size`.
    """

    broken: BrokenStep
    repeated: bool
    batch: Structure | None = None
    shapes: list[list[int | None]] | None = None
    stream: Stream | None = None
    logs: Mapping[str, float] = dataclasses.field(default_factory=dict)
    digests: Mapping[str, str] = dataclasses.field(default_factory=dict)
    compiled_size: int | None = None


def digests_of(variables: Mapping[str, keras.Variable]) -> dict[str, str]:
    """Digests of the bits of variables by key; all NaNs count as equal."""
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
) -> LocatedStep:
    """Finds the step that broke a run, by rerunning the steps after a snapshot.

    The stream of `train_stepper` is replaced. Afterwards the variables, the means of `train_stepper` and the global
    random generators have their values from before that step.

    Returns:
        The step; if none broke again, a result with `repeated=False` and the reason.
    """
    train_stepper.reads_all = True  # the batch is saved
    try:
        found = _repeat(task, train_stepper, snapshot, alarm, unwatched)
    except Exception as error:  # the alarm came first, and must be reported
        return _not_repeated(task, train_stepper, snapshot, alarm, f"{type(error).__name__}: {error}")
    if found is not None:
        return found
    count = alarm.step - snapshot.position.step
    why = (
        f"none of the {count:,} steps after step {snapshot.position.step:,} broke when rerun. "
        "Something else changed the state or the batches, such as a callback or a stream whose order cannot be "
        "restored; or the step is not deterministic, as some operations are not on a GPU"
    )
    return _not_repeated(task, train_stepper, snapshot, alarm, why)


@final
class _Rerun:
    """Reruns the steps after a snapshot."""

    def __init__(self, task: Task, train_stepper: Stepper, snapshot: Snapshot) -> None:
        self.task, self.position = task, snapshot.position
        self._train_stepper = train_stepper
        _restore(task, snapshot)
        at = snapshot.position
        train_stepper.resume(at.epoch, at.batch, snapshot.means, snapshot.stream)

    @property
    def stream(self) -> Stream:
        """The batches that come next."""
        if self._train_stepper.stream is None:
            raise RuntimeError("The train split is not open.")
        return self._train_stepper.stream

    def run(self, count: int) -> StepLogs:
        """Runs `count` steps, or fewer at the end of an epoch."""
        self._enter_epoch()
        left = self._left()
        logs = self._train_stepper.program.run(self.stream, count if left is None else min(count, left))
        if not logs.steps:
            self._next_epoch()
            logs = self._train_stepper.program.run(self.stream, count)
        if not logs.steps:
            raise ValueError(f"Epoch {self.position.epoch + 1} of the train split gave no batch.")
        self._advance(logs.steps)
        return logs

    def next_batch(self) -> Structure:
        self._enter_epoch()
        batch = self.stream.next_batch()
        if batch is None:
            self._next_epoch()
            batch = self.stream.next_batch()
        self._advance(1)
        return batch

    def _left(self) -> int | None:
        steps = self._train_stepper.steps
        return None if steps is None else steps - self.position.batch

    def _enter_epoch(self) -> None:
        if self._left() == 0:
            self._next_epoch()

    def _next_epoch(self) -> None:
        self._train_stepper.end_epoch(self.position.batch)
        if not self._train_stepper.continues:
            self._train_stepper.close()
        self.position = dataclasses.replace(self.position, epoch=self.position.epoch + 1, batch=0)
        self._train_stepper.begin(self.position.epoch)

    def _advance(self, steps: int) -> None:
        at = self.position
        self.position = Position(at.step + steps, at.epoch, at.batch + steps)


def _repeat(
    task: Task,
    train_stepper: Stepper,
    snapshot: Snapshot,
    alarm: Alarm,
    unwatched: frozenset[str],
) -> LocatedStep | None:
    engine, rerun = bound_engine(task), _Rerun(task, train_stepper, snapshot)
    found = _first_broken(rerun, engine, alarm.step, unwatched)
    if found is None:
        return None
    alarm, logs = found
    digests = digests_of(task.variables())
    # Rerun a second time, up to the step before: copying the state before every step would cost far more.
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
    broken = BrokenStep(alarm.step, position.epoch + 1, position.batch, alarm.what, alarm.value, where, examples)
    values = {name: float(column[0]) for name, column in logs.values.items()}
    return LocatedStep(
        broken, True, batch, rerun.stream.shapes(), rerun.stream, values, digests, train_stepper.program.compiled_size
    )


def _first_broken(rerun: _Rerun, engine: Engine, last: int, unwatched: frozenset[str]) -> tuple[Alarm, StepLogs] | None:
    """Returns the first alarm up to the step `last`, and the logs of its step."""
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


def _not_repeated(task: Task, train_stepper: Stepper, snapshot: Snapshot, alarm: Alarm, why: str) -> LocatedStep:
    at, steps = snapshot.position, train_stepper.steps
    _restore(task, snapshot)
    epoch, batch = at.epoch, at.batch + alarm.step - at.step
    while steps is not None and batch > steps:
        epoch, batch = epoch + 1, batch - steps
    where = f"the step could not be reproduced: {why}. The task holds the state after step {at.step:,}"
    return LocatedStep(BrokenStep(alarm.step, epoch + 1, batch, alarm.what, alarm.value, where), repeated=False)


def _restore(task: Task, snapshot: Snapshot) -> None:
    variables = task.variables()
    # Variables that exist only since the snapshot, such as Keras's own random generator, are not in it.
    write_variables({key: variables[key] for key in snapshot.arrays}, snapshot.arrays)
    random_states.write(snapshot.random)
