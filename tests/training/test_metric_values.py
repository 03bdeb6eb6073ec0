"""Values of metrics: several of one metric, names given twice, and metrics that a step does not update."""

import json

import keras
import numpy as np
import pytest
from keras import layers, ops

from lightkeras import Runner, SupervisedTask
from lightkeras.data.feed import ArrayFeed
from lightkeras.task import Task
from lightkeras.training.metric_values import metric_values, numbered

X = np.random.default_rng(0).normal(size=(60, 2)).astype("float32")
CLASSES = np.eye(3, dtype="float32")[np.arange(60) % 3]


@pytest.fixture
def runner(tmp_path):
    return Runner(max_epochs=2, patience=None, progress=False, pictures=False, export=False, run_dir=tmp_path / "run")


def test_metrics_that_hold_several_values_give_them_all():
    class Two(keras.metrics.Metric):
        def result(self):
            return {"a": ops.convert_to_tensor(1.0), "b": 2}

    assert metric_values(Two()) == {"a": 1.0, "b": 2.0}
    mean = keras.metrics.Mean("m")
    mean.update_state(3.0)
    assert metric_values(mean) == {"m": 3.0}


def test_a_metric_of_a_dict_is_logged_by_its_keys_as_keras_does(runner):
    class Counted(keras.metrics.Metric):
        def __init__(self):
            super().__init__(name="counted")
            self.count = self.add_weight(initializer="zeros", name="count")

        def update_state(self, y_true, y_pred, sample_weight=None):
            self.count.assign_add(1.0)

        def result(self):
            return {"batches": self.count * 1.0, "twice": self.count * 2.0}

    model = keras.Sequential([keras.Input((2,)), layers.Dense(3)])
    history = runner.fit(SupervisedTask(model, loss="mse", metrics=[Counted()]), (X, CLASSES)).history
    assert history["train/batches"] == (2.0, 2.0)
    assert history["train/twice"] == (4.0, 4.0)


def test_a_metric_that_only_validation_builds_is_not_read_in_training(runner):
    class Scored(Task):
        def build(self):
            self.model = keras.Sequential([keras.Input((2,)), layers.Dense(3, "softmax")])
            self.optimizer, self.score = keras.optimizers.SGD(0.1), keras.metrics.F1Score(name="f1_score")

        def loss(self, batch, training):
            outputs = self.model(batch[0])
            if not training:
                self.score.update_state(batch[1], outputs)
            return ops.mean(ops.square(outputs - batch[1]))

    history = runner.fit(Scored(), (X, CLASSES), (-X, CLASSES)).history
    names = {name for name in history if "f1_score" in name}
    assert names == {"val/f1_score", "val/f1_score/0", "val/f1_score/1", "val/f1_score/2"}


class Fixed(keras.metrics.Metric):
    """A metric with a given result."""

    def __init__(self, result):
        super().__init__(name="fixed")
        self.given = result

    def result(self):
        return ops.convert_to_tensor(self.given)


def test_a_result_of_several_values_gives_each_and_their_mean():
    assert metric_values(Fixed([1.0, 2.0, 6.0])) == {"fixed": 3.0, "fixed/0": 1.0, "fixed/1": 2.0, "fixed/2": 6.0}
    matrix = metric_values(Fixed([[1, 2], [3, 6]]))
    assert matrix == {"fixed": 3.0, "fixed/0/0": 1.0, "fixed/0/1": 2.0, "fixed/1/0": 3.0, "fixed/1/1": 6.0}
    with pytest.raises(
        ValueError, match=r"'fixed' has a result of shape \(1001,\); expected a scalar, or at most 1000"
    ):
        metric_values(Fixed(np.zeros(1001, "float32")))


def test_names_that_occurred_before_are_numbered():
    assert numbered(["a", "b", "a", "a"]) == ["a", "b", "a_1", "a_2"]
    assert numbered(["a", "a", "a_1"]) == ["a", "a_2", "a_1"]


def test_scores_of_the_classes_are_logged_and_can_be_monitored(tmp_path):
    model = keras.Sequential([keras.Input((2,)), layers.Dense(3, "softmax")])
    task = SupervisedTask(model, loss="categorical_crossentropy", metrics=[keras.metrics.F1Score()])
    stop = keras.callbacks.EarlyStopping("val_f1_score/1", mode="max", patience=5)
    given = {"progress": False, "run_dir": tmp_path / "run", "patience": 5}
    made = Runner(max_epochs=2, monitor="val/f1_score/2", callbacks=[stop], **given)
    result = made.fit(task, (X[:40], CLASSES[:40]), (X[40:], CLASSES[40:]))
    for split in ("train", "val"):
        each = [result.history[f"{split}/f1_score/{number}"] for number in range(3)]
        np.testing.assert_allclose(result.history[f"{split}/f1_score"], np.mean(each, axis=0), rtol=1e-6)
    assert result.best.value == max(result.history["val/f1_score/2"])
    header = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0]
    assert header.split(",")[3:8] == ["train/loss", *(f"train/f1_score{end}" for end in ("", "/0", "/1", "/2"))]
    assert set(made.evaluate(task, (X, CLASSES)).metrics) >= {"f1_score", "f1_score/0"}


class Twice(keras.Model):
    """Two outputs without names."""

    def __init__(self):
        super().__init__()
        self.one, self.other = layers.Dense(1), layers.Dense(1)

    def call(self, inputs):
        return [self.one(inputs), self.other(inputs)]


def test_outputs_to_which_keras_gives_one_name_are_numbered(runner):
    task = SupervisedTask(Twice(), loss=["mse", "mse"])
    y = (X[:, :1], X[:, 1:] + 3)
    history = runner.fit(task, ArrayFeed((X, y), 20)).history
    names = [name for name in history if name != "train/loss"]
    assert len(names) == 2
    assert names[1] == f"{names[0]}_1"
    np.testing.assert_allclose(np.add(history[names[0]], history[names[1]]), history["train/loss"], rtol=1e-5)
    assert history[names[1]][0] > history[names[0]][0]


# ---------------------------------------------------------------------- metrics that a step does not update


class Partly(Task):
    """One metric for both steps, one for training only, one for validation only."""

    def build(self):
        self.model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
        self.optimizer = keras.optimizers.SGD(0.01)
        self.both, self.trained, self.held = (keras.metrics.Mean(name) for name in ("both", "trained", "held"))

    def loss(self, batch, training):
        found = self.model(batch)
        self.both.update_state(found)
        (self.trained if training else self.held).update_state(found + 7.0)
        return ops.mean(ops.square(found - 1.0))


def test_a_metric_is_logged_only_for_the_split_whose_step_updates_it(runner):
    result = runner.fit(Partly(), X[:40], X[40:])
    expected = {"train/loss", "train/both", "train/trained", "val/loss", "val/both", "val/held"}
    assert set(result.history) == expected
    assert all(values[0] > 1 for name, values in result.history.items() if name in ("train/trained", "val/held"))
    best = json.loads((result.run_dir / "result.json").read_text())["fit"]["best"]
    assert set(best) == {"step", "epoch", *expected}
    assert set(runner.evaluate(Partly(), X).metrics) == {"loss", "both", "held"}


@pytest.mark.parametrize(("monitor", "step"), [("val/trained", "evaluate_step"), ("train/held", "train_step")])
def test_a_metric_that_a_step_does_not_update_cannot_be_monitored(tmp_path, monitor, step):
    name = monitor.split("/")[1]
    with pytest.raises(
        ValueError, match=rf"monitor='{monitor}': {step} does not update the metric '{name}'.*Update it"
    ):
        Runner(monitor=monitor, mode="min", run_dir=tmp_path / "run").fit(Partly(), X[:40], X[40:])
    assert not (tmp_path / "run").exists()
