import os
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import lightkeras as lk
from lightkeras.encoders.hub import HubLayer, sample_text_module
from lightkeras.encoders.hub.graph_split import split
from lightkeras.encoders.hub.module_files import import_tensorflow_hub

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
TEXTS = ["the film was good", "", "bad bad bad", "words nobody knows: qzx", "GOOD!"]


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIGHTKERAS_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield str(sample_text_module())


class Vocabulary(tf.Module):
    """Ragged words, looked up in a table inside a nested function, their vectors averaged."""

    def __init__(self):
        words = tf.lookup.KeyValueTensorInitializer(["good", "bad", "film"], tf.range(3, dtype=tf.int64))
        self.table = tf.lookup.StaticVocabularyTable(words, num_oov_buckets=2)
        self.vectors = tf.Variable(tf.random.stateless_normal([5, 4], [1, 2]))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def ids(self, texts):
        return self.table.lookup(tf.strings.split(tf.strings.lower(texts)))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def __call__(self, texts):
        ids = self.ids(texts)
        vectors = tf.RaggedTensor.from_row_lengths(tf.gather(self.vectors, ids.values), ids.row_lengths())
        return tf.math.divide_no_nan(tf.reduce_sum(vectors, 1), tf.cast(ids.row_lengths(), tf.float32)[:, None])


class Gathering(tf.Module):
    """Words, looked up in a table and gathered: only the handles of table and variable know the shape of the output."""

    def __init__(self):
        words = tf.lookup.KeyValueTensorInitializer(["good", "bad"], tf.constant([1, 2], tf.int64))
        self.table = tf.lookup.StaticHashTable(words, 0)
        self.vectors = tf.Variable(tf.random.stateless_normal([3, 4], [1, 2]))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def __call__(self, texts):
        ids = self.table.lookup(tf.strings.split(texts).to_tensor(""))
        return tf.reduce_mean(tf.gather(self.vectors, ids), 1)


class Named(Gathering):
    """Its output is a dict of one."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def __call__(self, texts):
        ids = self.table.lookup(tf.strings.split(texts).to_tensor(""))
        return {"vectors": tf.reduce_mean(tf.gather(self.vectors, ids), 1)}


class Sequences(Gathering):
    """A vector for each word, and an unknown number of them."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def __call__(self, texts):
        return tf.gather(self.vectors, self.table.lookup(tf.strings.split(texts).to_tensor("")))


class TwoShapes(Gathering):
    """Takes texts, and pairs of texts."""

    def __init__(self):
        super().__init__()
        call = tf.function(lambda texts: tf.gather(self.vectors, self.table.lookup(texts)))
        call.get_concrete_function(tf.TensorSpec([None], tf.string))
        call.get_concrete_function(tf.TensorSpec([None, 2], tf.string))
        self.__call__ = call


class TwoOutputs(tf.Module):
    def __init__(self):
        self.scale = tf.Variable(2.0)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def __call__(self, texts):
        length = tf.cast(tf.strings.length(texts), tf.float32)
        return {"a": length * self.scale, "b": length}


class Counting(tf.Module):
    """Counts its calls: the halves would lose the count."""

    def __init__(self):
        self.scale = tf.Variable(2.0)
        self.calls = tf.Variable(0.0)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def __call__(self, texts):
        return tf.cast(tf.strings.length(texts), tf.float32) * self.scale + self.calls.assign_add(1.0)


class Doubler(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32)])
    def __call__(self, numbers):
        return 2 * numbers


def saved(module, folder):
    tf.saved_model.save(module, str(folder))
    return str(folder)


def load(folder):
    return import_tensorflow_hub().load(folder)


def assert_halves_are_the_whole(module):
    halves = split(module)
    assert halves is not None
    numbers = halves.to_numbers(tf.constant(TEXTS))
    assert all(tensor.dtype != tf.string for tensor in numbers)
    whole, joined = module(tf.constant(TEXTS)), halves.from_numbers(numbers)
    tf.nest.assert_same_structure(whole, joined)
    np.testing.assert_array_equal(*(tf.nest.flatten(each)[0] for each in (whole, joined)))
    variables = module.__call__.concrete_functions[0].trainable_variables
    gradients = []
    for call in (lambda: halves.from_numbers(numbers), lambda: module(tf.constant(TEXTS))):
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(tf.nest.flatten(call())[0] ** 2)
        gradients.append(tape.gradient(value, variables))
    for ours, theirs in zip(*gradients, strict=True):
        assert type(ours) is type(theirs)
        np.testing.assert_array_equal(tf.convert_to_tensor(ours), tf.convert_to_tensor(theirs))


def test_the_sample_module_is_cut_and_the_halves_give_what_the_whole_gives(sample):
    assert_halves_are_the_whole(load(sample))


def test_a_table_look_up_in_a_nested_function_is_cut(tmp_path):
    assert_halves_are_the_whole(load(saved(Vocabulary(), tmp_path / "module")))


@pytest.mark.parametrize("module", [Gathering, Named, Sequences])
@pytest.mark.parametrize("length", [None, 5])
def test_the_halves_keep_the_structure_and_the_static_shape_of_the_output(tmp_path, module, length):
    loaded = load(saved(module(), tmp_path / "module"))
    assert_halves_are_the_whole(loaded)
    halves = split(loaded)
    spec = tf.TensorSpec([length], tf.string)
    whole = tf.function(lambda texts: loaded(texts)).get_concrete_function(spec).structured_outputs
    joined = tf.function(lambda texts: halves.from_numbers(halves.to_numbers(texts))).get_concrete_function(spec)
    tf.nest.assert_same_structure(whole, joined.structured_outputs)
    [shape], [other] = (tf.nest.flatten(each) for each in (whole, joined.structured_outputs))
    assert (other.shape.as_list(), other.dtype) == (shape.shape.as_list(), shape.dtype)
    assert other.shape[-1] == 4


@pytest.mark.parametrize("kind", ["functional", "subclassed", "called in the step"])
@pytest.mark.parametrize("module", [Gathering, Named])
@pytest.mark.parametrize("trainable", [False, True])
def test_a_module_with_a_table_trains_where_keras_trains(tmp_path, kind, module, trainable):
    handle = saved(module(), tmp_path / "module")

    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.words, self.dense = HubLayer(handle, trainable), keras.layers.Dense(1)

        def call(self, text):
            return self.dense(tf.nest.flatten(self.words(text))[0])

    class InTheStep(lk.Task):
        def build_model(self):
            self.words = HubLayer(handle, trainable)
            return keras.Sequential([keras.layers.Dense(1)])

        def loss(self, batch, training):
            text, label = batch
            vectors = tf.nest.flatten(self.words(text))[0]
            return keras.ops.mean(keras.ops.square(self.model(vectors, training=training)[:, 0] - label))

    def functional():
        text = keras.Input((), dtype="string")
        return keras.Model(text, keras.layers.Dense(1)(tf.nest.flatten(HubLayer(handle, trainable)(text))[0]))

    if kind == "called in the step":
        task = InTheStep()
    else:
        model = functional() if kind == "functional" else Subclassed()
        task = lk.SupervisedTask(model, loss=keras.losses.MeanSquaredError(), optimizer="adam")
    x, y = np.array(["good good", "bad film"] * 16, object), np.array([1.0, 0.0] * 16, "float32")
    runner = lk.Runner(max_epochs=1, run_dir=tmp_path / "run", export=False, pictures=False, progress=False)
    assert runner.fit(task, (x, y), batch_size=8).steps == 4


def test_neither_the_second_half_nor_its_gradient_reads_a_whole_table(tmp_path):
    module = load(saved(Vocabulary(), tmp_path / "module"))
    halves = split(module)

    @tf.function
    def gradient(numbers):
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(halves.from_numbers(numbers))
        return tape.gradient(value, module.vectors).values

    graph = gradient.get_concrete_function(halves.to_numbers(tf.constant(TEXTS))).graph.as_graph_def()
    bodies = [graph.node, *(function.node_def for function in graph.library.function)]
    operations = {node.op for body in bodies for node in body}
    assert "ResourceGather" in operations
    assert "ReadVariableOp" not in operations


@pytest.mark.real
@pytest.mark.skipif(not os.environ.get("LIGHTKERAS_DATA_DIR"), reason="needs LIGHTKERAS_DATA_DIR")
def test_the_glove_module_is_cut_and_keeps_its_row_sparse_gradients():
    module = load(str(Path(os.environ["LIGHTKERAS_DATA_DIR"], "hub", "glove-6b-50d").resolve()))
    assert_halves_are_the_whole(module)
    halves = split(module)
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(halves.from_numbers(halves.to_numbers(tf.constant(TEXTS))))
    assert isinstance(tape.gradient(value, module.trainable_variables[0]), tf.IndexedSlices)


@pytest.mark.parametrize("module", [TwoOutputs, Doubler, TwoShapes])
def test_a_module_that_cannot_be_cut_is_left_whole(tmp_path, module):
    assert split(load(saved(module(), tmp_path / "module"))) is None


def test_a_module_that_changes_something_when_it_runs_is_left_whole(tmp_path):
    assert split(load(saved(Counting(), tmp_path / "module"))) is None


class Sentiment(lk.Task):
    handle = ""

    def build_model(self):
        text = keras.Input((), dtype="string")
        return keras.Model(text, keras.layers.Dense(1)(HubLayer(self.handle, trainable=True)(text)))

    def loss(self, batch, training):
        text, label = batch
        return keras.ops.mean((keras.ops.squeeze(self.model(text, training=training), -1) - label) ** 2)


def weights_after_fit(run_dir):
    texts = np.array(TEXTS * 10, dtype=object)
    labels = np.arange(50, dtype="float32") % 2
    task = Sentiment()
    held_out = np.array([f"{text} again" for text in texts], dtype=object)
    result = lk.Runner(max_epochs=2, run_dir=run_dir).fit(task, (texts, labels), (held_out, labels), batch_size=8)
    return [variable.numpy() for variable in task.variables().values()], result.history


def test_training_ahead_gives_the_bits_of_training_on_the_whole_module(sample, tmp_path, monkeypatch):
    monkeypatch.setattr(Sentiment, "handle", sample)
    used = []
    original = HubLayer._halves
    monkeypatch.setattr(HubLayer, "_halves", lambda layer: used.append(original(layer)) or used[-1])
    ahead, history = weights_after_fit(tmp_path / "ahead")
    assert used
    assert None not in used
    monkeypatch.setattr(HubLayer, "_halves", lambda layer: None)
    whole, expected = weights_after_fit(tmp_path / "whole")
    assert history == expected
    assert len(ahead) == len(whole) > 3
    for ours, theirs in zip(ahead, whole, strict=True):
        np.testing.assert_array_equal(ours, theirs)
