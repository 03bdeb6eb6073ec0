"""N-grams against those written out by hand, and against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from lightkeras.encoders.text.ngram_keys import BITS, Ngrams, concatenated, count_ngrams, ngram_keys
from lightkeras.encoders.text.words import words_and_marks

TEXTS = [b"a good film", b"a bad film. a bad, bad film!", b"", b"good good good"]


def key(*numbers: int) -> int:
    found = 0
    for number in numbers:
        found = (found << BITS) | number
    return found


def all_grams(texts, longest, least=1):
    """Words by number, from 1, keys and counts of some texts."""
    words = sorted({word for text in texts for word in words_and_marks(text)})
    numbers = {word: number for number, word in enumerate(words, 1)}
    ids, lengths = concatenated([[numbers[word] for word in words_and_marks(text)] for text in texts])
    return words, *counted(ids, lengths, longest, least)


def counted(*args, **settings):
    """The parts of `count_ngrams`, joined."""
    parts = list(count_ngrams(*args, **settings))
    keys = [np.zeros(0, np.int64), *(keys for keys, _ in parts)]
    empty = scipy.sparse.csr_array((len(args[1]), 0), dtype=np.float32)
    return np.concatenate(keys), scipy.sparse.hstack([empty, *(counts for _, counts in parts)], format="csr")


def test_a_key_is_its_words_and_no_ngram_reaches_into_the_next_text():
    ids, lengths = concatenated([[3, 1, 2], [], [2, 2]])
    keys, rows = ngram_keys(ids, lengths, 2)
    assert keys.tolist() == [key(3, 1), key(1, 2), key(2, 2)]
    assert rows.tolist() == [0, 0, 2]
    keys, rows = ngram_keys(ids, lengths, 3)
    assert (keys.tolist(), rows.tolist()) == ([key(3, 1, 2)], [0])


def test_no_ngram_holds_a_word_that_is_not_known():
    keys, _ = ngram_keys(*concatenated([[1, 0, 2, 3]]), 2)
    assert keys.tolist() == [key(2, 3)]


def test_texts_shorter_than_an_ngram_have_none():
    keys, rows = ngram_keys(*concatenated([[], [1]]), 3)
    assert (len(keys), len(rows)) == (0, 0)


def test_ngrams_are_counted_in_each_text_and_rare_ones_left_out():
    words, keys, counts = all_grams(TEXTS, 2, least=2)
    grams = Ngrams(2, words, keys, np.ones(len(keys), np.float32), True, False)
    assert grams.texts() == ["a", "bad film", "film", "good"] or set(grams.texts()) == {"a", "film", "good"}
    by_name = dict(zip(grams.texts(), counts.toarray().T.tolist(), strict=True))
    assert by_name["a"] == [1, 2, 0, 0]
    assert by_name["good"] == [1, 0, 0, 3]


@pytest.mark.parametrize(("longest", "normalized"), [(1, False), (2, True), (3, True)])
def test_the_bags_are_the_rows_of_scikit_learns_matrix(longest, normalized):
    words, keys, counts = all_grams(TEXTS, longest)
    texts_with = (counts.toarray() > 0).sum(0)
    weights = (np.log((1 + len(TEXTS)) / (1 + texts_with)) + 1).astype(np.float32)
    grams = Ngrams(longest, words, keys, weights, True, normalized)
    theirs = TfidfVectorizer(
        ngram_range=(1, longest),
        token_pattern=None,
        tokenizer=lambda text: [word.decode() for word in words_and_marks(text.encode())],
        norm="l2" if normalized else None,
    )
    expected = theirs.fit_transform([text.decode() for text in TEXTS]).toarray()
    columns = [theirs.vocabulary_[name] for name in grams.texts()]
    bags = grams.bags(TEXTS)
    found = np.zeros(expected.shape)
    for row in range(len(TEXTS)):
        part = bags.take(np.array([row]))
        found[row, part.ids] = part.weights
    np.testing.assert_allclose(found, expected[:, columns], atol=1e-6)
    assert len(grams) == expected.shape[1]


def test_counts_do_not_matter_where_they_are_not_asked_for():
    words, keys, _ = all_grams(TEXTS, 1)
    weights = np.arange(len(keys), dtype=np.float32)
    bags = Ngrams(1, words, keys, weights, False, False).bags([b"bad bad good"])
    assert bags.weights.tolist() == sorted(weights[[words.index(b"bad"), words.index(b"good")]].tolist())


def test_words_that_no_ngram_holds_are_left_out():
    grams = Ngrams(2, [b"x", b"a", b"y", b"b"], np.array([2, key(2, 4)]), np.ones(2, np.float32), False, False)
    used = grams.with_used_words()
    assert used.words == [b"a", b"b"]
    assert used.texts() == grams.texts() == ["a", "a b"]


def test_what_was_learned_comes_back_from_its_arrays_and_from_nothing_else():
    words, keys, _ = all_grams(TEXTS, 2)
    grams = Ngrams(2, words, keys, np.ones(len(keys), np.float32), True, True)
    again = Ngrams.from_arrays(grams.arrays(), 2, True, True)
    assert again.texts() == grams.texts()
    with pytest.raises(ValueError, match=r"it holds words: expected words, keys and weights\."):
        Ngrams.from_arrays({"words": grams.arrays()["words"]}, 2, True, True)
    for wrong in (
        {"keys": keys[::-1]},
        {"weights": np.ones(3, np.float32)},
        {"keys": keys.astype(np.int32)},
    ):
        with pytest.raises(ValueError, match="keys that are no n-grams of 1 to 2 of them"):
            Ngrams.from_arrays({**grams.arrays(), **wrong}, 2, True, True)
    with pytest.raises(ValueError, match="no n-grams of 1 to 1 of them"):
        Ngrams.from_arrays(grams.arrays(), 1, True, True)


def test_two_texts_have_the_bags_that_are_written_out():
    """Words x = 1, y = 2; keys x, y, x y, x y x; counted and not, normalized and not."""
    keys = np.array([1, 2, key(1, 2), key(1, 2, 1)])
    texts = [b"x y x", b"", b"z y z"]
    expected = {
        (True, False): [2.0 * 1, 3, 5, 7, 3],
        (False, False): [1.0, 3, 5, 7, 3],
        (True, True): [*(np.array([2, 3, 5, 7]) / np.sqrt(87)), 1.0],
    }
    for (counted, normalized), weights in expected.items():
        grams = Ngrams(3, [b"x", b"y"], keys, np.float32([1, 3, 5, 7]), counted, normalized)
        bags = grams.bags(texts)
        assert bags.splits.tolist() == [0, 4, 4, 5]
        assert bags.ids.tolist() == [0, 1, 2, 3, 1]
        np.testing.assert_allclose(bags.weights, weights, rtol=1e-6)
        assert (bags.ids.dtype, bags.weights.dtype) == (np.int32, np.float32)
    assert grams.texts() == ["x", "y", "x y", "x y x"]


def test_ngrams_are_kept_from_the_least_number_of_texts_on():
    ids, lengths = concatenated([[1, 2, 1, 2], [1, 2], [2]])
    for least, expected in [(1, [1, 2, key(1, 2), key(2, 1)]), (2, [1, 2, key(1, 2)]), (3, [2]), (4, [])]:
        keys, counts = counted(ids, lengths, 2, least)
        assert keys.tolist() == expected
        assert counts.shape == (3, len(expected))
    keys, counts = counted(ids, lengths, 2, 2)
    assert counts.toarray().tolist() == [[2, 2, 2], [1, 1, 1], [0, 1, 0]]
    assert counts.dtype == np.float32


def test_the_last_word_numbers_and_the_longest_keys_fit():
    words = 2**BITS - 1
    assert (BITS, words) == (21, 2_097_151)
    keys, _ = ngram_keys(np.array([words] * 3), np.array([3]), 3)
    assert keys.tolist() == [2**63 - 1]
    used = Ngrams(3, [b"a"] * words, keys, np.ones(1, np.float32), False, False).with_used_words()
    assert (used.words, used.keys.tolist()) == ([b"a"], [key(1, 1, 1)])


def test_arrays_of_ngrams_are_checked_one_by_one():
    grams = Ngrams(1, [b"a", b"b"], np.array([1, 2]), np.ones(2, np.float32), True, True)
    fine = grams.arrays()
    for wrong in (
        {"keys": np.array([2, 2])},
        {"keys": np.array([1, 2**BITS])},
        {"weights": np.ones(2)},
        {"keys": np.zeros(0, np.int64), "weights": np.zeros(0, np.float32)},
        {"words": Ngrams(1, [b"a", b""], grams.keys, grams.weights, True, True).arrays()["words"]},
    ):
        with pytest.raises(ValueError, match=r"^it holds 2 words and \w+\(\d,\) keys that are no n-grams of 1 to 1"):
            Ngrams.from_arrays({**fine, **wrong}, 1, True, True)
    with pytest.raises(ValueError, match=r"^it holds nothing: expected words, keys and weights\.$"):
        Ngrams.from_arrays({}, 1, True, True)
    found = Ngrams.from_arrays({**fine, "keys": np.array([1, 2**BITS - 1])}, 1, False, True)
    assert (found.longest, found.counted, found.normalized) == (1, False, True)
