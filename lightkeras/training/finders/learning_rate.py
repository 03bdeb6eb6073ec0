"""Learning-rate finder: a range test.

for rate in rates from low to high, growing exponentially:
    set the learning rate, run one train step
    stop if the loss diverges
suggest the rate at which the loss fell fastest
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, final

import keras
import numpy as np

from lightkeras import plots
from lightkeras.data.feed import Feed
from lightkeras.engine.base import Engine, Trace
from lightkeras.runs.results import LearningRates
from lightkeras.system import files
from lightkeras.system.display import phase
from lightkeras.system.messages import check_whole, did_you_mean
from lightkeras.task import Task
from lightkeras.training import setup
from lightkeras.training.preflight.splits import check_feed
from lightkeras.training.restoring import restored
from lightkeras.training.settings import Settings
from lightkeras.training.step_errors import TaskError
from lightkeras.training.stepper import bound_engine
from lightkeras.training.tracing import trace_train

DIVERGENCE_FACTOR = 4.0
"""A range test ends when the smoothed loss is this many times its minimum, as in fastai and Lightning."""

SMOOTHED_OVER = 10
"""Losses are averaged over `1 / SMOOTHED_OVER` of the range, whatever its number of steps."""

SPREAD_OF_DIFFERENCES = 0.954
"""Median absolute difference of two draws from a normal distribution, in standard deviations."""


@final
@dataclasses.dataclass(frozen=True)
class RangeTest:
    """Settings of a learning-rate range test.

    Args:
        low: First learning rate.
        high: Last learning rate.
        steps: Number of train steps; the rate grows by the same factor in each.
        optimizer: Path of the task's attribute of the optimizer to vary; `None` for the only one.
        loss: Name of the logged value to use as the loss.

    Raises:
        ValueError: A setting is out of its range.
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
        check_whole("", "steps", self.steps, 10)

    @property
    def beta(self) -> float:
        """Decay of the moving average per step."""
        return 1 - SMOOTHED_OVER / self.steps

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        return float(self.low * (self.high / self.low) ** (step / (self.steps - 1)))


def find_learning_rate(settings: Settings, task: Task, train: Any, batch_size: int, test: RangeTest) -> LearningRates:
    """Runs a learning-rate range test, and restores all state; see `Runner.find_learning_rate`."""
    feed = setup.train_split(settings, task, train, batch_size)
    figure = None if settings.run_dir is None else setup.directory_of(settings).figures / "learning_rate.png"
    with (
        phase(f"trying learning rates from {test.low:g} to {test.high:g}"),
        restored(task),
    ):  # tracing also draws from the random generators
        return _find(task, feed, test, settings.seed, figure)


def _find(task: Task, feed: Feed, test: RangeTest, seed: int, figure: Path | None) -> LearningRates:
    began = time.perf_counter()
    check_feed(task, feed, "train", test.steps)
    engine = bound_engine(task)
    trace = trace_train(task, engine, feed)
    rate = _rate_to_vary(task, trace, test.optimizer)
    if test.loss not in trace.names:
        raise ValueError(f"loss={test.loss!r}: no train step logs that. {did_you_mean(test.loss, trace.names)}")
    if figure is not None:  # fails before the work if the folder cannot be written to
        with files.explained(figure):
            figure.parent.mkdir(parents=True, exist_ok=True)
    losses: list[float] = []
    running, diverged = RunningLoss(test.beta), False
    with restored(task), contextlib.closing(_single_steps(task, engine, trace, feed, seed)) as steps:
        while len(losses) < test.steps and not diverged:
            rate.assign(test.rate(len(losses)))
            losses.append(next(steps)[test.loss])
            running = running.after(losses[-1])
            diverged = running.diverged
    rates = [test.rate(step) for step in range(len(losses))]
    # High losses before the minimum are not a divergence, so they are not cut off.
    curve = smoothed(losses, test.beta, max([running.ceiling, *losses[: running.least_at]]))
    suggestion, why = suggest(rates, losses, curve, test.beta)
    end = f"stopped at {rates[-1]:.2g}, where the loss diverged" if diverged else f"ended at {rates[-1]:.2g}"
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
        plots.save(plots.learning_rates(rates, losses, curve, suggestion, test.loss), figure)
    return result


@final
@dataclasses.dataclass(frozen=True)
class RunningLoss:
    """The exponential moving average of a loss, with bias correction (Kingma & Ba, "Adam", ICLR 2015, section 3).

    Args:
        beta: Decay of the average per step.
        total: The average, before the correction.
        steps: Losses so far.
        least: Minimum of the average so far.
        least_at: Step of the minimum, from 1; 0 before the first.
        diverged: Whether the last loss was not finite, or raised the average above `ceiling`.
    """

    beta: float
    total: float = 0.0
    steps: int = 0
    least: float = math.inf
    least_at: int = 0
    diverged: bool = False

    @property
    def ceiling(self) -> float:
        """Four times the minimum of the average; the same distance above a negative minimum."""
        return self.least + (DIVERGENCE_FACTOR - 1) * abs(self.least)

    def after(self, loss: float) -> RunningLoss:
        """Returns the average after one more loss."""
        if not math.isfinite(loss):
            return dataclasses.replace(self, diverged=True)
        total, steps = self.beta * self.total + (1 - self.beta) * loss, self.steps + 1
        average = total / (1 - self.beta**steps)
        if average < self.least:
            return RunningLoss(self.beta, total, steps, average, steps)
        return dataclasses.replace(self, total=total, steps=steps, diverged=average > self.ceiling)


def smoothed(losses: Sequence[float], beta: float, ceiling: float) -> list[float]:
    """Averages each loss with its neighbours on both sides, weighted by `beta ** distance`.

    A running average lags, which would shift the steepest descent to a higher rate: by 50 of 100 steps with a decay of
    0.98, four of eight decades.

    Args:
        losses: Losses of the steps.
        beta: Weight of the nearest neighbours.
        ceiling: Maximum of a loss; it also replaces losses that are not finite.
    """
    if not math.isfinite(ceiling):  # the first loss was not finite
        return [math.nan] * len(losses)
    values = np.array(losses, np.float64)
    values = np.where(np.isfinite(values), np.minimum(values, ceiling), ceiling)
    steps = np.arange(len(values))
    weights = np.power(beta, np.abs(steps[:, None] - steps))
    return list(map(float, weights @ values / weights.sum(axis=1)))


def suggest(
    rates: Sequence[float], losses: Sequence[float], curve: Sequence[float], beta: float
) -> tuple[float | None, str]:
    """The learning rate at which the loss falls fastest, over the logarithm of the rate.

    Leslie N. Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017, section 3.3, reads
    bounds off the curve by eye: where it begins to fall, and where it turns ragged. The steepest point
    between the two is the rule of fastai (`steep`) and Lightning (`suggestion`). Here only rates below the rate
    of the minimum count, and a descent counts only if it exceeds six times the standard deviation of the curve
    under noise alone. The median difference of neighbouring losses gives the standard deviation of a loss,
    because a descent hardly changes it; averaging reduces it by the weights `beta ** distance`.

    Args:
        rates: Learning rates of the steps.
        losses: Losses of the steps.
        curve: The smoothed losses.
        beta: The weight they were smoothed with.

    Returns:
        The rate, or `None` if the loss did not fall; and the reason.
    """
    if not all(map(math.isfinite, curve)):
        return None, "the first loss is not finite: lower `low`, or check the data"
    bottom = int(np.argmin(curve))
    if bottom < 2:
        return None, "the loss did not fall: lower `low`, or check the model and its loss"
    before, raw = np.array(curve[: bottom + 1]), np.array(losses[: bottom + 1])
    fell, spread = float(before.max() - before[-1]), float(np.median(np.abs(np.diff(raw)))) / SPREAD_OF_DIFFERENCES
    if not fell > 6 * spread * math.sqrt((1 - beta) * (1 + beta**2) / (1 + beta) ** 3):
        return None, (
            f"the loss did not fall beyond its noise (by {fell:.2g}, with a spread of {spread:.2g} from step to "
            "step): take larger batches, more steps or a wider range"
        )
    steepest = int(np.argmin(np.gradient(before, np.log(rates[: bottom + 1]))))
    return float(rates[steepest]), f"the loss fell fastest at {rates[steepest]:.2g}"


def _rate_to_vary(task: Task, trace: Trace, wanted: str | None) -> keras.Variable:
    """The learning-rate variable of an optimizer.

    Raises:
        ValueError: There are several optimizers and none was named, or no optimizer has the name.
        TaskError: The optimizer's learning rate is a schedule.
    """
    paths = {id(found): path for path, found in task.tracked().items()}
    optimizers = {paths.get(id(found), found.name): found for found, _ in trace.optimizers()}
    if wanted is None and len(optimizers) > 1:
        raise ValueError(
            f"{type(task).__name__}.train_step uses {len(optimizers)} optimizers. Choose the one to vary, "
            f"as in optimizer={next(iter(optimizers))!r}; the others keep their learning rates. "
            f"Valid names: {', '.join(optimizers)}."
        )
    if wanted is not None and wanted not in optimizers:
        raise ValueError(f"optimizer={wanted!r}: no train step uses that. {did_you_mean(wanted, optimizers)}")
    name = next(iter(optimizers)) if wanted is None else wanted
    rate = optimizers[name].learning_rate
    if not isinstance(rate, keras.Variable):
        raise TaskError(
            f"{type(task).__name__}.{name} computes its learning rate from the step (a schedule or a function), so "
            "it cannot be set. Give it a number for the search, and use the result as the schedule's highest rate."
        )
    return rate


def _single_steps(
    task: Task, engine: Engine, trace: Trace, feed: Feed, seed: int
) -> Generator[dict[str, float], None, None]:
    """Yields the logs of single train steps, for any number of epochs."""
    program = engine.program(task.run_train_step, trace.names)
    epoch = 0
    while True:
        found = False
        with contextlib.closing(engine.open(feed, epoch, 0, seed, program=program)) as stream:
            while (logs := program.run(stream, 1)).steps:
                found = True
                yield {name: float(values[0]) for name, values in logs.values.items()}
        if not found:
            raise ValueError(f"The train split gave no batch in epoch {epoch + 1}; expected at least one.")
        epoch += 1
