"""Tiny tasks and data for tests."""

import numpy as np

from lightkeras import Runner
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
