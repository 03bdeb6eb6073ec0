"""Stepper: runs a compiled step over one split, and averages the values that it logs."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import keras

from lightkeras.data import Feed
from lightkeras.data.feed import StreamFeed
from lightkeras.data.stream_reader import Continued
from lightkeras.data.structure import Structure, digest_of, flatten
from lightkeras.engine import make_engine
from lightkeras.engine.base import Engine, Program, StepLogs
from lightkeras.engine.stream import Stream
from lightkeras.system import heartbeat, random_states
from lightkeras.task import Task
from lightkeras.training import decisions
from lightkeras.training.callbacks.bridge import CallbackBridge
from lightkeras.training.means import Means
from lightkeras.training.metric_values import values_of
from lightkeras.training.restoring import variables_restored


def bound_engine(task: Task) -> Engine:
    """Returns the engine of a task: created once, so that data stays on the device."""
    return task.bind(make_engine)


def steps_of(feed: Feed, limit: int | None) -> int | None:
    """Returns the batches in one epoch, at most `limit`; `None` if unknown before its end."""
    return min((steps for steps in (feed.steps, limit) if steps is not None), default=None)


FIRST_BATCH = "the first batch"
"""Cause of the first compilation of a step."""


@dataclasses.dataclass(frozen=True)
class Compilation:
    """One compilation of a step.

    Args:
        form: Dtypes and shapes of the batch it was compiled for.
        seconds: Time of the call that compiled it, which also ran steps.
        cause: Why it was compiled.
    """

    form: str
    seconds: float
    cause: str


@final
class CallTimes:
    """What calls of a program compiled, and the time of a step in the last call that compiled nothing.

    Attributes:
        compiled: Every compilation so far.
        seconds_per_step: Time of a step; `None` before it is measured.
    """

    def __init__(self) -> None:
        self.compiled: list[Compilation] = []
        self.seconds_per_step: float | None = None
        self.begin(FIRST_BATCH)

    def begin(self, cause: str) -> None:
        """Begins with a new program, which was made for a `cause`."""
        self._cause, self._noted = cause, 0  # forms of the program that are listed in `compiled`
        self._sizes: set[int] = set()

    def add(self, forms: Sequence[str], logs: StepLogs, seconds: float, measures: bool = True) -> None:
        """Adds a call of `seconds`, after which the program has `forms`; with `measures` it may measure a step."""
        heartbeat.beat()
        for number, form in enumerate(forms[self._noted :], start=self._noted):
            cause = f"a batch of another form than {forms[0]}" if number else self._cause
            self.compiled.append(Compilation(form, seconds, cause))
        self._noted = len(forms)
        if logs.steps:
            size = int(logs.examples[-1])
            if measures and size in self._sizes:  # the first call for a size compiles: its time does not count
                self.seconds_per_step = seconds / logs.steps
            self._sizes.add(size)


@final
class Stepper:
    """Runs a step over a split, epoch by epoch.

    Args:
        task: The task.
        engine: Its engine.
        feed: The split.
        program: The compiled step.
        limit: Maximum number of batches per epoch; `None` for no limit.
        seed: Seed of the order of examples.
        continues: Whether an epoch that the limit ends is continued by the next one, see `StreamFeed.continues`.

    Attributes:
        stream: The remaining batches of the epoch; `None` between two epochs, unless they continue one another.
        random: States of the global random generators when the epoch began, see `random_states.read`.
        left_out: Metrics that the step does not update, see `metric_values.not_updated`.
        first_batch: Digest of a stream's first batch; `None` until the preflight read it.
        keeps_first: Whether to keep that batch as `first`.
        reads_all: Whether each of several processes reads all rows of a stream; if not, those that it computes.
    """

    def __init__(
        self,
        task: Task,
        engine: Engine,
        feed: Feed,
        program: Program,
        limit: int | None = None,
        seed: int = 0,
        continues: bool = False,
    ) -> None:
        self.task, self._engine, self.limit = task, engine, limit
        self.continues = continues and limit is not None and isinstance(feed, StreamFeed) and feed.continues
        self._continued: Continued | None = None  # where the epoch begins, in a stream that epochs continue
        self.feed, self.program, self.seed = feed, program, seed
        self.stream: Stream | None = None
        self.random: dict[str, Any] = {}
        self.left_out: Sequence[keras.metrics.Metric] = ()
        self.first_batch: str | None = None
        self.keeps_first, self.reads_all = False, False
        self.first: Structure | None = None
        self.calls = CallTimes()
        self._means = Means()

    @property
    def steps(self) -> int | None:
        """Batches in one epoch; `None` if unknown before its end."""
        return steps_of(self.feed, self.limit)

    def fingerprint(self) -> str | None:
        """Digest of all arrays of the split, or of a stream's first batch; `None` if the preflight did not read it."""
        return self.feed.fingerprint() or self.first_batch

    def note_first_batch(self, batch: Structure) -> None:
        """Records the digest of the first batch of a stream.

        Args:
            batch: NumPy arrays.
        """
        self.first_batch = self.digest(batch)
        self.first = batch if self.keeps_first else None

    def digest(self, batch: Structure) -> str:
        """Digest of a batch of the split."""
        encoded = isinstance(self.feed, StreamFeed) and self.feed.raw is not None
        # The last bits of features depend on the machine.
        return digest_of({path: leaf for path, leaf in flatten(batch) if not encoded or leaf.dtype.kind != "f"})

    def replace_program(self, program: Program, cause: str) -> None:
        """Replaces the compiled step, for streams that are opened from now on."""
        self.program = program
        self.calls.begin(cause)

    def reset(self) -> None:
        """Resets means and metrics."""
        self._means = Means()
        self.task.reset_metrics()

    def begin(self, epoch: int) -> Stream:
        """Resets means and metrics, and opens the split at the start of an epoch, or continues where the last ended."""
        self.reset()
        if self.continues and self.stream is not None:
            self.stream.allow(self.limit)
            return self.stream
        self.close()
        if self.continues:
            openings = epoch if self._continued is None else self._continued.openings + 1
            self._continued = Continued(0, openings, random_states.read())
        feed = self._read_feed()
        self.stream = self._engine.open(feed, epoch, 0, self.seed, None, self.program, self.limit, self._continued)
        return self.stream

    def begin_anew(self, epoch: int) -> Stream | None:
        """Opens a split again that had come to its end where the last epoch ended; `None` for any other."""
        if self._continued is None or not self._continued.batches:
            return None
        self.close()
        self.random = random_states.read()
        return self.begin(epoch)

    def end_epoch(self, batches: int) -> None:
        """Moves the start of the next epoch, in a stream that epochs continue.

        Args:
            batches: Batches of the epoch.
        """
        if self._continued is not None:
            self._continued = dataclasses.replace(self._continued, batches=self._continued.batches + batches)

    def close(self) -> None:
        """Closes the stream, if one is open."""
        if self.stream is not None:
            self.stream.close()
            self.stream = None

    def state(self) -> dict[str, Any]:
        """The means so far, as JSON values. Metrics are not included: they are variables of the task."""
        continued = {} if self._continued is None else {"continued": dataclasses.asdict(self._continued)}
        return {**self._means.state(), **continued}

    def resume(
        self, epoch: int, step: int, means: Mapping[str, Any], state: bytes | None, begun: bool = True
    ) -> Stream:
        """Opens the split inside an epoch, with the results of `state` and `Stream.state` at that step.

        If the epoch has not `begun`, no batch of it is read before `begin`.
        """
        self._means.restore(means)
        # A run without the limit, or of an earlier version, opened the stream in each epoch.
        continued = _continued(means) or (Continued(0, epoch, self.random) if self.continues else None)
        self._continued = continued if self.continues else None
        self.close()
        limit = None if self.limit is None else (self.limit - step if begun else 0)
        feed = self._read_feed()
        self.stream = self._engine.open(feed, epoch, step, self.seed, state, self.program, limit, continued)
        return self.stream

    def _read_feed(self) -> Feed:
        world = self._engine.world
        if self.reads_all or world.processes == 1 or not isinstance(self.feed, StreamFeed):
            return self.feed
        return self.feed.of_rows(world.rows)

    def skip_epochs(self, count: int, means: Mapping[str, Any] | None = None) -> None:
        """Advances a feed that was not opened yet.

        Args:
            count: Epochs or other passes that were done.
            means: Result of `state`, for a stream that epochs continue: it was opened less often; `None` for others.
        """
        continued = None if means is None else _continued(means)
        self._engine.skip_epochs(self.feed, count if continued is None else continued.openings)
        for _ in range(count):
            self.feed.begin_pass()
            self.feed.end_pass()

    def add(self, logs: StepLogs, seconds: float) -> None:
        """Adds the logs of one call of at least one step to the means, and measures the time of a step."""
        self.calls.add(self.program.forms, logs, seconds)
        self._means.add(logs)

    @property
    def examples(self) -> int:
        """Examples of the epoch so far."""
        return self._means.examples

    def means(self) -> dict[str, float]:
        """Means of the logged values so far, weighted by examples."""
        return self._means.values()

    def metrics(self) -> dict[str, float]:
        """Current values of the stateful metrics that the step updates."""
        return dict(values_of(self.task, self.left_out))

    def values(self) -> dict[str, float]:
        """The means, and the current values of the stateful metrics that the step updates."""
        return self.means() | self.metrics()

    def try_one(self, feed: Feed | None = None, step: int = 0) -> StepLogs:
        """Runs the step with index `step` of a feed, the split itself by default, for the preflight."""
        stream = self._engine.open(self.feed if feed is None else feed, step=step, program=self.program, limit=1)
        began = time.perf_counter()
        with contextlib.closing(stream):
            logs = self.program.run(stream, 1)
        self.calls.add(self.program.forms, logs, time.perf_counter() - began, measures=False)
        return logs

    def run(
        self,
        steps_per_call: int | None,
        bridge: CallbackBridge | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> dict[str, float] | None:
        """Evaluates the whole split. Stateful metrics are restored afterwards.

        Args:
            steps_per_call: Steps per compiled call; `None` fills about 0.3 s.
            bridge: Callbacks to call; `None` calls none.
            stopped: Called after each compiled call; `True` ends the evaluation.

        Returns:
            The values of the split by plain name; `None` if it was ended early.

        Raises:
            ValueError: The split has no batch.
        """
        metrics = {f"{i}.{j}": v for i, m in enumerate(self.task.metrics()) for j, v in enumerate(m.variables)}
        completed = False
        self.feed.begin_pass()
        try:
            with variables_restored(metrics):
                values = self._run(self.begin(0), steps_per_call, bridge, stopped)
            completed = values is not None
        finally:
            self.close()
            self.feed.end_pass(completed)
        return values

    def _run(
        self, stream: Stream, steps_per_call: int | None, bridge: CallbackBridge | None, stopped: Callable[[], bool]
    ) -> dict[str, float] | None:
        done, steps = 0, self.steps
        by_batch = bridge is not None and bridge.watches_test_batches
        fixed = 1 if by_batch else steps_per_call
        if bridge is not None:
            bridge.hooks.on_test_begin()
        while steps is None or done < steps:
            if by_batch and bridge is not None:
                bridge.test_batches.begin(done)
            left = None if steps is None else steps - done
            began = time.perf_counter()
            count = decisions.steps_next(left, self.calls.seconds_per_step, fixed)
            logs = self.program.run(stream, self._engine.world.first("steps", count))  # it depends on measured times
            if not logs.steps:
                break
            self.add(logs, time.perf_counter() - began)
            if by_batch and bridge is not None:
                bridge.test_batches.end(done, self.means, self.metrics)
            done += logs.steps
            if stopped():
                return None
        if not done:
            raise ValueError("The split to evaluate on is empty; expected at least one batch.")
        values = self.values()
        if bridge is not None:
            bridge.hooks.on_test_end(values)
        return values


def is_reordered(stepper: Stepper) -> bool:
    """Whether two epochs of a stream begin with different batches, so that one of them does not identify it."""
    before, feed, firsts = random_states.read(), stepper.feed, []
    for epoch in (0, 1):
        with contextlib.closing(bound_engine(stepper.task).open(feed, epoch, limit=1)) as stream:
            firsts.append(stream.next_batch())
        feed.begin_pass()
        feed.end_pass()  # a dataset may shuffle itself there
    random_states.write(before)
    return stepper.digest(firsts[0]) != stepper.digest(firsts[1])


def _continued(means: Mapping[str, Any]) -> Continued | None:
    return Continued(**means["continued"]) if "continued" in means else None
