"""Compiled steps: a `tf.while_loop` of steps inside one `tf.function`."""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, final

import numpy as np
import tensorflow as tf

from lightkeras.data.precompute import PrecomputedScope
from lightkeras.data.structure import Structure, flatten, map_structure
from lightkeras.engine.base import (
    Predictor,
    Program,
    RowsError,
    Step,
    StepLogs,
    Tensor,
    check_names,
    check_rows,
)
from lightkeras.engine.stream import Stream
from lightkeras.engine.streams import ArrayStream
from lightkeras.engine.tensorflow.devices import DividedStep
from lightkeras.engine.tensorflow.row_sums import traced_by
from lightkeras.engine.tf_data import IteratorStream, Precomputed

_Function = Callable[..., tuple[list[Tensor], Tensor]]
_OTHER_ROWS = "lightkeras: other rows"


class _Fused:
    """A step that one `tf.function` runs `count` times; one function for each batch shape.

    Args:
        step: The step.
        any_size: Whether array batches of all sizes share one function, which is a little slower.
    """

    def __init__(self, step: Callable[[Structure], Any], any_size: bool = False) -> None:
        self._step = step
        self._any_size = any_size
        self._functions: dict[Any, _Function] = {}
        self._of_streams: weakref.WeakKeyDictionary[Stream, dict[int | None, _Function]] = weakref.WeakKeyDictionary()
        self.forms: list[str] = []

    def _outputs(self, batch: Structure) -> Sequence[tf.TensorSpec]:
        """Specs of the tensors that one step writes, for the `TensorSpec`s of a batch."""
        raise NotImplementedError

    def _columns(self, batch: Structure, returned: Any) -> list[Tensor]:
        """The tensors that one step writes, from its return value."""
        raise NotImplementedError

    def _join(self, array: tf.TensorArray) -> Tensor:
        """Joins the tensors of all steps."""
        raise NotImplementedError

    def _prepare(self, stream: Stream, count: int) -> Callable[[], tuple[list[Tensor], Tensor]] | None:
        """Returns the compiled call for the next batches; `None` if an array stream has none left.

        The call returns the joined tensors and the seconds that the steps waited for batches.
        """
        if isinstance(self._step, DividedStep):
            self._step.refresh()
        if isinstance(stream, IteratorStream):
            function = self._of_stream(stream, None, functools.partial(self._function_of_iterator, stream))
            return functools.partial(function, stream.iterator, np.int32(count))
        if not isinstance(stream, ArrayStream):
            raise TypeError(f"Expected a stream that this engine opened, got {type(stream).__name__}.")
        indices = stream.next_indices(count)
        if indices is None:
            return None
        size = None if self._any_size else indices.shape[1]
        function = self._of_stream(stream, size, functools.partial(self._function_of_arrays, stream.arrays, size))
        return functools.partial(function, stream.arrays, indices)

    def _of_stream(self, stream: Stream, size: int | None, make: Callable[[], _Function]) -> _Function:
        """The function for batches of a size. After its first call, which traces it, it is a concrete function.

        To look it up by its signature, and to compare its arguments with that, takes longer than a small step.
        """
        known = self._of_streams.setdefault(stream, {})
        function = known.get(size)
        if function is None:
            known[size] = function = make()
        elif isinstance(function, tf.types.experimental.PolymorphicFunction):
            known[size] = function = function.get_concrete_function()
        return function

    def _function_of_iterator(self, stream: IteratorStream) -> _Function:
        element = stream.iterator.element_spec
        signature = [tf.data.IteratorSpec(element), tf.TensorSpec([], tf.int32)]
        batch, _ = _unpacked(element, stream.structure, stream.precomputed)
        loop = functools.partial(self._from_iterator, stream.structure, stream.precomputed)
        return self._function(loop, signature, batch, stream.precomputed)

    def _function_of_arrays(self, given: Structure, size: int | None) -> _Function:
        arrays = map_structure(tf.TensorSpec.from_tensor, given)
        batch = map_structure(lambda spec: tf.TensorSpec([size, *spec.shape[1:]], spec.dtype), arrays)
        return self._function(self._from_arrays, [arrays, tf.TensorSpec([None, size], tf.int32)], batch)

    def _function(
        self, loop: Callable[..., Any], signature: list[Any], batch: Structure, precomputed: Precomputed = ()
    ) -> _Function:
        key = (repr(signature), precomputed)
        if key not in self._functions:
            bound = functools.partial(loop, self._outputs(batch))
            self._functions[key] = tf.function(bound, input_signature=signature, autograph=False)
            self.forms.append(", ".join(f"{spec.dtype.name}{spec.shape}" for _, spec in flatten(batch)))
        return self._functions[key]

    def _from_arrays(
        self, outputs: Sequence[tf.TensorSpec], arrays: Structure, indices: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        count = tf.shape(indices)[0]

        def body(i: Tensor, written: list[tf.TensorArray]) -> Any:
            rows = indices[i]
            batch = map_structure(lambda array: tf.gather(array, rows), arrays)
            with traced_by(self):
                returned = self._step(batch)
            return i + 1, _write(written, i, self._columns(batch, returned))

        empty = [tf.TensorArray(spec.dtype, count, element_shape=spec.shape, infer_shape=False) for spec in outputs]
        _, written = tf.while_loop(lambda i, _: i < count, body, (tf.constant(0), empty))
        return [self._join(array) for array in written], tf.constant(0.0, tf.float64)

    def _from_iterator(
        self,
        structure: Structure,
        precomputed: Precomputed,
        outputs: Sequence[tf.TensorSpec],
        iterator: Iterator[Structure],
        count: Tensor,
    ) -> tuple[list[Tensor], Tensor]:
        began = tf.timestamp()
        with tf.control_dependencies([began]):
            first = iterator.get_next_as_optional()  # type: ignore[attr-defined]
        none = functools.partial(tf.experimental.Optional.empty, first.element_spec)

        # The next batch is fetched at the end of an iteration, and only if it will be used: so the loop body calls
        # the step, not a branch in it.
        def body(i: Tensor, optional: tf.experimental.Optional, waited: Tensor, written: list[tf.TensorArray]) -> Any:
            batch, scope = _unpacked(optional.get_value(), structure, precomputed)
            with scope, traced_by(self):
                written = _write(written, i, self._columns(batch, self._step(batch)))
            with tf.control_dependencies([array.flow for array in written]):
                began = tf.timestamp()
            with tf.control_dependencies([began]):
                optional = tf.cond(i + 1 < count, iterator.get_next_as_optional, none)  # type: ignore[attr-defined]
                more = optional.has_value()
            with tf.control_dependencies([more]):
                waited += tf.timestamp() - began
            return i + 1, optional, waited, written

        # Fewer than `count` are written at the end of an epoch: the arrays grow with the batches.
        empty = [
            tf.TensorArray(spec.dtype, 0, dynamic_size=True, element_shape=spec.shape, infer_shape=False)
            for spec in outputs
        ]
        with tf.control_dependencies([first.has_value()]):
            waited = tf.timestamp() - began
        *_, waited, written = tf.while_loop(
            lambda _, optional, *__: optional.has_value(), body, (tf.constant(0), first, waited, empty)
        )
        return [self._join(array) for array in written], waited


@final
class TensorFlowProgram(_Fused, Program):
    """A compiled train or evaluation step.

    Args:
        step: The step.
        names: Names of its logs.
        precomputed: Functions that run in the input pipeline of the streams that are opened for it.
        any_size: See `_Fused`.
    """

    def __init__(self, step: Step, names: Sequence[str], precomputed: Precomputed = (), any_size: bool = False) -> None:
        super().__init__(step, any_size)
        self._names = tuple(names)
        self.precomputed = precomputed

    def run(self, stream: Stream, count: int, waits: bool = True) -> StepLogs:
        call = self._prepare(stream, count)
        if call is None:
            return StepLogs({name: np.zeros(0, "float32") for name in self._names}, np.zeros(0, "int64"))
        with _source_errors(stream), self._step_errors():
            columns, waited = call()
        values, examples = [column.numpy() for column in columns]
        return StepLogs(dict(zip(self._names, values.T, strict=True)), examples, float(waited))

    def _step_errors(self) -> contextlib.AbstractContextManager[None]:
        return self._step.errors() if isinstance(self._step, DividedStep) else contextlib.nullcontext()

    def _outputs(self, batch: Structure) -> Sequence[tf.TensorSpec]:
        # One row for all logs: each array costs time in every step.
        return [tf.TensorSpec([len(self._names)], tf.float32), tf.TensorSpec([], tf.int64)]

    def _columns(self, batch: Structure, returned: Mapping[str, Tensor]) -> list[Tensor]:
        check_names(list(returned), self._names)
        values = [tf.cast(tf.convert_to_tensor(returned[name]), tf.float32) for name in self._names]
        return [tf.stack(values) if values else tf.zeros([0]), tf.shape(flatten(batch)[0][1], tf.int64)[0]]

    def _join(self, array: tf.TensorArray) -> Tensor:
        column = array.stack()
        is_logs = column.dtype == tf.float32 and self._names
        return self._step.summed_logs(column) if is_logs and isinstance(self._step, DividedStep) else column


@final
class TensorFlowPredictor(_Fused, Predictor):
    """A compiled function from batches to outputs."""

    def run(self, stream: Stream, count: int) -> Structure | None:
        call = self._prepare(stream, count)
        if call is None:
            return None
        try:
            with _source_errors(stream):
                columns = [column.numpy() for column in call()[0]]
        except tf.errors.InvalidArgumentError as error:
            if _OTHER_ROWS not in error.message:
                raise
            raise RowsError("predict_step returned another number of rows than the batch has examples") from None
        if len(columns[0]) == 0:
            return None
        return tf.nest.pack_sequence_as(self._structure, columns)

    def _outputs(self, batch: Structure) -> Sequence[tf.TensorSpec]:
        traced = tf.function(self._step, autograph=False).get_concrete_function(batch)
        self._structure = traced.structured_outputs
        specs = list(tf.nest.flatten(self._structure))
        check_rows(specs, batch)
        return [tf.TensorSpec([None, *spec.shape[1:]], spec.dtype) for spec in specs]

    def _columns(self, batch: Structure, returned: Structure) -> list[Tensor]:
        size = tf.shape(flatten(batch)[0][1])[0]
        found = [tf.convert_to_tensor(leaf) for leaf in tf.nest.flatten(returned)]
        checks = [tf.debugging.assert_equal(tf.shape(leaf)[0], size, _OTHER_ROWS) for leaf in found]
        with tf.control_dependencies(checks):
            return [tf.identity(leaf) for leaf in found]

    def _join(self, array: tf.TensorArray) -> Tensor:
        return array.concat()


def _unpacked(
    element: Structure, structure: Structure, precomputed: Precomputed
) -> tuple[Structure, contextlib.AbstractContextManager[None]]:
    """Returns the batch of an element and a scope that provides its precomputed values."""
    if structure is None:
        return element, contextlib.nullcontext()
    leaves, values = element
    left = iter(leaves)
    return map_structure(lambda _: next(left), structure), PrecomputedScope(leaves, precomputed, values).entered()


def _source_errors(stream: Stream) -> contextlib.AbstractContextManager[None]:
    return stream.source_errors() if isinstance(stream, IteratorStream) else contextlib.nullcontext()


def _write(arrays: list[tf.TensorArray], i: Tensor, values: list[Tensor]) -> list[tf.TensorArray]:
    return [array.write(i, value) for array, value in zip(arrays, values, strict=True)]
