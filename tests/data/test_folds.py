"""Folds against scikit-learn's, and as data modules."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from sklearn.model_selection import KFold, StratifiedKFold

from lightkeras import data
from lightkeras.data.folds import Fold, fold_numbers
from lightkeras.data.lookup import Lookup

LABELS = np.array([2, 0, 0, 1, 2, 2, 0, 1, 0, 0, 1, 2, 2, 2, 0, 1, 1])


def held_out(numbers: np.ndarray) -> list[list[int]]:
    return [np.flatnonzero(numbers == fold).tolist() for fold in range(numbers.max() + 1)]


@pytest.mark.parametrize("folds", [2, 3, 5, 17])
def test_in_order_they_are_those_of_scikit_learn(folds):
    expected = [test.tolist() for _, test in KFold(folds).split(LABELS)]
    assert held_out(fold_numbers(17, folds, shuffle=False)) == expected


@pytest.mark.parametrize("folds", [2, 3, 4, 5])
@pytest.mark.parametrize("labels", [LABELS, np.array(["b", "a", "c"])[LABELS], LABELS > 0])
def test_stratified_in_order_they_are_those_of_scikit_learn(folds, labels):
    expected = [test.tolist() for _, test in StratifiedKFold(folds).split(labels, labels)]
    assert held_out(fold_numbers(17, folds, labels=labels, shuffle=False)) == expected


@pytest.mark.parametrize("labels", [None, LABELS])
def test_drawn_at_random_they_have_the_same_sizes_and_depend_on_the_seed_alone(labels):
    drawn, again, other = (fold_numbers(17, 4, labels=labels, seed=seed) for seed in (1, 1, 2))
    in_order = fold_numbers(17, 4, labels=labels, shuffle=False)
    np.testing.assert_array_equal(drawn, again)
    assert (drawn != other).any()
    assert (drawn != in_order).any()
    for label in [None] if labels is None else np.unique(labels):
        chosen = slice(None) if label is None else labels == label
        np.testing.assert_array_equal(np.bincount(drawn[chosen]), np.bincount(in_order[chosen]))


@pytest.mark.parametrize(
    ("total", "folds", "labels", "message"),
    [
        (3, 4, None, r"folds=4 of 3 examples: expected at most one fold for each example\."),
        (3, 1, None, r"folds=1: expected a whole number of at least 2\."),
        (17, 6, LABELS, r"Class 1 has 5 examples, fewer than folds=6: .* Use fewer folds, or stratified=False\."),
        (3, 2, np.array([0.5, 1.5, 2.5]), r"float64 numbers: expected classes"),
        (3, 2, np.array([0, 1]), r"has shape \(2,\): expected one label for each of the 3 examples"),
    ],
)
def test_what_cannot_be_cut_is_refused(total, folds, labels, message):
    with pytest.raises(ValueError, match=message):
        fold_numbers(total, folds, labels=labels)


def arrays() -> tuple[np.ndarray, np.ndarray]:
    return np.arange(34, dtype="float32").reshape(17, 2), LABELS[:, None]


def fold(module: data.DataModule, number: int = 0, stratified: bool = True) -> Fold:
    made = Fold(module, number, 3, stratified=stratified, shuffle=False, seed=0)
    made.prepare(Lookup())
    made.prepare(Lookup())  # does nothing
    return made


def test_a_fold_holds_out_its_examples_and_trains_on_the_others_shuffled():
    x, y = arrays()
    module = data.ArrayData((x, y), batch_size=4, seed=3)
    for number, expected in enumerate(StratifiedKFold(3).split(x, LABELS)):
        made = fold(module, number)
        for feed, indices in zip((made.train(), made.validation()), expected, strict=True):
            np.testing.assert_array_equal(feed.arrays[0], x[indices])
            np.testing.assert_array_equal(feed.arrays[1], y[indices])
            assert feed.batch_size == 4
        assert (made.train().shuffle, made.train().seed, made.validation().shuffle) == (True, 3, False)
        assert made.source == "arrays"


def test_a_fold_has_the_names_of_the_classes():
    module = data.ArrayData(arrays())
    module.class_names = ("cat", "dog")
    assert fold(module, stratified=False).class_names == ("cat", "dog")


def test_a_fold_has_the_attributes_of_its_module_and_makes_batches_of_typed_inputs_as_it_does():
    class Images(data.ArrayData):
        image_shape = (28, 28)

        def expand(self, inputs, lookup):
            return [part for given in inputs for part in given.split()]

        def predict(self, inputs):
            return np.array([len(given) for given in inputs])

    made = copy.copy(fold(Images(arrays()), stratified=False))
    assert made.image_shape == (28, 28)
    assert made.predict(made.expand(["ab c"], Lookup())).tolist() == [2, 1]
    with pytest.raises(AttributeError, match=r"'Images' object has no attribute 'image_size'"):
        _ = made.image_size
    with pytest.raises(AttributeError, match=r"Fold has no attribute '_hidden'\."):
        _ = made._hidden


def test_the_validation_split_is_cut_too_and_the_test_split_is_kept():
    x, y = arrays()
    module = data.ArrayData((x[:10], y[:10]), (x[10:], y[10:]), (x[:2], y[:2]))
    made = fold(module, stratified=False)
    assert made.validation().arrays[0].tolist() == x[:6].tolist()
    assert made.train().arrays[0].tolist() == x[6:].tolist()
    assert made.test().examples == 2


def test_streams_and_batches_without_labels_are_refused():
    class Streamed(data.DataModule):
        def train(self):
            return lambda: iter([np.zeros((2, 3), "float32")])

    with pytest.raises(TypeError, match=r"Streamed streams its batches: folds need the examples in memory"):
        fold(Streamed())
    for given in (arrays()[0], (arrays()[0],), (arrays()[0], {"a": LABELS})):
        with pytest.raises(ValueError, match=r"stratified=True takes the labels y of batches \(x, y\)"):
            fold(data.ArrayData(given))
    with pytest.raises(RuntimeError, match=r"prepare\(lookup\) must be called"):
        Fold(data.ArrayData(arrays()), 0, 3, stratified=True, shuffle=True, seed=0).train()


def test_several_validation_sets_are_refused():
    class Several(data.DataModule):
        def train(self):
            return np.zeros((8, 1)), np.zeros(8, int)

        def validation(self):
            return {"clean": self.train(), "noisy": self.train()}

    fold = Fold(Several(), 0, 2, stratified=False, shuffle=True, seed=0)
    with pytest.raises(ValueError, match=r"Several has several validation sets \(clean, noisy\): folds need each"):
        fold.prepare(Lookup())
