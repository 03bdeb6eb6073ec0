"""Every engine gives hand-computed numbers at any number of steps per call. Run on each backend (see `on_backends`)."""

import resource
import traceback
from pathlib import Path

import keras
import numpy as np
import pytest
from by_hand import (
    LINE,
    LINE_LOSSES,
    LINE_WEIGHTS,
    HalfPrecision,
    Line,
    Noisy,
    assert_same,
    batches,
    learn,
    noisy_data,
    one_weight,
    predictions,
    prepared,
    sizes,
    weights,
)
from keras import layers, ops

import lightkeras.engine as engine_package
from lightkeras.data.arrays import as_feed
from lightkeras.data.feed import ArrayFeed
from lightkeras.engine import make_engine
from lightkeras.task import Task

# ---------------------------------------------------------------------- steps


@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_logs_of_every_step_and_the_weights_are_those_worked_out_by_hand(count):
    task = Line()
    logs = learn(task, ArrayFeed(LINE, 2), count)
    assert logs["loss"].tolist() == LINE_LOSSES
    assert logs["largest"].tolist() == [2.0, 3.0]
    assert logs["examples"].tolist() == [2, 1]  # the smaller last batch is part of the epoch
    assert task.model.get_weights()[0].item() == LINE_WEIGHTS[-1]
    assert int(task.optimizer.iterations) == 2


def test_logs_come_as_float32_and_numbers_of_examples_as_int64():
    engine, _trace, program = prepared(Line(), ArrayFeed(LINE, 1))
    logs = program.run(engine.open(ArrayFeed(LINE, 1)), 3)
    assert {column.dtype.name for column in logs.values.values()} == {"float32"}
    assert logs.examples.dtype == np.int64


def test_a_call_gives_what_was_asked_for_and_then_less_and_then_nothing():
    feed = ArrayFeed((np.zeros((11, 1)), np.zeros((11, 1))), 2)
    engine, _trace, program = prepared(Line(), feed)
    stream = engine.open(feed)
    assert [program.run(stream, 3).steps for _ in range(5)] == [3, 2, 1, 0, 0]


@pytest.mark.parametrize("count", [7, 75, 1000])
def test_steps_per_call_change_no_bit_of_any_variable_or_log(one_step_at_a_time, count):
    task = Noisy()
    logs = learn(task, ArrayFeed(noisy_data(), 10, shuffle=True), count, epochs=2)
    assert logs["examples"].tolist() == ([10] * 100 + [3]) * 2
    np.testing.assert_array_equal(logs["loss"], one_step_at_a_time[0]["loss"])
    assert_same(weights(task), one_step_at_a_time[1])


def test_seed_generators_and_metrics_move_on_and_noise_differs_from_step_to_step(one_step_at_a_time):
    task = Noisy()
    data = [np.repeat(array[:1], 20, axis=0) for array in noisy_data()]  # the same example every time
    task.set_up(0)
    before = task.seeds.state.numpy().copy()
    losses = learn(task, ArrayFeed(tuple(data), 1), 20)["loss"]
    assert len(set(losses.tolist())) == 20
    assert task.seeds.state.numpy().tolist() != before.tolist()
    assert float(task.error.count) == 20


def test_moving_averages_of_batch_normalization_update():
    class Normalized(Task):
        def build_model(self):
            return keras.Sequential([keras.Input((1,)), layers.BatchNormalization(momentum=0.5), layers.Dense(1)])

        def loss(self, batch, training):
            return ops.mean(self.model(batch, training=training))

    task = Normalized()
    learn(task, ArrayFeed(np.float32([[0], [4], [1], [5]]), 2))
    norm = task.model.layers[0]
    # Means 2 and 3, variances 4 and 4; averages start at 0 and 1 and move half the way each step.
    assert norm.moving_mean.numpy().tolist() == [(0 + 2) / 2 / 2 + 3 / 2]
    assert norm.moving_variance.numpy().tolist() == [((1 + 4) / 2 + 4) / 2]


def test_a_trace_changes_no_variable():
    task = Noisy()
    task.set_up(0)
    before = {name: ops.convert_to_numpy(variable).copy() for name, variable in task.variables().items()}
    trace = task.bind(make_engine).trace(task.run_train_step, ArrayFeed(noisy_data(20), 10).spec)
    after = task.variables()  # with those of the optimizer, where that was built
    assert_same([ops.convert_to_numpy(after[name]) for name in before], list(before.values()))
    assert trace.names == ("loss",)
    assert [update.optimizer for update in trace.updates] == [task.optimizer]
    assert [update.unreached for update in trace.updates] == [()]
    assert float(task.error.count) == 0


def test_a_trace_names_the_variables_that_a_step_uses_its_own_or_not():
    elsewhere = keras.Variable(1.0)

    class Counting(Line):
        def loss(self, batch, training):
            elsewhere.assign_add(1.0)
            return super().loss(batch, training)

    task = Counting()
    _engine, trace, _program = prepared(task, ArrayFeed(LINE, 2))
    assert any(variable is elsewhere or variable is elsewhere.value for variable in trace.variables)
    of_optimizer = set(map(id, task.optimizer.variables))  # which JAX's trace names too
    assert len([variable for variable in trace.variables if id(variable) not in of_optimizer]) == 2
    assert float(ops.convert_to_numpy(elsewhere)) == 1.0


def test_names_that_change_from_step_to_step_are_refused():
    class Moody(Line):
        def train_step(self, batch):
            if batch[0].shape[0] == 1:
                self.log("lonely", 1.0)
            return super().train_step(batch)

    with pytest.raises(ValueError, match=r"must log the same names .* new: \['lonely'\]"):
        learn(Moody(), ArrayFeed(LINE, 2))


# ---------------------------------------------------------------------- forms of batches


@pytest.mark.backends("tensorflow", "torch", reason="JAX has integers of 32 bits, and refuses larger numbers")
def test_numbers_beyond_float32_stay_whole_in_integers():
    class Identity(Line):
        def train_step(self, batch):
            self.log("odd", ops.cast(ops.max(batch[0]) % 2, "float32"))
            return super().train_step([ops.zeros((1, 1)), ops.zeros((1, 1))])

    assert learn(Identity(), ArrayFeed((np.int64([[2**53 + 1]]), LINE[1][:1]), 1))["odd"].tolist() == [1.0]


def test_arrays_that_their_owner_writes_to_during_an_epoch_are_trained_on_as_they_were():
    arrays = [np.array(array, np.float32) for array in LINE]
    engine, _trace, program = prepared(Line(), feed := ArrayFeed(tuple(arrays), 2))
    stream = engine.open(feed)
    for array in arrays:
        array[:] = 7.0
    logs = program.run(stream, 1), program.run(stream, 1)
    assert [log.values["loss"].item() for log in logs] == LINE_LOSSES


def test_dicts_tuples_and_lists_keep_their_form():
    class Nested(Line):
        def loss(self, batch, training):
            assert type(batch) is tuple
            assert type(batch[0]) is dict
            assert type(batch[0]["b"]) is tuple
            return super().loss((batch[0]["b"][0], batch[0]["a"]), training)

    arrays = ({"b": (LINE[0], np.zeros((3, 2, 2))), "a": LINE[1]}, np.zeros(3))
    assert learn(Nested(), ArrayFeed(arrays, 2))["loss"].tolist() == LINE_LOSSES


# ---------------------------------------------------------------------- streams


def test_a_stream_of_unknown_length_ends_with_what_there_is():
    feed = as_feed(lambda: batches(noisy_data(203), 10))
    assert feed.steps is None
    engine, _trace, program = prepared(Noisy(), feed)
    stream = engine.open(feed)
    assert [program.run(stream, 8).steps for _ in range(5)] == [8, 8, 5, 0, 0]


@pytest.mark.any_backend
def test_memory_stays_flat_over_many_steps_of_a_stream():
    class Endless:
        def __iter__(self):
            batch = (np.zeros((1, 1), "float32"), np.zeros((1, 1), "float32"))
            return iter([batch] * 4_000)

    feed = as_feed(Endless())
    engine, _trace, program = prepared(Line(), feed)

    def epoch(number):
        stream, steps = engine.open(feed, number), 0
        while (logs := program.run(stream, 500)).steps:
            steps += logs.steps
        assert steps == 4_000
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    after_one = epoch(0)
    assert epoch(1) - after_one < 4  # MB


# ---------------------------------------------------------------------- predictions


def test_a_prediction_that_is_a_scalar_is_refused():
    class Total(Line):
        def predict_step(self, batch):
            return ops.sum(batch)

    with pytest.raises(ValueError, match="predict_step returned a scalar; expected outputs whose axis 0"):
        predictions(Total(), LINE[0])


# ---------------------------------------------------------------------- minimize and gradients


def test_a_loss_that_is_not_a_scalar_is_refused_with_its_shape():
    class Rows(Line):
        def loss(self, batch, training):
            return ops.square(self.model(batch[0]) - batch[1])

    with pytest.raises(ValueError, match=r"minimize: the loss has shape \((None|2), 1\); expected a scalar"):
        learn(Rows(), ArrayFeed(LINE, 2))


def test_two_optimizers_each_update_their_own_variables():
    class Gan(Task):
        def build(self):
            self.generator = keras.Sequential([keras.Input((1,)), one_weight(0.5)])
            self.critic = keras.Sequential([keras.Input((1,)), one_weight(1.0)])
            self.slow, self.fast = keras.optimizers.SGD(0.25), keras.optimizers.SGD(0.5)

        def train_step(self, batch):
            noise = ops.ones_like(batch)

            def critic_loss():
                return ops.mean(self.critic(self.generator(noise))) - ops.mean(self.critic(batch))

            def generator_loss():
                return -ops.mean(self.critic(self.generator(noise)))

            self.log("critic", self.minimize(critic_loss, self.critic.trainable_variables, self.fast))
            self.log("generator", self.minimize(generator_loss, self.generator.trainable_variables, self.slow))

    task = Gan()
    logs = learn(task, ArrayFeed(np.float32([[2], [2]]), 1))
    # c = 1, g = 1/2: loss gc - 2c = -1.5, gradient g - 2 = -1.5, c = 1.75; then loss -gc = -0.875, gradient
    # -c = -1.75, g = 0.9375. Next: (0.9375 - 2) 1.75 = -1.859375, c = 2.28125; loss -2.138671875, g = 1.5078125.
    assert logs["critic"].tolist() == [-1.5, -1.859375]
    assert logs["generator"].tolist() == [-0.875, -2.138671875]
    assert task.critic.get_weights()[0].item() == 2.28125
    assert task.generator.get_weights()[0].item() == 1.5078125
    assert (int(task.slow.iterations), int(task.fast.iterations)) == (2, 2)


def test_a_gradient_penalty_is_itself_minimized():
    class Penalty(Line):
        def train_step(self, batch):
            def penalty():
                found = self.gradients(lambda x: ops.sum(ops.square(self.model(x))), batch)
                return ops.mean(ops.square(found))

            return self.minimize(penalty)

    task = Penalty()
    # f = (wx)^2, df/dx = 2 w^2 x, penalty 4 w^4 x^2 = 1, its gradient 16 w^3 x^2 = 4, w = 1 - 4/8.
    assert learn(task, ArrayFeed(np.float32([[0.5]]), 1))["loss"].tolist() == [1.0]
    assert task.model.get_weights()[0].item() == 0.5


def test_gradients_keep_the_structure_of_the_inputs():
    class Saliency(Line):
        def predict_step(self, batch):
            return self.gradients(lambda b: ops.sum(b["x"] * b["x"] * b["y"]), batch)

        def train_step(self, batch):
            found = self.gradients(lambda b: ops.sum(b["x"] * b["x"] * b["y"]), batch)
            self.log("dx", ops.max(found["x"]))  # 2 x y
            self.log("dy", ops.max(found["y"]))  # x^2
            return super().train_step((batch["x"], batch["y"]))

    logs = learn(Saliency(), ArrayFeed({"x": np.float32([[3]]), "y": np.float32([[5]])}, 1))
    assert (logs["dx"].item(), logs["dy"].item()) == (30.0, 9.0)


def test_gradients_of_what_does_not_depend_on_an_input_name_it():
    class Lost(Line):
        def train_step(self, batch):
            self.gradients(lambda b: ops.sum(b["x"]), batch)

    with pytest.raises(ValueError, match="gradients: the value does not depend on y"):
        learn(Lost(), ArrayFeed({"x": np.float32([[3]]), "y": np.float32([[5]])}, 1))


def test_frozen_weights_stay_and_the_others_move():
    class Frozen(Task):
        def build_model(self):
            return keras.Sequential([keras.Input((1,)), one_weight(1.0), one_weight(1.0)])

        def build_optimizer(self):
            return keras.optimizers.SGD(0.125)

        def build(self):
            super().build()
            self.model.layers[0].trainable = False

        def loss(self, batch, training):
            return ops.mean(ops.square(self.model(batch[0]) - batch[1]))

    task = Frozen()
    assert learn(task, ArrayFeed(LINE, 2))["loss"].tolist() == LINE_LOSSES
    assert [weight.item() for weight in task.model.get_weights()] == [1.0, LINE_WEIGHTS[-1]]


def test_a_model_that_builds_itself_on_its_first_call_learns():
    class Late(keras.Model):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1], 1), initializer="ones")

        def call(self, x):
            return x @ self.kernel

    class Lazy(Line):
        def build_model(self):
            return Late()

    task = Lazy()
    assert learn(task, ArrayFeed(LINE, 2))["loss"].tolist() == LINE_LOSSES
    assert task.model.get_weights()[0].item() == LINE_WEIGHTS[-1]


def test_gradients_are_clipped_by_the_optimizer():
    class Clipped(Line):
        def build_optimizer(self):
            return keras.optimizers.SGD(0.125, global_clipnorm=1.0)

    task = Clipped()
    learn(task, ArrayFeed([array[:2] for array in LINE], 2))
    assert task.model.get_weights()[0].item() == pytest.approx(1 + 0.125, abs=1e-6)  # -5 becomes -1


def test_the_optimizer_averages_the_weights():
    class Averaged(Line):
        def build_optimizer(self):
            return keras.optimizers.SGD(0.125, use_ema=True, ema_momentum=0.75)

    task = Averaged()
    learn(task, ArrayFeed(LINE, 2))
    assert task.model.get_weights()[0].item() == LINE_WEIGHTS[-1]
    average = 0.75 * LINE_WEIGHTS[0] + 0.25 * LINE_WEIGHTS[1]  # the first step sets it
    assert task.optimizer._model_variables_moving_average[0].numpy().item() == average


@pytest.mark.parametrize("count", [1, 8])
def test_mixed_precision_gives_the_same_numbers_where_they_are_exact(count):
    task = HalfPrecision()
    assert learn(task, ArrayFeed(LINE, 2), count)["loss"].tolist() == LINE_LOSSES
    assert task.model.get_weights()[0].item() == LINE_WEIGHTS[-1]


def test_a_step_whose_scaled_gradient_overflows_is_skipped_and_the_scale_halved():
    class Overflowing(HalfPrecision):
        scale = 2.0**15  # times 5 is beyond float16's 65504

    task = Overflowing()
    assert learn(task, ArrayFeed([array[:2] for array in LINE], 2))["loss"].tolist() == [2.5]
    assert task.model.get_weights()[0].item() == 1.0
    assert float(task.optimizer.dynamic_scale) == 2.0**14


# ---------------------------------------------------------------------- a step that runs uncompiled


def test_variables_that_are_not_finite_are_found_whatever_their_dtype():
    values = {
        "fine": np.float32([1.0, 2.0]),
        "large": np.float32([3e38, 3e38]),  # their sum is not finite, and they are
        "nan": np.float32([0.0, np.nan]),
        "cancelled": np.float32([np.inf, -np.inf]),
        "half": np.float16([np.inf]),
        "half and fine": np.float16([6e4, 6e4]),
        "whole": np.int32([2**31 - 1]),
    }
    variables = {
        key: keras.Variable(value, dtype=value.dtype.name, trainable=value.dtype.kind == "f")
        for key, value in values.items()
    }
    variables["brain"] = keras.Variable([np.nan], dtype="bfloat16")
    engine = make_engine()
    assert engine.not_finite(variables) == ["nan", "cancelled", "half", "brain"]
    assert engine.not_finite({key: variables[key] for key in ("fine", "large", "whole")}) == []
    assert engine.not_finite({"whole": variables["whole"]}) == []
    variables["fine"].assign([np.nan, 0.0])
    assert engine.not_finite({"fine": variables["fine"]}) == ["fine"]


# ---------------------------------------------------------------------- gradients of one batch


def test_values_that_are_held_do_not_change_with_their_variables_and_are_put_back():
    kernel = keras.Variable(np.float32([[1, 2], [3, 4]]), name="kernel")
    half = keras.Variable(np.float32([0.5, -0.0]), dtype="bfloat16", name="half")
    engine, found = make_engine(), {"kernel": kernel, "half": half}
    held = engine.hold(found)
    kernel.assign_add(np.ones((2, 2), "float32"))
    kernel.assign(kernel * 2.0)
    half.assign([1.0, 2.0])
    assert held.arrays["kernel"].tolist() == [[1, 2], [3, 4]]
    assert (str(held.arrays["half"].dtype), held.arrays["half"].tolist()) == ("bfloat16", [0.5, 0.0])
    held.restore()
    again = engine.hold(found)
    for key, array in held.arrays.items():
        assert again.arrays[key].tobytes() == array.tobytes()
    kernel.assign_add(np.ones((2, 2), "float32"))
    assert held.arrays["kernel"].tolist() == [[1, 2], [3, 4]]


def test_steps_do_not_change_what_is_held_nor_what_was_put_back():
    task, feed = Noisy(), ArrayFeed(noisy_data(), 8)
    engine, _trace, program = prepared(task, feed)
    before = engine.hold(task.variables())
    expected, ends = [array.copy() for array in before.arrays.values()], []
    for _ in range(3):
        program.run(engine.open(feed), 3)
        ends.append(weights(task))
        assert_same(list(before.arrays.values()), expected)
        before.restore()
    assert_same(ends[1], ends[0])
    assert_same(ends[2], ends[0])


def test_a_value_that_has_not_changed_is_held_once():
    one, other = (keras.Variable(np.zeros(64, "float32"), name=name) for name in ("one", "other"))
    engine, found = make_engine(), {"one": one, "other": other}
    first = engine.hold(found)
    other.assign(np.ones(64, "float32"))
    second = engine.hold(found)
    assert np.shares_memory(first.arrays["one"], second.arrays["one"])
    assert not np.shares_memory(first.arrays["other"], second.arrays["other"])


@pytest.mark.parametrize("kind", ["arrays", "generator"])
def test_the_size_of_a_gradient_is_that_worked_out_by_hand_and_nothing_is_updated(kind):
    ((path, size),), before, after = sizes(
        Line(), ArrayFeed(LINE, 2) if kind == "arrays" else as_feed(lambda: batches(LINE, 2))
    )
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


@pytest.mark.parametrize("scaled", ["LossScaleOptimizer", "loss_scale_factor"])
def test_what_an_optimizer_scales_the_loss_by_is_taken_out_of_the_size(scaled):
    class Scaled(Line):
        def build_optimizer(self):
            if scaled == "loss_scale_factor":
                return keras.optimizers.SGD(0.125, loss_scale_factor=64.0)
            return keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.125))

    assert [size for _, size in sizes(Scaled(), ArrayFeed(LINE, 2))[0]] == [5.0]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_the_size_of_a_gradient_with_one_value_that_is_not_finite_is_not_finite(value):
    class Wide(Line):
        def build_model(self):
            return keras.Sequential([keras.Input((2,)), one_weight(1.0)])

    x = np.float32([[1, 2], [3, value]])
    ((_, size),), *_ = sizes(Wide(), ArrayFeed((x, np.ones((2, 1), "float32")), 2))
    assert not np.isfinite(size)


def test_rows_of_an_embedding_have_sizes_too_and_what_the_loss_misses_has_none():
    class Rows(Task):
        def build(self):
            self.table = layers.Embedding(4, 2, embeddings_initializer="ones")
            self.unused = layers.Dense(1)
            self.unused.build((None, 2))
            self.optimizer = keras.optimizers.SGD()

        def loss(self, batch, training):
            return ops.mean(self.table(batch) * ops.convert_to_tensor([1.0, -8.0]))

    (_, *others), *_ = sizes(Rows(), ArrayFeed(np.int32([2, 2, 1, 3]), 4))
    found, *_ = sizes(Rows(), ArrayFeed(np.int32([2, 1]), 2))
    assert found[0][1] == 2.0  # -8 over the 4 numbers of two rows
    assert [size for _, size in others] == [0.0, 0.0]


def test_gradients_of_a_step_that_was_not_traced_and_of_no_batch_are_refused():
    feed = ArrayFeed(LINE, 3)
    task = Line()
    engine, _trace, _program = prepared(task, feed)
    with pytest.raises(ValueError, match="this is not the last traced step that minimizes; call `trace` first"):
        engine.gradient_sizes(task.run_evaluate_step, engine.open(feed))
    stream = engine.open(feed)
    engine.gradient_sizes(task.run_train_step, stream)
    with pytest.raises(ValueError, match="the stream has no batch left; expected one"):
        engine.gradient_sizes(task.run_train_step, stream)


@pytest.mark.parametrize("make", [lambda: layers.Dense(1), lambda: layers.Dropout(0.5)], ids=["weights", "seeds"])
def test_a_step_that_makes_variables_each_time_is_refused(make):
    class Anew(Line):
        def loss(self, batch, training):
            return super().loss((make()(batch[0], training=True), batch[1]), training)

    with pytest.raises(ValueError, match=r"creates new variables in each run.* Create layers, .* in `build`"):
        prepared(Anew(), ArrayFeed(LINE, 2))


# ---------------------------------------------------------------------- the way to the user's step


class Stacks(Line):
    """Records the engine's frames above the train step: file and function."""

    def build(self):
        super().build()
        self.stacks = []

    def train_step(self, batch):
        frames = [(Path(frame.filename), frame.name) for frame in traceback.extract_stack()]
        self.stacks.append([(file.name, name) for file, name in frames if ENGINE in file.parents])
        return super().train_step(batch)


ENGINE = Path(engine_package.__file__).parent


def test_a_mistake_in_a_train_step_passes_three_frames_of_one_file_when_it_is_traced():
    task = Stacks()
    prepared(task, ArrayFeed(LINE, 2))
    assert task.stacks
    for stack in task.stacks:
        assert stack[0][1] == "trace"
        assert len(stack) <= (3 if keras.backend.backend() == "jax" else 2)
        assert len({file for file, _ in stack}) == 1


@pytest.mark.parametrize("kind", ["arrays", "stream"])
def test_from_a_program_to_the_train_step_there_are_three_frames_in_one_file(kind):
    task, other = Stacks(), ArrayFeed(LINE, 3) if kind == "arrays" else as_feed(lambda: batches(LINE, 3))
    engine, _trace, program = prepared(task, ArrayFeed(LINE, 2))
    task.stacks.clear()
    assert program.run(engine.open(other, program=program), 2).steps == 1
    assert task.stacks
    for stack in task.stacks:
        assert stack[0][1] == "run"
        assert len(stack) <= 3
        assert len({file for file, _ in stack}) == 1
