"""Encoders: the frozen part of a task, computed once per example and not in every step.

    inputs ── encoder ──► features ── model ──► outputs

A step receives features in place of the inputs. The encoder needs no gradient, no memory of the accelerator, and
may run on another backend than the model. The exported model takes the inputs again.

An encoder may learn something first, such as a vocabulary, from the train split alone, before the model is built.
Its state is saved in the run directory, so that test, prediction and resume do not need the train split. (If
`build_encoder` called `fit` itself, every prediction would read the train split, and a fit with data of its own would
learn from the wrong one.)
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lightkeras.data.feed import ArrayFeed, Feed, StreamFeed
from lightkeras.data.stream_reader import StreamReader
from lightkeras.data.structure import Structure

if TYPE_CHECKING:
    import keras


class JoinError(ValueError):
    """An encoder and a model cannot be joined to one model."""


class Encoder(abc.ABC):
    """The frozen part of a task: what `Task.build_encoder` returns.

    It takes the inputs of a batch: the first element of a tuple, else the whole batch. Steps receive its features in
    place of the inputs.

    Examples:
        ```python
        import lightkeras as lk

        import keras
        import numpy as np


        class Angles(lk.Encoder):
            @property
            def fingerprint(self):
                return "angles 1"

            def encode(self, inputs):
                x, y = inputs.T
                return np.stack([np.hypot(x, y), np.arctan2(y, x)], axis=1)

            def inputs(self):
                return keras.Input((2,))

            def join(self, model):
                x, y = keras.ops.split(points := keras.Input((2,)), 2, axis=1)
                polar = keras.ops.concatenate([keras.ops.sqrt(x**2 + y**2), keras.ops.arctan2(y, x)], axis=1)
                return keras.Model(points, model(polar))


        class OnAngles(lk.testing.TwoMoons):
            def build_encoder(self):
                return Angles()


        print(lk.Runner(max_epochs=2).fit(OnAngles()).best)
        ```
    """

    encodes: bool = True
    """Whether the features differ from the inputs; if not, nothing is computed before training."""

    block: int = 256
    """Examples per call of `encode`; results do not depend on it."""

    parallel: bool = False
    """Whether several threads call `encode` at once."""

    fills_missing: bool = False
    """Whether NaN in the inputs is a missing value that it fills, and not a mistake in the data."""

    @property
    def is_fitted(self) -> bool:
        """Whether `fit` is not needed (any more); True for an encoder that learns nothing."""
        return True

    def fit(self, batches: Iterable[Structure]) -> None:  # noqa: B027, most learn nothing
        """Learns from the train split; called once, before `encode`, if `is_fitted` is False.

        Args:
            batches: All examples of the split, each once, in batches of raw inputs.

        Raises:
            ValueError: Nothing can be learned from them.
            TypeError: They have another structure or dtype.
        """

    def state(self) -> dict[str, np.ndarray]:
        """The learned state, as arrays of numbers or booleans by name."""
        return {}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:  # noqa: B027, most learn nothing
        """Loads the state of an encoder with the same settings, in place of `fit`.

        Args:
            state: Return value of `state()`.

        Raises:
            ValueError: It belongs to another encoder.
        """

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str:
        """A digest of everything besides the inputs that the features depend on: equal digests, equal features.

        It includes the learned state, and is read only after `fit` or `restore`.
        """

    @abc.abstractmethod
    def encode(self, inputs: Structure) -> Structure:
        """Computes the features of some examples. Those of an example must not depend on the others.

        Args:
            inputs: NumPy arrays as in a batch, with examples on axis 0; text is an object array of `bytes` or `str`.

        Returns:
            NumPy arrays or `Bags`, in the structure of `inputs()`, with the same number of examples.

        Raises:
            ValueError: These inputs cannot be encoded.
            TypeError: They have another structure or dtype.
        """

    @abc.abstractmethod
    def inputs(self) -> Structure:
        """New `keras.Input`s for the features, for `build_model`; for `Bags` a dict with the names of `Bags.batch`."""

    @abc.abstractmethod
    def join(self, model: keras.Model) -> keras.Model:
        """Joins the encoder and a model of its features to one model of the raw inputs.

        Args:
            model: The model of the features; the joined model shares its weights.

        Raises:
            JoinError: The two cannot be joined.
        """

    def record(self) -> dict[str, Any]:
        """Plain data about the encoder for `config.json`, with the fingerprint."""
        return {"encoder": type(self).__name__, "fingerprint": self.fingerprint}


def inputs_of(batch: Structure) -> Structure:
    """The part of a batch that an encoder takes."""
    return batch[0] if isinstance(batch, tuple) else batch


def with_inputs(batch: Structure, features: Structure) -> Structure:
    """A batch with features in place of its inputs."""
    if not isinstance(batch, tuple):
        return features
    parts = (features, *batch[1:])
    return type(batch)(*parts) if hasattr(batch, "_fields") else parts


def batches_of(feed: Feed) -> Iterator[Structure]:
    """All examples of a split, for `Encoder.fit`; those in memory as one batch."""
    if isinstance(feed, ArrayFeed):
        yield feed.arrays
    elif isinstance(feed, StreamFeed):
        if feed.endless:
            raise ValueError(
                "An encoder that learns reads the whole train split, and this one is endless: give a source with an "
                "end, such as `dataset.take(n)`."
            )
        with contextlib.closing(StreamReader(feed, 0)) as reader:
            yield from reader.batches()
    else:
        raise TypeError(f"Expected an ArrayFeed or a StreamFeed, got {type(feed).__name__}.")


def join_models(raw: Structure, features: Structure, model: keras.Model, source: str) -> keras.Model:
    """Joins what computes features from `keras.Input`s and a model of them to one model, which shares its weights.

    A JoinError if the model is subclassed, or does not take these features; `source` names what computes them.
    """
    import keras

    # A new model of the same layers, without what training may have attached to this one, such as an optimizer.
    rest = keras.Model(*model_ends(model), name=f"{model.name}_of_{source}")
    try:
        return keras.Model(raw, rest(features), name=model.name)
    except ValueError as error:
        raise JoinError(f"{model.name!r} does not take the features of {source!r}: {error}") from error


def model_ends(model: keras.Model) -> tuple[Structure, Structure]:
    """Inputs and outputs of a model, in their structures; a JoinError if it is subclassed."""
    import keras

    if not isinstance(getattr(model, "inputs", None), list):
        raise JoinError(f"{type(model).__name__} {model.name!r} is neither functional nor sequential.")
    if isinstance(model, keras.Sequential):  # it has no `output` before it is called
        return model.inputs[0], model.outputs[0]
    return model.input, model.output
