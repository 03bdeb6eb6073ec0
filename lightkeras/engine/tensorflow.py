"""The TensorFlow engine: a `tf.while_loop` of steps inside one `tf.function`.

Data in memory is made resident once and gathered by example number inside the loop; anything else
is read from a `tf.data` iterator inside the loop. XLA is left off: on CPU it made the loop slower.
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, final

import keras
import numpy as np
import tensorflow as tf

from lightkeras.data.ahead import Providing, Recording
from lightkeras.data.feed import ArrayFeed, ArraySpec, Feed, StreamFeed, Structure, flatten, map_structure
from lightkeras.engine.base import (
    Ahead,
    Engine,
    Predictor,
    Program,
    Step,
    StepLogs,
    Stream,
    Tensor,
    Trace,
    Update,
    check_names,
)

AUTO = tf.data.AUTOTUNE


@final
class TensorFlowEngine(Engine):
    """See `Engine`."""

    backend = "tensorflow"

    def __init__(self) -> None:
        self._traced: list[Update] | None = None  # a list while a step is traced, else None
        self._stages: weakref.WeakKeyDictionary[Feed, dict[Ahead, Callable[[Tensor], Structure]]]
        self._stages = weakref.WeakKeyDictionary()
        self._resident: weakref.WeakKeyDictionary[Feed, Structure] = weakref.WeakKeyDictionary()

    def trace(self, step: Step, spec: Structure) -> Trace:
        self._run_abstractly(step, spec)  # builds whatever builds itself on its first call
        return self._run_abstractly(step, spec)

    def open(self, feed: Feed, epoch: int = 0, step: int = 0, seed: int = 0, ahead: Ahead = ()) -> Stream:
        if isinstance(feed, ArrayFeed) and ahead:
            return DatasetStream(self._pipeline_of(feed, ahead, epoch, step, seed), feed.spec)
        if isinstance(feed, ArrayFeed):
            return ArrayStream(feed, self._on_device(feed), epoch, step, seed)
        if isinstance(feed, StreamFeed):
            dataset = _dataset_of(feed, epoch).skip(step)
            if ahead:
                stage = functools.partial(_computed_ahead, ahead=ahead)
                dataset = dataset.map(lambda *batch: stage(batch if isinstance(feed.spec, tuple) else batch[0]), AUTO)
            return DatasetStream(dataset.prefetch(AUTO), feed.spec if ahead else None)
        raise TypeError(f"Expected an ArrayFeed or a StreamFeed, got {type(feed).__name__}.")

    def program(self, step: Step, names: Sequence[str], ahead: Ahead = ()) -> Program:
        return TensorFlowProgram(step, names, ahead)

    def predictor(self, function: Callable[[Structure], Structure]) -> Predictor:
        return TensorFlowPredictor(function)

    def minimize(
        self,
        loss_fn: Callable[[], Tensor],
        variables: Callable[[], Sequence[keras.Variable]],
        optimizer: keras.optimizers.Optimizer,
    ) -> Tensor:
        if self._traced is not None:
            loss_fn()  # models that build themselves have their variables from here on
        learned = tuple(variables())
        values = [variable.value for variable in learned]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            loss = tf.convert_to_tensor(loss_fn())
            scaled = optimizer.scale_loss(loss)
        if loss.shape.rank != 0:
            raise ValueError(
                f"minimize: the loss has shape {tuple(loss.shape)}; expected a scalar. Take its mean over the batch."
            )
        gradients = tape.gradient(scaled, values)
        if self._traced is None:
            optimizer.apply(gradients, learned)
        else:
            pairs = zip(learned, gradients, strict=True)
            unreached = tuple(variable for variable, gradient in pairs if gradient is None)
            self._traced.append(Update(learned, optimizer, unreached))
        return loss

    def gradients(self, fn: Callable[[Structure], Tensor], inputs: Structure) -> Structure:
        inputs = map_structure(tf.convert_to_tensor, inputs)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([tensor for _, tensor in flatten(inputs)])
            value = fn(inputs)
        found = tape.gradient(value, inputs)
        reached = {path for path, _ in flatten(found)}
        lost = [path or "the input" for path, _ in flatten(inputs) if path not in reached]
        if lost:
            raise ValueError(f"gradients: the value does not depend on {', '.join(lost)}.")
        return found

    def is_out_of_memory(self, error: BaseException) -> bool:
        return isinstance(error, (tf.errors.ResourceExhaustedError, MemoryError))

    def _run_abstractly(self, step: Step, spec: Structure) -> Trace:
        names: list[str] = []
        ahead: list[tuple[Callable[[Tensor], Structure], int]] = []

        def run(batch: Structure) -> None:
            recording = Recording([leaf for _, leaf in flatten(batch)])
            with recording.entered():
                names[:] = list(step(batch))
            ahead[:] = recording.found

        self._traced = []
        try:
            # The graph is never run, so no assignment happens; Keras makes new variables outside of it.
            # A keras.StatelessScope would do too, but in one Keras cannot read regularized weights.
            tf.function(run, autograph=False).get_concrete_function(map_structure(_tensor_spec, spec))
            return Trace(tuple(names), tuple(self._traced), tuple(ahead))
        finally:
            self._traced = None

    def _pipeline_of(self, feed: ArrayFeed, ahead: Ahead, epoch: int, step: int, seed: int) -> tf.data.Dataset:
        """Batches of a feed in memory, with what is computed ahead, made by all cores while steps run."""
        arrays, stages = self._on_device(feed), self._stages.setdefault(feed, {})
        if ahead not in stages:

            def stage(indices: Tensor) -> Structure:
                return _computed_ahead(map_structure(lambda array: tf.gather(array, indices), arrays), ahead)

            signature = [tf.TensorSpec([None], tf.int32)]
            stages[ahead] = tf.function(stage, signature, autograph=False).get_concrete_function()
        order = feed.order(epoch, seed)[step * feed.batch_size :]
        batches = tf.data.Dataset.from_tensor_slices(order).batch(feed.batch_size)
        return batches.map(stages[ahead], AUTO).prefetch(AUTO)

    def _on_device(self, feed: ArrayFeed) -> Structure:
        if feed not in self._resident:
            self._resident[feed] = map_structure(tf.convert_to_tensor, feed.arrays)
        return self._resident[feed]


@final
class ArrayStream(Stream):
    """Examples on the device, and the numbers of those that come next."""

    def __init__(self, feed: ArrayFeed, arrays: Structure, epoch: int, step: int, seed: int) -> None:
        self.arrays = arrays
        self._feed, self._epoch, self._step, self._seed = feed, epoch, step, seed

    def next_indices(self, count: int) -> np.ndarray | None:
        if self._step >= self._feed.steps:
            return None
        indices = self._feed.indices(self._epoch, self._step, count, self._seed)
        self._step += len(indices)
        return indices


@final
class DatasetStream(Stream):
    """An iterator over a `tf.data.Dataset`.

    Args:
        dataset: The dataset of batches, or of pairs of a batch's arrays and what was computed ahead.
        structure: Form of a batch in the second case, else `None`.
    """

    def __init__(self, dataset: tf.data.Dataset, structure: Structure = None) -> None:
        self.iterator = iter(dataset)
        self.structure = structure


class _Fused:
    """A step, run `count` times in one `tf.function`; one function for each form of batch."""

    def __init__(self, step: Callable[[Structure], Any], ahead: Ahead = ()) -> None:
        self._step = step
        self._ahead = ahead
        self._functions: dict[str, Callable[..., list[Tensor]]] = {}

    def _outputs(self, batch: Structure) -> Sequence[tf.TensorSpec]:
        """Specs of what one step writes, for `TensorSpec`s of a batch."""
        raise NotImplementedError

    def _columns(self, batch: Structure, returned: Any) -> list[Tensor]:
        """What one step writes, of what it returned."""
        raise NotImplementedError

    def _join(self, array: tf.TensorArray) -> Tensor:
        """One tensor with what all steps wrote."""
        raise NotImplementedError

    def _prepare(self, stream: Stream, count: int) -> Callable[[], list[Tensor]] | None:
        """The compiled call for the next batches; `None` where an array stream has none left."""
        if isinstance(stream, DatasetStream):
            batch = stream.iterator.element_spec
            signature = [tf.data.IteratorSpec(batch), tf.TensorSpec([], tf.int32)]
            loop = functools.partial(self._from_iterator, stream.structure)
            function = self._function(loop, signature, batch)
            return functools.partial(function, stream.iterator, np.int32(count))
        if not isinstance(stream, ArrayStream):
            raise TypeError(f"Expected a stream that this engine opened, got {type(stream).__name__}.")
        indices = stream.next_indices(count)
        if indices is None:
            return None
        size = indices.shape[1]
        arrays = map_structure(tf.TensorSpec.from_tensor, stream.arrays)
        batch = map_structure(lambda spec: tf.TensorSpec([size, *spec.shape[1:]], spec.dtype), arrays)
        signature = [arrays, tf.TensorSpec([None, size], tf.int32)]
        return functools.partial(self._function(self._from_arrays, signature, batch), stream.arrays, indices)

    def _function(self, loop: Callable[..., Any], signature: list[Any], batch: Structure) -> Callable[..., Any]:
        key = repr(signature)
        if key not in self._functions:
            bound = functools.partial(loop, self._outputs(batch))
            self._functions[key] = tf.function(bound, input_signature=signature, autograph=False)
        return self._functions[key]

    def _from_arrays(self, outputs: Sequence[tf.TensorSpec], arrays: Structure, indices: Tensor) -> list[Tensor]:
        count = tf.shape(indices)[0]

        def body(i: Tensor, written: list[tf.TensorArray]) -> Any:
            batch = map_structure(lambda array: tf.gather(array, indices[i]), arrays)
            return i + 1, _write(written, i, self._columns(batch, self._step(batch)))

        empty = [tf.TensorArray(spec.dtype, count, element_shape=spec.shape, infer_shape=False) for spec in outputs]
        _, written = tf.while_loop(lambda i, _: i < count, body, (tf.constant(0), empty))
        return [self._join(array) for array in written]

    def _from_iterator(
        self, structure: Structure, outputs: Sequence[tf.TensorSpec], iterator: Iterator[Structure], count: Tensor
    ) -> list[Tensor]:
        def body(i: Tensor, _: Tensor, written: list[tf.TensorArray]) -> Any:
            optional = iterator.get_next_as_optional()  # type: ignore[attr-defined]

            def step() -> list[tf.TensorArray]:
                batch, scope = self._unpacked(optional.get_value(), structure)
                with scope:
                    return _write(written, i, self._columns(batch, self._step(batch)))

            more = optional.has_value()
            return i + tf.cast(more, tf.int32), more, tf.cond(more, step, lambda: list(written))

        # At the end of an epoch fewer than `count` are written: the arrays grow with what is there.
        empty = [
            tf.TensorArray(spec.dtype, 0, dynamic_size=True, element_shape=spec.shape, infer_shape=False)
            for spec in outputs
        ]
        start = (tf.constant(0), tf.constant(True), empty)
        *_, written = tf.while_loop(lambda i, more, _: tf.logical_and(i < count, more), body, start)
        return [self._join(array) for array in written]

    def _unpacked(
        self, element: Structure, structure: Structure
    ) -> tuple[Structure, contextlib.AbstractContextManager[None]]:
        """The batch of an element, and a scope that provides what was computed ahead with it."""
        if structure is None:
            return element, contextlib.nullcontext()
        leaves, values = element
        left = iter(leaves)
        return map_structure(lambda _: next(left), structure), Providing(leaves, self._ahead, values).entered()


@final
class TensorFlowProgram(_Fused, Program):
    """A train or evaluation step, compiled."""

    def __init__(self, step: Step, names: Sequence[str], ahead: Ahead = ()) -> None:
        super().__init__(step, ahead)
        self._names = tuple(names)

    def run(self, stream: Stream, count: int) -> StepLogs:
        call = self._prepare(stream, count)
        if call is None:
            return StepLogs({name: np.zeros(0, "float32") for name in self._names}, np.zeros(0, "int64"))
        *values, examples = [column.numpy() for column in call()]
        return StepLogs(dict(zip(self._names, values, strict=True)), examples)

    def _outputs(self, batch: Structure) -> Sequence[tf.TensorSpec]:
        return [*(tf.TensorSpec([], tf.float32) for _ in self._names), tf.TensorSpec([], tf.int64)]

    def _columns(self, batch: Structure, returned: Mapping[str, Tensor]) -> list[Tensor]:
        check_names(list(returned), self._names)
        values = [tf.cast(tf.convert_to_tensor(returned[name]), tf.float32) for name in self._names]
        return [*values, tf.shape(flatten(batch)[0][1], tf.int64)[0]]

    def _join(self, array: tf.TensorArray) -> Tensor:
        return array.stack()


@final
class TensorFlowPredictor(_Fused, Predictor):
    """A function from batches to outputs, compiled."""

    def run(self, stream: Stream, count: int) -> Structure | None:
        call = self._prepare(stream, count)
        columns = None if call is None else [column.numpy() for column in call()]
        if columns is None or len(columns[0]) == 0:
            return None
        return tf.nest.pack_sequence_as(self._structure, columns)

    def _outputs(self, batch: Structure) -> Sequence[tf.TensorSpec]:
        traced = tf.function(self._step, autograph=False).get_concrete_function(batch)
        self._structure = traced.structured_outputs
        specs = list(tf.nest.flatten(self._structure))
        if any(spec.shape.rank == 0 for spec in specs):
            raise ValueError("predict_step returned a scalar; expected outputs whose axis 0 counts examples.")
        return [tf.TensorSpec([None, *spec.shape[1:]], spec.dtype) for spec in specs]

    def _columns(self, batch: Structure, returned: Structure) -> list[Tensor]:
        return list(tf.nest.flatten(returned))

    def _join(self, array: tf.TensorArray) -> Tensor:
        return array.concat()


def _write(arrays: list[tf.TensorArray], i: Tensor, values: list[Tensor]) -> list[tf.TensorArray]:
    return [array.write(i, value) for array, value in zip(arrays, values, strict=True)]


def _computed_ahead(batch: Structure, ahead: Ahead) -> Structure:
    """The arrays of a batch, and what each function makes of the array at its position."""
    leaves = tuple(leaf for _, leaf in flatten(batch))
    return leaves, tuple(function(leaves[position]) for function, position in ahead)


def _tensor_spec(spec: ArraySpec) -> tf.TensorSpec:
    return tf.TensorSpec([None, *spec.shape], tf.as_dtype(spec.dtype))


def _dataset_of(feed: StreamFeed, epoch: int) -> tf.data.Dataset:
    if feed.dataset is not None:
        return feed.dataset
    signature = map_structure(_tensor_spec, feed.spec)
    return tf.data.Dataset.from_generator(lambda: feed.open_epoch(epoch), output_signature=signature)
