"""Looking into a step on TensorFlow: numbers of tensors, variables that are not finite, sizes of gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from lightkeras.engine.base import Tensor

FEW = 24
"""So many variables are checked one by one."""


def finite_checks(variables: Sequence[keras.Variable]) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """Two checks, bool `[variables]`: a quick one that may be wrong in saying no, and an exact one.

    Of more than a few variables they are compiled, which takes as long as a hundred checks of a few.
    """

    # A sum is finite only if all its terms are, and needs no memory: half the time of `is_finite`.
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


def largest(gradient: Tensor | tf.IndexedSlices | None) -> Tensor:
    """Largest absolute value of a gradient; infinite if one of its values is not a number."""
    if gradient is None:
        return tf.constant(0.0)
    values = gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient
    size = tf.cast(tf.reduce_max(tf.abs(values)), tf.float32)
    # TensorFlow's maximum passes over what is not a number, and that of nothing is minus infinity.
    finite = tf.reduce_all(tf.math.is_finite(values))
    return tf.where(finite, tf.maximum(size, 0.0), np.inf)
