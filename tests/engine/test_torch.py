"""The torch engine: hand-computed numbers at any number of steps per call."""

import subprocess
import sys

import keras
import numpy as np
import pytest
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
from lightkeras.data.bags import Bags
from lightkeras.data.feed import ArrayFeed
from lightkeras.engine import make_engine
from lightkeras.task import Task

if keras.backend.backend() != "torch":
    pytest.skip("the torch engine needs KERAS_BACKEND=torch", allow_module_level=True)

import torch

from lightkeras.engine.torch import TorchEngine


def test_the_engine_of_this_backend_is_torchs():
    assert isinstance(make_engine(), TorchEngine)
    assert make_engine().backend == "torch"


# ---------------------------------------------------------------------- steps


def test_a_stream_is_opened_at_a_position():
    feed = ArrayFeed((np.arange(10, dtype="float32")[:, None], np.zeros((10, 1))), 2)
    for source in (feed, as_feed(lambda: batches(feed.arrays, 2))):
        engine, _trace, program = prepared(Line(), source)
        assert program.run(engine.open(source, epoch=0, step=3), 5).values["largest"].tolist() == [7.0, 9.0]


# ---------------------------------------------------------------------- forms of batches


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "int64", "float16", "float32", "float64", "bool"])
def test_numbers_of_any_dtype_reach_the_step(dtype):
    class Cast(Line):
        def loss(self, batch, training):
            self.dtype = keras.backend.standardize_dtype(batch[0].dtype)
            return super().loss([ops.cast(part, "float32") for part in batch], training)

    x = np.array([[1], [0], [1]], dtype)
    task = Cast()
    logs = learn(task, ArrayFeed((x, x), 2))
    assert logs["largest"].tolist() == [1.0, 1.0]
    assert logs["loss"].tolist() == [0.0, 0.0]
    assert task.dtype == ("float32" if dtype == "float64" else dtype)  # as in Keras


def test_text_is_refused_and_the_way_to_it_is_named():
    with pytest.raises(
        ValueError, match=r"Array text of a batch is text, which torch cannot compute with.* `build_encoder`"
    ):
        prepared(Line(), ArrayFeed({"text": np.array(["a", "b"]), "label": LINE[1][:2]}, 2))


def test_an_array_that_cannot_be_written_is_read_where_it_lies():
    x = LINE[0].copy()
    x.flags.writeable = False
    feed = ArrayFeed((x, LINE[1]), 2)
    stream = make_engine().open(feed)
    assert stream.arrays[0].data_ptr() == x.ctypes.data
    assert learn(Line(), feed)["loss"].tolist() == LINE_LOSSES


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_numbers_that_keras_holds_in_a_wider_type_arrive(dtype):
    class Largest(Line):
        def train_step(self, batch):
            self.log("over", ops.cast(ops.max(batch[0]) - 60_000, "float32"))
            return super().train_step([ops.zeros((1, 1)), ops.zeros((1, 1))])

    x = np.array([[60_001], [60_002]], dtype)
    for feed in (ArrayFeed((x,), 1), as_feed(lambda: batches((x,), 1))):
        assert learn(Largest(), feed)["over"].tolist() == [1.0, 2.0]


# ---------------------------------------------------------------------- streams


STREAMS = {
    "DataLoader": lambda arrays: torch.utils.data.DataLoader(Rows(arrays), 10),
    "generator": lambda arrays: lambda: batches(arrays, 10),
    "iterable": lambda arrays: Iterable(arrays),
    "PyDataset": lambda arrays: Batches(arrays, 10),
    "tf.data": lambda arrays: pytest.importorskip("tensorflow").data.Dataset.from_tensor_slices(arrays).batch(10),
}


class Rows(torch.utils.data.Dataset):
    def __init__(self, arrays):
        self.arrays = arrays

    def __len__(self):
        return len(self.arrays[0])

    def __getitem__(self, index):
        return tuple(array[index] for array in self.arrays)


@pytest.mark.parametrize("kind", STREAMS)
def test_every_kind_of_stream_gives_the_weights_of_arrays_to_the_bit(from_arrays, kind):
    task = Noisy()
    logs = learn(task, as_feed(STREAMS[kind](noisy_data(203))), 8, epochs=2)
    assert logs["examples"].tolist() == ([10] * 20 + [3]) * 2
    np.testing.assert_array_equal(logs["loss"], from_arrays[0]["loss"])
    assert_same(weights(task), from_arrays[1])


def test_a_tf_dataset_with_rows_of_another_length_in_each_batch_is_read():
    tf = pytest.importorskip("tensorflow")

    class Mean(Line):
        def loss(self, batch, training):
            return super().loss((ops.mean(batch, axis=1, keepdims=True), ops.zeros((1, 1))), training)

    dataset = tf.data.Dataset.range(1, 5).map(lambda n: tf.cast(tf.range(n), tf.float32)).padded_batch(1)
    logs = learn(Mean(), as_feed(dataset), 3)
    assert logs["largest"].tolist() == [0.0, 0.5, 1.0, 1.5]


def test_bags_come_without_padding():
    bags = Bags(np.int32([0, 1, 2, 3, 4, 5]), np.ones(6, "float32"), np.array([0, 1, 4, 4, 6]))

    class Sum(Task):
        def build(self):
            self.table = layers.Embedding(6, 1, embeddings_initializer="ones")
            self.optimizer = keras.optimizers.SGD(1.0)

        def train_step(self, batch):
            self.log("entries", float(len(batch["ids"])))
            self.log("rows", ops.max(batch["rows"]))
            return self.minimize(lambda: ops.sum(self.table(batch["ids"])[:, 0] * batch["weights"]))

    logs = learn(Sum(), ArrayFeed(bags, 2), 3)
    assert logs["entries"].tolist() == [4.0, 2.0]
    assert logs["rows"].tolist() == [1.0, 1.0]
    assert logs["examples"].tolist() == [2, 2]


def test_an_error_in_a_stream_comes_out_with_its_message():
    def broken():
        yield LINE
        raise RuntimeError("the disk is on fire")

    with pytest.raises(Exception, match="the disk is on fire"):
        learn(Line(), as_feed(broken))


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


def test_a_loss_that_is_no_scalar_is_refused_with_its_shape():
    class Rows(Line):
        def loss(self, batch, training):
            return ops.square(self.model(batch[0]) - batch[1])

    with pytest.raises(ValueError, match=r"minimize: the loss has shape \(2, 1\); expected a scalar"):
        learn(Rows(), ArrayFeed(LINE, 2))


# ---------------------------------------------------------------------- a step that runs uncompiled


def streams_of(arrays, size):
    def generator():
        for start in range(0, len(arrays[0]), size):
            yield tuple(array[start : start + size] for array in arrays)

    return {
        "arrays": ArrayFeed(arrays, size),
        "generator": as_feed(generator),
    }


@pytest.mark.parametrize("kind", ["arrays", "generator"])
def test_a_batch_at_hand_gives_what_it_gives_inside_its_feed_to_the_bit(kind):
    """Convolutions and matrix products: where the memory is not aligned some are computed in another order."""

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
    assert shapes is None


def test_a_batch_at_hand_is_given_once_in_its_own_form():
    seen = []

    def step(given):
        seen.append(keras.tree.map_structure(lambda tensor: str(tensor.dtype), given))
        return {"loss": ops.sum(given["b"][0])}

    engine = make_engine()
    program = engine.program(step, ["loss"])
    stream = engine.open_batch({"b": [np.float64([[1.0]])], "a": np.int32([2])})
    assert program.run(stream, 5).values["loss"].tolist() == [1.0]
    assert program.run(stream, 5).steps == 0
    assert seen == [{"b": ["torch.float64"], "a": "torch.int32"}]


# ---------------------------------------------------------------------- going on inside an epoch of a stream


def test_a_shuffled_tf_dataset_goes_on_inside_an_epoch_as_on_tensorflow():
    tf = pytest.importorskip("tensorflow")

    def shuffled():
        tf.random.set_seed(3)
        return as_feed(tf.data.Dataset.range(40).map(lambda n: (n,)).shuffle(15).batch(4))

    engine, feed = TorchEngine(), shuffled()
    expected = [left_in(engine.open(feed, epoch)) for epoch in range(3)]
    engine, feed = TorchEngine(), shuffled()
    engine.open(feed, 0)
    stream = engine.open(feed, 1)
    found = [stream.next_batch()[0].tolist() for _ in range(3)]
    state = stream.state()
    engine, feed = TorchEngine(), shuffled()  # as in another process
    engine.skip_epochs(feed, 1)
    assert found + left_in(engine.open(feed, 1, 3, state=state)) == expected[1]
    assert left_in(engine.open(feed, 2)) == expected[2]


def test_arrays_are_taken_up_at_any_position():
    engine, feed = TorchEngine(), ArrayFeed((np.arange(10, dtype="float32"),), 4, shuffle=True)
    whole = left_in(engine.open(feed, 2, seed=7))
    assert left_in(engine.open(feed, 2, 1, seed=7)) == whole[1:]
    assert engine.open(feed, 2, 1, seed=7).state() is None


# ---------------------------------------------------------------------- memory


def test_an_allocation_that_failed_is_told_from_other_errors():
    with pytest.raises(MemoryError) as host:
        np.empty(2**55)
    with pytest.raises(RuntimeError) as device:
        torch.empty(2**50, dtype=torch.uint8)
    with pytest.raises(RuntimeError) as other:
        torch.zeros(4).reshape(3)
    engine = make_engine()
    assert engine.is_out_of_memory(host.value)
    assert engine.is_out_of_memory(device.value)
    assert engine.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert not engine.is_out_of_memory(other.value)


# ---------------------------------------------------------------------- gradients of one batch


@pytest.mark.parametrize("kind", ["arrays", "generator"])
def test_the_size_of_a_gradient_is_that_worked_out_by_hand_and_nothing_is_updated(kind):
    feed = ArrayFeed(LINE, 2)
    if kind == "generator":
        feed = as_feed(lambda: batches(LINE, 2))
    ((path, size),), before, after = sizes(Line(), feed)
    assert path.endswith("/kernel")
    assert size == 5.0  # see LINE_WEIGHTS
    assert_same(after, before)


def test_a_minimize_in_a_branch_that_is_not_taken_is_left_out_of_the_sizes():
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
    assert any(variable is elsewhere for variable in trace.variables)
    assert len(trace.variables) == 2
    assert elsewhere.numpy() == 1.0


# ---------------------------------------------------------------------- traces


def test_an_operation_that_needs_values_is_traced_with_zeros_and_changes_nothing():
    class Counted(Noisy):
        def train_step(self, batch):
            steps = int(ops.max(ops.cast(batch[0] > 100.0, "int32"))) + 1  # no number on `meta`
            return super().train_step(batch) * steps

    task = Counted()
    task.set_up(0)
    before, states = weights(task), torch.get_rng_state()
    trace = task.bind(make_engine).trace(task.run_train_step, ArrayFeed(noisy_data(20), 10).spec)
    assert_same(weights(task)[: len(before)], before)
    assert torch.equal(torch.get_rng_state(), states)
    assert trace.names == ("loss",)
    assert [update.unreached for update in trace.updates] == [()]
    assert float(task.error.count) == 0


def test_the_error_of_a_step_that_cannot_be_traced_is_its_own():
    class Wrong(Line):
        def loss(self, batch, training):
            return ops.mean(ops.matmul(batch[0], ops.ones((7, 1))))

    with pytest.raises(Exception, match="mat1 and mat2 shapes cannot be multiplied") as caught:
        prepared(Wrong(), ArrayFeed(LINE, 2))
    assert "meta" not in str(caught.value)


def test_a_step_is_traced_with_the_size_of_its_batches():
    sizes = []

    class Sized(Line):
        def loss(self, batch, training):
            sizes.append(batch[0].shape[0])
            return super().loss(batch, training)

    task = Sized()
    task.set_up(0)
    task.bind(make_engine).trace(task.run_train_step, ArrayFeed(LINE, 3).spec, 3)
    assert set(sizes) == {3}


def test_layers_are_built_for_real_while_a_step_is_traced():
    class Scaled(layers.Layer):
        def build(self, shape):
            self.scale = ops.convert_to_tensor([2.0])  # no variable, and so no part of what is put back
            self.kernel = self.add_weight(shape=(shape[-1], 1), initializer="ones")

        def call(self, x):
            return ops.matmul(x, self.kernel) * self.scale

    class Late(Line):
        def build_model(self):
            return keras.Sequential([Scaled()])

    task = Late()
    logs = learn(task, ArrayFeed([array[:2] for array in LINE], 2))
    assert logs["loss"].tolist() == [0.0]  # y = 2x from the beginning
    assert task.model.layers[0].scale.device.type == "cpu"


def test_both_branches_of_a_condition_are_traced():
    class Turns(Task):
        def build(self):
            self.models = [keras.Sequential([keras.Input((1,)), one_weight(1.0)]) for _ in range(2)]
            self.optimizers = [keras.optimizers.SGD(0.125) for _ in range(2)]

        def train_step(self, batch):
            def update(number):
                model, optimizer = self.models[number], self.optimizers[number]
                return self.minimize(lambda: ops.mean(model(batch)), model.trainable_variables, optimizer)

            return ops.cond(ops.max(batch) > 1.5, lambda: update(0), lambda: update(1))

    task = Turns()
    _engine, trace, _program = prepared(task, ArrayFeed(np.float32([[1], [2], [1]]), 1))
    assert [update.optimizer for update in trace.updates] == task.optimizers
    assert learn(task, ArrayFeed(np.float32([[1], [2], [1]]), 1))["loss"].tolist() == [1.0, 2.0, 0.875]
    assert [int(optimizer.iterations) for optimizer in task.optimizers] == [1, 2]


def test_a_module_of_torch_inside_a_model_learns():
    class Wrapped(Line):
        def build_model(self):
            self.linear = torch.nn.Linear(1, 1, bias=False)
            torch.nn.init.ones_(self.linear.weight)
            return keras.Sequential([keras.Input((1,)), keras.layers.TorchModuleWrapper(self.linear)])

    task = Wrapped()
    _engine, trace, _program = prepared(task, ArrayFeed(LINE, 2))
    assert [update.unreached for update in trace.updates] == [()]
    assert learn(task, ArrayFeed(LINE, 2))["loss"].tolist() == LINE_LOSSES
    assert task.linear.weight.item() == LINE_WEIGHTS[-1]


def test_a_trace_leaves_keras_as_it_was():
    from keras.src.backend.torch import random

    from lightkeras.engine.keras_core import core

    parts = [
        (keras.Layer, "_maybe_build"),
        (core, "cond"),
        *((random, name) for name in ("dropout", "normal", "uniform")),
    ]
    before = [getattr(owner, name) for owner, name in parts]
    learn(Noisy(), ArrayFeed(noisy_data(20), 10))
    with pytest.raises(ValueError, match="expected a scalar"):
        make_engine().trace(lambda batch: make_engine().minimize(lambda: batch, list, None), ArrayFeed(LINE, 2).spec[0])
    assert [getattr(owner, name) for owner, name in parts] == before
    assert str(core.get_device()) == "cpu"


# ---------------------------------------------------------------------- gradients and what they leave


def test_gradients_are_followed_in_minimize_alone_and_none_are_left():
    class Watched(Line):
        def train_step(self, batch):
            seen.append(torch.is_grad_enabled())
            return super().train_step(batch)

        def loss(self, batch, training):
            seen.append(torch.is_grad_enabled())
            return super().loss(batch, training)

        def predict_step(self, batch):
            seen.append(torch.is_grad_enabled())
            return self.model(batch)

    seen, task = [], Watched()
    engine, _trace, program = prepared(task, ArrayFeed(LINE, 3))
    seen.clear()
    program.run(engine.open(ArrayFeed(LINE, 3)), 1)
    engine.program(task.run_evaluate_step, ["largest", "loss"]).run(engine.open(ArrayFeed(LINE, 3)), 1)
    engine.predictor(task.run_predict_step).run(engine.open(ArrayFeed(LINE[0], 3)), 1)
    assert seen == [False, True, False, False]
    assert torch.is_grad_enabled()
    kernel = task.model.layers[0].kernel.value
    assert (kernel.grad, kernel.grad_fn, kernel.requires_grad) == (None, None, True)


def test_a_variable_that_is_frozen_learns_where_it_is_named():
    class Named(Line):
        def build(self):
            super().build()
            self.model.layers[0].trainable = False

        def train_step(self, batch):
            return self.minimize(lambda: self.loss(batch, True), [self.model.layers[0].kernel])

    task = Named()
    assert learn(task, ArrayFeed(LINE, 2))["loss"].tolist() == LINE_LOSSES
    assert not task.model.layers[0].kernel.value.requires_grad


def test_what_is_frozen_or_thawed_between_two_calls_takes_effect():
    class Two(Task):
        def build_model(self):
            return keras.Sequential([keras.Input((1,)), one_weight(1.0), one_weight(1.0)])

        def build_optimizer(self):
            return keras.optimizers.SGD(0.125)

        def loss(self, batch, training):
            return ops.mean(ops.square(self.model(batch[0]) - batch[1]))

    task, feed = Two(), ArrayFeed(LINE, 1)
    engine, _trace, program = prepared(task, feed)
    stream = engine.open(feed)
    found = []
    for frozen in ([], [0], [0, 1]):
        for number, layer in enumerate(task.model.layers):
            layer.trainable = number not in frozen
        before = [weight.item() for weight in task.model.get_weights()]
        program.run(stream, 1)
        found.append([weight.item() != old for weight, old in zip(task.model.get_weights(), before, strict=True)])
    assert found == [[True, True], [False, True], [False, False]]


def test_only_the_way_through_the_inputs_counts_in_gradients():
    class Closed(Line):
        def train_step(self, batch):
            def penalty():
                y = ops.square(batch[0]) * self.model.layers[0].kernel
                z = y * 3.0  # depends on y, but not through the function
                found = self.gradients(lambda given: ops.sum(given * ops.stop_gradient(z) + given * z), y)
                return ops.mean(found)

            return self.minimize(penalty)

    # y = w, z = 3y; the gradient of yz + yz for a z that stands still is 2z = 6w; that of its mean for w: 3, from z.
    task = Closed()
    assert learn(task, ArrayFeed([array[:1] for array in LINE], 1))["loss"].tolist() == [6.0]
    assert task.model.get_weights()[0].item() == 1 - 0.125 * 3


def test_gradients_of_what_is_no_scalar_are_refused():
    class Rows(Line):
        def train_step(self, batch):
            self.gradients(lambda x: x * 2.0, batch[0])

    with pytest.raises(ValueError, match=r"gradients: the value has shape \(2, 1\); expected a scalar"):
        learn(Rows(), ArrayFeed(LINE, 2))


def test_what_is_logged_is_its_value_in_that_step():
    class Counted(Line):
        def train_step(self, batch):
            self.log("rate", self.optimizer.learning_rate)
            self.log("done", self.optimizer.iterations)
            loss = super().train_step(batch)
            self.log("weight", self.model.layers[0].kernel.value[0, 0])
            return loss

    logs = learn(Counted(), ArrayFeed(LINE, 2))
    assert logs["done"].tolist() == [0.0, 1.0]
    assert logs["rate"].tolist() == [0.125, 0.125]
    assert logs["weight"].tolist() == LINE_WEIGHTS


# ---------------------------------------------------------------------- dropout


class Dropped(Task):
    """The share of ones that a dropout of 1/4 leaves, and twice another of 1/2."""

    def build(self):
        self.layer, self.twice = layers.Dropout(0.25), layers.Dropout(0.5)

    def evaluate_step(self, batch):
        ones = ops.ones((100, 100))
        kept = self.layer(ones, training=True)
        pair = [self.twice(ones, training=True) for _ in range(2)]
        self.log("kept", ops.mean(ops.cast(kept > 0, "float32")))
        self.log("where", ops.sum(kept * ops.arange(100.0)))
        self.log("value", ops.max(kept))
        self.log("same", ops.mean(ops.cast(ops.equal(*pair), "float32")))


def test_dropout_comes_from_its_layers_generator_and_leaves_the_global_one():
    task, feed = Dropped(), ArrayFeed(np.zeros((5, 1)), 1)
    task.set_up(0)
    engine = task.bind(make_engine)
    trace = engine.trace(task.run_evaluate_step, feed.spec)
    states = torch.get_rng_state()
    generators = [layer.seed_generator.state for layer in (task.layer, task.twice)]
    assert {id(state) for state in generators} <= {id(variable) for variable in trace.variables}
    before = [state.numpy() for state in generators]
    logs = engine.program(task.run_evaluate_step, trace.names).run(engine.open(feed), 5).values
    assert torch.equal(torch.get_rng_state(), states)
    assert [(state.numpy() - old).tolist() for state, old in zip(generators, before, strict=True)] == [[0, 5], [0, 10]]
    np.testing.assert_allclose(logs["kept"], 0.75, atol=0.02)  # more than four standard deviations of 0.0043
    np.testing.assert_allclose(logs["same"], 0.5, atol=0.025)
    assert len(set(logs["where"].tolist())) == 5
    np.testing.assert_allclose(logs["value"], 4 / 3, rtol=1e-6)


def test_dropout_goes_on_from_the_state_that_was_put_back():
    task, feed = Dropped(), ArrayFeed(np.zeros((6, 1)), 1)
    task.set_up(0)
    engine = task.bind(make_engine)
    program = engine.program(task.run_evaluate_step, engine.trace(task.run_evaluate_step, feed.spec).names)
    state = task.layer.seed_generator.state
    before = state.numpy()
    whole = program.run(engine.open(feed), 6).values["kept"].tolist()
    state.assign(before + np.int32([0, 2]))
    again = program.run(engine.open(feed), 4).values["kept"].tolist()
    assert again == whole[2:]


def test_a_generator_that_draws_other_numbers_too_counts_both():
    class Both(Task):
        def build(self):
            self.layer = layers.Dropout(0.5)

        def evaluate_step(self, batch):
            self.log("noise", keras.random.normal((), seed=self.layer.seed_generator))
            self.log("kept", ops.mean(self.layer(ops.ones((64,)), training=True)))

    found = []
    for count in (1, 4):
        task, feed = Both(), ArrayFeed(np.zeros((4, 1)), 1)
        task.set_up(0)
        engine = task.bind(make_engine)
        program, stream = engine.program(task.run_evaluate_step, ["noise", "kept"]), engine.open(feed)
        parts = [program.run(stream, count).values for _ in range(4 // count)]
        found.append([np.concatenate([part[name] for part in parts]).tolist() for name in ("noise", "kept")])
        assert task.layer.seed_generator.state.numpy()[1] == 8
    assert found[0] == found[1]
    assert len(set(found[0][0])) == 4


# ---------------------------------------------------------------------- a run


def test_a_run_loads_no_tensorflow(tmp_path):
    program = f"""
import sys
import lightkeras as lk
import keras

class Scheduled(lk.testing.TwoMoons):
    def build_optimizer(self):
        rate = keras.optimizers.schedules.CosineDecay(0.0, 50, warmup_target=0.01, warmup_steps=10)
        return keras.optimizers.Adam(rate)

runner = lk.Runner(max_epochs=2, run_dir={str(tmp_path / "run")!r}, monitor="val/loss", patience=2, progress=False)
runner.fit(Scheduled())
runner.predict(Scheduled(), lk.testing.two_moons(5)[0], weights="best")
print("tensorflow" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False\n", "")
    assert (tmp_path / "run" / "model.keras").exists()
