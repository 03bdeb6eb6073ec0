"""Folds of a data module, for cross-validation: all examples but a part to train on, and that part to validate on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np

from lightkeras.data.arrays import train_of
from lightkeras.data.feed import ArrayFeed
from lightkeras.data.held_out import held_out_of
from lightkeras.data.join import join_feeds
from lightkeras.data.lookup import Lookup
from lightkeras.data.module import DataModule
from lightkeras.data.split import check_labels, part_of
from lightkeras.system.messages import check_whole


def fold_numbers(
    total: int, folds: int, *, labels: np.ndarray | None = None, shuffle: bool = True, seed: int = 0
) -> np.ndarray:
    """Returns the fold of each example, from 0: the fold in which it is held out.

    The folds are those of scikit-learn's `KFold`, and with labels of its `StratifiedKFold`.

    Args:
        total: Number of examples.
        folds: Number of folds, at least 2 and at most `total`.
        labels: Integer or text labels `[examples]`: each fold gets the same share of each class. `None` ignores them.
        shuffle: Whether the folds are drawn at random; `False` cuts the examples (of each class) in their order.
        seed: Seed of that draw.

    Returns:
        int64 array `[total]`.

    Raises:
        ValueError: There are more folds than examples, or than examples of a class.

    Examples:
        >>> fold_numbers(5, 2, shuffle=False).tolist()
        [0, 0, 0, 1, 1]
        >>> fold_numbers(6, 2, labels=np.array([0, 0, 0, 0, 1, 1]), shuffle=False).tolist()
        [0, 0, 1, 1, 0, 1]
    """
    from sklearn.model_selection import KFold, StratifiedKFold  # takes a second, and is not needed by other runs

    check_whole("", "folds", folds, 2, numpy=True)
    if folds > total:
        raise ValueError(f"folds={folds} of {total} examples: expected at most one fold for each example.")
    kind = KFold
    if labels is not None:
        kind, labels = StratifiedKFold, check_labels(labels, total)
        classes, sizes = np.unique(labels, return_counts=True)
        if sizes.min() < folds:
            raise ValueError(
                f"Class {classes[sizes.argmin()]} has {sizes.min()} examples, fewer than folds={folds}: a fold would "
                "have none of them. Use fewer folds, or stratified=False."
            )
    numbers = np.empty(total, np.int64)
    cut = kind(int(folds), shuffle=shuffle, random_state=seed if shuffle else None)
    for fold, (_, held_out) in enumerate(cut.split(np.empty(total), labels)):
        numbers[held_out] = fold
    return numbers


@final
class Fold(DataModule):
    """One fold of a data module; its validation split, if there is one, is joined to the train split first.

    It has all public attributes of the module, such as `image_shape`, for a task whose model depends on them.

    Args:
        data: The data module, with its examples in memory.
        number: Number of the fold, from 0.
        folds: Number of folds.
        stratified: Whether each fold has the same share of each class; the labels are the second part of the batches.
        shuffle: Whether the folds are drawn at random.
        seed: Seed of that draw.
    """

    def __init__(
        self, data: DataModule, number: int, folds: int, *, stratified: bool, shuffle: bool, seed: int
    ) -> None:
        self._data, self._number, self._folds = data, number, folds
        self._stratified, self._shuffle, self._seed = stratified, shuffle, seed
        self._parts: tuple[ArrayFeed, ArrayFeed] | None = None

    def prepare(self, lookup: Lookup) -> None:
        """Prepares the data module, and takes the fold out of it.

        Raises:
            TypeError: The module streams its batches.
            ValueError: There are too few examples, no labels to stratify by, or several validation sets.
        """
        if self._parts is None:
            self._data.prepare(lookup)
            self.source, self.class_names = self._data.source, self._data.class_names
            self._parts = self._cut()

    def train(self) -> ArrayFeed:
        return self._feeds()[0]

    def validation(self) -> ArrayFeed:
        return self._feeds()[1]

    def test(self) -> Any:
        return self._data.test()

    def expand(self, inputs: Sequence[str], lookup: Lookup) -> list[str]:
        return self._data.expand(inputs, lookup)

    def predict(self, inputs: Sequence[str]) -> Any:
        return self._data.predict(inputs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # also of an object that is being copied, which has no module yet
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}.")
        return getattr(self._data, name)

    def _feeds(self) -> tuple[ArrayFeed, ArrayFeed]:
        if self._parts is None:
            raise RuntimeError("Fold: prepare(lookup) must be called before a split is read.")
        return self._parts

    def _cut(self) -> tuple[ArrayFeed, ArrayFeed]:
        whole = train_of(self._data)
        held_out = held_out_of(self._data, "validation")
        if not isinstance(whole, ArrayFeed):
            raise TypeError(
                f"{type(self._data).__name__} streams its batches: folds need the examples in memory, as arrays."
            )
        if len(held_out) > 1:  # one may be a copy of another, whose examples would be in two folds
            raise ValueError(
                f"{type(self._data).__name__} has several validation sets ({', '.join(held_out)}): folds need each "
                "example once. Give the examples as data, or a module with one validation set."
            )
        for validation in held_out.values():
            whole = join_feeds(whole, validation)
        if not isinstance(whole, ArrayFeed):  # of two array feeds it is one
            raise TypeError(f"Expected an ArrayFeed, got {type(whole).__name__}.")
        labels = _labels_of(whole) if self._stratified else None
        numbers = fold_numbers(whole.examples, self._folds, labels=labels, shuffle=self._shuffle, seed=self._seed)
        chosen = numbers == self._number
        return (
            ArrayFeed(part_of(whole.arrays, ~chosen), whole.batch_size, shuffle=True, seed=whole.seed),
            ArrayFeed(part_of(whole.arrays, chosen), whole.batch_size),
        )


def _labels_of(feed: ArrayFeed) -> np.ndarray:
    """The labels of batches `(x, y)` or `(x, y, sample_weight)`; a column `[examples, 1]` is flattened."""
    arrays = feed.arrays
    labels = arrays[1] if isinstance(arrays, tuple) and len(arrays) > 1 else None
    if not isinstance(labels, np.ndarray):
        raise ValueError(
            "stratified=True takes the labels y of batches (x, y), and these have no such array: set stratified=False."
        )
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
