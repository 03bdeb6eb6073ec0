"""Validation and test splits: one, or several sets with names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lightkeras.data.arrays import as_feed, is_one_array, train_of
from lightkeras.data.feed import Feed
from lightkeras.data.module import DataModule
from lightkeras.data.structure import Structure
from lightkeras.system.value_names import SET_NAME

UNNAMED = ""
"""Name of a split's only set, whose values are named after the split alone."""


def named_feeds(
    given: Any, batch_size: int, batch: Structure | None = None, read: Callable[[Any, int], Feed] = as_feed
) -> dict[str, Feed]:
    """The feeds of a split by the names of its sets; of a split without sets by `UNNAMED`.

    Args:
        given: What `as_feed` accepts, a dict of these by name, or `None` for no split.
        batch_size: Examples per batch, for arrays.
        batch: The structure of a train batch: a dict with one of its keys is a batch, and not several sets. `None` if
            it is not known; then a dict that holds an array, a list or a dict is a batch.
        read: Makes a feed of one set.

    Raises:
        ValueError: There is no set, or the name of one is not made of letters, digits and `_ . + -`.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping) or _is_batch(given, batch):
        return {UNNAMED: read(given, batch_size)}
    if not given:
        raise ValueError("Received {} as validation or test sets: expected at least one, such as {'clean': (x, y)}.")
    for name in given:
        if not isinstance(name, str) or not SET_NAME.fullmatch(name):
            raise ValueError(
                f"A validation or test set is named {name!r}: expected letters, digits and _ . + -, as in 'clean'. If "
                "the dict is a batch, those of train must be dicts with the same keys."
            )
    return {name: read(data, batch_size) for name, data in given.items()}


def held_out_of(data: DataModule, split: str, batch_size: int = 32) -> dict[str, Feed]:
    """The feeds of the `"validation"` or `"test"` split of a data module by name, see `named_feeds`."""
    found = data.test() if split == "test" else data.validation()
    batch = train_of(data, batch_size).spec if isinstance(found, Mapping) else None
    return named_feeds(found, batch_size, batch)


def _is_batch(given: Mapping[Any, Any], batch: Structure | None) -> bool:
    if batch is not None:
        return isinstance(batch, Mapping) and not given.keys().isdisjoint(batch)
    return any(is_one_array(value) or isinstance(value, (list, Mapping)) for value in given.values())
