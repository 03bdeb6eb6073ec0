"""Looking into a step: which layer, loss or gradient is not finite, and how large it is."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import keras
import numpy as np

from lightkeras.engine.base import Seen

Numbers = Callable[[Any], np.ndarray | None]
"""The numbers of a tensor of floats; `None` for anything else, or where there are no numbers yet."""


@contextlib.contextmanager
def calls_seen(found: list[Seen], numbers: Numbers, is_eager: Callable[[], bool]) -> Iterator[None]:
    """Notes every call of a layer, and of an operation of a functional model, that this thread makes.

    All of them, wherever they are kept, go through the one method of their base class: it is wrapped meanwhile.

    Args:
        found: What is seen is added to it.
        numbers: Reads a tensor.
        is_eager: Whether tensors hold numbers now: those of a function that is being compiled do not.
    """
    original, thread, way = keras.Operation.__call__, threading.get_ident(), []

    def call(self: keras.Operation, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != thread or not is_eager():
            return original(self, *args, **kwargs)
        way.append(self.name)
        try:
            outputs = original(self, *args, **kwargs)
            name = f"{'/'.join(way)} ({type(self).__name__})"
            seen = seen_as("layer", name, keras.tree.flatten(outputs), numbers)
            inputs = seen_as("layer", name, keras.tree.flatten((args, kwargs)), numbers)
            found.append(dataclasses.replace(seen, inputs=inputs.value))
            return outputs
        finally:
            way.pop()

    keras.Operation.__call__ = call
    try:
        yield
    finally:
        keras.Operation.__call__ = original


def seen_as(kind: Literal["layer", "loss", "gradient"], name: str, values: Sequence[Any], numbers: Numbers) -> Seen:
    """What the floats among some values are."""
    arrays = [array for array in map(numbers, values) if array is not None]
    for array in arrays:
        wrong = array[~np.isfinite(array)]
        if wrong.size:
            return Seen(kind, name, float(wrong[0]))
    return Seen(kind, name, None, largest=max((float(np.abs(a).max()) for a in arrays if a.size), default=None))
