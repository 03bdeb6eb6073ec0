"""Encoders: the frozen part of a task, computed once for each example and not in every step.

    inputs ── encoder ──► features ── model ──► outputs

A step then gets features where the inputs were, so that what makes them needs no gradient, no place on the
accelerator, and not even the backend that the model runs on. What is exported takes the inputs again.
"""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Any

from lightkeras.data.feed import Structure

if TYPE_CHECKING:
    import keras


class JoinError(ValueError):
    """An encoder and a model cannot be made one model."""


class Encoder(abc.ABC):
    """The frozen part of a task: what `Task.build_encoder` returns.

    It takes the inputs of a batch: the first element of a tuple, else the whole batch. In the batches that steps
    get, its features are in their place.
    """

    encodes: bool = True
    """Whether the features are something else than the inputs; where not, nothing is computed ahead."""

    block: int = 256
    """Examples that are given to `encode` at a time; results do not depend on it."""

    parallel: bool = False
    """Whether several threads may call `encode` at once, and should."""

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str:
        """A digest of all that the features depend on besides the inputs: equal ones give equal features."""

    @abc.abstractmethod
    def encode(self, inputs: Structure) -> Structure:
        """The features of some examples; those of one example depend on no other.

        Args:
            inputs: NumPy arrays as in a batch, with examples on axis 0; text is an object array of `bytes` or `str`.

        Returns:
            NumPy arrays or `Bags`, in the structure of `inputs()`, with as many examples.

        Raises:
            ValueError: These inputs cannot be encoded.
            TypeError: They are of another form.
        """

    @abc.abstractmethod
    def inputs(self) -> Structure:
        """New `keras.Input`s for the features, for use in `build_model`; of `Bags` those that `Bags.batch` names."""

    @abc.abstractmethod
    def join(self, model: keras.Model) -> keras.Model:
        """A model from inputs to outputs, of the encoder and a model that takes its features.

        Args:
            model: The model, with the weights that the joined one is to have.

        Raises:
            JoinError: It cannot be joined.
        """

    def record(self) -> dict[str, Any]:
        """What `config.json` says of it: plain data, with the fingerprint."""
        return {"encoder": type(self).__name__, "fingerprint": self.fingerprint}


def inputs_of(batch: Structure) -> Structure:
    """What an encoder takes of a batch."""
    return batch[0] if isinstance(batch, tuple) else batch


def with_inputs(batch: Structure, features: Structure) -> Structure:
    """A batch with something else in place of its inputs."""
    if not isinstance(batch, tuple):
        return features
    parts = (features, *batch[1:])
    return type(batch)(*parts) if hasattr(batch, "_fields") else parts
