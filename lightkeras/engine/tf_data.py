"""Streams over `tf.data`, which every engine reads."""

from __future__ import annotations

import contextlib
import functools
import tempfile
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, final

import numpy as np
import safetensors.numpy
import tensorflow as tf

from lightkeras.data.feed import Feed, StreamFeed
from lightkeras.data.structure import Structure, flatten, map_structure
from lightkeras.engine.base import Stream

AUTO = tf.data.AUTOTUNE

Ahead = tuple[tuple[Callable[[Any], Structure], int], ...]
"""Functions that are computed in the input pipeline, and the positions of their inputs in a batch."""

_ITERATOR = "iterator"  # name of a saved iterator's files


class IteratorStream(Stream):
    """An iterator over a `tf.data.Dataset`.

    Args:
        dataset: The dataset of batches, or of pairs of a batch's arrays and what was computed ahead.
        structure: Form of a batch in the second case, else `None`.
        ahead: What was computed ahead.
        reread: See `Stream`.
    """

    def __init__(
        self, dataset: tf.data.Dataset, structure: Structure = None, ahead: Ahead = (), reread: int = 0
    ) -> None:
        super().__init__(reread)
        self.iterator = iter(dataset)
        self.structure, self.ahead = structure, ahead

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Inside, what went wrong in the source of the batches is raised as it was there."""
        yield

    def next_batch(self) -> Structure | None:
        with self.reading():
            element = next(self.iterator, None)
        if element is None:
            return None
        if self.structure is not None:
            leaves = iter(element[0])
            element = map_structure(lambda _: next(leaves), self.structure)
        return map_structure(lambda tensor: tensor.numpy(), element)

    def shapes(self) -> list[list[int | None]] | None:
        spec = self.iterator.element_spec
        return [leaf.shape.as_list() for _, leaf in flatten(spec if self.structure is None else spec[0])]


@final
class DatasetStream(IteratorStream):
    """A `tf.data.Dataset` that was given: its iterator can be saved, if all its parts can."""

    def state(self) -> bytes | None:
        with tempfile.TemporaryDirectory() as folder:
            try:
                tf.train.Checkpoint(iterator=self.iterator).write(f"{folder}/{_ITERATOR}")
            except tf.errors.FailedPreconditionError:  # a part of it, such as a Python function, has a state of its own
                return None
            found = {path.name: np.fromfile(path, np.uint8) for path in Path(folder).iterdir()}
        return safetensors.numpy.save(found)

    def restore(self, state: bytes) -> None:
        """Brings the iterator to where `state` was called."""
        with tempfile.TemporaryDirectory() as folder:
            for name, content in safetensors.numpy.load(state).items():
                content.tofile(Path(folder) / Path(name).name)
            tf.train.Checkpoint(iterator=self.iterator).read(f"{folder}/{_ITERATOR}").assert_consumed()


@final
class Datasets:
    """Opens `tf.data.Dataset`s at a position, for any engine."""

    def __init__(self) -> None:
        self._following: weakref.WeakKeyDictionary[Feed, bytes] = weakref.WeakKeyDictionary()
        self._drawn: weakref.WeakKeyDictionary[Feed, int] = weakref.WeakKeyDictionary()  # the epoch begun last

    def skip_epochs(self, feed: Feed, count: int) -> None:
        """See `Engine.skip_epochs`."""
        self._drawn.pop(feed, None)  # what was opened before, to be tried, was no epoch of the run
        if isinstance(feed, StreamFeed) and feed.dataset is not None:
            for _ in range(count):
                iter(feed.dataset)

    def open(self, feed: StreamFeed, epoch: int, step: int, state: bytes | None, ahead: Ahead = ()) -> DatasetStream:
        """See `Engine.open`."""
        restores = state is not None
        dataset = feed.dataset if restores or not step else feed.dataset.skip(step)
        structure = feed.spec if ahead else None
        stream = DatasetStream(staged(dataset, feed, ahead), structure, ahead, 0 if restores else step)
        if state is not None:
            # Restoring an iterator also sets the generator of the orders to come, and not always right: near the
            # end of an epoch one order is lost. So the beginning of the next epoch is kept from before.
            if feed not in self._following:  # the first one: later ones begin where that may have led
                drawn = self._drawn.get(feed) == epoch  # in a step back inside an epoch; not in a resume
                next_epoch = stream if drawn else DatasetStream(staged(feed.dataset, feed, ahead), structure, ahead)
                if (kept := next_epoch.state()) is not None:
                    self._following[feed] = kept
            stream.restore(state)
        elif not step:
            self._drawn[feed] = epoch
            if (following := self._following.pop(feed, None)) is not None:
                stream.restore(following)
        return stream


def staged(dataset: tf.data.Dataset, feed: StreamFeed, ahead: Ahead) -> tf.data.Dataset:
    """The batches of a stream, with what is computed ahead, made while steps run."""
    if ahead:
        stage = functools.partial(computed_ahead, ahead=ahead)
        dataset = dataset.map(lambda *batch: stage(batch if isinstance(feed.spec, tuple) else batch[0]), AUTO)
    return dataset.prefetch(AUTO)


def computed_ahead(batch: Structure, ahead: Ahead) -> Structure:
    """The arrays of a batch, and what each function makes of the array at its position."""
    leaves = tuple(leaf for _, leaf in flatten(batch))
    return leaves, tuple(function(leaves[position]) for function, position in ahead)
