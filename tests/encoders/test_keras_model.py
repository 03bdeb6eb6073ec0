"""A frozen Keras model as an encoder: what it depends on, and what it is joined to."""

import keras
import numpy as np
import pytest
from keras import layers

from lightkeras.encoders.base import JoinError
from lightkeras.encoders.keras_model import KerasEncoder

X = np.random.default_rng(0).normal(size=(5, 2)).astype("float32")


def sequential(seed=0):
    return keras.Sequential(
        [keras.Input((2,)), layers.Dense(3, "tanh", kernel_initializer=keras.initializers.GlorotNormal(seed))]
    )


def functional():
    inputs = {"left": keras.Input((2,), name="left"), "right": keras.Input((2,), name="right")}
    summed = layers.Add()([inputs["left"], inputs["right"]])
    return keras.Model(inputs, {"sum": summed, "scaled": layers.Rescaling(2.0)(summed)})


def test_features_are_the_outputs_in_inference_mode():
    model = keras.Sequential([*sequential().layers, layers.Dropout(0.9)])
    model.build((None, 2))
    encoder = KerasEncoder(model)
    assert not model.trainable
    np.testing.assert_array_equal(encoder.encode(X), keras.ops.convert_to_numpy(model(X, training=False)))


@pytest.mark.parametrize("top", ["sequential", "functional"])
def test_a_sequential_encoder_is_joined_with_a_model(top):
    encoder = KerasEncoder(sequential())
    features = encoder.inputs()
    assert features.shape == (None, 3)
    dense = layers.Dense(1)
    model = keras.Sequential([features, dense]) if top == "sequential" else keras.Model(features, dense(features))
    joined = encoder.join(model)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(joined(X)), keras.ops.convert_to_numpy(model(encoder.encode(X))), rtol=1e-6
    )


def test_several_inputs_and_outputs_keep_their_names():
    encoder = KerasEncoder(functional())
    features = encoder.inputs()
    assert set(features) == {"sum", "scaled"}
    model = keras.Model(features, layers.Subtract()([features["scaled"], features["sum"]]))
    joined = encoder.join(model)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(joined({"left": X, "right": 3 * X})), 4 * X, rtol=1e-6)


def test_the_fingerprint_is_that_of_layers_and_weights():
    assert KerasEncoder(sequential()).fingerprint == KerasEncoder(sequential()).fingerprint
    assert KerasEncoder(sequential()).fingerprint != KerasEncoder(sequential(seed=1)).fingerprint
    wider = keras.Sequential([*sequential().layers, layers.Rescaling(2.0)])
    wider.build((None, 2))
    assert KerasEncoder(wider).fingerprint != KerasEncoder(sequential()).fingerprint


def test_a_layer_without_inputs_is_refused_with_what_to_do():
    with pytest.raises(ValueError, match=r"build_encoder returned Dense .*Put a layer behind an input"):
        KerasEncoder(layers.Dense(2))


def test_a_model_of_other_inputs_cannot_be_joined():
    encoder = KerasEncoder(sequential())
    other = keras.Input((7,))
    with pytest.raises(JoinError, match="does not take the features"):
        encoder.join(keras.Model(other, layers.Dense(1)(other)))

    class Own(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(JoinError, match="neither functional nor sequential"):
        encoder.join(Own())
