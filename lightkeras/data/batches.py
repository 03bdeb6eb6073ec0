"""Sources of batches, one per split, as a data module."""

from __future__ import annotations

from typing import Any, final

from lightkeras.data.arrays import as_feed, holds_arrays
from lightkeras.data.feed import Feed
from lightkeras.data.module import DataModule
from lightkeras.data.structure import flatten


@final
class Batches(DataModule):
    """Ready batches: a `tf.data.Dataset` per split, or another source that `as_feed` accepts.

    `source` is `"stream"`.

    Args:
        train: Batches to train on: a `tf.data.Dataset` of batches, a `keras.utils.PyDataset`, a torch
            `DataLoader`, another iterable that starts anew each epoch, a generator function, or a `Feed`. It
            shuffles its own batches.
        validation: Batches of the same structure to validate on after each epoch; `None` for no such split.
        test: Batches of the same structure to test on once, at the end; `None` for no such split.

    Raises:
        TypeError: Another type, or arrays, which are for `ArrayData`.
        ValueError: There are no batches, or those of a split differ from those of `train` in dtype or number of axes.

    Examples:
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
            # Only arrays that both have: sample weights may be given for one of them alone.
            if path in expected and (spec.dtype, len(spec.shape)) != (expected[path].dtype, len(expected[path].shape)):
                raise ValueError(
                    f"Array {path or '0'} of {split} is {spec}, and that of train is {expected[path]}: expected the "
                    "same dtype and number of axes."
                )
        return feed


def _feed(split: str, batches: Any) -> Feed:
    if holds_arrays(batches):
        raise TypeError(
            f"Received {type(batches).__name__} for {split}, which is read as arrays, not as batches: give arrays to "
            "`ArrayData`, and a list of batches as a function that returns its iterator."
        )
    return as_feed(batches)
