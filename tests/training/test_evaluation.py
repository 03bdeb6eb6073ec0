"""Evaluation and prediction, with the weights at hand or those of a run."""

import json

import keras
import numpy as np
import pytest
from by_hand import LINE, Line, assert_same, weights
from keras import ops

from lightkeras import Runner
from lightkeras.system.variables import CheckpointError
from lightkeras.testing import TwoMoons, two_moons


@pytest.fixture
def run_dir(tmp_path):
    return tmp_path / "run"


def runner(run_dir, **settings):
    settings = {"max_epochs": 2, "progress": False, "run_dir": run_dir} | settings
    return Runner(**settings)


@pytest.mark.any_backend
def test_evaluation_of_arrays_or_of_a_split(run_dir):
    task = TwoMoons()
    runner(run_dir).fit(task)
    split = runner(run_dir).evaluate(task, weights="last")
    given = runner(run_dir).evaluate(task, two_moons(100, seed=2), batch_size=7)
    assert (split.split, split.examples, given.examples) == ("test", 100, 100)
    assert split["accuracy"] == pytest.approx(given["accuracy"])
    assert split["loss"] == pytest.approx(given["loss"], rel=1e-6)
    assert json.loads((run_dir / "result.json").read_text())["test"] == dict(split.metrics)


def test_evaluation_changes_no_variable(run_dir):
    task = TwoMoons()
    runner(run_dir).fit(task)
    before = weights(task)
    runner(run_dir).evaluate(task)
    runner(run_dir).predict(task, two_moons(10)[0])
    assert_same(weights(task), before)


def test_predictions_are_those_of_the_model_in_order(run_dir):
    task = TwoMoons()
    runner(run_dir).fit(task)
    x = two_moons(301)[0]
    expected = ops.convert_to_numpy(task.model(x))
    for batch_size in (1000, 7):
        found = runner(run_dir).predict(task, x, weights="last", batch_size=batch_size)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(runner(None).predict(task, x[:1]), expected[:1], rtol=1e-5, atol=1e-6)


def test_a_prediction_can_be_a_saliency_map(run_dir):
    class Saliency(Line):
        def predict_step(self, batch):
            return self.gradients(lambda x: ops.sum(ops.square(self.model(x))), batch)

    np.testing.assert_array_equal(runner(run_dir).predict(Saliency(), LINE[0]), 2 * LINE[0])  # of (wx)^2 with w = 1


@pytest.mark.any_backend
def test_inputs_of_another_shape_are_refused_with_both_shapes(run_dir):
    message = r"predict_step: the model's input .* takes float32\[batch, 2\], but the batch has float32\[batch, 3\]"
    with pytest.raises(ValueError, match=message):
        runner(run_dir).predict(TwoMoons(), np.zeros((4, 3)))


class Late(keras.Model):
    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 1), initializer="ones")

    def call(self, x):
        return x @ self.kernel


class LateLine(Line):
    def build_model(self):
        return Late()


def test_a_model_that_builds_itself_gets_the_weights_of_the_run_directory(run_dir):
    task = LateLine()
    runner(run_dir).fit(task, LINE, batch_size=2)
    expected = LINE[0] * task.model.get_weights()[0].item()
    np.testing.assert_allclose(runner(run_dir).predict(LateLine(), LINE[0], weights="last"), expected, rtol=1e-6)
    loss = runner(run_dir).evaluate(LateLine(), LINE, weights="last")["loss"]
    assert loss == pytest.approx(np.mean((expected - LINE[1]) ** 2), rel=1e-5)


@pytest.mark.any_backend
def test_weights_without_a_run_directory_are_refused():
    with pytest.raises(ValueError, match=r"Loading weights needs a run directory: .*Runner\(run_dir="):
        runner(None).evaluate(TwoMoons(), weights="best")


@pytest.mark.any_backend
def test_weights_of_another_shape_are_refused(run_dir):
    runner(run_dir, max_epochs=1).fit(TwoMoons())
    task = TwoMoons(TwoMoons.HParams(hidden_units=8))
    with pytest.raises(CheckpointError, match=r"shape \(2, 8\), the saved value \(2, 16\)"):
        runner(run_dir).evaluate(task, weights="last")
