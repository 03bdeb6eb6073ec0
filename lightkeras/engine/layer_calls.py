"""Observations of a step that runs uncompiled: whether each value is finite, and how large it is."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import keras
import numpy as np

Numbers = Callable[[Any], np.ndarray | None]
"""Returns the values of a float tensor; `None` for anything else, and for symbolic tensors."""


@dataclasses.dataclass(frozen=True)
class Observation:
    """A layer output, loss or gradient observed by `Engine.run_eagerly`.

    Args:
        kind: `"layer"` for the output of a layer (or of an operation of a functional model), `"loss"` for a
            minimized loss, `"gradient"` for its gradient with respect to one variable.
        name: Path to the layer from the outermost layer, and its class; for a gradient, the variable's path.
        value: The first value that is not finite; `None` if all are finite.
        inputs: The first value in a layer's inputs that is not finite; `None` if all are finite.
        largest: Largest absolute value; `None` if a value is not finite or the tensor is empty.
    """

    kind: Literal["layer", "loss", "gradient"]
    name: str
    value: float | None
    inputs: float | None = None
    largest: float | None = None


@contextlib.contextmanager
def observe_layer_calls(found: list[Observation], numbers: Numbers, is_eager: Callable[[], bool]) -> Iterator[None]:
    """Records every call of a layer, and of an operation of a functional model, in this thread.

    `keras.Operation.__call__` is wrapped meanwhile: every call goes through it, whichever list or dict holds the layer.
    """
    original, thread, path = keras.Operation.__call__, threading.get_ident(), []

    def call(self: keras.Operation, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != thread or not is_eager():
            return original(self, *args, **kwargs)
        path.append(self.name)
        try:
            outputs = original(self, *args, **kwargs)
            name = f"{'/'.join(path)} ({type(self).__name__})"
            output = observation("layer", name, keras.tree.flatten(outputs), numbers)
            inputs = observation("layer", name, keras.tree.flatten((args, kwargs)), numbers)
            found.append(dataclasses.replace(output, inputs=inputs.value))
            return outputs
        finally:
            path.pop()

    keras.Operation.__call__ = call
    try:
        yield
    finally:
        keras.Operation.__call__ = original


def observation(
    kind: Literal["layer", "loss", "gradient"], name: str, values: Sequence[Any], numbers: Numbers
) -> Observation:
    """Summarizes the float tensors among `values`."""
    arrays = [array for array in map(numbers, values) if array is not None]
    for array in arrays:
        wrong = array[~np.isfinite(array)]
        if wrong.size:
            return Observation(kind, name, float(wrong[0]))
    return Observation(kind, name, None, largest=max((float(np.abs(a).max()) for a in arrays if a.size), default=None))
