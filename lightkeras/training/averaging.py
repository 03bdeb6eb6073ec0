"""The end of a run with `AverageWeights`: sets the averages, and computes the batch statistics of the model anew."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import keras
import numpy as np

from lightkeras.data.structure import Structure
from lightkeras.engine.base import Tensor
from lightkeras.task import Task, run_loss
from lightkeras.training.freezing import layers_within
from lightkeras.training.restoring import variables_restored
from lightkeras.training.stepper import Stepper, bound_engine
from lightkeras.training.tracing import form_to_trace

if TYPE_CHECKING:
    from lightkeras.training.callbacks.average_weights import AverageWeights

    Layers = Sequence[keras.layers.BatchNormalization]


def check(found: Sequence[AverageWeights], task: Task, monitor: str | None) -> None:
    """Checks that a run with `AverageWeights` can come to its end.

    Raises:
        ValueError: There are several, or the averages could not be judged, or batch statistics not be computed.
    """
    if not found:
        return
    if len(found) > 1:
        raise ValueError(f"{len(found)} AverageWeights in callbacks: expected one.")
    if not (monitor or "").startswith("val/"):
        raise ValueError(
            f"AverageWeights needs a value of a validation split to judge the averages by, and the monitor is "
            f"{monitor}: give validation data, or a monitor such as 'val/loss'."
        )
    if normalizations(task) and type(task).loss is Task.loss:
        raise ValueError(
            f"AverageWeights: {type(task).__name__} has BatchNormalization layers, whose statistics are computed anew "
            "for the averages with `loss(batch, training=True)`, and it does not define `loss`. Define it, or freeze "
            "these layers."
        )


def normalizations(task: Task) -> Layers:
    """The `BatchNormalization` layers of a task that are trainable: frozen ones keep their statistics."""
    outer = {path: found for path, found in task.tracked().items() if isinstance(found, keras.Layer)}
    kind = keras.layers.BatchNormalization
    return [layer for _, layer in layers_within(outer) if isinstance(layer, kind) and layer.trainable]


def recompute(task: Task, stepper: Stepper) -> None:
    """Sets the statistics of all `BatchNormalization` layers to those of one pass over the train split.

    They are the means, weighted by examples, of the mean and the variance of each batch, which the moving averages of
    training estimate. No other variable changes.
    """
    layers = normalizations(task)
    if not layers:
        return
    statistics = [variable for layer in layers for variable in (layer.moving_mean, layer.moving_variance)]
    sums, examples = [np.zeros(variable.shape, np.float64) for variable in statistics], 0
    with variables_restored(task.variables()), _without_memory(layers):
        for count in _batches(task, stepper):
            examples += count
            for total, value in zip(sums, statistics, strict=True):
                total += count * np.asarray(keras.ops.convert_to_numpy(value), np.float64)
    for variable, total in zip(statistics, sums, strict=True):
        variable.assign((total / examples).astype("float32"))


def _batches(task: Task, stepper: Stepper) -> Iterator[int]:
    """Runs the loss in training mode on each batch of the train split; yields the number of its examples."""

    def step(batch: Structure) -> Mapping[str, Tensor]:
        return run_loss(task, batch)

    engine, feed, done = bound_engine(task), stepper.feed, 0
    trace = engine.trace(step, *form_to_trace(engine, feed))
    program = engine.program(step, trace.names)
    feed.begin_pass()
    try:
        with contextlib.closing(engine.open(feed, 0, 0, stepper.seed, None, program, stepper.limit)) as stream:
            while stepper.limit is None or done < stepper.limit:
                logs = program.run(stream, 1)
                if not logs.steps:
                    return
                done += 1
                yield int(logs.examples.sum())
    finally:
        feed.end_pass(completed=False)


@contextlib.contextmanager
def _without_memory(layers: Layers) -> Iterator[None]:
    """Lets the moving averages of layers be the statistics of the last batch."""
    before = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum in zip(layers, before, strict=True):
            layer.momentum = momentum
