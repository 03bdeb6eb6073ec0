"""A device's part of a traced step on TensorFlow; see `devices.py`."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, final

import keras
import tensorflow as tf

from lightkeras.data.structure import Structure
from lightkeras.engine.base import Tensor
from lightkeras.engine.replacing import replaced
from lightkeras.engine.tensorflow.sparse_rows import rows_summed
from lightkeras.system.keras_internals.backend import backend, nn

_BAGS = {"counts", "ids", "weights", "rows"}  # of `Bags.batch`
_APART = 0x9E3779B9
"""Distance of the seeds of two devices."""


@dataclasses.dataclass(frozen=True)
class Sum:
    """Tensors of one device that are to be summed over all.

    Args:
        values: The tensors.
        places: Tensors that stand for the sums; the input of their operations is to be replaced.
    """

    values: Sequence[Tensor]
    places: Sequence[Tensor]


@dataclasses.dataclass(frozen=True)
class Changed:
    """A variable that the part of a device assigned.

    Args:
        own: The copy of the device.
        old: Its value before.
        is_sum: Whether the changes of the devices are added up, as of a metric, and not averaged.
    """

    own: tf.Variable
    old: Tensor
    is_sum: bool


@final
class Replica:
    """One device's part of a step, while the step is traced.

    Args:
        names: Names of the devices of this process.
        copies: Returns a variable on each of them.
        place: Which of them it is, from 0.
        size: Examples of the whole batch.
        first: Number of the first of them among those of all processes.
        count: Devices of all processes; `None` for one process.

    Attributes:
        rows: Examples of this part; 0 if there are more devices than examples: it then computes the last one, which
            counts for nothing.
        share: `rows` as a share of the batch.
        weight: 1.0, or 0.0 for no rows.
        sums: The sums of the part, in order.
        changed: Variables that it assigned other than by an optimizer, by the id of the Keras variable.
        alone: Names of the layers that normalize the part by itself.
    """

    def __init__(
        self,
        names: Sequence[str],
        copies: Callable[[keras.Variable], Sequence[tf.Variable]],
        place: int,
        size: int | Tensor,
        first: int = 0,
        count: int | None = None,
    ) -> None:
        number, count = first + place, count or len(names)
        self._device, self._copies, self._place, self._number = names[place], copies, place, number
        start, stop = size * number // count, size * (number + 1) // count
        self.rows = stop - start
        if isinstance(size, int):
            self.share, self.weight = self.rows / size, float(self.rows > 0)
            self._start = min(start, size - 1)
            self._stop = max(stop, self._start + 1)
        else:
            self.share = tf.cast(self.rows, tf.float32) / tf.cast(size, tf.float32)
            self.weight = tf.cast(self.rows > 0, tf.float32)
            self._start = tf.minimum(start, size - 1)
            self._stop = tf.maximum(stop, self._start + 1)
        self.sums: list[Sum] = []
        self.changed: dict[int, Changed] = {}
        self.alone: list[str] = []
        self._taken: dict[int, tuple[keras.Variable, tf.Variable]] = {}
        self._graph = tf.compat.v1.get_default_graph()
        self._merges, self._of_scalars, self._leaves_process = True, False, count > len(names)

    @property
    def used(self) -> dict[int, keras.Variable]:
        """Variables that the part used on a device other than the first, by their id."""
        return {key: variable for key, (variable, _) in self._taken.items()}

    def part_of(self, batch: Structure) -> Structure:
        """The examples of a batch that this device computes."""
        start, stop = self._start, self._stop
        if isinstance(batch, Mapping) and set(batch) == _BAGS:
            counts = batch["counts"]
            first = tf.reduce_sum(counts[:start])
            last = first + tf.reduce_sum(counts[start:stop])
            entries = {name: batch[name][first:last] for name in ("ids", "weights")}
            return {"counts": counts[start:stop], **entries, "rows": batch["rows"][first:last] - start}
        if isinstance(batch, Mapping):
            return {name: self.part_of(value) for name, value in batch.items()}
        if isinstance(batch, tuple) and hasattr(batch, "_fields"):
            return type(batch)(*map(self.part_of, batch))
        if isinstance(batch, (tuple, list)):
            return type(batch)(map(self.part_of, batch))
        return batch[start:stop] if batch is not None and len(batch.shape) else batch

    def placed(self) -> contextlib.AbstractContextManager[None]:
        """Context in which operations are placed on the device."""
        placed: contextlib.AbstractContextManager[None] = tf.device(self._device)
        return placed

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Context that traces the step of this device: its variables are the device's copies, and so are its draws."""
        global _current
        base = backend.common.KerasVariable
        patches = {
            (base, "value"): property(self._value_of(base.value)),
            (keras.Variable, "_direct_assign"): self._assigning(keras.Variable._direct_assign),
            (keras.random.SeedGenerator, "next"): self._drawing(keras.random.SeedGenerator.next),
            (nn, "_compute_moments_sync"): self._synchronized(nn._compute_moments_sync),
            (keras.layers.BatchNormalization, "call"): self._normalizing(keras.layers.BatchNormalization.call),
        }
        for metric in (keras.metrics.Mean, keras.metrics.Sum):
            patches[metric, "update_state"] = self._updating(metric.update_state)
        _current = self
        try:
            with self.placed(), replaced(patches):
                yield
        finally:
            _current = None
            for variable, original in self._taken.values():
                variable._value = original

    def part_of_mean(self, value: Tensor) -> Tensor:
        """What the mean over the examples of this part adds to the mean over the whole batch.

        A loss is made smaller before its gradient is taken: inside a synchronized normalization, the gradients of
        parts of different sizes are added.
        """
        return value * tf.cast(self.share, value.dtype)

    def summed(self, values: Sequence[Any]) -> list[Any]:
        """Sums tensors and slices over the devices; `None` stays."""
        # With the rows of slices summed here, fewer are sent, and their number is not a constant of the graph.
        given = [rows_summed(value) for value in values if value is not None]
        if self._leaves_process:  # whose operations take tensors of one shape in a loop
            given = [tf.convert_to_tensor(value) for value in given]
        left = iter(self._sum(given))
        return [None if value is None else next(left) for value in values]

    @contextlib.contextmanager
    def same_everywhere(self) -> Iterator[None]:
        """Context of assignments of values that all devices have computed alike."""
        self._merges = False
        try:
            yield
        finally:
            self._merges = True

    def all_reduce(self, op: tf.distribute.ReduceOp, value: Tensor) -> Tensor:
        """Sums a tensor over the devices, differentiable: `tf.distribute.ReplicaContext.all_reduce` of SUM."""

        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def summed(tensor: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
            return self._sum([tensor])[0], lambda gradient: self._sum([gradient])[0]

        return summed(value * tf.cast(self.weight, value.dtype))

    def _sum(self, values: Sequence[Any]) -> list[Any]:
        if tf.compat.v1.get_default_graph() is not self._graph:
            raise ValueError(
                "A sum over several devices inside a branch, a loop or a tf.function of the step: call minimize, and "
                "layers of BatchNormalization(synchronized=True), outside of it; or use one device."
            )
        places = [_place_for(value) for value in values]
        self.sums.append(Sum(values, places))
        return places

    def _take(self, variable: keras.Variable) -> None:
        """Lets a variable be the device's copy until the part is traced."""
        if self._place and id(variable) not in self._taken and variable._value is not None:
            self._taken[id(variable)] = variable, variable._value
            variable._value = self._copies(variable)[self._place]

    def _value_of(self, value: property) -> Callable[[keras.Variable], Any]:
        def own(variable: keras.Variable) -> Any:
            self._take(variable)
            return value.fget(variable)  # type: ignore[misc]

        return own

    def _assigning(self, assign: Callable[..., None]) -> Callable[..., None]:
        def assigned(variable: keras.Variable, value: Tensor) -> None:
            self._take(variable)
            self._note(variable)
            assign(variable, value)

        return assigned

    def _note(self, variable: keras.Variable) -> None:
        """Records a variable before its first assignment, unless all devices assign the same."""
        own, is_sum = variable._value, variable.aggregation == "sum" and not self._of_scalars
        same = variable.aggregation == "only_first_replica" or not (own.dtype.is_floating or is_sum)
        if not self._merges or same or id(variable) in self.changed:
            return
        inside = self._graph is tf.compat.v1.get_default_graph()
        # A value of a branch could not leave it.
        with contextlib.nullcontext() if inside else self._graph.as_default(), self.placed():
            old = own.read_value()
        self.changed[id(variable)] = Changed(own, old, is_sum)

    def _drawing(self, draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def drawn(generator: keras.random.SeedGenerator, ordered: bool = True) -> Tensor:
            seed = draw(generator, ordered)
            apart = self._number * _APART & 0xFFFFFFFF
            return seed + tf.cast(tf.constant([apart, 0], tf.uint32), seed.dtype) if self._number else seed

        return drawn

    def _updating(self, update: Callable[..., None]) -> Callable[..., None]:
        """A metric that is given one value for the step counts it once, and not once for each device."""

        def updated(metric: keras.metrics.Metric, values: Any, sample_weight: Any = None) -> None:
            self._of_scalars = not len(keras.ops.convert_to_tensor(values).shape)
            try:
                update(metric, values, sample_weight)
            finally:
                self._of_scalars = False

        return updated

    def _normalizing(self, call: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def normalized(layer: Any, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None) -> Tensor:
            if training and layer.trainable and not layer.synchronized:
                self.alone.append(layer.name)
            return call(layer, inputs, training=training, mask=mask)

        return normalized

    def _synchronized(self, moments: Callable[..., Any]) -> Callable[..., Any]:
        def synchronized(*arguments: Any) -> Any:
            with replaced({(tf.distribute, "get_replica_context"): lambda: self}):
                return moments(*arguments)

        return synchronized


_current: Replica | None = None


def part_of_mean(value: Tensor) -> Tensor:
    """See `Replica.part_of_mean`; on one device the value itself."""
    return value if _current is None else _current.part_of_mean(value)


def summed(values: Sequence[Any]) -> list[Any]:
    """See `Replica.summed`; on one device the values themselves."""
    return list(values) if _current is None else _current.summed(values)


def same_everywhere() -> contextlib.AbstractContextManager[None]:
    """See `Replica.same_everywhere`; on one device no context."""
    return contextlib.nullcontext() if _current is None else _current.same_everywhere()


def by_example(batch: Structure) -> list[Tensor]:
    """The arrays of a batch whose axis 0 counts examples; of bags, their counts."""
    if isinstance(batch, Mapping):
        return by_example(batch["counts"] if set(batch) == _BAGS else list(batch.values()))
    if isinstance(batch, (tuple, list)):
        return [leaf for part in batch for leaf in by_example(part)]
    return [] if batch is None else [batch]


def _place_for(value: Any) -> Any:
    """Tensors that are equal to `value` until the inputs of their operations are replaced by those of the sum."""
    place = tf.compat.v1.placeholder_with_default
    if isinstance(value, tf.IndexedSlices):  # of a sum there are more rows
        values = place(value.values, [None, *value.values.shape[1:]])
        return tf.IndexedSlices(values, place(value.indices, [None]), value.dense_shape)
    return place(value, value.shape)
