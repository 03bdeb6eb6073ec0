"""A pass over one split: a compiled step, the feed it reads, and the means of what it logs."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any, final

import keras
import numpy as np

from lightkeras.data import Feed
from lightkeras.engine import make_engine
from lightkeras.engine.base import Engine, Program, StepLogs, Stream
from lightkeras.system import heartbeat
from lightkeras.system.variables import read_variables, write_variables
from lightkeras.task import Task
from lightkeras.training import decisions
from lightkeras.training.callbacks import CallbackBridge


def bound_engine(task: Task) -> Engine:
    """The engine of a task: made once, so that data stays where it was put."""
    return task.bind(make_engine)


def metric_values(metric: keras.metrics.Metric) -> dict[str, float]:
    """Current values of a metric by name; a metric that holds several gives them all."""
    result = metric.result()
    if not isinstance(result, dict):
        result = {metric.name: result}
    return {name: float(keras.ops.convert_to_numpy(value)) for name, value in result.items()}


FIRST_BATCH = "the first batch"
"""Why a step is compiled for the first time."""


@dataclasses.dataclass(frozen=True)
class Compilation:
    """A form of batch that a step was compiled for.

    Args:
        form: The form.
        seconds: Time of the call that did it, with its steps.
        cause: Why it had to be.
    """

    form: str
    seconds: float
    cause: str


@final
class Stepper:
    """A step over a split, again and again.

    Args:
        task: The task.
        engine: Its engine.
        feed: The split.
        program: The compiled step.
        limit: Most batches of an epoch that are used; `None` for all of them.
    """

    def __init__(
        self,
        task: Task,
        engine: Engine,
        feed: Feed,
        program: Program,
        limit: int | None = None,
    ) -> None:
        self._task, self._engine, self._limit = task, engine, limit
        self.feed, self.program = feed, program
        self.examples = 0
        self.seconds = 0.0
        self.seconds_per_step: float | None = None
        self.compiled: list[Compilation] = []
        self._noted = 0  # forms of the program that are among those
        self._cause = FIRST_BATCH
        self._sums: dict[str, float] = {}
        self._compiled_for: set[int] = set()

    @property
    def steps(self) -> int | None:
        """Batches in one epoch; `None` if that shows only at its end."""
        known = [steps for steps in (self.feed.steps, self._limit) if steps is not None]
        return min(known, default=None)

    def take(self, program: Program, cause: str) -> None:
        """Goes on with another program of the step, from the next stream on.

        Args:
            program: The compiled step.
            cause: Why, for the list of what was compiled.
        """
        self.program, self._cause = program, cause
        self._noted, self._compiled_for = 0, set()

    def reset(self) -> None:
        """Empties means and metrics."""
        self.examples, self._sums = 0, {}
        for metric in self._task.metrics():
            metric.reset_state()

    def begin(self, epoch: int, seed: int) -> Stream:
        """Starts over: means and metrics are empty, the feed is at the start of the epoch."""
        self.reset()
        return self._engine.open(self.feed, epoch, 0, seed, program=self.program)

    def state(self) -> dict[str, Any]:
        """The means so far as JSON values; the metrics are variables of the task."""
        return {"examples": self.examples, "sums": dict(self._sums)}

    def go_on(self, epoch: int, step: int, seed: int, means: Mapping[str, Any], state: bytes | None) -> Stream:
        """Goes on inside an epoch.

        Args:
            epoch: The epoch, from 0.
            step: Batches that were done.
            seed: Seed of the run.
            means: What `state` gave.
            state: What the stream's `state` gave.
        """
        self.examples, self._sums = means["examples"], dict(means["sums"])
        return self._engine.open(self.feed, epoch, step, seed, state, self.program)

    def skip_epochs(self, count: int) -> None:
        """Brings the feed to where it is after so many passes."""
        self._engine.skip_epochs(self.feed, count)

    def add(self, logs: StepLogs, seconds: float) -> None:
        """Takes in the logs of some steps, and learns how long one takes.

        Args:
            logs: Logs of at least one step.
            seconds: Time that the call took.
        """
        self.seconds = seconds
        self._note_compiled(seconds)
        size = int(logs.examples[-1])
        if size in self._compiled_for:  # the first call for a size compiles, and says nothing of speed
            self.seconds_per_step = seconds / logs.steps
        self._compiled_for.add(size)
        self.examples += int(logs.examples.sum())
        for name, values in logs.values.items():
            # One after the other, so that the sum does not depend on how many steps a call had.
            terms = np.concatenate([[self._sums.get(name, 0.0)], values.astype(np.float64) * logs.examples])
            self._sums[name] = float(np.add.accumulate(terms)[-1])

    def means(self) -> dict[str, float]:
        """Means of the steps' logs so far, weighted by examples."""
        return {name: total / self.examples for name, total in self._sums.items()}

    def values(self) -> dict[str, float]:
        """The means, and the stateful metrics as they stand."""
        metrics = [metric_values(metric) for metric in self._task.metrics()]
        return self.means() | {name: value for values in metrics for name, value in values.items()}

    def try_one(self, feed: Feed | None = None, step: int = 0) -> StepLogs:
        """Runs one step for real.

        Args:
            feed: Where its batch comes from, in the form of the split; `None` is the split itself.
            step: Which batch, from 0.
        """
        stream = self._engine.open(self.feed if feed is None else feed, step=step, program=self.program)
        began = time.perf_counter()
        logs = self.program.run(stream, 1)
        self._note_compiled(time.perf_counter() - began)
        if logs.steps:
            self._compiled_for.add(int(logs.examples[-1]))
        return logs

    def _note_compiled(self, seconds: float) -> None:
        heartbeat.beat()
        for number, form in enumerate(self.program.forms[self._noted :], start=self._noted):
            cause = f"a batch of another form than {self.program.forms[0]}" if number else self._cause
            self.compiled.append(Compilation(form, seconds, cause))
        self._noted = len(self.program.forms)

    def run(
        self,
        seed: int,
        steps_per_call: int | None,
        bridge: CallbackBridge | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> dict[str, float] | None:
        """Runs over the whole split, and leaves stateful metrics as they were.

        Args:
            seed: Seed of the run.
            steps_per_call: Steps per compiled call; `None` for as many as are sensible.
            bridge: Callbacks to tell, or `None`.
            stopped: Asked after each call whether to give up.

        Returns:
            The values of the split by plain name; `None` if it was given up.
        """
        metrics = {f"{i}.{j}": v for i, m in enumerate(self._task.metrics()) for j, v in enumerate(m.variables)}
        before = read_variables(metrics)
        try:
            return self._run(seed, steps_per_call, bridge, stopped)
        finally:
            write_variables(metrics, before)

    def _run(
        self, seed: int, steps_per_call: int | None, bridge: CallbackBridge | None, stopped: Callable[[], bool]
    ) -> dict[str, float] | None:
        stream, done, steps = self.begin(0, seed), 0, self.steps
        by_batch = bridge is not None and bridge.watches_test_batches
        fixed = 1 if by_batch else steps_per_call
        if bridge is not None:
            bridge.hooks.on_test_begin()
        while steps is None or done < steps:
            if by_batch and bridge is not None:
                bridge.hooks.on_test_batch_begin(done)
            left = None if steps is None else steps - done
            began = time.perf_counter()
            logs = self.program.run(stream, decisions.steps_next(left, self.seconds_per_step, fixed))
            if not logs.steps:
                break
            self.add(logs, time.perf_counter() - began)
            if by_batch and bridge is not None:
                bridge.hooks.on_test_batch_end(done, self.values())
            done += logs.steps
            if stopped():
                return None
        if not done:
            raise ValueError("The split to evaluate on is empty; expected at least one batch.")
        values = self.values()
        if bridge is not None:
            bridge.hooks.on_test_end(values)
        return values
