"""Holding out a part of arrays: by fraction or by count, optionally the same share of each class."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from lightkeras.data.bags import Bags
from lightkeras.data.structure import Structure, as_arrays, flatten, map_structure
from lightkeras.system.messages import check_whole


def split(
    arrays: Structure,
    validation: float = 0.1,
    *,
    stratify: np.ndarray | None = None,
    shuffle: bool = True,
    seed: int = 0,
) -> tuple[Structure, Structure]:
    """Splits arrays in two: a part to train on, and a part that is held out.

    Args:
        arrays: Arrays, `Bags`, or tuples, lists and dicts of them, as `ArrayData` reads them (float64 becomes
            float32); axis 0 counts examples.
        validation: Size of the held-out part. A float is a fraction between 0 and 1, of which the count is rounded
            half up; an int is the count itself. Neither part may be empty.
        stratify: Integer or text labels `[examples]`: the same share of each class is held out, rounded so that the
            shares add up to the count (largest remainders first; of equal ones the class that sorts first). `None`
            ignores classes.
        shuffle: Whether the held-out examples are drawn at random; `False` holds out the last ones (with
            `stratify`, the last ones of each class). Both parts keep the given order.
        seed: Seed of that draw.

    Returns:
        The rest and the held-out part, each in the structure of `arrays`.

    Raises:
        ValueError: Lengths that differ, a part that would be empty, a class that would be held out whole, or
            a `seed` below 0.
        TypeError: `validation` is not a number.

    Examples:
        >>> import numpy as np
        >>> x, y = np.arange(10), np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 1])
        >>> (x_train, y_train), (x_val, y_val) = split((x, y), 0.5, stratify=y, shuffle=False)
        >>> x_train.tolist(), x_val.tolist()
        ([0, 1, 2, 6, 7], [3, 4, 5, 8, 9])
    """
    check_whole("", "seed", seed, 0, numpy=True)
    arrays = as_arrays(arrays)
    total = _examples(arrays)
    count = held_out(total, validation)
    order = np.random.default_rng(seed).permutation(total) if shuffle else np.arange(total)
    chosen = np.zeros(total, bool)
    if stratify is None:
        chosen[order[total - count :]] = True
    else:
        chosen[_last_of_each_class(order, check_labels(stratify, total), count)] = True
    return part_of(arrays, ~chosen), part_of(arrays, chosen)


def check_validation(validation: float) -> None:
    """Raises a ValueError unless `validation` is a fraction or a count of at least 1, a TypeError if not a number."""
    if isinstance(validation, bool) or not isinstance(validation, (int, float, np.integer, np.floating)):
        raise TypeError(
            f"validation={validation!r}: expected a fraction between 0 and 1, such as 0.1, or a whole number of "
            "examples."
        )
    is_count = isinstance(validation, (int, np.integer))
    if not (validation >= 1 if is_count else 0 < validation < 1):
        raise ValueError(
            f"validation={validation!r}: expected a fraction between 0 and 1, such as 0.1, or a whole number of "
            "examples of at least 1."
        )


def held_out(total: int, validation: float) -> int:
    """Returns how many of `total` examples are held out, at least 1 and less than all.

    Args:
        total: Number of all examples.
        validation: As in `split`.

    Raises:
        ValueError: One of the two parts would be empty.
        TypeError: `validation` is not a number.

    Examples:
        >>> held_out(60_000, 0.1), held_out(25, 0.1), held_out(25, 10)
        (6000, 3, 10)
    """
    check_validation(validation)
    if isinstance(validation, (int, np.integer)):
        count = int(validation)
    else:
        # Exact arithmetic on the decimal digits: 0.35 of 10 is 3.5, though the float 0.35 is a little less.
        count = int(Fraction(repr(float(validation))) * total + Fraction(1, 2))
    if not 0 < count < total:
        raise ValueError(
            f"validation={validation!r} of {total} examples holds out {count}: expected at least 1, and at least 1 "
            "left to train on."
        )
    return count


def _examples(arrays: Structure) -> int:
    lengths = {path or "0": len(leaf) for path, leaf in flatten(arrays)}
    if not lengths:
        raise ValueError("Received no arrays: expected at least one to split.")
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"array {path} has {length}" for path, length in lengths.items())
        raise ValueError(f"Arrays differ in their number of examples: {found}. Axis 0 must agree.")
    return next(iter(lengths.values()))


def check_labels(stratify: np.ndarray, total: int) -> np.ndarray:
    """Returns the labels to stratify by; a ValueError unless they are one class for each of `total` examples."""
    labels = np.asarray(stratify)
    if labels.shape != (total,):
        raise ValueError(
            f"stratify has shape {labels.shape}: expected one label for each of the {total} examples, ({total},)."
        )
    if labels.dtype.kind == "f":
        raise ValueError(
            f"stratify holds {labels.dtype} numbers: expected classes, as whole numbers or texts. Group the "
            "numbers into classes, for example with numpy.digitize."
        )
    return labels


def _last_of_each_class(order: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    classes, number, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    shares, remainders = np.divmod(sizes * count, len(labels))
    # A stable sort: of equal remainders the class that sorts first.
    shares[np.argsort(-remainders, kind="stable")[: count - shares.sum()]] += 1
    whole = np.flatnonzero(shares == sizes)
    if whole.size:
        raise ValueError(
            f"Class {classes[whole[0]]} has {sizes[whole[0]]} of {len(labels)} examples, all of which would be "
            f"held out with {count} of them, so that none is left to train on. Hold out fewer, or leave stratify out."
        )
    of_class = number[order]
    return np.concatenate([order[of_class == each][sizes[each] - shares[each] :] for each in range(len(classes))])


def part_of(arrays: Structure, chosen: np.ndarray) -> Structure:
    """Returns the examples for which `chosen`, a bool array `[examples]`, is true."""
    indices = np.flatnonzero(chosen)

    def take(leaf: np.ndarray | Bags) -> np.ndarray | Bags:
        return leaf.take(indices) if isinstance(leaf, Bags) else leaf[indices]

    return map_structure(take, arrays)
