"""What splits show by themselves: numbers that are none, and examples in two of them."""

import os
import tracemalloc
import warnings
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from lightkeras.data.arrays import as_feed
from lightkeras.data.bags import Bags
from lightkeras.data.feed import ArrayFeed
from lightkeras.data.structure import ArraySpec
from lightkeras.task import Task
from lightkeras.training.preflight import splits
from lightkeras.training.preflight.splits import (
    check_feed,
    check_finite,
    shared_examples,
    warn_of_other_inputs,
    warn_of_shared_examples,
)


def feed(arrays):
    return ArrayFeed(arrays, 8)


def rows(count, seed=0, shape=(5,), dtype="float32"):
    return (np.random.default_rng(seed).normal(size=(count, *shape)) * 1000).astype(dtype)


# ---------------------------------------------------------------------- numbers


@pytest.mark.parametrize("block", [1, 64, 1 << 24])
def test_numbers_that_are_not_finite_are_counted_and_the_first_is_shown_however_it_is_read(monkeypatch, block):
    monkeypatch.setattr(splits, "BLOCK_BYTES", block)
    x = rows(50)
    x[13, 2], x[13, 4], x[40, 0] = np.inf, np.nan, np.nan
    message = r"Array 0/image of test holds 3 of 250 numbers .*, the first in example 13: inf\. Replace them"
    with pytest.raises(ValueError, match=message):
        check_finite(feed(({"image": x}, np.zeros(50, "int32"))), "test")


@pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16, "complex64"])
def test_every_kind_of_fraction_is_looked_at(dtype):
    x = np.ones(9, dtype)
    check_finite(feed(x), "train")
    x[8] = np.nan
    with pytest.raises(ValueError, match=r"Array 0 of train holds 1 of 9 numbers .* example 8: nan|\(?nan"):
        check_finite(feed(x), "train")


def test_whole_numbers_text_and_streams_are_passed_over():
    check_finite(feed((np.array(["nan", "inf"]), np.arange(2))), "train")
    check_finite(as_feed(tf.data.Dataset.from_tensors(np.float32([np.nan]))), "train")


def test_missing_values_that_an_encoder_fills_are_looked_for_after_it():
    raw = feed(np.float32([[1], [np.nan]]))
    filled = ArrayFeed(np.float32([[1], [0]]), 2, raw=raw)
    check_finite(filled, "train", fills_missing=True)
    with pytest.raises(ValueError, match=r"^Array 0 of train holds 1 of 2 numbers that are not finite"):
        check_finite(filled, "train")
    left = ArrayFeed(np.float32([[1], [np.inf]]), 2, raw=raw)
    with pytest.raises(ValueError, match=r"^Array 0 of train, after its encoder, holds 1 of 2 numbers"):
        check_finite(left, "train", fills_missing=True)


# ---------------------------------------------------------------------- shared examples


@pytest.mark.parametrize("dtype", ["float32", "uint8", "int64", "bool", "float16"])
@pytest.mark.parametrize("shape", [(16,), (4, 4), (33,), (3, 3, 3)])
def test_examples_of_both_are_counted_whatever_they_are_made_of(shape, dtype):
    x = rows(600, shape=shape, dtype=dtype)
    train, validation = x[:500], x[460:]
    expected = sum(any(np.array_equal(row, other) for other in train) for row in validation)
    assert expected >= 40
    labels = np.arange(600)  # other labels do not make other examples
    found = shared_examples(feed((train, labels[:500])), feed((validation, -labels[460:])))
    assert found == (expected, 140)


def test_text_is_compared_as_it_is_read_whether_bytes_or_not():
    train = np.array(["a", "b", "", "d"] * 5, dtype=object)
    validation = np.array([b"b", b"z", b"", "ä".encode(), b"d"], dtype=object)
    assert shared_examples(feed(train), feed(validation)) == (3, 5)
    pairs = np.array([["a", "b"], ["c", "d"]], dtype=object)
    assert shared_examples(feed(pairs), feed(pairs[::-1, ::-1])) == (0, 2)
    assert shared_examples(feed(pairs), feed(pairs[::-1])) == (2, 2)


def test_an_example_is_shared_only_if_all_its_inputs_are():
    left, right = rows(40, 1), np.array([f"text {number}" for number in range(40)], dtype=object)
    train = {"left": left, "right": right}
    validation = {"left": left, "right": np.concatenate([right[:10], right[9:39]])}
    assert shared_examples(feed((train, np.zeros(40))), feed((validation, np.zeros(40)))) == (10, 40)


def test_signs_do_not_cancel_out_in_the_hash():
    signs = np.float64(rows(400, shape=(64,)) > 0).astype("float32") * 2 - 1
    hashes = splits._hashes([signs], np.arange(400), 12345)
    assert len(set(hashes.tolist())) == len(np.unique(signs, axis=0)) == 400


def test_hashes_that_collide_are_distinguished_by_their_bytes(monkeypatch):
    monkeypatch.setattr(splits, "_hashes", lambda arrays, rows, mixed: np.zeros(len(rows), np.uint64))
    x = rows(60)
    assert shared_examples(feed(x[:40]), feed(x[30:])) == (10, 30)


def test_large_splits_are_sampled_the_same_way_each_time(monkeypatch):
    x = rows(5000, shape=(2,))
    assert shared_examples(feed(x), feed(x)) == (1000, 1000)
    monkeypatch.setattr(splits, "TRAIN_BYTES", 2500 * 8)  # half of it
    found, sampled = shared_examples(feed(x), feed(x))
    assert (400 < found < 600, sampled) == (True, 1000)
    assert shared_examples(feed(x), feed(x)) == (found, sampled)


def test_inputs_of_another_form_cannot_be_compared():
    assert shared_examples(feed(rows(9)), feed(rows(9, dtype="float16"))) == (0, 0)
    assert shared_examples(feed(rows(9)), feed({"x": rows(9)})) == (0, 0)


def test_single_numbers_are_equal_by_nature():
    horsepower = np.repeat(np.float32([70, 90, 110, 150]), 50)
    for shape in ((200,), (200, 1)):
        x = horsepower.reshape(shape)
        assert shared_examples(feed(({"horsepower": x}, horsepower)), feed(({"horsepower": x}, horsepower))) == (0, 0)
    two = np.stack([horsepower, horsepower], axis=-1)
    assert shared_examples(feed(two), feed(two)) == (200, 200)
    words = np.array(["a", "b"] * 20, dtype=object)  # a text is one value too, and is known again
    assert shared_examples(feed(words), feed(words)) == (40, 40)


@pytest.mark.parametrize(
    ("shared", "of", "warned"), [(9, 100, False), (10, 100, True), (10, 1000, True), (9, 1000, False)]
)
def test_one_in_a_hundred_and_ten_are_warned_of(shared, of, warned):
    x = rows(3000, shape=(3,))
    train, validation = feed(x[:2000]), feed(np.concatenate([x[:shared], x[2000 : 2000 + of - shared]]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_shared_examples(train, validation)
    assert [str(each.message).split(" examples")[0] for each in caught] == [f"{shared} of {of:,}"] * warned


def test_one_stream_for_both_splits_is_warned_of_whatever_it_is():
    def batches():
        yield rows(4)

    dataset = tf.data.Dataset.from_tensors(rows(4))
    for data in (batches, dataset):
        with pytest.warns(UserWarning, match="Train and validation are the same stream"):
            warn_of_shared_examples(as_feed(data), as_feed(data))
    warn_of_shared_examples(as_feed(dataset), as_feed(dataset.take(1)))
    warn_of_shared_examples(as_feed(batches), feed(rows(4)))


# ---------------------------------------------------------------------- kinds of numbers


def test_inputs_of_two_kinds_are_warned_of_and_sizes_of_one_kind_are_not():
    fractions, labels = rows(9), np.zeros(9)
    with pytest.warns(
        UserWarning, match=r"Input 0 of validation is uint8\[batch, 5\], but float32\[batch, 5\] in train"
    ):
        warn_of_other_inputs(feed((fractions, labels)), feed((rows(9, dtype="uint8"), labels)))
    warn_of_other_inputs(feed((fractions, labels)), feed((rows(9, dtype="float16"), labels.astype("int32"))))
    warn_of_other_inputs(feed(rows(9, dtype="uint8")), feed(rows(9, dtype="int64")))


# ---------------------------------------------------------------------- real data


REAL = os.environ.get("LIGHTKERAS_DATA_DIR")


@pytest.mark.real
@pytest.mark.skipif(not REAL, reason="LIGHTKERAS_DATA_DIR names no folder with mnist.npz")
def test_mnist_shares_nothing_with_its_test_split_and_all_with_itself():
    with np.load(Path(REAL) / "mnist.npz") as data:
        train, test = data["x_train"], data["x_test"]
    assert shared_examples(feed(train), feed(test)) == (0, 1000)
    assert shared_examples(feed(train), feed(train[-500:])) == (500, 500)


# ---------------------------------------------------------------------- ends


class Checked(Task):
    def check_data(self, arrays, split):
        self.checked = (arrays, split)


def test_arrays_are_given_to_the_check_of_the_task_and_a_stream_without_an_end_needs_a_limit():
    task, arrays = Checked(), feed(rows(9))
    check_feed(task, arrays, "test")
    assert (task.checked[0] is arrays.arrays, task.checked[1]) == (True, "test")
    endless = as_feed(tf.data.Dataset.from_tensors(rows(9)).repeat())
    for split, where in [("train", "each epoch continues where the last one ended"), ("test", "each starts anew")]:
        message = rf"The {split} split is endless: .*LimitBatches\({split}=1000\)\): {where}\.$"
        with pytest.raises(ValueError, match=message):
            check_feed(task, endless, split)
    check_feed(task, endless, "train", 3)
    check_feed(task, as_feed(tf.data.Dataset.from_tensors(rows(9))), "train")


def test_the_weights_of_bags_and_the_arrays_before_an_encoder_are_looked_at_too():
    bags = Bags(np.int32([0, 1]), np.float32([1, np.inf]), np.array([0, 1, 2]))
    with pytest.raises(ValueError, match=r"Array bag of test holds 1 of 2 numbers .* example 1: inf\."):
        check_finite(feed({"bag": bags}), "test")
    broken, fine = feed(np.float32([1, np.nan])), feed(np.float32([1, 2]))
    broken.raw = feed(np.float32([1, 2]))
    with pytest.raises(ValueError, match=r"Array 0 of test, after its encoder, holds 1 of 2 numbers"):
        check_finite(broken, "test")
    fine.raw = feed(np.float32([np.nan, 2]))
    with pytest.raises(ValueError, match=r"Array 0 of test holds 1 of 2 numbers"):
        check_finite(fine, "test")


def test_blocks_are_of_whole_rows_and_cover_an_array(monkeypatch):
    array = np.arange(14, dtype="int32").reshape(7, 2)
    for size, starts in [(1, range(7)), (8, range(7)), (16, (0, 2, 4, 6)), (24, (0, 3, 6)), (1 << 24, (0,))]:
        monkeypatch.setattr(splits, "BLOCK_BYTES", size)
        blocks = splits._blocks(array)
        assert [start for start, _ in blocks] == list(starts)
        np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), array)


def test_texts_and_numbers_that_do_not_fill_words_of_eight_bytes_are_told_apart():
    for dtype, count in (("uint8", 9), ("int16", 5), ("float32", 3)):
        x = np.eye(count, dtype=dtype)
        assert len(set(splits._hashes([x], np.arange(len(x)), 12345).tolist())) == count
        assert shared_examples(feed(x), feed(x[:3])) == (3, 3)
    left, right = np.eye(9, dtype="float32"), np.roll(np.eye(9, dtype="float32"), 1, axis=0)
    both = {"a": left, "b": right}
    assert shared_examples(feed(both), feed({"a": right, "b": left})) == (0, 9)
    assert splits._hashes([np.zeros((3, 0), "float32")], np.arange(3), 1).tolist() == [0, 0, 0]
    assert splits._kind(ArraySpec((), "bfloat16")) == splits._kind(ArraySpec((), "float32")) == "float"
    assert splits._kind(ArraySpec((), "uint8")) == splits._kind(ArraySpec((), "int64")) == "int"


def test_a_sample_of_a_large_train_split_is_not_copied(monkeypatch):
    monkeypatch.setattr(splits, "TRAIN_BYTES", 1 << 23)
    monkeypatch.setattr(splits, "BLOCK_BYTES", 1 << 18)
    x = rows(4096, shape=(1024,))  # 16 MB, of which 8 are searched
    tracemalloc.start()
    shared, sampled = splits.shared_examples(ArrayFeed(x, 32), ArrayFeed(x[:100].copy(), 32))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sampled == 100
    assert 20 < shared < 80  # half of them are in the sample
    assert peak < 1 << 22


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ml_dtypes.bfloat16])
def test_finite_numbers_whose_sum_is_not_are_finite(dtype):
    largest = np.full(100, np.float32(3e38) if dtype != "float16" else 6e4).astype(dtype)
    check_finite(feed(largest), "train")
    largest[50] = -np.inf
    with pytest.raises(ValueError, match="Array 0 of train holds 1 of 100 numbers that are not finite"):
        check_finite(feed(largest), "train")
