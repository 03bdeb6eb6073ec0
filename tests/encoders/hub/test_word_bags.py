"""Bags by counting words: those that the gradients of a module give."""

import concurrent.futures

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from text_stages import SIGNATURE, Module, Rooted, Summed

from lightkeras.encoders.hub import word_bags
from lightkeras.encoders.hub.linear_table import NotLinearError
from lightkeras.encoders.hub.word_bags import WordBags

PIECES = [
    "good",
    "FILM",
    "it's",
    "café",
    " ",
    " ",
    "\n",
    ",",
    "-",
    "<br />",
    "É",
    "\x00",
    "never",
    "[",
    "good good good",
]


class Filled(Module):
    @tf.function(input_signature=SIGNATURE, autograph=False)
    def __call__(self, texts):
        words = tf.strings.split(self.prepared(texts)).to_sparse()
        ids = tf.SparseTensor(words.indices, self.words.lookup(words.values), words.dense_shape)
        ids, _ = tf.sparse.fill_empty_rows(ids, 2)
        return tf.math.segment_mean(tf.gather(self.table, ids.values), ids.indices[:, 0])


class ByPosition(Module):
    """The second word of a text counts twice: the number of words does not tell the weights."""

    @tf.function(input_signature=SIGNATURE, autograph=False)
    def __call__(self, texts):
        words = tf.strings.split(self.prepared(texts)).to_sparse()
        rows = tf.gather(self.table, self.words.lookup(words.values))
        twice = tf.where(words.indices[:, 1:] == 3, 2.0, 1.0)
        return tf.math.unsorted_segment_sum(rows * twice, words.indices[:, 0], tf.size(texts))


def weighted(light):
    """A module whose words have weights of their own in a mean, as stop words: `light` weighs a tenth."""
    weights = np.where(np.arange(9) == light, 0.1, 1).astype(np.float32)

    class Weighted(Module):
        @tf.function(input_signature=SIGNATURE, autograph=False)
        def __call__(self, texts):
            words = tf.strings.split(self.prepared(texts))
            ids, rows = self.words.lookup(words.flat_values), words.value_rowids()
            weight = tf.gather(tf.constant(weights), ids)
            total = tf.math.unsorted_segment_sum(weight, rows, words.nrows())
            vectors = tf.gather(self.table, ids) * weight[:, None]
            return tf.math.divide_no_nan(tf.math.unsorted_segment_sum(vectors, rows, words.nrows()), total[:, None])

    return Weighted


class ByAllWords(Module):
    """The mean is over all words, also over those without a row."""

    buckets = 0

    @tf.function(input_signature=SIGNATURE, autograph=False)
    def __call__(self, texts):
        words = tf.strings.split(self.prepared(texts))
        ids, rows = self.words.lookup(words.flat_values), words.value_rowids()
        total = tf.math.unsorted_segment_sum(
            tf.gather(self.table, tf.boolean_mask(ids, ids >= 0)), tf.boolean_mask(rows, ids >= 0), words.nrows()
        )
        return tf.math.divide_no_nan(total, tf.cast(words.row_lengths(), tf.float32)[:, None])


class FirstFive(Module):
    """The mean of the first five words."""

    @tf.function(input_signature=SIGNATURE, autograph=False)
    def __call__(self, texts):
        words = tf.strings.split(self.prepared(texts))
        ids = words.with_flat_values(self.words.lookup(words.flat_values))[:, :5]
        return tf.math.unsorted_segment_mean(tf.gather(self.table, ids.flat_values), ids.value_rowids(), ids.nrows())


class Hashed(Module):
    @tf.function(input_signature=SIGNATURE, autograph=False)
    def __call__(self, texts):
        words = tf.strings.split(self.prepared(texts)).to_sparse()
        ids = tf.strings.to_hash_bucket_fast(words.values, 8)
        return tf.math.unsorted_segment_sum(tf.gather(self.table, ids), words.indices[:, 0], tf.size(texts))


def check_equal(found, expected):
    assert (found.ids.dtype, found.weights.dtype, found.splits.dtype) == (np.int32, np.float32, np.int64)
    np.testing.assert_array_equal(found.splits, expected.splits)
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.weights.view(np.int32), expected.weights.view(np.int32))


def array(texts):
    return np.array([*texts, ""], dtype=object)[:-1]


@pytest.fixture(scope="module", params=[Module, Summed, Rooted, Filled])
def pair(request, table_of):
    table = table_of(request.param)
    return table, WordBags(table, first=0)


@settings(max_examples=150, deadline=None)
@given(texts=st.lists(st.text() | st.lists(st.sampled_from(PIECES)).map("".join), min_size=1, max_size=7))
def test_any_texts_have_the_bits_of_the_gradients(pair, texts):
    table, bags = pair
    check_equal(bags.bags(array(texts)), table.bags(array(texts)))
    assert bags.counts_words


def test_many_repeated_words_in_several_threads_have_the_bits_of_the_gradients(pair):
    table, bags = pair
    rng = np.random.default_rng(0)
    words = ["good", "film", "it's", "café", "never", "Never", ""]
    texts = array(" ".join(rng.choice(words, size, p=[0.7] + [0.05] * 6)) for size in rng.integers(0, 40, 400))
    parts = [texts[start : start + 50] for start in range(0, len(texts), 50)]
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        found = list(threads.map(bags.bags, parts))
    for part, one in zip(parts, found, strict=True):
        check_equal(one, table.bags(part))
    assert bags.counts_words


@pytest.mark.parametrize("kind", [ByPosition, Hashed])
def test_a_module_that_weighs_words_otherwise_keeps_its_gradients(table_of, kind):
    table = table_of(kind)
    bags = WordBags(table, first=0)
    texts = array(["good film", "good film café", "good good film good", "film café film good film"])
    for _ in range(2):
        check_equal(bags.bags(texts), table.bags(texts))
        assert not bags.counts_words


# Rows of the words that occur: `café`, `film`, `good`, and all that are unknown.
@pytest.mark.parametrize("light", [4, 6, 7, 8])
@pytest.mark.parametrize("words_per_text", [2, 10_000])
def test_a_module_whose_words_have_weights_of_their_own_keeps_its_gradients(
    table_of, monkeypatch, light, words_per_text
):
    monkeypatch.setattr(word_bags, "WORDS_PER_TEXT", words_per_text)
    table = table_of(weighted(light))
    bags = WordBags(table, first=0)
    texts = array(["never café", "café good", "film unknown", "good film", "film café"])
    check_equal(bags.bags(texts), table.bags(texts))
    assert not bags.counts_words


def test_a_mean_over_words_without_a_row_keeps_its_gradients(table_of):
    table = table_of(ByAllWords)
    bags = WordBags(table, first=0)
    texts = array(["good film unknown", "good film"])
    check_equal(bags.bags(texts), table.bags(texts))
    assert not bags.counts_words


def test_a_difference_that_is_found_later_is_an_error_once_counted_bags_were_returned(table_of, monkeypatch):
    monkeypatch.setattr(word_bags, "WORDS_PER_TEXT", 2)
    table, (short, long) = table_of(FirstFive), (array(["good film"]), array(["good film café it's good good film"]))
    late, early = WordBags(table, first=0), WordBags(table, first=0)
    check_equal(late.bags(short), table.bags(short))
    assert late.counts_words
    with pytest.raises(NotLinearError, match="weights follow from the number of words"):
        late.bags(long)
    check_equal(early.bags(long), table.bags(long))
    assert not early.counts_words


def test_few_texts_do_not_read_the_vocabulary(table_of):
    bags = WordBags(table_of(Rooted))
    for _ in range(3):
        bags.bags(array(["good film"] * 300))
        assert not bags.counts_words
    bags.bags(array(["good film"] * 300))
    assert bags.counts_words
