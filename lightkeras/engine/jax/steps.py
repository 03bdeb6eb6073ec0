"""A function of a batch, made a function of the variables that it uses too."""

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
"""Size of a batch where a trace does not know it."""

UNKNOWN_SIZE = 64
"""Size of another axis that varies: JAX compiles for sizes, so that a trace must take one."""

Known = dict[int, keras.Variable]


@dataclasses.dataclass(frozen=True)
class Traced:
    """What a trace of a function found, and the function itself.

    Args:
        variables: Variables that it reads or writes.
        written: Those that it writes.
        outputs: What it returns, abstractly.
        given: Variables whose values the trace took, in order; some may not be used.
        jaxpr: The traced function, of those values and a batch; it returns outputs and the values of `written`.
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
        """Calls the function, inside another one that is compiled.

        Args:
            values: Values of `variables`, by `id`.
            batch: The batch.
        """

        def value(variable: keras.Variable) -> Tensor:
            found = values.get(id(variable))
            return jnp.zeros(variable.shape, variable.dtype) if found is None else found  # one that is not used

        flat = jaxpr_as_fun(self.jaxpr)(*map(value, self.given), *jax.tree.leaves(batch))
        tree = jax.tree.structure(self.outputs)
        return jax.tree.unflatten(tree, flat[: tree.num_leaves]), flat[tree.num_leaves :]


def strong(value: Any) -> Tensor:
    """An array whose type is that of its numbers, and not a Python number's."""
    array = jnp.asarray(value)
    return jax.lax.convert_element_type(array, array.dtype)


def abstract_batch(spec: Structure, batch_size: int | None) -> Structure:
    """A batch of a spec as `jax.ShapeDtypeStruct`s.

    Raises:
        TextInputError: An array of text.
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
    """The form of arrays as `jax.ShapeDtypeStruct`s.

    Args:
        arrays: Arrays.
        drop: How many of the first axes to leave out.
        size: A first axis to put before the rest; `None` puts none.
    """
    first = () if size is None else (size,)
    return map_structure(lambda a: jax.ShapeDtypeStruct((*first, *a.shape[drop:]), a.dtype), arrays)


def form(arrays: Structure) -> tuple[Any, ...]:
    """The form of arrays, as a key."""
    return tuple((path, tuple(array.shape), str(array.dtype)) for path, array in flatten(arrays))


def check_no_text(path: str, dtype: Any) -> None:
    """Refuses text, which JAX cannot hold."""
    if str(dtype) in ("string", "object"):
        raise TextInputError(path, "JAX")
