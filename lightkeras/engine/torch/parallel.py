"""Steps of which several processes compute a part each: gradients, logs and the state of layers and metrics are summed.

A batch is divided by `World.part`. A loss counts by the share of its examples, so that the sum of the gradients, one
collective operation for each `minimize`, is the gradient of the mean over the whole batch: it is what the optimizer
sees, and clips, accumulates and scales. Variables that a step assigns itself are summed after it: the changes of a
metric's add up, the moving statistics of a layer are averaged. So all variables are the same in every process between
two steps. Logs are summed once per call.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, final

import keras
import numpy as np
import torch

from lightkeras.data.structure import Structure, flatten, map_structure
from lightkeras.engine.base import Program, Step, StepLogs, Update
from lightkeras.engine.moments import moments_here
from lightkeras.engine.replacing import replaced
from lightkeras.engine.stream import Stream
from lightkeras.engine.streams import ArrayStream
from lightkeras.engine.torch.compiling import Row
from lightkeras.engine.torch.programs import Running
from lightkeras.engine.torch.streams import gathered, next_batches
from lightkeras.engine.torch.world import TorchWorld
from lightkeras.engine.world import Part
from lightkeras.system.keras_internals.backend import nn
from lightkeras.system.keras_internals.torch_random import keras_random


@final
class Sharing:
    """What the processes exchange inside a step.

    Args:
        world: The processes.
    """

    def __init__(self, world: TorchWorld) -> None:
        self.world = world
        self._part: Part | None = None
        self._assigned: dict[Step, list[keras.Variable]] = {}
        self._unreached: list[frozenset[int]] = []  # by the number of the `minimize`

    def note(self, step: Step, updates: Sequence[Update], assigned: Iterable[keras.Variable]) -> None:
        """Takes what the trace of a step found: its `minimize` calls, and the variables that it assigns itself."""
        self._assigned[step] = shared_of(assigned)
        if updates:
            self._unreached = [frozenset(_unreached(update)) for update in updates]

    def variables_of(self, step: Step) -> Sequence[keras.Variable]:
        """The variables that are summed after a traced step."""
        return self._assigned.get(step, [])

    def once(self, step: Step) -> Callable[[Structure], None]:
        """A step that runs on a whole batch as those of a program do, but that no variables are summed after it."""

        def run(batch: Structure) -> None:
            found = divided_batch(batch, self.world)
            with self.running(), self.step(found.part):
                step(found.batch)

        return run

    @contextlib.contextmanager
    def step(self, part: Part, variables: Sequence[keras.Variable] = ()) -> Iterator[None]:
        """Context of a step over a part of a batch; `variables`, of `variables_of`, are summed after it."""
        before = [variable.value.detach().double() for variable in variables]
        self._part = part
        try:
            yield
        finally:
            self._part = None
        if variables:
            self._merge(variables, before, part)

    def weighted(self, loss: torch.Tensor) -> torch.Tensor:
        """A loss as a part of the sum over the processes, in a step over a part; any other is returned as it is."""
        return loss if self._part is None else loss * self._part.weight

    def summed(
        self, gradients: Sequence[torch.Tensor | None], values: Sequence[torch.Tensor], number: int
    ) -> list[torch.Tensor | None]:
        """Sums gradients over the processes, in a step over a part.

        Args:
            gradients: One for each value; `None` where the loss does not depend on it. It stays `None` if that was so
                in the trace: others may be `None` in one process alone.
            values: The tensors of the variables.
            number: Number of the `minimize` in the step.
        """
        if self._part is None:
            return list(gradients)
        unreached = self._unreached[number] if number < len(self._unreached) else frozenset()
        sent = [position for position in range(len(values)) if position not in unreached]
        if not sent:
            return list(gradients)
        given = [_dense(gradients[position], values[position]) for position in sent]
        flat = self.world.sum(torch.cat([gradient.reshape(-1) for gradient in given]))
        parts = flat.split([gradient.numel() for gradient in given])
        found: list[torch.Tensor | None] = [None] * len(values)
        for position, part, gradient in zip(sent, parts, given, strict=True):
            found[position] = part.view_as(gradient).to(gradient.dtype)
        return found

    def _merge(self, variables: Sequence[keras.Variable], before: Sequence[torch.Tensor], part: Part) -> None:
        changes = [
            (variable.value.detach().double() - old) * _factor(variable, part, self.world.rank)
            for variable, old in zip(variables, before, strict=True)
        ]
        flat = self.world.sum(torch.cat([change.reshape(-1) for change in changes]))
        parts = flat.split([change.numel() for change in changes])
        for variable, old, change in zip(variables, before, parts, strict=True):
            value = variable.value.detach()
            merged = old + change.view_as(old)
            value.copy_(merged if value.is_floating_point() else merged.round())

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Context of steps: random numbers depend on the rank, and batch normalization may be `synchronized`."""
        original = keras_random.torch_seed_generator

        def of_rank(seed: Any) -> torch.Generator | None:
            generator: torch.Generator | None = original(seed)
            if generator is not None and self._part is not None:
                generator.manual_seed((generator.initial_seed() + fold(self.world.rank)) & _WORD)
            return generator

        functions = {(keras_random, "torch_seed_generator"): of_rank, (nn, "moments"): self._moments}
        with replaced(functions):
            yield

    def _moments(self, x: Any, axes: Any, keepdims: bool = False, synchronized: bool = False) -> Any:
        """Keras's `moments`, of the whole batch if `synchronized`."""
        if not synchronized or self._part is None:
            return _moments(x, axes, keepdims)
        x = keras.ops.convert_to_tensor(x)
        wide, axes = x.float(), tuple(axes)
        sums = [wide.sum(axes), wide.square().sum(axes)]
        count = wide.new_full((1,), x.numel() / sums[0].numel())
        total = _Sum.apply(torch.cat([*(part.reshape(-1) for part in sums), count]), self.world)
        mean, square = (part.reshape(sums[0].shape) / total[-1] for part in total[:-1].chunk(2))
        found = mean, square - mean.square()
        if keepdims:
            shape = [1 if axis in {a % x.ndim for a in axes} else size for axis, size in enumerate(x.shape)]
            found = tuple(part.reshape(shape) for part in found)
        return tuple(part.to(x.dtype) for part in found)


@final
class SharedProgram(Program):
    """A step of which each process computes a part.

    Args:
        step: The step, which returns its logs as a vector.
        names: The names of its logs.
        running: See `Running`.
        sharing: What the processes exchange.
        traced: The step that was traced.
    """

    compiled = False

    def __init__(
        self,
        step: Row,
        names: Sequence[str],
        running: Running,
        sharing: Sharing,
        traced: Step,
    ) -> None:
        self._step, self._names, self._running = step, tuple(names), running
        self._sharing, self._variables = sharing, sharing.variables_of(traced)
        self.forms = []

    def run(self, stream: Stream, count: int, waits: bool = True) -> StepLogs:
        world = self._sharing.world
        rows: list[torch.Tensor] = []
        examples: list[int] = []
        waited = 0.0
        with self._running() as begin_step:
            batches = divided(stream, count, world)
            while True:
                began = time.perf_counter()
                found = next(batches, None)
                waited += time.perf_counter() - began
                if found is None:
                    break
                begin_step()
                with self._sharing.step(found.part, self._variables):
                    rows.append(self._step(found.batch).double() * found.part.weight)
                examples.append(found.examples)
        table = world.sum(torch.stack(rows)).float().cpu().numpy() if rows else np.zeros((0, len(self._names)), "f")
        values = {name: np.ascontiguousarray(table[:, column]) for column, name in enumerate(self._names)}
        return StepLogs(values, np.array(examples, "int64"), waited)


@dataclasses.dataclass(frozen=True)
class _Divided:
    """The part of a batch of this process, as tensors, and the examples of the whole batch."""

    batch: Structure
    part: Part
    examples: int


def divided(stream: Stream, count: int, world: TorchWorld) -> Iterator[_Divided]:
    """Yields the parts of the next `count` batches, fewer at the end of the epoch."""
    if isinstance(stream, ArrayStream):
        indices = stream.next_indices(count)
        if indices is not None:
            size = indices.shape[1]
            part = world.part(size)
            for batch in gathered(stream.arrays, torch.from_numpy(indices[:, part.start : part.stop].copy())):
                yield _Divided(batch, part, size)
        return
    for whole in next_batches(stream, count):
        yield divided_batch(whole, world)


def divided_batch(batch: Structure, world: TorchWorld) -> _Divided:
    """The part of a batch, given as tensors."""
    part = world.part_of_batch(batch)
    examples = len(flatten(batch)[0][1])
    return _Divided(
        batch if part.whole else map_structure(lambda leaf: leaf[part.start : part.stop], batch), part, examples
    )


def shared_of(assigned: Iterable[keras.Variable]) -> list[keras.Variable]:
    """Those of the variables that a step assigns that differ between the processes after it.

    These are numbers that depend on examples: the state of metrics, whole numbers too, and moving statistics.
    Others, such as the counts of seed generators, change in the same way everywhere.
    """
    return [v for v in assigned if v.aggregation == "sum" or keras.backend.is_float_dtype(v.dtype)]


def running(sharing: Sharing | None) -> contextlib.AbstractContextManager[None]:
    """`Sharing.running` if steps are shared; else batch normalization is of the whole batch."""
    return replaced({(nn, "moments"): moments_here}) if sharing is None else sharing.running()


def fold(rank: int) -> int:
    """A number that makes the seeds of a rank its own; 0 for rank 0."""
    return rank * 0x9E3779B97F4A7C15 & _WORD


_WORD = 2**63 - 1
_moments = nn.moments


def _factor(variable: keras.Variable, part: Part, rank: int) -> float:
    """The factor of a variable's change in the sum over the processes."""
    if variable.aggregation == "sum":
        return part.weight if part.whole else 1.0
    if variable.aggregation == "only_first_replica":
        return float(rank == 0)
    return part.weight


def _unreached(update: Update) -> Iterator[int]:
    """Positions of the variables that a loss does not depend on."""
    unreached = set(map(id, update.unreached))
    return (position for position, variable in enumerate(update.variables) if id(variable) in unreached)


def _dense(gradient: torch.Tensor | None, value: torch.Tensor) -> torch.Tensor:
    if gradient is None:
        return torch.zeros_like(value)
    return gradient.to_dense() if gradient.is_sparse else gradient


class _Sum(torch.autograd.Function):  # type: ignore[misc]
    """A sum over the processes whose gradient is summed over them too."""

    @staticmethod
    def forward(context: Any, tensor: torch.Tensor, world: TorchWorld) -> torch.Tensor:
        context.world = world
        return world.sum(tensor.clone())

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return context.world.sum(gradients[0].clone()), None
