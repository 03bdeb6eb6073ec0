"""Word tables of modules: read from their graphs, with the rows that the modules give."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from text_stages import SIGNATURE, Module, Rooted, Summed

from lightkeras.encoders.hub import sample_text_module, word_table
from lightkeras.encoders.hub.linear_table import find_table
from lightkeras.encoders.hub.module_files import load_module
from lightkeras.encoders.hub.word_table import NoWordTableError, find_word_table

PIECES = [
    "good",
    "FILM",
    "it's",
    "CAFÉ",
    "café",
    " ",
    " ",
    "\n",
    ",",
    "-",
    "<br />",
    "É",
    "\x00",
    "\u2028",
    "never",
    "[",
]


def bags_of(found, texts):
    """Rows and weights of some texts, computed as `WordTable` describes it."""
    numbers = {word: row for row, word in enumerate(found.vocabulary) if word}
    bags = []
    for text in texts:
        rows = [numbers.get(word, found.unknown) for word in found.words(text)]
        rows = [row for row in rows if row is not None] or [row for row in (found.empty,) if row is not None]
        divisor = {None: 1, "count": len(rows), "root": len(rows) ** 0.5}[found.divide]
        bags.append({row: rows.count(row) / divisor for row in sorted(rows)})
    return bags


def check_equal(table, found, texts):
    bags = table.bags(np.array([*texts, ""], dtype=object)[:-1])
    for bag, ids, weights in zip(
        bags_of(found, texts), *(np.split(each, bags.splits[1:-1]) for each in (bags.ids, bags.weights)), strict=True
    ):
        assert list(bag) == ids.tolist()
        np.testing.assert_allclose(list(bag.values()), weights, rtol=1e-5)


@pytest.fixture(scope="module", params=[Module, Summed, Rooted])
def pair(request, table_of):
    table = table_of(request.param)
    return table, find_word_table(table)


def test_the_table_of_a_module(table_of):
    found = find_word_table(table_of(Module))
    # "it's", "two words" and "," are divided, "Never" is lower-cased: no text has them as words. Rows run backwards.
    assert found.vocabulary == ("", "", "", "", "café", "", "film", "good", "")
    assert (found.lower, found.unknown, found.empty, found.divide) == ("ascii", 8, None, "count")
    assert found.words("A-b<br/>[C]\\d^e") == ["a", "b", "c", "d", "e"]
    found = find_word_table(table_of(Summed))
    assert found.vocabulary == ("", "", "", "", "café", "it's", "film", "good")
    assert (found.lower, found.unknown, found.empty, found.divide) == ("unicode", None, None, None)
    assert find_word_table(table_of(Rooted)).divide == "root"


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(st.text() | st.lists(st.sampled_from(PIECES)).map("".join), min_size=1, max_size=3))
def test_any_texts_have_the_modules_rows(pair, texts):
    check_equal(*pair, texts)


def test_a_module_with_a_row_for_empty_texts(table_of):
    class Filled(Module):
        @tf.function(input_signature=SIGNATURE, autograph=False)
        def __call__(self, texts):
            words = tf.strings.split(self.prepared(texts)).to_sparse()
            ids = tf.SparseTensor(words.indices, self.words.lookup(words.values), words.dense_shape)
            ids, _ = tf.sparse.fill_empty_rows(ids, 2)
            return tf.math.segment_mean(tf.gather(self.table, ids.values), ids.indices[:, 0])

    table = table_of(Filled)
    found = find_word_table(table)
    assert found.empty == 2
    check_equal(table, found, ["", "good", ",", "good film good", "\x00"])


class Buckets(Module):
    buckets = 3


class Letters(Module):
    separator = ","


class Anchored(Module):
    pattern = r"^the |\bfilms?$"


class Marked(Module):
    pattern, rewrite = "([a-z])-", r"\1"


class Stripped(Module):
    def prepared(self, texts):
        return tf.strings.strip(texts)


class Late(Module):
    def prepared(self, texts):
        return tf.strings.lower(tf.strings.regex_replace(texts, "-", ""))


class Shared(Summed):
    """ "film" and "good" have row 6."""

    @tf.function(input_signature=SIGNATURE, autograph=False)
    def __call__(self, texts):
        words = tf.strings.split(self.prepared(texts))
        ids, rows = self.words.lookup(words.flat_values), words.value_rowids()
        ids, rows = tf.boolean_mask(ids, ids >= 0), tf.boolean_mask(rows, ids >= 0)
        return self.combined(tf.gather(self.table, tf.minimum(ids, 6)), rows, words.nrows())


class Doubled(Module):
    """The word of row 7 counts twice in a mean, as one among others."""

    @tf.function(input_signature=SIGNATURE, autograph=False)
    def __call__(self, texts):
        words = tf.strings.split(self.prepared(texts))
        ids = self.words.lookup(words.flat_values)
        times = tf.where(ids == 7, 2, 1)
        ids, rows = tf.repeat(ids, times), tf.repeat(words.value_rowids(), times)
        return self.combined(tf.gather(self.table, ids), rows, words.nrows())


class Braced(Module):
    """What stands between braces is left out, but a brace alone is a word."""

    pattern = r"\{[^}]*\}"

    def __init__(self):
        super().__init__()
        words = ["film", "{", "good", "}", "café"]
        pairs = tf.lookup.KeyValueTensorInitializer(tf.constant(words), tf.range(len(words), dtype=tf.int64))
        self.words = tf.lookup.StaticVocabularyTable(pairs, 1)


def test_words_that_are_others_beside_each_other_have_their_rows(table_of):
    assert find_word_table(table_of(Braced)).vocabulary == ("film", "{", "good", "}", "café", "", "", "", "")


@pytest.mark.parametrize("at_once", [2, 3, 2000])
def test_rows_are_found_a_few_words_at_a_time(table_of, monkeypatch, at_once):
    monkeypatch.setattr(word_table, "WORDS_AT_ONCE", at_once)
    assert find_word_table(table_of(Summed)).vocabulary == ("", "", "", "", "café", "it's", "film", "good")


@pytest.mark.parametrize(
    ("kind", "at_once", "reason"),
    [
        (Shared, 2000, "not every word has one row of its table"),
        (Shared, 2, "several words have the same row of its table"),
        (Doubled, 2000, "not every word has one row of its table"),
    ],
)
def test_words_without_rows_of_their_own_are_refused(table_of, monkeypatch, kind, at_once, reason):
    monkeypatch.setattr(word_table, "WORDS_AT_ONCE", at_once)
    with pytest.raises(NoWordTableError, match=reason):
        find_word_table(table_of(kind))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Buckets, "unknown words have 3 rows of its table"),
        (Letters, "it does not split texts at white space"),
        (Anchored, "Python would read its regular expression .* otherwise"),
        (Marked, r"Python would read its regular expression .* -> .* otherwise"),
        (Stripped, "it prepares texts with the operation StringStrip"),
        (Late, "it prepares texts with StringLower after 1 other operations"),
    ],
)
def test_what_python_would_do_otherwise_is_refused(table_of, kind, reason):
    with pytest.raises(NoWordTableError, match=reason):
        find_word_table(table_of(kind))


def test_a_module_that_hashes_words_has_no_vocabulary(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTKERAS_CACHE_DIR", str(tmp_path))
    with pytest.raises(
        NoWordTableError, match=r"its words are hashed \(StringToHashBucket\), so that there is no voca"
    ):
        find_word_table(find_table(load_module(sample_text_module(), "sample")))
