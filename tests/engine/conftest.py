"""Fixtures for the tests of several engines."""

import pytest
from by_hand import Noisy, learn, noisy_data, weights

from lightkeras.data.feed import ArrayFeed


@pytest.fixture(scope="module")
def one_step_at_a_time():
    task = Noisy()
    logs = learn(task, ArrayFeed(noisy_data(), 10, shuffle=True), 1, epochs=2)
    return logs, weights(task)


@pytest.fixture(scope="module")
def from_arrays():
    task = Noisy()
    return learn(task, ArrayFeed(noisy_data(203), 10), 7, epochs=2), weights(task)
