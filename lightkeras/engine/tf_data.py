"""Streams over `tf.data`, which every engine reads."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import tempfile
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, final

import numpy as np
import safetensors
import safetensors.numpy
import tensorflow as tf

from lightkeras.data.feed import Feed, StreamFeed
from lightkeras.data.stream_reader import StreamReader
from lightkeras.data.structure import Structure, flatten, map_structure
from lightkeras.engine.stream import Stream
from lightkeras.system.variables import CheckpointError

AUTO = tf.data.AUTOTUNE

Precomputed = tuple[tuple[Callable[[Any], Structure], int], ...]
"""Functions that run in the input pipeline, and the position of each one's input in a batch."""

_ITERATOR = "iterator"  # name of a saved iterator's files
_FILE = re.compile(r"iterator\.(index|data-\d{5}-of-\d{5})")


class IteratorStream(Stream):
    """An iterator over a `tf.data.Dataset`.

    Args:
        dataset: Batches, or pairs of a batch's arrays and the precomputed values.
        structure: Structure of a batch in the second case, else `None`.
        precomputed: Functions of the precomputed values.
        reread: See `Stream`.
        reader: See `Stream`.
    """

    def __init__(
        self,
        dataset: tf.data.Dataset,
        structure: Structure = None,
        precomputed: Precomputed = (),
        reread: int = 0,
        reader: StreamReader | None = None,
    ) -> None:
        super().__init__(reread, reader)
        self.iterator: Any = iter(dataset)
        self.structure, self.precomputed = structure, precomputed

    @contextlib.contextmanager
    def source_errors(self) -> Iterator[None]:
        """Context that raises errors of the batch source unchanged."""
        yield

    def next_batch(self) -> Structure | None:
        with self.source_errors():
            element = next(self.iterator, None)
        if element is None:
            return None
        if self.structure is not None:
            leaves = iter(element[0])
            element = map_structure(lambda _: next(leaves), self.structure)
        return map_structure(lambda tensor: tensor.numpy(), element)

    def close(self) -> None:
        super().close()
        self.iterator = iter(())  # the last reference to the old one, which ends its threads

    def shapes(self) -> list[list[int | None]] | None:
        spec = self.iterator.element_spec
        return [leaf.shape.as_list() for _, leaf in flatten(spec if self.structure is None else spec[0])]


@final
class DatasetStream(IteratorStream):
    """A `tf.data.Dataset` of the user. Its iterator can be saved if all its parts can."""

    def state(self) -> bytes | None:
        with tempfile.TemporaryDirectory() as folder:
            try:
                tf.train.Checkpoint(iterator=self.iterator).write(f"{folder}/{_ITERATOR}")
            except tf.errors.FailedPreconditionError:  # a part, such as a Python function, has its own state
                return None
            found = {path.name: np.fromfile(path, np.uint8) for path in Path(folder).iterdir()}
        return safetensors.numpy.save(found)

    def restore(self, state: bytes) -> None:
        """Moves the iterator to the position where `state` was called."""
        try:
            with tempfile.TemporaryDirectory() as folder:
                for name, content in safetensors.numpy.load(state).items():
                    if not _FILE.fullmatch(name):
                        raise ValueError(f"{name!r} is not a file of an iterator")
                    content.tofile(Path(folder) / name)
                tf.train.Checkpoint(iterator=self.iterator).read(f"{folder}/{_ITERATOR}").assert_consumed()
        except (safetensors.SafetensorError, tf.errors.OpError, ValueError, AssertionError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise CheckpointError(
                f"The saved position of the tf.data.Dataset cannot be restored: {reason}. Give the dataset that the "
                "run was started with, or resume from another checkpoint."
            ) from error


@final
class Datasets:
    """Opens `tf.data.Dataset`s at a position, for any engine."""

    def __init__(self) -> None:
        self._following: weakref.WeakKeyDictionary[Feed, bytes] = weakref.WeakKeyDictionary()
        self._drawn: weakref.WeakKeyDictionary[Feed, int] = weakref.WeakKeyDictionary()  # the last epoch opened

    def skip_epochs(self, feed: Feed, count: int) -> None:
        """See `Engine.skip_epochs`."""
        self._drawn.pop(feed, None)  # openings of the preflight are not epochs of the run
        if isinstance(feed, StreamFeed) and feed.dataset is not None:
            for _ in range(count):
                iter(feed.dataset)

    def open(
        self, feed: StreamFeed, epoch: int, step: int, state: bytes | None, precomputed: Precomputed = ()
    ) -> DatasetStream:
        """See `Engine.open`."""
        restores = state is not None
        dataset = feed.dataset if restores or not step else feed.dataset.skip(step)
        structure = feed.spec if precomputed else None
        stream = DatasetStream(staged(dataset, feed, precomputed), structure, precomputed, 0 if restores else step)
        if state is not None:
            # Restoring an iterator also sets the generator of all later orders, near the end of an epoch wrongly:
            # one order is lost, and later epochs differ. So the start of the next epoch is saved before.
            if feed not in self._following:  # a later restore could save a wrong start
                drawn = self._drawn.get(feed) == epoch  # True in a rollback inside an epoch, False in a resume
                next_epoch = (
                    stream if drawn else DatasetStream(staged(feed.dataset, feed, precomputed), structure, precomputed)
                )
                if (kept := next_epoch.state()) is not None:
                    self._following[feed] = kept
            stream.restore(state)
        elif not step:
            self._drawn[feed] = epoch
            if (following := self._following.pop(feed, None)) is not None:
                stream.restore(following)
        return stream


def staged(dataset: tf.data.Dataset, feed: StreamFeed, precomputed: Precomputed, ahead: int = AUTO) -> tf.data.Dataset:
    """Adds the precomputed values to the batches of a stream, and prefetches `ahead` of them."""
    if precomputed:
        stage = functools.partial(with_precomputed, precomputed=precomputed)
        dataset = dataset.map(lambda *batch: stage(batch if isinstance(feed.spec, tuple) else batch[0]), AUTO)
    return dataset.prefetch(ahead)


def on_all_cores(dataset: tf.data.Dataset, function: Callable[..., Structure]) -> tf.data.Dataset:
    """Maps a function over a dataset ahead of its use.

    It is not tuned, because an iterator would wait for the tuning at its end. Its graph is not optimized, which would
    take as long as a few steps each time that it is opened.
    """
    cores = os.cpu_count() or 1
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    return dataset.map(function, cores).prefetch(cores).with_options(options)


def with_precomputed(batch: Structure, precomputed: Precomputed) -> Structure:
    """Returns the arrays of a batch and the output of each function for the array at its position."""
    leaves = tuple(leaf for _, leaf in flatten(batch))
    return leaves, tuple(function(leaves[position]) for function, position in precomputed)
