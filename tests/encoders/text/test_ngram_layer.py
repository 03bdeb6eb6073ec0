"""N-grams in a TensorFlow graph, against those of the encoder: ids and weights to the bit."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import lightkeras as lk
from lightkeras.data.datasets.sample_reviews import sample_reviews
from lightkeras.encoders.text import NgramBags

TEXTS, LABELS = sample_reviews(60, seed=0)
ODD = np.array(
    [
        b"",
        b" \t",
        b"unheardof",
        b"A\x00b\x1c film\x0cthe\x0bfilm",
        b"the <b\xff>film caf\xe9, good \xc3!",
        b"the film<br /><BR>is < not > good... <a href='x'>it's</a>",
        "the\u00a0film École".encode(),
    ],
    dtype=object,
)
ALL = np.concatenate([TEXTS, ODD])


def fitted(*args, **settings):
    encoder = lk.NgramVectorizer(*args, min_texts=1, **settings)
    encoder.fit([(ALL, np.concatenate([LABELS, np.arange(len(ODD)) % 2]))])
    return encoder


def joined(encoder):
    bags = encoder.inputs()
    model = keras.Model(bags, keras.layers.Dense(1)(encoder.embed(bags, 2)))
    return model, encoder.join(model)


@pytest.mark.backends("tensorflow", reason="model.keras with text runs on TensorFlow alone")
@pytest.mark.parametrize(
    ("ngrams", "settings"),
    [
        (1, {"weights": "binary", "normalize": False}),
        (2, {"weights": "tf_idf"}),
        (2, {"weights": "count", "normalize": False, "max_features": 50}),
        (3, {"weights": "naive_bayes", "max_features": None}),
    ],
    ids=str,
)
def test_a_loaded_model_finds_the_same_in_the_same_texts(ngrams, settings, tmp_path):
    import tensorflow as tf

    encoder = fitted(ngrams, **settings)
    model, whole = joined(encoder)
    whole.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")  # by Keras's safe mode
    texts = tf.constant(ALL.tolist())
    found, expected = loaded.get_layer("bags")(texts), encoder.encode(ALL).batch()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    np.testing.assert_allclose(loaded.predict(texts, verbose=0), model(expected), atol=1e-6)


def test_without_what_was_learned_it_raises():
    layer = NgramBags(2, True, True, name="bags")
    with pytest.raises(RuntimeError, match=r"NgramBags 'bags' has no n-grams: they are loaded with the model"):
        layer.save_own_variables({})


@pytest.mark.parametrize("backend", [pytest.param("jax", marks=pytest.mark.long), "torch"])
@pytest.mark.backends("tensorflow", reason="the other backends are tried in processes of their own")
def test_on_another_backend_both_encoders_join_the_same_model(backend, tmp_path):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"needs {backend}")
    script = """
import sys
import lightkeras as lk
import keras, numpy as np
from lightkeras.data.datasets.sample_reviews import sample_reviews
texts, labels = sample_reviews(60, seed=0)
words, grams = lk.TextVectorizer(50, 12, keep="last"), lk.NgramVectorizer(2, 100, weights="naive_bayes")
for encoder in (words, grams):
    encoder.fit([(texts, labels)])
assert "tensorflow" not in sys.modules
inputs = words.inputs()
model = keras.Sequential([inputs, keras.layers.Embedding(50, 3), keras.layers.GlobalAveragePooling1D()])
bags = grams.inputs()
other = keras.Model(bags, keras.layers.Dense(2)(grams.embed(bags, 3)))
for name, encoder, each in (("words", words, model), ("grams", grams, other)):
    found = encoder.encode(texts)
    batch = found if isinstance(found, np.ndarray) else found.batch(entries=5000)
    np.save(f"{sys.argv[1]}/{name}.npy", keras.ops.convert_to_numpy(each(batch)))
    encoder.join(each).save(f"{sys.argv[1]}/{name}.keras")
try:
    grams.join(other).get_layer("bags")(texts)
except RuntimeError as error:
    print(error)
"""
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(Path(lk.__file__).parents[1])}
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"runs string operations of TensorFlow, but Keras runs on '{backend}'" in done.stdout
    import tensorflow as tf

    for name in ("words", "grams"):
        loaded = keras.models.load_model(tmp_path / f"{name}.keras")
        np.testing.assert_allclose(loaded(tf.constant(TEXTS.tolist())), np.load(tmp_path / f"{name}.npy"), atol=1e-6)
