"""Losses of layers: warned of where a step leaves them out, and added as Keras adds them where it reads them."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

from lightkeras import Runner, SupervisedTask
from lightkeras.data.feed import ArrayFeed
from lightkeras.task import Task

X = np.random.default_rng(0).normal(size=(32, 3)).astype("float32")
Y = X[:, :1] ** 2


class Divergence(layers.Layer):
    """Adds a loss of its own, and has no variables."""

    def call(self, inputs):
        self.add_loss(0.1 * ops.mean(ops.square(inputs)))
        return inputs


def net(*inside):
    return keras.Sequential([keras.Input((3,)), *inside, layers.Dense(1, name="end")])


def regularized():
    return net(layers.Dense(4, kernel_regularizer=keras.regularizers.L2(0.3), name="weights"))


def active():
    return net(layers.Dense(4, "relu", activity_regularizer=keras.regularizers.L1(0.1), name="active"))


def adding():
    return net(layers.Dense(4), Divergence(name="divergence"))


def nested():
    return net(keras.Sequential([layers.Dense(4), Divergence(name="divergence")], name="inner"))


MODELS = {"weights/kernel": regularized, "active": active, "divergence": adding}


class Plain(Task):
    """Leaves the losses of layers out."""

    def __init__(self, model, adds=False):
        super().__init__()
        self._made, self._adds = model, adds

    def build_model(self):
        return self._made()

    def build_optimizer(self):
        return keras.optimizers.SGD(0.05)

    def loss(self, batch, training):
        error = ops.mean(ops.square(self.model(batch[0], training=training) - batch[1]))
        return error + sum(self.model.losses) if self._adds else error


def fit(run_dir, task, **settings):
    settings = {"max_epochs": 2, "patience": None, "progress": False, "pictures": False, "export": False, **settings}
    return Runner(run_dir=run_dir, **settings).fit(task, ArrayFeed((X, Y), 8))


@pytest.mark.parametrize("name", MODELS)
def test_losses_that_a_step_leaves_out_are_warned_of(tmp_path, name):
    for number, settings in enumerate([{}, {"preflight": False}]):
        with pytest.warns(
            UserWarning, match=rf"Plain.train_step never reads self.model.losses: .*{name} \(reg"
        ) as seen:
            fit(tmp_path / str(number), Plain(MODELS[name]), **settings)
        assert "`loss + sum(self.model.losses)`" in str(seen[0].message)


def test_losses_inside_a_nested_model_are_found_and_several_models_are_named(tmp_path):
    class Two(Plain):
        def build(self):
            super().build()
            self.parts = [regularized()]

        def loss(self, batch, training):
            return super().loss(batch, training) + ops.mean(ops.square(self.parts[0](batch[0])))

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        fit(tmp_path / "run", Two(nested))
    found = [str(warning.message) for warning in seen if "never reads" in str(warning.message)]
    assert len(found) == 2
    assert "self.model.losses: the losses of divergence (" in found[0]
    assert "self.parts.0.losses: the losses of sequential" in found[1]


@pytest.mark.parametrize("make", [*MODELS.values(), nested], ids=[*MODELS, "nested"])
def test_losses_that_are_read_give_the_numbers_of_keras_and_no_warning(tmp_path, make):
    def made():
        keras.utils.set_random_seed(1)
        return make()

    plain = made()
    plain.compile(optimizer=keras.optimizers.SGD(0.05), loss="mse")
    history = plain.fit(X, Y, 8, 2, 0, shuffle=False).history["loss"]
    for number, task in enumerate(
        [Plain(made, adds=True), SupervisedTask(made(), loss="mse", optimizer=keras.optimizers.SGD(0.05))]
    ):
        result = fit(tmp_path / str(number), task)
        np.testing.assert_allclose(result.history["train/loss"], history, rtol=1e-5)


def test_losses_of_frozen_layers_and_of_a_part_that_is_read_are_not_warned_of(tmp_path):
    class Taught(Plain):
        def build(self):
            super().build()
            self.teacher = active()
            self.teacher.trainable = False

        def loss(self, batch, training):
            taught = self.teacher(batch[0])
            found = self.model(batch[0], training=training)
            return ops.mean(ops.square(found - taught)) + sum(self.model.get_layer("weights").losses)

    fit(tmp_path / "run", Taught(regularized))
