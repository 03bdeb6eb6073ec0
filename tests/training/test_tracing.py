"""What the traces of a task's steps find before anything is computed."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from lightkeras import Runner
from lightkeras.task import Task
from lightkeras.testing import TwoMoons, two_moons
from lightkeras.training.step_errors import TaskError
from lightkeras.training.tracing import check_monitor


@pytest.fixture
def fit(tmp_path, monkeypatch):
    """Fits below an empty folder, which must be empty afterwards."""
    monkeypatch.chdir(tmp_path)

    def run(task, *data, batch_size=32, **settings):
        Runner(**{"max_epochs": 2, "progress": False} | settings).fit(task, *data, batch_size=batch_size)

    yield run
    assert list(tmp_path.iterdir()) == []


def test_a_misspelled_monitor_is_refused_with_the_names_there_are(fit):
    message = (
        r"monitor='val/acuracy': no epoch logs that. Did you mean 'val/accuracy'\? "
        r"Valid names: train/accuracy, train/loss, val/accuracy, val/loss\."
    )
    with pytest.raises(ValueError, match=message):
        fit(TwoMoons(), monitor="val/acuracy", mode="max")


def test_a_monitor_of_validation_without_validation_is_refused(fit):
    with pytest.raises(ValueError, match=r"'val/loss': no epoch logs that.*Valid names: train/accuracy, train/loss\."):
        fit(TwoMoons(), two_moons(64), monitor="val/loss")


def test_any_name_that_is_logged_may_be_monitored():
    check_monitor("val/x", ["train/x", "val/x"])
    with pytest.raises(ValueError, match=r"'val/x': no epoch logs that. There are no valid names"):
        check_monitor("val/x", [])


def test_a_task_with_nothing_to_train_is_refused(fit):
    class Frozen(TwoMoons):
        def build(self):
            super().build()
            self.model.trainable = False

    with pytest.raises(TaskError, match=r"Frozen has no trainable variables: every layer is frozen .*`trainable=True`"):
        fit(Frozen())


def test_a_step_that_never_minimizes_is_refused(fit):
    class Watching(TwoMoons):
        def train_step(self, batch):
            return self.loss(batch, training=True)

    with pytest.raises(TaskError, match=r"Watching.train_step never calls self.minimize, so nothing would be learned"):
        fit(Watching())


def test_an_evaluation_that_learns_is_refused(fit):
    class Cheating(TwoMoons):
        def evaluate_step(self, batch):
            return self.train_step(batch)

    with pytest.raises(TaskError, match=r"Cheating.evaluate_step calls self.minimize: evaluation must not train"):
        fit(Cheating())


def test_a_prediction_that_learns_is_refused(fit):
    class Cheating(TwoMoons):
        def predict_step(self, batch):
            self.minimize(lambda: ops.sum(self.model(batch)))
            return batch

    with pytest.raises(TaskError, match=r"Cheating.predict_step calls self.minimize: prediction must not train"):
        Runner().predict(Cheating(), np.zeros((3, 2)))


def test_a_log_and_a_metric_of_one_name_are_refused(fit):
    class Double(TwoMoons):
        def build(self):
            super().build()
            self.metric = keras.metrics.Mean("accuracy")

        def loss(self, batch, training):
            self.metric.update_state(1.0)
            return super().loss(batch, training)

    with pytest.raises(TaskError, match="Double logs accuracy more than once: give each value its own name"):
        fit(Double())


def test_a_step_that_logs_nothing_is_refused(fit):
    class Mute(TwoMoons):
        def loss(self, batch, training):
            return ops.mean(self.model(batch[0]))

        def train_step(self, batch):
            super().train_step(batch)

    with pytest.raises(TaskError, match=r"Mute logs nothing in train: return the loss from the step, or call self.log"):
        fit(Mute())


def test_a_loss_that_does_not_depend_on_the_model_is_refused(fit):
    class Apart(TwoMoons):
        def loss(self, batch, training):
            return ops.mean(batch[0])

    with pytest.raises(TaskError, match=r"Apart.train_step: the loss depends on none of the variables .*dense.*kernel"):
        fit(Apart())


def test_a_loss_that_misses_one_of_two_models_is_refused_with_its_name(fit):
    class Half(TwoMoons):
        def build(self):
            super().build()
            self.encoder = keras.Sequential([keras.Input((2,)), layers.Dense(3, name="unused")])

    with pytest.raises(TaskError, match=r"does not depend on the variables of self.encoder \(.*unused/kernel"):
        fit(Half())


def test_a_model_whose_own_step_is_not_called_is_warned_of(tmp_path):
    class Net(keras.Sequential):
        def train_step(self, data):
            raise AssertionError("called")

    class Mine(Task):
        def build_model(self):
            return Net([keras.Input((1,)), layers.Dense(1)])

        def loss(self, batch, training):
            return ops.mean(ops.square(self.model(batch[0]) - batch[1]))

    x = np.ones((8, 1), "float32")
    with pytest.warns(UserWarning, match=r"Net.train_step, of self.model, is not called: .* steps of Mine"):
        Runner(run_dir=tmp_path / "run").check(Mine(), (x, x), batch_size=4)
