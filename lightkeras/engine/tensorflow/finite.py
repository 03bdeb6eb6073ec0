"""Values of tensors, checks for variables that are not finite, and gradient sizes, on TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from lightkeras.engine.base import Tensor

FEW = 24
"""Up to this number of variables, checks are not compiled."""


def finite_checks(variables: Sequence[keras.Variable]) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """Returns a quick check, whose False may be wrong, and an exact one; both compute bool `[variables]`.

    Checks of many variables are compiled, which takes as long as a hundred checks of a few.
    """

    # A sum is finite only if all terms are: half the time of `is_finite` (50 million floats: 15 against 31 ms).
    def quick() -> Tensor:
        return tf.math.is_finite(tf.stack([tf.cast(tf.reduce_sum(v.value), tf.float32) for v in variables]))

    def exact() -> Tensor:
        return tf.stack([tf.reduce_all(tf.math.is_finite(v.value)) for v in variables])

    if len(variables) <= FEW:
        return quick, exact
    return tf.function(quick, autograph=False), tf.function(exact, autograph=False)


def numbers(value: Any) -> np.ndarray | None:
    """See `Numbers`."""
    value = value.values if isinstance(value, tf.IndexedSlices) else value
    return value.numpy() if isinstance(value, tf.Tensor) and value.dtype.is_floating else None


def on_host(value: tf.Tensor) -> tf.Tensor:
    """The same tensor on a CPU; copied there from another device."""
    if value.device.endswith("CPU:0"):
        return value
    with tf.device("CPU:0"):
        return tf.identity(value)


def viewed(value: tf.Tensor) -> np.ndarray:
    """A read-only view of a tensor on the CPU; a copy for dtypes that the buffer protocol does not have."""
    array: np.ndarray
    dtype = np.dtype(value.dtype.as_numpy_dtype)
    if dtype.isbuiltin == 1 and dtype.kind in "biufc":
        array = np.asarray(memoryview(value))
    else:  # bfloat16, for example
        array = np.asarray(value.numpy())
    return array


def largest(gradient: Tensor | tf.IndexedSlices | None) -> Tensor:
    """Largest absolute value of a gradient; infinite if it contains a NaN."""
    if gradient is None:
        return tf.constant(0.0)
    values = gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient
    size = tf.cast(tf.reduce_max(tf.abs(values)), tf.float32)
    # TensorFlow's maximum ignores NaN, and is minus infinity for an empty tensor.
    finite = tf.reduce_all(tf.math.is_finite(values))
    return tf.where(finite, tf.maximum(size, 0.0), np.inf)


def global_norm(gradients: Sequence[Tensor | tf.IndexedSlices | None]) -> Tensor:
    """Root of the sum of the squares of all values, float32. Rows of a table must be there once."""
    found = [g.values if isinstance(g, tf.IndexedSlices) else g for g in gradients if g is not None]
    # `l2_loss` is one operation for half the sum of the squares: a third of the time of a square and a sum.
    halves = [tf.nn.l2_loss(tf.cast(gradient, tf.float32)) for gradient in found]
    return tf.sqrt(2.0 * tf.add_n(halves)) if halves else tf.zeros([])
