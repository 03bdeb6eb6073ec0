"""The TensorFlow engine: a `tf.while_loop` of steps inside one `tf.function`.

Data in memory is made resident once and gathered by example number inside the loop; anything else
is read from a `tf.data` iterator inside the loop. XLA is left off: on CPU it made the loop slower.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, final

import keras
import numpy as np
import safetensors.numpy
import tensorflow as tf

from lightkeras.data.ahead import Providing, Recording
from lightkeras.data.feed import ArrayFeed, ArraySpec, Feed, StreamFeed, Structure, flatten, map_structure
from lightkeras.data.reading import Reading
from lightkeras.engine.base import (
    Ahead,
    Engine,
    Predictor,
    Program,
    Seen,
    Step,
    StepLogs,
    Stream,
    Tensor,
    Trace,
    Update,
    check_names,
)

AUTO = tf.data.AUTOTUNE
_ITERATOR = "iterator"  # name of a saved iterator's files


@dataclasses.dataclass
class _Tracing:
    """What is noted while a step is traced.

    Args:
        building: Whether models that build themselves are to do so now.
        updates: Its `minimize` calls so far.
        sizes: float32 `[variables]` for each of them, the largest absolute value of each gradient.
    """

    building: bool
    updates: list[Update] = dataclasses.field(default_factory=list)
    sizes: list[Tensor] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class _Measure:
    """A traced step that minimizes, to be run on a batch.

    Args:
        step: The step.
        learned: Variables of each `minimize` whose gradients come out.
        run: From a batch to the sizes of those gradients.
    """

    step: Step
    learned: tuple[tuple[keras.Variable, ...], ...]
    run: Callable[[Structure], Sequence[Tensor]]


@final
class TensorFlowEngine(Engine):
    """See `Engine`."""

    backend = "tensorflow"

    def __init__(self) -> None:
        self._tracing: _Tracing | None = None  # while a step is traced, else None
        self._measure: _Measure | None = None  # of the step that was traced last of those that minimize
        self._stages: weakref.WeakKeyDictionary[Feed, dict[Ahead, Callable[[Tensor], Structure]]]
        self._stages = weakref.WeakKeyDictionary()
        self._following: weakref.WeakKeyDictionary[Feed, bytes] = weakref.WeakKeyDictionary()
        self._resident: weakref.WeakKeyDictionary[Feed, Structure] = weakref.WeakKeyDictionary()
        self._seen: list[Seen] | None = None  # a list while a step is looked at, else None
        self._finite: tuple[tuple[keras.Variable, ...], Callable[[], Tensor], Callable[[], Tensor]] | None = None

    def trace(self, step: Step, spec: Structure) -> Trace:
        self._run_abstractly(step, spec, building=True)
        trace, measure = self._run_abstractly(step, spec, building=False)
        if trace.updates:
            self._measure = measure
        return trace

    def gradient_sizes(self, step: Step, stream: Stream) -> list[tuple[keras.Variable, float]]:
        measure = self._measure
        if measure is None or measure.step != step:
            raise ValueError("gradient_sizes: this step is not the one that was traced last: expected `trace` before.")
        batch = stream.next_batch()
        if batch is None:
            raise ValueError("gradient_sizes: the stream has no batch left; expected one.")
        sizes = [column.numpy().tolist() for column in measure.run(map_structure(tf.convert_to_tensor, batch))]
        return [
            pair
            for learned, column in zip(measure.learned, sizes, strict=True)
            for pair in zip(learned, column, strict=True)
        ]

    def skip_epochs(self, feed: Feed, count: int) -> None:
        if isinstance(feed, StreamFeed) and feed.dataset is not None:
            for _ in range(count):
                iter(feed.dataset)

    def open(
        self,
        feed: Feed,
        epoch: int = 0,
        step: int = 0,
        seed: int = 0,
        ahead: Ahead = (),
        state: bytes | None = None,
    ) -> Stream:
        if isinstance(feed, ArrayFeed) and ahead:
            return PipelineStream(self._pipeline_of(feed, ahead, epoch, step, seed), feed.spec)
        if isinstance(feed, ArrayFeed):
            return ArrayStream(feed, self._on_device(feed), epoch, step, seed)
        if not isinstance(feed, StreamFeed):
            raise TypeError(f"Expected an ArrayFeed or a StreamFeed, got {type(feed).__name__}.")
        if feed.dataset is None:
            reading = Reading(feed, epoch, step, state)
            return ReadingStream(_staged(_generated(reading), feed, ahead), feed.spec if ahead else None, reading, step)
        restores = state is not None
        dataset = feed.dataset if restores or not step else feed.dataset.skip(step)
        stream = DatasetStream(_staged(dataset, feed, ahead), feed.spec if ahead else None, 0 if restores else step)
        if state is not None:
            # Restoring an iterator also sets the generator of the orders to come, and not always right: near the
            # end of an epoch one order is lost. So the beginning of the next epoch is kept from before.
            ahead_of = DatasetStream(_staged(feed.dataset, feed, ahead), stream.structure).state()
            stream.restore(state)
            if ahead_of is not None:  # the first one: later ones begin where that may have led
                self._following.setdefault(feed, ahead_of)
        elif not step and (following := self._following.pop(feed, None)) is not None:
            stream.restore(following)
        return stream

    def open_batch(
        self, batch: Structure, ahead: Ahead = (), shapes: Sequence[Sequence[int | None]] | None = None
    ) -> Stream:
        # As a tuple of leaves: `tf.data` takes a list for an array.
        leaves = tuple(tf.convert_to_tensor(leaf) for _, leaf in flatten(batch))
        known = [leaf.shape for leaf in leaves] if shapes is None else shapes

        def stage(*given: Tensor) -> Structure:
            # The identity, but for what is known of the shape.
            blurred = map(tf.compat.v1.placeholder_with_default, given, known)
            return _computed_ahead(tuple(blurred), ahead)

        unconverted = tf.autograph.experimental.do_not_convert(stage)
        return PipelineStream(tf.data.Dataset.from_tensors(leaves).map(unconverted), batch)

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
        if self._tracing is not None and self._tracing.building:
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
        if self._seen is not None:
            self._seen.append(_seen("loss", "loss", [loss]))
            self._seen.extend(_seen("gradient", v.path, [g]) for v, g in zip(learned, gradients, strict=True))
        if self._tracing is None:
            optimizer.apply(gradients, learned)
        else:
            pairs = zip(learned, gradients, strict=True)
            unreached = tuple(variable for variable, gradient in pairs if gradient is None)
            self._tracing.updates.append(Update(learned, optimizer, unreached))
            scale = tf.cast(optimizer.scale_loss(tf.ones_like(loss)), tf.float32)
            sizes = [_largest(gradient) for gradient in gradients] or tf.zeros([0])
            self._tracing.sizes.append(tf.stack(sizes) / scale)
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

    def run_eagerly(self, step: Step, batch: Structure) -> tuple[dict[str, float], list[Seen]]:
        self._seen = []
        try:
            with _calls_seen(self._seen):
                logs = step(map_structure(tf.convert_to_tensor, batch))
            return {name: float(tf.convert_to_tensor(value)) for name, value in logs.items()}, self._seen
        finally:
            self._seen = None

    def not_finite(self, variables: Mapping[str, keras.Variable]) -> list[str]:
        floats = {key: v for key, v in variables.items() if keras.backend.is_float_dtype(v.dtype)}
        wanted = tuple(floats.values())
        if not wanted:
            return []
        if self._finite is None or list(map(id, self._finite[0])) != list(map(id, wanted)):
            self._finite = (wanted, *_finite_checks(wanted))
        _, quick, exact = self._finite
        if quick().numpy().all():
            return []
        return [key for key, finite in zip(floats, exact().numpy(), strict=True) if not finite]

    def _run_abstractly(self, step: Step, spec: Structure, building: bool) -> tuple[Trace, _Measure]:
        names: list[str] = []
        ahead: list[tuple[Callable[[Tensor], Structure], int]] = []
        learned: list[tuple[keras.Variable, ...]] = []
        tracing = self._tracing = _Tracing(building)

        def run(batch: Structure) -> list[Tensor]:
            recording = Recording([leaf for _, leaf in flatten(batch)])
            with recording.entered():
                names[:] = list(step(batch))
            ahead[:] = recording.found
            # What a branch computes cannot leave it, and might not be there.
            graph = tf.compat.v1.get_default_graph()
            found = zip(tracing.updates, tracing.sizes, strict=True)
            outside = [(update.variables, size) for update, size in found if size.graph is graph]
            learned[:] = [variables for variables, _ in outside]
            return [size for _, size in outside]

        try:
            # A trace runs nothing, so no assignment happens; Keras makes new variables outside of it.
            # A keras.StatelessScope would do too, but in one Keras cannot read regularized weights.
            traced = tf.function(run, autograph=False).get_concrete_function(map_structure(_tensor_spec, spec))
        except ValueError as error:
            if "singleton tf.Variables" not in str(error):
                raise
            raise ValueError(
                "The step makes new variables each time it is run, as by `keras.layers.Dense(1)(x)`: they would not "
                "be learned. Make layers, metrics and seed generators in `build`, as attributes of the task."
            ) from error
        finally:
            self._tracing = None
        trace = Trace(tuple(names), tuple(tracing.updates), tuple(ahead), tuple(traced.graph.variables))
        return trace, _Measure(step, tuple(learned), traced)

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
        super().__init__()
        self.arrays = arrays
        self._feed, self._epoch, self._step, self._seed = feed, epoch, step, seed

    def state(self) -> bytes | None:
        return None

    def next_batch(self) -> Structure | None:
        indices = self.next_indices(1)
        return None if indices is None else map_structure(lambda array: array[indices[0]], self._feed.arrays)

    def shapes(self) -> list[list[int | None]] | None:
        return None

    def next_indices(self, count: int) -> np.ndarray | None:
        if self._step >= self._feed.steps:
            return None
        indices = self._feed.indices(self._epoch, self._step, count, self._seed)
        self._step += len(indices)
        return indices


class IteratorStream(Stream):
    """An iterator over a `tf.data.Dataset`.

    Args:
        dataset: The dataset of batches, or of pairs of a batch's arrays and what was computed ahead.
        structure: Form of a batch in the second case, else `None`.
        reread: See `Stream`.
    """

    def __init__(self, dataset: tf.data.Dataset, structure: Structure = None, reread: int = 0) -> None:
        super().__init__(reread)
        self.iterator = iter(dataset)
        self.structure = structure

    def next_batch(self) -> Structure | None:
        element = next(self.iterator, None)
        if element is None:
            return None
        if self.structure is not None:
            leaves = iter(element[0])
            element = map_structure(lambda _: next(leaves), self.structure)
        return map_structure(lambda tensor: tensor.numpy(), element)

    def shapes(self) -> list[list[int | None]] | None:
        spec = self.iterator.element_spec
        return [leaf.shape.as_list() for _, leaf in flatten(spec if self.structure is None else spec[0])]


@final
class PipelineStream(IteratorStream):
    """Arrays in memory, whose position says all."""

    def state(self) -> bytes | None:
        return None


@final
class ReadingStream(IteratorStream):
    """A stream without a state of its own, fed into a `tf.data.Dataset`."""

    def __init__(self, dataset: tf.data.Dataset, structure: Structure, reading: Reading, reread: int) -> None:
        super().__init__(dataset, structure, reread)
        self._reading = reading

    def state(self) -> bytes | None:
        return self._reading.state()


@final
class DatasetStream(IteratorStream):
    """A `tf.data.Dataset` that was given: its iterator can be saved, if all its parts can."""

    def state(self) -> bytes | None:
        with tempfile.TemporaryDirectory() as folder:
            try:
                tf.train.Checkpoint(iterator=self.iterator).write(f"{folder}/{_ITERATOR}")
            except tf.errors.FailedPreconditionError:  # a part of it, such as a Python function, has a state of its own
                return None
            found = {path.name: np.fromfile(path, np.uint8) for path in Path(folder).iterdir()}
        return safetensors.numpy.save(found)

    def restore(self, state: bytes) -> None:
        """Brings the iterator to where `state` was called."""
        with tempfile.TemporaryDirectory() as folder:
            for name, content in safetensors.numpy.load(state).items():
                content.tofile(Path(folder) / Path(name).name)
            tf.train.Checkpoint(iterator=self.iterator).read(f"{folder}/{_ITERATOR}").assert_consumed()


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
        if isinstance(stream, IteratorStream):
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


def _largest(gradient: Tensor | tf.IndexedSlices | None) -> Tensor:
    """Largest absolute value of a gradient; infinite if one of its values is not a number."""
    if gradient is None:
        return tf.constant(0.0)
    values = gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient
    size = tf.cast(tf.reduce_max(tf.abs(values)), tf.float32)
    # TensorFlow's maximum passes over what is not a number, and that of nothing is minus infinity.
    finite = tf.reduce_all(tf.math.is_finite(values))
    return tf.where(finite, tf.maximum(size, 0.0), np.inf)


def _finite_checks(variables: Sequence[keras.Variable]) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """Two compiled checks, bool `[variables]`: a quick one that may be wrong in saying no, and an exact one."""

    # A sum is finite only if all its terms are, and needs no memory: half the time of `is_finite`.
    def quick() -> Tensor:
        return tf.math.is_finite(tf.stack([tf.cast(tf.reduce_sum(v.value), tf.float32) for v in variables]))

    def exact() -> Tensor:
        return tf.stack([tf.reduce_all(tf.math.is_finite(v.value)) for v in variables])

    return tf.function(quick, autograph=False), tf.function(exact, autograph=False)


@contextlib.contextmanager
def _calls_seen(found: list[Seen]) -> Iterator[None]:
    """Notes every call of a layer, and of an operation of a functional model, that this thread makes.

    All of them, wherever they are kept, go through the one method of their base class: it is wrapped meanwhile.
    """
    original, thread, way = keras.Operation.__call__, threading.get_ident(), []

    def call(self: keras.Operation, *args: Any, **kwargs: Any) -> Any:
        # Tensors of a function that is being compiled hold no numbers.
        if threading.get_ident() != thread or not tf.executing_eagerly():
            return original(self, *args, **kwargs)
        way.append(self.name)
        try:
            outputs = original(self, *args, **kwargs)
            name = f"{'/'.join(way)} ({type(self).__name__})"
            seen = _seen("layer", name, keras.tree.flatten(outputs))
            inputs = _seen("layer", name, keras.tree.flatten((args, kwargs)))
            found.append(dataclasses.replace(seen, inputs=inputs.value))
            return outputs
        finally:
            way.pop()

    keras.Operation.__call__ = call
    try:
        yield
    finally:
        keras.Operation.__call__ = original


def _seen(kind: Literal["layer", "loss", "gradient"], name: str, values: Sequence[Any]) -> Seen:
    """What the floats among some values are."""
    values = [value.values if isinstance(value, tf.IndexedSlices) else value for value in values]
    arrays = [v.numpy() for v in values if isinstance(v, tf.Tensor) and v.dtype.is_floating]
    for array in arrays:
        wrong = array[~np.isfinite(array)]
        if wrong.size:
            return Seen(kind, name, float(wrong[0]))
    return Seen(kind, name, None, largest=max((float(np.abs(a).max()) for a in arrays if a.size), default=None))


def _write(arrays: list[tf.TensorArray], i: Tensor, values: list[Tensor]) -> list[tf.TensorArray]:
    return [array.write(i, value) for array, value in zip(arrays, values, strict=True)]


def _computed_ahead(batch: Structure, ahead: Ahead) -> Structure:
    """The arrays of a batch, and what each function makes of the array at its position."""
    leaves = tuple(leaf for _, leaf in flatten(batch))
    return leaves, tuple(function(leaves[position]) for function, position in ahead)


def _tensor_spec(spec: ArraySpec) -> tf.TensorSpec:
    return tf.TensorSpec([None, *spec.shape], tf.as_dtype(spec.dtype))


def _staged(dataset: tf.data.Dataset, feed: StreamFeed, ahead: Ahead) -> tf.data.Dataset:
    """The batches of a stream, with what is computed ahead, made while steps run."""
    if ahead:
        stage = functools.partial(_computed_ahead, ahead=ahead)
        dataset = dataset.map(lambda *batch: stage(batch if isinstance(feed.spec, tuple) else batch[0]), AUTO)
    return dataset.prefetch(AUTO)


def _generated(reading: Reading) -> tf.data.Dataset:
    signature = map_structure(_tensor_spec, reading.spec)
    return tf.data.Dataset.from_generator(reading.batches, output_signature=signature)
