"""When a loss or a variable is no longer finite: which step broke it, and where in the step.

Many steps run in one call, so that the state has moved on when a broken loss shows. A `Watchdog` takes a
snapshot of the state between two calls, as often as it costs little; `locate` puts the last one back and runs
the steps again, one at a time, until one breaks. It leaves the task at the state before that step.

    watchdog.look(position, ...)                # after each call: Alarm, or None
    found = locate(task, learner, engine, watchdog.snapshot, alarm, seed)
    found.broken                                # the step, the batch, the first layer that broke
    found.stream                                # the batches after it, to go on without that batch
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import keras
import numpy as np

from lightkeras import checkpoint, randomness
from lightkeras.data.feed import ArrayFeed, Structure, flatten
from lightkeras.engine.base import Engine, Seen, StepLogs, Stream
from lightkeras.passes import Pass
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


def digests_of(variables: Mapping[str, keras.Variable]) -> dict[str, str]:
    """Digests of the values of variables, to the bit; but a NaN is a NaN, whatever its bits."""
    found = {}
    for key, array in checkpoint.read_variables(variables).items():
        if _is_float(array):
            array[np.isnan(array)] = np.nan
        digest = hashlib.blake2b(f"{array.shape}:{array.dtype};".encode(), digest_size=16)
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        found[key] = digest.hexdigest()
    return found


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
        arrays = checkpoint.read_variables(self._task.variables())
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
        return _alarm(variables[wrong[0]], step) if wrong else None

    @property
    def unwatched(self) -> frozenset[str]:
        """Keys of variables that may be anything."""
        return frozenset(self._unwatched or ())


def locate(
    task: Task,
    learner: Pass,
    engine: Engine,
    snapshot: Snapshot,
    alarm: Alarm,
    *,
    seed: int,
    unwatched: frozenset[str] = frozenset(),
) -> Located:
    """Finds the step that broke a run, by running again what came after a snapshot.

    Afterwards the variables, the means of `learner` and the global generators are those before that step.

    Args:
        task: The task.
        learner: The pass over the train split. No other stream of it should be open that has a state
            of its own, such as a generator.
        engine: The task's engine.
        snapshot: The last state that was whole.
        alarm: What was noticed.
        seed: Seed of the run.
        unwatched: `Watchdog.unwatched`.

    Returns:
        The step; or, where no step broke when it was run again, what was noticed, and that.
    """
    try:
        found = _repeat(task, learner, engine, snapshot, alarm, seed, unwatched)
    except Exception as error:  # the run broke before this did, and that is what must be told
        return _not_repeated(task, learner, snapshot, alarm, f"{type(error).__name__}: {error}")
    if found is not None:
        return found
    count = alarm.step - snapshot.position.step
    why = (
        f"none of the {count:,} steps after step {snapshot.position.step:,} broke when they were run again. "
        "Something else changed the state or the batches meanwhile, such as a callback or a stream whose order "
        "cannot be brought back; or the step is not deterministic, as some are not on a GPU"
    )
    return _not_repeated(task, learner, snapshot, alarm, why)


def look_into(task: Task, engine: Engine, batch: Structure, examples: Sequence[int] = ()) -> str:
    """Runs a step uncompiled, and says what in it is not finite first. The variables are put back.

    Args:
        task: The task, at the state before the step.
        engine: Its engine.
        batch: The batch, NumPy arrays.
        examples: Numbers of its examples, if they have any.
    """
    variables = task.variables()
    before = checkpoint.read_variables(variables)
    sick = set(engine.not_finite(variables))
    try:
        logs, seen = engine.run_eagerly(task.run_train_step, batch)
        updated = [_alarm(variables[key], 0) for key in engine.not_finite(variables) if key not in sick]
        return explain(batch, examples, seen, logs, updated)
    except Exception as error:  # a step may use what only a compiled function has
        return f"its layers could not be looked at: uncompiled it raises {type(error).__name__}: {error}"
    finally:
        checkpoint.write_variables(variables, before)


def explain(
    batch: Structure,
    examples: Sequence[int],
    seen: Sequence[Seen],
    logs: Mapping[str, float],
    updated: Sequence[Alarm],
) -> str:
    """The first thing in a step that is not finite, in a sentence.

    Args:
        batch: The batch, NumPy arrays.
        examples: Numbers of its examples, if they have any.
        seen: What the step computed.
        logs: What it logged.
        updated: Variables that are not finite after it.
    """
    first = next((found for found in seen if found.value is not None), None)
    parts = [text for text in (_in_batch(batch, examples),) if text]
    if first is not None and first.kind == "layer":
        if first.inputs is None:
            came = "its inputs were finite"
        else:
            came = f"{first.inputs} came in with its inputs" + ("" if parts else ", which no layer computed")
        parts.append(f"the first layer whose output is not finite is {first.name}: {first.value}; {came}")
    elif first is not None and first.kind == "loss":
        parts.append(f"the outputs of all layers are finite, but the loss computed from them is {first.value}")
    elif first is not None:
        others = sum(found.kind == "gradient" and found.value is not None for found in seen) - 1
        more = f" (and that of {others} more)" if others else ""
        parts.append(f"the gradient of {first.name}{more} is not finite though the loss is: {first.value}")
    elif updated:
        sizes = {found.name: found.largest for found in seen if found.kind == "gradient"}
        size = sizes.get(updated[0].what)
        gradient = "" if size is None else f", though its gradient is finite, at most {size:.4g} in size"
        parts.append(f"the update of {updated[0].what} made it {updated[0].value}{gradient}")
    elif wrong := [f"{name} is {value}" for name, value in logs.items() if not np.isfinite(value)]:
        parts.append(f"all layers, losses and gradients are finite, but {wrong[0]} among what the step logs")
    elif not parts:
        parts.append("uncompiled, layer by layer, the step stays finite: it breaks only in its compiled order")
    return "; ".join(parts)


@final
class _Rerun:
    """The steps after a snapshot, run again."""

    def __init__(self, task: Task, learner: Pass, snapshot: Snapshot, seed: int) -> None:
        self.task, self.position = task, snapshot.position
        self._learner, self._seed = learner, seed
        _put_back(task, snapshot)
        at = snapshot.position
        self.stream = learner.go_on(at.epoch, at.batch, seed, snapshot.means, snapshot.stream)

    def run(self, count: int) -> StepLogs:
        """The next steps: `count` of them, or fewer at the end of an epoch."""
        self._enter_epoch()
        left = self._left()
        logs = self._learner.program.run(self.stream, count if left is None else min(count, left))
        if not logs.steps:
            self._next_epoch()
            logs = self._learner.program.run(self.stream, count)
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
        steps = self._learner.steps
        return None if steps is None else steps - self.position.batch

    def _enter_epoch(self) -> None:
        if self._left() == 0:
            self._next_epoch()

    def _next_epoch(self) -> None:
        self.position = dataclasses.replace(self.position, epoch=self.position.epoch + 1, batch=0)
        self.stream = self._learner.begin(self.position.epoch, self._seed)

    def _moved(self, steps: int) -> None:
        at = self.position
        self.position = Position(at.step + steps, at.epoch, at.batch + steps)


def _repeat(
    task: Task,
    learner: Pass,
    engine: Engine,
    snapshot: Snapshot,
    alarm: Alarm,
    seed: int,
    unwatched: frozenset[str],
) -> Located | None:
    rerun = _Rerun(task, learner, snapshot, seed)
    found = _first_broken(rerun, engine, alarm.step, unwatched)
    if found is None:
        return None
    alarm, logs = found
    digests = digests_of(task.variables())
    del rerun  # and its stream, which may read from the same place as the next
    # The second time up to the step alone: a copy of the state before every step would cost far more.
    rerun = _Rerun(task, learner, snapshot, seed)
    while rerun.position.step < alarm.step - 1:
        began = time.perf_counter()
        done = rerun.run(alarm.step - 1 - rerun.position.step)
        learner.add(done, time.perf_counter() - began)
    batch = rerun.next_batch()
    position, feed = rerun.position, learner.feed
    examples: tuple[int, ...] = ()
    if isinstance(feed, ArrayFeed):
        examples = tuple(feed.indices(position.epoch, position.batch - 1, 1, seed)[0].tolist())
    where = look_into(task, engine, batch, examples)
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
            alarm = _alarm(watched[found[0]], rerun.position.step)
        if alarm is not None:
            return alarm, logs
    return None


def _not_repeated(task: Task, learner: Pass, snapshot: Snapshot, alarm: Alarm, why: str) -> Located:
    at, steps = snapshot.position, learner.steps
    _put_back(task, snapshot)
    epoch, batch = at.epoch, at.batch + alarm.step - at.step
    while steps is not None and batch > steps:
        epoch, batch = epoch + 1, batch - steps
    where = f"the step could not be repeated: {why}. The state is that after step {at.step:,}"
    return Located(Broken(alarm.step, epoch + 1, batch, alarm.what, alarm.value, where), repeated=False)


def _put_back(task: Task, snapshot: Snapshot) -> None:
    variables = task.variables()
    # A generator that something drew from for the first time after the snapshot is in no step of it.
    checkpoint.write_variables({key: variables[key] for key in snapshot.arrays}, snapshot.arrays)
    randomness.write(snapshot.random)


def _of_metrics(task: Task) -> set[str]:
    """Keys of the variables of metrics: what they hold is no part of learning."""
    owned = {id(variable) for metric in task.metrics() for variable in metric.variables}
    return {key for key, variable in task.variables().items() if id(variable) in owned}


def _alarm(variable: keras.Variable, step: int) -> Alarm:
    values = checkpoint.read_variables({"": variable})[""]
    return Alarm(variable.path, float(values[~np.isfinite(values)][0]), step)


def _is_float(array: np.ndarray) -> bool:
    return array.dtype.name.startswith(("float", "bfloat"))  # NumPy counts bfloat16 among no kind


def _in_batch(batch: Structure, examples: Sequence[int]) -> str | None:
    """The first number of a batch that is not finite, in words."""
    for path, array in flatten(batch):
        if not _is_float(array):
            continue
        wrong = np.argwhere(~np.isfinite(array))
        if len(wrong):
            row = int(wrong[0][0])
            name = f" (example {examples[row]:,} of the data, counted from 0)" if examples else ""
            value = float(array[tuple(wrong[0])])
            return f"the batch itself is not finite: array {path or '0'} holds {value} in row {row}{name}"
    return None
