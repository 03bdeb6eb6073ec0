"""The part of a batch that a device computes; what a traced step computes in parts is tested in test_devices.py."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from lightkeras.data.bags import Bags
from lightkeras.data.structure import flatten
from lightkeras.engine.tensorflow.devices import DividedStep
from lightkeras.engine.tensorflow.replica import Replica, by_example, part_of_mean, same_everywhere, summed


def replica_of(number, count, size):
    return Replica([f"CPU:{place}" for place in range(count)], None, number, size)


def parts(batch, size, count):
    return [replica_of(number, count, size).part_of(batch) for number in range(count)]


@pytest.mark.parametrize("known", [True, False])
def test_parts_are_as_even_as_they_can_be_and_shares_are_of_examples(known):
    size = 7 if known else tf.constant(7)
    found = [replica_of(number, 3, size) for number in range(3)]
    assert [int(replica.rows) for replica in found] == [2, 2, 3]
    assert [float(replica.share) for replica in found] == pytest.approx([2 / 7, 2 / 7, 3 / 7])
    batch = (tf.range(7), {"x": tf.reshape(tf.range(14), (7, 2)), "none": None}, [tf.constant(5)])
    second = parts(batch, size, 3)[1]
    assert second[0].numpy().tolist() == [2, 3]
    assert second[1]["x"].numpy().tolist() == [[4, 5], [6, 7]]
    assert (second[1]["none"], int(second[2][0])) == (None, 5)


def test_a_device_without_an_example_computes_one_that_counts_for_nothing():
    assert [part.numpy().tolist() for part in parts(tf.range(2), 2, 3)] == [[0], [0], [1]]
    first = replica_of(0, 3, tf.constant(2))
    assert (int(first.rows), float(first.share), float(first.weight)) == (0, 0.0, 0.0)


def test_bags_are_divided_with_their_entries():
    bags = Bags.from_lengths(np.int32([5, 6, 7, 8, 9, 3]), np.float32([1, 2, 3, 4, 5, 6]), np.int64([2, 0, 1, 3]))
    batch = {name: tf.constant(array) for name, array in bags.batch().items()}
    for found, expected in zip(parts(batch, 4, 2), (bags.take(np.arange(2)), bags.take(np.arange(2, 4))), strict=True):
        for (name, one), (_, other) in zip(flatten(found), flatten(expected.batch()), strict=True):
            np.testing.assert_array_equal(one, other, err_msg=name)


def test_a_batch_whose_arrays_have_different_sizes_is_not_divided():
    step = DividedStep(None, None, None)
    for sizes in ([4, 3], [4, None]):
        batch = {f"x{size}": tf.TensorSpec([size], tf.float32) for size in sizes}
        with pytest.raises(ValueError, match=r"have different sizes on axis 0 \((3, 4|4, \?)\), so that it cannot be"):
            step(batch)
    bags = Bags.from_lengths(np.int32([5, 6, 7]), np.ones(3, "f"), np.int64([2, 1])).batch()
    assert [leaf.shape for leaf in by_example(({"bags": bags, "none": None}, [np.zeros(2)]))] == [(2,), (2,)]


def test_on_one_device_values_stay_what_they_are():
    value = tf.constant(3.0)
    assert part_of_mean(value) is value
    assert summed([value, None]) == [value, None]
    with same_everywhere():
        pass
