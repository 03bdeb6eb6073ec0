"""Encoders: the frozen part of a task, computed once for each example and not in every step.

    inputs ── encoder ──► features ── model ──► outputs

A step then gets features where the inputs were, so that what makes them needs no gradient, no place on the
accelerator, and not even the backend that the model runs on. What is exported takes the inputs again.

An encoder may learn something first, such as a vocabulary: from the train split alone, before the model is built.
What it learned is kept in the run directory, so that no split has to be there to test, to predict or to go on.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lightkeras.data.feed import ArrayFeed, Feed, StreamFeed
from lightkeras.data.structure import Structure

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
    def is_fitted(self) -> bool:
        """Whether it has learned what it needs: where it learns nothing, it has."""
        return True

    def fit(self, batches: Iterable[Structure]) -> None:  # noqa: B027, most learn nothing
        """Learns from the train split, once; called where `is_fitted` is False, before anything else.

        Args:
            batches: All examples of the split, in batches as they are before an encoder; each is given once.

        Raises:
            ValueError: There is nothing to be learned from them.
            TypeError: They are of another form.
        """

    def state(self) -> dict[str, np.ndarray]:
        """What was learned, as arrays of numbers or booleans by name."""
        return {}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:  # noqa: B027, most learn nothing
        """Takes what an encoder of the same settings has learned, instead of `fit`.

        Args:
            state: What `state()` gave.

        Raises:
            ValueError: It is of another encoder.
        """

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str:
        """A digest of all that the features depend on besides the inputs: equal ones give equal features.

        What was learned is part of it. It is asked for once that is there.
        """

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


def batches_of(feed: Feed) -> Iterator[Structure]:
    """All examples of a split, for `Encoder.fit`: in one batch where they are in memory."""
    if isinstance(feed, ArrayFeed):
        yield feed.arrays
    elif isinstance(feed, StreamFeed):
        yield from feed.open_epoch(0)
    else:
        raise TypeError(f"Expected an ArrayFeed or a StreamFeed, got {type(feed).__name__}.")
