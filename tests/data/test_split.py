"""Splits by fraction and by count: the counts are computed by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightkeras.data import split
from lightkeras.data.bags import Bags
from lightkeras.data.split import held_out


@pytest.mark.parametrize(
    ("total", "validation", "count"),
    [
        (60_000, 10_000, 10_000),
        (60_000, 0.1, 6_000),
        (1_500, 1 / 6, 250),
        (25, 0.1, 3),  # 2.5, rounded up
        (24, 0.1, 2),  # 2.4
        (10, 0.35, 4),  # 3.5 as it is written; the float is a little less
        (3, 0.5, 2),  # 1.5, rounded up
        (2, 1, 1),
        (2, np.int64(1), 1),
        (10, np.float32(0.5), 5),
    ],
)
def test_a_fraction_is_rounded_half_up_and_a_count_is_the_count(total, validation, count):
    assert held_out(total, validation) == count
    rest, out = split(np.arange(total), validation)
    assert (len(rest), len(out)) == (total - count, count)


def test_the_parts_share_nothing_and_keep_their_order():
    rest, out = split(np.arange(100), 0.3, seed=1)
    assert sorted([*rest, *out]) == list(range(100))
    assert rest.tolist() == sorted(rest)
    assert out.tolist() == sorted(out)
    assert out.tolist() != list(range(70, 100))


def test_the_seed_chooses_which_are_held_out():
    def held(seed: int) -> list[int]:
        return split(np.arange(100), 10, seed=seed)[1].tolist()

    assert held(0) == held(0)
    assert held(0) != held(1)


def test_without_shuffling_the_last_ones_are_held_out():
    rest, out = split(np.arange(10), 4, shuffle=False)
    assert rest.tolist() == [0, 1, 2, 3, 4, 5]
    assert out.tolist() == [6, 7, 8, 9]


def test_all_arrays_of_a_structure_are_split_alike():
    texts = np.array([b"a", b"b", b"c", b"d"], dtype=object)
    (inputs, labels), (held_inputs, held_labels) = split(({"text": texts, "size": [1, 2, 3, 4]}, [0, 1, 0, 1]), 1)
    assert held_inputs["text"].tolist() == [[b"a", b"b", b"c", b"d"][held_inputs["size"][0] - 1]]
    assert held_labels.tolist() == [(held_inputs["size"][0] - 1) % 2]
    assert (len(inputs["text"]), len(inputs["size"]), len(labels)) == (3, 3, 3)
    assert inputs["text"].dtype == object


def test_bags_are_split_too():
    bags = Bags.from_lengths(np.arange(4, dtype=np.int32), np.ones(4, np.float32), np.array([1, 0, 2, 1]))
    rest, out = split((bags, np.arange(4)), 2, shuffle=False)
    assert rest[0].ids.tolist() == [0]
    assert out[0].ids.tolist() == [1, 2, 3]
    assert out[0].splits.tolist() == [0, 2, 3]


def test_each_class_gives_its_share():
    labels = np.array([0] * 50 + [1] * 30 + [2] * 20)
    rest, out = split(labels, 0.1, stratify=labels)
    assert np.bincount(out).tolist() == [5, 3, 2]
    assert np.bincount(rest).tolist() == [45, 27, 18]


def test_what_is_left_over_goes_to_the_largest_remainders():
    """10 of 26: shares 13*10/26 = 5, 9*10/26 = 3.46, 4*10/26 = 1.54; one is left for the last."""
    labels = np.array(["c"] * 4 + ["a"] * 13 + ["b"] * 9)
    _, out = split(labels, 10, stratify=labels)
    assert {name: int((out == name).sum()) for name in "abc"} == {"a": 5, "b": 3, "c": 2}


def test_of_equal_remainders_the_class_that_sorts_first_gives_more():
    """1 of 4: shares of one half each."""
    labels = np.array([1, 1, 0, 0])
    assert split(labels, 1, stratify=labels)[1].tolist() == [0]


def test_without_shuffling_the_last_ones_of_each_class_are_held_out():
    labels = np.array([0, 0, 1, 1, 0, 1, 0, 1])
    rest, out = split(np.arange(8), 4, stratify=labels, shuffle=False)
    assert rest.tolist() == [0, 1, 2, 3]
    assert out.tolist() == [4, 5, 6, 7]


@given(sizes=st.lists(st.integers(3, 20), min_size=1, max_size=5), share=st.floats(0.01, 0.5), seed=st.integers(0, 9))
def test_a_stratified_count_is_met_and_no_class_is_off_by_one_or_more(sizes, share, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    count = max(1, int(share * len(labels)))
    rest, out = split(labels, count, stratify=labels, seed=seed)
    assert len(out) == count
    shares = np.bincount(out, minlength=len(sizes))
    assert (np.bincount(rest, minlength=len(sizes)) + shares).tolist() == sizes
    assert np.all(np.abs(shares - np.array(sizes) * count / len(labels)) < 1)


def test_a_class_that_would_be_held_out_whole_is_refused():
    with pytest.raises(
        ValueError,
        match=r"Class 7 has 1 of 4 examples, all of which would be held out with 3 of them, so that "
        r"none is left to train on\. Hold out fewer, or leave stratify out\.",
    ):
        split(np.arange(4), 3, stratify=np.array([0, 0, 0, 7]))


@pytest.mark.parametrize("validation", [0, -1, 0.0, 1.0, 1.5, -0.1, float("nan")])
def test_what_is_neither_a_fraction_nor_a_count_is_refused(validation):
    with pytest.raises(
        ValueError,
        match=r"validation=.*: expected a fraction between 0 and 1, such as 0\.1, or a whole number of examples of at",
    ):
        split(np.arange(10), validation)


@pytest.mark.parametrize("validation", [True, "0.1", None])
def test_a_value_that_is_not_a_number_is_refused(validation):
    with pytest.raises(
        TypeError, match=r"validation=.*: expected a fraction between 0 and 1, such as 0\.1, or a whole"
    ):
        split(np.arange(10), validation)


@pytest.mark.parametrize(("total", "validation", "count"), [(10, 10, 10), (10, 11, 11), (4, 0.1, 0), (1, 0.5, 1)])
def test_a_part_that_would_be_empty_is_refused(total, validation, count):
    with pytest.raises(
        ValueError,
        match=rf"validation={validation} of {total} examples holds out {count}: expected at least 1, and at least",
    ):
        split(np.arange(total), validation)


def test_lengths_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"number of examples: array 0 has 3, array 1 has 4\. Axis 0 must agree"):
        split((np.arange(3), np.arange(4)), 1)
    with pytest.raises(ValueError, match=r"stratify has shape \(2,\): expected one label for each of the 3 examples"):
        split(np.arange(3), 1, stratify=np.array([0, 1]))
    with pytest.raises(ValueError, match="Received no arrays: expected at least one"):
        split({}, 1)


def test_numbers_are_not_classes():
    with pytest.raises(ValueError, match=r"stratify holds float64 numbers: expected classes, .*numpy\.digitize"):
        split(np.arange(3), 1, stratify=np.array([0.5, 1.5, 2.5]))


@pytest.mark.parametrize("seed", [-1, True, 1.5])
def test_a_seed_that_is_none_is_refused(seed):
    with pytest.raises(ValueError, match=f"seed={seed}: expected a whole number of at least 0"):
        split(np.arange(3), 1, seed=seed)


def test_a_seed_may_be_of_numpy_and_is_checked():
    assert split(np.arange(9), 3, seed=np.int64(4))[1].tolist() == split(np.arange(9), 3, seed=4)[1].tolist()
    with pytest.raises(ValueError, match=r"^seed=-1: expected a whole number of at least 0\.$"):
        split(np.arange(9), 3, seed=-1)
