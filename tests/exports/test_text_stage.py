"""Models that take text, divided into preprocessing and a numeric model."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from text_stages import GRAMS, ODD, TEXTS, WORDS, Module, Rooted, arrays_of, encoder_of, model_of

import lightkeras as lk
from lightkeras.encoders.hub import sample_text_module
from lightkeras.exports.preprocess_words import Preprocessor
from lightkeras.exports.text_stage import NoTextStageError, split_text, takes_text

pytestmark = pytest.mark.backends("tensorflow", reason="the joined models run on TensorFlow")

READABLE = [text for text in [*ODD, *TEXTS] if isinstance(text, str) and len(text) < 200]  # the module rounds long sums


def through(path, model):
    """The model that was saved and loaded, as `model.keras` of a run is."""
    model.save(path)
    return keras.models.load_model(path, safe_mode=False)


@pytest.mark.parametrize("settings", [WORDS[1], GRAMS[1]], ids=["words", "ngrams"])
def test_both_parts_of_a_saved_model_are_the_whole(tmp_path, settings):
    encoder = encoder_of(settings)
    joined = through(tmp_path / "model.keras", encoder.join(model_of(encoder)))
    stage, numeric = split_text(joined)
    stage.write(tmp_path)
    arrays = Preprocessor(tmp_path)(list(ODD))
    arrays = arrays.get("words", arrays)
    found = numeric.predict_on_batch(arrays)
    np.testing.assert_allclose(found, joined(tf.constant(list(ODD))), rtol=1e-5, atol=1e-6)
    assert [each.name for each in numeric.inputs] == sorted(arrays_of(encoder, ["a"]))
    numeric.layers[-1].trainable_variables[0].assign_add(np.ones_like(numeric.layers[-1].trainable_variables[0]))
    changed = numeric.predict_on_batch(arrays)
    np.testing.assert_allclose(changed, joined(tf.constant(list(ODD))), rtol=1e-5, atol=1e-6)  # shared weights


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("kind", [Module, Rooted])
def test_a_hub_module_becomes_its_vocabulary_and_table(tmp_path, kind, trained):
    tf.saved_model.save(kind(), str(tmp_path / "module"))
    encoder = lk.TextEncoder(str(tmp_path / "module"), trainable=trained)
    model = model_of(encoder)
    if trained:
        model.get_layer("embedding").table.assign_add(np.ones((9, 3)))
    joined = through(tmp_path / "model.keras", encoder.join(model))
    stage, numeric = split_text(joined)
    stage.write(tmp_path)
    found = numeric.predict_on_batch(Preprocessor(tmp_path)(READABLE))
    np.testing.assert_allclose(found, joined(tf.constant(READABLE)), rtol=1e-5, atol=1e-5)
    assert (tmp_path / "vocabulary.txt").read_text().split("\n")[6:8] == ["film", "good"]


def test_several_outputs_keep_their_names(tmp_path):
    encoder = encoder_of(WORDS[0])
    words = encoder.inputs()
    x = layers.GlobalAveragePooling1D()(layers.Embedding(encoder.vocabulary_size, 3)(words))
    model = keras.Model(words, {"stars": layers.Dense(1)(x), "topic": layers.Dense(4)(x)})
    joined = through(tmp_path / "model.keras", encoder.join(model))
    found = split_text(joined)[1].predict_on_batch(encoder.encode(TEXTS))
    wanted = joined(tf.constant(list(TEXTS)))
    assert set(found) == {"stars", "topic"}
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6)


def test_which_models_take_text():
    encoder = encoder_of(WORDS[0])
    assert takes_text(encoder.join(model_of(encoder)))
    assert not takes_text(model_of(encoder))


def of_layer(layer, then=()):
    text = keras.Input((), dtype="string")
    x = layer(text)
    for each in then:
        x = each(x)
    return keras.Model(text, x)


def test_what_has_no_text_stage_is_refused_with_the_reason(tmp_path, monkeypatch):
    number = keras.Sequential([keras.Input((2,)), layers.Dense(1)], name="number")
    with pytest.raises(NoTextStageError, match="'number' is not a functional model with one input of texts"):
        split_text(number)
    letters = layers.TextVectorization(split="character", output_sequence_length=3, vocabulary=["a"], name="letters")
    with pytest.raises(NoTextStageError, match=r"TextVectorization 'letters' has split='character', which prepr"):
        split_text(of_layer(letters))
    ragged = layers.TextVectorization(vocabulary=["a"], name="open")
    with pytest.raises(NoTextStageError, match=r"'open' has output_sequence_length=None"):
        split_text(of_layer(ragged, [layers.Embedding(3, 2)]))
    with pytest.raises(NoTextStageError, match=r"StringLookup 'look' takes the texts: expected the layer of a TextVec"):
        split_text(of_layer(layers.StringLookup(vocabulary=["a"], name="look")))
    monkeypatch.setenv("LIGHTKERAS_CACHE_DIR", str(tmp_path))
    encoder = lk.TextEncoder(str(sample_text_module()), trainable=True)
    with pytest.raises(
        NoTextStageError, match=r"The text stage of the module .* needs TensorFlow: its words are hashed"
    ):
        split_text(encoder.join(model_of(encoder)))
