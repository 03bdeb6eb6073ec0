"""Steps, compiled: a `jax.lax.while_loop` of them inside one `jax.jit`, one for each form of batch.

On XLA's CPU a convolution takes up to half as long again inside a loop. A step that has one is compiled by itself
there, and called once for each batch.
"""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, final

import jax
import jax.numpy as jnp
import keras
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr

from lightkeras.data.structure import Structure, map_structure
from lightkeras.engine.base import Predictor, Program, StepLogs, Stream, Tensor, check_names
from lightkeras.engine.jax.steps import Traced, abstract, form
from lightkeras.engine.jax.streams import BlockStream, order_of
from lightkeras.engine.streams import ArrayStream

LEAST_ROWS = 1024
"""Rows of the array that a call writes its logs to: the number of steps may vary without compiling anew."""

MANY_FORMS = 8
"""So many forms of batch are worth a warning: each is compiled for."""

Trace = Callable[[Structure], Traced]
"""Traces a function for a batch of `jax.ShapeDtypeStruct`s."""


@dataclasses.dataclass(frozen=True)
class Work:
    """Some batches of one form, and where they are.

    Args:
        source: Arrays that `fetch` takes a batch from: with an order, or a block.
        size: Examples of each batch.
        start: The first.
        count: How many.
    """

    source: Structure
    size: int
    start: int
    count: int

    @property
    def batch(self) -> Structure:
        """A batch, abstractly."""
        arrays, order = self.source
        return abstract(arrays, 1) if order is None else abstract(arrays, 1, self.size)


def work_of(stream: Stream, most: int) -> list[Work]:
    """Takes the next batches of a stream, `most` at most; none at the end of the epoch."""
    if isinstance(stream, ArrayStream):
        steps = stream.next_steps(most)
        if steps is None:
            return []
        order = order_of(stream)
        size = min(stream.batch_size, len(order) - steps.start * stream.batch_size)
        return [Work((stream.arrays, order), size, steps.start * stream.batch_size, len(steps))]
    if isinstance(stream, BlockStream):
        return [Work((block.arrays, None), block.size, block.start, block.count) for block in stream.next_blocks(most)]
    raise TypeError(f"Expected a stream that this engine opened, got {type(stream).__name__}.")


def fetch(source: Structure, size: int, start: Tensor, number: Tensor) -> Structure:
    """A batch of a source; see `Work`."""
    arrays, order = source
    if order is None:
        batch = map_structure(lambda a: jax.lax.dynamic_index_in_dim(a, start + number, keepdims=False), arrays)
    else:
        indices = jax.lax.dynamic_slice_in_dim(order, start + number * size, size)
        batch = map_structure(lambda a: a.at[indices].get(mode="promise_in_bounds"), arrays)
    # What comes next is compiled as it is for a batch from anywhere else, so that it gives the same bits.
    return jax.lax.optimization_barrier(batch)


class _Compiled:
    """A traced function, compiled for one form of batch, with the variables that it reads and writes."""

    def __init__(self, traced: Traced, run: Callable[..., Any], alone: bool) -> None:
        self._traced = traced
        self._read = traced.read_only
        self._run = jax.jit(run, donate_argnums=0)
        self.alone = alone
        """Whether it takes one batch, by its number, and not the first so many."""
        self.compiling: float | None = None
        """Seconds that its first call took, which compiles it and does not wait for what it computes."""

    def __call__(self, source: Structure, start: int, count: int) -> list[Any]:
        """Runs over some batches, and sets the variables. Gives the outputs of each call.

        The values that the variables had are given away: their memory is used again.
        """
        read = [variable.value for variable in self._read]
        values, outputs = separate([variable.value for variable in self._traced.written], read), []
        for number in range(count) if self.alone else [count]:
            began = time.perf_counter()
            values, output = self._run(values, read, source, np.int32(start), np.int32(number))
            outputs.append(output)
            if self.compiling is None:
                self.compiling = time.perf_counter() - began
        for variable, value in zip(self._traced.written, values, strict=True):
            # `assign` would convert and check what is known to fit, at 30 times the cost.
            variable._direct_assign(value)
        return outputs


def is_faster_alone(traced: Traced) -> bool:
    """Whether a step takes less time in a call of its own than in a loop.

    Told from the step and not by the clock, so that a run that is gone on with computes the same bits.
    """
    return jax.default_backend() == "cpu" and "conv_general_dilated" in primitives_of(traced.jaxpr.jaxpr)


def primitives_of(jaxpr: Jaxpr) -> set[str]:
    """Names of the operations of a function, and of the functions in it."""
    inner = (leaf for equation in jaxpr.eqns for leaf in jax.tree.leaves(list(equation.params.values())))
    found = {equation.primitive.name for equation in jaxpr.eqns}
    for part in inner:
        if isinstance(part, ClosedJaxpr | Jaxpr):
            found |= primitives_of(part.jaxpr if isinstance(part, ClosedJaxpr) else part)
    return found


def separate(given_away: list[jax.Array], kept: Sequence[jax.Array]) -> list[jax.Array]:
    """The arrays, copied where one array is the value of two variables: it can be given away once, and not kept."""
    seen = set(map(id, kept))
    if len(seen.union(map(id, given_away))) == len(seen) + len(given_away):
        return given_away
    found = []
    for array in given_away:
        found.append(jnp.copy(array) if id(array) in seen else array)
        seen.add(id(array))
    return found


class _Fused:
    """A function of a batch, compiled once for each form of batch and of what batches are taken from."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._compiled: dict[Any, _Compiled] = {}
        self._tracing = 0.0  # seconds
        self._warned = False
        self.forms: list[str] = []

    def _find(
        self, work: Work, rows: int, make: Callable[[Traced, int, int], tuple[Callable[..., Any], bool]]
    ) -> _Compiled:
        arrays, order = work.source
        key = (form(arrays), None if order is None else order.shape, work.size, rows)
        if key not in self._compiled:
            began = time.perf_counter()
            traced = self._trace(work.batch)
            compiled = self._compiled[key] = _Compiled(traced, *make(traced, work.size, rows))
            self.forms.append(_text_of(form(work.batch), 0 if compiled.alone else rows))
            self._tracing += time.perf_counter() - began
        return self._compiled[key]

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
    """

    def __init__(self, trace: Trace, names: Sequence[str]) -> None:
        super().__init__(trace)
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
                compiled = self._find(work, rows, self._steps)
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
                compiled = self._find(work, 0, self._one)
                parts += compiled(work.source, work.start, work.count)
        self._warn_of_many()
        if not parts:
            return None
        return jax.tree.map(lambda *columns: np.concatenate([np.asarray(column) for column in columns]), *parts)

    def _one(self, traced: Traced, size: int, rows: int) -> tuple[Callable[..., Any], bool]:
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
