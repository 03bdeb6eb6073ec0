"""Data in memory as a data module, and `as_feed`, which converts arrays and sources of batches to feeds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, final, runtime_checkable

from lightkeras.data import streams
from lightkeras.data.conversion import readable
from lightkeras.data.feed import ArrayFeed, Batches, Feed, check_batching
from lightkeras.data.lookup import Lookup
from lightkeras.data.module import DataModule
from lightkeras.data.structure import Structure, as_arrays, flatten


@final
class ArrayData(DataModule):
    """Arrays in memory: `(x, y)`, `(x, y, sample_weight)`, or any tuples, lists and dicts of arrays.

    Args:
        train: Arrays to train on; axis 0 counts examples. Anything NumPy can read, text too.
        validation: Arrays of the same structure to validate on after each epoch; `None` for no such split.
        test: Arrays of the same structure to test on once, at the end; `None` for no such split.
        batch_size: Examples per batch.
        seed: Seed of the order of the training batches, which changes each epoch.

    Raises:
        ValueError: Arrays that are empty or differ in length, shapes or dtypes that differ from those
            of `train`, a `batch_size` below 1 or a `seed` below 0.
        TypeError: A value that is not arrays.

    Examples:
        >>> import numpy as np
        >>> x, y = np.zeros((100, 3), "float32"), np.zeros(100, "int32")
        >>> data = ArrayData((x[:80], y[:80]), (x[80:], y[80:]), batch_size=32)
        >>> data.train().steps, data.validation().steps, data.test()
        (3, 1, None)
    """

    def __init__(
        self,
        train: Structure,
        validation: Structure | None = None,
        test: Structure | None = None,
        *,
        batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        self._train = _array_feed("train", train, batch_size, shuffle=True, seed=seed)
        self._validation = self._held_out("validation", validation, batch_size)
        self._test = self._held_out("test", test, batch_size)

    def prepare(self, lookup: Lookup) -> None:
        self.source = "arrays"

    def train(self) -> ArrayFeed:
        return self._train

    def validation(self) -> ArrayFeed | None:
        return self._validation

    def test(self) -> ArrayFeed | None:
        return self._test

    def _held_out(self, split: str, arrays: Structure | None, batch_size: int) -> ArrayFeed | None:
        if arrays is None:
            return None
        feed = _array_feed(split, arrays, batch_size)
        expected = dict(flatten(self._train.spec))
        for path, spec in flatten(feed.spec):
            # Only arrays that both have: sample weights may be given for one of them alone.
            if path in expected and spec != expected[path]:
                raise ValueError(
                    f"Array {path or '0'} of {split} is {spec}, and that of train is {expected[path]}: "
                    "expected the same shape, except for the number of examples, and the same dtype."
                )
        return feed


def as_feed(data: Batches, batch_size: int = 32, *, shuffle: bool = False, seed: int = 0) -> Feed:
    """Converts arrays, or a source of batches, to a feed.

    Args:
        data: One of
            - a `Feed`, which is returned unchanged;
            - arrays, tensors or lists of numbers or texts, or tuples, lists and dicts of them;
            - a `tf.data.Dataset` of batches;
            - a `keras.utils.PyDataset`;
            - a torch `DataLoader`, or any other iterable of batches that starts anew each epoch;
            - a function that returns an iterator over batches (a generator function), without arguments or
              with the `epoch`, from 0.
        batch_size: Examples per batch, for arrays; other sources make their own batches.
        shuffle: Whether each epoch has an order of its own; for arrays only.
        seed: Seed of those orders.

    Returns:
        An `ArrayFeed` for arrays, a `StreamFeed` for the others. A list at the top, `[x, y]`, becomes
        a tuple.

    Raises:
        TypeError: `data` is not one of these, or an iterator that can be read only once.
        ValueError: There are no batches, they differ in structure, or `shuffle` was given for something that is
            not arrays.

    Examples:
        >>> feed = as_feed(([[1.0], [2.0], [3.0]], [0, 1, 1]), batch_size=2)
        >>> [str(spec) for spec in feed.spec], feed.steps
        (['float32[batch, 1]', 'int64[batch]'], 2)
    """
    check_batching(batch_size, seed)
    if holds_arrays(data):
        return _array_feed("the data", data, batch_size, shuffle=shuffle, seed=seed)
    if shuffle:
        raise ValueError(
            f"shuffle=True, but {type(data).__name__} is not an array: expected arrays. Let it shuffle its own batches."
        )
    return _stream(data)


def as_feed_once(data: Batches, batch_size: int = 32) -> Feed:
    """As `as_feed`, also for what can be read only once, such as a generator object."""
    if isinstance(data, Iterator):
        return streams.from_iterator(data, type(data).__name__)
    return as_feed(data, batch_size)


def train_of(data: DataModule, batch_size: int = 32) -> Feed:
    """The feed of the train split of a data module, which may return anything that `as_feed` accepts.

    Args:
        data: The data module.
        batch_size: Examples per batch, for arrays, which are shuffled.

    Raises:
        ValueError: There is no train split.
    """
    found = data.train()
    if found is None:
        raise ValueError(f"{type(data).__name__}.train() returned None: expected batches to train on.")
    return as_feed(found, batch_size, shuffle=holds_arrays(found))


def _stream(data: Any) -> Feed:
    if isinstance(data, Feed):
        return data
    if streams.is_tf_dataset(data):
        return streams.from_tf_dataset(data)
    if streams.is_py_dataset(data):
        return streams.from_py_dataset(data)
    if isinstance(data, Iterable) and not isinstance(data, (str, bytes)):
        readable(data)  # raises what to do with a sparse or ragged array
        return streams.from_iterable(data, type(data).__name__)
    if callable(data) and not isinstance(data, type):
        return streams.from_iterable(data, getattr(data, "__name__", type(data).__name__))
    readable(data)  # raises what to do with a sparse or ragged array
    raise TypeError(
        f"Received {type(data).__name__}: expected arrays, a tf.data.Dataset, a "
        "keras.utils.PyDataset, a torch DataLoader, another iterable of batches, or a function that returns "
        "one. Make batches of a data set of single examples with a DataLoader first."
    )


@runtime_checkable
class _ArrayLike(Protocol):
    """What NumPy can read: arrays, and tensors of every backend."""

    def __array__(self) -> Any: ...


def holds_arrays(data: Any) -> bool:
    """Whether `as_feed` converts this to an `ArrayFeed`."""
    return isinstance(data, (Mapping, tuple, list, _ArrayLike))


def is_one_array(data: Any) -> bool:
    """Whether this is a single array or tensor, and not a structure of several."""
    return isinstance(data, _ArrayLike)


def _array_feed(name: str, data: Any, batch_size: int, *, shuffle: bool = False, seed: int = 0) -> ArrayFeed:
    if not holds_arrays(data):
        raise TypeError(
            f"Received {type(data).__name__} for {name}: expected arrays in memory, such as `(x, y)`. "
            "Give other sources of batches to `as_feed`, or write a DataModule."
        )
    arrays = as_arrays(data)
    arrays = tuple(arrays) if isinstance(arrays, list) else arrays
    return ArrayFeed(arrays, batch_size, shuffle=shuffle, seed=seed)
