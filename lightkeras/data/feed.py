"""Feeds: batches with a position.

A feed knows what one batch looks like (`spec`), how many there are (`steps`), and which batches
come next for any `(epoch, step)`. It holds no position itself: the runner does, so that a run is
resumed by saying where to go on. Feeds know no backend: an engine turns them into device arrays.
"""

from __future__ import annotations

import abc
import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, final

import numpy as np

from lightkeras.data.bags import Bags

Structure = Any
"""A batch: an array, or tuples, lists and dicts of arrays."""


@dataclasses.dataclass(frozen=True)
class ArraySpec:
    """What one array of a batch looks like.

    Args:
        shape: Shape without the batch axis; `None` where a size varies.
        dtype: NumPy name of the dtype, or `"string"`.
    """

    shape: tuple[int | None, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.dtype}[batch{''.join(f', {size}' for size in self.shape)}]"


def map_structure(function: Callable[[Any], Any], structure: Structure) -> Structure:
    """Applies `function` to every leaf of tuples, lists and dicts, keeping their form."""
    if isinstance(structure, Mapping):
        return {key: map_structure(function, value) for key, value in structure.items()}
    if isinstance(structure, tuple) and hasattr(structure, "_fields"):
        return type(structure)(*(map_structure(function, value) for value in structure))
    if isinstance(structure, (tuple, list)):
        return type(structure)(map_structure(function, value) for value in structure)
    return function(structure)


def flatten(structure: Structure, prefix: str = "") -> list[tuple[str, Any]]:
    """Leaves of a structure with their paths: `("0", x), ("1/label", y)`. `None` is no leaf."""
    if structure is None:
        return []
    if isinstance(structure, Mapping):
        items: Iterable[tuple[Any, Any]] = structure.items()
    elif isinstance(structure, (tuple, list)):
        items = enumerate(structure)
    else:
        return [(prefix, structure)]
    return [leaf for key, value in items for leaf in flatten(value, f"{prefix}/{key}" if prefix else str(key))]


def as_arrays(structure: Structure) -> Structure:
    """Turns whatever NumPy can read into NumPy arrays: tensors, lists of numbers, lists of texts.

    Args:
        structure: Arrays, tensors of any backend, lists of plain values (nested ones too, if their
            rows are equally long), or tuples, lists and dicts of these.

    Returns:
        The same tuples, lists and dicts of NumPy arrays, each with at least one axis. Text is an
        object array of `bytes` or `str`.

    Raises:
        ValueError: A scalar or `None` where an array was expected, or rows of different lengths.
        TypeError: An object array that holds something else than text.
    """
    if isinstance(structure, list) and _is_plain(structure):
        return _as_array(structure)
    if isinstance(structure, Mapping):
        return {key: as_arrays(value) for key, value in structure.items()}
    if isinstance(structure, tuple) and hasattr(structure, "_fields"):
        return type(structure)(*(as_arrays(value) for value in structure))
    if isinstance(structure, (tuple, list)):
        return type(structure)(as_arrays(value) for value in structure)
    return _as_array(structure)


def spec_of(array: np.ndarray | Bags) -> Structure:
    """What one array of a batch looks like, whatever the length of its axis 0; of bags, what `Bags.batch` gives."""
    if isinstance(array, Bags):
        return {name: ArraySpec((), column.dtype.name) for name, column in array.take(np.zeros(0, int)).batch().items()}
    return ArraySpec(array.shape[1:], "string" if array.dtype == object else array.dtype.name)


def first_of(leaf: np.ndarray | Bags, count: int) -> np.ndarray | Bags:
    """The first examples of an array or of bags, not copied."""
    return leaf.first(count) if isinstance(leaf, Bags) else leaf[:count]


def digest_of(structure: Structure) -> str:
    """A digest of arrays: of their paths, shapes, dtypes and contents."""
    digest = hashlib.blake2b(digest_size=16)
    leaves = [(path, part) for path, leaf in flatten(structure) for part in _parts(leaf)]
    for path, array in leaves:
        digest.update(f"{path}:{array.shape}:{array.dtype};".encode())
        if array.dtype == object:
            for text in array.ravel():
                digest.update(text if isinstance(text, bytes) else text.encode())
                digest.update(b"\0")
        else:
            digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()


def check_batching(batch_size: int, seed: int) -> None:
    """Refuses a batch size below 1 and a seed below 0 with a ValueError."""
    if not _is_whole(batch_size) or batch_size < 1:
        raise ValueError(f"batch_size={batch_size!r}: expected a whole number of at least 1.")
    if not _is_whole(seed) or seed < 0:
        raise ValueError(f"seed={seed!r}: expected a whole number of at least 0.")


class Feed(abc.ABC):
    """Batches with a position. See `ArrayFeed`, `StreamFeed`."""

    @property
    @abc.abstractmethod
    def spec(self) -> Structure:
        """Structure of `ArraySpec`, one for each array of a batch."""

    @property
    @abc.abstractmethod
    def steps(self) -> int | None:
        """Batches in one epoch; `None` if that shows only at the end of the first."""

    @property
    @abc.abstractmethod
    def examples(self) -> int | None:
        """Examples in one epoch; `None` if not known."""

    @property
    @abc.abstractmethod
    def batch_size(self) -> int | None:
        """Examples in every batch but the last; `None` if it varies or is not known."""

    @abc.abstractmethod
    def fingerprint(self) -> str | None:
        """A digest of the content, to notice that data changed; `None` where it cannot be had cheaply."""


@final
class ArrayFeed(Feed):
    """Examples held in memory.

    The order of an epoch is a pure function of the seeds and the epoch, so any position can be taken up
    again exactly. The last, smaller batch is part of the epoch.

    Args:
        arrays: Array or `Bags`, or tuples, lists and dicts of these; axis 0 counts examples and is equally
            long everywhere. Text is an array of `bytes` or `str`, dtype object; float64 becomes
            float32, as in Keras.
        batch_size: Examples per batch.
        shuffle: Whether each epoch has an order of its own.
        seed: Seed of those orders.
        raw: The feed that these examples were made of by an encoder, one by one; `None` if they were not. Data is
            known by it: its fingerprint is this feed's.

    Attributes:
        encoded: What encoders made of this feed, by their fingerprints.

    Raises:
        ValueError: No examples, lengths that differ, a batch size below one, or a seed below zero.
        TypeError: An object array that holds something else than text.
    """

    def __init__(
        self,
        arrays: Structure,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        raw: ArrayFeed | None = None,
    ) -> None:
        check_batching(batch_size, seed)
        self.raw = raw
        self.encoded: dict[str, ArrayFeed] = {}
        self.arrays = as_arrays(arrays)
        leaves = flatten(self.arrays)
        if not leaves:
            raise ValueError("There are no arrays to take batches from: expected at least one.")
        lengths = {path: len(array) for path, array in leaves}
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"array {path or '0'} has {length}" for path, length in lengths.items())
            raise ValueError(f"Arrays differ in their number of examples: {found}. Axis 0 must agree.")
        self._examples = next(iter(lengths.values()))
        if self._examples == 0:
            raise ValueError("The arrays are empty: expected at least one example on axis 0.")
        self._batch_size = int(batch_size)
        self.shuffle = shuffle
        self.seed = seed
        self._order: tuple[tuple[int, int], np.ndarray] | None = None

    @property
    def spec(self) -> Structure:
        return map_structure(spec_of, self.arrays)

    @property
    def holds_bags(self) -> bool:
        """Whether an array of it is `Bags`, whose batches differ in their number of entries."""
        return any(isinstance(leaf, Bags) for _, leaf in flatten(self.arrays))

    @property
    def steps(self) -> int:
        return -(-self._examples // self._batch_size)

    @property
    def examples(self) -> int:
        return self._examples

    @property
    def batch_size(self) -> int:
        return self._batch_size

    def order(self, epoch: int, run_seed: int = 0) -> np.ndarray:
        """Order of the examples in one epoch: int32 `[examples]`, a function of the seeds and the epoch."""
        key = (run_seed, epoch) if self.shuffle else (0, 0)
        if self._order is None or self._order[0] != key:
            if self.shuffle:
                order = np.random.default_rng([self.seed, *key]).permutation(self._examples)
            else:
                order = np.arange(self._examples)
            self._order = (key, order.astype(np.int32))
        return self._order[1]

    def indices(self, epoch: int, step: int, count: int, run_seed: int = 0) -> np.ndarray:
        """The next batches as example numbers.

        Args:
            epoch: Epoch, from 0.
            step: First batch, from 0, inside the epoch.
            count: Batches wanted.
            run_seed: Seed of the run, which tells its orders from those of other runs.

        Returns:
            int32 `[n, batch]` with `1 <= n <= count`. The smaller last batch of an epoch comes in a
            block of its own, and so does whatever precedes it.

        Raises:
            IndexError: `step` is outside the epoch, or `count` below one.
        """
        if not 0 <= step < self.steps or count < 1:
            raise IndexError(
                f"Asked for {count} batches from step {step}: expected at least 1 batch, from a step of "
                f"0 to {self.steps - 1}."
            )
        start, size = step * self._batch_size, self._batch_size
        whole = min(count, (self._examples - start) // size)
        if whole > 0:
            return self.order(epoch, run_seed)[start : start + whole * size].reshape(whole, size)
        return self.order(epoch, run_seed)[start:].reshape(1, -1)

    def fingerprint(self) -> str:
        return digest_of(self.arrays) if self.raw is None else self.raw.fingerprint()


@final
class StreamFeed(Feed):
    """Batches from something that is read from its start each epoch: files, a generator, `tf.data`.

    Args:
        open_epoch: Called with the epoch (from 0); returns an iterator over batches. An object that
            an engine can read faster itself (a `tf.data.Dataset`) is given as `dataset` as well.
        spec: Structure of `ArraySpec` of a batch.
        steps: Batches per epoch; `None` if that shows only at the end.
        batch_size: Examples per batch; `None` if it varies or is not known.
        dataset: A `tf.data.Dataset` of the same batches, or `None`.
        origin: What the batches come from, to notice that it was given twice; `None` if not known.
        raw: The feed that these batches were made of by an encoder; `None` if they were not.
    """

    def __init__(
        self,
        open_epoch: Callable[[int], Iterator[Structure]],
        spec: Structure,
        *,
        steps: int | None = None,
        batch_size: int | None = None,
        dataset: Any = None,
        origin: Any = None,
        raw: StreamFeed | None = None,
    ) -> None:
        if steps is not None and steps < 1:
            raise ValueError(f"steps={steps}: the feed is empty; expected at least one batch.")
        self.open_epoch = open_epoch
        self.dataset = dataset
        self.origin = origin
        self.raw = raw
        self._spec = spec
        self._steps = steps
        self._batch_size = batch_size

    @property
    def spec(self) -> Structure:
        return self._spec

    @property
    def steps(self) -> int | None:
        return self._steps

    @property
    def examples(self) -> int | None:
        return None

    @property
    def batch_size(self) -> int | None:
        return self._batch_size

    def fingerprint(self) -> None:
        return None


def raw_of(feed: Feed) -> Feed:
    """The feed as it was before an encoder."""
    if isinstance(feed, (ArrayFeed, StreamFeed)) and feed.raw is not None:
        return feed.raw
    return feed


def _parts(leaf: np.ndarray | Bags) -> list[np.ndarray]:
    return [leaf.ids, leaf.weights, leaf.splits] if isinstance(leaf, Bags) else [leaf]


def _is_whole(number: Any) -> bool:
    return isinstance(number, (int, np.integer)) and not isinstance(number, bool)


def _is_plain(value: Any) -> bool:
    """Whether this is a number, a text, or a list of nothing else: one array, not a structure of arrays."""
    if isinstance(value, list):
        return bool(value) and all(map(_is_plain, value))
    return isinstance(value, (int, float, complex, str, bytes, np.generic))


def _holds_text(value: Any) -> bool:
    return any(map(_holds_text, value)) if isinstance(value, list) else isinstance(value, (str, bytes))


def _as_array(value: Any) -> np.ndarray | Bags:
    if isinstance(value, Bags):
        return value
    if value is None:
        raise ValueError("Received None where an array was expected: leave it out, `(x,)` and not `(x, None)`.")
    try:
        # Without dtype=object NumPy would pad each text of a list to the longest, and cut trailing zeros.
        array = np.array(value, dtype=object) if _holds_text(value) else np.asarray(value)
    except ValueError as error:
        raise ValueError(f"This is no array: {error} Pad rows of different lengths to one length.") from error
    if array.ndim == 0:
        raise ValueError(f"Received the scalar {value!r}: expected an array with one row per example.")
    if array.dtype == np.float64:
        return array.astype(np.float32)  # as Keras does
    if array.dtype.kind in "UST":  # str, bytes, and NumPy's variable-width StringDType
        return array.astype(object)
    if array.dtype == object and not all(isinstance(item, (bytes, str)) for item in array.ravel()):
        wrong = next(type(item).__name__ for item in array.ravel() if not isinstance(item, (bytes, str)))
        raise TypeError(
            f"An array of dtype object holds {wrong}; expected text (bytes or str) or a numeric dtype. "
            "Rows of different lengths must be padded to one length first."
        )
    return array


Batches = Feed | Sequence[Any] | Mapping[str, Any] | np.ndarray | Iterable[Any]
"""What `as_feed` accepts."""
