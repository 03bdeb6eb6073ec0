"""The torch implementation of `Engine`."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import keras
import numpy as np
import torch

from lightkeras.data.feed import ArrayFeed, StreamFeed
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
    check_not_distributed,
    check_scalar,
    returned,
)
from lightkeras.engine.launchers import Launch
from lightkeras.engine.optimizer_state import apply
from lightkeras.engine.stream import Stream
from lightkeras.engine.streams import ArrayStream, batches_in_memory, holds_bags
from lightkeras.engine.torch.compiling import (
    CompiledStep,
    Operations,
    Size,
    compiled_steps,
    warn_not_compiled,
    why_unavailable,
)
from lightkeras.engine.torch.dropout import seeded_dropout
from lightkeras.engine.torch.finite import all_finite, global_norm, largest, numbers, viewed
from lightkeras.engine.torch.parallel import SharedProgram, Sharing, fold, running
from lightkeras.engine.torch.programs import TorchPredictor, TorchProgram, row_of
from lightkeras.engine.torch.streams import TensorStream, device_in_use, resident, tensors_of
from lightkeras.engine.torch.tracing import batch_of, check_no_text, traced
from lightkeras.engine.torch.world import TorchWorld, join
from lightkeras.engine.world import World
from lightkeras.system import memory
from lightkeras.system.held_values import HeldValues, same_bits

_OUT_OF_MEMORY = ("DefaultCPUAllocator", "CUDA error: out of memory", "_STATUS_ALLOC_FAILED")
"""Texts of errors without their own class, from the host, CUDA, cuBLAS and cuDNN."""

Variables = Callable[[], Sequence[keras.Variable]]


@dataclasses.dataclass
class _Tracing:
    """Records of a step while it is traced.

    Args:
        building: Whether models that build on their first call do so now.
        updates: Its `minimize` calls so far.
    """

    building: bool
    updates: list[Update] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class _Learned:
    """Variables that a `minimize` updates, their tensors, and the function that returned the variables."""

    source: Variables
    variables: tuple[keras.Variable, ...]
    values: tuple[torch.Tensor, ...]


@final
class TorchEngine(Engine):
    """See `Engine`."""

    backend = "torch"
    compiles = False

    numbers = staticmethod(numbers)
    global_norm = staticmethod(global_norm)
    is_eager = staticmethod(lambda: True)

    def __init__(self) -> None:
        super().__init__()
        if device_in_use().type == "cpu":
            memory.keep_freed()
        self._tracing: _Tracing | None = None  # while a step is traced, else None
        self._traced: Step | None = None  # last traced step that minimizes
        self._size: Size | None = None  # its size
        self._sizes: list[tuple[keras.Variable, torch.Tensor]] | None = None  # while gradients are measured
        self._learned: list[_Learned] = []  # per `minimize` of a step, for one call of `run`
        self._number = 0  # index of the next `minimize` in the step
        self._held: weakref.WeakValueDictionary[int, np.ndarray] = weakref.WeakValueDictionary()
        self._sharing: Sharing | None = None  # with other processes, else None

    @classmethod
    def join(cls, launch: Launch | None) -> World:
        return join(launch)

    def enter(self, world: World) -> None:
        super().enter(world)
        self._sharing = Sharing(world) if isinstance(world, TorchWorld) else None

    def trace(self, step: Step, spec: Structure, batch_size: int | None = None) -> Trace:
        check_no_text(spec)
        for abstract in (True, False):
            batch = batch_of(spec, abstract, batch_size)
            try:
                for building in (True, False):
                    tracing = self._tracing = _Tracing(building)
                    with traced(abstract) as scope, Operations() as operations, running(self._sharing):
                        names = tuple(step(batch))
                        makes_variables = scope.makes_variables()
                if makes_variables:
                    raise ValueError(self._CREATES_VARIABLES)
            except Exception:
                # Operations that need values fail without them; a user's error is raised again by the run with values.
                if not abstract:
                    raise
                continue
            finally:
                self._tracing = None
            # A `torch.nn.Module` inside a layer uses its parameters directly: an abstract run cannot observe that.
            if not any(update.unreached for update in tracing.updates):
                break
        if tracing.updates:
            self._traced, self._size = step, Size(spec, batch_size, operations.count)
        if self._sharing is not None:
            self._sharing.note(step, tracing.updates, scope.assigned.values())
        return Trace(names, tuple(tracing.updates), tuple(scope.variables.values()))

    def gradient_sizes(self, step: Step, stream: Stream) -> list[tuple[keras.Variable, float]]:
        if self._traced != step:
            raise ValueError(self._NOT_TRACED)
        batch = batch_to_measure(stream)
        found = self._sizes = []
        try:
            with self._running() as begin_step:
                begin_step()
                (step if self._sharing is None else self._sharing.once(step))(tensors_of(batch))
        finally:
            self._sizes = None
        if not found:
            return []
        sizes = torch.stack([size for _, size in found]).tolist()
        return [(variable, size) for (variable, _), size in zip(found, sizes, strict=True)]

    def _open_arrays(self, feed: ArrayFeed, epoch: int, step: int, seed: int, program: Program | None) -> Stream:
        if holds_bags(feed.arrays):
            return TensorStream(batches_in_memory(feed, epoch, step, seed))
        return ArrayStream(feed, self._on_device(feed), epoch, step, seed)

    def _open_dataset(
        self, feed: StreamFeed, epoch: int, step: int, state: bytes | None, program: Program | None
    ) -> Stream:
        return self._datasets().open(feed, epoch, step, state)

    def _open_reader(
        self, feed: StreamFeed, reader: StreamReader, step: int, limit: int | None, program: Program | None
    ) -> Stream:
        return TensorStream(reader.batches(limit), reader, step)

    def open_batch(
        self,
        batch: Structure,
        shapes: Sequence[Sequence[int | None]] | None = None,
        program: Program | None = None,
    ) -> Stream:
        return TensorStream(iter([batch]))  # an eager step knows all sizes, so `shapes` is unused

    def _program(self, step: Step, names: Sequence[str], steps: int | None) -> Program:
        row, size, required = row_of(step, names), self._size, self.compile == "on"
        if self._sharing is not None:
            if required:
                warn_not_compiled("its gradients are exchanged with other processes", required)
            folded = functools.partial(self._running, folded=fold(self.world.rank))
            return SharedProgram(row, names, folded, self._sharing, step)
        plain = TorchProgram(row, names, self._running)
        if self.compile == "off" or size is None or self._traced != step:
            return plain
        if not required and not size.pays(steps, device_in_use()):
            return plain
        reason = size.why_not() or why_unavailable()
        if reason is not None:
            warn_not_compiled(reason, required)
            return plain
        compiled = CompiledStep(row, size.examples, required)
        return TorchProgram(compiled, names, functools.partial(self._running, compiled=True))

    def _predictor(self, function: Callable[[Structure], Structure]) -> Predictor:
        return TorchPredictor(function, self._running)

    def minimize(
        self, loss_fn: Callable[[], Tensor], variables: Variables, optimizer: keras.optimizers.Optimizer
    ) -> Tensor:
        if self._tracing is not None and self._tracing.building:
            loss = check_scalar(keras.ops.convert_to_tensor(returned(loss_fn())))  # builds models
            self._observe(optimizer, loss, (), ())
            return loss
        learned = self._variables_of(variables)
        with torch.enable_grad(), _differentiable(learned.values):
            loss = check_scalar(keras.ops.convert_to_tensor(returned(loss_fn())))
            scaled = optimizer.scale_loss(loss)
            if self._sharing is not None:
                scaled = self._sharing.weighted(scaled)
            gradients = _gradients(scaled, learned.values)
        if self._sharing is not None:
            gradients = self._sharing.summed(gradients, learned.values, self._number - 1)
        loss = loss.detach()
        pairs = list(zip(learned.variables, gradients, strict=True))
        self._observe(optimizer, loss, learned.variables, gradients)
        if self._tracing is not None:
            unreached = tuple(variable for variable, gradient in pairs if gradient is None)
            self._tracing.updates.append(Update(learned.variables, optimizer, unreached))
        elif self._sizes is not None:
            scale = optimizer.scale_loss(torch.ones_like(loss)).float()
            self._sizes.extend((variable, largest(gradient, loss.device) / scale) for variable, gradient in pairs)
        else:
            apply(optimizer, gradients, learned.variables)
        return loss

    @staticmethod
    def _place() -> object:
        return None  # a branch runs as the Python function that it is

    def gradients(self, fn: Callable[[Structure], Tensor], inputs: Structure) -> Structure:
        inside = torch.is_grad_enabled()  # inside a loss, which is differentiated again
        with torch.enable_grad():
            # Views, so that only the path from these to the value counts.
            given = map_structure(_requiring_grad, map_structure(keras.ops.convert_to_tensor, inputs))
            value = keras.ops.convert_to_tensor(fn(given))
            if value.ndim != 0:
                raise ValueError(f"gradients: the value has shape {tuple(value.shape)}; expected a scalar.")
            leaves = flatten(given)
            found = _gradients(value, [leaf for _, leaf in leaves], create_graph=inside)
        lost = [path or "the input" for (path, _), part in zip(leaves, found, strict=True) if part is None]
        if lost:
            raise ValueError(f"gradients: the value does not depend on {', '.join(lost)}.")
        left = iter(found)
        return map_structure(lambda _: next(left), given)

    @contextlib.contextmanager
    def traced(self, folder: Path) -> Iterator[None]:
        written = torch.profiler.tensorboard_trace_handler(str(folder))
        with torch.profiler.profile(on_trace_ready=written):
            yield

    def device_memory(self) -> int | None:
        return torch.cuda.memory_allocated() if torch.cuda.is_available() else None

    def is_out_of_memory(self, error: BaseException) -> bool:
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
            return True
        return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)

    def call(self, function: Callable[[Structure], Structure], batch: Structure) -> Structure:
        with self._running() as begin_step:
            begin_step()
            return function(tensors_of(batch))

    def check_devices(self, variables: Mapping[str, keras.Variable]) -> None:
        check_not_distributed("start a process for each device with torchrun")

    def share(self, variables: Mapping[str, keras.Variable]) -> None:
        if isinstance(self.world, TorchWorld):
            self.world.broadcast([variable.value.detach() for variable in variables.values()])

    def hold(self, variables: Mapping[str, Any]) -> HeldValues:
        arrays = {key: self._held_array(variable) for key, variable in variables.items()}
        return HeldValues(variables, arrays, arrays)

    def _held_array(self, variable: Any) -> np.ndarray:
        """A copy of the value of a variable; the last one, if that is still held and the value has not changed."""
        tensor = keras.ops.convert_to_tensor(variable).detach()
        value, last = viewed(tensor.cpu(), str(variable.dtype)), self._held.get(id(variable))
        if last is not None and same_bits(last, value):
            return last
        held = self._held[id(variable)] = value.copy() if tensor.device.type == "cpu" else value
        return held

    def not_finite(self, variables: Mapping[str, keras.Variable]) -> list[str]:
        floats = {key: v for key, v in variables.items() if keras.backend.is_float_dtype(v.dtype)}
        if not floats:
            return []
        finite = all_finite(list(floats.values()))
        return [key for key, is_finite in zip(floats, finite, strict=True) if not is_finite]

    @contextlib.contextmanager
    def _running(self, compiled: bool = False, folded: int = 0) -> Iterator[Callable[[], None]]:
        """Context for steps, of a compiled program or another. Gradients are recorded only where they are taken.

        `folded` is that of `seeded_dropout`.
        """

        def begin_step() -> None:
            self._number = 0

        self._learned = []  # layers may be frozen between calls
        with torch.no_grad(), compiled_steps() if compiled else seeded_dropout(folded), running(self._sharing):
            yield begin_step

    def _variables_of(self, variables: Variables) -> _Learned:
        """Returns the variables of a `minimize`; making the list is slow, so each call of `run` does it once."""
        if torch.compiler.is_compiling():  # once, and what it keeps would be compiled again
            return _learned(variables)
        number, self._number = self._number, self._number + 1
        if self._tracing is None and number < len(self._learned) and self._learned[number].source == variables:
            return self._learned[number]
        learned = _learned(variables)
        self._learned[number:] = [learned]
        return learned

    def _copied_to_device(self, arrays: Structure) -> Structure:
        return resident(arrays)


def _learned(variables: Variables) -> _Learned:
    found = tuple(variables())
    return _Learned(variables, found, tuple(variable.value for variable in found))


@contextlib.contextmanager
def _differentiable(values: Sequence[torch.Tensor]) -> Iterator[None]:
    """Context that records gradients with respect to all values, also frozen ones."""
    frozen = [value for value in values if not value.requires_grad]
    for value in frozen:
        value.requires_grad_(True)
    try:
        yield
    finally:
        for value in frozen:
            value.requires_grad_(False)


def _gradients(
    value: torch.Tensor, inputs: Sequence[torch.Tensor], create_graph: bool = False
) -> list[torch.Tensor | None]:
    """Gradients of a scalar; `None` for inputs that it does not depend on."""
    followed = [tensor for tensor in inputs if tensor.requires_grad]
    if not followed or not value.requires_grad:
        return [None] * len(inputs)
    if len(followed) == len(inputs):
        return list(torch.autograd.grad(value, followed, create_graph=create_graph, allow_unused=True))
    found = iter(torch.autograd.grad(value, followed, create_graph=create_graph, allow_unused=True))
    return [next(found) if tensor.requires_grad else None for tensor in inputs]


def _requiring_grad(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.requires_grad or not tensor.is_floating_point():
        return tensor.view_as(tensor)
    return tensor.detach().requires_grad_(True)
