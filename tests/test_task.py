"""Tasks: what they track, what they refuse, and that SupervisedTask is `compile` and `fit`."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from lightkeras import ChangedRunError, Runner, SupervisedTask, Task
from lightkeras.data.feed import ArrayFeed
from lightkeras.engine import make_engine
from lightkeras.testing import TwoMoons, two_moons


@pytest.fixture
def runner(tmp_path):
    quick = {"progress": False, "pictures": False, "export": False}
    return Runner(max_epochs=3, patience=None, run_dir=tmp_path / "run", **quick)


# ---------------------------------------------------------------------- hyperparameters


def test_without_hyperparameters_a_task_takes_the_defaults():
    assert TwoMoons().hp == TwoMoons.HParams()
    assert TwoMoons(TwoMoons.HParams(hidden_units=4)).hp.hidden_units == 4


def test_hyperparameters_of_another_class_are_refused():
    @dataclasses.dataclass(frozen=True)
    class Others:
        hidden_units: int = 3

    with pytest.raises(TypeError, match=r"TwoMoons takes hyperparameters of TwoMoons.HParams, got Others"):
        TwoMoons(Others())
    with pytest.raises(TypeError, match=r"TwoMoons takes hyperparameters of TwoMoons.HParams, got dict"):
        TwoMoons({"hidden_units": 3})


def test_a_hyperparameter_of_another_type_is_refused():
    with pytest.raises(TypeError, match="Hyperparameter hidden_units='16': expected int, got str"):
        TwoMoons(TwoMoons.HParams(hidden_units="16"))


# ---------------------------------------------------------------------- what it tracks


class Everything(Task):
    def build(self):
        shared = layers.Dense(2)
        shared.build((None, 3))
        self.model = keras.Sequential([keras.Input((3,)), shared, layers.Dropout(0.5)])
        self.shared = shared
        self.pair = [keras.optimizers.SGD(), {"seeds": keras.random.SeedGenerator(1)}]
        self.metric = keras.metrics.Mean("m")
        self.frozen = layers.Dense(1, trainable=False)
        self.frozen.build((None, 2))
        self.number = 3


def test_keras_objects_are_found_in_attributes_lists_and_dicts_by_their_path():
    task = Everything()
    task.set_up(0)
    assert list(task.tracked()) == ["model", "shared", "pair.0", "pair.1.seeds", "metric", "frozen"]


def test_each_variable_has_one_key_even_where_two_objects_share_it():
    task = Everything()
    task.set_up(0)
    variables = task.variables()
    assert len({id(variable) for variable in variables.values()}) == len(variables)
    assert [key for key in variables if key.startswith(("model", "shared"))] == [
        "model.0000",  # the kernel and the bias of the shared layer
        "model.0001",
        "model.0002",  # the seed of dropout
    ]
    assert "pair.1.seeds.0000" in variables
    assert [key for key in variables if key.startswith("metric.")] == ["metric.0000", "metric.0001"]


def test_trainable_variables_leave_out_what_is_frozen_and_come_once():
    task = Everything()
    task.set_up(0)
    assert [variable.path.split("/")[-1] for variable in task.trainable_variables()] == ["kernel", "bias"]


def test_model_variables_are_those_of_layers_alone():
    task = Everything()
    task.set_up(0)
    assert {key.split(".")[0] for key in task.model_variables()} == {"model", "frozen"}


def test_callbacks_get_the_attribute_model_else_the_first_model():
    class Two(Task):
        def build(self):
            self.first, self.second = keras.Sequential(), keras.Sequential()

    task = Two()
    task.set_up(0)
    optimizer = keras.optimizers.SGD()
    assert task.model_of_callbacks(optimizer) is task.first
    assert task.first.optimizer is optimizer
    task.model = task.second
    assert task.model_of_callbacks(optimizer) is task.second
    del task.first, task.second, task.model
    assert isinstance(task.model_of_callbacks(optimizer), keras.Sequential)


def test_setting_up_again_changes_nothing():
    task = TwoMoons()
    task.set_up(0)
    model = task.model
    task.set_up(1)
    assert task.model is model


def test_the_seed_makes_the_first_weights():
    def first(seed):
        task = TwoMoons()
        task.set_up(seed)
        return task.model.get_weights()[0]

    np.testing.assert_array_equal(first(1), first(1))
    assert not np.array_equal(first(1), first(2))


# ---------------------------------------------------------------------- float16


class Half(Task):
    """Two optimizers in one list, one in a dict, one that scales the loss and one that a list and an attribute hold."""

    policy = "mixed_float16"

    def build(self):
        self.model = keras.Sequential([keras.Input((1,)), layers.Dense(1)])
        self.model.dtype_policy = keras.DTypePolicy(self.policy)
        self.optimizer = keras.optimizers.Adam()
        self.pair = [self.optimizer, keras.optimizers.SGD(0.1)]
        self.more = {"own": keras.optimizers.SGD(loss_scale_factor=8.0), "text": "kept"}
        self.scaling = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())
        self.built = keras.optimizers.SGD(momentum=0.9)
        self.built.build(self.model.trainable_variables)


def test_optimizers_of_a_task_in_float16_scale_the_loss_once():
    task = Half()
    task.set_up(0)
    wrapped = [task.optimizer, *task.pair, task.built]
    assert all(type(found) is keras.optimizers.LossScaleOptimizer for found in wrapped)
    assert task.pair[0] is task.optimizer
    assert isinstance(task.optimizer.inner_optimizer, keras.optimizers.Adam)
    assert task.more["own"].loss_scale_factor == 8.0
    assert task.more["text"] == "kept"
    assert isinstance(task.scaling.inner_optimizer, keras.optimizers.SGD)
    assert task.built.built
    assert float(task.pair[1].learning_rate) == pytest.approx(0.1)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "float16"])
def test_optimizers_of_a_task_with_another_policy_stay(policy):
    task = Half()
    task.policy = policy
    task.set_up(0)
    assert isinstance(task.optimizer, keras.optimizers.Adam)


# ---------------------------------------------------------------------- outside a step


@pytest.mark.parametrize(
    ("method", "call"),
    [
        ("minimize", lambda task: task.minimize(lambda: 0.0)),
        ("gradients", lambda task: task.gradients(ops.sum, np.ones(3))),
        ("log", lambda task: task.log("loss", 1.0)),
    ],
)
def test_what_belongs_into_a_step_is_refused_outside_of_one(method, call):
    task = TwoMoons()
    task.set_up(0)
    task.bind(make_engine)
    with pytest.raises(RuntimeError, match=f"TwoMoons.{method} was called outside a step: call it from train_step"):
        call(task)


def test_an_error_names_the_method_that_a_subclass_must_define():
    class Empty(Task):
        pass

    with pytest.raises(NotImplementedError, match=r"Empty needs a `build_model` that returns a keras.Model"):
        Empty().set_up(0)


def test_a_method_without_a_return_is_named(runner):
    class Forgot(TwoMoons):
        def build_model(self):
            super().build_model()

    with pytest.raises(TypeError, match=r"Forgot\.build_model returned None: expected a keras\.Model\. Return it"):
        runner.fit(Forgot())


def test_a_loss_without_a_return_is_refused(runner):
    class Forgot(TwoMoons):
        def loss(self, batch, training):
            super().loss(batch, training)

    with pytest.raises(ValueError, match=r"minimize: the loss is None; expected a scalar\. End the function with"):
        runner.fit(Forgot())


# ---------------------------------------------------------------------- SupervisedTask is fit

BATCH = 16


def dense(units, name=None, **arguments):
    return layers.Dense(units, name=name, kernel_initializer=keras.initializers.GlorotUniform(1), **arguments)


def binary():
    return keras.Sequential([keras.Input((2,)), dense(8, activation="tanh"), dense(1, activation="sigmoid")])


def regularized():
    hidden = dense(8, activation="tanh", kernel_regularizer=keras.regularizers.L2(0.01))
    return keras.Sequential([keras.Input((2,)), hidden, layers.BatchNormalization(), dense(2)])


def two_headed():
    x = keras.Input((2,))
    hidden = dense(8, activation="tanh")(x)
    return keras.Model(x, {"side": dense(2, "side")(hidden), "height": dense(1, "height")(hidden)})


def data(count, seed):
    return two_moons(count, seed)


def as_heads(split):
    x, y = split
    return x, {"side": y, "height": x[:, 1:]}


def weighted(split):
    x, y = split
    return x, y, (0.5 + np.abs(x[:, 0])).astype("float32")


SPARSE = "sparse_categorical_crossentropy"
SETTINGS = {
    "accuracy": (binary, {"loss": "binary_crossentropy", "metrics": ["accuracy"]}, lambda split: split),
    "a stateful metric": (
        binary,
        {"loss": keras.losses.BinaryCrossentropy(), "metrics": lambda: [keras.metrics.AUC(name="auc"), "mae"]},
        lambda split: (split[0], split[1][:, None]),
    ),
    "regularization and batch normalization": (
        regularized,
        {"loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "metrics": ["accuracy"]},
        lambda split: split,
    ),
    "sample weights": (
        binary,
        {"loss": "binary_crossentropy", "metrics": ["accuracy"], "weighted_metrics": ["mae"]},
        weighted,
    ),
    "two outputs": (
        two_headed,
        {
            "loss": {"side": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "height": "mse"},
            "metrics": {"side": ["accuracy"], "height": ["mae"]},
            "loss_weights": {"side": 1.0, "height": 0.1},
        },
        as_heads,
    ),
}


# On other backends the rest is long: scenarios/test_as_keras_fit.py compares with Keras's `fit` there.
THERE = ("regularization and batch normalization", "sample weights")


@pytest.mark.parametrize(
    "name", [name if name in THERE else pytest.param(name, marks=pytest.mark.any_backend) for name in SETTINGS]
)
@pytest.mark.filterwarnings("ignore:.*weighted_metrics.*:UserWarning")
def test_losses_metrics_and_weights_are_those_of_fit(runner, name):
    build, compiled, form = SETTINGS[name]
    metrics = compiled["metrics"]
    arguments = [compiled | {"metrics": metrics() if callable(metrics) else metrics} for _ in range(2)]
    # 100 = 6 * 16 + 4. Keras's own mean of the loss of one output of several is over batches, whatever
    # their size; so there the batches are all of one size.
    whole = name == "two outputs"
    train, validation = form(data(96 if whole else 100, 0)), form(data(48 if whole else 40, 1))

    plain = build()
    plain.compile(optimizer=keras.optimizers.Adam(0.01), **arguments[0])
    x, y, *weight = train
    history = plain.fit(
        x, y, BATCH, 3, 0, sample_weight=weight[0] if weight else None, validation_data=validation, shuffle=False
    )

    task = SupervisedTask(build(), optimizer=keras.optimizers.Adam(0.01), **arguments[1])
    result = runner.fit(task, ArrayFeed(train, BATCH), ArrayFeed(validation, BATCH))

    ours = {key.removeprefix("train/").replace("val/", "val_"): values for key, values in result.history.items()}
    assert sorted(ours) == sorted(history.history)
    for key, values in history.history.items():
        np.testing.assert_allclose(ours[key], values, rtol=2e-5, atol=1e-7, err_msg=key)
    for found, expected in zip(task.model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-6)
    if name == "sample weights":  # once is enough: it is the same step
        evaluated = plain.evaluate(*validation[:2], BATCH, 0, *validation[2:], return_dict=True)
        assert runner.evaluate(task, ArrayFeed(validation, BATCH)).metrics == pytest.approx(evaluated, rel=2e-5)


def test_a_dataset_gives_the_numbers_of_fit_too(runner):
    dataset = tf.data.Dataset.from_tensor_slices(data(100, 0)).batch(BATCH)
    plain = binary()
    plain.compile(optimizer="sgd", loss="binary_crossentropy")
    history = plain.fit(dataset, epochs=3, verbose=0, shuffle=False)
    task = SupervisedTask(binary(), optimizer="sgd", loss="binary_crossentropy")
    np.testing.assert_allclose(runner.fit(task, dataset).history["train/loss"], history.history["loss"], rtol=2e-5)


# ---------------------------------------------------------------------- class weights

CLASS_WEIGHT = {0: 0.5, 1: 4.0}
CATEGORIES = {
    "integers": (2, keras.losses.SparseCategoricalCrossentropy, lambda y: y),
    "one-hot": (2, keras.losses.CategoricalCrossentropy, lambda y: np.eye(2, dtype="float32")[y]),
    "binary": (1, keras.losses.BinaryCrossentropy, lambda y: y[:, None].astype("float32")),
}


def weighed(kind):
    units, loss, form = CATEGORIES[kind]
    model = keras.Sequential([keras.Input((2,)), dense(8, activation="tanh"), dense(units)])
    compiled = {"loss": loss(from_logits=True), "optimizer": keras.optimizers.SGD(0.1, momentum=0.9)}
    return model, compiled | {"weighted_metrics": ["accuracy"]}, form


@pytest.mark.parametrize(
    ("where", "kind"),
    [
        ("fit", "integers"),
        *(
            pytest.param(where, kind, marks=pytest.mark.any_backend)
            for where, kind in [("task", "one-hot"), ("fit over task", "binary")]
        ),
        ("stream", "integers"),
    ],
)
def test_class_weights_give_the_numbers_of_fit(runner, where, kind):
    plain, compiled, form = weighed(kind)
    (x, y), (x_val, y_val) = data(96, 0), data(48, 1)
    y, y_val = form(y), form(y_val)
    plain.compile(**compiled)
    history = plain.fit(
        x, y, BATCH, 3, 0, validation_data=(x_val, y_val), class_weight=CLASS_WEIGHT, shuffle=False
    ).history

    model, compiled, _ = weighed(kind)
    own = {"task": CLASS_WEIGHT, "fit over task": {0: 9.0, 1: 9.0}}.get(where)
    given = None if where == "task" else CLASS_WEIGHT
    task = SupervisedTask(model, **compiled, class_weight=own)
    train = ArrayFeed((x, y), BATCH)
    if where == "stream":
        train = [(x[start : start + BATCH], y[start : start + BATCH]) for start in range(0, 96, BATCH)].__iter__
    result = runner.fit(task, train, ArrayFeed((x_val, y_val), BATCH), class_weight=given)
    ours = {key.removeprefix("train/").replace("val/", "val_"): values for key, values in result.history.items()}
    assert sorted(ours) == sorted(history)
    for key, values in history.items():
        np.testing.assert_allclose(ours[key], values, rtol=1e-6, err_msg=key)
    for found, expected in zip(task.model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_class_weights_are_multiplied_with_those_of_examples(runner):
    x, y, weight = weighted(data(96, 0))
    plain, compiled, _ = weighed("integers")
    plain.compile(**compiled)
    by_hand = weight * np.where(y == 1, 4.0, 0.5).astype("float32")
    history = plain.fit(x, y, BATCH, 3, 0, sample_weight=by_hand, shuffle=False).history
    model, compiled, _ = weighed("integers")
    result = runner.fit(SupervisedTask(model, **compiled, class_weight=CLASS_WEIGHT), ArrayFeed((x, y, weight), BATCH))
    np.testing.assert_allclose(result.history["train/loss"], history["loss"], rtol=1e-6)


def test_the_next_fit_of_a_task_has_its_own_class_weights_again(tmp_path, runner):
    (x, y), again = data(96, 0), dataclasses.replace(runner, run_dir=tmp_path / "again")
    model, compiled, _ = weighed("integers")
    first = model.get_weights()
    task = SupervisedTask(model, **compiled)
    weighted_once = runner.fit(task, (x, y), class_weight=CLASS_WEIGHT).history["train/loss"][0]
    assert runner.evaluate(task, (x, y)).metrics["loss"] < 1.0  # means are not weighted outside of training
    task.model.set_weights(first)
    plain = again.fit(task, (x, y)).history["train/loss"][0]
    assert weighted_once > 1.2 * plain  # the mean weight is 2.25


@pytest.mark.any_backend
def test_a_run_is_resumed_with_its_class_weights_alone(runner):
    def fit(max_epochs, name="run", **arguments):
        model, compiled, _ = weighed("integers")
        longer = dataclasses.replace(runner, max_epochs=max_epochs, run_dir=runner.run_dir.with_name(name))
        return longer.fit(SupervisedTask(model, **compiled), data(96, 0), **arguments)

    fit(1, class_weight=CLASS_WEIGHT)
    with pytest.raises(ChangedRunError, match=r"class_weight was \{'0': 0.5, '1': 4.0\} and is None"):
        fit(2, resume=True)
    with pytest.raises(ChangedRunError, match=r"class_weight\.0 was 0\.5 and is 1\.0"):
        fit(2, resume=True, class_weight={0: 1.0, 1: 4.0})
    resumed = fit(2, resume=True, class_weight=CLASS_WEIGHT)
    assert resumed.history == fit(2, "straight", class_weight=CLASS_WEIGHT).history


@pytest.mark.any_backend
def test_classes_are_compared_with_the_labels_before_training(runner):
    (x, y) = data(96, 0)
    model, compiled, _ = weighed("integers")
    with pytest.raises(ValueError, match="class_weight has a weight for class 2, and no label of train has that class"):
        runner.fit(SupervisedTask(model, **compiled, class_weight={0: 1.0, 1: 1.0, 2: 1.0}), (x, y))
    assert not runner.run_dir.exists()
    with pytest.warns(UserWarning, match="class_weight has no weight for class 0, the label of 48 of 96 examples"):
        runner.fit(SupervisedTask(model, **compiled), (x, y), class_weight={1: 2.0})


@pytest.mark.any_backend
def test_class_weights_that_a_batch_cannot_have_are_refused(runner):
    x, y = data(96, 0)
    with pytest.raises(TypeError, match=r"for a SupervisedTask, and TwoMoons has a loss of its own.*lk.class_weights"):
        runner.fit(TwoMoons(), class_weight=CLASS_WEIGHT)
    heads = SupervisedTask(two_headed(), loss={"side": CLASS, "height": "mse"}, class_weight=CLASS_WEIGHT)
    with pytest.raises(ValueError, match="class_weight was given, and the batch has labels of several outputs"):
        runner.fit(heads, as_heads((x, y)))
    steps = SupervisedTask(sequence(), loss=CLASS, class_weight={0: 1.0})
    with pytest.raises(ValueError, match=r"class_weight: the labels have the shape .*Add an axis of 1: y\[..., None\]"):
        runner.fit(steps, (np.ones((32, 4, 2), "float32"), np.zeros((32, 4), "int32")))
    runner.fit(steps, (np.ones((32, 4, 2), "float32"), np.zeros((32, 4, 1), "int32")))


def test_a_supervised_task_may_build_itself_in_its_own_way(tmp_path):
    class Compiled(SupervisedTask):
        def build(self):
            self.model, self.optimizer = self._given, keras.optimizers.SGD(0.1)
            self.model.compile(self.optimizer, "mse")

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    x = np.ones((8, 2), "float32")
    runner = Runner(max_epochs=2, run_dir=tmp_path / "run", progress=False, pictures=False)
    history = runner.fit(Compiled(model, loss="mse"), (x, x[:, :1]), batch_size=4).history
    assert history["train/loss"][1] < history["train/loss"][0]


def test_a_supervised_task_takes_a_keras_model():
    with pytest.raises(TypeError, match=r"SupervisedTask takes a keras.Model, got str"):
        SupervisedTask("model", loss="mse")


# ---------------------------------------------------------------------- methods of the model's own class


class Net(keras.Model):
    """One dense layer, as a subclass."""

    def __init__(self):
        super().__init__()
        self.outputs_layer = dense(1)

    def call(self, inputs, training=False):
        return self.outputs_layer(inputs)


def net_with(**methods):
    return type("Mine", (Net,), methods)()


def raises_if_called(*_args, **_kwargs):
    raise AssertionError("called")


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("train_step", r"Write it as `train_step\(self, batch\)` of a subclass of lk.Task"),
        ("test_step", "Write it as `evaluate_step"),
        ("predict_step", "Write it as `predict_step"),
        ("make_train_function", "The runner compiles the steps itself"),
        ("make_test_function", "The runner compiles the steps itself"),
        ("make_predict_function", "The runner compiles the steps itself"),
        ("compute_loss_and_updates", "Write the loss as `compute_loss`"),
        ("stateless_compute_loss", "Write the loss as `compute_loss`"),
    ],
)
def test_a_model_with_a_step_of_its_own_is_refused_when_the_task_is_made(name, advice):
    with pytest.raises(ValueError, match=rf"Mine.{name} would not be called: .*{advice}"):
        SupervisedTask(net_with(**{name: raises_if_called}), loss="mse")


def test_a_step_is_found_in_a_base_class_in_a_functional_model_and_on_the_object():
    class Base(keras.Model):
        train_step = test_step = raises_if_called

    class Mine(Base):
        pass

    x = keras.Input((2,))
    with pytest.raises(ValueError, match=r"Mine.train_step \(and test_step\) would not be called"):
        SupervisedTask(Mine(x, dense(1)(x)), loss="mse")
    sequential = type("Chain", (keras.Sequential,), {"train_step": raises_if_called})([dense(1)])
    with pytest.raises(ValueError, match=r"Chain.train_step would not be called"):
        SupervisedTask(sequential, loss="mse")
    model = binary()
    task = SupervisedTask(model, loss="mse")
    model.test_step = raises_if_called  # later
    with pytest.raises(ValueError, match=r"Sequential.test_step would not be called"):
        task.set_up(0)


def test_a_fit_of_the_models_own_class_is_warned_of():
    with pytest.warns(UserWarning, match=r"Mine.predict is not called: the runner calls the model itself"):
        SupervisedTask(net_with(predict=raises_if_called), loss="mse")


def old_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
    return 3.0 * ops.mean(ops.abs(y_pred - y))


def new_loss(self, x, y, y_pred, sample_weight=None, training=True):
    return (1.0 if training else 2.0) * ops.mean(ops.square(y_pred - y))


def metrics_too(self, x, y, y_pred, sample_weight=None):
    self.far.update_state(ops.abs(y_pred - y))
    return {**Net.compute_metrics(self, x, y, y_pred, sample_weight), "far": self.far.result()}


@pytest.mark.parametrize(
    "methods", [{"compute_loss": old_loss}, {"compute_loss": new_loss, "compute_metrics": metrics_too}]
)
def test_a_loss_and_metrics_of_the_models_own_class_are_called_as_fit_calls_them(runner, methods):
    def made():
        model = net_with(**methods)
        model.far = keras.metrics.Mean("far")
        return model

    (x, y), (held, target) = [(split[0], split[0][:, :1] ** 2) for split in (two_moons(96, 0), two_moons(48, 1))]
    plain = made()
    plain.compile(optimizer="sgd", loss="mse", metrics=["mae"])
    history = plain.fit(x, y, BATCH, 3, 0, validation_data=(held, target), shuffle=False).history
    task = SupervisedTask(made(), optimizer="sgd", loss="mse", metrics=["mae"])
    result = runner.fit(task, ArrayFeed((x, y), BATCH), ArrayFeed((held, target), BATCH))
    for key, values in history.items():
        name = key.replace("val_", "val/") if key.startswith("val_") else f"train/{key}"
        np.testing.assert_allclose(result.history[name], values, rtol=2e-5, err_msg=key)


def test_what_compute_metrics_returns_beside_the_metrics_is_refused(runner):
    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return {"loss": 1.0, "largest": ops.max(y_pred)}

    task = SupervisedTask(net_with(compute_metrics=compute_metrics), loss="mse")
    with pytest.raises(ValueError, match=r"Mine.compute_metrics returned 'largest', .* keras.metrics.Metric with name"):
        runner.fit(task, (X, X[:, :1]))


def test_reset_metrics_and_compile_of_the_models_own_class_are_called(runner):
    calls = []

    def reset_metrics(self):
        calls.append("reset")
        Net.reset_metrics(self)

    def own_compile(self, optimizer, loss):
        calls.append("compile")
        Net.compile(self, optimizer=optimizer, loss=loss)

    task = SupervisedTask(net_with(reset_metrics=reset_metrics, compile=own_compile), loss="mse")
    runner.fit(task, (two_moons(32)[0], np.ones((32, 1), "float32")))
    assert calls[0] == "compile"
    assert calls.count("reset") >= 3  # one for each epoch


# ---------------------------------------------------------------------- labels

X = np.zeros((32, 2), "float32")


def classifier(units=3):
    return keras.Sequential([keras.Input((2,)), layers.Dense(units)])


def sequence():
    return keras.Sequential([keras.Input((None, 2)), layers.Dense(3)])


def labels(value, dtype="int32"):
    found = np.zeros(32, dtype)
    found[7] = value
    return found


ONE_HOT = np.eye(3, dtype="float32")[np.arange(32) % 3]
CLASS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
BINARY = keras.losses.BinaryCrossentropy(from_logits=True)


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("model", "loss", "y", "message"),
    [
        (
            classifier(3),
            CLASS,
            labels(3),
            "train hold 3; sparse .* numbers from 0 to 2, one for each of .* 3 out",
        ),
        (classifier(3), SPARSE, labels(-1), "labels of train hold -1; sparse .* from 0 to 2"),
        (classifier(3), keras.losses.sparse_categorical_crossentropy, labels(9)[:, None], "hold 9"),
        (classifier(3), "SparseCategoricalCrossentropy", labels(3.0, "float32"), "hold 3.0"),
        (classifier(3), CLASS, labels(1.5, "float32"), "hold 1.5; .* Give the number of the class"),
        (classifier(3), CLASS, labels(np.nan, "float32"), "hold nan"),
        (classifier(3), CLASS, np.array(["cat"] * 32), "labels of train are text; the loss takes numbers"),
        (
            classifier(3),
            CLASS,
            ONE_HOT,
            r"are float32\[batch, 3\]; sparse .* of the class. Use categorical .*argmax",
        ),
        (
            classifier(3),
            "categorical_crossentropy",
            labels(1),
            r"are int32\[batch\]; .* of the model's 3 outputs. Use sp",
        ),
        (classifier(3), keras.losses.CategoricalCrossentropy(), labels(1)[:, None], r"are int32\[batch, 1\]; categ"),
        (
            classifier(1),
            BINARY,
            labels(2)[:, None],
            "train hold 2; binary cross entropy takes .* from 0 to 1",
        ),
        (classifier(1), "binary_crossentropy", labels(-1.0, "float32")[:, None], "hold -1.0; binary"),
        (classifier(1), "bce", labels(np.nan, "float32")[:, None], "hold nan; binary"),
        (
            two_headed(),
            {"side": SPARSE, "height": "mse"},
            {"side": labels(2), "height": labels(9.0, "float32")[:, None]},
            r"labels of train \(side\) hold 2; .* from 0 to 1",
        ),
    ],
)
def test_labels_that_the_loss_cannot_take_are_refused(runner, model, loss, y, message):
    with pytest.raises(ValueError, match=message):
        runner.fit(SupervisedTask(model, loss=loss), (X, y))
    assert not runner.run_dir.exists()


@pytest.mark.any_backend
def test_labels_of_validation_are_looked_at_too(runner):
    with pytest.raises(ValueError, match="The labels of validation hold 3"):
        runner.fit(SupervisedTask(classifier(), loss=CLASS), (X, labels(2)), (X, labels(3)))


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("model", "loss", "y"),
    [
        (classifier(3), CLASS, labels(2)),
        (classifier(3), CLASS, labels(2.0, "float32")),  # Keras casts them
        (classifier(3), CLASS, labels(1, "bool")),
        (classifier(3), keras.losses.SparseCategoricalCrossentropy(True, ignore_class=-1), labels(-1)),
        (classifier(3), keras.losses.SparseCategoricalCrossentropy(True, ignore_class=0), labels(0)),
        (classifier(1), BINARY, labels(0.5, "float32")[:, None]),  # a soft label
        (classifier(3), "categorical_crossentropy", ONE_HOT),
        (classifier(3), CLASS, labels(2)[:, None]),
        (sequence(), CLASS, np.zeros((32, 3), "int32")),
        (classifier(1), "mse", labels(7.5, "float32")[:, None]),
        (classifier(1), lambda y, p: ops.mean(p) + 0 * ops.mean(y), labels(-9.0, "float32")[:, None]),
        (two_headed(), ["mse", "mse"], [labels(9.0, "float32")[:, None]] * 2),  # lists are left to Keras
    ],
)
def test_labels_that_the_loss_can_take_pass(runner, model, loss, y):
    task = SupervisedTask(model, loss=loss)
    task.set_up(0)
    task.check_data((X, y), "train")


@pytest.mark.any_backend
def test_a_model_whose_outputs_are_not_known_yet_is_checked_for_what_is_certain():
    class Late(keras.Model):
        pass

    task = SupervisedTask(Late(), loss=CLASS)
    task.set_up(0)
    task.check_data((X, labels(1000)), "train")
    with pytest.raises(ValueError, match="hold -1; sparse categorical cross entropy takes whole numbers from 0 up"):
        task.check_data((X, labels(-1)), "train")


@pytest.mark.parametrize("way", ["arrays", "stream"])
def test_complex_inputs_of_a_real_model_are_refused_with_what_to_give(runner, way):
    x = np.exp(1j * np.zeros((8, 2))).astype("complex64")
    task = SupervisedTask(keras.Sequential([keras.Input((2,)), layers.Dense(1)]), loss="mse")
    data = (x, np.zeros(8, "float32"))
    with pytest.raises(ValueError, match=r"inputs are complex numbers, and the model takes float32: .*np\.stack"):
        runner.fit(task, data if way == "arrays" else lambda: iter([data]))
    with pytest.raises(ValueError, match="inputs are complex numbers"):
        runner.predict(task, x)


def test_examples_in_a_list_are_explained():
    task = SupervisedTask(keras.Sequential([keras.Input((2,)), layers.Dense(1)]), loss="mse")
    with pytest.raises(ValueError, match=r"takes `x`, `\(x, y\)` .*, got 20 parts. If .* `np.stack`"):
        Runner().check(task, [np.zeros(2, "float32") for _ in range(20)])


@pytest.mark.any_backend
def test_numbers_that_are_logged_in_place_of_tensors_are_remembered_with_their_first_value():
    class Logs(Task):
        def evaluate_step(self, batch):
            for name, value in [("float", 1.5), ("float", 2.5), ("bool", True), ("numpy", np.float32(3)), ("int", 4)]:
                self.log(name, value)
            self.log("array", np.array(5))
            self.log("tensor", ops.convert_to_tensor(6.0))
            self.log("variable", keras.Variable(7.0))

    task = Logs()
    assert {name: float(value) for name, value in task.run_evaluate_step(None).items()} == {
        "float": 2.5,
        "bool": 1,
        "numpy": 3,
        "int": 4,
        "array": 5,
        "tensor": 6,
        "variable": 7,
    }
    assert task.numbers_logged() == {"float": 1.5, "bool": 1, "numpy": 3, "int": 4, "array": 5}
    with task._recording(), pytest.raises(ValueError, match=r"^log\('wide'\): the value has shape \(2,\); expected a"):
        task.log("wide", np.zeros(2))
    assert "wide" not in task.numbers_logged()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"optimizer": "adm"},
            r"SupervisedTask\(optimizer='adm'\): Keras has none of this name. Did you mean .*'adam'",
        ),
        ({"loss": "msee"}, r"SupervisedTask\(loss='msee'\): Keras has none of this name. Did you mean .*'mse'"),
        ({"loss": {"a": "mse", "b": "hinje"}}, r"loss='hinje'\): .* Did you mean .*'hinge'"),
    ],
)
def test_a_misspelled_optimizer_or_loss_is_answered_with_the_nearest_names(given, message):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match=message):
        SupervisedTask(model, **({"loss": "mse"} | given))


def test_a_misspelled_hyperparameter_is_answered_with_the_nearest_name():
    class Small(Task):
        @dataclasses.dataclass(frozen=True)
        class HParams:
            units: int = 8
            rate: float = 0.1

    with pytest.raises(TypeError, match=r"HParams\(unit=\.\.\.\): there is no such setting. Did you mean 'units'\?"):
        Small.HParams(unit=4)
    assert Small(Small.HParams(units=4)).hp == Small.HParams(4)
