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
from lightkeras.engine.torch.streams import next_batches

Running = Callable[[], AbstractContextManager[Callable[[], None]]]
"""Enters the context of steps and returns a function to call before each step."""


@final
class TorchProgram(Program):
    """A train or evaluation step."""

    def __init__(self, step: Step, names: Sequence[str], running: Running) -> None:
        self._step, self._names, self._running = step, tuple(names), running
        self.forms = []

    def run(self, stream: Stream, count: int) -> StepLogs:
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
                returned = self._step(batch)
                if tuple(returned) != self._names:
                    check_names(list(returned), self._names)
                examples.append(len(flatten(batch)[0][1]))
                if self._names:
                    # A copy, because a log may be a variable that the next step changes.
                    rows.append(torch.stack([_scalar(returned[name]) for name in self._names]))
        table = torch.stack(rows).cpu().numpy() if rows else np.zeros((len(examples), len(self._names)), "float32")
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


def _scalar(value: Any) -> torch.Tensor:
    tensor: torch.Tensor = value if isinstance(value, torch.Tensor) else keras.ops.convert_to_tensor(value)
    tensor = tensor.detach() if tensor.requires_grad else tensor
    return tensor if tensor.dtype is torch.float32 else tensor.float()
