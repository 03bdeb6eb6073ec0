"""Losses of layers that a train step leaves out: regularizers, activity regularizers and `add_loss`.

Keras's `compile` adds them to the loss. A step of a task adds them itself: `loss + sum(self.model.losses)`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator
from typing import Any

import keras

from lightkeras.engine.base import Trace
from lightkeras.task import Task

NAMED = 3
"""Maximum number of layers and variables that the warning names."""


@dataclasses.dataclass
class LayerLosses:
    """Layers whose losses a step made or read.

    Args:
        added: Layers that added a loss, by id.
        read: Layers whose `losses` were read, by id; that includes the losses of their inner layers.
    """

    added: dict[int, keras.Layer] = dataclasses.field(default_factory=dict)
    read: dict[int, keras.Layer] = dataclasses.field(default_factory=dict)


@contextlib.contextmanager
def recorded() -> Iterator[LayerLosses]:
    """Context that records which layers add losses, and whose losses are read."""
    add_loss, losses, found = keras.Layer.add_loss, keras.Layer.losses, LayerLosses()

    def adding(self: keras.Layer, loss: Any) -> Any:
        found.added[id(self)] = self
        return add_loss(self, loss)

    def reading(self: keras.Layer) -> Any:
        found.read[id(self)] = self
        return losses.fget(self)

    keras.Layer.add_loss, keras.Layer.losses = adding, property(reading)
    try:
        yield found
    finally:
        keras.Layer.add_loss, keras.Layer.losses = add_loss, losses


def warn_of_unread(task: Task, trace: Trace, found: LayerLosses) -> None:
    """Warns of models whose losses a train step never read.

    Args:
        task: The task.
        trace: The trace of its train step.
        found: What was recorded meanwhile.
    """
    trained = {id(variable) for update in trace.updates for variable in update.variables}
    read = {id(inner) for layer in found.read.values() for inner in layer._flatten_layers()}
    counted = {id(variable) for layer in found.read.values() for variable in layer.trainable_weights}
    for path, owner in task.tracked().items():
        if not isinstance(owner, keras.Layer):
            continue
        regularized = [v for v in owner.trainable_weights if v.regularizer is not None and id(v) in trained - counted]
        adding = [layer for layer in owner._flatten_layers() if id(layer) in found.added and id(layer) not in read]
        # A frozen model, such as a teacher, has losses that nobody minimizes.
        learning = [layer for layer in adding if not layer.weights or trained & set(map(id, layer.weights))]
        names = [*(variable.path for variable in regularized), *(layer.name for layer in learning)]
        if names:
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            warnings.warn(
                f"{type(task).__name__}.train_step never reads self.{path}.losses: the losses of "
                f"{', '.join(names[:NAMED])}{more} (regularizers, add_loss) do not count, as they do with Keras's "
                f"compile. Add them to the loss: `loss + sum(self.{path}.losses)`.",
                UserWarning,
                stacklevel=3,
            )
            read |= {id(inner) for inner in owner._flatten_layers()}  # once, if attributes share layers
            counted |= {id(variable) for variable in owner.trainable_weights}
