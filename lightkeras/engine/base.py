"""The interface that every engine implements: n steps of a task in one compiled call.

An engine knows tensors, gradients and compilation. It knows nothing of runs, callbacks or files.
A step is a function from one batch to its logs, `{name: scalar tensor}`; a program is a step
compiled so that `count` of them run in one call; a stream is a feed opened at a position.

    engine = make_engine()
    trace = engine.trace(step, feed.spec)            # abstractly: names, optimizers, problems
    engine.gradient_sizes(step, engine.open(feed))   # really, on one batch, without the updates
    program = engine.program(step, trace.names)
    stream = engine.open(feed, epoch=0, step=0, program=program)
    logs = program.run(stream, count=75)             # values of every step: {name: float32 [75]}
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

import keras
import numpy as np

from lightkeras.data.feed import ArrayFeed, Feed, StreamFeed
from lightkeras.data.structure import Structure

if TYPE_CHECKING:
    from lightkeras.engine.tf_data import Datasets

Tensor = Any
Step = Callable[[Structure], Mapping[str, Tensor]]


@dataclasses.dataclass(frozen=True)
class Update:
    """One `minimize` that a step makes.

    Args:
        variables: The variables it updates.
        optimizer: The optimizer that updates them.
        unreached: Those of `variables` that the loss does not depend on.
    """

    variables: tuple[keras.Variable, ...]
    optimizer: keras.optimizers.Optimizer
    unreached: tuple[keras.Variable, ...]


@dataclasses.dataclass(frozen=True)
class Trace:
    """What an abstract run of a step found.

    Args:
        names: Names that the step logs, in order.
        updates: Its `minimize` calls, in order.
        variables: Variables that the step reads or writes, the backend's own or Keras's; they have `assign`.
    """

    names: tuple[str, ...]
    updates: tuple[Update, ...]
    variables: tuple[Any, ...] = ()

    def optimizers(self) -> list[tuple[keras.optimizers.Optimizer, list[keras.Variable]]]:
        """Each optimizer once, with the variables that it updates."""
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
        examples: int64 `[steps]`, the size of each batch.
        waited: Seconds that the call waited for batches of a stream.
    """

    values: Mapping[str, np.ndarray]
    examples: np.ndarray
    waited: float = 0.0

    @property
    def steps(self) -> int:
        return len(self.examples)

    def first(self, count: int) -> StepLogs:
        """Those of the first steps."""
        values = {name: column[:count] for name, column in self.values.items()}
        return StepLogs(values, self.examples[:count], self.waited)


@dataclasses.dataclass(frozen=True)
class Seen:
    """One thing that a step computed while it was looked at.

    Args:
        kind: `"layer"` for a call of a layer (or of an operation of a functional model), `"loss"` for what
            a `minimize` minimizes, `"gradient"` for the gradient of one variable in it.
        name: Of a layer, the way to it from the outermost one, and its class; of a gradient, the variable's path.
        value: The first number in it that is not finite; `None` if all are.
        inputs: The first number that is not finite in a layer's inputs; `None` if all are.
        largest: Largest absolute value; `None` if a number is not finite, or there is none.
    """

    kind: Literal["layer", "loss", "gradient"]
    name: str
    value: float | None
    inputs: float | None = None
    largest: float | None = None


class Stream(abc.ABC):
    """A feed, opened at a position, with its data where the engine wants it.

    Args:
        reread: Batches that were read and thrown away to come to the position.
    """

    def __init__(self, reread: int = 0) -> None:
        self.reread = reread

    @abc.abstractmethod
    def state(self) -> bytes | None:
        """What `Engine.open` needs besides the position to go on from here; `None` where that is all."""

    @abc.abstractmethod
    def next_batch(self) -> Structure | None:
        """Takes the next batch as NumPy arrays; `None` at the end of the epoch."""

    @abc.abstractmethod
    def shapes(self) -> list[list[int | None]] | None:
        """Shapes of a batch's arrays as far as a step is compiled for them; `None` where it is for all sizes.

        A step that does not know a size may compute in another order, to other last digits.
        """


class Program(abc.ABC):
    """A step, compiled."""

    forms: list[str]
    """Forms of batch that it was compiled for, in order; empty where nothing is compiled."""

    @abc.abstractmethod
    def run(self, stream: Stream, count: int) -> StepLogs:
        """Runs the next steps in one call.

        Args:
            stream: Where the batches come from; it moves on by the steps that were run.
            count: Steps wanted, at least 1.

        Returns:
            The logs of the steps that were run: `count` of them, or fewer at a change of the batch's
            shape (the smaller last batch), or none at the end of the epoch.
        """


class Predictor(abc.ABC):
    """A function from a batch to outputs, compiled."""

    @abc.abstractmethod
    def run(self, stream: Stream, count: int) -> Structure | None:
        """Outputs of the next batches, joined along axis 0, as NumPy arrays; `None` at the end."""


class Engine(abc.ABC):
    """Tensors, gradients and compilation on one backend."""

    backend: str
    compiles: bool = True
    """Whether what a step does in Python is done once, when it is compiled, and not in every step."""

    @abc.abstractmethod
    def trace(self, step: Step, spec: Structure, batch_size: int | None = None) -> Trace:
        """Runs a step abstractly on one batch of `spec`: nothing is computed, no variable changes.

        Layers, metrics and optimizers that build themselves on their first call are built, the optimizers
        where the backend compiles them with the step.

        A step may be traced again, when other variables learn: programs made before go on as they were.

        Args:
            step: Function from one batch to its logs.
            spec: What a batch looks like.
            batch_size: Examples in a batch, for an engine that cannot trace a step for all sizes; `None` if not known.

        Raises:
            ValueError: The step makes new variables each time it is run.
        """

    @abc.abstractmethod
    def gradient_sizes(self, step: Step, stream: Stream) -> list[tuple[keras.Variable, float]]:
        """Runs a step for real on the next batch, without its updates, and looks at its gradients.

        Whatever else the step changes (metrics, seeds, moving means) is changed. A `minimize` inside a
        branch, such as `keras.ops.cond`, is left out: its gradients need not be computed at all.

        Args:
            step: The step that was traced last of those that minimize; its graph is used once more here.
            stream: Where the batch comes from; it moves on by one.

        Returns:
            For each `minimize` in order, each of its variables and the largest absolute value of its
            gradient: 0.0 where the loss does not depend on it, not finite if one value is not. What an
            optimizer scales the loss by is taken out again.

        Raises:
            ValueError: The step was not traced before, or the stream has no batch.
        """

    _opened_datasets: Datasets | None = None

    def skip_epochs(self, feed: Feed, count: int) -> None:
        """Brings a feed that no epoch was opened of yet to where it is after `count` epochs.

        A shuffled stream draws the order of an epoch when that is opened. Nothing is read.
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
    ) -> Stream:
        """Opens a feed at a position. Data that lives in memory is put on the device once.

        A stream without a state comes to its position by reading, see `Stream.reread`.

        Args:
            feed: The feed.
            epoch: Epoch, from 0.
            step: First batch, from 0, inside the epoch.
            seed: Seed of the run, for the order of the examples.
            state: What `Stream.state` returned at this position; `None` if there is none.
            program: The program that will read the stream: what its step can leave to the input pipeline
                (`lightkeras.data.precompute`) is computed there. `None` reads plain batches, which suit any reader.

        Raises:
            ValueError: The stream gives other batches than those it gave before.
            TypeError: `feed` is neither an `ArrayFeed` nor a `StreamFeed`.
        """
        if isinstance(feed, ArrayFeed):
            return self._open_arrays(feed, epoch, step, seed, program)
        if isinstance(feed, StreamFeed):
            return self._open_stream(feed, epoch, step, state, program)
        raise TypeError(f"Expected an ArrayFeed or a StreamFeed, got {type(feed).__name__}.")

    @abc.abstractmethod
    def _open_arrays(self, feed: ArrayFeed, epoch: int, step: int, seed: int, program: Program | None) -> Stream:
        """See `open`."""

    @abc.abstractmethod
    def _open_stream(
        self, feed: StreamFeed, epoch: int, step: int, state: bytes | None, program: Program | None
    ) -> Stream:
        """See `open`."""

    @final
    def _datasets(self) -> Datasets:
        """Opens `tf.data.Dataset`s; made for the first one, because it imports TensorFlow."""
        if self._opened_datasets is None:
            from lightkeras.engine.tf_data import Datasets

            self._opened_datasets = Datasets()
        return self._opened_datasets

    @abc.abstractmethod
    def open_batch(
        self,
        batch: Structure,
        shapes: Sequence[Sequence[int | None]] | None = None,
        program: Program | None = None,
    ) -> Stream:
        """A stream of one batch that is at hand: a program gives the same numbers for it as inside its feed.

        Args:
            batch: NumPy arrays, as `Stream.next_batch` gave them.
            shapes: What `Stream.shapes` of the batch's own stream returned.
            program: See `open`.
        """

    @abc.abstractmethod
    def program(self, step: Step, names: Sequence[str]) -> Program:
        """Compiles a step as it was traced last.

        Args:
            step: Function from one batch to its logs.
            names: Names that the step logs, as its trace found them.
        """

    @abc.abstractmethod
    def predictor(self, function: Callable[[Structure], Structure]) -> Predictor:
        """Compiles a function from a batch to outputs whose axis 0 counts examples."""

    @abc.abstractmethod
    def minimize(
        self,
        loss_fn: Callable[[], Tensor],
        variables: Callable[[], Sequence[keras.Variable]],
        optimizer: keras.optimizers.Optimizer,
    ) -> Tensor:
        """Value and gradient of `loss_fn`, then one update by the optimizer. For use inside a step.

        Args:
            loss_fn: Function without arguments that returns a scalar.
            variables: Gives the variables to update; asked after the models were built.
            optimizer: The optimizer.

        Returns:
            The loss before the update.
        """

    @abc.abstractmethod
    def gradients(self, fn: Callable[[Structure], Tensor], inputs: Structure) -> Structure:
        """Gradient of the scalar `fn(inputs)` with respect to `inputs`; itself differentiable."""

    @abc.abstractmethod
    def traced(self, folder: Path) -> AbstractContextManager[None]:
        """Inside, the backend's own profiler traces what runs, and writes it below a folder for TensorBoard.

        Raises:
            RuntimeError: On entry: it is tracing already.
        """

    @abc.abstractmethod
    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether an error says that an allocation failed, on the device or on the host.

        After one the engine can run on with smaller batches; what the failed step had changed already
        stays changed.
        """

    @abc.abstractmethod
    def run_eagerly(self, step: Step, batch: Structure) -> tuple[dict[str, float], list[Seen]]:
        """Runs a step for real, uncompiled, and looks at what its layers, losses and gradients are.

        It is slow, and numbers may differ from the compiled step's in their last digits.

        Args:
            step: Function from one batch to its logs.
            batch: NumPy arrays.

        Returns:
            What the step logged; and what was seen, in the order in which it was done: inner layers before
            those that call them. What a layer does inside a compiled function of its own is not seen.
        """

    @abc.abstractmethod
    def not_finite(self, variables: Mapping[str, keras.Variable]) -> list[str]:
        """Keys of the variables that hold a NaN or an infinity; others than floats never do.

        It is one compiled call, made once for each set of variables, that reads one number per variable back.
        """


def check_names(names: Sequence[str], expected: Sequence[str]) -> None:
    """Checks that a step logs what it logged when it was traced.

    Raises:
        ValueError: A name came or went.
    """
    if set(names) != set(expected):
        new, gone = sorted(set(names) - set(expected)), sorted(set(expected) - set(names))
        raise ValueError(
            "A step must log the same names every time it is run; "
            f"first it logged {sorted(expected)}, now new: {new or 'none'}, gone: {gone or 'none'}. "
            "Log every name in every step."
        )
