"""Train steps that `torch.compile` compiles: forward pass, gradients and optimizer in one graph.

Whether a step is compiled depends on the task, the length of an epoch and the device, never on a time that was
measured: a compiled step rounds differently, and a run that is repeated or resumed must compute the same bits. For the
same reason only batches of the size that was traced are compiled; the smaller last batch of an epoch is not.
"""

from __future__ import annotations

import dataclasses
import os
import re
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

import keras
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lightkeras.data.structure import ArraySpec, Structure, flatten
from lightkeras.engine.replacing import replaced
from lightkeras.engine.torch.counted_random import COUNTED
from lightkeras.engine.torch.streams import device_in_use
from lightkeras.engine.unsupported_layers import not_recording
from lightkeras.system import files
from lightkeras.system.keras_internals.backend import nn, numpy
from lightkeras.system.tracebacks import is_of_library

Row = Callable[[Structure], torch.Tensor]
"""A step that returns its logs as a float32 vector."""

MOST_OPERATIONS = 3_000
"""Larger steps take minutes to compile: layers that loop in Python, such as an LSTM, over many time steps."""

SAVED_S = {"cpu": 2e-5}
"""Seconds that compilation saves per operation of a step on a type of device, about, with those of the optimizer.

Not of GPUs, where it saves four times as much: whether a compiled run is repeated to the bit there is not known yet.
"""

COMPILING_S = 1.0
"""Seconds within an epoch that compilation must save: it takes 5 to 15 s, and a run has several epochs."""


@final
class Operations(TorchDispatchMode):  # type: ignore[misc]
    """Context that counts tensor operations."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += 1
        return func(*args, **(kwargs or {}))


@dataclasses.dataclass(frozen=True)
class Size:
    """What is known of a traced step.

    Args:
        spec: Dtypes and shapes of its batch.
        examples: Examples in a batch; `None` if unknown.
        operations: Tensor operations of the loss and its gradients.
    """

    spec: Structure
    examples: int | None
    operations: int

    def why_not(self) -> str | None:
        """Why it cannot be compiled; `None` if it can, as far as the batch shows."""
        if self.examples is None:
            return "the number of examples in a batch is unknown"
        for path, leaf in flatten(self.spec):
            if not isinstance(leaf, ArraySpec) or None in leaf.shape:
                return f"the size of {path or 'the batch'} varies from batch to batch"
        return None

    def pays(self, steps: int | None, device: torch.device) -> bool:
        """Whether compiling it saves more time than it takes, for an epoch of `steps`; `None` if unknown."""
        if steps is None or self.operations > MOST_OPERATIONS or self.why_not() is not None:
            return False
        return steps * self.operations * SAVED_S.get(device.type, 0.0) >= COMPILING_S


@final
class CompiledStep:
    """A step, compiled at its first call. If it cannot be compiled, it is called as it is, after a warning.

    Args:
        row: The step.
        examples: Examples in the batches that are compiled; others are called with the step as it is.
        required: Whether a step that cannot be compiled is an error.

    Attributes:
        forms: Descriptions of the batches that it was compiled for.
        failed: Whether it could not be compiled.
    """

    def __init__(self, row: Row, examples: int | None, required: bool) -> None:
        self._row, self.examples, self._required = row, examples, required
        self.forms: list[str] = []
        self.failed = False
        # A code object of its own: torch keeps what it compiled by code object, and compiles each only a few times.
        own = types.FunctionType(row.__code__.replace(), row.__globals__, "step", None, row.__closure__)
        self._replays = device_in_use().type == "cuda"
        # A CUDA graph is one launch for all kernels of a step.
        options = {"guard_filter_fn": _kept_guards, "triton.cudagraphs": self._replays}
        self._compiled = torch.compile(own, fullgraph=True, dynamic=False, options=options)

    def __call__(self, batch: Structure) -> torch.Tensor:
        """Runs a step. Returns its logs.

        Raises:
            ValueError: It cannot be compiled and is `required`.
        """
        leaves = flatten(batch)
        if self.failed or len(leaves[0][1]) != self.examples:
            return self._row(batch)
        try:
            with not_recording():
                found: torch.Tensor = self._compiled(batch) if self.forms else self._compile(batch)
        except Exception as error:
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            self._fail(error)
            return self._row(batch)  # nothing ran before
        return found.clone() if self._replays else found  # the next replay writes to the same memory

    def _compile(self, batch: Structure) -> torch.Tensor:
        """Calls the step for the first time."""
        with warnings.catch_warnings():
            # What torch says of itself, and of functions of Keras that keep their results.
            warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools.lru_cache`", UserWarning)
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            found: torch.Tensor = self._compiled(batch)
        shapes = (f"{leaf.dtype}{list(leaf.shape)}".removeprefix("torch.") for _, leaf in flatten(batch))
        self.forms.append(", ".join(shapes))
        return found

    def _fail(self, error: Exception) -> None:
        self.failed = True
        warn_not_compiled(reason_of(error), self._required)


_IN_LIBRARIES = re.compile(r"__import_(keras|lightkeras|torch)_dot_|__import__\('torch'\)")
_OF_CLASSES = {"DICT_NOT_CONTAINS", "NOT_PRESENT_IN_GENERIC_DICT", "TYPE_MATCH"}


def _kept_guards(guards: Sequence[Any]) -> list[bool]:
    """Which guards of torch are checked at each call: those on values that a step reads, such as attributes of a task.

    Not those on the globals of libraries, and on the classes of their objects: of a small network these are 2,500 of
    3,000, and replacing a function of Keras has all of them checked anew.
    """

    def is_kept(guard: Any) -> bool:
        if _IN_LIBRARIES.search(guard.name):
            return False
        library = type(guard.value).__module__.partition(".")[0]
        return guard.guard_type not in _OF_CLASSES or library not in ("builtins", "keras", "torch")

    return [is_kept(guard) for guard in guards]


def reason_of(error: Exception) -> str:
    """The first line of an error of the compiler, and the last line of the user's code that it names."""
    text = str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    frames = re.findall(r'File "([^"]+)", line (\d+), in .*\n\s*(.*)', text)
    own = [f"{file}:{number}: {code.strip()}" for file, number, code in frames if not is_of_library(file)]
    first = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return f"{first.rstrip('.')}{f' ({own[-1]})' if own else ''}"


@contextmanager
def compiled_steps() -> Iterator[None]:
    """Context in which compiled steps are called: gradients are part of them, and random numbers are counted.

    A few functions of Keras, which torch cannot compile, are replaced by equal ones; its `moments` is by `running`.
    """
    import torch._dynamo

    with torch._dynamo.config.patch(trace_autograd_ops=True), replaced(_REPLACED | COUNTED):
        yield


def _no_flash_attention(*_args: Any, **_kwargs: Any) -> bool:
    return False  # torch's own attention function uses it where it can


def _max(x: Any, axis: Any = None, keepdims: bool = False, initial: Any = None) -> Any:
    return _reduced("max", torch.max, numpy.amax, x, axis, keepdims, initial)


def _min(x: Any, axis: Any = None, keepdims: bool = False, initial: Any = None) -> Any:
    return _reduced("min", torch.min, numpy.amin, x, axis, keepdims, initial)


def _reduced(name: str, whole: Any, along: Any, x: Any, axis: Any, keepdims: bool, initial: Any) -> Any:
    """A largest or smallest value. Keras's own asks whether a tensor has `values`, as sparse ones do."""
    x = keras.ops.convert_to_tensor(x)
    if initial is not None or 0 in x.shape:
        return _ORIGINAL[numpy, name](x, axis, keepdims, initial)
    return whole(x) if axis is None else along(x, axis=axis, keepdims=keepdims)


_REPLACED: dict[tuple[Any, str], Any] = {
    (nn, "_can_use_flash_attention"): _no_flash_attention,
    (numpy, "max"): _max,
    (numpy, "min"): _min,
}
# Modules of another backend, where this one is only imported, may lack some.
_ORIGINAL: dict[tuple[Any, str], Any] = {(module, name): getattr(module, name, None) for module, name in _REPLACED}


def why_unavailable() -> str | None:
    """Why nothing can be compiled here; `None` if it can."""
    import torch._dynamo

    if not hasattr(torch._dynamo.config, "trace_autograd_ops"):
        return f"torch {torch.__version__} does not compile gradients, and 2.11 does"
    try:
        use_cache()
    except OSError as error:
        return f"its code cannot be kept: {error}"
    return None


def warn_not_compiled(reason: str, required: bool) -> None:
    """Warns that a step is called uncompiled; if it was `required` to be compiled, that is a ValueError."""
    if required:
        raise ValueError(f"compile='on': the train step cannot be compiled: {reason}. Use compile='auto' or 'off'.")
    warnings.warn(
        f"The train step is not compiled: {reason}. It runs operation by operation, which is slower and computes the "
        "same but for rounding. Runner(compile='off') does not try.",
        UserWarning,
        stacklevel=2,
    )


def use_cache() -> None:
    """Keeps compiled code in the user's cache, unless the environment names a folder: torch's is in the shared /tmp.

    Raises:
        OSError: The folder cannot be made, or is another user's.
    """
    if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(files.compiled_code("torch"))
