"""Looking into a step: which layer, loss, gradient or variable is not finite, and how large gradients are."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from lightkeras.engine.base import (
    Seen,
    Tensor,
)


def finite_checks(variables: Sequence[keras.Variable]) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """Two compiled checks, bool `[variables]`: a quick one that may be wrong in saying no, and an exact one."""

    # A sum is finite only if all its terms are, and needs no memory: half the time of `is_finite`.
    def quick() -> Tensor:
        return tf.math.is_finite(tf.stack([tf.cast(tf.reduce_sum(v.value), tf.float32) for v in variables]))

    def exact() -> Tensor:
        return tf.stack([tf.reduce_all(tf.math.is_finite(v.value)) for v in variables])

    return tf.function(quick, autograph=False), tf.function(exact, autograph=False)


@contextlib.contextmanager
def calls_seen(found: list[Seen]) -> Iterator[None]:
    """Notes every call of a layer, and of an operation of a functional model, that this thread makes.

    All of them, wherever they are kept, go through the one method of their base class: it is wrapped meanwhile.
    """
    original, thread, way = keras.Operation.__call__, threading.get_ident(), []

    def call(self: keras.Operation, *args: Any, **kwargs: Any) -> Any:
        # Tensors of a function that is being compiled hold no numbers.
        if threading.get_ident() != thread or not tf.executing_eagerly():
            return original(self, *args, **kwargs)
        way.append(self.name)
        try:
            outputs = original(self, *args, **kwargs)
            name = f"{'/'.join(way)} ({type(self).__name__})"
            seen = seen_as("layer", name, keras.tree.flatten(outputs))
            inputs = seen_as("layer", name, keras.tree.flatten((args, kwargs)))
            found.append(dataclasses.replace(seen, inputs=inputs.value))
            return outputs
        finally:
            way.pop()

    keras.Operation.__call__ = call
    try:
        yield
    finally:
        keras.Operation.__call__ = original


def seen_as(kind: Literal["layer", "loss", "gradient"], name: str, values: Sequence[Any]) -> Seen:
    """What the floats among some values are."""
    values = [value.values if isinstance(value, tf.IndexedSlices) else value for value in values]
    arrays = [v.numpy() for v in values if isinstance(v, tf.Tensor) and v.dtype.is_floating]
    for array in arrays:
        wrong = array[~np.isfinite(array)]
        if wrong.size:
            return Seen(kind, name, float(wrong[0]))
    return Seen(kind, name, None, largest=max((float(np.abs(a).max()) for a in arrays if a.size), default=None))


def largest(gradient: Tensor | tf.IndexedSlices | None) -> Tensor:
    """Largest absolute value of a gradient; infinite if one of its values is not a number."""
    if gradient is None:
        return tf.constant(0.0)
    values = gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient
    size = tf.cast(tf.reduce_max(tf.abs(values)), tf.float32)
    # TensorFlow's maximum passes over what is not a number, and that of nothing is minus infinity.
    finite = tf.reduce_all(tf.math.is_finite(values))
    return tf.where(finite, tf.maximum(size, 0.0), np.inf)
