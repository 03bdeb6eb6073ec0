"""Diagnostics: learning rates, speed, memory, and histograms of weights and gradients, for TensorBoard.

run/learning_rate                                              # at epochs
run/examples_per_second, run/memory_gb, run/device_memory_gb   # at epochs, and every 10 s
weights/<path>, gradients/<path>                               # histograms, at epochs
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, final

import keras
import numpy as np

from lightkeras.data.feed import ArrayFeed
from lightkeras.data.structure import Structure
from lightkeras.engine.base import StepLogs
from lightkeras.engine.optimizer_state import learning_rate, unwrapped
from lightkeras.runs.loggers.histogram import Histogram, histogram_of
from lightkeras.system import memory
from lightkeras.system.variables import read_variables
from lightkeras.training.freezing import TracedSteps
from lightkeras.training.recorder import Recorder
from lightkeras.training.restoring import others_of, restored
from lightkeras.training.stepper import bound_engine

PERIOD = 10.0
"""Seconds between two points inside an epoch."""


@final
class Diagnostics:
    """Logs how training goes.

    Args:
        traced: The traced steps.
        recorder: Writes to the loggers.
        histograms: Whether to log histograms at epochs.
        clock: Returns monotonic time in seconds.
    """

    def __init__(
        self, traced: TracedSteps, recorder: Recorder, histograms: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._traced, self._recorder, self._clock = traced, recorder, clock
        self._task, self._histograms = traced.task, histograms
        self._examples, self._seconds, self._logged = 0, 0.0, clock()
        traced.train_stepper.keeps_first = histograms

    def count(self, logs: StepLogs, seconds: float) -> None:
        """Counts the train steps of one call, which took `seconds`; logs a point if the last one is old."""
        self._examples += int(logs.examples.sum())
        self._seconds += seconds
        if self._clock() - self._logged >= PERIOD:
            self._log()

    def end_epoch(self) -> None:
        """Logs learning rates, a point of each measurement, and histograms if they are wanted."""
        self._recorder.log_diagnostics(dict(self._rates()))
        self._log()
        if self._histograms:
            self._recorder.log_histograms(dict(self._of_weights()) | dict(self._of_gradients()))

    def _log(self) -> None:
        values: dict[str, float] = {}
        if self._seconds:
            values["run/examples_per_second"] = self._examples / self._seconds
        with contextlib.suppress(OSError):  # not known on systems other than Linux
            values["run/memory_gb"] = memory.resident_bytes() / 1e9
        if (used := bound_engine(self._task).device_memory()) is not None:
            values["run/device_memory_gb"] = used / 1e9
        self._recorder.log_measurements(values)
        self._examples, self._seconds, self._logged = 0, 0.0, self._clock()

    def _rates(self) -> Iterator[tuple[str, float]]:
        for optimizer, _ in self._traced.optimizers:
            name, parts = self._task.named_of(optimizer, "run/learning_rate"), unwrapped(optimizer)
            for number, part in enumerate(parts):
                yield f"{name}.{number}" if len(parts) > 1 else name, learning_rate(part)

    def _of_weights(self) -> Iterator[tuple[str, Histogram]]:
        named = _named("weights", self._task.trainable_variables())
        for name, values in read_variables(named).items():
            yield name, histogram_of(values)

    def _of_gradients(self) -> Iterator[tuple[str, Histogram]]:
        """Gradients of the first batch of the train split, so that epochs can be compared; no variable changes."""
        engine, batch = bound_engine(self._task), self._first_batch()
        if batch is None:
            return
        found: dict[int, np.ndarray] = {}
        learned: dict[int, keras.Variable] = {}

        def watch(
            optimizer: keras.optimizers.Optimizer, loss: Any, variables: Sequence[keras.Variable], gradients: Any
        ) -> None:
            scale = float(keras.ops.convert_to_numpy(optimizer.scale_loss(keras.ops.ones(()))))
            for variable, gradient in zip(variables, gradients, strict=True):
                if (values := engine.numbers(gradient)) is not None:
                    learned[id(variable)], found[id(variable)] = variable, values / scale

        with restored(self._task, others_of(self._task, self._traced.trace)), engine.watches.added(watch):
            engine.run_eagerly(self._task.run_train_step, batch)
        for name, variable in _named("gradients", list(learned.values())).items():
            yield name, histogram_of(found[id(variable)])

    def _first_batch(self) -> Structure | None:
        stepper = self._traced.train_stepper
        if not isinstance(stepper.feed, ArrayFeed):
            return stepper.first  # a stream is not opened again: it may be read only once, or draw another order
        with contextlib.closing(bound_engine(self._task).open(stepper.feed, seed=stepper.seed, limit=1)) as stream:
            return stream.next_batch()


def _named(kind: str, variables: Sequence[keras.Variable]) -> dict[str, keras.Variable]:
    """Variables by their tag; of several with one path, the later ones are numbered."""
    found: dict[str, keras.Variable] = {}
    for variable in variables:
        name, number = f"{kind}/{variable.path}", 1
        while name in found:
            number += 1
            name = f"{kind}/{variable.path}_{number}"
        found[name] = variable
    return found
