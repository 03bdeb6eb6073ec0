"""Steps, compiled: a `jax.lax.while_loop` of them inside one `jax.jit`, one for each form of batch.

On XLA's CPU a convolution takes up to half as long again inside a loop. A step that has one is compiled by itself
there, and called once for each batch.
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
    Stream,
    Tensor,
    Trace,
    Update,
    check_names,
)
from lightkeras.engine.jax.compiled import Compiled, is_faster_alone
from lightkeras.engine.jax.scope import Values, device_dtype, keras_adapted
from lightkeras.engine.jax.steps import Known, Traced, abstract_batch, form, strong
from lightkeras.engine.jax.work import Work, fetch, work_of
from lightkeras.engine.optimizer_state import make_slots
from lightkeras.engine.streams import ArrayStream

LEAST_ROWS = 1024
"""Rows of the array that a call writes its logs to: the number of steps may vary without compiling anew."""

MANY_FORMS = 8
"""So many forms of batch are worth a warning: each is compiled for."""

TraceBatch = Callable[[Structure], tuple[Traced, "Notes"]]
"""Traces a function for a batch of `jax.ShapeDtypeStruct`s."""


@dataclasses.dataclass
class Notes:
    """What is noted while a step is traced.

    Args:
        building: Whether models that build themselves are to do so now, and nothing is minimized yet.
        names: Names that it logs.
        updates: Its `minimize` calls so far.
        outside: Which of them are in no branch.
        sizes: float32 `[variables]` for each of those, the largest absolute value of each gradient.
        updated: Variables that optimizers updated.
    """

    building: bool
    names: tuple[str, ...] = ()
    updates: list[Update] = dataclasses.field(default_factory=list)
    outside: list[Update] = dataclasses.field(default_factory=list)
    sizes: list[Tensor] = dataclasses.field(default_factory=list)
    updated: Known = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Measure:
    """A traced step that minimizes, and what to trace it with for other batches."""

    step: Step
    batch: Structure
    traced: Traced
    notes: Notes


class TracingEngine(Engine):
    """The part of the JAX engine that traces steps. Programs stand beside it: they trace for each form of batch."""

    def __init__(self) -> None:
        self._notes: Notes | None = None  # while a step is traced, else None
        # Variables that steps were found to use; not kept alive here: an optimizer may be built anew.
        self._known: weakref.WeakValueDictionary[int, keras.Variable] = weakref.WeakValueDictionary()
        self._measure: Measure | None = None  # of the step that was traced last of those that minimize
        self._traces: dict[Step, tuple[Any, Traced]] = {}  # to be compiled

    def trace(self, step: Step, spec: Structure, batch_size: int | None = None) -> Trace:
        batch = abstract_batch(spec, batch_size)
        traced, notes = self._traced(step, batch, logs=True)
        self._traces[step] = (form(batch), traced)
        if notes.updates:
            self._measure = Measure(step, batch, traced, notes)
        return Trace(notes.names, tuple(notes.updates), traced.variables)

    def _traced(
        self, function: Callable[[Structure], Any], batch: Structure, logs: bool = False
    ) -> tuple[Traced, Notes]:
        """Traces a function until all variables that it uses are known; layers are built in the first run.

        Args:
            function: Function of a batch.
            batch: `jax.ShapeDtypeStruct`s.
            logs: Whether it is a step, which returns logs: then the sizes of its gradients are returned with them.

        Raises:
            ValueError: It makes new variables each time.
        """
        names: tuple[str, ...] = ()
        notes = Notes(building=True)
        while True:
            given, scopes = tuple(self._known.values()), list[Values]()
            # A new function for each run: JAX keeps the trace of one that it knows, and would not run it again.
            pure = _pure(function, given, scopes, notes, names if logs else None)
            self._notes = notes
            try:
                values = [jax.ShapeDtypeStruct(tuple(v.shape), device_dtype(v.dtype)) for v in given]
                # Variables made meanwhile get their values when the outermost scope ends, outside of the trace.
                with keras.StatelessScope():
                    jaxpr, (outputs, _) = jax.make_jaxpr(pure, return_shape=True)(values, batch)
            finally:
                self._notes = None
            (scope,) = scopes
            if scope.made and not notes.building:
                raise ValueError(
                    "The step makes new variables each time it is run, as by `keras.layers.Dense(1)(x)`: they would "
                    "not be learned. Make layers, metrics and seed generators in `build`, as attributes of the task."
                )
            self._known.update(scope.found)
            if notes.building:
                for optimizer, learned in Trace((), tuple(notes.updates)).optimizers():
                    if learned:
                        make_slots(optimizer, learned)
                    self._known.update({id(variable): variable for variable in optimizer.variables})
            if not scope.found and not (notes.building and notes.updates):
                return Traced(tuple(scope.used.values()), tuple(scope.written.values()), outputs, given, jaxpr), notes
            names, notes = notes.names, Notes(building=False)


def _pure(
    function: Callable[[Structure], Any],
    given: Sequence[keras.Variable],
    scopes: list[Values],
    notes: Notes,
    names: Sequence[str] | None,
) -> Callable[[list[Tensor], Structure], tuple[Any, list[Tensor]]]:
    """Makes a function of a batch a function of the values of variables too.

    Args:
        function: Function of a batch.
        given: Variables whose values are given.
        scopes: Receives the scope of the run.
        notes: Notes of the run.
        names: Names that a step logged before, empty if it did not run before; `None` if it is not a step.
    """

    def pure(values: list[Tensor], batch: Structure) -> tuple[Any, list[Tensor]]:
        with keras_adapted(), Values(given, values) as scope:
            outputs = function(batch)
            if names is not None:
                check_names(list(outputs), names or list(outputs))
                notes.names = tuple(outputs)
                outputs = dict(outputs), notes.sizes
            outputs = jax.tree.map(strong, outputs)
        scopes[:] = [scope]
        return outputs, [scope.get_current_value(variable) for variable in scope.written.values()]

    return pure


class _Fused:
    """A function of a batch, compiled once for each form of batch and of what batches are taken from.

    Args:
        trace: Traces the function.
        traces: Traces that exist already, by form of batch.
    """

    def __init__(self, trace: TraceBatch, traces: dict[Any, Traced] | None = None) -> None:
        self._trace, self._traces = trace, {} if traces is None else traces
        self._compiled: dict[Any, Compiled] = {}
        self._tracing = 0.0  # seconds
        self._warned = False
        self.forms: list[str] = []

    def _add(
        self, key: Any, work: Work, rows: int, made: tuple[Traced, Callable[..., Any], bool], began: float
    ) -> Compiled:
        """Compiles for one more form of batch; the trace of it began at `began`."""
        compiled = self._compiled[key] = Compiled(*made)
        self.forms.append(_text_of(form(work.batch), 0 if compiled.alone else rows))
        self._tracing += time.perf_counter() - began
        return compiled

    def _warn_of_many(self) -> None:
        """Says once what it costs that batches come in many forms."""
        if self._warned or len(self._compiled) < MANY_FORMS:
            return
        batches = {(key[0], key[2]) for key in self._compiled}
        if len(batches) >= MANY_FORMS:
            self._warned = True
            seconds = self._tracing + sum(compiled.compiling or 0.0 for compiled in self._compiled.values())
            warnings.warn(
                f"Batches came in {len(batches)} shapes so far, the last one {self.forms[-1]}. JAX compiles the step "
                f"anew for each, which took {seconds:.1f} s so far. Pad all batches to one length, or to one of a few "
                "(bucket them by length).",
                UserWarning,
                stacklevel=2,
            )


@final
class JaxProgram(_Fused, Program):
    """A train or evaluation step, compiled.

    Args:
        trace: Traces the step; the first of what it returns are its logs.
        names: Names that it logs.
        traces: Traces that exist already, by form of batch.
    """

    def __init__(self, trace: TraceBatch, names: Sequence[str], traces: dict[Any, Traced]) -> None:
        super().__init__(trace, traces)
        self._names = tuple(names)

    def run(self, stream: Stream, count: int) -> StepLogs:
        done: list[tuple[Work, list[jax.Array]]] = []
        left, waited = count, 0.0
        while left:
            began = time.perf_counter()
            found = work_of(stream, left)
            waited += time.perf_counter() - began
            if not found:
                break
            for work in found:
                rows = max(LEAST_ROWS, 1 << (work.count - 1).bit_length())
                compiled = self._compiled.get(key := work.key(rows))
                if compiled is None:
                    began = time.perf_counter()
                    traced = self._traces.pop(form(work.batch), None) or self._trace(work.batch)[0]
                    compiled = self._add(key, work, rows, (traced, *self._steps(traced, work.size, rows)), began)
                done.append((work, compiled(work.source, work.start, work.count)))
                left -= work.count
            if isinstance(stream, ArrayStream):  # the smaller last batch comes in a call of its own
                break
            if len(done) > 2:  # two blocks at a time are on their way, so that memory stays flat
                done[-3][1][-1].block_until_ready()
        self._warn_of_many()
        columns = [np.concatenate([np.asarray(part) for part in logs])[: work.count] for work, logs in done]
        values = np.concatenate(columns) if columns else np.zeros((0, len(self._names)), "float32")
        examples = np.repeat([work.size for work, _ in done], [work.count for work, _ in done]).astype(np.int64)
        return StepLogs({name: values[:, number] for number, name in enumerate(self._names)}, examples, waited)

    def _steps(self, traced: Traced, size: int, rows: int) -> tuple[Callable[..., Any], bool]:
        names, logs = self._names, traced.outputs[0]
        check_names(list(logs), names)

        def step(
            state: list[Tensor], read: list[Tensor], source: Structure, start: Tensor, number: Tensor
        ) -> tuple[list[Tensor], Tensor]:
            values = by_id(traced.read_only, read) | by_id(traced.written, state)
            (logs, *_), state = traced.call(values, fetch(source, size, start, number))
            row = jnp.stack([logs[name].astype("float32") for name in names]) if names else jnp.zeros(0)
            return state, row[None]

        def loop(
            state: list[Tensor], read: list[Tensor], source: Structure, start: Tensor, count: Tensor
        ) -> tuple[list[Tensor], Tensor]:
            def body(carry: tuple[Tensor, list[Tensor], Tensor]) -> tuple[Tensor, list[Tensor], Tensor]:
                number, state, table = carry
                state, row = step(state, read, source, start, number)
                return number + 1, state, jax.lax.dynamic_update_slice_in_dim(table, row, number, 0)

            first = (jnp.int32(0), state, jnp.zeros((rows, len(names)), "float32"))
            _, state, table = jax.lax.while_loop(lambda carry: carry[0] < count, body, first)
            return state, table

        alone = is_faster_alone(traced)
        return step if alone else loop, alone


@final
class JaxPredictor(_Fused, Predictor):
    """A function from a batch to outputs, compiled.

    Args:
        trace: Traces the function.
    """

    def run(self, stream: Stream, count: int) -> Structure | None:
        parts: list[Structure] = []
        while len(parts) < count and (found := work_of(stream, count - len(parts))):
            for work in found:
                compiled = self._compiled.get(key := work.key(0))
                if compiled is None:
                    began = time.perf_counter()
                    traced, _ = self._trace(work.batch)
                    compiled = self._add(key, work, 0, (traced, *self._one(traced, work.size)), began)
                parts += compiled(work.source, work.start, work.count)
        self._warn_of_many()
        if not parts:
            return None
        return jax.tree.map(lambda *columns: np.concatenate([np.asarray(column) for column in columns]), *parts)

    def _one(self, traced: Traced, size: int) -> tuple[Callable[..., Any], bool]:
        if any(output.ndim == 0 for output in jax.tree.leaves(traced.outputs)):
            raise ValueError("predict_step returned a scalar; expected outputs whose axis 0 counts examples.")

        def one(
            written: list[Tensor], read: list[Tensor], source: Structure, start: Tensor, number: Tensor
        ) -> tuple[list[Tensor], Structure]:
            values = by_id(traced.read_only, read) | by_id(traced.written, written)
            outputs, state = traced.call(values, fetch(source, size, start, number))
            return state, outputs

        return one, True


def _text_of(batch: Any, rows: int) -> str:
    arrays = ", ".join(f"{dtype}{list(shape)}" for _, shape, dtype in batch)
    return f"{arrays}, up to {rows:,} steps a call" if rows else arrays


def by_id(variables: Sequence[keras.Variable], values: Sequence[Tensor]) -> dict[int, Tensor]:
    """The values by the `id` of their variables."""
    return {id(variable): value for variable, value in zip(variables, values, strict=True)}
