"""What is learned about n-grams, by hand-computed numbers, and the model that takes their bags."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from sklearn.feature_selection import f_classif

import lightkeras as lk
from lightkeras.encoders.text.ngrams import _classes, _labels_of, _renumber

TEXTS = np.array([b"good film", b"good good one", b"bad film", b"bad one a", b"a bad one"], dtype=object)
LABELS = np.array([1, 1, 0, 0, 0], np.int32)


def fitted(*args, labels=LABELS, **settings):
    encoder = lk.NgramVectorizer(*args, **settings)
    encoder.fit([(TEXTS, labels)])
    return encoder


def weights_of(encoder):
    return dict(zip(encoder.vocabulary, encoder.state()["weights"].tolist(), strict=True))


def dense(encoder, texts):
    bags = encoder.encode(texts)
    found = np.zeros((len(texts), encoder.vocabulary_size), np.float32)
    found[np.repeat(np.arange(len(texts)), np.diff(bags.splits)), bags.ids] = bags.weights
    return found


def test_ngrams_of_enough_texts_are_known():
    assert set(fitted(1, None).vocabulary) == {"good", "film", "bad", "one", "a"}
    assert set(fitted(2, None).vocabulary) == {"good", "film", "bad", "one", "a", "bad one"}
    assert "one a" in fitted(2, None, min_texts=1).vocabulary


def test_those_in_most_texts_are_kept_without_labels():
    encoder = lk.NgramVectorizer(1, 2, select="frequency", weights="binary")
    encoder.fit([TEXTS[:2], TEXTS[2:]])
    assert set(encoder.vocabulary) == {"bad", "one"}  # three texts each
    assert weights_of(encoder) == {"bad": 1.0, "one": 1.0}


def test_those_with_the_largest_f_value_are_kept():
    everything = fitted(2, None, min_texts=1, weights="binary", normalize=False)
    with np.errstate(divide="ignore"):  # some are in all texts of one class, and in no other
        scores = np.nan_to_num(f_classif(dense(everything, TEXTS), LABELS)[0], posinf=np.inf)
    best = np.argsort(-scores, kind="stable")[:3]
    kept = fitted(2, 3, min_texts=1, weights="binary")
    assert set(kept.vocabulary) == {everything.vocabulary[column] for column in best}
    assert {"good", "bad"} <= set(kept.vocabulary)  # which tell the classes apart


def test_the_weights_of_tf_idf():
    found = weights_of(fitted(1, None))
    assert found["bad"] == pytest.approx(np.log(6 / 4) + 1)
    assert found["good"] == pytest.approx(np.log(6 / 3) + 1)


def test_the_weights_of_naive_bayes():
    """Of class 1, good is in 2 texts, film and one in 1: with 1 more each and for bad and a, the sum is 9. Of class 0,
    bad is in 3, one and a in 2, film in 1: the sum is 13."""
    found = weights_of(fitted(1, None, weights="naive_bayes"))
    assert found["good"] == pytest.approx(np.log((3 / 9) / (1 / 13)))
    assert found["bad"] == pytest.approx(np.log((1 / 9) / (4 / 13)))
    assert found["film"] == pytest.approx(np.log((2 / 9) / (2 / 13)))


def test_a_bag_has_the_length_one_unless_it_is_empty_or_not_asked_for():
    encoder = fitted(1, None)
    lengths = np.linalg.norm(dense(encoder, np.array([b"good film", b"", b"unknown"], object)), axis=1)
    assert lengths.tolist() == pytest.approx([1, 0, 0])
    plain = dense(fitted(1, None, weights="count", normalize=False), np.array([b"good good"], object))
    assert plain.max() == 2


def test_what_was_learned_is_taken_over_and_part_of_the_fingerprint():
    encoder = fitted(2, None)
    again = lk.NgramVectorizer(2, None)
    assert not again.is_fitted
    again.restore(encoder.state())
    assert again.fingerprint == encoder.fingerprint
    assert again.record()["vocabulary_size"] == encoder.vocabulary_size == 6
    others = [fitted(1, None), fitted(2, None, weights="count"), fitted(2, None, normalize=False), fitted(2, 3)]
    assert len({encoder.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_words_that_are_not_utf8_are_in_no_ngram(capsys):
    encoder = lk.NgramVectorizer(2, None, weights="binary")
    encoder.fit([np.array([b"caf\xe9 good", b"caf\xe9 good"], object)])
    assert encoder.vocabulary == ("good",)
    assert "NgramVectorizer: 2 of 2 training texts are not UTF-8" in capsys.readouterr().err


def test_an_empty_vocabulary_is_refused():
    with pytest.raises(ValueError, match=r"found no n-gram in 2 or more of the 2 texts .* or set min_texts lower\."):
        lk.NgramVectorizer(weights="binary", max_features=None).fit([np.array([b"", b"once"], object)])


@pytest.mark.parametrize("batch", [(TEXTS,), TEXTS, (TEXTS, {"label": LABELS}), (TEXTS, np.zeros((5, 2)))])
def test_texts_without_labels_are_refused_where_labels_are_needed(batch):
    with pytest.raises(ValueError, match=r"learns from labels, and the train split has .* expected batches \(text"):
        lk.NgramVectorizer(1, 2).fit([batch])


@pytest.mark.parametrize(
    ("labels", "settings", "message"),
    [
        ([1, 1, 1, 1, 1], {"max_features": 2}, r"train split are 1: expected whole numbers of at least two classes"),
        ([0.5, 1, 0, 0, 0], {"max_features": 2}, r"train split are 0, 0\.5, 1: expected whole numbers"),
        ([0, 1, 2, 0, 0], {"weights": "naive_bayes"}, r"train split are 0, 1, 2: expected 0 and 1, both of them"),
    ],
)
def test_labels_that_are_not_classes_are_refused(labels, settings, message):
    with pytest.raises(ValueError, match=message):
        fitted(1, labels=np.array(labels), **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ngrams": 4}, r"NgramVectorizer\(ngrams=4\): expected a whole number from 1 to 3"),
        ({"max_features": 0}, r"NgramVectorizer\(max_features=0\): expected a whole number of at least 1"),
        ({"min_texts": 1.5}, r"NgramVectorizer\(min_texts=1.5\): expected a whole number"),
        ({"select": "chi2"}, r"select='chi2'\) is not known\. .*Valid names: f_classif, frequency"),
        ({"weights": "tfidf"}, r"weights='tfidf'\) is not known\. Did you mean 'tf_idf'\?"),
    ],
)
def test_settings_out_of_their_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        lk.NgramVectorizer(**settings)


def test_before_it_learned_it_can_do_nothing():
    with pytest.raises(RuntimeError, match=r"has no n-grams yet: call fit\(batches\) with the train split first"):
        lk.NgramVectorizer().encode(TEXTS)


def test_embed_is_a_dense_layer_over_all_ngrams():
    encoder = fitted(2, None)
    bags = encoder.inputs()
    model = keras.Model(bags, encoder.embed(bags, 3, regularizer=keras.regularizers.L2(0.5)))
    table = keras.ops.convert_to_numpy(model.trainable_variables[0])
    assert table.shape == (6, 3)
    assert table.std() > 0
    found = keras.ops.convert_to_numpy(model(encoder.encode(TEXTS).batch()))
    np.testing.assert_allclose(found, dense(encoder, TEXTS) @ table, atol=1e-6)
    assert float(sum(model.losses)) == pytest.approx(0.5 * (table**2).sum(), rel=1e-5)


def test_words_are_numbered_by_the_texts_that_hold_them_and_rare_or_broken_ones_are_left_out():
    words = [b"rare", b"most", b"caf\xe9", b"some", b"also"]
    ids, lengths = np.array([0, 1, 1, 2, 2, 1, 3, 4, 1, 3, 4, 2]), np.array([5, 3, 4])
    kept = _renumber(words, ids, lengths, 2)
    assert kept == [b"most", b"some", b"also"]  # in 3, 2 and 2 texts; the second and the third as they came
    assert ids.tolist() == [0, 1, 1, 0, 0, 1, 2, 3, 1, 2, 3, 0]
    assert _renumber([], np.zeros(0, int), np.array([0]), 1) == []


def test_counts_of_texts_are_those_of_texts_and_not_of_words():
    texts = np.array([b"a a a", b"b", b"b"], object)
    encoder = lk.NgramVectorizer(1, 1, select="frequency", weights="count", min_texts=1, normalize=False)
    encoder.fit([texts])
    assert encoder.vocabulary == ("b",)
    naive = lk.NgramVectorizer(1, None, weights="naive_bayes", min_texts=1)
    naive.fit([(texts, np.array([1, 0, 0]))])
    # Of class 1, a is in 1 text and b in none, with 1 more each 2 + 1; of class 0, 1 + 3.
    assert weights_of(naive) == pytest.approx({"b": np.log((1 / 3) / (3 / 4)), "a": np.log((2 / 3) / (1 / 4))})


def test_all_are_kept_where_there_are_no_more_than_asked_for_and_labels_are_not_needed_without_a_choice():
    assert len(fitted(1, 5).vocabulary) == len(fitted(1, None).vocabulary) == 5
    assert len(fitted(1, 4).vocabulary) == 4
    encoder = lk.NgramVectorizer(1, None)
    encoder.fit([TEXTS])
    assert encoder.vocabulary_size == 5


@pytest.mark.parametrize(
    ("labels", "got"),
    [
        (None, "nothing beside the texts where"),
        (np.zeros((5, 2)), r"float64\(5, 2\) where"),
        (np.array(["a"] * 5), r"<U1\(5,\) where"),
        (np.zeros(4, "int32"), r"int32\(4,\) where"),
        ({"a": 1}, "dict where"),
    ],
)
def test_labels_of_another_form_are_named(labels, got):
    batch = (TEXTS,) if labels is None else (TEXTS, labels)
    with pytest.raises(ValueError, match=f"the train split has {got} they should be: expected batches"):
        _labels_of(batch, 5)


def test_the_first_five_classes_are_listed():
    for count, listed in [(5, "0, 0.5, 1, 1.5, 2:"), (6, "0, 0.5, 1, 1.5, 2, ...:")]:
        with pytest.raises(ValueError, match=rf"those of the train split are {listed} expected whole numbers"):
            _classes(np.arange(count) / 2, two=False)
    assert _classes(np.array([0.0, 3.0]), two=False).dtype == np.int64
    assert _classes(np.array([1.0, 0.0]), two=True).tolist() == [1, 0]
    for labels in ([0.0, np.inf], [0.0, np.nan]):
        with pytest.raises(ValueError, match="expected whole numbers of at least two classes"):
            _classes(np.array(labels), two=False)
