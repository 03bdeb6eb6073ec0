"""Evaluation and prediction, with the weights at hand or those of a run."""

import json

import keras
import numpy as np
import pytest
from by_hand import LINE, Line, assert_same, weights
from keras import ops

from lightkeras import DataModule, LimitBatches, Runner, SupervisedTask
from lightkeras.runs.directory import RunDirectory
from lightkeras.system.variables import CheckpointError
from lightkeras.testing import TwoMoons, two_moons
from lightkeras.training.initial_weights import check_frozen


@pytest.fixture
def run_dir(tmp_path):
    return tmp_path / "run"


def runner(run_dir, **settings):
    quick = {"max_epochs": 2, "progress": False, "pictures": False, "export": False}
    settings = quick | {"run_dir": run_dir} | settings
    return Runner(**settings)


@pytest.mark.any_backend
def test_evaluation_of_arrays_or_of_a_split(run_dir):
    task = TwoMoons()
    runner(run_dir).fit(task)
    split = runner(run_dir, pictures=True).evaluate(task, weights="last")
    assert (run_dir / "report.html").is_file()
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


@pytest.mark.any_backend
def test_a_split_that_is_no_split_of_evaluation_or_that_there_is_not_is_refused(run_dir):
    with pytest.raises(ValueError, match=r"^split='train': expected 'validation' or 'test'\.$"):
        runner(run_dir).evaluate(TwoMoons(), split="train")

    class NoTest(TwoMoons):
        def build_data(self):
            data = super().build_data()
            data.test = lambda: None
            return data

    with pytest.raises(ValueError, match=r"^There is no test split: \w+\.test\(\) returned None\.$"):
        runner(run_dir).evaluate(NoTest())
    assert not run_dir.exists()


@pytest.mark.any_backend
def test_each_split_has_its_own_limit_and_weights_at_hand_write_nothing(run_dir):
    limits = LimitBatches(validation=1, test=2)
    found = {
        split: runner(run_dir, limit_batches=limits).evaluate(TwoMoons(), two_moons(30), split=split, batch_size=4)
        for split in ("validation", "test")
    }
    assert {split: result.examples for split, result in found.items()} == {"validation": 4, "test": 8}
    assert [result.split for result in found.values()] == ["validation", "test"]
    assert found["test"].wall_s > 0
    assert not run_dir.exists()


@pytest.mark.any_backend
def test_an_encoder_other_than_that_of_the_run_is_refused_and_its_own_is_not():
    class Encoded(TwoMoons):
        encoder = None

        def frozen(self):
            return self.encoder

    task = Encoded()
    task.set_up(0)
    check_frozen(task, {})
    with pytest.raises(ValueError, match=r"an encoder with the fingerprint abc, and this task's is none: its weights"):
        check_frozen(task, {"encoder": {"fingerprint": "abc"}})
    task.encoder = type("Known", (), {"fingerprint": "abc"})()
    check_frozen(task, {"encoder": {"fingerprint": "abc"}})
    with pytest.raises(ValueError, match=r"an encoder with the fingerprint none, and this task's is abc: its weights"):
        check_frozen(task, {"encoder": {}})


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("bird", "cat", "dog"),
            r"classes cat, dog, and Moons has bird, cat, dog: the run does not know bird\. Give it",
        ),
        (("cat", "fox"), r"has cat, fox: the run does not know fox and the data lacks dog\. "),
        (("dog", "cat"), r"has dog, cat: their order differs\. Give it the classes of the run in their order"),
    ],
)
@pytest.mark.any_backend
def test_data_of_other_classes_than_those_of_the_run_is_refused(run_dir, names, message):
    class Moons(DataModule):
        class_names = ("cat", "dog")

        def prepare(self, lookup):
            self.source = "moons"

        def train(self):
            return two_moons(64)

        def test(self):
            return two_moons(32, seed=1)

    class Named(TwoMoons):
        def build_data(self):
            return Moons()

    runner(run_dir, max_epochs=1).fit(Named())
    assert RunDirectory(run_dir).read_config()["data"]["class_names"] == ["cat", "dog"]
    assert runner(run_dir).evaluate(Named(), weights="last").examples == 32
    Moons.class_names = names
    with pytest.raises(ValueError, match=message):
        runner(run_dir).evaluate(Named(), weights="last")
    runner(run_dir).predict(Named(), two_moons(4)[0], weights="last")  # the data is not prepared, and not used


@pytest.mark.any_backend
def test_a_result_that_cannot_be_written_is_a_warning_and_is_returned(run_dir, monkeypatch):
    runner(run_dir, max_epochs=1).fit(TwoMoons())

    def full(self, part):
        raise OSError("No space left on device")

    monkeypatch.setattr(RunDirectory, "update_result", full)
    with pytest.warns(UserWarning, match=r"The result was not written to .*run: No space left on device"):
        assert runner(run_dir).evaluate(TwoMoons(), weights="last").examples == 100


class Told(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.calls = []

    def on_test_begin(self, logs=None):
        self.calls.append("begin")

    def on_test_batch_begin(self, batch, logs=None):
        self.calls.append(("batch begins", batch))

    def on_test_batch_end(self, batch, logs=None):
        self.calls.append(("batch", batch, sorted(logs)))

    def on_test_end(self, logs=None):
        self.calls.append(("end", {name: round(float(value), 4) for name, value in sorted(logs.items())}))

    def on_predict_begin(self, logs=None):
        self.calls.append("predict")

    def on_predict_batch_begin(self, batch, logs=None):
        self.calls.append(("batch begins", batch))

    def on_predict_batch_end(self, batch, logs=None):
        self.calls.append(("batch", batch, np.asarray(logs["outputs"]).shape))

    def on_predict_end(self, logs=None):
        self.calls.append("predicted")


@pytest.mark.any_backend
def test_callbacks_of_an_evaluation_and_of_a_prediction_are_called_as_keras_calls_them():
    x = np.random.default_rng(0).normal(size=(70, 2)).astype("float32")
    y = x.sum(axis=1, keepdims=True)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", metrics=["mae"])
    expected, found = Told(), Told()
    model.evaluate(x, y, batch_size=32, verbose=0, callbacks=[expected])
    model.predict(x, batch_size=32, verbose=0, callbacks=[expected])
    task, runner = SupervisedTask(model, loss="mse", metrics=["mae"]), Runner(progress=False)
    runner.evaluate(task, (x, y), callbacks=[found])
    runner.predict(task, x, batch_size=32, callbacks=[found])
    assert found.calls == expected.calls
    assert found.model is model
    with pytest.raises(TypeError, match=r"A callback must be a keras\.callbacks\.Callback, got str"):
        runner.evaluate(task, (x, y), callbacks=["told"])
