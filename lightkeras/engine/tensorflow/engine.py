"""The TensorFlow implementation of `Engine`."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import keras
import tensorflow as tf

from lightkeras.data.feed import ArrayFeed, StreamFeed
from lightkeras.data.precompute import RecordingScope
from lightkeras.data.stream_reader import StreamReader
from lightkeras.data.structure import Structure, flatten, map_structure
from lightkeras.engine.base import (
    Engine,
    Predictor,
    Program,
    Step,
    Tensor,
    Trace,
    Update,
    batch_to_measure,
    check_scalar,
    returned,
)
from lightkeras.engine.optimizer_state import apply
from lightkeras.engine.stream import Stream
from lightkeras.engine.streams import ArrayStream
from lightkeras.engine.tensorflow import devices as several
from lightkeras.engine.tensorflow.finite import finite_checks, global_norm, largest, numbers, on_host, viewed
from lightkeras.engine.tensorflow.programs import TensorFlowPredictor, TensorFlowProgram
from lightkeras.engine.tensorflow.replica import part_of_mean, same_everywhere, summed
from lightkeras.engine.tensorflow.row_sums import traced_by
from lightkeras.engine.tensorflow.sparse_rows import rows_summed
from lightkeras.engine.tensorflow.streams import (
    PipelineStream,
    ReaderStream,
    any_length,
    gathered,
    on_device,
    tensor_spec,
)
from lightkeras.engine.tensorflow.world import join, over, share
from lightkeras.engine.tf_data import Precomputed, on_all_cores, with_precomputed
from lightkeras.system.held_values import HeldValues


@dataclasses.dataclass
class _Tracing:
    """Records of a step while it is traced.

    Args:
        building: Whether models that build on their first call do so now.
        updates: Its `minimize` calls so far.
        sizes: float32 `[variables]` for each call, the largest absolute value of each gradient.
    """

    building: bool
    updates: list[Update] = dataclasses.field(default_factory=list)
    sizes: list[Tensor] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class _Traced:
    """A traced step for batches of any size.

    Args:
        step: The step.
        learned: Variables of each `minimize` outside branches.
        run: Maps a batch to its logs; for a step that minimizes, to its gradient sizes, without the updates.
    """

    step: Step
    learned: tuple[tuple[keras.Variable, ...], ...]
    run: Callable[[Structure], Any]


@final
class TensorFlowEngine(Engine):
    """See `Engine`."""

    backend = "tensorflow"
    traces_any_size = True

    numbers = staticmethod(numbers)
    global_norm = staticmethod(global_norm)
    is_eager = staticmethod(tf.executing_eagerly)
    join = staticmethod(join)

    def __init__(self) -> None:
        super().__init__()
        self._tracing: _Tracing | None = None  # while a step is traced, else None
        self._learning: _Traced | None = None  # last traced step that minimizes
        self._evaluating: _Traced | None = None  # last traced step that does not
        self._precomputed: dict[Step, Precomputed] = {}  # functions for the input pipeline
        self._pipelines: dict[tuple[Precomputed, int, str], Callable[[Tensor, Structure], tf.data.Dataset]] = {}
        self._finite: tuple[tuple[keras.Variable, ...], Callable[[], Tensor], Callable[[], Tensor]] | None = None

    def trace(self, step: Step, spec: Structure, batch_size: int | None = None) -> Trace:
        made: list[tf.Variable] = []
        names: list[str] = []
        precomputed: list[tuple[Callable[[Tensor], Structure], int]] = []
        learned: list[tuple[keras.Variable, ...]] = []

        def run(batch: Structure) -> Mapping[str, Tensor] | list[Tensor]:
            for records in (made, tracing.updates, tracing.sizes):
                records.clear()
            recording = RecordingScope([leaf for _, leaf in flatten(batch)])
            with recording.entered(), traced_by(self):
                logs = step(batch)
            names[:], precomputed[:] = list(logs), recording.found
            if not tracing.updates:
                return logs
            # A value computed in a branch cannot leave it and may not exist.
            graph = tf.compat.v1.get_default_graph()
            found = zip(tracing.updates, tracing.sizes, strict=True)
            outside = [(update.variables, size) for update, size in found if size.graph is graph]
            learned[:] = [variables for variables, _ in outside]
            return [size for _, size in outside]

        # The first run suffices if every model is built. TensorFlow repeats a run that created variables inside of its
        # graph, such as those of metrics. If the last of these runs fails or creates a variable, another one builds
        # (and raises the user's error), and another one traces.
        for building in (None, True, False):
            tracing = self._tracing = _Tracing(building is True)
            try:
                # A trace assigns nothing, and Keras creates new variables outside of it. A keras.StatelessScope
                # would also work, but Keras cannot read regularized weights inside one.
                with tf.variable_creator_scope(_kept_in(made)) if building is None else contextlib.nullcontext():
                    traced = tf.function(run, autograph=False).get_concrete_function(map_structure(tensor_spec, spec))
            except Exception as error:
                # Variables that TensorFlow made in a trace that failed never get their initial values.
                if building is None and all(variable.is_initialized() for variable in made):
                    continue
                if "singleton tf.Variables" not in str(error) or not isinstance(error, ValueError):
                    raise
                raise ValueError(self._CREATES_VARIABLES) from error
            finally:
                self._tracing = None
            if building is None and not made:
                break
        self._precomputed.pop(step, None)
        if precomputed:
            self._precomputed[step] = tuple(precomputed)
        if tracing.updates:
            self._learning = _Traced(step, tuple(learned), traced)
        else:
            self._evaluating = _Traced(step, (), traced)
        return Trace(tuple(names), tuple(tracing.updates), tuple(traced.graph.variables))

    def gradient_sizes(self, step: Step, stream: Stream) -> list[tuple[keras.Variable, float]]:
        traced = self._learning
        if traced is None or traced.step != step:
            raise ValueError(self._NOT_TRACED)
        batch = batch_to_measure(stream)
        sizes = [column.numpy().tolist() for column in traced.run(map_structure(tf.convert_to_tensor, batch))]
        return [
            pair
            for learned, column in zip(traced.learned, sizes, strict=True)
            for pair in zip(learned, column, strict=True)
        ]

    def _open_arrays(self, feed: ArrayFeed, epoch: int, step: int, seed: int, program: Program | None) -> Stream:
        precomputed = _precomputed_by(program)
        if precomputed or feed.holds_bags:
            return PipelineStream(self._pipeline_of(feed, precomputed, epoch, step, seed), feed.spec, precomputed)
        return ArrayStream(feed, self._on_device(feed), epoch, step, seed)

    def _open_dataset(
        self, feed: StreamFeed, epoch: int, step: int, state: bytes | None, program: Program | None
    ) -> Stream:
        return self._datasets().open(feed, epoch, step, state, _precomputed_by(program))

    def _open_reader(
        self, feed: StreamFeed, reader: StreamReader, step: int, limit: int | None, program: Program | None
    ) -> Stream:
        return ReaderStream(feed, _precomputed_by(program), reader, step, limit)

    def open_batch(
        self,
        batch: Structure,
        shapes: Sequence[Sequence[int | None]] | None = None,
        program: Program | None = None,
    ) -> Stream:
        precomputed = _precomputed_by(program)
        # A tuple of leaves, because `tf.data` converts a list to an array.
        leaves = tuple(tf.convert_to_tensor(leaf) for _, leaf in flatten(batch))
        known = [leaf.shape for leaf in leaves] if shapes is None else shapes

        def stage(*given: Tensor) -> Structure:
            # The identity, which makes sizes unknown: a step compiled with them may differ in the last bits.
            blurred = map(tf.compat.v1.placeholder_with_default, given, known)
            return with_precomputed(tuple(blurred), precomputed)

        unconverted = tf.autograph.experimental.do_not_convert(stage)
        return PipelineStream(tf.data.Dataset.from_tensors(leaves).map(unconverted), batch, precomputed)

    def _program(self, step: Step, names: Sequence[str], steps: int | None) -> Program:
        if (devices := several.current()) is not None:
            # What is computed ahead is not known to be one value for each example, so it cannot be divided.
            return TensorFlowProgram(several.divided_step(devices, step), names)
        traced, precomputed = self._evaluating, self._precomputed.get(step, ())
        # The trace of a train step lacks the updates; a trace with functions to precompute contains them.
        if traced is None or traced.step != step or precomputed:
            return TensorFlowProgram(step, names, precomputed)
        return TensorFlowProgram(traced.run, names, any_size=True)

    def _predictor(self, function: Callable[[Structure], Structure]) -> Predictor:
        return TensorFlowPredictor(several.divided_function(function))

    def minimize(
        self,
        loss_fn: Callable[[], Tensor],
        variables: Callable[[], Sequence[keras.Variable]],
        optimizer: keras.optimizers.Optimizer,
    ) -> Tensor:
        if self._tracing is not None and self._tracing.building:
            loss_fn()  # builds models that build on their first call
        learned = tuple(variables())
        values = [variable.value for variable in learned]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            loss = tf.convert_to_tensor(returned(loss_fn()))
            scaled = optimizer.scale_loss(part_of_mean(loss))
        check_scalar(loss)
        loss, *gradients = summed([part_of_mean(loss), *tape.gradient(scaled, values)])
        gradients = [rows_summed(gradient) for gradient in gradients]
        self._observe(optimizer, loss, learned, gradients)
        if self._tracing is None:
            with same_everywhere():
                apply(optimizer, gradients, learned)
        else:
            pairs = zip(learned, gradients, strict=True)
            unreached = tuple(variable for variable, gradient in pairs if gradient is None)
            self._tracing.updates.append(Update(learned, optimizer, unreached))
            scale = tf.cast(optimizer.scale_loss(tf.ones_like(loss)), tf.float32)
            sizes = [largest(gradient) for gradient in gradients]
            self._tracing.sizes.append((tf.stack(sizes) if sizes else tf.zeros([0])) / scale)
        return loss

    @staticmethod
    def _place() -> object:
        return tf.compat.v1.get_default_graph()

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

    def device_memory(self) -> int | None:
        if not tf.config.list_logical_devices("GPU"):
            return None
        return int(tf.config.experimental.get_memory_info("GPU:0")["current"])

    def is_out_of_memory(self, error: BaseException) -> bool:
        return isinstance(error, (tf.errors.ResourceExhaustedError, MemoryError))

    def call(self, function: Callable[[Structure], Structure], batch: Structure) -> Structure:
        return function(map_structure(tf.convert_to_tensor, batch))

    def over(self, devices: int | str | None) -> contextlib.AbstractContextManager[None]:
        return over(self.world, devices)

    def share(self, variables: Mapping[str, keras.Variable]) -> None:
        share(self.world, variables.values())

    def check_devices(self, variables: Mapping[str, keras.Variable]) -> None:
        several.check()

    def hold(self, variables: Mapping[str, Any]) -> HeldValues:
        # Operations that change a variable in place copy its buffer first if a tensor shares it.
        values = {key: on_host(tf.convert_to_tensor(variable)) for key, variable in variables.items()}
        arrays = {key: viewed(value) for key, value in values.items()}
        return HeldValues(variables, values, arrays, by_reference=True)

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

    def _pipeline_of(
        self, feed: ArrayFeed, precomputed: Precomputed, epoch: int, step: int, seed: int
    ) -> tf.data.Dataset:
        """Batches of a feed in memory with their precomputed values, made by all cores while steps run."""
        arrays, size = self._on_device(feed), feed.batch_size
        specs = map_structure(any_length, arrays)
        key = (precomputed, size, repr(specs))
        if key not in self._pipelines:

            def pipeline(order: Tensor, arrays: Structure) -> tf.data.Dataset:
                def stage(indices: Tensor) -> Structure:
                    return with_precomputed(map_structure(lambda held: gathered(held, indices), arrays), precomputed)

                unconverted = tf.autograph.experimental.do_not_convert(stage)
                return on_all_cores(tf.data.Dataset.from_tensor_slices(order).batch(size), unconverted)

            # Traced once for all splits and epochs: to make a dataset takes as long as a few steps.
            signature = [tf.TensorSpec([None], tf.int32), specs]
            self._pipelines[key] = tf.function(pipeline, signature, autograph=False).get_concrete_function()
        return self._pipelines[key](tf.constant(feed.order(epoch, seed)[step * size :], tf.int32), arrays)

    def _copied_to_device(self, arrays: Structure) -> Structure:
        return map_structure(on_device, arrays)


def _kept_in(made: list[tf.Variable]) -> Callable[..., tf.Variable]:
    """Creates variables as the next creator does, and appends them."""

    def created(create: Callable[..., tf.Variable], **settings: Any) -> tf.Variable:
        made.append(create(**settings))
        return made[-1]

    return created


def _precomputed_by(program: Program | None) -> Precomputed:
    return program.precomputed if isinstance(program, TensorFlowProgram) else ()
