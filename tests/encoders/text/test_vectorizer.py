"""Words as integers: against Keras's own layer, to the bit."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import lightkeras as lk
from lightkeras.encoders.base import JoinError

TEXTS = np.array([b"A good, good film.", "a dull film", b"the good one"], dtype=object)
ODD = np.array(
    [
        b"",
        b" \t\n",
        b"one word_two it's (good)",
        b"a\x00b\x1cc\x0bfilm\x0cdull",
        "École\u00a0good film".encode(),
        b"caf\xe9 \xff good <br />film",
        b"good " * 40,
    ],
    dtype=object,
)


def fitted(**settings):
    encoder = lk.TextVectorizer(**{"max_tokens": 6, "length": 4, **settings})
    encoder.fit([(TEXTS, np.zeros(3))])
    return encoder


def test_the_most_frequent_words_of_the_train_split_get_numbers():
    encoder = fitted()
    assert encoder.vocabulary == ("", "[UNK]", "good", "a", "film", "dull")
    assert (encoder.vocabulary_size, encoder.is_fitted) == (6, True)
    found = encoder.encode(np.array(["a fine film", "", b"good good good good dull"], object))
    assert found.dtype == np.int32
    assert found.tolist() == [[3, 1, 4, 0], [0, 0, 0, 0], [2, 2, 2, 2]]


def test_the_last_words_are_kept_where_that_is_asked_for():
    encoder = fitted(keep="last")
    assert encoder.encode(np.array(["good good a film dull", "film"], object)).tolist() == [[2, 3, 4, 5], [4, 0, 0, 0]]


def test_numbers_become_words_again():
    encoder = fitted()
    assert encoder.decode([3, 1, 4, 0]) == "a [UNK] film"
    assert encoder.decode(np.array([[2, 0], [0, 0]])) == ["good", ""]
    with pytest.raises(ValueError, match=r"decode received the numbers 0 to 6: expected 0 to 5, of the vocabulary\."):
        encoder.decode([0, 6])
    with pytest.raises(ValueError, match=r"decode takes integers \[words\] or \[n, words\], got float64 \(2,\)"):
        encoder.decode([0.5, 1.0])


def test_it_learns_from_several_batches_as_from_one():
    encoder = lk.TextVectorizer(6, 4)
    encoder.fit([TEXTS[:1], TEXTS[1:]])
    assert encoder.fingerprint == fitted().fingerprint


def test_what_was_learned_is_taken_over_and_part_of_the_fingerprint():
    encoder = fitted()
    again = lk.TextVectorizer(6, 4)
    assert not again.is_fitted
    again.restore(encoder.state())
    assert again.fingerprint == encoder.fingerprint
    assert again.vocabulary == encoder.vocabulary
    assert again.record()["vocabulary_size"] == 6
    others = [fitted(length=5), fitted(max_tokens=5), fitted(standardize="none"), fitted(keep="last")]
    assert len({encoder.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_what_another_encoder_learned_is_refused():
    with pytest.raises(ValueError, match=r"it holds 4 words, and TextVectorizer\(max_tokens=5\) has 1 to 3\."):
        lk.TextVectorizer(5, 4).restore(fitted().state())
    with pytest.raises(ValueError, match=r"it holds keys: expected the words of TextVectorizer\."):
        lk.TextVectorizer(5, 4).restore({"keys": np.zeros(3)})


def test_before_it_learned_it_can_do_nothing():
    with pytest.raises(RuntimeError, match=r"has no vocabulary yet: call fit\(batches\) with the train split first"):
        lk.TextVectorizer(5, 4).encode(TEXTS)


def test_texts_without_words_are_not_a_train_split():
    with pytest.raises(ValueError, match=r"found no word in the 2 texts of the train split: expected texts with words"):
        lk.TextVectorizer(5, 4).fit([np.array([b"", b" ... "], object)])


def test_words_that_are_not_utf8_are_unknown_and_that_is_reported(capsys):
    encoder = lk.TextVectorizer(9, 4)
    encoder.fit([np.array([b"caf\xe9 good caf\xe9", b"good"], object)])
    assert encoder.vocabulary == ("", "[UNK]", "good")
    assert "TextVectorizer: 1 of 2 training texts are not UTF-8" in capsys.readouterr().err
    assert encoder.encode(np.array([b"caf\xe9 good"], object)).tolist() == [[1, 2, 0, 0]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_tokens": 2}, r"TextVectorizer\(max_tokens=2\): expected a whole number of at least 3"),
        ({"length": 0}, r"TextVectorizer\(length=0\): expected a whole number of at least 1"),
        ({"length": True}, r"TextVectorizer\(length=True\): expected a whole number"),
        ({"standardize": "lowr"}, r"standardize='lowr'\) is not known\. Did you mean 'lower'\?"),
        ({"keep": "lst"}, r"keep='lst'\) is not known\. Did you mean 'last'\?"),
    ],
)
def test_settings_out_of_their_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        fitted(**settings)


@pytest.mark.backends("tensorflow", reason="model.keras with text runs on TensorFlow alone")
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"length": 50},
        {"keep": "last"},
        {"keep": "last", "length": 50},
        {"standardize": "lower"},
        {"standardize": "strip_punctuation"},
        {"standardize": "none"},
    ],
    ids=str,
)
def test_joined_with_a_model_it_takes_text_and_gives_the_same_to_the_bit(settings, tmp_path):
    import tensorflow as tf

    encoder = fitted(**settings)
    numbers = encoder.inputs()
    model = keras.Model(numbers, keras.layers.Embedding(6, 3)(numbers))
    encoder.join(model).save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")  # by Keras's safe mode
    texts = np.concatenate([TEXTS, ODD])
    encoded = keras.Model(loaded.input, loaded.get_layer("words").output)(tf.constant(texts.tolist()))
    np.testing.assert_array_equal(encoded, encoder.encode(texts))
    np.testing.assert_array_equal(loaded(tf.constant(texts.tolist())), model(encoder.encode(texts)))


def test_words_that_end_a_line_of_unicode_are_saved_with_the_model(tmp_path):
    encoder = lk.TextVectorizer(max_tokens=9, length=6)
    texts = np.array(["good \x85 film \u2028 a\x1cb \x1d\x1e"], dtype=object)
    encoder.fit([texts])
    words = encoder.inputs()
    encoder.join(keras.Model(words, keras.layers.Embedding(9, 2)(words))).save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("words").get_vocabulary() == list(encoder.vocabulary)


def test_a_model_of_other_inputs_cannot_be_joined():
    other = keras.Input((7,))
    with pytest.raises(JoinError, match=r"does not take the features of "):
        fitted().join(keras.Model(other, keras.layers.Dense(1)(other)))

    class Own(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(JoinError, match=r"Own 'own' is neither functional nor sequential"):
        fitted().join(Own(name="own"))
