"""Text encoders: features and bags against the module, and joined with a model again, also on other backends."""

import importlib.util
import os

import forked
import keras
import numpy as np
import pytest
import tensorflow as tf

from lightkeras.encoders.base import JoinError
from lightkeras.encoders.hub import HubLayer, TextEncoder, sample_text_module

pytestmark = pytest.mark.backends("tensorflow", reason="the other backends are tried in processes of their own")

TEXTS = np.array([b"a good film", b"", "bad", b"words nobody knows: qzx"], dtype=object)


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIGHTKERAS_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield str(sample_text_module())


@pytest.fixture(scope="module")
def squared(tmp_path_factory):
    """A module that is linear in nothing."""

    class Squared(tf.Module):
        def __init__(self):
            self.vectors = tf.Variable(tf.random.stateless_normal([7, 3], [1, 2]))

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def __call__(self, texts):
            return tf.gather(self.vectors, tf.strings.to_hash_bucket_fast(texts, 7)) ** 2

    folder = tmp_path_factory.mktemp("modules") / "squared"
    tf.saved_model.save(Squared(), str(folder))
    return str(folder)


def built(encoder):
    inputs = encoder.inputs()
    hidden = keras.layers.Dense(3, "tanh")(encoder.embed(inputs))
    return keras.Model(inputs, keras.layers.Dense(2)(hidden))


def features_of(encoder, texts=TEXTS):
    found = encoder.encode(texts)
    return found if isinstance(found, np.ndarray) else found.batch()


def test_frozen_a_text_becomes_what_the_module_gives(sample):
    encoder = TextEncoder(sample)
    found = encoder.encode(TEXTS)
    assert (encoder.kind, found.dtype, found.shape) == ("features", np.float32, (4, 50))
    np.testing.assert_array_equal(found, HubLayer(sample)(tf.constant(TEXTS.tolist())))
    assert encoder.embed(inputs := encoder.inputs()) is inputs


def test_fine_tuned_the_model_begins_with_the_modules_own_table(sample):
    encoder = TextEncoder(sample, trainable=True)
    inputs = encoder.inputs()
    model = keras.Model(inputs, encoder.embed(inputs))
    assert encoder.kind == "bags"
    assert [v.shape for v in model.trainable_variables] == [(4096, 50)]
    expected = HubLayer(sample)(tf.constant(TEXTS.tolist()))
    np.testing.assert_allclose(model(features_of(encoder)), expected, atol=1e-6)


@pytest.mark.parametrize("trainable", [False, True])
def test_joined_with_a_model_it_takes_text(sample, trainable, tmp_path):
    encoder = TextEncoder(sample, trainable=trainable)
    model = built(encoder)
    if trainable:  # learned meanwhile
        model.trainable_variables[0].assign(model.trainable_variables[0] * 0.7 + 0.1)
    expected = model(features_of(encoder)).numpy()
    joined = encoder.join(model)
    assert joined.input.dtype == "string"
    joined.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=False)
    np.testing.assert_allclose(loaded(tf.constant(TEXTS.tolist())), expected, atol=1e-6)
    # The encoder itself still uses the module as it is in its files.
    np.testing.assert_allclose(model(features_of(encoder)), expected, atol=1e-6)


def test_two_outputs_by_name_are_joined_too(sample):
    encoder = TextEncoder(sample)
    features = encoder.inputs()
    outputs = {"b": keras.layers.Dense(1)(features), "a": keras.layers.Dense(2)(features)}
    model = keras.Model(features, outputs)
    found, expected = encoder.join(model)(tf.constant(TEXTS.tolist())), model(encoder.encode(TEXTS))
    assert found.keys() == {"a", "b"}
    for name in found:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-6)


def test_what_cannot_be_joined_is_refused(sample):
    class Own(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(JoinError, match=r"Own 'own' is neither functional nor sequential"):
        TextEncoder(sample).join(Own(name="own"))
    encoder = TextEncoder(sample, trainable=True)
    bags = encoder.inputs()
    lengths = keras.ops.cast(bags["counts"], "float32")[:, None]
    with pytest.raises(JoinError, match=r"uses the features' own inputs beside embed\(\)"):
        encoder.join(keras.Model(bags, encoder.embed(bags) * lengths))


def test_the_fingerprint_tells_modules_and_what_they_become_apart(sample, squared):
    encoders = [TextEncoder(sample), TextEncoder(sample, trainable=True), TextEncoder(squared)]
    assert len({encoder.fingerprint for encoder in encoders}) == 3
    assert TextEncoder(sample).fingerprint == encoders[0].fingerprint
    assert encoders[1].record().keys() == {"encoder", "fingerprint", "handle", "module", "kind"}


def test_a_module_that_is_not_a_bag_is_fine_tuned_in_the_model_and_that_is_reported(squared, capsys):
    encoder = TextEncoder(squared, trainable=True)
    said = capsys.readouterr().err
    assert "is fine-tuned inside the model, from text in every step: its output is not a weighted sum" in said
    assert (encoder.kind, encoder.encodes, encoder.record()["kind"]) == ("text", False, "text")
    model = built(encoder)
    assert isinstance(model.layers[1], HubLayer)
    assert encoder.join(model) is model
    assert TextEncoder(squared).kind == "features"  # frozen, any module will do


def test_inputs_that_are_not_texts_are_refused(sample):
    with pytest.raises(TypeError, match=r"takes one array of texts, .* the batch are float32\(3, 2\)\. Write an Enc"):
        TextEncoder(sample).encode(np.zeros((3, 2), "float32"))


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_on_another_backend_it_encodes_embeds_and_joins_the_same(sample, squared, backend, tmp_path):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"needs {backend}")
    script = """
import sys
import lightkeras as lk
import keras, numpy as np
sample, squared, folder = sys.argv[1:]
texts = np.array([b"a good film", b"", "bad", b"words nobody knows: qzx"], dtype=object)
for trainable in (False, True):
    encoder = lk.TextEncoder(sample, trainable=trainable)
    inputs = encoder.inputs()
    embedded = encoder.embed(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Dense(3, "tanh")(embedded)))
    if trainable:
        model.trainable_variables[0].assign(model.trainable_variables[0] * 0.7 + 0.1)
    found = encoder.encode(texts)
    batch = found if isinstance(found, np.ndarray) else found.batch(entries=20)
    np.save(f"{folder}/{trainable}.npy", keras.ops.convert_to_numpy(model(batch)))
    encoder.join(model).save(f"{folder}/{trainable}.keras")
try:
    lk.TextEncoder(squared, trainable=True)
except ValueError as error:
    print(error)
"""
    done = forked.run(["-c", script, sample, squared, tmp_path], env={**os.environ, "KERAS_BACKEND": backend})
    assert done.returncode == 0, done.stderr
    assert f"cannot be fine-tuned on the Keras backend '{backend}': its output is not a weighted sum" in done.stdout
    for trainable in (False, True):
        loaded = keras.models.load_model(tmp_path / f"{trainable}.keras", safe_mode=False)
        expected = np.load(tmp_path / f"{trainable}.npy")
        np.testing.assert_allclose(loaded(tf.constant(TEXTS.tolist())), expected, atol=1e-6)
