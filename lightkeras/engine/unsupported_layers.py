"""Layers that a backend cannot run: which one failed while a step was traced, and whether TensorFlow alone has it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import keras

_ON_TENSORFLOW = (
    keras.layers.HashedCrossing,
    keras.layers.Hashing,
    keras.layers.IntegerLookup,
    keras.layers.StringLookup,
    keras.layers.TextVectorization,
    keras.layers.TFSMLayer,
)
"""Layers of Keras that compute with TensorFlow whatever the backend is."""


class TextInputError(ValueError):
    """A batch that holds text, on a backend without tensors of text.

    Args:
        path: Path of the array in the batch.
        backend: The backend's name, as in a sentence.
    """

    def __init__(self, path: str, backend: str) -> None:
        super().__init__(
            f"Array {path or '0'} of a batch is text, which {backend} cannot compute with: expected numbers. Name the "
            "frozen part of the task that reads it in `build_encoder`, so that its outputs are computed in the input "
            "pipeline; or set KERAS_BACKEND=tensorflow."
        )


@dataclasses.dataclass
class Failure:
    """Where a call failed: empty until one did.

    Args:
        name: The way to the layer from the outermost one, and its class; `None` if no layer was called.
        layer: The innermost layer, or operation of a functional model.
    """

    name: str | None = None
    layer: keras.Operation | None = None

    @property
    def needs_tensorflow(self) -> bool:
        """Whether the layer computes with TensorFlow, and Keras runs on another backend."""
        return keras.backend.backend() != "tensorflow" and isinstance(self.layer, _ON_TENSORFLOW)


@contextlib.contextmanager
def failure_noted() -> Iterator[Failure]:
    """Inside, the innermost layer that raised an error is noted; of several errors the last one's."""
    original, way, noted = keras.Operation.__call__, [], Failure()
    calls = at = 0  # how many calls were begun: in all, and when the error was noted

    def call(self: keras.Operation, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls, at
        calls += 1
        way.append(self.name)
        try:
            return original(self, *args, **kwargs)
        except Exception:
            # Keras raises errors of inner layers anew, so that they cannot be told by what they are: but between an
            # inner layer's and its outer one's no call begins.
            if calls != at:
                at, noted.name, noted.layer = calls, f"{'/'.join(way)} ({type(self).__name__})", self
            raise
        finally:
            way.pop()

    keras.Operation.__call__ = call
    try:
        yield noted
    finally:
        keras.Operation.__call__ = original


def text_readers(layers: Iterable[keras.Layer]) -> list[keras.Layer]:
    """The layers that are known to take text, by their place in a functional model or by their kind, each once."""
    found: dict[int, keras.Layer] = {}
    for layer in layers:
        inside = [] if _reads_text(layer) else text_readers(layer._flatten_layers(include_self=False, recursive=False))
        found.update({id(reader): reader for reader in inside or [layer] if _reads_text(reader)})
    return list(found.values())


def _reads_text(layer: keras.Layer) -> bool:
    if isinstance(layer, (keras.layers.InputLayer, keras.Model)):
        return False
    if isinstance(layer, (keras.layers.TextVectorization, keras.layers.StringLookup)):
        return True
    nodes = layer._inbound_nodes  # what is public raises for a layer that was never called on a `keras.Input`
    return any(tensor.dtype == "string" for node in nodes for tensor in node.input_tensors)
