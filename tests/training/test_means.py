"""Means over the steps of an epoch."""

import numpy as np
import pytest

from lightkeras.engine.base import StepLogs
from lightkeras.training.means import Means


def logs(examples, **values):
    return StepLogs({name: np.float32(column) for name, column in values.items()}, np.array(examples, "int64"))


def test_means_are_weighted_by_examples():
    means = Means()
    means.add(logs([2, 1], loss=[1.0, 4.0], other=[0.0, 3.0]))
    assert (means.values(), means.examples) == ({"loss": 2.0, "other": 1.0}, 3)
    means.add(logs([1], loss=[6.0], other=[1.0]))
    assert means.values() == {"loss": 3.0, "other": 1.0}


@pytest.mark.parametrize("read", [False, True])
def test_the_bits_do_not_depend_on_the_size_of_calls_nor_on_when_they_are_read(read):
    losses = np.random.default_rng(0).random(50, dtype="float32") * 1e6
    one = Means()
    one.add(logs([3] * 50, loss=losses))
    several = Means()
    for start, stop in [(0, 1), (1, 2), (2, 30), (30, 50)]:
        several.add(logs([3] * (stop - start), loss=losses[start:stop]))
        assert not read or several.values()
    total = 0.0
    for loss in losses:
        total += float(loss) * 3
    assert one.state() == several.state() == {"examples": 150, "sums": {"loss": total}}


def test_a_state_is_restored_and_logs_without_values_count_their_examples():
    means = Means()
    means.add(logs([4], loss=[1.0]))
    means.restore({"examples": 2, "sums": {"loss": 5.0}})
    assert means.values() == {"loss": 2.5}
    empty = Means()
    empty.add(logs([4]))
    assert (empty.values(), empty.examples) == ({}, 4)
