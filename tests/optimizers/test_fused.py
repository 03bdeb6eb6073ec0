"""`FusedAdam`: Adam, closer to float64 than Keras's, and a Keras optimizer in all else."""

import json

import keras
import numpy as np
import pytest
from keras import layers, ops

import lightkeras as lk
from lightkeras import Runner, SupervisedTask
from lightkeras.optimizers import FusedAdam
from lightkeras.system.variables import read_variables

with_kernel = pytest.mark.backends("tensorflow", "torch", reason="on JAX it is Keras's own Adam")
RNG = np.random.default_rng(0)
SHAPES = [(7, 3), (3,), ()]
START = [RNG.normal(size=shape).astype("float32") for shape in SHAPES]
GRADIENTS = [[RNG.normal(size=shape).astype("float32") for shape in SHAPES] for _ in range(12)]


def trained(optimizer, gradients=GRADIENTS, dtype="float32"):
    """Values of the variables, and of the optimizer's own, after some steps."""
    variables = [keras.Variable(value, dtype=dtype) for value in START]
    optimizer.build(variables)
    for given in gradients:
        optimizer.apply([ops.convert_to_tensor(gradient) for gradient in given], variables)
    return [ops.convert_to_numpy(variable) for variable in (*variables, *optimizer.variables)]


@with_kernel
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"amsgrad": True},
        {"beta_1": 0.0, "beta_2": 0.5, "epsilon": 1e-2},
        {"weight_decay": 0.1},
        {"clipnorm": 0.5, "use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 7},
        {"gradient_accumulation_steps": 3, "loss_scale_factor": 8.0},
        {"learning_rate": keras.optimizers.schedules.ExponentialDecay(0.1, 5, 0.5)},
    ],
    ids=lambda settings: "-".join(settings) or "defaults",
)
def test_it_computes_what_adam_does(settings):
    settings = {"learning_rate": 0.1, **settings}
    for ours, theirs in zip(trained(FusedAdam(**settings)), trained(keras.optimizers.Adam(**settings)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-5)


def adam_in_float64(rate, amsgrad=False):
    """The first of the variables after the steps."""
    weights = START[0].astype("float64")
    m = v = largest = np.zeros_like(weights)
    for step, (gradient, *_) in enumerate(GRADIENTS, 1):
        m = m + (gradient - m) * (1 - 0.9)
        v = v + (gradient.astype("float64") ** 2 - v) * (1 - 0.999)
        largest = np.maximum(largest, v)
        alpha = rate * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        weights = weights - alpha * m / (np.sqrt(largest if amsgrad else v) + 1e-7)
    return weights


@pytest.mark.backends("jax", reason="the other backends have a kernel")
def test_on_jax_it_has_the_bits_of_adam():
    settings = {"learning_rate": 0.1, "amsgrad": True, "weight_decay": 0.1, "clipnorm": 0.5}
    for ours, theirs in zip(trained(FusedAdam(**settings)), trained(keras.optimizers.Adam(**settings)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@with_kernel
@pytest.mark.parametrize("amsgrad", [False, True] if keras.backend.backend() == "torch" else [False])
def test_it_is_no_further_from_adam_in_float64_than_keras_own(amsgrad):
    exact = adam_in_float64(0.1, amsgrad)
    ours, theirs = (
        np.abs(trained(kind(0.1, amsgrad=amsgrad))[0] - exact).max() for kind in (FusedAdam, keras.optimizers.Adam)
    )
    assert ours <= theirs / 3


@with_kernel
def test_in_float64_it_is_adam_in_float64():
    found = trained(FusedAdam(0.1), dtype="float64")[0]
    np.testing.assert_allclose(found, adam_in_float64(float(np.float32(0.1))), rtol=1e-12)


@with_kernel
def test_each_variable_is_updated_in_its_own_type():
    """By Keras's operations where the type is neither float32 nor float64, to the bit."""

    def of_types(kind):
        variables = [keras.Variable(START[0], dtype=dtype) for dtype in ("bfloat16", "float32", "float64")]
        optimizer = kind(0.1, beta_2=0.5)
        optimizer.build(variables)
        for variable in variables:  # one after the other: Keras on torch updates all in the type of the first
            optimizer.apply([ops.ones(SHAPES[0], variable.dtype)], [variable])
        return [ops.convert_to_numpy(ops.cast(variable, "float64")) for variable in variables]

    together = [keras.Variable(START[0], dtype=dtype) for dtype in ("bfloat16", "float32", "float64")]
    optimizer = FusedAdam(0.1, beta_2=0.5)
    optimizer.build(together)
    optimizer.apply([ops.ones(SHAPES[0], variable.dtype) for variable in together], together)
    (half, single, double), theirs = of_types(FusedAdam), of_types(keras.optimizers.Adam)
    np.testing.assert_array_equal(half, theirs[0])
    np.testing.assert_array_equal(ops.convert_to_numpy(ops.cast(together[0], "float64")), half)
    np.testing.assert_allclose([single, double], theirs[1:], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ops.convert_to_numpy(together[2]), START[0] - 0.1, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "settings", [{"beta_1": 1.0}, {"beta_2": 1}, {"beta_1": -0.1}, {"beta_2": float("nan")}, {"beta_2": 1 - 1e-10}]
)
def test_betas_out_of_their_range_are_refused(settings):
    with pytest.raises(ValueError, match=r"FusedAdam\(beta_\d=.*\): expected a number from 0 to below 1"):
        FusedAdam(**settings)


# ---------------------------------------------------------------------- in Keras and in a run

X = RNG.normal(size=(90, 4)).astype("float32")
Y = (X[:, :1] > 0).astype("float32")


def model(optimizer):
    keras.utils.set_random_seed(5)
    made = keras.Sequential([keras.Input((4,)), layers.Dense(3, "tanh"), layers.Dense(1)])
    made.compile(optimizer, keras.losses.BinaryCrossentropy(from_logits=True))
    return made


def test_a_config_makes_the_same_optimizer_again():
    optimizer = FusedAdam(0.02, beta_1=0.8, epsilon=1e-4, amsgrad=True, weight_decay=0.1, clipnorm=2.0)
    json.dumps(keras.saving.serialize_keras_object(optimizer))
    again = keras.optimizers.get(keras.optimizers.serialize(optimizer))
    assert type(again) is FusedAdam is lk.optimizers.FusedAdam
    assert again.get_config() == optimizer.get_config()


def test_a_saved_model_continues_to_the_bit_and_adam_continues_it_too(tmp_path):
    ours = model(FusedAdam(0.05))
    ours.fit(X, Y, batch_size=16, epochs=2, shuffle=False, verbose=0)
    ours.save(tmp_path / "model.keras")
    again, adams = keras.models.load_model(tmp_path / "model.keras"), model(keras.optimizers.Adam(0.05))
    adams.optimizer.build(adams.trainable_variables)
    for variable, saved in zip(
        (*adams.variables, *adams.optimizer.variables), (*ours.variables, *ours.optimizer.variables), strict=True
    ):
        variable.assign(ops.convert_to_numpy(saved))
    for each in (ours, again, adams):
        each.fit(X, Y, batch_size=16, epochs=1, shuffle=False, verbose=0)
    expected = [ops.convert_to_numpy(variable) for variable in ours.weights]
    for found, of_adam, value in zip(again.weights, adams.weights, expected, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(found), value)
        np.testing.assert_allclose(ops.convert_to_numpy(of_adam), value, rtol=1e-4, atol=1e-5)


def fit(run_dir, resume=False, **settings):
    task = SupervisedTask(
        model(FusedAdam(0.05)), loss=keras.losses.BinaryCrossentropy(from_logits=True), optimizer=FusedAdam(0.05)
    )
    runner = Runner(run_dir=run_dir, max_epochs=3, patience=None, pictures=False, export=False, **settings)
    runner.fit(task, (X, Y), batch_size=16, resume=resume)
    return read_variables(task.variables())


def test_a_run_that_stopped_inside_an_epoch_ends_as_one_that_never_stopped(tmp_path):
    whole = fit(tmp_path / "whole")
    fit(tmp_path / "stopped", max_steps=8)
    resumed = fit(tmp_path / "stopped", resume=True)
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        np.testing.assert_array_equal(resumed[name], value)


@with_kernel
def test_with_a_scaled_loss_a_step_that_overflows_changes_nothing():
    variable = keras.Variable(START[0])
    optimizer = keras.optimizers.LossScaleOptimizer(FusedAdam(0.1), initial_scale=64.0)
    optimizer.build([variable])
    optimizer.apply([ops.full(SHAPES[0], float("inf"))], [variable])
    np.testing.assert_array_equal(ops.convert_to_numpy(variable), START[0])
    optimizer.apply([ops.ones(SHAPES[0])], [variable])
    np.testing.assert_allclose(ops.convert_to_numpy(variable), START[0] - 0.1, rtol=1e-4, atol=2e-5)
