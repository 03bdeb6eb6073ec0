"""Finders: a learning rate and a batch size to begin with, from a few train steps that leave no trace.

    for rate in rates from low to high:         # find_learning_rate: a range test
        set the learning rate, run one train step
        stop where the loss runs away
    suggest the rate at which the loss fell fastest

    for size in low, 2 low, 4 low, ...:         # find_batch_size
        stop if the memory it would take is not there
        run a few train steps, put everything back
        stop if they ran out of memory
    suggest the last that fitted

Both end with the weights, the optimizers, the metrics and the random states that they began with.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import math
import random
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, final

import keras
import numpy as np
from keras.src.backend.common import global_state  # no public name reaches Keras's own seed generator
from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR

from lightkeras import checkpoint, files, hparams, memory, plots, preflight
from lightkeras._messages import did_you_mean
from lightkeras.data.feed import ArrayFeed, Feed, map_structure
from lightkeras.engine.base import Engine, Trace
from lightkeras.passes import bound_engine
from lightkeras.preflight import TaskError
from lightkeras.results import BatchSize, BatchSizes, LearningRates
from lightkeras.task import Task

RUN_AWAY = 4.0
"""A range test ends where the smoothed loss is this many times its least, as in fastai and Lightning."""

SMOOTHED_OVER = 10
"""Losses are averaged with a memory of `1 / SMOOTHED_OVER` of the range, however many steps it has."""

KEPT_FREE = 0.2
"""Share of the available memory that a batch size must leave."""


@final
@dataclasses.dataclass(frozen=True)
class RangeTest:
    """Settings of a learning-rate range test.

    Args:
        low: First learning rate.
        high: Last learning rate.
        steps: Train steps, each with a rate that is higher than the last by the same factor.
        optimizer: Which optimizer's rate to vary, as the path of the task's attribute; `None` for the only one.
        loss: Name of the logged value to watch.

    Raises:
        ValueError: A setting out of its range.
    """

    low: float
    high: float
    steps: int
    optimizer: str | None
    loss: str

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
                raise ValueError(f"{name}={value!r}: expected a learning rate, a finite number above 0.")
        if self.low >= self.high:
            raise ValueError(f"low={self.low!r}, high={self.high!r}: expected low to be less than high. Swap them.")
        _check_whole("steps", self.steps, 10)

    @property
    def beta(self) -> float:
        """How much of the average a step keeps."""
        return 1 - SMOOTHED_OVER / self.steps

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        return float(self.low * (self.high / self.low) ** (step / (self.steps - 1)))


@final
@dataclasses.dataclass(frozen=True)
class SizeSearch:
    """Settings of a search for the largest batch that fits.

    Args:
        low: First size.
        high: Largest size; `None` for the number of examples.
        steps: Train steps to time with each size.
        memory_bytes: Memory that the process may hold; `None` asks the system what there is.

    Raises:
        ValueError: A setting out of its range.
    """

    low: int
    high: int | None
    steps: int
    memory_bytes: int | None

    def __post_init__(self) -> None:
        _check_whole("low", self.low, 1)
        _check_whole("steps", self.steps, 1)
        if self.low & (self.low - 1):
            raise ValueError(f"low={self.low}: expected a power of two, such as {1 << self.low.bit_length() - 1}.")
        if self.high is not None:
            _check_whole("high", self.high, 1)
            if self.high < self.low:
                raise ValueError(f"low={self.low}, high={self.high}: expected low to be at most high.")
        if self.memory_bytes is not None:
            _check_whole("memory_bytes", self.memory_bytes, 1)

    def sizes(self, examples: int | None) -> list[int]:
        """The sizes to try where there are so many examples; `None` where nobody knows.

        Raises:
            ValueError: There are fewer examples than `low`.
        """
        if examples is not None and examples < self.low:
            raise ValueError(f"low={self.low}: the train split has {examples} examples. Lower low to at most that.")
        most = min(self.high or 1 << 30, examples or 1 << 30)
        return [1 << power for power in range(self.low.bit_length() - 1, most.bit_length())]


# ---------------------------------------------------------------------- the learning rate


def find_learning_rate(task: Task, feed: Feed, test: RangeTest, seed: int, figure: Path | None) -> LearningRates:
    """Runs a learning-rate range test; see `Runner.find_learning_rate`.

    Args:
        task: The task, set up.
        feed: Its train split.
        test: Settings.
        seed: Seed of the order of examples.
        figure: Where to draw the curve; `None` for no drawing.
    """
    began = time.perf_counter()
    preflight.check_feed(task, feed, "train")
    engine = bound_engine(task)
    trace = preflight.trace_train(task, engine, feed)
    rate = _rate_to_vary(task, trace, test.optimizer)
    if test.loss not in trace.names:
        raise ValueError(f"loss={test.loss!r}: no train step logs that. {did_you_mean(test.loss, trace.names)}")
    if figure is not None:  # a place that cannot be written to is found before the work
        with files.explained(figure):
            figure.parent.mkdir(parents=True, exist_ok=True)
    losses: list[float] = []
    running, ran_away = RunningLoss(test.beta), False
    with _rolled_back(task), contextlib.closing(_single_steps(task, engine, trace, feed, seed)) as steps:
        while len(losses) < test.steps and not ran_away:
            rate.assign(test.rate(len(losses)))
            losses.append(next(steps)[test.loss])
            running = running.after(losses[-1])
            ran_away = running.ran_away
    rates = [test.rate(step) for step in range(len(losses))]
    curve = smoothed(losses, test.beta, running.ceiling)
    suggestion, why = suggest(rates, losses, curve)
    end = f"stopped at {rates[-1]:.2g}, where the loss ran away" if ran_away else f"ended at {rates[-1]:.2g}"
    result = LearningRates(
        rates=tuple(rates),
        losses=tuple(losses),
        smoothed=tuple(curve),
        suggestion=suggestion,
        reason=f"{why}; {end} (step {len(losses)} of {test.steps})",
        figure=figure,
        wall_s=time.perf_counter() - began,
    )
    if figure is not None:
        plots.learning_rates(rates, losses, curve, figure, suggestion=suggestion, loss=test.loss)
    return result


@final
@dataclasses.dataclass(frozen=True)
class RunningLoss:
    """The exponential moving average of a loss, with bias correction (Kingma & Ba, "Adam", ICLR 2015, section 3).

    Args:
        beta: How much of the average a step keeps.
        total: The average, before the correction.
        steps: Losses so far.
        least: Least average so far.
        ran_away: Whether the last loss was not finite, or brought the average above `ceiling`.
    """

    beta: float
    total: float = 0.0
    steps: int = 0
    least: float = math.inf
    ran_away: bool = False

    @property
    def ceiling(self) -> float:
        """Four times the least average; for a loss below zero, as far above it as that is for one above zero."""
        return self.least + (RUN_AWAY - 1) * abs(self.least)

    def after(self, loss: float) -> RunningLoss:
        """The average after one more loss."""
        if not math.isfinite(loss):
            return dataclasses.replace(self, ran_away=True)
        total, steps = self.beta * self.total + (1 - self.beta) * loss, self.steps + 1
        average = total / (1 - self.beta**steps)
        ran_away = average > self.ceiling
        return RunningLoss(self.beta, total, steps, min(self.least, average), ran_away)


def smoothed(losses: Sequence[float], beta: float, ceiling: float) -> list[float]:
    """Averages each loss with its neighbours on both sides, weighted by `beta ** distance`.

    A running average is late by its own memory, so that the steepest descent would be found at a rate
    that is too high by as much; this one is not.

    Args:
        losses: Losses of the steps.
        beta: Weight of the next neighbour.
        ceiling: What losses above it, and those that are not finite, count as.
    """
    if not math.isfinite(ceiling):  # the first loss was not finite
        return [math.nan] * len(losses)
    values = np.array(losses, np.float64)
    values = np.where(np.isfinite(values), np.minimum(values, ceiling), ceiling)
    steps = np.arange(len(values))
    weights = np.power(beta, np.abs(steps[:, None] - steps))
    return list(map(float, weights @ values / weights.sum(axis=1)))


def suggest(rates: Sequence[float], losses: Sequence[float], curve: Sequence[float]) -> tuple[float | None, str]:
    """The learning rate at which the loss falls fastest, over the logarithm of the rate.

    Leslie N. Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017, section 3.3, reads
    bounds off the curve by eye: where it begins to fall, and where it turns ragged. The steepest point
    between the two is the rule of fastai (`steep`) and Lightning (`suggestion`). Here only rates below that
    of the least loss count, and a descent counts only if it is more than twice the spread of the losses
    about the curve.

    Args:
        rates: Learning rates of the steps.
        losses: Losses of the steps.
        curve: The losses, smoothed.

    Returns:
        The rate, or `None`; and the reason.
    """
    if not all(map(math.isfinite, curve)):
        return None, "the first loss is not finite: lower `low`, or look at the data"
    bottom = int(np.argmin(curve))
    if bottom < 2:
        return None, "the loss did not fall: lower `low`, or look at the model and its loss"
    before, raw = np.array(curve[: bottom + 1]), np.array(losses[: bottom + 1])
    fell, spread = float(before.max() - before[-1]), float(np.std(raw - before))
    if not fell > 2 * spread:
        return None, (
            f"the loss did not fall beyond its noise (by {fell:.2g}, with a spread of {spread:.2g} from step to "
            "step): take larger batches, more steps or a wider range"
        )
    steepest = int(np.argmin(np.gradient(before, np.log(rates[: bottom + 1]))))
    return float(rates[steepest]), f"the loss fell fastest at {rates[steepest]:.2g}"


def _rate_to_vary(task: Task, trace: Trace, wanted: str | None) -> keras.Variable:
    """The variable that holds the learning rate of an optimizer.

    Raises:
        ValueError: There are several optimizers and none was named, or none has that name.
        TaskError: The optimizer's learning rate is a schedule.
    """
    paths = {id(found): path for path, found in task.tracked().items()}
    optimizers = {paths.get(id(found), found.name): found for found, _ in trace.optimizers()}
    if wanted is None and len(optimizers) > 1:
        raise ValueError(
            f"{type(task).__name__}.train_step uses {len(optimizers)} optimizers. Say whose learning rate to vary, "
            f"as in optimizer={next(iter(optimizers))!r}; the others keep theirs. "
            f"There are: {', '.join(optimizers)}."
        )
    if wanted is not None and wanted not in optimizers:
        raise ValueError(f"optimizer={wanted!r}: no train step uses that. {did_you_mean(wanted, optimizers)}")
    name = next(iter(optimizers)) if wanted is None else wanted
    rate = optimizers[name].learning_rate
    if not isinstance(rate, keras.Variable):
        raise TaskError(
            f"{type(task).__name__}.{name} computes its learning rate from the step (a schedule or a function), so "
            "that none can be set. Give it a number for the search: what is found is the highest rate of the schedule."
        )
    return rate


def _single_steps(
    task: Task, engine: Engine, trace: Trace, feed: Feed, seed: int
) -> Generator[dict[str, float], None, None]:
    """Logs of one train step after the other, from epoch to epoch without end."""
    program = engine.program(task.run_train_step, trace.names, trace.ahead)
    epoch = 0
    while True:
        stream, found = engine.open(feed, epoch, 0, seed, trace.ahead), False
        while (logs := program.run(stream, 1)).steps:
            found = True
            yield {name: float(values[0]) for name, values in logs.values.items()}
        if not found:
            raise ValueError(f"The train split gave no batch in epoch {epoch + 1}; expected at least one.")
        epoch += 1


# ---------------------------------------------------------------------- the batch size


def find_batch_size(task: Task, feed: Feed, given: bool, search: SizeSearch, seed: int) -> BatchSizes:
    """Looks for the largest batch that fits; see `Runner.find_batch_size`.

    Args:
        task: The task, set up.
        feed: Its train split, with batches of any size.
        given: Whether the split was given to the runner, and is not that of the task's data module.
        search: Settings.
        seed: Seed of the order of examples.
    """
    began = time.perf_counter()
    if not isinstance(feed, ArrayFeed) and (given or "batch_size" not in hparams.to_dict(task.hp)):
        raise ValueError(
            "The train split is a stream that brings its batches with it, so that their size cannot be varied. "
            "Give arrays, or a task with a hyperparameter `batch_size` that its build_data uses."
        )
    sizes = search.sizes(feed.examples)
    if isinstance(feed, ArrayFeed):
        preflight.check_feed(task, _with_batches_of(task, feed, search.low), "train")
    engine = bound_engine(task)
    trace = preflight.trace_train(task, engine, feed)
    tried: list[BatchSize] = []
    reason = f"{sizes[-1]} is the largest power of two " + (
        f"up to the {feed.examples:,} examples"
        if feed.examples is not None and feed.examples < (search.high or math.inf)
        else f"up to high={search.high}"
    )
    gc.collect()
    base = memory.resident_bytes()
    with _rolled_back(task) as put_back:
        for size in sizes:
            gc.collect()  # graphs and data of the size before are held by cycles of references
            limit = search.memory_bytes or memory.resident_bytes() + int((1 - KEPT_FREE) * memory.available_bytes())
            needed = memory_next([found.memory_bytes or 0 for found in tried])
            if needed is not None and base + needed > limit:
                tried.append(BatchSize(size, False, needed))
                reason = f"{size} would bring the process to about {_gb(base + needed)}; it may hold {_gb(limit)}"
                break
            memory.forget_peak()
            try:
                timed = _time_steps(task, engine, trace, _with_batches_of(task, feed, size), size, search.steps, seed)
            except Exception as error:
                if not engine.is_out_of_memory(error):
                    raise
                tried.append(BatchSize(size, False))
                reason = f"{size} ran out of memory ({str(error).strip().splitlines()[0]})"
                break
            finally:
                put_back()
            if timed is None:
                _check_not_first(task, size, tried)
                reason = f"there are fewer than {size} examples"
                break
            peak = memory.peak_bytes()
            fits = peak <= limit
            tried.append(BatchSize(size, fits, max(0, peak - base), timed, size / timed))
            if not fits:
                reason = f"{size} brought the process to {_gb(peak)}; it may hold {_gb(limit)}"
                break
    fitting = [found.size for found in tried if found.fits]
    return BatchSizes(tuple(tried), max(fitting, default=None), reason, time.perf_counter() - began)


def memory_next(taken: Sequence[int]) -> int | None:
    """Memory that the next size, twice the last, will take.

    Twice what the last one took, or more if the last took more than twice of what the one before it
    did: up to four times, for a loss that compares each example of a batch with each other.

    Args:
        taken: Memory that the sizes so far took, in rising order.

    Returns:
        Bytes; `None` before the first size.
    """
    if not taken:
        return None
    grown = taken[-1] / taken[-2] if len(taken) > 1 and taken[-2] > 0 else 2.0
    return int(taken[-1] * min(max(grown, 2.0), 4.0))


def _with_batches_of(task: Task, feed: Feed, size: int) -> Feed:
    """The split in batches of a size; of arrays without the smaller last one, which would be compiled apart."""
    if isinstance(feed, ArrayFeed):
        whole = feed.examples // size * size
        arrays = map_structure(lambda array: array[:whole], feed.arrays)
        return ArrayFeed(arrays, size, shuffle=feed.shuffle, seed=feed.seed)
    hp = task.hp
    try:
        task.hp = dataclasses.replace(hp, batch_size=size)
        data = task.build_data()
    finally:
        task.hp = hp
    if data is None:
        raise ValueError(f"{type(task).__name__}.build_data gave a data module first, and None for batch_size={size}.")
    data.prepare(task.lookup)
    return data.train()


def _time_steps(task: Task, engine: Engine, trace: Trace, feed: Feed, size: int, steps: int, seed: int) -> float | None:
    """Seconds of one train step; `None` where there are not enough examples for a batch.

    Raises:
        ValueError: The batches have another size.
    """
    program = engine.program(task.run_train_step, trace.names, trace.ahead)
    stream = engine.open(feed, 0, 0, seed, trace.ahead)
    first = program.run(stream, steps)  # compiles
    if not first.steps or first.examples[0] < size:
        return None
    if first.examples[0] > size:
        raise ValueError(_not_varied(task, size, f"gave one of {first.examples[0]} examples"))
    began = time.perf_counter()
    logs = program.run(stream, steps)
    if logs.steps < first.steps:  # the rest of an epoch, too short to time
        stream = engine.open(feed, 1, 0, seed, trace.ahead)
        began = time.perf_counter()
        logs = program.run(stream, steps)
    return (time.perf_counter() - began) * size / int(logs.examples.sum())


def _check_not_first(task: Task, size: int, tried: Sequence[BatchSize]) -> None:
    if not tried:
        raise ValueError(_not_varied(task, size, "gave a smaller one, or none"))


def _not_varied(task: Task, size: int, found: str) -> str:
    name = type(task).__name__
    return (
        f"{name}.build_data {found} where a batch of {size} was expected. Use self.hp.batch_size in build_data, "
        "and search from a `low` that is at most the number of examples."
    )


# ---------------------------------------------------------------------- both


@contextlib.contextmanager
def _rolled_back(task: Task) -> Iterator[Callable[[], None]]:
    """Puts back what train steps change: variables and random states. What is yielded does so in between, too."""
    variables = task.variables()
    generator = global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)
    if generator is not None:
        variables["Keras's seed generator"] = generator.state
    before = checkpoint.read_variables(variables)
    pythons, numpys = random.getstate(), np.random.get_state()

    def put_back() -> None:
        checkpoint.write_variables(variables, before)
        random.setstate(pythons)
        np.random.set_state(numpys)
        # One that was not there is made anew when it is next asked for, from Python's random state.
        global_state.set_global_attribute(GLOBAL_SEED_GENERATOR, generator)

    try:
        yield put_back
    finally:
        put_back()


def _check_whole(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}={value!r}: expected a whole number of at least {least}.")


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
