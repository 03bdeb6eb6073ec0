"""Anything that gives batches, split by split, as a data module."""

from __future__ import annotations

from typing import Any, final

from lightkeras.data.arrays import as_feed, holds_arrays
from lightkeras.data.feed import Feed
from lightkeras.data.module import DataModule
from lightkeras.data.structure import flatten


@final
class Batches(DataModule):
    """Batches that are there: a `tf.data.Dataset` per split, or whatever else `as_feed` takes.

    `source` is `"stream"`.

    Args:
        train: Batches to learn from: a `tf.data.Dataset` of batches, a `keras.utils.PyDataset`, a torch
            `DataLoader`, another iterable that starts anew each epoch, a generator function, or a `Feed`. It
            shuffles its own batches.
        validation: Batches of the same form to watch while learning; `None` if there are none.
        test: Batches of the same form to look at once, at the end; `None` if there are none.

    Raises:
        TypeError: Something else, or arrays, of which `ArrayData` takes batches.
        ValueError: There are no batches or no end of them, or those of a split have another form than those
            of `train`.

    Example:
        >>> import numpy as np
        >>> def batches():
        ...     for _ in range(10):
        ...         yield np.zeros((4, 2), "float32"), np.zeros(4, "int32")
        >>> str(Batches(train=batches).train().spec[0])
        'float32[batch, 2]'
    """

    source = "stream"

    def __init__(self, train: Any, validation: Any = None, test: Any = None) -> None:
        self._train = _feed("train", train)
        self._validation = self._held_out("validation", validation)
        self._test = self._held_out("test", test)

    def train(self) -> Feed:
        return self._train

    def validation(self) -> Feed | None:
        return self._validation

    def test(self) -> Feed | None:
        return self._test

    def _held_out(self, split: str, batches: Any) -> Feed | None:
        if batches is None:
            return None
        feed = _feed(split, batches)
        expected = dict(flatten(self._train.spec))
        for path, spec in flatten(feed.spec):
            # Only what both have: sample weights may be given for one of them alone.
            if path in expected and (spec.dtype, len(spec.shape)) != (expected[path].dtype, len(expected[path].shape)):
                raise ValueError(
                    f"Array {path or '0'} of {split} is {spec}, and that of train is {expected[path]}: expected the "
                    "same dtype and number of axes."
                )
        return feed


def _feed(split: str, batches: Any) -> Feed:
    if holds_arrays(batches):
        raise TypeError(
            f"Received {type(batches).__name__} for {split}, which is read as arrays and holds no batches: give "
            "arrays to `ArrayData`, and a list of batches as a function that returns its iterator."
        )
    return as_feed(batches)
