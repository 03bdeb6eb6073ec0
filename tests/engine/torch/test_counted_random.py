"""Random numbers that are a function of a seed, a count and a position."""

import keras
import numpy as np
import pytest
import torch
from keras.src.backend.torch import random as keras_random

from lightkeras.engine.replacing import replaced
from lightkeras.engine.torch.counted_random import COUNTED


def drawn(draw, seed=7):
    with replaced(COUNTED):
        return draw(keras.random.SeedGenerator(seed))


def test_uniform_numbers_fill_their_interval_evenly():
    found = drawn(lambda seed: keras.random.uniform((400, 500), -1.0, 3.0, seed=seed)).numpy()
    assert found.min() >= -1
    assert found.max() < 3
    counts, _ = np.histogram(found, 50, (-1, 3))
    assert ((counts - 4000) ** 2 / 4000).sum() < 100  # chi-squared of 49 degrees: 1 in 30,000 is above
    assert abs(np.corrcoef(found.ravel()[:-1], found.ravel()[1:])[0, 1]) < 0.01  # 4.5 standard deviations


def test_normal_numbers_have_the_moments_and_the_tails_of_a_normal_distribution():
    found = (drawn(lambda seed: keras.random.normal((400, 500), 2.0, 3.0, seed=seed)).numpy() - 2) / 3
    moments = [(found**power).mean() for power in (1, 2, 3, 4)]
    np.testing.assert_allclose(moments, [0, 1, 0, 3], atol=0.08)
    assert 0.0020 < (abs(found) > 3).mean() < 0.0034  # 0.0027
    assert np.isfinite(found).all()


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_keeps_its_share_and_scales_it(rate):
    found = drawn(lambda seed: keras.random.dropout(torch.full((300, 300), 2.0), rate, seed=seed)).numpy()
    assert abs((found > 0).mean() - (1 - rate)) < 0.006
    np.testing.assert_allclose(found[found > 0], 2 / (1 - rate), rtol=1e-6)


def test_a_noise_shape_is_broadcast():
    found = drawn(lambda seed: keras.random.dropout(torch.ones(8, 5, 100), 0.5, (None, 1, 100), seed=seed)).numpy()
    assert (found == found[:, :1]).all()
    assert 0.4 < (found > 0).mean() < 0.6


def test_each_draw_is_another_one_and_is_drawn_again_from_its_state():
    with replaced(COUNTED):
        seed = keras.random.SeedGenerator(3)
        before = seed.state.numpy()
        first, second = (keras.random.uniform((1000,), seed=seed).numpy() for _ in range(2))
        assert (seed.state.numpy() - before).tolist() == [0, 2]
        other = keras.random.uniform((1000,), seed=keras.random.SeedGenerator(4)).numpy()
        seed.state.assign(before + np.array([0, 1], before.dtype))
        again = keras.random.uniform((1000,), seed=seed).numpy()
    np.testing.assert_array_equal(again, second)
    for a, b in ((first, second), (first, other)):
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.15
        assert (a != b).mean() > 0.99


def test_numbers_without_a_generator_are_those_of_keras():
    with replaced(COUNTED):
        found = keras.random.normal((5,), seed=11).numpy()
    np.testing.assert_array_equal(found, keras.random.normal((5,), seed=11).numpy())
    assert keras_random.normal.__module__ == keras_random.__name__  # which the end of the context put back
