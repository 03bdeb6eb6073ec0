"""Tiny tasks and data for tests."""

import json
import re
import subprocess
import sys

import keras
import numpy as np
import pytest

import lightkeras as lk
from lightkeras import Runner
from lightkeras.hparams import FloatRange, IntRange, search_space
from lightkeras.testing import TwoMoons, check_task, two_moons


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


# ---------------------------------------------------------------------- check_task


@pytest.mark.any_backend
def test_a_task_that_is_right_passes_all_checks():
    check_task(TwoMoons)


@pytest.mark.any_backend
def test_a_function_arrays_and_a_folder_can_be_given(tmp_path):
    def make():
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(2)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return lk.SupervisedTask(model, loss=loss, optimizer=keras.optimizers.Adam(0.05))

    check_task(make, two_moons(64), two_moons(32), batch_size=16, overfit_to=0.9, run_dir=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export", "overfit", "resumed", "whole"]


def test_a_task_that_does_not_learn_its_first_batch_fails():
    with pytest.raises(AssertionError, match=r"3 steps, the loss fell from 0\.\d+ to 0\.\d+ only; expected"):
        check_task(TwoMoons, overfit_steps=3, overfit_to=0.1)


def test_a_task_without_a_loss_is_told_what_to_do():
    class Silent(TwoMoons):
        def train_step(self, batch):
            super().train_step(batch)

        def evaluate_step(self, batch):
            self.log("error", super().evaluate_step(batch))

    with pytest.raises(AssertionError, match=r"The task logs no loss: give overfit_to=None"):
        check_task(Silent)
    check_task(Silent, overfit_to=None)


def test_data_that_depend_on_how_often_they_were_read_fail():
    reads = []

    def batches():
        reads.append(len(reads))
        for number in range(5):  # the first batch is always the same
            yield two_moons(32, seed=len(reads) if number else 0)

    with pytest.raises(AssertionError, match=r"stopped and resumed ended with other values of .*Does a step depend"):
        check_task(TwoMoons, batches, overfit_to=None)


@keras.saving.register_keras_serializable("tests")
class Forgetful(keras.layers.Layer):
    """Scales its inputs, by a factor that is not saved."""

    def __init__(self, factor=1.0, **settings):
        super().__init__(**settings)
        self.factor = factor

    def call(self, inputs):
        return self.factor * inputs

    def get_config(self):
        return {"name": self.name}


def test_a_model_that_is_another_one_once_loaded_fails():
    class Scaled(TwoMoons):
        def build_model(self):
            return keras.Sequential([keras.Input((2,)), Forgetful(2.0), keras.layers.Dense(1)])

    with pytest.raises(AssertionError, match=r"Output 0 of the saved model differs by up to \d"):
        check_task(Scaled, overfit_to=None)


def test_a_task_without_data_is_refused():
    class Bare(TwoMoons):
        def build_data(self):
            return None

    with pytest.raises(ValueError, match=re.escape("There is no data: Bare.build_data returns None.")):
        check_task(Bare)


@pytest.mark.long
def test_the_fixture_runs_in_the_folder_of_the_test(run_in_a_project):
    done = run_in_a_project()
    assert done.returncode == 1, done.stdout
    assert "1 failed, 1 passed" in done.stdout
    assert "the loss fell from" in done.stdout


@pytest.fixture
def run_in_a_project(tmp_path):
    """Runs the tests of a project of a user."""
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["lightkeras.pytest_plugin"]\n')
    (tmp_path / "test_mine.py").write_text(
        "from lightkeras.testing import TwoMoons\n\n\n"
        "def test_right(check_task, tmp_path):\n"
        "    check_task(TwoMoons)\n"
        "    assert (tmp_path / 'check_task' / 'whole').is_dir()\n\n\n"
        "def test_wrong(check_task):\n"
        "    check_task(TwoMoons, overfit_steps=2, overfit_to=0.01)\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    return lambda: subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("points", "stopped_at"), [(128, 3), (32, 1)], ids=["inside an epoch", "one step an epoch"])
def test_the_run_that_is_resumed_was_stopped_before_its_end(points, stopped_at, tmp_path):
    check_task(TwoMoons, two_moons(points), two_moons(32, seed=1), overfit_to=None, run_dir=tmp_path)
    config = json.loads((tmp_path / "resumed" / "config.json").read_text())
    assert [resumed["step"] for resumed in config["resumed"]] == [stopped_at]
