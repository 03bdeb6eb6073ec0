"""The TensorFlow engine: hand-computed numbers at any number of steps per call."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from by_hand import (
    LINE,
    LINE_LOSSES,
    Line,
    learn,
    one_weight,
    prepared,
)
from keras import ops
from packaging.version import Version

import lightkeras as lk
from lightkeras import SupervisedTask
from lightkeras.data.arrays import as_feed
from lightkeras.data.feed import ArrayFeed
from lightkeras.data.precompute import compute_ahead, is_active
from lightkeras.engine import make_engine
from lightkeras.engine.tensorflow import TensorFlowEngine
from lightkeras.testing import TwoMoons


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


def test_a_step_that_creates_variables_of_metrics_is_traced_twice():
    runs, arrays = [], (np.zeros((4, 1), "float32"), np.zeros(4, "int32"))

    class Counted(keras.losses.SparseCategoricalCrossentropy):
        def call(self, label, output):
            runs.append(1)
            return super().call(label, output)

    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    task = SupervisedTask(model, loss=Counted(from_logits=True), optimizer=keras.optimizers.SGD(), metrics=["accuracy"])
    _engine, trace, _program = prepared(task, ArrayFeed(arrays, 2))
    assert len(runs) == 2  # TensorFlow repeats the run in which `accuracy` was built
    assert [update.variables for update in trace.updates] == [tuple(model.trainable_variables)]


def test_the_engine_of_this_backend_is_tensorflows():
    assert isinstance(make_engine(), TensorFlowEngine)
    assert make_engine().backend == "tensorflow"


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


# ---------------------------------------------------------------------- memory


def test_an_allocation_that_failed_is_distinguished_from_other_errors():
    """A step that really fails is in the test of `find_batch_size`: TensorFlow takes ten seconds to give up."""
    with pytest.raises(MemoryError) as host:
        np.empty(2**55)
    with pytest.raises(tf.errors.InvalidArgumentError) as other:
        tf.reshape(tf.zeros([4]), [3])
    engine = make_engine()
    assert engine.is_out_of_memory(host.value)
    assert engine.is_out_of_memory(tf.errors.ResourceExhaustedError(None, None, "OOM when allocating"))
    assert not engine.is_out_of_memory(other.value)


def test_a_strategy_in_scope_is_refused(tmp_path):
    message = r"A OneDeviceStrategy is in scope, which steps would ignore\."
    with tf.distribute.OneDeviceStrategy("/cpu:0").scope(), pytest.raises(ValueError, match=message):
        lk.Runner(run_dir=tmp_path / "run").fit(TwoMoons())
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(
    Version(keras.__version__) < Version("3.11"), reason="Keras 3.10 has no ModelParallel on TensorFlow"
)
def test_a_distribution_of_keras_is_refused(tmp_path):
    mesh = keras.distribution.DeviceMesh((1, 1), ["batch", "model"], ["cpu:0"])
    parallel = keras.distribution.ModelParallel(layout_map=keras.distribution.LayoutMap(mesh), batch_dim_name="batch")
    message = r"set_distribution chose a ModelParallel, which is used on JAX alone\."
    with parallel.scope(), pytest.raises(ValueError, match=message):
        lk.Runner(run_dir=tmp_path / "run").fit(TwoMoons())
    assert not (tmp_path / "run").exists()


def test_a_first_call_that_fails_after_it_created_variables_is_the_error():
    """TensorFlow never gives them their initial values, so another call would compute with nothing."""
    calls = []

    class FailsOnce(keras.Model):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1], 1), initializer="ones")

        def call(self, x):
            calls.append(x)
            if len(calls) == 1:
                raise KeyError("only in the first call")
            return x @ self.kernel

    class Fails(Line):
        def build_model(self):
            return FailsOnce()

    with pytest.raises(KeyError, match="only in the first call"):
        learn(Fails(), ArrayFeed(LINE, 2))
