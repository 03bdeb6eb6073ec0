"""Compiled steps: a `jax.lax.while_loop` of steps inside one `jax.jit`, one for each batch shape.

On a CPU, XLA computes convolutions up to 1.5 times slower inside a loop. A step with a convolution is compiled
without a loop there and called once per batch.
"""

from __future__ import annotations

import dataclasses
import time
import warnings
import weakref
from collections.abc import Callable, Sequence
from typing import Any, final

import jax
import jax.numpy as jnp
import keras
import numpy as np

from lightkeras.data.structure import Structure
from lightkeras.engine.base import (
    Engine,
    Predictor,
    Program,
    Step,
    StepLogs,
    Tensor,
    Trace,
    Update,
    check_names,
    check_rows,
)
from lightkeras.engine.jax.batch_range import BatchRange, fetch, next_ranges
from lightkeras.engine.jax.compiled import Compiled, is_faster_outside_loop
from lightkeras.engine.jax.devices import gathered, warn_of_batch
from lightkeras.engine.jax.logged import Logged
from lightkeras.engine.jax.scope import Values, device_dtype, keras_patched
from lightkeras.engine.jax.steps import Traced, VariablesById, abstract_batch, form, strongly_typed
from lightkeras.engine.optimizer_state import make_slots
from lightkeras.engine.stream import Stream
from lightkeras.engine.streams import ArrayStream

MIN_ROWS = 1024
"""Minimum rows of the array that a call writes its logs to, so that the number of steps may vary without compiling."""

MANY_FORMS = 8
"""Number of batch shapes, each of which is compiled, that causes a warning."""

TraceBatch = Callable[[Structure], tuple[Traced, "TraceRecord"]]
"""Traces a function for a batch of `jax.ShapeDtypeStruct`s."""


@dataclasses.dataclass
class TraceRecord:
    """Records of a step while it is traced.

    Args:
        building: Whether models that build on their first call do so now; nothing is minimized then.
        names: Names of its logs.
        updates: Its `minimize` calls so far.
        outside: The calls that are not in a branch.
        sizes: float32 `[variables]` for each call outside branches, the largest absolute value of each gradient.
        updated: Variables that optimizers updated.
    """

    building: bool
    names: tuple[str, ...] = ()
    updates: list[Update] = dataclasses.field(default_factory=list)
    outside: list[Update] = dataclasses.field(default_factory=list)
    sizes: list[Tensor] = dataclasses.field(default_factory=list)
    updated: VariablesById = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Measure:
    """A traced step that minimizes, and the batch spec of the trace."""

    step: Step
    batch: Structure
    traced: Traced
    record: TraceRecord


class TracingEngine(Engine):
    """The part of the JAX engine that traces steps; programs use it for each new batch shape."""

    def __init__(self) -> None:
        super().__init__()
        self._record: TraceRecord | None = None  # while a step is traced, else None
        # Variables that steps use. Weak references: a rebuilt optimizer drops its old ones.
        self._known: weakref.WeakValueDictionary[int, keras.Variable] = weakref.WeakValueDictionary()
        self._measure: Measure | None = None  # of the last traced step that minimizes
        self._traces: dict[Step, tuple[Any, Traced]] = {}  # not compiled yet

    def trace(self, step: Step, spec: Structure, batch_size: int | None = None) -> Trace:
        warn_of_batch(batch_size)
        batch = abstract_batch(spec, batch_size)
        traced, record = self._traced(step, batch, logs=True)
        self._traces[step] = (form(batch), traced)
        if record.updates:
            self._measure = Measure(step, batch, traced, record)
        return Trace(record.names, tuple(record.updates), traced.variables)

    def _traced(
        self, function: Callable[[Structure], Any], batch: Structure, logs: bool = False
    ) -> tuple[Traced, TraceRecord]:
        """Traces a function again until all variables that it uses are known; the first run builds layers.

        Raises:
            ValueError: It creates new variables in each run.
        """
        names: tuple[str, ...] = ()
        record = TraceRecord(building=True)
        while True:
            given, scopes = tuple(self._known.values()), list[Values]()
            # A new function for each run: JAX caches traces by function and would not run it again.
            pure = _pure(function, given, scopes, record, names if logs else None)
            self._record = record
            try:
                values = [jax.ShapeDtypeStruct(tuple(v.shape), device_dtype(v.dtype)) for v in given]
                # New variables get their values when the outermost scope ends, outside of the trace.
                with keras.StatelessScope():
                    jaxpr, (outputs, _) = jax.make_jaxpr(pure, return_shape=True)(values, batch)
            finally:
                self._record = None
            (scope,) = scopes
            if scope.made and not record.building:
                raise ValueError(self._CREATES_VARIABLES)
            self._known.update(scope.found)
            if record.building:
                for optimizer, learned in Trace((), tuple(record.updates)).optimizers():
                    if learned:
                        make_slots(optimizer, learned)
                    self._known.update({id(variable): variable for variable in optimizer.variables})
            if not scope.found and not (record.building and record.updates):
                return Traced(tuple(scope.used.values()), tuple(scope.written.values()), outputs, given, jaxpr), record
            names, record = record.names, TraceRecord(building=False)


def _pure(
    function: Callable[[Structure], Any],
    given: Sequence[keras.Variable],
    scopes: list[Values],
    record: TraceRecord,
    names: Sequence[str] | None,
) -> Callable[[list[Tensor], Structure], tuple[Any, list[Tensor]]]:
    """Converts a function of a batch to a function of variable values and a batch.

    Args:
        function: Function of a batch.
        given: Variables whose values are arguments.
        scopes: Receives the scope of the run.
        record: Receives the records of the run.
        names: Names that a step logged before, empty in its first run; `None` if it is not a step.
    """

    def pure(values: list[Tensor], batch: Structure) -> tuple[Any, list[Tensor]]:
        with keras_patched(), Values(given, values) as scope:
            outputs = function(batch)
            if names is not None:
                check_names(list(outputs), names or list(outputs))
                record.names = tuple(outputs)
                outputs = dict(outputs), record.sizes
            outputs = jax.tree.map(strongly_typed, outputs)
        scopes[:] = [scope]
        return outputs, [scope.get_current_value(variable) for variable in scope.written.values()]

    return pure


class _Fused:
    """A function of a batch, compiled once for each batch shape and shape of its source."""

    def __init__(self, trace: TraceBatch, traces: dict[Any, Traced] | None = None) -> None:
        self._trace, self._traces = trace, {} if traces is None else traces
        self._compiled: dict[Any, Compiled] = {}
        self._tracing = 0.0  # seconds
        self._warned = False
        self.forms: list[str] = []

    def _add(
        self, key: Any, batches: BatchRange, rows: int, made: tuple[Traced, Callable[..., Any], bool], began: float
    ) -> Compiled:
        """Compiles for one more batch shape; its trace began at time `began`."""
        compiled = self._compiled[key] = Compiled(*made)
        self.forms.append(_text_of(form(batches.batch), 0 if compiled.one_batch else rows))
        self._tracing += time.perf_counter() - began
        return compiled

    def _warn_of_many(self) -> None:
        """Warns once of the time that compiling for many batch shapes takes."""
        if self._warned or len(self._compiled) < MANY_FORMS:
            return
        batches = {(key[0], key[2]) for key in self._compiled}
        if len(batches) >= MANY_FORMS:
            self._warned = True
            seconds = self._tracing + sum(compiled.compiling or 0.0 for compiled in self._compiled.values())
            warnings.warn(
                f"Batches had {len(batches)} shapes so far, the last one {self.forms[-1]}. JAX compiles the step for "
                f"each, which took {seconds:.1f} s so far. Pad all batches to one length, or to one of a few "
                "(bucket them by length).",
                UserWarning,
                stacklevel=2,
            )


@final
class JaxProgram(_Fused, Program):
    """A compiled train or evaluation step; the first output of its trace is the logs."""

    def __init__(self, trace: TraceBatch, names: Sequence[str], traces: dict[Any, Traced]) -> None:
        super().__init__(trace, traces)
        self._names = tuple(names)

    def run(self, stream: Stream, count: int, waits: bool = True) -> StepLogs:
        done: list[tuple[BatchRange, list[jax.Array]]] = []
        left, waited = count, 0.0
        while left:
            began = time.perf_counter()
            found = next_ranges(stream, left)
            waited += time.perf_counter() - began
            if not found:
                break
            for batches in found:
                rows = max(MIN_ROWS, 1 << (batches.count - 1).bit_length())
                compiled = self._compiled.get(key := batches.key(rows))
                if compiled is None:
                    began = time.perf_counter()
                    traced = self._traces.pop(form(batches.batch), None) or self._trace(batches.batch)[0]
                    compiled = self._add(key, batches, rows, (traced, *self._steps(traced, batches.size, rows)), began)
                done.append((batches, compiled(batches.source, batches.start, batches.count)))
                left -= batches.count
            if isinstance(stream, ArrayStream):  # the smaller last batch is run by the next call
                break
            if len(done) > 2:  # at most two blocks are pending, which bounds memory
                done[-3][1][-1].block_until_ready()
        self._warn_of_many()
        counts = [batches.count for batches, _ in done]
        if len(done) == 1:  # a call with hooks: `repeat` takes four times as long
            examples = np.full(counts[0], done[0][0].size, np.int64)
        else:
            examples = np.repeat(np.array([batches.size for batches, _ in done], np.int64), counts)
        values = Logged(self._names, counts, [logs for _, logs in done])
        return StepLogs(dict(values) if waits else values, examples, waited)

    def _steps(self, traced: Traced, size: int, rows: int) -> tuple[Callable[..., Any], bool]:
        names, logs = self._names, traced.outputs[0]
        check_names(list(logs), names)

        def step(
            state: list[Tensor], read: list[Tensor], source: Structure, start: Tensor, number: Tensor
        ) -> tuple[list[Tensor], Tensor]:
            values = by_id(traced.read_only, read) | by_id(traced.written, state)
            (logs, *_), state = traced.call(values, fetch(source, size, start, number))
            row = jnp.stack([logs[name].astype("float32") for name in names]) if names else jnp.zeros(0)
            return state, gathered(row[None])

        def loop(
            state: list[Tensor], read: list[Tensor], source: Structure, start: Tensor, count: Tensor
        ) -> tuple[list[Tensor], Tensor]:
            def body(carry: tuple[Tensor, list[Tensor], Tensor]) -> tuple[Tensor, list[Tensor], Tensor]:
                number, state, table = carry
                state, row = step(state, read, source, start, number)
                return number + 1, state, jax.lax.dynamic_update_slice_in_dim(table, row, number, 0)

            first = (jnp.int32(0), state, jnp.zeros((rows, len(names)), "float32"))
            _, state, table = jax.lax.while_loop(lambda carry: carry[0] < count, body, first)
            return state, gathered(table)

        alone = is_faster_outside_loop(traced)
        return step if alone else loop, alone


@final
class JaxPredictor(_Fused, Predictor):
    """A compiled function from a batch to outputs."""

    def run(self, stream: Stream, count: int) -> Structure | None:
        parts: list[Structure] = []
        while len(parts) < count and (found := next_ranges(stream, count - len(parts))):
            for batches in found:
                compiled = self._compiled.get(key := batches.key(0))
                if compiled is None:
                    began = time.perf_counter()
                    traced, _ = self._trace(batches.batch)
                    compiled = self._add(
                        key, batches, 0, (traced, *self._one(traced, batches.batch, batches.size)), began
                    )
                parts += compiled(batches.source, batches.start, batches.count)
        self._warn_of_many()
        if not parts:
            return None
        return jax.tree.map(lambda *columns: np.concatenate([np.asarray(column) for column in columns]), *parts)

    def _one(self, traced: Traced, batch: Structure, size: int) -> tuple[Callable[..., Any], bool]:
        check_rows(traced.outputs, batch)
        divide = jax.process_count() == 1  # the process that writes may predict alone

        def one(
            written: list[Tensor], read: list[Tensor], source: Structure, start: Tensor, number: Tensor
        ) -> tuple[list[Tensor], Structure]:
            values = by_id(traced.read_only, read) | by_id(traced.written, written)
            outputs, state = traced.call(values, fetch(source, size, start, number, divide))
            return state, outputs

        return one, True


def _text_of(batch: Any, rows: int) -> str:
    arrays = ", ".join(f"{dtype}{list(shape)}" for _, shape, dtype in batch)
    return f"{arrays}, up to {rows:,} steps a call" if rows else arrays


def by_id(variables: Sequence[keras.Variable], values: Sequence[Tensor]) -> dict[int, Tensor]:
    """Returns the values by the `id` of their variables."""
    return {id(variable): value for variable, value in zip(variables, values, strict=True)}
