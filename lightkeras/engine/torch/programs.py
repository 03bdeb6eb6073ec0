"""Steps that run one after the other; their logs are read once per call."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, final

import keras
import numpy as np
import torch

from lightkeras.data.structure import Structure, flatten
from lightkeras.engine.base import Predictor, Program, Step, StepLogs, check_names, check_rows
from lightkeras.engine.stream import Stream
from lightkeras.engine.torch.compiling import CompiledStep, Row
from lightkeras.engine.torch.streams import next_batches

Running = Callable[[], AbstractContextManager[Callable[[], None]]]
"""Enters the context of steps and returns a function to call before each step."""


@final
class TorchProgram(Program):
    """A train or evaluation step.

    Args:
        step: The step, which returns its logs as a vector.
        names: The names of its logs.
        running: See `Running`.
    """

    def __init__(self, step: Row | CompiledStep, names: Sequence[str], running: Running) -> None:
        self._step, self._names, self._running = step, tuple(names), running
        self.compiled = isinstance(step, CompiledStep)
        self.forms = step.forms if isinstance(step, CompiledStep) else []
        self.compiled_size = step.examples if isinstance(step, CompiledStep) else None

    def run(self, stream: Stream, count: int, waits: bool = True) -> StepLogs:
        rows: list[torch.Tensor] = []
        examples: list[int] = []
        waited = 0.0
        with self._running() as begin_step:
            batches = next_batches(stream, count)
            while True:
                began = time.perf_counter()
                batch = next(batches, None)
                waited += time.perf_counter() - began
                if batch is None:
                    break
                begin_step()
                rows.append(self._step(batch))
                examples.append(len(flatten(batch)[0][1]))
        table = torch.stack(rows).cpu().numpy() if rows else np.zeros((0, len(self._names)), "float32")
        values = {name: np.ascontiguousarray(table[:, column]) for column, name in enumerate(self._names)}
        return StepLogs(values, np.array(examples, "int64"), waited)


@final
class TorchPredictor(Predictor):
    """A function from batches to outputs."""

    def __init__(self, function: Callable[[Structure], Structure], running: Running) -> None:
        self._function, self._running = function, running

    def run(self, stream: Stream, count: int) -> Structure | None:
        with self._running():
            parts = [self._outputs(batch) for batch in next_batches(stream, count)]
        if not parts:
            return None
        joined = [torch.cat(leaves) for leaves in zip(*map(keras.tree.flatten, parts), strict=True)]
        return keras.tree.pack_sequence_as(parts[0], [keras.ops.convert_to_numpy(leaf) for leaf in joined])

    def _outputs(self, batch: Structure) -> Structure:
        outputs = keras.tree.map_structure(keras.ops.convert_to_tensor, self._function(batch))
        check_rows(outputs, batch)
        return outputs


def row_of(step: Step, names: Sequence[str]) -> Row:
    """A function that runs a step and returns its logs as one float32 vector, in the order of their names."""
    expected = tuple(names)

    def row(batch: Structure) -> torch.Tensor:
        returned = step(batch)
        if tuple(returned) != expected:
            check_names(list(returned), expected)
        # A copy, because a log may be a variable that the next step changes.
        return torch.stack([_scalar(returned[name]) for name in expected]) if expected else torch.empty(0)

    return row


def _scalar(value: Any) -> torch.Tensor:
    tensor: torch.Tensor = value if isinstance(value, torch.Tensor) else keras.ops.convert_to_tensor(value)
    tensor = tensor.detach() if tensor.requires_grad else tensor
    return tensor if tensor.dtype is torch.float32 else tensor.float()
