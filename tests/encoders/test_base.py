"""The inputs of an encoder in a batch, and encoders and models joined to one model."""

import collections

import keras
import numpy as np
import pytest
from keras import layers

from lightkeras.data.arrays import as_feed
from lightkeras.encoders.base import JoinError, batches_of, inputs_of, join_models, model_ends, with_inputs

Pair = collections.namedtuple("Pair", "x y")


def test_features_take_the_place_of_the_first_element_of_a_tuple_or_of_the_whole_batch():
    assert (inputs_of(("x", "y")), inputs_of({"a": 1}), inputs_of(["x"])) == ("x", {"a": 1}, ["x"])
    assert with_inputs(("x", "y", "w"), "f") == ("f", "y", "w")
    assert with_inputs({"a": 1}, "f") == "f"
    found = with_inputs(Pair("x", "y"), "f")
    assert (type(found), found) == (Pair, Pair("f", "y"))
    assert type(with_inputs(("x", "y"), "f")) is tuple


def test_a_split_in_memory_is_one_batch_and_a_stream_its_batches():
    x = np.arange(3)
    assert [batch.tolist() for batch in batches_of(as_feed(x, batch_size=2))] == [[0, 1, 2]]
    assert [batch.tolist() for batch in batches_of(as_feed(lambda: iter([x[:2], x[2:]])))] == [[0, 1], [2]]
    with pytest.raises(TypeError, match="Expected an ArrayFeed or a StreamFeed, got list"):
        next(batches_of([]))


@pytest.mark.parametrize("kind", ["sequential", "functional"])
def test_a_joined_model_computes_features_and_shares_the_models_weights(kind):
    features = keras.Input((2,))
    dense = layers.Dense(1, use_bias=False)
    model = keras.Sequential([features, dense]) if kind == "sequential" else keras.Model(features, dense(features))
    raw = keras.Input((2,))
    joined = join_models(raw, 2.0 * raw, model, "Twice")
    x = np.ones((3, 2), "float32")
    np.testing.assert_allclose(joined(x), model(2 * x))
    assert joined.name == model.name
    assert joined.layers[-1].name == f"{model.name}_of_Twice"
    assert [id(weight) for weight in joined.weights] == [id(weight) for weight in model.weights]


def test_a_model_of_other_features_and_a_subclassed_one_cannot_be_joined():
    class Mine(keras.Model):
        """Knows its inputs when it is called."""

    raw = keras.Input((2,))
    model = keras.Sequential([keras.Input((3,)), layers.Dense(1)], name="of_three")
    with pytest.raises(JoinError, match="'of_three' does not take the features of 'Words': "):
        join_models(raw, raw, model, "Words")
    with pytest.raises(JoinError, match="Mine 'mine' is neither functional nor sequential"):
        join_models(raw, raw, Mine(name="mine"), "Words")


def test_the_ends_of_a_functional_model_keep_their_structure():
    x = keras.Input((2,), name="x")
    model = keras.Model({"x": x}, [layers.Identity()(x)] * 2)
    assert model_ends(model) == ({"x": x}, model.output)
    assert isinstance(model_ends(model)[1], list)
