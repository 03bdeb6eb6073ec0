"""The JAX engine: hand-computed numbers at any number of steps per call, and features of JAX only."""

import os
import subprocess
import sys
import threading
import warnings

import keras
import numpy as np
import pytest
from by_hand import (
    LINE,
    LINE_LOSSES,
    LINE_WEIGHTS,
    Batches,
    HalfPrecision,
    Line,
    Noisy,
    Square,
    assert_same,
    batches,
    learn,
    noisy_data,
    one_weight,
    predictions,
    prepared,
    weights,
)
from keras import layers, ops

from lightkeras import Runner
from lightkeras.data.arrays import as_feed
from lightkeras.data.bags import Bags
from lightkeras.data.feed import ArrayFeed
from lightkeras.engine import make_engine
from lightkeras.task import Task

pytestmark = pytest.mark.backends("jax")

if keras.backend.backend() == "jax":
    import jax
    import jax.numpy as jnp

    from lightkeras.engine.jax import JaxEngine, compiled, programs, streams
    from lightkeras.engine.jax.scope import Values


def test_the_engine_of_this_backend_is_jaxs():
    assert isinstance(make_engine(), JaxEngine)
    assert make_engine().backend == "jax"


# ---------------------------------------------------------------------- steps


def test_more_steps_than_the_table_of_logs_has_rows_are_one_call():
    count = programs.MIN_ROWS + 3
    feed = ArrayFeed((np.arange(count, dtype="float32")[:, None] / 1e4, np.zeros((count, 1))), 1)
    engine, _trace, program = prepared(Line(), feed)
    logs = program.run(engine.open(feed), count)
    np.testing.assert_array_equal(logs.values["largest"], feed.arrays[0][:, 0])


class Convolved(Line):
    """The same line, by a convolution over one pixel."""

    def build_model(self):
        point = keras.Input((1,))
        pixel = layers.Conv1D(1, 1, use_bias=False, kernel_initializer="ones")(ops.expand_dims(point, -1))
        return keras.Model(point, ops.squeeze(pixel, -1))


@pytest.mark.parametrize(("task", "looped"), [(Line, True), (Convolved, False)])
def test_on_a_cpu_a_step_with_a_convolution_is_called_by_itself_and_any_other_in_a_loop(task, looped):
    feed = ArrayFeed(LINE, 1)
    engine, _trace, program = prepared(task(), feed)
    stream = engine.open(feed)
    logs = [program.run(stream, count) for count in (2, 5)]
    assert [part.steps for part in logs] == [2, 1]
    assert [part.examples.tolist() for part in logs] == [[1, 1], [1]]
    # Errors -1, then 2 * 1.25 - 4 = -1.5, then 3 * 2 - 6 = 0: w = 1 + 2/8, then 1.25 + 6/8.
    assert np.concatenate([part.values["loss"] for part in logs]).tolist() == [1.0, 2.25, 0.0]
    on_cpu = jax.default_backend() == "cpu"
    assert [("steps a call" in form) for form in program.forms] == [looped or not on_cpu]


def test_calls_of_other_lengths_compile_nothing_new():
    feed = ArrayFeed(noisy_data(1000), 10)
    engine, _trace, program = prepared(Noisy(), feed)
    stream = engine.open(feed)
    program.run(stream, 1)
    with Compilations() as found:
        for count in (1, 2, 3, 7, 20, 64):
            assert program.run(stream, count).steps
    assert found == []


class Compilations:
    """With a list of the functions that are compiled meanwhile, whether or not they were in the cache."""

    def __enter__(self):
        self.found, self.thread = [], threading.get_ident()
        jax.monitoring.register_event_duration_secs_listener(self.note)
        return self.found

    def note(self, event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration" and threading.get_ident() == self.thread:
            self.found.append(event)

    def __exit__(self, *_):
        jax.monitoring.unregister_event_duration_listener(self.note)


def test_noise_differs_from_step_to_step_with_a_generator_and_without():
    class Draws(Line):
        def train_step(self, batch):
            self.log("unseeded", keras.random.uniform(()))
            return super().train_step(batch)

    task = Draws()
    logs = learn(task, ArrayFeed((np.ones((20, 1)), np.ones((20, 1))), 1))
    assert len(set(logs["unseeded"].tolist())) == 20
    assert "keras.random.0000" in task.variables()
    with pytest.raises(ValueError, match="seeded random ops"):  # Keras is restored
        jax.jit(lambda: keras.random.uniform(()))()


def test_a_trace_builds_the_optimizer_and_knows_every_variable():
    task = Noisy()
    task.set_up(0)
    trace = task.bind(make_engine).trace(task.run_train_step, ArrayFeed(noisy_data(20), 10).spec)
    assert task.optimizer.built
    assert {id(variable) for variable in task.variables().values()} == {id(variable) for variable in trace.variables}


def test_the_step_is_run_twice_by_python_and_its_trace_is_compiled():
    class Counting(Line):
        calls = 0

        def train_step(self, batch):
            self.calls += 1
            return super().train_step(batch)

    task, feed = Counting(), ArrayFeed(LINE, 2)
    engine, _trace, program = prepared(task, feed)
    assert task.calls == 2  # once to build what builds itself
    stream = engine.open(feed)
    program.run(stream, 1)
    engine.gradient_sizes(task.run_train_step, engine.open(feed))
    assert task.calls == 2
    program.run(stream, 1)  # the smaller last batch
    assert task.calls == 4
    engine.program(task.run_train_step, ["largest", "loss"]).run(
        engine.open(feed), 1
    )  # what is made anew is traced anew
    assert task.calls == 6


def test_a_learning_rate_that_is_set_between_calls_takes_effect():
    task, feed = Line(), ArrayFeed(LINE, 1)
    engine, _trace, program = prepared(task, feed)
    stream = engine.open(feed)
    program.run(stream, 1)
    task.optimizer.learning_rate = 0.0
    before = task.model.get_weights()[0].item()
    program.run(stream, 2)
    assert task.model.get_weights()[0].item() == before != 1.0


def test_what_was_frozen_stays_in_a_program_that_is_made_anew():
    task, feed = Line(), ArrayFeed(LINE, 1)
    task.build_model = lambda: keras.Sequential([keras.Input((1,)), one_weight(1.0), one_weight(1.0)])
    engine, trace, program = prepared(task, feed)
    program.run(engine.open(feed), 1)
    first, second = [weight.item() for weight in task.model.get_weights()]
    task.model.layers[0].trainable = False
    engine.program(task.run_train_step, trace.names).run(engine.open(feed), 1)
    assert task.model.get_weights()[0].item() == first
    assert task.model.get_weights()[1].item() != second


# ---------------------------------------------------------------------- what variables hold


def test_two_variables_may_hold_one_array_and_an_array_may_be_kept():
    class Target(Line):
        def build(self):
            super().build()
            self.target = keras.Sequential([keras.Input((1,)), one_weight(0.0)])

        def train_step(self, batch):
            loss = super().train_step(batch)
            target = self.target.weights[0]
            target.assign(0.5 * target + 0.5 * self.model.weights[0])
            return loss

    task, feed = Target(), ArrayFeed([array[:2] for array in LINE], 2)
    engine, _trace, program = prepared(task, feed)
    task.target.weights[0].assign(task.model.weights[0])  # Keras keeps the very array
    kept = np.float32([[1.0]])
    task.model.weights[0].assign(kept)
    program.run(engine.open(feed), 1)
    assert task.model.get_weights()[0].item() == LINE_WEIGHTS[0]
    assert task.target.get_weights()[0].item() == (1 + LINE_WEIGHTS[0]) / 2
    assert kept.item() == 1.0


def test_the_arrays_given_away_are_copied_where_one_is_shared():
    one, two = jnp.ones(1), jnp.ones(1)
    assert compiled.copy_shared([one, two], []) == [one, two]
    found = compiled.copy_shared([one, one, two], [two])
    assert found[0] is one
    assert found[1] is not one
    assert found[2] is not two


# ---------------------------------------------------------------------- forms of batches


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "int64", "float16", "float32", "float64", "bool"])
def test_numbers_of_any_dtype_reach_the_step(dtype):
    class Cast(Line):
        def loss(self, batch, training):
            self.dtype = batch[0].dtype.name
            return super().loss([ops.cast(part, "float32") for part in batch], training)

    x = np.array([[1], [0], [1]], dtype)
    for feed in (ArrayFeed((x, x), 2), as_feed(lambda: iter([(x[:2], x[:2]), (x[2:], x[2:])]))):
        task = Cast()
        logs = learn(task, feed)
        assert logs["largest"].tolist() == [1.0, 1.0]
        assert logs["loss"].tolist() == [0.0, 0.0]
        assert task.dtype == {"int64": "int32", "float64": "float32"}.get(dtype, dtype)


@pytest.mark.parametrize("kind", ["arrays", "generator"])
def test_whole_numbers_that_jax_would_cut_are_refused(kind):
    x = np.int64([[1], [2**31]])
    feed = ArrayFeed((x, x), 2) if kind == "arrays" else as_feed(lambda: iter([(x, x)]))
    with pytest.raises(ValueError, match="Array 0 is int64 and holds 2147483648, which JAX would cut to int32"):
        learn(Line(), feed)


def test_text_is_refused_before_anything_is_compiled_and_the_way_out_is_named():
    feed = ArrayFeed({"text": np.array(["a", "b"])}, 2)
    with pytest.raises(
        ValueError, match=r"Array text of a batch is text, which JAX cannot compute with.* `build_encoder`"
    ):
        learn(Line(), feed)


# ---------------------------------------------------------------------- streams


def dataset(arrays, size):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(arrays).batch(size)


STREAMS = {
    "tf.data": dataset,
    "generator": lambda arrays, size: lambda: batches(arrays, size),
    "PyDataset": Batches,
}


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("count", [1, 8, 75])
def test_a_stream_gives_the_bits_of_arrays_in_the_same_order(kind, count):
    task, other = Noisy(), Noisy()
    expected = learn(other, ArrayFeed(noisy_data(203), 10), 7, epochs=2)
    logs = learn(task, as_feed(STREAMS[kind](noisy_data(203), 10)), count, epochs=2)
    assert logs["examples"].tolist() == ([10] * 20 + [3]) * 2
    np.testing.assert_array_equal(logs["loss"], expected["loss"])
    assert_same(weights(task), weights(other))


def test_a_stream_of_large_batches_is_copied_one_by_one(monkeypatch):
    monkeypatch.setattr(streams, "BLOCK_BYTES", 1)
    task, other = Noisy(), Noisy()
    expected = learn(other, ArrayFeed(noisy_data(103), 10), 7)
    logs = learn(task, as_feed(STREAMS["generator"](noisy_data(103), 10)), 7)
    np.testing.assert_array_equal(logs["loss"], expected["loss"])


def test_a_stream_ends_with_what_there_is():
    feed = as_feed(STREAMS["generator"](noisy_data(203), 10))
    assert feed.steps is None
    engine, _trace, program = prepared(Noisy(), feed)
    stream = engine.open(feed)
    assert [program.run(stream, 8).steps for _ in range(5)] == [8, 8, 5, 0, 0]


def test_the_steps_before_a_batch_that_fails_are_run():
    def broken():
        yield from batches(LINE, 1)
        raise RuntimeError("the disk is on fire")

    feed = as_feed(broken)
    engine, _trace, program = prepared(Line(), feed)
    stream = engine.open(feed)
    assert program.run(stream, 3).steps == 3
    with pytest.raises(RuntimeError, match="the disk is on fire"):
        program.run(stream, 1)


def test_a_dataset_is_read_no_further_than_its_steps_so_that_its_state_is_theirs():
    feed = as_feed(dataset((np.arange(40, dtype="float32")[:, None], np.zeros((40, 1), "float32")), 2))
    engine, _trace, program = prepared(Line(), feed)
    stream = engine.open(feed)
    program.run(stream, 7)
    again = engine.open(feed, 0, 7, state=stream.state())
    assert again.reread == 0
    assert again.next_batch()[0].ravel().tolist() == [14.0, 15.0]


def test_batches_of_many_shapes_are_warned_of_with_the_way_out():
    class Mean(Line):
        def loss(self, batch, training):
            return super().loss((ops.mean(batch, axis=0, keepdims=True), ops.zeros((1, 1))), training)

    feed = as_feed(lambda: (np.ones((length, 1), "float32") for length in range(1, programs.MANY_FORMS + 1)))
    warning = (
        r"had 8 shapes so far, the last one float32\[8, 1\], .* JAX compiles .* which took \d+\.\d s so far\. Pad all"
    )
    with pytest.warns(UserWarning, match=warning):
        assert learn(Mean(), feed)["largest"].tolist() == [1.0] * 8


# ---------------------------------------------------------------------- bags


def bags(count, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 30, count)
    splits = np.concatenate([[0], np.cumsum(lengths)])
    ids = rng.integers(0, 50, splits[-1]).astype("int32")
    return Bags(ids, rng.normal(size=len(ids)).astype("float32"), splits)


class Bagged(Task):
    def build(self):
        self.model = keras.Sequential([keras.Input((), dtype="int32"), layers.Embedding(50, 4)])
        self.optimizer = keras.optimizers.Adam(0.01)
        self.sizes = set()

    def loss(self, batch, training):
        found, label = batch
        self.sizes.add((label.shape[0], found["ids"].shape[0]))
        rows = self.model(found["ids"]) * found["weights"][:, None]
        sums = ops.segment_sum(rows, found["rows"], num_segments=label.shape[0])
        return ops.mean(ops.square(ops.sum(sums, axis=1) - label))


def test_bags_come_in_batches_of_few_lengths_and_what_is_filled_in_changes_nothing():
    label = np.random.default_rng(1).normal(size=1003).astype("float32")
    task, feed = Bagged(), ArrayFeed((bags(1003), label), 10, shuffle=True)
    losses = learn(task, feed, 7, epochs=2)["loss"]
    assert len({size for size in task.sizes if size[0] == 10}) <= 3  # and the trace's own is one of them
    stream, expected = prepared(Bagged(), feed)[0].open(feed), []
    other = Bagged()
    other.set_up(0)
    engine = other.bind(make_engine)
    program = engine.program(other.run_train_step, ["loss"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of the many lengths
        for number in range(5):
            batch, _ = stream.next_batch()
            whole = feed.arrays[0].take(feed.indices(0, number, 1)[0]).batch()
            count = len(whole["ids"])
            assert_same(
                [batch[name][:count] for name in ("ids", "weights", "rows")],
                [whole["ids"], whole["weights"], whole["rows"]],
            )
            assert not batch["weights"][count:].any()
            unpadded = (whole, label[feed.indices(0, number, 1)[0]])
            expected += program.run(engine.open_batch(unpadded), 1).values["loss"].tolist()
    np.testing.assert_allclose(losses[:5], expected, rtol=1e-5)


def test_lengths_are_rounded_up_in_steps_of_a_fifth():
    assert [streams.padded_length(n, 100) for n in (0, 99, 100, 101, 119, 120, 200, 201)] == [
        *(100, 100, 100, 119, 119, 142, 200, 238)
    ]


# ---------------------------------------------------------------------- predictions


@pytest.mark.parametrize("examples", [1, 2, 3, 10, 12])
def test_predictions_keep_order_and_structure_for_any_number_of_inputs(examples):
    x = np.arange(examples, dtype="float32")[:, None]
    for data in (x, lambda: (x[start : start + 3] for start in range(0, examples, 3))):
        parts = predictions(Square(), data, count=2)
        joined = keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *parts)
        np.testing.assert_array_equal(joined["square"], x * x)
        np.testing.assert_array_equal(joined["pair"][0], x + 1)
        assert joined["pair"][1].tolist() == list(range(examples))
        assert joined["pair"][1].dtype == np.int32


# ---------------------------------------------------------------------- minimize and gradients


class InBranch(Line):
    """Learns, and draws, in every second step alone."""

    def build(self):
        super().build()
        self.steps = keras.Variable(0, dtype="int32", trainable=False)
        self.holder = layers.Layer()
        self.holder.steps = self.steps
        self.noise = keras.random.SeedGenerator(1)

    def train_step(self, batch):
        def learns():
            return self.minimize(lambda: self.squares(batch) + 0.0 * keras.random.uniform((), seed=self.noise))

        loss = ops.cond(self.steps % 2 == 0, learns, lambda: ops.convert_to_tensor(-1.0))
        self.steps.assign_add(1)
        return loss

    def squares(self, batch):
        return ops.mean(ops.square(self.model(batch[0]) - batch[1]))


def test_a_branch_may_minimize_and_draw_and_only_the_one_that_is_taken_does():
    task = InBranch()
    x, y = (np.repeat(array[:1], 3, axis=0) for array in LINE)
    logs = learn(task, ArrayFeed((x, y), 1))
    # w = 1: loss 1, gradient -2, w = 1.25; nothing; loss 0.5625, gradient -1.5, w = 1.4375.
    assert logs["loss"].tolist() == [1.0, -1.0, 0.5625]
    assert task.model.get_weights()[0].item() == 1.4375
    assert int(task.optimizer.iterations) == 2
    assert ops.convert_to_numpy(task.noise.state).tolist() == [1, 2]


def test_the_gradients_of_a_branch_are_left_out_of_the_sizes():
    task, feed = InBranch(), ArrayFeed(LINE, 1)
    engine, trace, _program = prepared(task, feed)
    assert [update.variables for update in trace.updates] == [tuple(task.model.trainable_variables)]
    assert engine.gradient_sizes(task.run_train_step, engine.open(feed)) == []


def test_the_sizes_of_gradients_are_those_of_the_first_batch_and_nothing_is_learned():
    class Half(Line):
        def build_model(self):
            self.unused = one_weight(3.0)
            self.unused.build((None, 1))
            return super().build_model()

        def loss(self, batch, training):
            stopped = ops.stop_gradient(self.unused(batch[0]))
            return super().loss(batch, training) + 0.0 * ops.mean(stopped)

    task, feed = Half(), ArrayFeed(LINE, 2)
    engine, trace, _program = prepared(task, feed)
    assert trace.updates[0].unreached == (task.unused.kernel,)
    found = engine.gradient_sizes(task.run_train_step, engine.open(feed))
    assert [(variable.path, size) for variable, size in found] == [
        (variable.path, {id(task.unused.kernel): 0.0}.get(id(variable), 5.0)) for variable in trace.updates[0].variables
    ]
    assert task.model.get_weights()[0].item() == 1.0
    assert int(task.optimizer.iterations) == 0


def test_what_the_loss_does_not_depend_on_is_left_alone_by_weight_decay():
    class Decaying(Line):
        def build_model(self):
            self.unused = one_weight(3.0)
            self.unused.build((None, 1))
            return super().build_model()

        def build_optimizer(self):
            return keras.optimizers.SGD(0.125, weight_decay=0.5)

    task = Decaying()
    learn(task, ArrayFeed(LINE, 2))
    assert task.unused.kernel.numpy().item() == 3.0


def test_gradients_keep_the_structure_of_the_inputs_and_name_what_is_lost():
    class Saliency(Line):
        def train_step(self, batch):
            found = self.gradients(lambda b: ops.sum(b["x"] * b["x"] * b["y"]), batch)
            self.log("dx", ops.max(found["x"]))  # 2 x y
            self.log("dy", ops.max(found["y"]))  # x^2
            return super().train_step((batch["x"], batch["y"]))

    class Lost(Line):
        def train_step(self, batch):
            self.gradients(lambda b: ops.sum(b["x"]), batch)

    feed = ArrayFeed({"x": np.float32([[3]]), "y": np.float32([[5]])}, 1)
    logs = learn(Saliency(), feed)
    assert (logs["dx"].item(), logs["dy"].item()) == (30.0, 9.0)
    with pytest.raises(ValueError, match="gradients: the value does not depend on y"):
        learn(Lost(), feed)


def test_a_loss_that_is_no_scalar_is_refused_with_its_shape():
    class Rows(Line):
        def loss(self, batch, training):
            return ops.square(self.model(batch[0]) - batch[1])

    with pytest.raises(ValueError, match=r"minimize: the loss has shape \(2, 1\); expected a scalar"):
        learn(Rows(), ArrayFeed(LINE, 2))


def test_minimize_outside_a_step_is_refused():
    with pytest.raises(RuntimeError, match="outside a step"):
        make_engine().minimize(lambda: 0.0, list, keras.optimizers.SGD())


def test_layers_that_are_made_in_the_step_are_refused():
    class Careless(Line):
        def loss(self, batch, training):
            return ops.mean(layers.Dense(1)(batch[0])) + super().loss(batch, training)

    with pytest.raises(ValueError, match="creates new variables in each run"):
        learn(Careless(), ArrayFeed(LINE, 2))


def test_a_model_that_builds_itself_on_its_first_call_learns_and_its_losses_count():
    class Late(keras.Model):
        def build(self, shape):
            self.kernel = self.add_weight(
                shape=(shape[-1], 1), initializer="ones", regularizer=lambda w: 0.0 * ops.sum(w)
            )

        def call(self, x):
            self.add_loss(0.0 * ops.sum(x))
            return x @ self.kernel

    class Lazy(Line):
        def build_model(self):
            return Late()

        def build_optimizer(self):
            return keras.optimizers.Nadam(0.01)  # whose `build` makes variables in its own way

        def loss(self, batch, training):
            loss = super().loss(batch, training)
            assert len(self.model.losses) == 2
            return loss + sum(self.model.losses)

    task = Lazy()
    assert learn(task, ArrayFeed(LINE, 2))["loss"][0] == LINE_LOSSES[0]
    assert task.model.get_weights()[0].item() > 1.0


def test_gradients_are_gathered_clipped_and_averaged_by_the_optimizer():
    class Gathered(Line):
        def build_optimizer(self):
            return keras.optimizers.SGD(
                0.125, gradient_accumulation_steps=2, global_clipnorm=1.0, use_ema=True, ema_momentum=0.75
            )

    task = Gathered()
    learn(task, ArrayFeed([array[:2] for array in LINE], 1))
    assert task.model.get_weights()[0].item() == pytest.approx(
        1 + 0.125, abs=1e-6
    )  # -2 and -8, their mean clipped to -1


# ---------------------------------------------------------------------- a step that runs uncompiled


@pytest.mark.parametrize("kind", ["arrays", *STREAMS])
def test_a_batch_at_hand_gives_what_it_gives_inside_its_feed_to_the_bit(kind):
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
    feed = ArrayFeed(arrays, 33) if kind == "arrays" else as_feed(STREAMS[kind](arrays, 33))
    task = Images()
    engine, _trace, program = prepared(task, feed)
    variables = list(task.variables().values())
    before = weights(task)
    logs, after = program.run(engine.open(feed), 1), weights(task)
    again = engine.open(feed)
    batch, shapes = again.next_batch(), again.shapes()
    np.testing.assert_array_equal(batch[0], arrays[0][:33])
    for variable, value in zip(variables, before, strict=True):
        variable.assign(value)
    found = program.run(engine.open_batch(batch, shapes), 1)
    assert found.values["loss"].tobytes() == logs.values["loss"].tobytes()
    assert_same(weights(task), after)
    assert program.run(engine.open_batch(batch), 5).steps == 1


@pytest.mark.parametrize("task_class", [HalfPrecision, InBranch])
def test_a_step_with_a_condition_is_looked_into(task_class):
    task = task_class()
    engine, _trace, _program = prepared(task, ArrayFeed(LINE, 2))
    logs, seen = engine.run_eagerly(task.run_train_step, tuple(array[:2] for array in LINE))
    assert logs["loss"] == LINE_LOSSES[0]
    assert task.model.get_weights()[0].item() == LINE_WEIGHTS[0]
    assert {found.kind for found in seen} == {"layer", "loss", "gradient"}


def test_a_step_that_raises_leaves_keras_as_it_was():
    engine, call = make_engine(), keras.Operation.__call__

    def step(batch):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        engine.run_eagerly(step, LINE)
    with pytest.raises(RuntimeError, match="no"):
        engine.trace(step, ArrayFeed(LINE, 1).spec)
    assert keras.Operation.__call__ is call
    assert Values.current() is None
    with pytest.raises(ValueError, match="seeded random ops"):
        jax.jit(lambda: keras.random.uniform(()))()


def test_running_out_of_memory_is_told_from_other_errors():
    engine = make_engine()
    with pytest.raises(jax.errors.JaxRuntimeError) as caught:
        jnp.zeros(2**50).block_until_ready()
    assert engine.is_out_of_memory(caught.value)
    assert engine.is_out_of_memory(MemoryError())
    assert not engine.is_out_of_memory(ValueError("RESOURCE_EXHAUSTED"))
    assert not engine.is_out_of_memory(jax.errors.JaxRuntimeError("INTERNAL: no"))


# ---------------------------------------------------------------------- processes

PROGRAM = """
import os, sys
os.environ["KERAS_BACKEND"] = "jax"
import lightkeras as lk
import jax
from lightkeras.testing import TwoMoons
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
result = lk.Runner(max_epochs=2, run_dir=sys.argv[1], progress=False).fit(TwoMoons())
lk.Runner(run_dir=sys.argv[1], progress=False).evaluate(TwoMoons(), split="test")
print("tensorflow" in sys.modules, events.count("/jax/compilation_cache/cache_misses"),
      events.count("/jax/compilation_cache/cache_hits"), result.history["train/loss"])
"""


def run_program(folder, run, **environment):
    command = [sys.executable, "-c", PROGRAM, str(folder / run)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder), **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split(maxsplit=3)


def test_a_run_imports_no_tensorflow_and_a_second_one_finds_its_steps_compiled(tmp_path):
    imported, misses, _, losses = run_program(tmp_path, "a", JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")
    assert imported == "False"
    assert int(misses) > 0
    assert list((tmp_path / "lightkeras" / "jax").glob("*-cache"))
    again = run_program(tmp_path, "b", JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")
    assert (again[0], again[1], again[3]) == ("False", "0", losses)
    assert int(again[2]) >= int(misses)


def test_the_cache_is_left_out_where_jax_is_told_so(tmp_path):
    run_program(tmp_path, "a", JAX_ENABLE_COMPILATION_CACHE="false")
    assert not (tmp_path / "lightkeras").exists()


def test_a_whole_run_learns(tmp_path):
    from lightkeras.testing import TwoMoons

    result = Runner(max_epochs=4, run_dir=tmp_path / "run", progress=False).fit(TwoMoons())
    assert result.history["train/loss"][-1] < result.history["train/loss"][0]
