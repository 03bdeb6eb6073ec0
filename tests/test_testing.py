"""Tiny tasks and data for tests."""

import numpy as np
import pytest

from lightkeras import Runner
from lightkeras.hparams import FloatRange, IntRange, search_space
from lightkeras.testing import TwoMoons, two_moons


def test_two_moons_are_two_half_circles_and_the_same_every_time():
    points, label = two_moons(1000, seed=3)
    assert (points.shape, points.dtype, label.dtype) == ((1000, 2), np.float32, np.int32)
    assert label.tolist() == [0, 1] * 500
    # Half circles of radius 1 around (0, 0) and (1, 0.5), with noise of deviation 0.1.
    distance = np.linalg.norm(points - np.where(label[:, None] == 0, [0, 0], [1, 0.5]), axis=1)
    assert abs(distance.mean() - 1) < 0.02
    assert distance.max() < 1.5
    np.testing.assert_array_equal(two_moons(1000, seed=3)[0], points)
    assert not np.array_equal(two_moons(1000, seed=4)[0], points)


def test_the_tiny_task_learns(tmp_path):
    result = Runner(max_epochs=8, patience=None, run_dir=tmp_path / "run", progress=False).fit(TwoMoons())
    assert result.steps == 80  # 8 epochs of 320 points in batches of 32
    assert result.history["val/accuracy"][-1] > 0.8
    assert result.history["val/loss"][-1] < 0.7 * result.history["val/loss"][0]


def test_the_tiny_task_is_a_classifier_of_three_splits_with_the_loss_of_a_logit():
    task = TwoMoons(TwoMoons.HParams(hidden_units=8, learning_rate=0.0625, batch_size=16))
    task.set_up(0)
    assert [layer.units for layer in task.model.layers] == [8, 1]
    assert float(task.optimizer.learning_rate) == 0.0625
    splits = [task.data.train(), task.data.validation(), task.data.test()]
    assert [(split.examples, split.batch_size) for split in splits] == [(320, 16), (100, 16), (100, 16)]
    for seed, split in enumerate(splits):
        np.testing.assert_array_equal(split.arrays[0], two_moons(split.examples, seed=seed)[0])
    space = search_space(TwoMoons.HParams)
    assert space == {"hidden_units": IntRange(4, 32, 4, False), "learning_rate": FloatRange(1e-3, 1e-1, None, True)}
    for variable in task.model.trainable_variables:
        variable.assign(np.zeros(variable.shape))
    task.model.layers[-1].bias.assign([2.0])  # the logit of each point
    logs = task.run_evaluate_step((np.zeros((4, 2), "float32"), np.int32([0, 1, 1, 1])))
    # -ln(1 - s) of one and -ln(s) of three, with s = 1 / (1 + exp(-2)).
    assert float(logs["loss"]) == pytest.approx((np.log1p(np.e**2) + 3 * np.log1p(np.e**-2)) / 4, rel=1e-6)
    assert float(logs["accuracy"]) == 0.75


def test_the_points_of_the_moons_are_those_of_their_angles():
    rng = np.random.default_rng(5)
    angle = rng.uniform(0, np.pi, 2)
    expected = [[np.cos(angle[0]), np.sin(angle[0])], [1 - np.cos(angle[1]), 0.5 - np.sin(angle[1])]]
    np.testing.assert_allclose(two_moons(2, seed=5)[0], expected + rng.normal(0, 0.1, (2, 2)), rtol=1e-6)
