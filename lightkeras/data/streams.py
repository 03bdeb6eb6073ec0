"""Streams as feeds: `tf.data`, `keras.utils.PyDataset`, a torch `DataLoader`, a generator function."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from typing import Any

import numpy as np

from lightkeras.data import data_loader
from lightkeras.data.batch_workers import Workers
from lightkeras.data.feed import StreamFeed
from lightkeras.data.structure import ArraySpec, Structure, as_arrays, flatten, map_structure, owned, spec_of
from lightkeras.system import random_states


def is_tf_dataset(data: Any) -> bool:
    """Whether this is a `tf.data.Dataset`, without importing TensorFlow: before the import none exists."""
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and isinstance(data, tensorflow.data.Dataset)


def is_py_dataset(data: Any) -> bool:
    """Whether this is a `keras.utils.PyDataset`, without importing Keras."""
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(data, keras.utils.PyDataset)


def from_tf_dataset(dataset: Any) -> StreamFeed:
    """Converts a batched `tf.data.Dataset` to a feed.

    Args:
        dataset: Each element is a batch: all its tensors are dense and have the batch as axis 0.

    Returns:
        A feed whose spec is the dataset's `element_spec` without the batch axis.

    Raises:
        ValueError: The dataset is empty, not batched, or holds ragged or sparse tensors.
    """
    tf = sys.modules["tensorflow"]
    cardinality = int(dataset.cardinality())
    if cardinality == 0:
        raise ValueError("The tf.data.Dataset is empty: expected at least one batch.")
    sizes: set[int] = set()
    for path, leaf in flatten(dataset.element_spec):
        _check_tensor(leaf, path or "0", tf)
        if leaf.shape[0] is not None:
            sizes.add(int(leaf.shape[0]))
    if len(sizes) > 1:
        raise ValueError(
            f"The tensors of the tf.data.Dataset differ in axis 0, {sorted(sizes)}: expected the batch "
            "there. Call `.batch(n)` on a dataset of single examples."
        )

    def open_epoch(epoch: int) -> Iterator[Structure]:
        return map(as_batch, dataset.as_numpy_iterator())

    return StreamFeed(
        open_epoch,
        map_structure(lambda leaf: ArraySpec(tuple(leaf.shape[1:]), leaf.dtype.name), _top(dataset.element_spec)),
        steps=cardinality if cardinality > 0 else None,
        batch_size=sizes.pop() if sizes else None,
        dataset=dataset,
        origin=dataset,
        endless=cardinality == tf.data.INFINITE_CARDINALITY,
        continues=cardinality == tf.data.UNKNOWN_CARDINALITY,
    )


def from_py_dataset(dataset: Any) -> StreamFeed:
    """Converts a `keras.utils.PyDataset` to a feed, whose batches its workers make, see `batch_workers`.

    Its `on_epoch_begin` and `on_epoch_end` are called around each pass (see `Feed.begin_pass`), by a resumed run also
    for the epochs before: a dataset that shuffles there with its own seed then has the same order.

    Args:
        dataset: Returns whole batches by index. A `num_batches` of `None` means that it is endless.

    Raises:
        ValueError: The dataset has no length, or is empty, or its number of workers is out of range.
    """
    try:
        steps = dataset.num_batches
    except NotImplementedError:
        raise ValueError(
            f"{type(dataset).__name__} has no length: define its `__len__`, the batches of an epoch, or let "
            "`num_batches` return None if it is endless."
        ) from None
    if steps is not None and steps < 1:
        raise ValueError(f"{type(dataset).__name__} is empty: its length is {steps}; expected at least 1 batch.")
    before = random_states.read()
    first = as_batch(dataset[0])
    workers = Workers(dataset, as_batch, draws=random_states.read() != before)

    def open_epoch(epoch: int) -> Iterator[Structure]:
        # The epochs of an endless dataset continue one another, so the epoch of its opening means nothing.
        return workers.open(itertools.count(), 0) if steps is None else workers.open(iter(range(steps)), epoch)

    checked = _alike(open_epoch, first, type(dataset).__name__)
    spec = map_structure(spec_of, first)
    feed = StreamFeed(checked, spec, steps=steps, origin=dataset, hooks=dataset, endless=steps is None)
    feed.note_first(first)
    return feed


def from_iterable(data: Iterable[Any] | Callable[..., Iterable[Any]], name: str) -> StreamFeed:
    """Converts an iterable, or a function that returns one, to a feed.

    The first batch is read at once, for its shapes and dtypes.

    Args:
        data: An iterable of batches that starts anew each time, or a function that returns one, such
            as a generator function. If the function has a parameter `epoch`, it is given the epoch,
            from 0: if their order depends only on that, a run can resume at any batch.
        name: Name of the source, for errors.

    Raises:
        TypeError: `data` is an iterator that can be read only once, or the function returns no iterable.
        ValueError: There are no batches.
    """
    if isinstance(data, Iterator):
        raise TypeError(
            f"{name} can be read only once: expected an iterable that starts again each epoch. {_made_by(data)}"
        )

    takes_epoch = not isinstance(data, Iterable) and "epoch" in inspect.signature(data).parameters

    def open_epoch(epoch: int) -> Iterator[Structure]:
        batches = data if isinstance(data, Iterable) else data(epoch) if takes_epoch else data()
        if not isinstance(batches, Iterable) or isinstance(batches, (str, tuple, dict, np.ndarray)):
            raise TypeError(f"{name} returned {type(batches).__name__}: expected an iterator over batches.")
        return iter(batches)

    first = next((as_batch(batch) for batch in open_epoch(0)), None)
    if first is None:
        raise ValueError(f"{name} returned no batches: expected at least one.")
    checked = _alike(open_epoch, first, name)
    steps = _length(data)
    # A function that is given the epoch returns the batches of that epoch; any other source may be endless.
    continues = steps is None and not takes_epoch
    feed = StreamFeed(checked, map_structure(spec_of, first), steps=steps, origin=data, continues=continues)
    feed.note_first(first)
    if (parts := data_loader.parts_of(data, as_batch)) is not None:
        feed.open_parts = lambda epoch, rows: _alike(lambda epoch: parts(rows), first, name)(epoch)
    return feed


def from_iterator(data: Iterator[Any], name: str) -> StreamFeed:
    """Converts an iterator, such as a generator object, to a feed that can be read once.

    Raises:
        ValueError: There are no batches.
    """
    batches = map(as_batch, data)
    first = next(batches, None)
    if first is None:
        raise ValueError(f"{name} returned no batches: expected at least one.")
    first = owned(first)
    left = [itertools.chain([first], batches)]

    def open_epoch(epoch: int) -> Iterator[Structure]:
        if not left:
            raise ValueError(f"{name} can be read only once: give the function that makes it.")
        return left.pop()

    feed = StreamFeed(_alike(open_epoch, first, name), map_structure(spec_of, first), origin=data)
    feed.note_first(first)
    return feed


def _made_by(data: Iterator[Any]) -> str:
    """What to give in place of an iterator."""
    if inspect.isgenerator(data):
        function = data.gi_code.co_name
        if function.isidentifier():
            return (
                f"Give the function, `{function}` and not `{function}(...)`; for arguments, `lambda: {function}(...)`."
            )
    return "Give a function that makes it, such as `lambda: map(f, batches)`."


def as_batch(batch: Any) -> Structure:
    """Converts a batch to NumPy arrays: text to `bytes`, and `[x, y]` to `(x, y)`."""
    return map_structure(_encoded, _top(as_arrays(batch)))


def _top(structure: Structure) -> Structure:
    # torch's default collate function converts tuples to lists.
    return tuple(structure) if isinstance(structure, list) else structure


def _encoded(array: np.ndarray) -> np.ndarray:
    if array.dtype != object or all(isinstance(text, bytes) for text in array.flat):
        return array
    encoded = np.empty(array.shape, dtype=object)
    encoded.ravel()[:] = [text if isinstance(text, bytes) else text.encode() for text in array.flat]
    return encoded


def _length(data: Any) -> int | None:
    if not isinstance(data, Sized):
        return None
    try:
        return len(data)
    except (
        TypeError,
        NotImplementedError,
    ):  # a DataLoader over an IterableDataset has `__len__`, but no length
        return None


def _alike(
    open_epoch: Callable[[int], Iterator[Any]], first: Structure, name: str
) -> Callable[[int], Iterator[Structure]]:
    """Checks each batch against the first: an engine compiles for the spec of the feed."""
    expected = map_structure(spec_of, first)

    def checked(epoch: int) -> Iterator[Structure]:
        number, source = -1, open_epoch(epoch)
        with contextlib.ExitStack() as stack:
            if isinstance(source, Generator):
                stack.callback(source.close)  # now, and not when the traceback of an error is dropped
            for number, raw in enumerate(source):
                batch = as_batch(raw)
                found = map_structure(spec_of, batch)
                if found != expected:
                    raise ValueError(
                        f"Batch {number} of {name} is {_described(found)}, and the first one was "
                        f"{_described(expected)}: expected the same, except for the length. Pad to one shape, or "
                        "give a tf.data.Dataset whose element_spec leaves a size open."
                    )
                lengths = {len(array) for _, array in flatten(batch)}
                if len(lengths) != 1:
                    raise ValueError(
                        f"Batch {number} of {name} has arrays of {sorted(lengths)} rows: axis 0 must agree."
                    )
                yield batch
        if number < 0:
            raise ValueError(
                f"{name} returned no batches in epoch {epoch}: expected it to start again each epoch. If it is a "
                "function, let it return a new iterator at every call."
            )

    return checked


def _described(spec: Structure) -> str:
    return "(" + ", ".join(f"{path or '0'}: {leaf}" for path, leaf in flatten(spec)) + ")"


def _check_tensor(leaf: Any, path: str, tf: Any) -> None:
    if not isinstance(leaf, tf.TensorSpec):
        raise ValueError(
            f"Tensor {path} of the tf.data.Dataset is {leaf}: expected dense tensors. Make it dense with "
            "`.map(...)`, or leave it out if it is None."
        )
    if leaf.shape.rank is None:
        raise ValueError(
            f"Tensor {path} of the tf.data.Dataset has an unknown number of axes: set it with `tf.ensure_shape`."
        )
    if leaf.shape.rank == 0:
        raise ValueError(
            f"Tensor {path} of the tf.data.Dataset is a scalar, so its elements are single examples: "
            "expected batches. Call `.batch(n)` on it."
        )
