"""Bags of modules against the modules themselves: values, gradients, and modules that are none."""

import numpy as np
import pytest
import tensorflow as tf

from lightkeras.encoders.hub import sample_text_module
from lightkeras.encoders.hub.linear_table import NotLinearError, find_table
from lightkeras.encoders.hub.module_files import load_module

TEXTS = np.array([b"good film good film", b"", b"bad", b"words nobody knows: qzx", "sch\xf6n".encode()], dtype=object)
TEXT = [tf.TensorSpec([None], tf.string)]


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIGHTKERAS_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield load_module(sample_text_module(), "sample")


def words_of(texts):
    words = tf.strings.split(texts)
    return tf.strings.to_hash_bucket_fast(words.flat_values, 7), words.value_rowids(), words.nrows()


class Looked(tf.Module):
    """The mean of vectors that are looked up, so that the gradient is sparse; three columns, and more texts."""

    def __init__(self):
        self.vectors = tf.Variable(tf.random.stateless_normal([7, 3], [1, 2]))

    @tf.function(input_signature=TEXT)
    def __call__(self, texts):
        ids, rows, count = words_of(texts)
        return tf.math.unsorted_segment_mean(tf.gather(self.vectors, ids), rows, count)


class Squared(Looked):
    @tf.function(input_signature=TEXT)
    def __call__(self, texts):
        ids, rows, count = words_of(texts)
        return tf.math.unsorted_segment_sum(tf.gather(self.vectors, ids) ** 2, rows, count)


class Shifted(Looked):
    @tf.function(input_signature=TEXT)
    def __call__(self, texts):
        ids, rows, count = words_of(texts)
        return tf.math.unsorted_segment_sum(tf.gather(self.vectors, ids), rows, count) + 0.5


class Mixed(Looked):
    """Linear in its table, but columns are mixed: a row has no single weight."""

    @tf.function(input_signature=TEXT)
    def __call__(self, texts):
        ids, rows, count = words_of(texts)
        return tf.cumsum(tf.math.unsorted_segment_sum(tf.gather(self.vectors, ids), rows, count), axis=1)


class Weighed(Looked):
    """Weights that depend on the table."""

    @tf.function(input_signature=TEXT)
    def __call__(self, texts):
        ids, rows, count = words_of(texts)
        vectors = tf.gather(self.vectors, ids)
        weights = tf.stop_gradient(tf.abs(vectors[:, :1]))
        return tf.math.unsorted_segment_sum(vectors * weights, rows, count)


class TwoTables(Looked):
    def __init__(self):
        super().__init__()
        self.others = tf.Variable(tf.ones([7, 3]))

    @tf.function(input_signature=TEXT)
    def __call__(self, texts):
        ids, rows, count = words_of(texts)
        return tf.math.unsorted_segment_sum(tf.gather(self.vectors, ids) * tf.gather(self.others, ids), rows, count)


class Dropping(Looked):
    @tf.function(input_signature=TEXT)
    def __call__(self, texts):
        ids, rows, count = words_of(texts)
        return tf.math.unsorted_segment_sum(tf.nn.dropout(tf.gather(self.vectors, ids), 0.5), rows, count)


def loaded(module, tmp_path):
    tf.saved_model.save(module, str(tmp_path / "module"))
    return load_module(tmp_path / "module", "module")


def summed(bags, table):
    found = np.zeros((len(bags), table.shape[1]))
    owner = np.repeat(np.arange(len(bags)), np.diff(bags.splits))
    np.add.at(found, owner, table[bags.ids].astype(float) * bags.weights[:, None])
    return found


def test_bags_add_up_to_what_the_module_gives(sample, tmp_path):
    for module in (sample, loaded(Looked(), tmp_path)):
        table = find_table(module)
        bags = table.bags(TEXTS)
        outputs = module(tf.constant(TEXTS.tolist())).numpy()
        np.testing.assert_allclose(summed(bags, table.variable.numpy()), outputs, atol=1e-6)


def test_a_word_that_comes_twice_is_one_entry_and_an_empty_text_none(sample):
    bags = find_table(sample).bags(TEXTS)
    assert np.diff(bags.splits).tolist() == [2, 0, 1, 4, 1]
    np.testing.assert_allclose(bags.weights[:2], [1.0, 1.0])  # 2 / sqrt(4)
    np.testing.assert_allclose(bags.weights[3:7], [0.5] * 4)  # 1 / sqrt(4)
    assert all(
        np.diff(bags.ids[start:end]).min(initial=1) > 0
        for start, end in np.stack([bags.splits[:-1], bags.splits[1:]], 1)
    )


@pytest.mark.parametrize("texts", [[""], [" "], ["", "", ""], ["", "good"], ["good", ""], [""] * 60])
def test_blank_texts_alone_have_no_entries(sample, texts):
    bags = find_table(sample).bags(np.array(texts, dtype=object))
    assert np.diff(bags.splits).tolist() == [int(text == "good") for text in texts]
    assert set(bags.weights.tolist()) <= {1.0}


def test_a_bag_does_not_depend_on_the_texts_beside_it(tmp_path):
    table = find_table(loaded(Looked(), tmp_path))
    together = table.bags(TEXTS)
    for number in range(len(TEXTS)):
        alone, same = table.bags(TEXTS[[number]]), together.take(np.array([number]))
        assert alone.ids.tolist() == same.ids.tolist()
        assert alone.weights.tobytes() == same.weights.tobytes()


def test_the_gradient_through_bags_is_that_through_the_module(sample):
    table = find_table(sample)
    bags = table.bags(TEXTS).batch()
    with tf.GradientTape() as tape:
        target = tf.reduce_sum(tf.sin(sample(tf.constant(TEXTS.tolist()))))
    expected = tf.convert_to_tensor(tape.gradient(target, table.variable))
    with tf.GradientTape() as tape:
        rows = tf.gather(table.variable, bags["ids"]) * bags["weights"][:, None]
        target = tf.reduce_sum(tf.sin(tf.math.unsorted_segment_sum(rows, bags["rows"], len(TEXTS))))
    np.testing.assert_allclose(tf.convert_to_tensor(tape.gradient(target, table.variable)), expected, atol=1e-6)


def test_the_table_is_as_it_was_after_another_one_was_tried(sample):
    before = sample.trainable_variables[0].numpy()
    find_table(sample)
    assert sample.trainable_variables[0].numpy().tobytes() == before.tobytes()


@pytest.mark.parametrize("kind", [Squared, Shifted, Mixed, Weighed])
def test_a_module_that_is_not_a_weighted_sum_of_rows_is_found_out(kind, tmp_path):
    with pytest.raises(NotLinearError, match=r"not a weighted sum of rows of its table \(they differ by "):
        find_table(loaded(kind(), tmp_path))


def test_other_modules_are_refused_with_the_reason(tmp_path):
    with pytest.raises(NotLinearError, match="2 trainable variables that its output depends on, not one table"):
        find_table(loaded(TwoTables(), tmp_path / "two"))
    with pytest.raises(NotLinearError, match="draws random numbers"):
        find_table(loaded(Dropping(), tmp_path / "random"))


def test_texts_that_the_samples_did_not_foresee_are_compared_too(tmp_path):
    class Sometimes(Looked):
        @tf.function(input_signature=TEXT)
        def __call__(self, texts):
            ids, rows, count = words_of(texts)
            sums = tf.math.unsorted_segment_sum(tf.gather(self.vectors, ids), rows, count)
            return sums + tf.cast(tf.strings.length(texts) > 1000, tf.float32)[:, None]

    table = find_table(loaded(Sometimes(), tmp_path))
    table.bags(TEXTS)
    with pytest.raises(NotLinearError, match="not a weighted sum"):
        table.bags(np.array([b"long " * 500], dtype=object))
