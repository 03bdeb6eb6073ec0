"""The JAX implementation of `Engine`."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import final

import jax
import jax.numpy as jnp
import keras
import numpy as np

from lightkeras.data.feed import ArrayFeed, StreamFeed
from lightkeras.data.stream_reader import StreamReader
from lightkeras.data.structure import Structure, flatten, map_structure, may_change, owned
from lightkeras.engine.base import Predictor, Program, Step, Tensor, Update, batch_to_measure, check_scalar, returned
from lightkeras.engine.jax import devices as several
from lightkeras.engine.jax.cache import enable_compilation_cache
from lightkeras.engine.jax.finite import all_finite, global_norm, largest, numbers, on_gradient, sums_finite
from lightkeras.engine.jax.programs import JaxPredictor, JaxProgram, TracingEngine, by_id
from lightkeras.engine.jax.scope import Values, is_eager, keras_patched
from lightkeras.engine.jax.steps import abstract, form
from lightkeras.engine.jax.streams import (
    OnDemandStream,
    PrefetchedStream,
    blocks_in_memory,
    narrowed,
    padded_batches,
    stays_on_host,
)
from lightkeras.engine.jax.world import join
from lightkeras.engine.launchers import Launch
from lightkeras.engine.optimizer_state import apply
from lightkeras.engine.stream import Stream
from lightkeras.engine.streams import ArrayStream, holds_bags
from lightkeras.engine.world import World
from lightkeras.system.held_values import HeldValues


@final
class JaxEngine(TracingEngine):
    """See `Engine`."""

    backend = "jax"
    numbers = staticmethod(numbers)
    is_eager = staticmethod(is_eager)

    def __init__(self) -> None:
        enable_compilation_cache()
        super().__init__()
        self._sums_finite, self._all_finite = jax.jit(sums_finite), jax.jit(all_finite)
        self._norm: Tensor | None = None  # of the gradients of a `minimize`, if it is logged

    # ------------------------------------------------------------------ devices

    @classmethod
    def join(cls, launch: Launch | None) -> World:
        return join(launch)

    def share(self, variables: Mapping[str, keras.Variable]) -> None:
        several.share(variables, self.world)

    def over(self, devices: int | str | None) -> contextlib.AbstractContextManager[None]:
        return several.over(devices)

    def check_devices(self, variables: Mapping[str, keras.Variable]) -> None:
        several.check(variables.values())

    # ------------------------------------------------------------------ gradients of one batch

    def gradient_sizes(self, step: Step, stream: Stream) -> list[tuple[keras.Variable, float]]:
        measure = self._measure
        if measure is None or measure.step != step:
            raise ValueError(self._NOT_TRACED)
        batch = narrowed(batch_to_measure(stream))
        traced, record = measure.traced, measure.record
        if form(batch) != form(measure.batch):
            traced, record = self._traced(step, abstract(batch), logs=True)
        kept = [variable for variable in traced.written if id(variable) not in record.updated]

        def measured(values: list[Tensor], batch: Structure) -> tuple[list[Tensor], list[Tensor]]:
            (_, sizes), state = traced.call(by_id(traced.variables, values), batch)
            after = by_id(traced.written, state)
            return sizes, [after[id(variable)] for variable in kept]

        sizes, after = jax.jit(measured)([variable.value for variable in traced.variables], batch)
        for variable, value in zip(kept, after, strict=True):
            variable.assign(value)
        return [
            pair
            for update, column in zip(record.outside, sizes, strict=True)
            for pair in zip(update.variables, column.tolist(), strict=True)
        ]

    # ------------------------------------------------------------------ streams

    def _open_arrays(self, feed: ArrayFeed, epoch: int, step: int, seed: int, program: Program | None) -> Stream:
        if holds_bags(feed.arrays):
            return PrefetchedStream(padded_batches(feed, epoch, step, seed))
        if stays_on_host(feed):
            return PrefetchedStream(blocks_in_memory(feed, epoch, step, seed), in_blocks=True)
        return ArrayStream(feed, self._on_device(feed), epoch, step, seed)

    def _open_dataset(
        self, feed: StreamFeed, epoch: int, step: int, state: bytes | None, program: Program | None
    ) -> Stream:
        # Read on demand, because its state is the iterator's. `tf.data` prefetches by itself.
        return OnDemandStream(self._datasets().open(feed, epoch, step, state))

    def _open_reader(
        self, feed: StreamFeed, reader: StreamReader, step: int, limit: int | None, program: Program | None
    ) -> Stream:
        return PrefetchedStream(reader.batches(limit), reader, step)

    def open_batch(
        self,
        batch: Structure,
        shapes: Sequence[Sequence[int | None]] | None = None,
        program: Program | None = None,
    ) -> Stream:
        return PrefetchedStream(iter([batch]))

    def _copied_to_device(self, arrays: Structure) -> Structure:
        def copied(array: np.ndarray) -> jax.Array:
            # JAX uses NumPy's memory on the CPU, also with `may_alias=False`.
            return several.put(owned(array) if may_change(array) else array)

        return map_structure(copied, narrowed(arrays))

    # ------------------------------------------------------------------ programs

    def _program(self, step: Step, names: Sequence[str], steps: int | None) -> Program:
        # The trace that found the names is reused; a program made later is traced again.
        traces = dict([self._traces.pop(step)] if step in self._traces else [])
        return JaxProgram(functools.partial(self._traced, step, logs=True), names, traces)

    def _predictor(self, function: Callable[[Structure], Structure]) -> Predictor:
        return JaxPredictor(functools.partial(self._traced, function))

    # ------------------------------------------------------------------ inside a step

    def minimize(
        self,
        loss_fn: Callable[[], Tensor],
        variables: Callable[[], Sequence[keras.Variable]],
        optimizer: keras.optimizers.Optimizer,
    ) -> Tensor:
        scope = Values.current()
        if scope is None:
            raise RuntimeError("minimize was called outside a step.")
        record = None if scope.is_rehearsed else self._record
        if self._record is not None and self._record.building:
            loss = check_scalar(jnp.asarray(returned(loss_fn())))  # builds models that build on their first call
            self._observe(optimizer, loss, (), ())
            if record is not None:
                record.updates.append(Update(tuple(variables()), optimizer, ()))
            return loss
        learned = tuple(variables())
        reached: set[int] = set()

        def scaled_loss(values: list[Tensor]) -> tuple[Tensor, Tensor]:
            hooked = [
                on_gradient(functools.partial(reached.add, id(v)))(x) for v, x in zip(learned, values, strict=True)
            ]
            with Values(learned, hooked, parent=scope):
                loss = check_scalar(jnp.asarray(returned(loss_fn())))
                return optimizer.scale_loss(loss), loss

        (_, loss), gradients = jax.value_and_grad(scaled_loss, has_aux=True)([v.value for v in learned])
        self._norm = None
        self._observe(optimizer, loss, learned, gradients)
        if self._norm is not None:
            # The update waits for the norm: on a CPU, XLA would compute them side by side, and each slower. A step of
            # 100,000 parameters took 1.27 of its time without the norm, and takes 1.14.
            gradients, _ = jax.lax.optimization_barrier((gradients, self._norm))
        if record is not None:
            unreached = tuple(variable for variable in learned if id(variable) not in reached)
            record.updates.append(update := Update(learned, optimizer, unreached))
            if not scope.in_branch:
                record.outside.append(update)
                scale = optimizer.scale_loss(jnp.ones_like(loss)).astype("float32")
                record.sizes.append(jnp.stack([largest(g) for g in gradients]) / scale if learned else jnp.zeros(0))
        if reached:
            # As on TensorFlow, variables that the loss does not depend on do not change, nor decay.
            pairs = [pair for pair in zip(gradients, learned, strict=True) if id(pair[1]) in reached]
            with Values(parent=scope) as updating:
                apply(optimizer, [gradient for gradient, _ in pairs], [variable for _, variable in pairs])
            if record is not None:
                record.updated.update(updating.written)
        return loss

    def global_norm(self, gradients: Sequence[Tensor | None]) -> Tensor:
        self._norm = global_norm(gradients)
        return self._norm

    def gradients(self, fn: Callable[[Structure], Tensor], inputs: Structure) -> Structure:
        inputs = map_structure(jnp.asarray, inputs)
        paths = [path for path, _ in flatten(inputs)]
        reached: set[str] = set()

        def value(inputs: Structure) -> Tensor:
            left = iter(paths)
            return fn(map_structure(lambda leaf: on_gradient(functools.partial(reached.add, next(left)))(leaf), inputs))

        found = jax.grad(value)(inputs)
        lost = [path or "the input" for path in paths if path not in reached]
        if lost:
            raise ValueError(f"gradients: the value does not depend on {', '.join(lost)}.")
        return found

    @staticmethod
    def _place() -> object:
        scope = Values.current()
        return scope is not None and scope.in_branch

    # ------------------------------------------------------------------ inspection

    @contextlib.contextmanager
    def traced(self, folder: Path) -> Iterator[None]:
        with jax.profiler.trace(str(folder)):
            yield

    def device_memory(self) -> int | None:
        found = jax.local_devices()[0].memory_stats()
        return None if found is None else int(found["bytes_in_use"])

    def is_out_of_memory(self, error: BaseException) -> bool:
        exhausted = isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
        return exhausted or isinstance(error, MemoryError)

    def call(self, function: Callable[[Structure], Structure], batch: Structure) -> Structure:
        with keras_patched(), Values() as scope:
            returned = function(map_structure(jnp.asarray, narrowed(batch)))
        for variable in scope.written.values():
            variable.assign(scope.state_mapping[id(variable)])
        return returned

    def hold(self, variables: Mapping[str, keras.Variable]) -> HeldValues:
        # On a CPU this is a view. XLA copies a donated array that NumPy views, and does not write to it.
        arrays = {key: np.asarray(variable.value) for key, variable in variables.items()}
        return HeldValues(variables, arrays, arrays, by_reference=True)

    def not_finite(self, variables: Mapping[str, keras.Variable]) -> list[str]:
        floats = {key: v.value for key, v in variables.items() if keras.backend.is_float_dtype(v.dtype)}
        if not floats or self._sums_finite(list(floats.values())).all():
            return []
        exact = self._all_finite(list(floats.values())).tolist()
        return [key for key, finite in zip(floats, exact, strict=True) if not finite]
