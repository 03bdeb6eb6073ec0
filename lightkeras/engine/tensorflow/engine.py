"""The engine: what the runner asks for, on TensorFlow."""

from __future__ import annotations

import contextlib
import dataclasses
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import keras
import tensorflow as tf

from lightkeras.data.feed import ArrayFeed, Feed, StreamFeed
from lightkeras.data.precompute import RecordingScope
from lightkeras.data.stream_reader import StreamReader
from lightkeras.data.structure import Structure, flatten, map_structure
from lightkeras.engine.base import Engine, Predictor, Program, Seen, Step, Stream, Tensor, Trace, Update
from lightkeras.engine.layer_calls import calls_seen, seen_as
from lightkeras.engine.streams import ArrayStream
from lightkeras.engine.tensorflow.finite import finite_checks, largest, numbers
from lightkeras.engine.tensorflow.programs import TensorFlowPredictor, TensorFlowProgram
from lightkeras.engine.tensorflow.sparse_rows import rows_summed
from lightkeras.engine.tensorflow.streams import (
    PipelineStream,
    ReadingStream,
    gathered,
    generated,
    on_device,
    tensor_spec,
)
from lightkeras.engine.tf_data import AUTO, Ahead, computed_ahead, staged


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
class _Traced:
    """A traced step, to be run on a batch of any size.

    Args:
        step: The step.
        learned: Variables of each `minimize` whose gradients come out.
        run: From a batch to its logs; of a step that minimizes, to the sizes of those gradients, without the updates.
    """

    step: Step
    learned: tuple[tuple[keras.Variable, ...], ...]
    run: Callable[[Structure], Any]


@final
class TensorFlowEngine(Engine):
    """See `Engine`."""

    backend = "tensorflow"

    def __init__(self) -> None:
        self._tracing: _Tracing | None = None  # while a step is traced, else None
        self._learning: _Traced | None = None  # the step that was traced last of those that minimize
        self._evaluating: _Traced | None = None  # and of the others
        self._ahead: dict[Step, Ahead] = {}  # what traced steps leave to the input pipeline; those that do
        self._stages: weakref.WeakKeyDictionary[Feed, dict[Ahead, Callable[[Tensor], Structure]]]
        self._stages = weakref.WeakKeyDictionary()
        self._resident: weakref.WeakKeyDictionary[Feed, Structure] = weakref.WeakKeyDictionary()
        self._seen: list[Seen] | None = None  # a list while a step is looked at, else None
        self._finite: tuple[tuple[keras.Variable, ...], Callable[[], Tensor], Callable[[], Tensor]] | None = None

    def trace(self, step: Step, spec: Structure, batch_size: int | None = None) -> Trace:
        made: list[tf.Variable] = []

        def noted(create: Callable[..., tf.Variable], **settings: Any) -> tf.Variable:
            made.append(create(**settings))
            return made[-1]

        names: list[str] = []
        ahead: list[tuple[Callable[[Tensor], Structure], int]] = []
        learned: list[tuple[keras.Variable, ...]] = []

        def run(batch: Structure) -> Mapping[str, Tensor] | list[Tensor]:
            recording = RecordingScope([leaf for _, leaf in flatten(batch)])
            with recording.entered():
                logs = step(batch)
            names[:], ahead[:] = list(logs), recording.found
            if not tracing.updates:
                return logs
            # A value computed in a branch cannot leave it, and might not exist.
            graph = tf.compat.v1.get_default_graph()
            found = zip(tracing.updates, tracing.sizes, strict=True)
            outside = [(update.variables, size) for update, size in found if size.graph is graph]
            learned[:] = [variables for variables, _ in outside]
            return [size for _, size in outside]

        # The first run suffices if every model is built. If it fails, or a variable is made in it, the second run
        # builds (and raises what is wrong), and the third run traces.
        for building in (None, True, False):
            tracing = self._tracing = _Tracing(building is True)
            try:
                # A trace runs nothing, so no assignment happens; Keras makes new variables outside of it.
                # A keras.StatelessScope would do too, but in one Keras cannot read regularized weights.
                with tf.variable_creator_scope(noted) if building is None else contextlib.nullcontext():
                    traced = tf.function(run, autograph=False).get_concrete_function(map_structure(tensor_spec, spec))
            except Exception as error:
                if building is None:
                    continue
                if "singleton tf.Variables" not in str(error) or not isinstance(error, ValueError):
                    raise
                raise ValueError(
                    "The step makes new variables each time it is run, as by `keras.layers.Dense(1)(x)`: they would "
                    "not be learned. Make layers, metrics and seed generators in `build`, as attributes of the task."
                ) from error
            finally:
                self._tracing = None
            if building is None and not made:
                break
        self._ahead.pop(step, None)
        if ahead:
            self._ahead[step] = tuple(ahead)
        if tracing.updates:
            self._learning = _Traced(step, tuple(learned), traced)
        else:
            self._evaluating = _Traced(step, (), traced)
        return Trace(tuple(names), tuple(tracing.updates), tuple(traced.graph.variables))

    def gradient_sizes(self, step: Step, stream: Stream) -> list[tuple[keras.Variable, float]]:
        traced = self._learning
        if traced is None or traced.step != step:
            raise ValueError("gradient_sizes: this step is not the one that was traced last: expected `trace` before.")
        batch = stream.next_batch()
        if batch is None:
            raise ValueError("gradient_sizes: the stream has no batch left; expected one.")
        sizes = [column.numpy().tolist() for column in traced.run(map_structure(tf.convert_to_tensor, batch))]
        return [
            pair
            for learned, column in zip(traced.learned, sizes, strict=True)
            for pair in zip(learned, column, strict=True)
        ]

    def _open_arrays(self, feed: ArrayFeed, epoch: int, step: int, seed: int, program: Program | None) -> Stream:
        ahead = _ahead_of(program)
        if ahead or feed.holds_bags:
            return PipelineStream(self._pipeline_of(feed, ahead, epoch, step, seed), feed.spec, ahead)
        return ArrayStream(feed, self._on_device(feed), epoch, step, seed)

    def _open_stream(
        self, feed: StreamFeed, epoch: int, step: int, state: bytes | None, program: Program | None
    ) -> Stream:
        ahead = _ahead_of(program)
        if feed.dataset is None:
            reading = StreamReader(feed, epoch, step, state)
            dataset = staged(generated(reading), feed, ahead)
            return ReadingStream(dataset, feed.spec if ahead else None, ahead, reading, step)
        return self._datasets().open(feed, epoch, step, state, ahead)

    def open_batch(
        self,
        batch: Structure,
        shapes: Sequence[Sequence[int | None]] | None = None,
        program: Program | None = None,
    ) -> Stream:
        ahead = _ahead_of(program)
        # As a tuple of leaves: `tf.data` takes a list for an array.
        leaves = tuple(tf.convert_to_tensor(leaf) for _, leaf in flatten(batch))
        known = [leaf.shape for leaf in leaves] if shapes is None else shapes

        def stage(*given: Tensor) -> Structure:
            # The identity, but for what is known of the shape.
            blurred = map(tf.compat.v1.placeholder_with_default, given, known)
            return computed_ahead(tuple(blurred), ahead)

        unconverted = tf.autograph.experimental.do_not_convert(stage)
        return PipelineStream(tf.data.Dataset.from_tensors(leaves).map(unconverted), batch, ahead)

    def program(self, step: Step, names: Sequence[str]) -> Program:
        traced, ahead = self._evaluating, self._ahead.get(step, ())
        # The trace of a step that learns lacks the updates; one of what is computed ahead has that in it.
        if traced is None or traced.step != step or ahead:
            return TensorFlowProgram(step, names, ahead)
        return TensorFlowProgram(traced.run, names, any_size=True)

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
        gradients = [rows_summed(gradient) for gradient in tape.gradient(scaled, values)]
        if self._seen is not None:
            self._seen.append(seen_as("loss", "loss", [loss], numbers))
            self._seen.extend(
                seen_as("gradient", v.path, [g], numbers) for v, g in zip(learned, gradients, strict=True)
            )
        if self._tracing is None:
            optimizer.apply(gradients, learned)
        else:
            pairs = zip(learned, gradients, strict=True)
            unreached = tuple(variable for variable, gradient in pairs if gradient is None)
            self._tracing.updates.append(Update(learned, optimizer, unreached))
            scale = tf.cast(optimizer.scale_loss(tf.ones_like(loss)), tf.float32)
            sizes = [largest(gradient) for gradient in gradients] or tf.zeros([0])
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

    @contextlib.contextmanager
    def traced(self, folder: Path) -> Iterator[None]:
        try:
            tf.profiler.experimental.start(str(folder))
        except tf.errors.OpError as error:
            raise RuntimeError(f"TensorFlow's profiler did not start: {error.message}") from error
        try:
            yield
        finally:
            tf.profiler.experimental.stop()

    def is_out_of_memory(self, error: BaseException) -> bool:
        return isinstance(error, (tf.errors.ResourceExhaustedError, MemoryError))

    def run_eagerly(self, step: Step, batch: Structure) -> tuple[dict[str, float], list[Seen]]:
        self._seen = []
        try:
            with calls_seen(self._seen, numbers, tf.executing_eagerly):
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
            self._finite = (wanted, *finite_checks(wanted))
        _, quick, exact = self._finite
        if quick().numpy().all():
            return []
        return [key for key, finite in zip(floats, exact().numpy(), strict=True) if not finite]

    def _pipeline_of(self, feed: ArrayFeed, ahead: Ahead, epoch: int, step: int, seed: int) -> tf.data.Dataset:
        """Batches of a feed in memory, with what is computed ahead, made by all cores while steps run."""
        arrays, stages = self._on_device(feed), self._stages.setdefault(feed, {})
        if ahead not in stages:

            def stage(indices: Tensor) -> Structure:
                return computed_ahead(map_structure(lambda held: gathered(held, indices), arrays), ahead)

            signature = [tf.TensorSpec([None], tf.int32)]
            stages[ahead] = tf.function(stage, signature, autograph=False).get_concrete_function()
        order = feed.order(epoch, seed)[step * feed.batch_size :]
        batches = tf.data.Dataset.from_tensor_slices(order).batch(feed.batch_size)
        return batches.map(stages[ahead], AUTO).prefetch(AUTO)

    def _on_device(self, feed: ArrayFeed) -> Structure:
        if feed not in self._resident:
            self._resident[feed] = map_structure(on_device, feed.arrays)
        return self._resident[feed]


def _ahead_of(program: Program | None) -> Ahead:
    return program.ahead if isinstance(program, TensorFlowProgram) else ()
