"""Adam by TensorFlow's kernel."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from lightkeras.engine.tensorflow.sparse_rows import backend_variable

Tensor = Any


def update(optimizer: Any, gradient: Tensor, variable: tf.Variable, alpha: Tensor, betas: tuple[float, float]) -> None:
    """Updates one variable and its moments, see `lightkeras.engine.fused_adam`."""
    if isinstance(gradient, tf.IndexedSlices):
        gradient = tf.math.unsorted_segment_sum(gradient.values, gradient.indices, tf.shape(variable)[0])
    index = optimizer._get_variable_index(variable)
    zero = tf.zeros((), variable.dtype)
    tf.raw_ops.ResourceApplyAdam(
        var=variable.handle,
        m=backend_variable(optimizer._momentums[index]).handle,
        v=backend_variable(optimizer._velocities[index]).handle,
        beta1_power=zero,
        beta2_power=zero,
        lr=alpha,
        beta1=tf.constant(betas[0], variable.dtype),
        beta2=tf.constant(betas[1], variable.dtype),
        epsilon=tf.constant(optimizer.epsilon, variable.dtype),
        grad=tf.cast(gradient, variable.dtype),
    )
