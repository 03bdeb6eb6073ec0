"""A run gives the same weights as Keras's `fit`, for several optimizers and dtype policies."""

import keras
import numpy as np
import pytest
from keras import layers

from lightkeras import Runner, SupervisedTask, Task, optimizers
from lightkeras.data.feed import ArrayFeed
from lightkeras.runs import checkpoint
from lightkeras.testing import two_moons

X, Y = two_moons(100)  # 7 batches of 16, the last of 4
CLASS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def model():
    keras.utils.set_random_seed(3)
    inside = [layers.Dense(8, "tanh"), layers.BatchNormalization(), layers.Dense(2, dtype="float32")]
    return keras.Sequential([keras.Input((2,)), *inside])


def sgd(**settings):
    return lambda: keras.optimizers.SGD(0.1, momentum=0.9, **settings)


def adam(**settings):
    return lambda: keras.optimizers.Adam(**{"learning_rate": 0.02, **settings})


def scaled(**settings):
    return lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.02), **settings)


OPTIMIZERS = {
    "accumulated": (sgd(gradient_accumulation_steps=3), "float32"),
    "accumulated and clipped": (sgd(gradient_accumulation_steps=4, global_clipnorm=0.05), "float32"),
    "clipped by norm": (sgd(clipnorm=0.02), "float32"),
    "clipped by value": (sgd(clipvalue=0.005), "float32"),
    "averaged at the end": (adam(use_ema=True, ema_momentum=0.9), "float32"),
    "averaged meanwhile": (adam(use_ema=True, ema_momentum=0.8, ema_overwrite_frequency=5), "float32"),
    "decayed": (adam(weight_decay=0.1), "float32"),
    "scheduled": (lambda: keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 5, 0.5)), "float32"),
    "mixed_bfloat16": (adam(), "mixed_bfloat16"),
    "mixed_float16": (adam(), "mixed_float16"),  # Keras wraps the optimizer itself
    "mixed_float16, overflowing": (scaled(initial_scale=2.0**30, dynamic_growth_steps=3), "mixed_float16"),
}


@pytest.fixture
def policy():
    """Sets the dtype policy, and puts it back."""
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


def fitted_by_keras(make_optimizer, epochs):
    found = model()
    found.compile(optimizer=make_optimizer(), loss=CLASS, metrics=["accuracy"])
    history = found.fit(X, Y, batch_size=16, epochs=epochs, shuffle=False, verbose=0)
    return found, history.history


# Keras's own optimizers compute these, no engine handles them in a way of its own; or another case includes them.
REPEATED = (
    *("clipped by norm", "clipped by value", "decayed", "accumulated and clipped"),
    *("averaged meanwhile", "mixed_float16"),
)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.long] if name in REPEATED else []) for name in OPTIMIZERS],
)
def test_weights_and_optimizers_end_as_those_of_keras(name, policy, tmp_path):
    make_optimizer, dtypes = OPTIMIZERS[name]
    policy(dtypes)
    expected, history = fitted_by_keras(make_optimizer, 3)
    task = SupervisedTask(model(), loss=CLASS, optimizer=make_optimizer(), metrics=["accuracy"])
    settings = {"max_epochs": 3, "patience": None, "progress": False, "pictures": False, "export": False}
    result = Runner(run_dir=tmp_path / "run", preflight=False, **settings).fit(task, ArrayFeed((X, Y), 16))
    tolerance = 1e-6 if dtypes == "float32" else 2e-3
    np.testing.assert_allclose(result.history["train/loss"], history["loss"], rtol=tolerance)
    np.testing.assert_allclose(
        result.history["train/accuracy"], history["accuracy"], atol=0.011 if tolerance > 1e-6 else 1e-6
    )
    found = task.model
    for one, other in zip(found.weights, expected.weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=20 * tolerance, atol=5 * tolerance, err_msg=other.path)
    own, theirs = found.optimizer.variables, expected.optimizer.variables
    assert [v.shape for v in own] == [v.shape for v in theirs]
    for one, other in zip(own, theirs, strict=True):
        if one.dtype.startswith("int") or one.shape == ():  # what is counted: iterations, the scale, the rate
            np.testing.assert_array_equal(one, other, other.path)


class Classifier(Task):
    """The model as a task with a loss of its own."""

    def __init__(self, optimizer):
        super().__init__()
        self._given = optimizer

    def build_model(self):
        return model()

    def build_optimizer(self):
        return self._given

    def loss(self, batch, training):
        return CLASS(batch[1], self.model(batch[0], training=training))


@pytest.mark.parametrize(
    "make_optimizer",
    [
        adam(learning_rate=keras.optimizers.schedules.ExponentialDecay(0.02, 5, 0.5)),
        pytest.param(adam(), marks=pytest.mark.long),
        pytest.param(optimizers.LazyAdam, marks=pytest.mark.long),
    ],
    ids=["scheduled", "adam", "lazy"],
)
def test_a_task_in_float16_scales_its_loss_as_keras_does(make_optimizer, policy, tmp_path):
    policy("mixed_float16")
    expected, history = fitted_by_keras(make_optimizer, 3)
    task = Classifier(make_optimizer())
    settings = {"max_epochs": 3, "patience": None, "progress": False, "pictures": False, "export": False}
    result = Runner(**settings, run_dir=tmp_path / "run").fit(task, ArrayFeed((X, Y), 16))
    np.testing.assert_allclose(result.history["train/loss"], history["loss"], rtol=2e-3)
    for one, other in zip(task.model.weights, expected.weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=0.04, atol=0.01, err_msg=other.path)
    assert isinstance(task.optimizer, keras.optimizers.LossScaleOptimizer)
    assert int(task.optimizer.iterations) >= 20  # one step may overflow, by the last bits of the backend
    assert float(task.optimizer.learning_rate) == pytest.approx(float(expected.optimizer.learning_rate), rel=0.15)


CLIPPED = {"global_clipnorm": 0.05}


@pytest.mark.parametrize(
    ("steps_per_call", "clipped"),
    [
        (5, CLIPPED),
        (None, {}),
        *(pytest.param(*given, marks=pytest.mark.long) for given in [(1, {}), (1, CLIPPED), (5, {}), (None, CLIPPED)]),
    ],
)
def test_small_batches_gathered_are_one_large_batch(steps_per_call, clipped, tmp_path):
    def weights(batch_size, gathered):
        # Without normalisation, which is over a batch; and 96 of the examples, so that all batches are equally large.
        keras.utils.set_random_seed(3)
        net = keras.Sequential([keras.Input((2,)), layers.Dense(8, "tanh"), layers.Dense(2)])
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9, gradient_accumulation_steps=gathered, **clipped)
        run = Runner(
            max_epochs=2,
            run_dir=tmp_path / str(batch_size),
            progress=False,
            pictures=False,
            preflight=False,
            export=False,
            steps_per_call=steps_per_call,
        )
        result = run.fit(SupervisedTask(net, loss=CLASS, optimizer=optimizer), ArrayFeed((X[:96], Y[:96]), batch_size))
        return net.get_weights(), result

    small, many = weights(8, 4)
    large, few = weights(32, None)
    assert (many.steps, few.steps) == (24, 6)
    for one, other in zip(small, large, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_step_that_overflows_is_left_out_by_the_optimizer_and_does_not_end_the_run(policy, tmp_path):
    policy("mixed_float16")
    optimizer = scaled(initial_scale=2.0**30, dynamic_growth_steps=100)()
    task = SupervisedTask(model(), loss=CLASS, optimizer=optimizer)
    result = Runner(max_epochs=3, run_dir=tmp_path / "run", progress=False).fit(task, ArrayFeed((X, Y), 16))
    assert (result.diverged, result.skipped, result.steps) == (False, (), 21)
    left_out = 21 - int(optimizer.inner_optimizer.iterations)
    assert left_out > 0
    assert float(optimizer.dynamic_scale) == 2.0 ** (30 - left_out)  # halved each time
    last = checkpoint.load(checkpoint.find(tmp_path / "run" / "checkpoints", "last"))
    assert all(np.isfinite(array).all() for array in last.arrays.values())
