"""Several devices on TensorFlow: each computes a part of every batch, with its own copy of the variables.

A step is traced once for each device of this process into the body of one loop. Gradients are summed over the devices
of all processes before the optimizer clips or accumulates them, by the collectives of `tf.distribute.MirroredStrategy`
or, of several processes, `MultiWorkerMirroredStrategy`; so the copies stay equal. Between calls only the first copy
counts, which is the Keras variable itself: each call begins by copying its value to the other devices.

`Strategy.run` is not used. It traces devices in threads that take turns at each sum, so that values which a step keeps
in attributes would be mixed, and Keras's optimizers sum gradients inside it after they have clipped them.
"""

from __future__ import annotations

import contextlib
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, final

import keras
import tensorflow as tf

from lightkeras.data.structure import Structure
from lightkeras.engine.base import Step, Tensor, check_not_distributed
from lightkeras.engine.tensorflow.replica import Changed, Replica, by_example


@final
class Devices:
    """Devices that share the work.

    Args:
        strategy: Sums over the devices.
        first: Number of the first device of this process among those of all processes, from 0.

    Attributes:
        names: Names of the devices of this process; the first one holds the variables between calls.
    """

    def __init__(self, strategy: tf.distribute.Strategy, first: int = 0) -> None:
        self.names = tuple(strategy.extended.worker_devices)
        self._strategy, self._first, self._count = strategy, first, int(strategy.num_replicas_in_sync)
        self._copies: dict[int, list[tf.Variable]] = {}  # by the id of a Keras variable

    @property
    def are_of_several_processes(self) -> bool:
        """Whether other processes have devices too."""
        return self._count > len(self.names)

    def replicas(self, size: int | Tensor) -> list[Replica]:
        """The parts of a batch of `size` examples, of the devices of this process."""
        places = range(len(self.names))
        return [Replica(self.names, self.copies, place, size, self._first, self._count) for place in places]

    def copies(self, variable: keras.Variable) -> list[tf.Variable]:
        """The variable on each device; the first one is its own."""
        original, found = variable._value, self._copies.get(id(variable), [])
        if not found or found[0] is not original:
            if not found:
                weakref.finalize(variable, self._copies.pop, id(variable), None)
            with tf.init_scope():
                found = [original, *(_copied(original, name) for name in self.names[1:])]
            self._copies[id(variable)] = found
        return found

    def sums(self, values: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
        """Sums tensors over the devices: takes the tensors of each device, and returns their sums on each device."""
        with self._strategy.scope():
            spread = self._strategy.experimental_distribute_values_from_function
            together = [spread(lambda _, left=left: next(left)) for left in map(iter, zip(*values, strict=True))]
            pairs = [(each, each) for each in together]
            reduced = self._strategy.extended.batch_reduce_to(tf.distribute.ReduceOp.SUM, pairs)
            columns = [self._strategy.experimental_local_results(each) for each in reduced]
        return [list(row) for row in zip(*columns, strict=True)]


@final
class DividedStep:
    """A function of a batch, of which each device computes a part; traced as a function of the whole batch.

    Args:
        devices: The devices.
        function: A step or a function to outputs.
        joined: Joins what the parts returned.
    """

    def __init__(
        self,
        devices: Devices,
        function: Callable[[Structure], Any],
        joined: Callable[[Devices, Sequence[Replica], Sequence[Any]], Any],
    ) -> None:
        self._devices, self._function, self._joined = devices, function, joined
        self._used: dict[int, keras.Variable] = {}
        self._refresh: Callable[[], None] | None = None
        self._warned = False

    def __call__(self, batch: Structure) -> Any:
        size = _size(batch)
        replicas, returned = self._devices.replicas(size), []
        for replica in replicas:
            part = replica.part_of(batch)
            with replica.entered():
                returned.append(self._function(part))
            self._used.update(replica.used)
        self._warn_of(replicas[0].alone)
        _connect(self._devices, replicas)
        _merge(self._devices, replicas, size)
        self._refresh = None
        return self._joined(self._devices, replicas, returned)

    def summed_logs(self, logs: Tensor) -> Tensor:
        """The logs of all steps of a call, of which the step returned this process's part."""
        return self._devices.sums([[logs]])[0][0] if self._devices.are_of_several_processes else logs

    def refresh(self) -> None:
        """Copies the variables from the first device to the others: they may have been assigned since the last call."""
        if self._refresh is None:
            pairs = [self._devices.copies(variable) for variable in self._used.values()]

            def refresh() -> None:
                for original, *copies in pairs:
                    for copy in copies:
                        copy.assign(original)

            self._refresh = tf.function(refresh, autograph=False).get_concrete_function()
        if self._used:
            self._refresh()

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Context of a run of the compiled step: explains TensorFlow's error about a cycle."""
        try:
            yield
        except tf.errors.InvalidArgumentError as error:
            if "nodes in a cycle" not in error.message:
                raise
            raise ValueError(
                "The step calls Python functions (tf.py_function, tf.numpy_function) both before and after minimize. "
                "TensorFlow keeps their order over all devices, so that each would wait for another. Call them on one "
                "side of minimize, or use one device."
            ) from None

    def _warn_of(self, layers: Sequence[str]) -> None:
        """Warns once of layers that normalize the part of each device by itself."""
        if layers and not self._warned and not self._devices.are_of_several_processes:  # which are warned of before
            self._warned = True
            names = ", ".join(dict.fromkeys(layers))  # one may be called several times
            warnings.warn(
                f"BatchNormalization normalizes each device's part of a batch by itself in {names}, so "
                "results are not those of one device; the moving statistics are averaged. Set "
                "BatchNormalization(synchronized=True) for those of the whole batch.",
                UserWarning,
                stacklevel=2,
            )


_current: Devices | None = None


def current() -> Devices | None:
    """The devices of the run; `None` for one device."""
    return _current


@contextlib.contextmanager
def over(devices: int | str) -> Iterator[None]:
    """Context in which steps are compiled for several devices.

    Args:
        devices: Number of devices; `"all"` for those of this process.

    Raises:
        ValueError: There are fewer.
    """
    found = [device.name for device in tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")]
    count = len(found) if devices == "all" else int(devices)
    if count > len(found):
        names = ", ".join(name.removeprefix("/device:") for name in found)
        raise ValueError(f"devices={count}: TensorFlow has {len(found)} ({names}). Use devices='all'.")
    with using(_mirrored(found[:count]) if count > 1 else None):
        yield


@contextlib.contextmanager
def using(devices: Devices | None) -> Iterator[None]:
    """Context in which steps are compiled for these devices; `None` for one."""
    global _current
    before, _current = _current, devices
    try:
        yield
    finally:
        _current = before


def _mirrored(names: Sequence[str]) -> Devices:
    """Devices of this process."""
    on_gpu = all("GPU" in name for name in names)
    # Not the collectives that it would choose: an error in a step would end them for the rest of the process.
    sums = tf.distribute.NcclAllReduce() if on_gpu else tf.distribute.ReductionToOneDevice()
    return Devices(tf.distribute.MirroredStrategy(names, sums))


def check() -> None:
    """Checks that devices were not chosen in a way that steps would ignore.

    Raises:
        ValueError: A strategy is in scope, or Keras distributes variables.
    """
    if tf.distribute.has_strategy():
        raise ValueError(
            f"A {type(tf.distribute.get_strategy()).__name__} is in scope, which steps would ignore. Call fit "
            'outside of strategy.scope(), and set Runner(devices="all") for all devices.'
        )
    check_not_distributed('set Runner(devices="all") for all devices')


def divided_step(devices: Devices, step: Step) -> DividedStep:
    """A step whose logs are means over the whole batch."""
    return DividedStep(devices, step, _mean_logs)


def divided_function(function: Callable[[Structure], Structure]) -> Callable[[Structure], Structure]:
    """A function from a batch to outputs whose axis 0 counts examples; on one device the function itself.

    Each of several processes computes all outputs.
    """
    if _current is None or _current.are_of_several_processes:
        return function
    return DividedStep(_current, function, _joined_outputs)


def _mean_logs(devices: Devices, replicas: Sequence[Replica], logs: Sequence[Mapping[str, Tensor]]) -> dict[str, Any]:
    names = list(logs[0])
    if not names:
        return {}
    rows = []
    for replica, found in zip(replicas, logs, strict=True):
        with replica.placed():
            rows.append([tf.stack([tf.cast(found[name], tf.float32) for name in names]) * replica.share])
    # Several processes add up their parts once per call, see `DividedStep.summed_logs`.
    total = rows[0][0] if devices.are_of_several_processes else devices.sums(rows)[0][0]
    return dict(zip(names, tf.unstack(total), strict=True))


def _joined_outputs(devices: Devices, replicas: Sequence[Replica], outputs: Sequence[Structure]) -> Structure:
    def joined(*parts: Tensor) -> Tensor:
        return tf.concat([part[: replica.rows] for replica, part in zip(replicas, parts, strict=True)], 0)

    return tf.nest.map_structure(joined, *outputs)


def _connect(devices: Devices, replicas: Sequence[Replica]) -> None:
    """Gives each device the sums that it was traced without."""
    for calls in zip(*(replica.sums for replica in replicas), strict=True):
        if len({len(call.values) for call in calls}) > 1:
            raise ValueError(
                "The loss depends on variables that are TensorFlow's and not Keras's, such as those of a TF Hub module "
                "that is trained: they cannot be copied to several devices. Use one device."
            )
        totals = devices.sums([call.values for call in calls])
        for call, found in zip(calls, totals, strict=True):
            for place, total in zip(call.places, found, strict=True):
                if isinstance(place, tf.IndexedSlices):
                    place.values.op._update_input(0, total.values)
                    place.indices.op._update_input(0, total.indices)
                else:
                    place.op._update_input(0, total)


def _merge(devices: Devices, replicas: Sequence[Replica], size: int | Tensor) -> None:
    """Adds up what the devices changed in variables other than by an optimizer: moving statistics and metrics.

    The change is the mean over the examples; of the variables of metrics, the sum.
    """
    groups: dict[tuple[Any, bool], list[int]] = {}
    for key, changed in replicas[0].changed.items():
        groups.setdefault((changed.old.dtype, changed.is_sum), []).append(key)
    for (dtype, is_sum), keys in groups.items():
        before, changes = [], []
        for replica in replicas:
            found = [replica.changed[key] for key in keys]
            with replica.placed():
                old = _flat([each.old for each in found])
                weight = replica.weight if is_sum else replica.rows
                before.append(old)
                new = _flat([each.own.read_value() for each in found])
                changes.append([(new - old) * tf.cast(weight, dtype)])
        for replica, old, (total,) in zip(replicas, before, devices.sums(changes), strict=True):
            with replica.placed():
                merged = old + (total if is_sum else total / tf.cast(size, dtype))
                _assign_flat([replica.changed[key] for key in keys], merged)


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], 0)


def _assign_flat(changed: Sequence[Changed], values: Tensor) -> None:
    parts = tf.split(values, [each.own.shape.num_elements() for each in changed])
    for each, part in zip(changed, parts, strict=True):
        each.own.assign(tf.reshape(part, each.own.shape))


def _copied(original: tf.Variable, device: str) -> tf.Variable:
    with tf.device(device):
        copy = tf.Variable(original.read_value(), trainable=original.trainable, dtype=original.dtype)
    # By this attribute Keras's optimizers find the slots of the variable.
    copy._distributed_container = weakref.ref(original)
    return copy


def _size(batch: Structure) -> int | Tensor:
    """Examples of a batch; an int if the size is known."""
    arrays = [leaf for leaf in by_example(batch) if leaf.shape.rank != 0]
    sizes = {leaf.shape[0] for leaf in arrays}
    if len(sizes) != 1:
        found = ", ".join(sorted("?" if size is None else str(size) for size in sizes))
        raise ValueError(
            f"The arrays of a batch have different sizes on axis 0 ({found}), so that it cannot be divided among "
            "several devices. Give each array one entry for each example, or use one device."
        )
    size = sizes.pop()
    return tf.shape(arrays[0])[0] if size is None else int(size)
