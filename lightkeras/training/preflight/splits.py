"""Checks of the splits: sizes, labels, numbers that are not finite, examples shared by two splits."""

from __future__ import annotations

import warnings

import numpy as np

from lightkeras.data.bags import Bags
from lightkeras.data.feed import ArrayFeed, Feed, StreamFeed, raw_feed
from lightkeras.data.structure import ArraySpec, bytes_of, flatten
from lightkeras.encoders.base import inputs_of
from lightkeras.task import Task

BLOCK_BYTES = 1 << 24
"""Size of the blocks in which an array is processed, to limit memory."""

TRAIN_BYTES = 10**9
"""Bytes of the train split that are compared with validation: a sample of a larger split."""

SAMPLED = 1000
"""Number of validation examples that are searched for in train."""

LEAST_SHARED = 10
"""Number of shared examples from which on there is a warning, if they are also 1 % of the sample."""


class NotFiniteDataError(ValueError):
    """An array of a split holds a NaN or an infinity.

    Attributes:
        example: Number of the first example that does; `None` for bags.
    """

    example: int | None = None


def check_feed(task: Task, feed: Feed, split: str, limit: int | None = None) -> None:
    """Checks that a split has an end, and calls `Task.check_data` with its arrays.

    Args:
        task: The task.
        feed: The split.
        split: `"train"`, `"validation"` or `"test"`, of a set with a name `"validation/<name>"`.
        limit: Maximum number of batches that are read of it; `None` for no limit.

    Raises:
        ValueError: The split is endless and has no limit, or the task rejects the arrays.
    """
    feed = raw_feed(feed)
    if isinstance(feed, ArrayFeed):
        task.check_data(feed.arrays, split)
    elif isinstance(feed, StreamFeed) and feed.endless and limit is None:
        where = "each epoch continues where the last one ended" if split == "train" else "each starts anew"
        raise ValueError(
            f"The {split} split is endless: expected an end, or a number of batches. Give the number to the runner, "
            f"Runner(limit_batches=lk.LimitBatches({split.partition('/')[0]}=1000)): {where}."
        )


def check_finite(feed: Feed, split: str, fills_missing: bool = False) -> None:
    """Checks that all numbers of a split in memory are finite. A stream is not read.

    Args:
        feed: The split.
        split: Its name.
        fills_missing: Whether an encoder fills missing values, so that they are looked for after it alone.

    Raises:
        NotFiniteDataError: An array contains NaN or infinity; the message gives their number and the first position.
    """
    if not isinstance(feed, ArrayFeed):
        return
    if feed.raw is not None:
        if not fills_missing:
            check_finite(feed.raw, split)
        split = f"{split}, after its encoder,"
    for path, leaf in flatten(feed.arrays):
        array = leaf.weights if isinstance(leaf, Bags) else leaf
        if array.dtype.kind not in "fc" and array.dtype.name != "bfloat16":
            continue
        broken = [(start, block) for start, block in _blocks(array) if not _is_finite(block)]
        if broken:
            start, block = broken[0]
            count = sum(int(np.count_nonzero(~np.isfinite(found))) for _, found in broken)
            first = tuple(np.argwhere(~np.isfinite(block))[0])
            error = NotFiniteDataError(
                f"Array {path or '0'} of {split} holds {count:,} of {array.size:,} numbers that are not finite, the "
                f"first in example {start + int(first[0])}: {block[first]}. Replace them, or remove their examples."
            )
            error.example = None if isinstance(leaf, Bags) else start + int(first[0])
            raise error


def _is_finite(block: np.ndarray) -> bool:
    if block.dtype in (np.float32, np.float64):
        with np.errstate(all="ignore"):
            # At the speed of the memory, and without an array of booleans: a NaN or an infinity remains in a sum.
            if np.isfinite(block.sum()):
                return True
    return bool(np.isfinite(block).all())


def warn_of_other_inputs(train: Feed, validation: Feed, split: str = "validation") -> None:
    """Warns of validation inputs whose kind of number differs from train, such as 0 to 255 instead of 0.0 to 1.0."""
    expected = dict(flatten(inputs_of(raw_feed(train).spec)))
    for path, spec in flatten(inputs_of(raw_feed(validation).spec)):
        other = expected.get(path, spec)
        if _kind(spec) != _kind(other):
            warnings.warn(
                f"Input {path or '0'} of {split} is {spec}, but {other} in train: "
                "one of them may lack a preprocessing step.",
                UserWarning,
                stacklevel=2,
            )


def warn_of_shared_examples(train: Feed, validation: Feed, split: str = "validation") -> None:
    """Warns of a validation split that is the train split, or shares examples with it.

    The warning starts at 1 % and ten examples because real data sets have a few duplicates: 0.4 % of IMDB's reviews.
    """
    train, validation = raw_feed(train), raw_feed(validation)
    if isinstance(train, StreamFeed) and isinstance(validation, StreamFeed):
        if train is validation or (train.origin is not None and train.origin is validation.origin):
            warnings.warn(
                f"Train and {split} are the same stream: validation would not show whether the model generalizes. "
                "Hold examples back for it.",
                UserWarning,
                stacklevel=2,
            )
        return
    if not isinstance(train, ArrayFeed) or not isinstance(validation, ArrayFeed):
        return
    shared, sampled = shared_examples(train, validation)
    if shared >= max(LEAST_SHARED, sampled / 100):
        warnings.warn(
            f"{shared:,} of {sampled:,} examples sampled from {split} are in train too: validation would not show "
            "whether the model generalizes. Hold other examples back for it, unless equal inputs are normal here.",
            UserWarning,
            stacklevel=2,
        )


def shared_examples(train: ArrayFeed, validation: ArrayFeed) -> tuple[int, int]:
    """Counts the examples of validation whose inputs are also in train.

    Inputs are the first element of a tuple batch, else the whole batch. Rows are compared by a hash first, and then
    byte by byte. The sample is the same each time.

    Args:
        train: The train split; a sample of more than a gigabyte is searched.
        validation: The validation split; a sample of more than a thousand examples is searched for.

    Returns:
        The number of shared examples, and of those searched for; both 0 if the shapes or dtypes of the inputs differ,
        or if an input is a single number, which many examples have in common.
    """
    known, sought = dict(flatten(inputs_of(train.arrays))), dict(flatten(inputs_of(validation.arrays)))
    if {path: _form(array) for path, array in known.items()} != {path: _form(array) for path, array in sought.items()}:
        return 0, 0
    if _single_numbers(list(known.values())):
        return 0, 0
    rng = np.random.default_rng(0)
    sample = _sample(rng, validation.examples, SAMPLED)
    row_bytes = max(1, sum(array.nbytes for array in known.values()) // train.examples)
    searched = _sample(rng, train.examples, max(1, TRAIN_BYTES // row_bytes))
    mixed = int(rng.integers(1 << 62)) * 2 + 1
    wanted = _hashes(list(sought.values()), sample, mixed)
    candidates = searched[np.isin(_hashes(list(known.values()), searched, mixed), wanted)]
    rows = {_row(list(known.values()), number) for number in candidates.tolist()}
    return sum(_row(list(sought.values()), number) in rows for number in sample.tolist()), len(sample)


def _kind(spec: ArraySpec) -> str:
    """The kind of number regardless of its size: `float` for `float32`, `int` for `uint8`."""
    name = spec.dtype.rstrip("0123456789")
    return {"uint": "int", "bfloat": "float"}.get(name, name)


def _single_numbers(inputs: list[np.ndarray]) -> bool:
    """Whether the input of an example is a single number, such as the weight of a car."""
    return len(inputs) == 1 and inputs[0].dtype != object and inputs[0][:1].size == 1


def _form(array: np.ndarray) -> tuple[tuple[int, ...], str]:
    return array.shape[1:], str(array.dtype)


def _blocks(array: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Views of consecutive rows, each with the index of its first row."""
    rows = max(1, BLOCK_BYTES * len(array) // max(1, array.nbytes))
    return [(start, array[start : start + rows]) for start in range(0, len(array), rows)]


def _sample(rng: np.random.Generator, examples: int, most: int) -> np.ndarray:
    if examples <= most:
        return np.arange(examples)
    return np.sort(rng.choice(examples, most, replace=False))


def _hashes(arrays: list[np.ndarray], rows: np.ndarray, mixed: int) -> np.ndarray:
    """A hash of each of some rows over all arrays, uint64 `[rows]`."""
    total = np.zeros(len(rows), np.uint64)
    for array in arrays:
        hashes = _text_hashes(array[rows], mixed) if array.dtype == object else _number_hashes(array, rows, mixed)
        total = total * np.uint64(mixed) + hashes
    return total


def _text_hashes(array: np.ndarray, mixed: int) -> np.ndarray:
    texts = bytes_of(array.ravel())
    hashes = np.fromiter(map(hash, texts), np.int64, len(texts)).view(np.uint64).reshape(len(array), -1)
    return np.asarray(hashes @ _factors(hashes.shape[1], mixed))


def _number_hashes(array: np.ndarray, rows: np.ndarray, mixed: int) -> np.ndarray:
    """Multilinear hashes over words of eight bytes, modulo 2**64."""
    width = array.nbytes // len(array)
    if width == 0:
        return np.zeros(len(rows), np.uint64)
    words, step = -(-width // 8), max(1, BLOCK_BYTES // width)
    factors = _factors(words, mixed)
    found = []
    for start in range(0, len(rows), step):
        block = array[rows[start : start + step]]
        padded = np.zeros((len(block), words * 8), np.uint8)
        padded[:, :width] = block.reshape(len(block), -1).view(np.uint8)
        values = padded.view(np.uint64)
        values ^= values >> np.uint64(29)  # differences in the top bits only, such as signs, would cancel out
        found.append(values @ factors)
    return np.concatenate(found)


def _factors(words: int, mixed: int) -> np.ndarray:
    """Odd factors of words, uint64 `[words]`."""
    return np.random.default_rng(mixed).integers(1 << 63, size=words, dtype=np.uint64) * np.uint64(2) + np.uint64(1)


def _row(arrays: list[np.ndarray], number: int) -> tuple[bytes, ...]:
    rows = [array[number] for array in arrays]
    return tuple(
        part
        for row in rows
        for part in (map(_as_bytes, np.ravel(row).tolist()) if _is_text(row) else (np.asarray(row).tobytes(),))
    )


def _is_text(row: object) -> bool:
    return isinstance(row, (str, bytes)) or (isinstance(row, np.ndarray) and row.dtype == object)


def _as_bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()
