"""The callback that averages weights, without a runner; `tests/training/test_averaging.py` has whole runs."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import lightkeras as lk


def model_of():
    inner = [
        layers.Normalization(mean=1.0, variance=4.0),
        layers.Dense(2, trainable=False),
        layers.BatchNormalization(),
    ]
    model = keras.Sequential([keras.Input((2,)), keras.Sequential(inner), layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


def begun(model, start=0, epochs=4):
    callback = lk.callbacks.AverageWeights(start)
    callback.set_params({"epochs": epochs})
    callback.set_model(model)
    callback.on_train_begin()
    return callback


def test_all_weights_are_averaged_and_statistics_are_not():
    model = model_of()
    callback = begun(model)
    norm, last = model.layers[0].layers[2], model.layers[1]
    for value in (1.0, 2.0, 6.0):
        for variable in (norm.gamma, norm.moving_mean, last.bias):
            variable.assign(ops.full(variable.shape, value))
        callback.on_epoch_end(0)
    callback.assign()
    assert ops.convert_to_numpy(norm.gamma).tolist() == [3.0, 3.0]
    assert ops.convert_to_numpy(last.bias).tolist() == [3.0]
    assert ops.convert_to_numpy(norm.moving_mean).tolist() == [6.0, 6.0]  # the last ones


def test_the_state_continues_in_another_object():
    model = model_of()
    first, second = begun(model, start=1), begun(model, start=1)
    bias = model.layers[1].bias
    for epoch, value in enumerate((9.0, 1.0)):
        bias.assign([value])
        first.on_epoch_end(epoch)
    assert first.epochs == 1
    second.load_state_dict(first.state_dict())
    bias.assign([4.0])
    second.on_epoch_end(2)
    second.assign()
    assert ops.convert_to_numpy(bias).tolist() == [2.5]
    assert all(total.dtype == np.float64 for total in second.state_dict()["sums"])


@pytest.mark.parametrize("start", [-1, 1.0, 1.5, float("nan"), True])
def test_a_start_out_of_range_is_refused(start):
    with pytest.raises(ValueError, match=r"expected a whole number of epochs, or a share from 0 to below 1"):
        lk.callbacks.AverageWeights(start)
