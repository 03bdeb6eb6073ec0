"""Traced functions of a batch and of the variables that they use."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import keras
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from lightkeras.data.structure import ArraySpec, Structure, flatten, map_structure
from lightkeras.engine.base import Tensor
from lightkeras.engine.jax.scope import device_dtype
from lightkeras.engine.unsupported_layers import TextInputError

UNKNOWN_BATCH = 2
"""Batch size of a trace if it is unknown."""

UNKNOWN_SIZE = 64
"""Size of another axis that varies: JAX traces only for known sizes."""

VariablesById = dict[int, keras.Variable]


@dataclasses.dataclass(frozen=True)
class Traced:
    """A traced function and its variables.

    Args:
        variables: Variables that it reads or writes.
        written: Variables that it writes.
        outputs: Its outputs as `jax.ShapeDtypeStruct`s.
        given: Variables whose values are arguments of the trace, in order; some may be unused.
        jaxpr: The function of these values and a batch; it returns the outputs and the values of `written`.
    """

    variables: tuple[keras.Variable, ...]
    written: tuple[keras.Variable, ...]
    outputs: Any
    given: tuple[keras.Variable, ...]
    jaxpr: ClosedJaxpr

    @property
    def read_only(self) -> tuple[keras.Variable, ...]:
        """Variables that it reads and never writes."""
        written = set(map(id, self.written))
        return tuple(variable for variable in self.variables if id(variable) not in written)

    def call(self, values: Mapping[int, Tensor], batch: Structure) -> tuple[Any, list[Tensor]]:
        """Calls the function, with the values of `variables` by `id`, inside another function that is compiled."""

        def value(variable: keras.Variable) -> Tensor:
            found = values.get(id(variable))
            return jnp.zeros(variable.shape, variable.dtype) if found is None else found  # unused

        flat = jaxpr_as_fun(self.jaxpr)(*map(value, self.given), *jax.tree.leaves(batch))
        tree = jax.tree.structure(self.outputs)
        return jax.tree.unflatten(tree, flat[: tree.num_leaves]), flat[tree.num_leaves :]


def strongly_typed(value: Any) -> Tensor:
    """Converts to an array that is not weakly typed, as a Python number would be."""
    array = jnp.asarray(value)
    return jax.lax.convert_element_type(array, array.dtype)


def abstract_batch(spec: Structure, batch_size: int | None) -> Structure:
    """Returns a batch of a spec as `jax.ShapeDtypeStruct`s.

    Raises:
        TextInputError: An array holds text.
    """

    def leaf(found: ArraySpec) -> jax.ShapeDtypeStruct:
        shape = [UNKNOWN_SIZE if size is None else size for size in found.shape]
        return jax.ShapeDtypeStruct(
            (UNKNOWN_BATCH if batch_size is None else batch_size, *shape), device_dtype(found.dtype)
        )

    for path, found in flatten(spec):
        check_no_text(path, found.dtype)
    return map_structure(leaf, spec)


def abstract(arrays: Structure, drop: int = 0, size: int | None = None) -> Structure:
    """Returns arrays as `jax.ShapeDtypeStruct`s, without `drop` leading axes and with a leading axis of `size`."""
    first = () if size is None else (size,)
    return map_structure(lambda a: jax.ShapeDtypeStruct((*first, *a.shape[drop:]), a.dtype), arrays)


def form(arrays: Structure) -> tuple[Any, ...]:
    """Shapes and dtypes of arrays, as a key."""
    return tuple((path, tuple(array.shape), str(array.dtype)) for path, array in flatten(arrays))


def check_no_text(path: str, dtype: Any) -> None:
    """Raises `TextInputError` for text, which JAX cannot hold."""
    if str(dtype) in ("string", "object"):
        raise TextInputError(path, "JAX")
