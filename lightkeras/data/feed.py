"""Feeds: batches with a position.

A feed knows the shapes and dtypes of a batch (`spec`), the number of batches (`steps`), and which batches
come next for any `(epoch, step)`. It holds no position itself: the runner does, so that a run is
resumed by giving the position. Feeds know no backend: an engine converts them to device arrays.
"""

from __future__ import annotations

import abc
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, final

import numpy as np

from lightkeras.data.bags import Bags
from lightkeras.data.structure import Structure, as_arrays, digest_of, flatten, map_structure, spec_of
from lightkeras.system.messages import check_whole

Rows = Callable[[int], slice]
"""Returns the rows of the next batch that are read, given its size; called once for each batch, in order."""

LARGE_BYTES = 1 << 28
"""Bytes of arrays above which what takes long or doubles the memory is not done before the first step."""


def check_batching(batch_size: int, seed: int) -> None:
    """Refuses a batch size below 1 and a seed below 0 with a ValueError."""
    check_whole("", "batch_size", batch_size, 1, numpy=True)
    check_whole("", "seed", seed, 0, numpy=True)


def all_rows(size: int) -> slice:
    """See `Rows`."""
    return slice(0, size)


class Feed(abc.ABC):
    """Batches with a position. See `ArrayFeed`, `StreamFeed`.

    Example: `lk.data.as_feed`.
    """

    @property
    @abc.abstractmethod
    def spec(self) -> Structure:
        """Structure of `ArraySpec`, one for each array of a batch."""

    @property
    @abc.abstractmethod
    def steps(self) -> int | None:
        """Batches in one epoch; `None` if that is known only at the end of the first."""

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
        """A digest of the content, to detect that data changed; `None` if it would take reading all of it."""

    def begin_pass(self) -> None:  # noqa: B027, only sources with hooks have something to do
        """Calls the source's own `on_epoch_begin`, if it has one, before its first batch is read."""

    def end_pass(self, completed: bool = True) -> None:  # noqa: B027
        """Calls the source's own `on_epoch_end`, if it has one, after its last batch was used.

        Args:
            completed: Whether the pass came to its end; if not, the hook is not called.
        """


@final
class ArrayFeed(Feed):
    """Examples held in memory.

    The order of an epoch is a pure function of the seeds and the epoch, so that a run can resume at any
    position exactly. The last, smaller batch is part of the epoch.

    Args:
        arrays: Array or `Bags`, or tuples, lists and dicts of these; axis 0 counts examples and is equally
            long everywhere. Text is an array of `bytes` or `str`, dtype object; float64 becomes
            float32, as in Keras.
        batch_size: Examples per batch.
        shuffle: Whether each epoch has an order of its own.
        seed: Seed of those orders.
        raw: The feed that an encoder computed these examples from, one by one; `None` if there was no encoder. Its
            fingerprint is this feed's, because it identifies the data.

    Attributes:
        encoded: Feeds that encoders computed from this one, by the fingerprints of the encoders.

    Raises:
        ValueError: No examples, lengths that differ, a batch size below one, or a seed below zero.
        TypeError: An object array that holds anything but text.

    Examples:
        >>> feed = ArrayFeed((np.zeros((10, 3), "float32"), np.arange(10)), batch_size=4, shuffle=True, seed=7)
        >>> feed.steps, sorted(feed.order(epoch=0).tolist()) == list(range(10))
        (3, True)
        >>> feed.order(0).tolist() == feed.order(0).tolist() != feed.order(1).tolist()
        True
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
            raise ValueError("Received no arrays: expected at least one.")
        lengths = {path: len(array) for path, array in leaves}
        if len(set(lengths.values())) > 1:
            some = [f"array {path or '0'} has {length}" for path, length in lengths.items()]
            found = ", ".join([*some[:4], "...", some[-1]] if len(some) > 6 else some)
            raise ValueError(
                f"Arrays differ in their number of examples: {found}. Axis 0 must agree.{_stack_advice(self.arrays)}"
            )
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
        """Whether one of the arrays is `Bags`, whose batches differ in their number of entries."""
        return any(isinstance(leaf, Bags) for _, leaf in flatten(self.arrays))

    @property
    def is_large(self) -> bool:
        """Whether the numbers that its fingerprint is computed from take more than `LARGE_BYTES`."""
        if self.raw is not None:
            return self.raw.is_large
        arrays = [leaf for _, leaf in flatten(self.arrays) if isinstance(leaf, np.ndarray) and leaf.dtype != object]
        return sum(array.nbytes for array in arrays) > LARGE_BYTES

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
            run_seed: Seed of the run, so that runs with other seeds have other orders.

        Returns:
            int32 `[n, batch]` with `1 <= n <= count`. The smaller last batch of an epoch is returned in a
            block of its own.

        Raises:
            IndexError: `step` is outside the epoch, or `count` below one.
        """
        if not 0 <= step < self.steps or count < 1:
            raise IndexError(
                f"Received count={count}, step={step}: expected at least 1 batch, from a step of 0 to {self.steps - 1}."
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
    """Batches of a source that is read from its start each epoch: files, a generator, `tf.data`.

    Args:
        open_epoch: Called with the epoch (from 0); returns an iterator over batches. An object that
            an engine can read faster itself (a `tf.data.Dataset`) is given as `dataset` as well.
        spec: Structure of `ArraySpec` of a batch.
        steps: Batches per epoch; `None` if that is known only at the end.
        batch_size: Examples per batch; `None` if it varies or is not known.
        dataset: A `tf.data.Dataset` of the same batches, or `None`.
        origin: The object that gives the batches, to detect that two splits share it; `None` if not known.
        raw: The feed that an encoder computed these batches from; `None` if there was no encoder.
        endless: Whether it is known to have no end, so that an epoch needs a limit.
        continues: Whether train epochs that a limit ends continue one another, as those of Keras's
            `fit(steps_per_epoch=...)` do; for a source whose length is not known. If not, each epoch starts anew.
        hooks: An object with `on_epoch_begin` and `on_epoch_end`, called before and after each pass; `None` for none.

    Attributes:
        open_parts: Called with the epoch and `Rows`; as `open_epoch`, but reads only these rows of the examples: the
            others hold anything. `None` if the source cannot do that.
        first_spec: The spec of the first batch, without open sizes; `None` if it was not read yet.
        first_size: Examples in the first batch; `None` if it was not read yet.

    Examples:
        >>> from lightkeras.data import ArraySpec
        >>> def open_epoch(epoch):
        ...     return iter(np.full((4, 2), epoch, "float32") for _ in range(3))
        >>> feed = StreamFeed(open_epoch, ArraySpec((2,), "float32"), steps=3, batch_size=4)
        >>> feed.steps, next(feed.open_epoch(1))[0].tolist()
        (3, [1.0, 1.0])
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
        endless: bool = False,
        continues: bool = False,
        hooks: Any = None,
    ) -> None:
        if steps is not None and steps < 1:
            raise ValueError(f"steps={steps}: the feed is empty; expected at least one batch.")
        self.open_epoch = open_epoch
        self.dataset = dataset
        self.origin = origin
        self.raw = raw
        self.endless = endless
        self.continues = continues or endless
        self.hooks = hooks
        self.open_parts: Callable[[int, Rows], Iterator[Structure]] | None = None
        self.first_spec: Structure | None = None
        self.first_size: int | None = None if raw is None else raw.first_size
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

    def note_first(self, batch: Structure) -> None:
        """Notes the shapes of the first batch, with which steps are traced where a backend needs sizes."""
        self.first_spec, self.first_size = map_structure(spec_of, batch), len(flatten(batch)[0][1])

    def of_rows(self, rows: Rows) -> StreamFeed:
        """The same batches, of which some rows are read; this feed if its source reads whole batches.

        The first batch of each epoch is read whole: its digest identifies the stream.
        """
        open_parts = self.open_parts
        if open_parts is None:
            return self

        def open_epoch(epoch: int) -> Iterator[Structure]:
            numbers = itertools.count()
            return open_parts(epoch, lambda size: (rows if next(numbers) else all_rows)(size))

        options = {"steps": self.steps, "batch_size": self.batch_size, "origin": self.origin, "hooks": self.hooks}
        return StreamFeed(open_epoch, self.spec, raw=self, endless=self.endless, continues=self.continues, **options)

    def begin_pass(self) -> None:
        if self.hooks is None:
            return
        # A pass inside another one, such as a validation on the train split, must not move the data under it.
        nested = any(feed.hooks is self.hooks for feed in _in_pass)
        _in_pass.append(self)
        if not nested:
            self.hooks.on_epoch_begin()

    def end_pass(self, completed: bool = True) -> None:
        if self in _in_pass:
            _in_pass.remove(self)
            if completed and not any(feed.hooks is self.hooks for feed in _in_pass):
                self.hooks.on_epoch_end()


_in_pass: list[StreamFeed] = []
"""Feeds with hooks whose pass has begun and not ended, the outermost first."""


def _stack_advice(arrays: Structure) -> str:
    """What to do about a list of arrays, one for each example, among the parts of a batch; empty if there is none."""
    for part in arrays if isinstance(arrays, (tuple, list)) else ():
        if isinstance(part, (tuple, list)) and len(part) > 1 and all(isinstance(leaf, np.ndarray) for leaf in part):
            alike = len({leaf.shape for leaf in part}) == 1
            advice = "make it one array with" if alike else "pad them to one shape and make them one array with"
            return f" A list of {len(part)} arrays is read as {len(part)} inputs: {advice} `np.stack`."
    return ""


def raw_feed(feed: Feed) -> Feed:
    """Returns the feed before an encoder."""
    if isinstance(feed, (ArrayFeed, StreamFeed)) and feed.raw is not None:
        return feed.raw
    return feed


Batches = Feed | Sequence[Any] | Mapping[str, Any] | np.ndarray | Iterable[Any]
"""What `as_feed` accepts."""
