"""Several devices on JAX: XLA divides the work as `keras.distribution` places variables and batches.

Each device computes a part of a batch, and the sums over the batch are those of the whole: a step computes what it does
on one device, but for rounding. The devices may be those of several processes, each of which has all batches and runs
the same calls in the same order.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import keras
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from lightkeras.data.structure import Structure, map_structure
from lightkeras.engine.base import Tensor
from lightkeras.engine.replacing import replaced
from lightkeras.engine.world import World, checksums
from lightkeras.system.keras_internals.jax_distribution import distribution_lib
from lightkeras.system.messages import did_you_mean

T = TypeVar("T")

_distributed = distribution_lib.distribute_tensor


@contextlib.contextmanager
def over(devices: int | str | None) -> Iterator[None]:
    """Context in which variables are made on several devices, each with a copy of all of them.

    Args:
        devices: Number of devices; `"all"` for those of all processes; `None` for the same, if there are several
            processes, or what Keras distributes already.

    Raises:
        ValueError: There are fewer, Keras distributes variables already, or some processes would have no device.
    """
    # Keras would send each value that is assigned to the other processes, to compare: all would have to assign it.
    functions = {(distribution_lib, "distribute_tensor"): _placed} if jax.process_count() > 1 else {}
    if devices is None and (not functions or keras.distribution.distribution() is not None):
        with replaced(functions):
            yield
        return
    if keras.distribution.distribution() is not None:
        raise ValueError(
            f"devices={devices!r}: keras.distribution.set_distribution was called, which chooses the devices. Set one "
            "of the two."
        )
    found = keras.distribution.list_devices()
    count = len(found) if devices in ("all", None) else int(devices)
    if count > len(found):
        raise ValueError(f"devices={count}: JAX has {len(found)} ({', '.join(found)}). Use devices='all'.")
    if jax.process_count() > 1 and count < len(found):
        raise ValueError(
            f"devices={count}: the {jax.process_count()} processes have {len(found)} devices, and each process needs "
            "its own. Use devices='all'."
        )
    with replaced(functions), keras.distribution.DataParallel(devices=found[:count], auto_shard_dataset=False).scope():
        yield


def check(variables: Iterable[keras.Variable]) -> None:
    """Checks that variables are placed as the user told.

    Raises:
        ValueError: A layout matches none of the variables, or divides one where there are several processes; or the
            distribution leaves a process out.
    """
    distribution = keras.distribution.distribution()
    mesh, processes = _mesh(), jax.process_count()
    used = processes if mesh is None else len({device.process_index for device in mesh.devices.flat})
    if used < processes:
        raise ValueError(
            f"keras.distribution.set_distribution chose devices of {used} of the {processes} processes. Choose some of "
            "each, such as all of keras.distribution.list_devices()."
        )
    layouts: Any = getattr(distribution, "_layout_map", {})  # of ModelParallel, which has no public name for it
    variables = list(variables)
    names = [variable.path for variable in variables]
    for pattern in layouts:
        # Keras 3.10 searches paths for the pattern, newer versions match whole ones.
        alone = keras.distribution.LayoutMap(layouts.device_mesh)
        alone[pattern] = layouts[pattern]
        if all(alone[name] is None for name in names):
            raise ValueError(
                f"The layout {pattern!r} matches no variable: expected a regular expression for a whole path. "
                f"{did_you_mean(pattern, names, most=3)}"
            )
    for variable in variables if processes > 1 else ():
        if not variable.value.is_fully_replicated:
            raise ValueError(
                f"The layout of {variable.path} divides it among devices, and there are {processes} processes: each "
                "saves and compares whole variables. Leave the layout out, or start one process."
            )


def everywhere() -> NamedSharding | None:
    """Where arrays go that each device needs; `None` for the only device."""
    mesh = _mesh()
    return None if mesh is None else NamedSharding(mesh, PartitionSpec())


def share(variables: Mapping[str, keras.Variable], world: World) -> None:
    """Gives variables that differ, or that were not made on the devices of all processes, the first one's values."""
    if world.processes == 1:
        return
    expected, *others = world.agree("values of variables", checksums(variables))
    for key, variable in variables.items():
        if variable.value.is_fully_addressable or any(found[key] != expected[key] for found in others):
            first = multihost_utils.broadcast_one_to_all(np.asarray(variable.value))
            variable._direct_assign(put(np.asarray(first)))


def distributed_too(blocks: Iterator[T]) -> Iterator[T]:
    """Yields what another thread places on devices, for which Keras has a distribution of its own."""
    distribution = keras.distribution.distribution()

    def placed() -> Iterator[T]:
        keras.distribution.set_distribution(distribution)
        yield from blocks

    return placed()


def put(array: np.ndarray) -> jax.Array:
    """Copies an array to each device; all processes have the same one."""
    if jax.process_count() == 1:
        return jax.device_put(array, everywhere())
    # `device_put` would send it to the other processes, to compare.
    return jax.make_array_from_callback(array.shape, everywhere(), array.__getitem__)


def _placed(tensor: Any, layout: Any) -> Any:
    """Keras's `distribute_tensor`, where each process has the value."""
    if isinstance(tensor, jax.core.Tracer) or not getattr(tensor, "is_fully_addressable", True):
        return _distributed(tensor, layout)
    array = np.asarray(tensor)
    return jax.make_array_from_callback(array.shape, getattr(layout, "backend_layout", layout), array.__getitem__)


def gathered(array: Tensor) -> Tensor:
    """An output of a step, of which each process needs all."""
    return array if jax.process_count() == 1 else jax.lax.with_sharding_constraint(array, everywhere())


def divided(batch: Structure) -> Structure:
    """A batch of a traced step, divided among the devices; each has all of one that cannot be divided."""
    distribution, mesh = keras.distribution.distribution(), _mesh()
    if mesh is None:
        return batch
    name = distribution.batch_dim_name
    by_example = NamedSharding(mesh, PartitionSpec(name))

    def leaf(array: Any) -> Any:
        if not array.ndim or array.shape[0] % mesh.shape[name]:
            return array
        return jax.lax.with_sharding_constraint(array, by_example)

    return map_structure(leaf, batch)


def rows_here(size: int) -> slice:
    """The rows of a batch that the devices of this process need."""
    mesh = _mesh()
    if mesh is None or size % mesh.shape[name := keras.distribution.distribution().batch_dim_name]:
        return slice(0, size)
    placed = NamedSharding(mesh, PartitionSpec(name)).addressable_devices_indices_map((size,)).values()
    limits = [rows.indices(size) for (rows,) in placed]
    return slice(min(start for start, _, _ in limits), max(stop for _, stop, _ in limits))


def warn_of_batch(size: int | None) -> None:
    """Warns of batches whose examples cannot be divided among the devices; `None` for an unknown number."""
    mesh = _mesh()
    if mesh is None or size is None:
        return
    parts = mesh.shape[keras.distribution.distribution().batch_dim_name]
    if size % parts:
        warnings.warn(
            f"A batch of {size} examples cannot be divided among {parts} devices: each computes the whole batch. Use a "
            f"batch size that is a multiple of {parts}.",
            UserWarning,
            stacklevel=2,
        )


def _mesh() -> Any:
    """The mesh of devices; `None` for one device."""
    distribution = keras.distribution.distribution()
    return None if distribution is None else distribution.device_mesh.backend_mesh
