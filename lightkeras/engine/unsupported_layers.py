"""Layers that a backend cannot run: which layer failed in a trace, and whether it needs TensorFlow."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import keras

from lightkeras.engine.replacing import replaced

_ON_TENSORFLOW = (
    keras.layers.HashedCrossing,
    keras.layers.Hashing,
    keras.layers.IntegerLookup,
    keras.layers.StringLookup,
    keras.layers.TextVectorization,
    keras.layers.TFSMLayer,
)
"""Layers of Keras that compute with TensorFlow on every backend."""


class TextInputError(ValueError):
    """Raised for a batch with text on a backend without string tensors."""

    def __init__(self, path: str, backend: str) -> None:
        super().__init__(
            f"Array {path or '0'} of a batch is text, which {backend} cannot compute with: expected numbers. Name the "
            "frozen part of the task that reads it in `build_encoder`, so that its outputs are computed in the input "
            "pipeline; or set KERAS_BACKEND=tensorflow."
        )


@dataclasses.dataclass
class Failure:
    """The layer call that failed; empty if none did.

    Args:
        name: Path to the layer from the outermost layer, and its class; `None` if no layer was called.
        layer: The innermost layer, or operation of a functional model.
        inputs: The first argument of each model that was called, by the model's id: of its last call.
    """

    name: str | None = None
    layer: keras.Operation | None = None
    inputs: dict[int, Any] = dataclasses.field(default_factory=dict)

    @property
    def needs_tensorflow(self) -> bool:
        """Whether the layer needs TensorFlow and Keras runs on another backend."""
        return keras.backend.backend() != "tensorflow" and isinstance(self.layer, _ON_TENSORFLOW)


@contextlib.contextmanager
def record_failure() -> Iterator[Failure]:
    """Context that records the innermost layer that raised an error; of several errors, the last one."""
    original, path, failure = keras.Operation.__call__, [], Failure()
    of_layer = keras.Layer.__call__  # checks the inputs, and then calls `original`
    calls = at = 0  # number of calls begun in total, and until the recorded error

    def call(self: keras.Operation, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls, at
        calls += 1
        path.append(self.name)
        try:
            return original(self, *args, **kwargs)
        except Exception:
            # Keras re-raises errors of inner layers as new exceptions, which cannot be compared. But no call begins
            # between the inner layer's error and the outer layer's.
            if calls != at:
                at, failure.name, failure.layer = calls, f"{'/'.join(path)} ({type(self).__name__})", self
            raise
        finally:
            path.pop()

    def call_layer(self: keras.Layer, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self, keras.Model):
            failure.inputs[id(self)] = args[0] if args else next(iter(kwargs.values()), None)
        return of_layer(self, *args, **kwargs)

    with replaced({(keras.Operation, "__call__"): call, (keras.Layer, "__call__"): call_layer}):
        yield failure


@contextlib.contextmanager
def not_recording() -> Iterator[None]:
    """Context inside `record_failure` in which nothing is recorded, for a compiler that reads how layers are called."""
    with replaced(_CALLS):
        yield


_CALLS = {(owner, "__call__"): owner.__call__ for owner in (keras.Operation, keras.Layer)}


def text_readers(layers: Iterable[keras.Layer]) -> list[keras.Layer]:
    """Returns each layer that takes text, by its class or its inputs in a functional model, once."""
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
    nodes = layer._inbound_nodes  # the public `input` raises for a layer that was never called on a `keras.Input`
    return any(tensor.dtype == "string" for node in nodes for tensor in node.input_tensors)
