"""Texts, encoders and hub modules that several tests divide into preprocessing and a numeric model."""

import keras
import numpy as np
import tensorflow as tf
from hypothesis import strategies as st
from keras import layers

import lightkeras as lk
from lightkeras.exports.preprocess_words import Preprocessor
from lightkeras.exports.text_stage import split_text

TEXTS = np.array(
    [
        "A good, good film. Not one of the dull ones!",
        "a dull film: it's not good <br /><br />at all",
        b"the good one, the caf\xc3\xa9 and \xff the [UNK]",
        "Émile's café; good\x00film\x1cone",
    ]
    * 2,
    dtype=object,
)
LABELS = np.array([1, 0] * 4)
ODD = [
    *(
        "",
        " \t\n",
        "\x00",
        "\r\n\x0b\x0c",
        "good\ngood\u2028film\x85one",
        "[UNK]",
        "a\xa0good film",
        "ÀÉ",
        "\u017f \u212a \u0130 \u03c2 \u03a3",
    ),
    *(
        b"\xff\xfe good",
        b"caf\xe9",
        "<br/>good< br>film</a b=1><1>",
        "it's_not-a.film",
        "good " * 3000,
        "\U0001f600 good",
    ),
    *("good film good film not good", "the the the", "unknown words only", "\x1c\x1d\x1e\x1f", "\ud7ff\ue000"),
]
PIECES = [
    "good",
    "film",
    "a",
    "the",
    "not",
    " ",
    " ",
    "\n",
    ".",
    "'",
    "<br />",
    "<",
    ">",
    "é",
    "É",
    "\x00",
    "\t",
    "dull",
]
TEXT = st.text() | st.binary() | st.lists(st.sampled_from(PIECES)).map("".join)

WORDS = [
    {"max_tokens": 12, "length": 6, "standardize": standardize, "keep": keep}
    for standardize, keep in [
        ("lower_and_strip_punctuation", "first"),
        ("lower", "last"),
        ("strip_punctuation", "first"),
        ("none", "last"),
    ]
]
GRAMS = [
    {},
    {"ngrams": 3, "weights": "naive_bayes", "max_features": None},
    {"ngrams": 1, "weights": "count", "normalize": False, "max_features": 5},
    {"ngrams": 2, "weights": "binary", "select": "frequency", "min_texts": 1, "normalize": False},
]


def model_of(encoder):
    inputs = encoder.inputs()
    if isinstance(encoder, lk.TextVectorizer):
        x = layers.Flatten()(layers.Embedding(encoder.vocabulary_size, 3)(inputs))
    else:
        x = encoder.embed(inputs, 4) if isinstance(encoder, lk.NgramVectorizer) else encoder.embed(inputs)
    return keras.Model(inputs, layers.Dense(1)(x))


def exported(encoder, folder):
    """The reader of an encoder's text stage, and the numeric model."""
    stage, numeric = split_text(encoder.join(model_of(encoder)))
    stage.write(folder)
    return Preprocessor(folder), numeric


def arrays_of(encoder, texts):
    found = encoder.encode(np.array([*texts, ""], dtype=object)[:-1])  # a list of one str stays one text
    return {"words": found} if isinstance(found, np.ndarray) else found.batch()


def check_equal(preprocess, encoder, texts):
    found, wanted = preprocess(texts), arrays_of(encoder, texts)
    assert sorted(found) == sorted(wanted)
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def encoder_of(settings):
    if "length" in settings:
        encoder = lk.TextVectorizer(**settings)
        encoder.fit([TEXTS])
    else:
        encoder = lk.NgramVectorizer(**settings)
        encoder.fit([(TEXTS, LABELS)])
    return encoder


# ---------------------------------------------------------------------- hub modules

SIGNATURE = [tf.TensorSpec([None], tf.string)]
KNOWN = ["good", "film", "it's", "café", "Never", "two words", ",", ""]


class Module(tf.Module):
    """The mean of the rows of words in a vocabulary, as many modules compute it; the settings are class attributes."""

    lower, pattern, rewrite, separator, buckets = "", r"<br ?/?>|[[:punct:]]", " ", "", 1

    def __init__(self):
        self.table = tf.Variable(tf.random.stateless_normal([len(KNOWN) + self.buckets, 3], [1, 2]))
        pairs = tf.lookup.KeyValueTensorInitializer(tf.constant(KNOWN), tf.range(len(KNOWN), dtype=tf.int64)[::-1])
        known = tf.lookup.StaticVocabularyTable(pairs, self.buckets) if self.buckets else None
        self.words = known or tf.lookup.StaticHashTable(pairs, -1)

    def prepared(self, texts):
        lowered = tf.strings.lower(texts, encoding=self.lower)
        return tf.strings.regex_replace(lowered, self.pattern, self.rewrite)

    @tf.function(input_signature=SIGNATURE, autograph=False)
    def __call__(self, texts):
        words = tf.strings.split(self.prepared(texts), self.separator or None)
        ids, rows = self.words.lookup(words.flat_values), words.value_rowids()
        ids, rows = tf.boolean_mask(ids, ids >= 0), tf.boolean_mask(rows, ids >= 0)
        return self.combined(tf.gather(self.table, ids), rows, words.nrows())

    def combined(self, vectors, rows, count):
        return tf.math.unsorted_segment_mean(vectors, rows, count)


class Summed(Module):
    """Without a row for unknown words, and with letters of all alphabets in lower case."""

    lower, buckets, pattern, rewrite = "utf-8", 0, r"[^a-zé' ]", " "

    def combined(self, vectors, rows, count):
        return tf.math.unsorted_segment_sum(vectors, rows, count)


class Rooted(Module):
    def combined(self, vectors, rows, count):
        return tf.math.unsorted_segment_sqrt_n(vectors, rows, count)
