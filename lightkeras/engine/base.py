"""The interface that every engine implements: n steps of a task in one compiled call.

An engine handles tensors, gradients and compilation, and nothing about runs, callbacks or files.
A step is a function from one batch to its logs, `{name: scalar tensor}`; a program is a step
compiled so that one call runs `count` steps; a stream is a feed opened at a position.
`Program.run` calls the user's step in `tensorflow/programs.py`, `jax/programs.py` or `torch/programs.py`.

    engine = make_engine()
    trace = engine.trace(step, feed.spec)            # abstract: names, optimizers, errors
    engine.gradient_sizes(step, engine.open(feed))   # runs one batch, without the updates
    program = engine.program(step, trace.names)
    stream = engine.open(feed, epoch=0, step=0, program=program)
    logs = program.run(stream, count=75)             # logs of every step: {name: float32 [75]}
"""

from __future__ import annotations

import abc
import dataclasses
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import keras
import numpy as np

from lightkeras.data.feed import ArrayFeed, Feed, StreamFeed
from lightkeras.data.stream_reader import Continued, StreamReader
from lightkeras.data.structure import Structure, flatten
from lightkeras.engine.gradient_watches import GradientWatches
from lightkeras.engine.launchers import Launch
from lightkeras.engine.layer_calls import Numbers, Observation, observation, observe_layer_calls
from lightkeras.engine.stream import Stream
from lightkeras.engine.world import ALONE, World
from lightkeras.system.held_values import HeldValues

if TYPE_CHECKING:
    from lightkeras.engine.tf_data import Datasets

Tensor = Any
Step = Callable[[Structure], Mapping[str, Tensor]]


@dataclasses.dataclass(frozen=True)
class Update:
    """One call of `minimize` in a step.

    Args:
        variables: The variables it updates.
        optimizer: The optimizer that updates them.
        unreached: The variables among them that the loss does not depend on.
    """

    variables: tuple[keras.Variable, ...]
    optimizer: keras.optimizers.Optimizer
    unreached: tuple[keras.Variable, ...]


@dataclasses.dataclass(frozen=True)
class Trace:
    """The result of tracing a step.

    Args:
        names: Names of the step's logs, in order.
        updates: Its `minimize` calls, in order.
        variables: Variables that the step reads or writes, of Keras or of the backend; all have `assign`.
    """

    names: tuple[str, ...]
    updates: tuple[Update, ...]
    variables: tuple[Any, ...] = ()

    def optimizers(self) -> list[tuple[keras.optimizers.Optimizer, list[keras.Variable]]]:
        """Returns each optimizer once, with the variables that it updates."""
        found: dict[int, tuple[keras.optimizers.Optimizer, dict[int, keras.Variable]]] = {}
        for update in self.updates:
            _, variables = found.setdefault(id(update.optimizer), (update.optimizer, {}))
            variables.update({id(variable): variable for variable in update.variables})
        return [(optimizer, list(variables.values())) for optimizer, variables in found.values()]


@dataclasses.dataclass(frozen=True)
class StepLogs:
    """Logs of the steps of one call.

    Args:
        values: float32 `[steps]` by name.
        examples: int64 `[steps]`, the batch sizes.
        waited: Seconds that the call waited for batches of a stream.
    """

    values: Mapping[str, np.ndarray]
    examples: np.ndarray
    waited: float = 0.0

    @property
    def steps(self) -> int:
        return len(self.examples)

    def first(self, count: int) -> StepLogs:
        """Returns the logs of the first `count` steps."""
        values = {name: column[:count] for name, column in self.values.items()}
        return StepLogs(values, self.examples[:count], self.waited)

    @staticmethod
    def joined(parts: Sequence[StepLogs]) -> StepLogs:
        """Returns the logs of several calls, at least one, as those of one call."""
        if len(parts) == 1:
            return parts[0]
        values = {name: np.concatenate([part.values[name] for part in parts]) for name in parts[0].values}
        return StepLogs(values, np.concatenate([p.examples for p in parts]), sum(part.waited for part in parts))


class Program(abc.ABC):
    """A step, compiled: `TensorFlowProgram`, `JaxProgram` and `TorchProgram`, each in its `programs.py`."""

    forms: list[str]
    """Descriptions of the batch shapes it was compiled for, in order; empty if nothing is compiled."""
    compiled: bool = True
    """Whether it is compiled, at its first run; fixed, so that a run that is repeated computes the same bits."""
    compiled_size: int | None = None
    """Examples of the batches that are compiled, if those of other sizes are not."""

    @abc.abstractmethod
    def run(self, stream: Stream, count: int, waits: bool = True) -> StepLogs:
        """Runs the next steps in one call.

        Args:
            stream: Source of the batches; it advances by the number of steps that were run.
            count: Number of steps, at least 1.
            waits: Whether to wait until the steps are done. Otherwise reading a value of the logs may wait for them.

        Returns:
            The logs of `count` steps; of fewer steps where the batch shape changes (the smaller last batch),
            and of none at the end of the epoch.
        """


class Predictor(abc.ABC):
    """A function from a batch to outputs, compiled."""

    @abc.abstractmethod
    def run(self, stream: Stream, count: int) -> Structure | None:
        """Outputs of the next `count` batches, concatenated along axis 0, as NumPy arrays; `None` at the end."""


@final
class EagerProgram(Program):
    """A step that is called and not compiled, so that a breakpoint or `print` in it sees values.

    Args:
        call: Calls a function on a batch of NumPy arrays, see `Engine.call`.
        step: The step.
        names: The names of its logs.
    """

    def __init__(self, call: Callable[[Step, Structure], Structure], step: Step, names: Sequence[str]) -> None:
        self._call, self._step, self._names = call, step, tuple(names)
        self.forms = []
        self.compiled = False

    def run(self, stream: Stream, count: int, waits: bool = True) -> StepLogs:
        rows: list[list[float]] = []
        examples: list[int] = []
        waited = 0.0
        while len(rows) < count:
            began = time.perf_counter()
            batch = stream.next_batch()
            waited += time.perf_counter() - began
            if batch is None:
                break
            logs = self._call(self._step, batch)
            check_names(list(logs), self._names)
            rows.append([number_of(logs[name]) for name in self._names])
            examples.append(len(flatten(batch)[0][1]))
        table = np.array(rows, "float32").reshape(len(rows), len(self._names))
        values = {name: np.ascontiguousarray(table[:, column]) for column, name in enumerate(self._names)}
        return StepLogs(values, np.array(examples, "int64"), waited)


@final
class EagerPredictor(Predictor):
    """A function that is called and not compiled; see `EagerProgram`."""

    def __init__(
        self,
        call: Callable[[Callable[[Structure], Structure], Structure], Structure],
        function: Callable[[Structure], Structure],
    ) -> None:
        self._call, self._function = call, function

    def run(self, stream: Stream, count: int) -> Structure | None:
        parts: list[Structure] = []
        while len(parts) < count and (batch := stream.next_batch()) is not None:
            outputs = keras.tree.map_structure(keras.ops.convert_to_numpy, self._call(self._function, batch))
            check_rows(outputs, batch)
            parts.append(outputs)
        return keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *parts) if parts else None


class StreamOpener(abc.ABC):
    """Opens feeds on one backend, and keeps arrays on its device."""

    def __init__(self) -> None:
        self._resident: weakref.WeakKeyDictionary[Feed, Structure] = weakref.WeakKeyDictionary()
        self._datasets_opened: Datasets | None = None

    def skip_epochs(self, feed: Feed, count: int) -> None:
        """Advances an unopened feed by `count` epochs, without reading data.

        A shuffled `tf.data` stream draws the order of an epoch when the epoch is opened.
        """
        if isinstance(feed, StreamFeed) and feed.dataset is not None:
            self._datasets().skip_epochs(feed, count)

    @final
    def open(
        self,
        feed: Feed,
        epoch: int = 0,
        step: int = 0,
        seed: int = 0,
        state: bytes | None = None,
        program: Program | None = None,
        limit: int | None = None,
        continued: Continued | None = None,
    ) -> Stream:
        """Opens a feed at a position. Arrays in memory are copied to the device once.

        A stream without a state reads up to its position, see `Stream.reread`. Close a stream that is not read to its
        end.

        Args:
            feed: The feed.
            epoch: Epoch, from 0.
            step: First batch in the epoch, from 0.
            seed: Seed of the run, for the order of the examples.
            state: Return value of `Stream.state` at this position; `None` if none was saved.
            program: The program that will read the stream: functions of its step that can run in the input pipeline
                (`lightkeras.data.precompute`) do. `None` opens plain batches, for any reader.
            limit: Batches after which the source is not read ahead, see `Stream.allow`; `None` for no limit.
            continued: Where the epoch begins in a stream that epochs continue; `None` if each epoch starts anew.

        Raises:
            ValueError: The stream yields other batches than before.
            TypeError: `feed` is neither an `ArrayFeed` nor a `StreamFeed`.
        """
        if isinstance(feed, ArrayFeed):
            return self._open_arrays(feed, epoch, step, seed, program)
        if isinstance(feed, StreamFeed):
            before = 0 if continued is None else continued.batches
            if feed.dataset is not None:
                opening = epoch if continued is None else continued.openings
                return self._open_dataset(feed, opening, before + step, state, program)
            reader = StreamReader(feed, epoch, step, state, continued)
            return self._open_reader(feed, reader, before + step, limit, program)
        raise TypeError(f"Expected an ArrayFeed or a StreamFeed, got {type(feed).__name__}.")

    @abc.abstractmethod
    def _open_arrays(self, feed: ArrayFeed, epoch: int, step: int, seed: int, program: Program | None) -> Stream:
        """See `open`."""

    @abc.abstractmethod
    def _open_dataset(
        self, feed: StreamFeed, epoch: int, step: int, state: bytes | None, program: Program | None
    ) -> Stream:
        """Opens a `tf.data.Dataset`; see `open`."""

    @abc.abstractmethod
    def _open_reader(
        self, feed: StreamFeed, reader: StreamReader, step: int, limit: int | None, program: Program | None
    ) -> Stream:
        """Opens any other stream, whose reader has read and discarded `step` batches; see `open`."""

    @final
    def _datasets(self) -> Datasets:
        """Opens `tf.data.Dataset`s; created on first use, because it imports TensorFlow."""
        if self._datasets_opened is None:
            from lightkeras.engine.tf_data import Datasets

            self._datasets_opened = Datasets()
        return self._datasets_opened

    @final
    def _on_device(self, feed: ArrayFeed) -> Structure:
        """The arrays of a feed on the device, where they stay as long as the feed lives."""
        if feed not in self._resident:
            self._resident[feed] = self._copied_to_device(feed.arrays)
        return self._resident[feed]

    @abc.abstractmethod
    def _copied_to_device(self, arrays: Structure) -> Structure:
        """Copies the arrays of a split to the device."""

    @abc.abstractmethod
    def open_batch(
        self,
        batch: Structure,
        shapes: Sequence[Sequence[int | None]] | None = None,
        program: Program | None = None,
    ) -> Stream:
        """Opens a stream of one given batch, for which a program computes the same bits as inside its feed.

        Args:
            batch: NumPy arrays from `Stream.next_batch`.
            shapes: Return value of `Stream.shapes` of the stream that the batch comes from.
            program: See `open`.
        """


class Engine(StreamOpener):
    """Tensors, gradients and compilation on one backend."""

    backend: str
    world: World = ALONE
    """The processes of the run."""
    compiles: bool = True
    """Whether Python code in a step runs only once, when the step is compiled, unless `eager`."""
    eager: bool = False
    """Whether programs and predictors that are made from now on call their function at every step, uncompiled."""
    compile: str = "auto"
    """Whether train steps are compiled where that is a choice: `"on"`, `"off"`, or `"auto"`, where it saves time."""
    traces_any_size: bool = False
    """Whether a step is traced for batches of any size; if not, `trace` should be given sizes that occur."""
    numbers: Numbers
    """Reads the values of the backend's tensors."""
    global_norm: Callable[[Sequence[Tensor | None]], Tensor]
    """Returns the root of the sum of the squares of all values, float32; of none it is 0."""
    is_eager: Callable[[], bool]
    """Whether operations are computed at once, as opposed to traced."""
    _CREATES_VARIABLES = (
        "The step creates new variables in each run, as `keras.layers.Dense(1)(x)` does: they would not be trained. "
        "Create layers, metrics and seed generators in `build`, as attributes of the task."
    )
    _NOT_TRACED = "gradient_sizes: this is not the last traced step that minimizes; call `trace` first."

    def __init__(self) -> None:
        super().__init__()
        self._observations: list[Observation] | None = None  # a list in `run_eagerly`, else None
        self.watches = GradientWatches(self._place)

    @classmethod
    @abc.abstractmethod
    def join(cls, launch: Launch | None) -> World:
        """Joins the other processes of a run; called once in a process, before anything is computed.

        Args:
            launch: What a launcher told this process; `None` without one. The user may have joined them before.

        Returns:
            The processes; `ALONE` for one.

        Raises:
            ValueError: The others cannot be joined.
            WorldError: Another process did not come.
        """

    def enter(self, world: World) -> None:
        """Takes the processes that steps are shared with, before a step is traced."""
        self.world = world

    def share(self, variables: Mapping[str, keras.Variable]) -> None:
        """Gives variables the values that they have in the process with rank 0."""

    def over(self, devices: int | str | None) -> AbstractContextManager[None]:
        """Context in which models are built on several devices; each computes a part of every batch.

        Args:
            devices: Number of devices; `"all"` for those of this process; `None` for those of several processes.

        Raises:
            ValueError: There are fewer devices, or this backend uses one.
        """
        if devices is None:
            return nullcontext()
        raise ValueError(
            f"devices={devices!r}: a process on {self.backend} uses one device. Leave devices out and start a process "
            "for each with torchrun; or use TensorFlow or JAX: KERAS_BACKEND=jax."
        )

    @abc.abstractmethod
    def check_devices(self, variables: Mapping[str, keras.Variable]) -> None:
        """Refuses what steps would ignore: other processes, a strategy of the backend, a layout of no variable.

        Raises:
            ValueError: There is one of these.
        """

    @abc.abstractmethod
    def trace(self, step: Step, spec: Structure, batch_size: int | None = None) -> Trace:
        """Runs a step abstractly on one batch of `spec`: no values are computed and no variable changes.

        Layers and metrics that build on their first call are built, and so are optimizers on backends that compile
        them with the step. A step may be traced again, for example after unfreezing; existing programs do not change.

        Args:
            step: Function from one batch to its logs.
            spec: Dtypes and shapes of a batch.
            batch_size: Batch size for engines that cannot trace a step for all sizes; `None` makes one up, which a
                step or a layer with a fixed size may not take.

        Raises:
            ValueError: The step creates new variables in each run.
        """

    @abc.abstractmethod
    def gradient_sizes(self, step: Step, stream: Stream) -> list[tuple[keras.Variable, float]]:
        """Runs a step on the next batch, without its updates, and measures its gradients.

        Other state (metrics, seeds, moving means) does change. A `minimize` inside a branch, such as
        `keras.ops.cond`, is skipped: its gradients may never be computed.

        Returns:
            The variables of each `minimize`, in order, each with the largest absolute value of its gradient: 0.0 if
            the loss does not depend on it, not finite if a value is not. The optimizer's loss scale is divided out.

        Raises:
            ValueError: The step was not traced, or the stream has no batch.
        """

    @final
    def program(self, step: Step, names: Sequence[str], steps: int | None = None) -> Program:
        """Compiles a step from its last trace, which found the names; if `eager`, it is called and not compiled.

        Args:
            step: The step.
            names: The names of its logs.
            steps: Steps of an epoch, by which `"auto"` decides; `None` if unknown, or not worth compiling for.

        Raises:
            ValueError: `compile` is `"on"`, and it cannot be compiled.
        """
        return EagerProgram(self.call, step, names) if self.eager else self._program(step, names, steps)

    @final
    def predictor(self, function: Callable[[Structure], Structure]) -> Predictor:
        """Compiles a function from a batch to outputs whose axis 0 counts examples, unless `eager`."""
        return EagerPredictor(self.call, function) if self.eager else self._predictor(function)

    @abc.abstractmethod
    def _program(self, step: Step, names: Sequence[str], steps: int | None) -> Program:
        """See `program`."""

    @abc.abstractmethod
    def _predictor(self, function: Callable[[Structure], Structure]) -> Predictor:
        """See `predictor`."""

    @abc.abstractmethod
    def minimize(
        self,
        loss_fn: Callable[[], Tensor],
        variables: Callable[[], Sequence[keras.Variable]],
        optimizer: keras.optimizers.Optimizer,
    ) -> Tensor:
        """Computes `loss_fn` and its gradient, and applies one optimizer update. For use inside a step.

        Args:
            loss_fn: Function without arguments that returns a scalar.
            variables: Returns the variables to update; called after the models are built.
            optimizer: The optimizer.

        Returns:
            The loss before the update.
        """

    @staticmethod
    @abc.abstractmethod
    def _place() -> object:
        """The function that is being traced; another object inside a branch."""

    @final
    def _observe(
        self,
        optimizer: keras.optimizers.Optimizer,
        loss: Tensor,
        variables: Sequence[keras.Variable],
        gradients: Sequence[Tensor],
    ) -> None:
        """Calls the watches, and in `run_eagerly` records the loss and its gradients."""
        self.watches.call(optimizer, loss, variables, gradients)
        if self._observations is not None:
            self._observations.append(observation("loss", "loss", [loss], self.numbers))
            pairs = zip(variables, gradients, strict=True)
            self._observations.extend(observation("gradient", v.path, [g], self.numbers) for v, g in pairs)

    @abc.abstractmethod
    def gradients(self, fn: Callable[[Structure], Tensor], inputs: Structure) -> Structure:
        """Gradient of the scalar `fn(inputs)` with respect to `inputs`; it is itself differentiable."""

    @abc.abstractmethod
    def traced(self, folder: Path) -> AbstractContextManager[None]:
        """Context in which the backend's profiler records a trace and writes it to a folder for TensorBoard.

        Raises:
            RuntimeError: On entry: the profiler is already running.
        """

    @abc.abstractmethod
    def device_memory(self) -> int | None:
        """Bytes that tensors take on the accelerator; `None` on a CPU."""

    @abc.abstractmethod
    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether an error means that an allocation failed, on the device or on the host.

        The engine stays usable with smaller batches; changes that the failed step already made remain.
        """

    @abc.abstractmethod
    def call(self, function: Callable[[Structure], Structure], batch: Structure) -> Structure:
        """Calls a step or another function of a batch, NumPy arrays, uncompiled, and returns its tensors.

        It is slow, and results may differ from the compiled step in the last digits.
        """

    @final
    def run_eagerly(self, step: Step, batch: Structure) -> tuple[dict[str, float], list[Observation]]:
        """Calls a step uncompiled and observes its layer outputs, losses and gradients.

        Returns:
            The step's logs, and the observations in order of execution: inner layers before the layers that call
            them. Calls inside a layer's own compiled function are not observed.
        """
        self._observations = []
        try:
            with observe_layer_calls(self._observations, self.numbers, self.is_eager):
                logs = self.call(step, batch)
            return {name: number_of(value) for name, value in logs.items()}, self._observations
        finally:
            self._observations = None

    @abc.abstractmethod
    def hold(self, variables: Mapping[str, Any]) -> HeldValues:
        """Holds the values of variables of Keras or the backend, by key; nothing is copied that need not be.

        On a CPU, JAX and TensorFlow hold a value by reference, and copy it when a step would change it; torch changes
        values in place, so they are copied now. From another device, values are copied to the host.
        """

    @abc.abstractmethod
    def not_finite(self, variables: Mapping[str, keras.Variable]) -> list[str]:
        """Keys of the float variables that hold a NaN or an infinity.

        One compiled call, compiled once per set of variables, reads back one number per variable.
        """


def number_of(value: Tensor) -> float:
    """Returns a scalar tensor as a number."""
    return float(keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(value)))


def gradient_norm(
    engine: Engine, optimizer: keras.optimizers.Optimizer, loss: Tensor, gradients: Sequence[Tensor]
) -> Tensor:
    """Returns the norm of all gradients together, a float32 scalar. The optimizer's loss scale is divided out."""
    one = keras.ops.ones_like(loss)
    scale, norm = optimizer.scale_loss(one), engine.global_norm(gradients)
    return norm if scale is one else norm / keras.ops.cast(scale, "float32")


def check_not_distributed(advice: str) -> None:
    """Checks that Keras does not distribute variables, on a backend whose steps would ignore it.

    Raises:
        ValueError: It does.
    """
    if (distribution := keras.distribution.distribution()) is not None:
        raise ValueError(
            f"keras.distribution.set_distribution chose a {type(distribution).__name__}, which is used on JAX alone. "
            f"Leave it out and {advice}, or use JAX: KERAS_BACKEND=jax."
        )


def returned(loss: Tensor | None) -> Tensor:
    """Returns what the function of a `minimize` returned, checked not to be `None`."""
    if loss is None:
        raise ValueError("minimize: the loss is None; expected a scalar. End the function with `return loss`.")
    return loss


def check_scalar(loss: Tensor) -> Tensor:
    """Returns the loss of a `minimize`, checked to be a scalar."""
    shape = tuple(loss.shape)
    if shape:
        raise ValueError(f"minimize: the loss has shape {shape}; expected a scalar. Take its mean over the batch.")
    return loss


def batch_to_measure(stream: Stream) -> Structure:
    """Returns the next batch of a stream, for `Engine.gradient_sizes`."""
    batch = stream.next_batch()
    if batch is None:
        raise ValueError("gradient_sizes: the stream has no batch left; expected one.")
    return batch


def check_rows(outputs: Structure, batch: Structure, strict: bool = False) -> None:
    """Checks that outputs of `predict_step` have one row for each example, as far as the sizes are known.

    Args:
        outputs: Tensors, or their specs.
        batch: Tensors or specs.
        strict: Whether a known number of rows is wrong for a batch of unknown size.

    Raises:
        ValueError: They do not.
    """
    expected = flatten(batch)[0][1].shape[0]
    for leaf in keras.tree.flatten(outputs):
        shape = tuple(leaf.shape)
        if len(shape) == 0:
            raise ValueError("predict_step returned a scalar; expected outputs whose axis 0 counts examples.")
        if shape[0] != expected and shape[0] is not None and (strict or expected is not None):
            raise RowsError(f"predict_step returned {shape[0]} rows for a batch of {expected} examples")


class RowsError(ValueError):
    """`predict_step` did not return one row for each example.

    Args:
        found: What it returned.
    """

    def __init__(self, found: str) -> None:
        super().__init__(
            f"{found}: expected one row for each. A batch is a tuple only if the data is: `batch[0]` of an array is "
            "its first example."
        )


def check_names(names: Sequence[str], expected: Sequence[str]) -> None:
    """Checks that a step logs the same names as when it was traced.

    Raises:
        ValueError: A name is new or missing.
    """
    if set(names) != set(expected):
        new, gone = sorted(set(names) - set(expected)), sorted(set(expected) - set(names))
        raise ValueError(
            f"A step must log the same names in every run. Expected {sorted(expected)} as in its first run; "
            f"new: {new or 'none'}, missing: {gone or 'none'}. Log every name in every step."
        )
