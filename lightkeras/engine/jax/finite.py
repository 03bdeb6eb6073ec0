"""Values of arrays, checks for variables that are not finite, gradient hooks and gradient sizes, on JAX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from lightkeras.engine.base import Tensor


def numbers(value: Any) -> np.ndarray | None:
    """See `Numbers`."""
    if not isinstance(value, jax.Array) or not jnp.issubdtype(value.dtype, jnp.floating):
        return None
    # In a function that is differentiated but not compiled, this returns the array itself.
    value = jax.lax.stop_gradient(value)
    return None if isinstance(value, jax.core.Tracer) else np.asarray(value)


def largest(gradient: Tensor) -> Tensor:
    """Largest absolute value of a gradient; infinite if it contains a NaN."""
    size = jnp.max(jnp.abs(gradient), initial=0.0).astype("float32")
    return jnp.where(jnp.isfinite(size), size, jnp.inf)


def global_norm(gradients: Sequence[Tensor | None]) -> Tensor:
    """Root of the sum of the squares of all values, float32."""
    found = [gradient.astype("float32") for gradient in gradients if gradient is not None]
    return jnp.sqrt(sum((jnp.sum(jnp.square(gradient)) for gradient in found), jnp.zeros(())))


def on_gradient(note: Callable[[], object]) -> Callable[[Tensor], Tensor]:
    """Returns an identity that calls `note` when its gradient is traced.

    It is not called if the gradient is structurally zero: the value is unused, or used only under `stop_gradient`.
    """

    identity = jax.custom_vjp(lambda value: value)

    def forward(value: Any) -> tuple[Tensor, None]:
        return value.value, None

    def backward(_: None, gradient: Any) -> tuple[Tensor]:
        if isinstance(gradient, SymbolicZero):
            return (jnp.zeros(gradient.shape, gradient.dtype),)
        note()
        return (gradient,)

    identity.defvjp(forward, backward, symbolic_zeros=True)
    noted: Callable[[Tensor], Tensor] = identity
    return noted


def sums_finite(values: Sequence[Tensor]) -> Tensor:
    """bool `[values]`: whether the sum of each is finite. True means that all its values are; False may be wrong."""
    return jnp.stack(
        [jnp.isfinite(jnp.sum(value, dtype=jnp.promote_types(value.dtype, "float32"))) for value in values]
    )


def all_finite(values: Sequence[Tensor]) -> Tensor:
    """bool `[values]`: whether all values of each are finite."""
    return jnp.stack([jnp.all(jnp.isfinite(value)) for value in values])
