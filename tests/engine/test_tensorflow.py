"""The TensorFlow engine: hand-computed numbers at any number of steps per call."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from by_hand import (
    LINE,
    LINE_LOSSES,
    LINE_WEIGHTS,
    Batches,
    Iterable,
    Line,
    Noisy,
    Square,
    assert_same,
    batches,
    learn,
    left_in,
    noisy_data,
    one_weight,
    predictions,
    prepared,
    sizes,
    weights,
)
from keras import layers, ops

from lightkeras.data.arrays import as_feed
from lightkeras.data.feed import ArrayFeed
from lightkeras.data.precompute import compute_ahead, is_active
from lightkeras.engine import make_engine
from lightkeras.engine.base import Observation
from lightkeras.engine.tensorflow import TensorFlowEngine
from lightkeras.task import Task


@pytest.mark.parametrize("built", [True, False])
def test_a_step_is_traced_once_and_again_only_where_its_model_builds_itself(built):
    runs = []

    class Counted(Line):
        def build_model(self):
            return super().build_model() if built else keras.Sequential([one_weight(1.0)])

        def loss(self, batch, training):
            runs.append(1)
            return super().loss(batch, training)

    task = Counted()
    _engine, trace, _program = prepared(task, ArrayFeed(LINE, 2))
    assert (len(runs) == 1) is built
    assert [update.variables for update in trace.updates] == [tuple(task.model.trainable_variables)]


def test_an_evaluation_is_traced_once_and_has_one_form_for_batches_of_any_size():
    runs = []

    class Counted(Line):
        def evaluate_step(self, batch):
            runs.append(1)
            return super().evaluate_step(batch)

    task, feed = Counted(), ArrayFeed(LINE, 2)
    task.set_up(0)
    engine = task.bind(make_engine)
    trace = engine.trace(task.run_evaluate_step, feed.spec)
    program = engine.program(task.run_evaluate_step, trace.names)
    stream = engine.open(feed)
    logs = [program.run(stream, 1) for _ in range(2)]
    # With w = 1 the errors are -1 and -2, then -3.
    assert [part.values["loss"].tolist() for part in logs] == [[2.5], [9.0]]
    assert [part.examples.tolist() for part in logs] == [[2], [1]]
    assert (len(runs), len(program.forms)) == (1, 1)
    task.model.set_weights([np.float32([[2.0]])])  # the trace holds the variables, and not their values
    assert program.run(engine.open(feed), 1).values["loss"].tolist() == [0.0]


@pytest.mark.parametrize("count", [3, 40])
def test_variables_that_are_not_finite_are_found_one_by_one_or_compiled(count):
    engine = make_engine()
    variables = {str(number): keras.Variable(np.ones(2, "float32")) for number in range(count)}
    variables |= {"large": keras.Variable(np.full(4, 3e38, "float32")), "whole": keras.Variable(1, dtype="int32")}
    assert engine.not_finite(variables) == []  # the sum of the large ones is not finite, and they are
    variables["1"].assign([1.0, np.nan])
    assert engine.not_finite(variables) == ["1"]


def test_the_engine_of_this_backend_is_tensorflows():
    assert isinstance(make_engine(), TensorFlowEngine)
    assert make_engine().backend == "tensorflow"


# ---------------------------------------------------------------------- steps


def test_a_stream_is_opened_at_a_position():
    feed = ArrayFeed((np.arange(10, dtype="float32")[:, None], np.zeros((10, 1))), 2)
    dataset = as_feed(tf.data.Dataset.from_tensor_slices(feed.arrays).batch(2))
    for source in (feed, dataset):
        engine, _trace, program = prepared(Line(), source)
        assert program.run(engine.open(source, epoch=0, step=3), 5).values["largest"].tolist() == [7.0, 9.0]


# ---------------------------------------------------------------------- forms of batches


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "int64", "float16", "float32", "float64", "bool"])
def test_numbers_of_any_dtype_reach_the_step(dtype):
    class Cast(Line):
        def loss(self, batch, training):
            self.dtype = batch[0].dtype.name
            return super().loss([ops.cast(part, "float32") for part in batch], training)

    x = np.array([[1], [0], [1]], dtype)
    task = Cast()
    logs = learn(task, ArrayFeed((x, x), 2))
    assert logs["largest"].tolist() == [1.0, 1.0]
    assert logs["loss"].tolist() == [0.0, 0.0]
    assert task.dtype == ("float32" if dtype == "float64" else dtype)  # as in Keras


def test_text_reaches_the_step_as_strings():
    class Lengths(Line):
        def loss(self, batch, training):
            length = tf.cast(tf.strings.length(batch["text"]), tf.float32)[:, None]
            return super().loss((length, batch["label"]), training)

    arrays = {"text": np.array(["a", "ab", "abc"]), "label": np.int32([[2], [4], [6]])}
    for feed in (ArrayFeed(arrays, 2), as_feed(tf.data.Dataset.from_tensor_slices(arrays).batch(2))):
        task = Lengths()
        assert learn(task, feed)["loss"].tolist() == LINE_LOSSES
        assert task.model.get_weights()[0].item() == LINE_WEIGHTS[-1]


# ---------------------------------------------------------------------- streams


STREAMS = {
    "tf.data": lambda arrays: tf.data.Dataset.from_tensor_slices(arrays).batch(10),
    "tf.data of unknown length": lambda arrays: (
        tf.data.Dataset.from_tensor_slices(arrays).filter(lambda x, y: True).batch(10)
    ),
    "generator": lambda arrays: lambda: batches(arrays, 10),
    "iterable": lambda arrays: Iterable(arrays),
    "PyDataset": lambda arrays: Batches(arrays, 10),
}


@pytest.fixture(scope="module")
def from_tf_data():
    task = Noisy()
    return learn(task, as_feed(STREAMS["tf.data"](noisy_data(203))), 1, epochs=2), weights(task)


def test_a_stream_gives_the_weights_of_arrays_in_the_same_order(from_arrays, from_tf_data):
    # Not bit for bit: a stream's batch may have any size, and TensorFlow rounds a mean over a size that
    # is known to it in another way.
    np.testing.assert_allclose(from_tf_data[0]["loss"], from_arrays[0]["loss"], rtol=1e-5)
    for found, expected in zip(from_tf_data[1], from_arrays[1], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", STREAMS)
def test_every_kind_of_stream_gives_the_same_weights_whatever_the_steps_per_call(from_tf_data, kind):
    task = Noisy()
    logs = learn(task, as_feed(STREAMS[kind](noisy_data(203))), 8, epochs=2)
    assert logs["examples"].tolist() == ([10] * 20 + [3]) * 2
    np.testing.assert_array_equal(logs["loss"], from_tf_data[0]["loss"])
    assert_same(weights(task), from_tf_data[1])


def test_a_stream_with_rows_of_another_length_in_each_batch_is_read():
    class Mean(Line):
        def loss(self, batch, training):
            return super().loss((ops.mean(batch, axis=1, keepdims=True), ops.zeros((1, 1))), training)

    dataset = tf.data.Dataset.range(1, 5).map(lambda n: tf.cast(tf.range(n), tf.float32)).padded_batch(1)
    logs = learn(Mean(), as_feed(dataset), 3)
    assert logs["largest"].tolist() == [0.0, 0.5, 1.0, 1.5]


def test_batches_of_many_shapes_are_compiled_for_once():
    class Mean(Line):
        def loss(self, batch, training):
            return super().loss((ops.mean(batch, axis=1, keepdims=True), ops.zeros((1, 1))), training)

    dataset = tf.data.Dataset.range(1, 21).map(lambda n: tf.cast(tf.range(n), tf.float32)).padded_batch(1)
    traces = []

    class Counted(Mean):
        def loss(self, batch, training):
            traces.append(batch.shape)
            return super().loss(batch, training)

    task = Counted()
    engine, _trace, program = prepared(task, feed := as_feed(dataset))
    traces.clear()
    stream = engine.open(feed)
    assert [program.run(stream, 7).steps for _ in range(3)] == [7, 7, 6]
    assert program.forms == ["float32(None, None)"]
    assert {tuple(shape) for shape in traces} == {(None, None)}
    assert len(traces) == 1


def test_an_error_in_a_stream_comes_out_with_its_message():
    def broken():
        yield LINE
        raise RuntimeError("the disk is on fire")

    with pytest.raises(RuntimeError, match=r"^the disk is on fire$"):
        learn(Line(), as_feed(broken))


# ---------------------------------------------------------------------- work in the input pipeline

TEXTS = {"text": np.array(["a", "ab", "abc"]), "label": np.int32([[2], [4], [6]])}
TEXT_FEEDS = {
    "arrays": lambda: ArrayFeed(TEXTS, 2),
    "tf.data": lambda: as_feed(tf.data.Dataset.from_tensor_slices(TEXTS).batch(2)),
    "generator": lambda: as_feed(
        lambda: ({name: a[start : start + 2] for name, a in TEXTS.items()} for start in (0, 2))
    ),
}


class Lengths(Line):
    """The line through the lengths of texts, which the step leaves to the input pipeline."""

    def build(self):
        super().build()
        self.lengths, self.calls = lengths_noted(calls := []), calls

    def loss(self, batch, training):
        return super().loss((compute_ahead(self.lengths, batch["text"]), batch["label"]), training)


def lengths_noted(calls):
    def lengths(text):
        calls.append("step" if is_active() else "pipeline")
        return tf.cast(tf.strings.length(text), tf.float32)[:, None]

    return lengths


def losses(program, stream):
    parts = []
    while (logs := program.run(stream, 5)).steps:
        parts += logs.values["loss"].tolist()
    return parts


@pytest.mark.parametrize("kind", TEXT_FEEDS)
def test_a_stream_opened_for_a_program_computes_what_its_step_leaves_to_the_pipeline(kind):
    task, feed = Lengths(), TEXT_FEEDS[kind]()
    engine, _trace, program = prepared(task, feed)
    task.calls.clear()
    stream = engine.open(feed, program=program)
    assert stream.next_batch()["text"].tolist() == [b"a", b"ab"]
    assert losses(program, engine.open(feed, program=program)) == LINE_LOSSES
    assert set(task.calls) == {"pipeline"}
    task.calls.clear()
    task.model.set_weights([np.float32([[1.0]])])
    stream = engine.open(feed)  # plain batches suit the program too: it computes in the step
    assert task.calls == []
    assert losses(program, stream) == LINE_LOSSES
    assert task.calls


def test_a_program_keeps_its_work_in_the_pipeline_when_its_step_is_traced_again():
    task, feed = Lengths(), TEXT_FEEDS["arrays"]()
    engine, _trace, first = prepared(task, feed)
    before = task.lengths
    task.lengths = lengths_noted(calls := [])
    engine.trace(task.run_train_step, feed.spec)
    second = engine.program(task.run_train_step, ["largest", "loss"])
    assert [program.precomputed for program in (first, second)] == [((before, 0),), ((task.lengths, 0),)]
    calls.clear()
    assert losses(second, engine.open(feed, program=second)) == LINE_LOSSES
    assert set(calls) == {"pipeline"}
    task.lengths = lambda text: ops.ones((ops.shape(text)[0], 1))  # not one that may be left to the pipeline
    task.loss = lambda batch, training: Line.loss(task, (task.lengths(batch["text"]), batch["label"]), training)
    engine.trace(task.run_train_step, feed.spec)
    assert engine.program(task.run_train_step, ["largest", "loss"]).precomputed == ()


def test_a_batch_at_hand_is_given_with_what_its_program_leaves_to_the_pipeline():
    task, feed = Lengths(), TEXT_FEEDS["arrays"]()
    engine, _trace, program = prepared(task, feed)
    task.calls.clear()
    batch = {"text": np.array(["a", "ab"]), "label": np.int32([[2], [4]])}
    assert losses(program, engine.open_batch(batch, program=program)) == LINE_LOSSES[:1]
    assert set(task.calls) == {"pipeline"}


# ---------------------------------------------------------------------- predictions


@pytest.mark.parametrize("examples", [1, 2, 3, 10, 12])
def test_predictions_keep_order_and_structure_for_any_number_of_inputs(examples):
    x = np.arange(examples, dtype="float32")[:, None]
    dataset = tf.data.Dataset.from_tensor_slices(x).batch(3)
    for data in (x, dataset):
        parts = predictions(Square(), data, count=2)
        joined = keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *parts)
        np.testing.assert_array_equal(joined["square"], x * x)
        np.testing.assert_array_equal(joined["pair"][0], x + 1)
        assert joined["pair"][1].tolist() == list(range(examples))
        assert joined["pair"][1].dtype == np.int32


def test_text_comes_out_of_a_prediction():
    class Shout(Line):
        def predict_step(self, batch):
            return tf.strings.upper(batch)

    (part,) = predictions(Shout(), np.array(["a", "b"]))
    assert part.tolist() == [b"A", b"B"]


# ---------------------------------------------------------------------- minimize and gradients


def test_a_loss_that_is_no_scalar_is_refused_with_its_shape():
    class Rows(Line):
        def loss(self, batch, training):
            return ops.square(self.model(batch[0]) - batch[1])

    with pytest.raises(ValueError, match=r"minimize: the loss has shape \(None, 1\); expected a scalar"):
        learn(Rows(), ArrayFeed(LINE, 2))


# ---------------------------------------------------------------------- a step that runs uncompiled


def streams_of(arrays, size):
    batches = tf.data.Dataset.from_tensor_slices(arrays)

    def generator():
        for start in range(0, len(arrays[0]), size):
            yield tuple(array[start : start + size] for array in arrays)

    return {
        "arrays": ArrayFeed(arrays, size),
        "dataset": as_feed(batches.batch(size)),
        "whole batches": as_feed(batches.batch(size, drop_remainder=True)),
        "generator": as_feed(generator),
    }


@pytest.mark.parametrize("kind", ["arrays", "dataset", "whole batches", "generator"])
def test_a_batch_at_hand_gives_what_it_gives_inside_its_feed_to_the_bit(kind):
    """Convolutions and matrix products: with an unknown batch size some are computed in another order."""

    class Images(Task):
        def build_model(self):
            return keras.Sequential(
                [keras.Input((12, 12, 1)), layers.Conv2D(8, 3, activation="relu"), layers.BatchNormalization(),
                 layers.Flatten(), layers.Dense(64, "relu"), layers.Dropout(0.3), layers.Dense(1)]
            )  # fmt: skip

        def loss(self, batch, training):
            x, y = batch
            return ops.mean(ops.square(self.model(x, training=training) - y))

    rng = np.random.default_rng(0)
    arrays = (rng.normal(size=(66, 12, 12, 1)).astype("float32"), rng.normal(size=(66, 1)).astype("float32"))
    feed, task = streams_of(arrays, 33)[kind], Images()
    engine, _trace, program = prepared(task, feed)
    variables = list(task.variables().values())
    before = weights(task)
    stream = engine.open(feed)
    logs, after = program.run(stream, 1), weights(task)
    again = engine.open(feed)
    batch, shapes = again.next_batch(), again.shapes()
    np.testing.assert_array_equal(batch[0], arrays[0][:33])
    for variable, value in zip(variables, before, strict=True):
        variable.assign(value)
    found = program.run(engine.open_batch(batch, shapes), 1)
    assert found.values["loss"].tobytes() == logs.values["loss"].tobytes()
    assert_same(weights(task), after)
    assert shapes == {
        "arrays": None,
        "whole batches": [[33, 12, 12, 1], [33, 1]],
    }.get(kind, [[None, 12, 12, 1], [None, 1]])


def test_a_batch_at_hand_is_given_once_in_its_own_form():
    batch = {"b": [np.float64([[1.0]])], "a": np.array([b"x"], object)}
    engine = make_engine()
    seen = []

    def step(given):
        seen.append({"b": [given["b"][0].dtype.name], "a": given["a"].dtype.name})
        return {"loss": ops.sum(given["b"][0])}

    program = engine.program(step, ["loss"])
    stream = engine.open_batch(batch)
    assert program.run(stream, 5).values["loss"].tolist() == [1.0]
    assert program.run(stream, 5).steps == 0
    assert {"b": ["float64"], "a": "string"} in seen


def test_row_sparse_gradients_are_looked_into():
    class Sparse(Line):
        def build_model(self):
            return keras.Sequential([keras.Input((1,), dtype="int32"), layers.Embedding(4, 1), layers.Flatten()])

    task = Sparse()
    batch = (np.int32([[1], [2]]), np.float32([[np.inf], [0.0]]))
    engine, _trace, _program = prepared(task, ArrayFeed(batch, 2))
    _, seen = engine.run_eagerly(task.run_train_step, batch)
    assert seen[-1] == Observation("gradient", task.model.layers[0].embeddings.path, -np.inf)


# ---------------------------------------------------------------------- going on inside an epoch of a stream


def shuffled():
    keras.utils.set_random_seed(3)
    return as_feed(tf.data.Dataset.range(40).map(lambda n: (n,)).shuffle(15).batch(4))


@pytest.mark.parametrize("stops", [[3], [9], [10], [2, 9], [1, 2, 3]])
def test_a_shuffled_dataset_goes_on_inside_an_epoch_and_its_later_epochs_are_as_before(stops):
    engine, feed = TensorFlowEngine(), shuffled()
    expected = [left_in(engine.open(feed, epoch)) for epoch in range(4)]
    assert len({str(epoch) for epoch in expected}) == 4

    engine, feed = TensorFlowEngine(), shuffled()
    engine.open(feed, 0)
    stream, state, found = engine.open(feed, 1), None, []
    for before, stop in zip([0, *stops], stops, strict=False):
        found += [stream.next_batch()[0].tolist() for _ in range(stop - before)]
        state = stream.state()
        engine, feed = TensorFlowEngine(), shuffled()  # as in another process
        engine.skip_epochs(feed, 1)
        stream = engine.open(feed, 1, stop, state=state)
        assert stream.reread == 0
    assert found + left_in(stream) == expected[1]
    assert [left_in(engine.open(feed, epoch)) for epoch in (2, 3)] == expected[2:]


@pytest.mark.parametrize("stop", [0, 3, 9, 10])
@pytest.mark.parametrize("resumed", [False, True])
def test_a_step_back_inside_an_epoch_leaves_the_orders_of_later_epochs(stop, resumed):
    engine, feed = TensorFlowEngine(), shuffled()
    engine.open(feed, 0).next_batch()  # to be tried
    expected = [left_in(engine.open(feed, epoch)) for epoch in range(4)]

    engine, feed = TensorFlowEngine(), shuffled()
    engine.open(feed, 0).next_batch()
    stream = engine.open(feed, 0)
    found = [stream.next_batch()[0].tolist() for _ in range(stop)]
    state = stream.state()
    if resumed:  # as in another process, where the stream is tried as well
        engine, feed = TensorFlowEngine(), shuffled()
        engine.open(feed, 0).next_batch()
        engine.skip_epochs(feed, 0)
        stream = engine.open(feed, 0, stop, state=state)
    for _ in range(3):
        stream.next_batch()
        stream = engine.open(feed, 0, stop, state=state)
    assert found + left_in(stream) == expected[0]
    second = engine.open(feed, 1)
    state = second.state()
    left_in(second)
    assert left_in(engine.open(feed, 1, 0, state=state)) == expected[1]
    assert [left_in(engine.open(feed, epoch)) for epoch in (2, 3)] == expected[2:]


def test_a_dataset_that_cannot_be_saved_is_read_again():
    def numbers():
        yield from range(40)

    dataset = tf.data.Dataset.from_generator(numbers, output_signature=tf.TensorSpec([], tf.int64))
    engine, feed = TensorFlowEngine(), as_feed(dataset.map(lambda n: (n,)).batch(4))
    stream = engine.open(feed, 0)
    stream.next_batch()
    assert stream.state() is None
    again = engine.open(feed, 0, 3)
    assert again.reread == 3
    assert left_in(again)[0] == [12, 13, 14, 15]


def test_arrays_are_taken_up_at_any_position():
    engine, feed = TensorFlowEngine(), ArrayFeed((np.arange(10, dtype="float32"),), 4, shuffle=True)
    whole = left_in(engine.open(feed, 2, seed=7))
    assert left_in(engine.open(feed, 2, 1, seed=7)) == whole[1:]
    assert engine.open(feed, 2, 1, seed=7).state() is None


# ---------------------------------------------------------------------- memory


def test_an_allocation_that_failed_is_told_from_other_errors():
    """A step that really fails is in the test of `find_batch_size`: TensorFlow takes ten seconds to give up."""
    with pytest.raises(MemoryError) as host:
        np.empty(2**55)
    with pytest.raises(tf.errors.InvalidArgumentError) as other:
        tf.reshape(tf.zeros([4]), [3])
    engine = make_engine()
    assert engine.is_out_of_memory(host.value)
    assert engine.is_out_of_memory(tf.errors.ResourceExhaustedError(None, None, "OOM when allocating"))
    assert not engine.is_out_of_memory(other.value)


# ---------------------------------------------------------------------- gradients of one batch


@pytest.mark.parametrize("kind", ["arrays", "tf.data"])
def test_the_size_of_a_gradient_is_that_worked_out_by_hand_and_nothing_is_updated(kind):
    feed = ArrayFeed(LINE, 2)
    if kind == "tf.data":
        feed = as_feed(tf.data.Dataset.from_tensor_slices(LINE).batch(2))
    ((path, size),), before, after = sizes(Line(), feed)
    assert path.endswith("/kernel")
    assert size == 5.0  # see LINE_WEIGHTS
    assert_same(after, before)


def test_a_minimize_in_a_branch_is_left_out_of_the_sizes():
    class Now(Line):
        def train_step(self, batch):
            again = ops.cond(
                ops.max(batch[0]) > 100.0,
                lambda: self.minimize(lambda: self.loss(batch, training=True)),
                lambda: ops.convert_to_tensor(0.0),
            )
            return super().train_step(batch) + again

    class Plain(Now):
        def loss(self, batch, training):
            return ops.mean(ops.square(self.model(batch[0]) - batch[1]))

    assert [size for _, size in sizes(Plain(), ArrayFeed(LINE, 2))[0]] == [5.0]


def test_a_trace_names_the_variables_that_a_step_uses_its_own_or_not():
    elsewhere = keras.Variable(1.0)

    class Counting(Line):
        def loss(self, batch, training):
            elsewhere.assign_add(1.0)
            return super().loss(batch, training)

    _engine, trace, _program = prepared(Counting(), ArrayFeed(LINE, 2))
    assert any(variable is elsewhere.value for variable in trace.variables)
    assert len(trace.variables) == 2
    assert float(elsewhere) == 1.0


def test_a_row_looked_up_twice_gets_one_gradient():
    """Keras's Adam squares the parts of a row's gradient as they come: the square of their sum is meant."""
    engine = make_engine()
    table, dense = (keras.Variable(np.ones((4, 2), "float32")) for _ in range(2))
    hot = ops.one_hot(np.array([1, 1, 2]), 4, dtype="float32")
    for variable, looked_up in ((table, lambda: ops.take(table, [1, 1, 2], 0)), (dense, lambda: hot @ dense)):
        optimizer = keras.optimizers.Adam(0.1, clipnorm=3.0)
        for scale in (1.0, 5.0, 2.0):
            weights = np.arange(6, dtype="float32").reshape(3, 2) * np.float32(scale)
            loss = lambda looked_up=looked_up, weights=weights: ops.sum(looked_up() * weights)  # noqa: E731
            engine.minimize(loss, lambda variable=variable: [variable], optimizer)
    np.testing.assert_allclose(table, dense, rtol=1e-6)
