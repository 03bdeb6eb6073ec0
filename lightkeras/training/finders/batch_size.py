"""Batch-size finder: suggests the largest power of two that fits.

for size in low, 2 low, 4 low, ...:
    stop if its estimated memory is not available     # on a CPU the kernel kills a process before an allocation fails
    run a few train steps, restore all state
    stop if they ran out of memory
suggest the last size that fitted
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import math
import time
from collections.abc import Sequence
from typing import Any, final

from lightkeras import hparams
from lightkeras.data.arrays import train_of
from lightkeras.data.feed import ArrayFeed, Feed, raw_feed
from lightkeras.data.structure import first_examples, map_structure
from lightkeras.encoders.features import FeatureCache, encode_feed
from lightkeras.engine.base import Engine, Trace
from lightkeras.engine.stream import Stream
from lightkeras.runs.results import BatchSize, BatchSizes
from lightkeras.system import memory
from lightkeras.system.display import phase
from lightkeras.system.messages import check_whole
from lightkeras.task import Task
from lightkeras.training import setup
from lightkeras.training.preflight.splits import check_feed
from lightkeras.training.restoring import restored
from lightkeras.training.settings import Settings
from lightkeras.training.stepper import bound_engine
from lightkeras.training.tracing import trace_train

KEPT_FREE = 0.2
"""Share of the available memory that a batch size must leave."""


@final
@dataclasses.dataclass(frozen=True)
class SizeSearch:
    """Settings of a search for the largest batch that fits.

    Args:
        low: First size.
        high: Largest size; `None` for the number of examples.
        steps: Train steps to time with each size.
        memory_bytes: Memory that the process may use, in bytes; `None` for the memory available on the system.

    Raises:
        ValueError: A setting is out of its range.
    """

    low: int
    high: int | None
    steps: int
    memory_bytes: int | None

    def __post_init__(self) -> None:
        check_whole("", "low", self.low, 1)
        check_whole("", "steps", self.steps, 1)
        if self.low & (self.low - 1):
            raise ValueError(f"low={self.low}: expected a power of two, such as {1 << self.low.bit_length() - 1}.")
        check_whole("", "high", self.high, 1, optional=True)
        if self.high is not None and self.high < self.low:
            raise ValueError(f"low={self.low}, high={self.high}: expected low to be at most high.")
        check_whole("", "memory_bytes", self.memory_bytes, 1, optional=True)

    def sizes(self, examples: int | None) -> list[int]:
        """The sizes to try; `examples` is the size of the split, `None` if unknown.

        Raises:
            ValueError: There are fewer examples than `low`.
        """
        if examples is not None and examples < self.low:
            raise ValueError(f"low={self.low}: the train split has {examples} examples. Lower low to at most that.")
        most = min(self.high or 1 << 30, examples or 1 << 30)
        return [1 << power for power in range(self.low.bit_length() - 1, most.bit_length())]


def find_batch_size(settings: Settings, task: Task, train: Any, search: SizeSearch) -> BatchSizes:
    """Finds the largest batch that fits, and restores all state; see `Runner.find_batch_size`."""
    feed = setup.train_split(settings, task, train, search.low)
    with restored(task):  # tracing also draws from the random generators
        return _find(task, feed, train is not None, search, settings.seed)


def _find(task: Task, feed: Feed, given: bool, search: SizeSearch, seed: int) -> BatchSizes:
    began = time.perf_counter()
    if not isinstance(feed, ArrayFeed) and (given or "batch_size" not in hparams.to_dict(task.hp)):
        raise ValueError(
            "The train split is a stream of batches, so their size cannot be varied. "
            "Give arrays, or a task with a hyperparameter `batch_size` that its build_data uses."
        )
    sizes = search.sizes(feed.examples)
    if isinstance(feed, ArrayFeed):
        check_feed(task, _with_batches_of(task, raw_feed(feed), search.low), "train")
    engine = bound_engine(task)
    trace = trace_train(task, engine, feed)
    gc.collect()
    bench = _Bench(task, feed, engine, trace, search, seed, held=memory.resident_bytes())
    tried: list[BatchSize] = []
    why_no_more: str | None = None
    with restored(task) as state:
        for size in sizes:
            gc.collect()  # reference cycles hold the graphs and data of the previous size
            try:
                with phase(f"trying batches of {size:,} examples"):
                    found, why_no_more = bench.try_size(size, tried)
            finally:
                state.restore_variables()
            tried += [] if found is None else [found]
            if why_no_more is not None:
                break
    if why_no_more is None:
        by_examples = feed.examples is not None and feed.examples < (search.high or math.inf)
        end = f"the {feed.examples:,} examples" if by_examples else f"high={search.high}"
        why_no_more = f"{sizes[-1]} is the largest power of two up to {end}"
    suggestion = max((found.size for found in tried if found.fits), default=None)
    return BatchSizes(tuple(tried), suggestion, why_no_more, time.perf_counter() - began)


@dataclasses.dataclass(frozen=True)
class _Bench:
    """Tries batch sizes; `held` is the memory of the process before the first, in bytes."""

    task: Task
    feed: Feed
    engine: Engine
    trace: Trace
    search: SizeSearch
    seed: int
    held: int

    def try_size(self, size: int, tried: Sequence[BatchSize]) -> tuple[BatchSize | None, str | None]:
        """Returns the measurement of a size, and the reason to end the search; each may be `None`."""
        limit = self.search.memory_bytes
        if limit is None:
            limit = memory.resident_bytes() + int((1 - KEPT_FREE) * memory.available_bytes())
        needed = memory_next([found.memory_bytes or 0 for found in tried], self.held)
        if needed is not None and self.held + needed > limit:
            reason = f"{size} would bring the process to about {_gb(self.held + needed)}; it may hold {_gb(limit)}"
            return BatchSize(size, False, needed), reason
        memory.forget_peak()
        try:
            seconds = self._seconds_per_step(size, first=not tried)
        except Exception as error:
            if not self.engine.is_out_of_memory(error):
                raise
            return BatchSize(size, False), f"{size} ran out of memory ({type(error).__name__})"
        if seconds is None:
            return None, f"there are fewer than {size} examples"
        peak = memory.peak_bytes()
        fits = peak <= limit
        found = BatchSize(size, fits, max(0, peak - self.held), seconds, size / seconds)
        return found, None if fits else f"{size} brought the process to {_gb(peak)}; it may hold {_gb(limit)}"

    def _seconds_per_step(self, size: int, first: bool) -> float | None:
        """Duration of a train step; `None` if there are too few examples for a batch.

        Raises:
            ValueError: The batches have another size.
        """
        feed, steps = _with_batches_of(self.task, self.feed, size), self.search.steps
        program = self.engine.program(self.task.run_train_step, self.trace.names)
        with contextlib.ExitStack() as streams:

            def opened(epoch: int) -> Stream:
                stream = self.engine.open(feed, epoch, 0, self.seed, program=program)
                return streams.enter_context(contextlib.closing(stream))

            stream = opened(0)
            logs = program.run(stream, steps)  # compiles
            found, wanted = int(logs.examples[0]) if logs.steps else 0, logs.steps
            if found > size or (found < size and first):
                raise ValueError(
                    f"{type(self.task).__name__}.build_data gave a first batch of {found} examples where {size} were "
                    "expected. Use self.hp.batch_size in build_data, and set `low` to at most the number of examples."
                )
            if found < size:
                return None
            began = time.perf_counter()
            logs = program.run(stream, steps)
            if logs.steps < wanted:  # the rest of the epoch is too short to time
                stream = opened(1)
                began = time.perf_counter()
                logs = program.run(stream, steps)
            return (time.perf_counter() - began) * size / int(logs.examples.sum())


def memory_next(taken: Sequence[int], held: int) -> int | None:
    """Estimates the memory of the next size, twice the last.

    It grows as from the last but one to the last size: by a factor of 2 to 4, where 4 is a loss that compares all pairs
    of examples. A larger factor means that earlier sizes reused memory that the allocator had freed and kept: then the
    last size may have used all of it, and `held` is added.

    Args:
        taken: Memory of the sizes so far in bytes, in rising order.
        held: Memory of the process before them, in bytes.

    Returns:
        Bytes; `None` before the first size.
    """
    if not taken:
        return None
    grown = taken[-1] / max(taken[-2], 1) if len(taken) > 1 else 2.0
    return 2 * taken[-1] + held if grown > 4 else int(taken[-1] * max(grown, 2.0))


def _with_batches_of(task: Task, feed: Feed, size: int) -> Feed:
    """The split in batches of a size; arrays without the smaller last batch, which would be compiled separately."""
    if isinstance(feed, ArrayFeed):
        whole = feed.examples // size * size
        arrays = map_structure(lambda leaf: first_examples(leaf, whole), feed.arrays)
        return ArrayFeed(arrays, size, shuffle=feed.shuffle, seed=feed.seed, raw=feed.raw)
    hp = task.hp
    try:
        task.hp = dataclasses.replace(hp, batch_size=size)
        data = task.build_data()
    finally:
        task.hp = hp
    if data is None:
        raise ValueError(
            f"{type(task).__name__}.build_data returned None for batch_size={size}, but a data module before."
        )
    data.prepare(task.lookup)
    return encode_feed(train_of(data, size), task.frozen(), FeatureCache())


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
