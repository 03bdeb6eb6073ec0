"""What a backend cannot run is refused before training, with the layer's name and the way out."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from lightkeras import Runner
from lightkeras.data.structure import ArraySpec
from lightkeras.task import Task
from lightkeras.training.step_errors import TaskError, _fits, _mismatch, difference, paths

BACKEND = keras.backend.backend()
TEXTS = np.array(["a b", "b c", "c", "a"] * 4, object)
NUMBERS = np.arange(16, dtype="int32")
TARGETS = np.zeros((16, 1), "float32")


def task_with(layer, dtype):
    class Reads(Task):
        def build_model(self):
            given = keras.Input((), dtype=dtype)
            found = ops.cast(layer(given), "float32")
            return keras.Model(given, layers.Dense(1)(found if len(found.shape) > 1 else ops.expand_dims(found, -1)))

        def loss(self, batch, training):
            x, y = batch
            return ops.mean(ops.square(self.model(x, training=training) - y))

    return Reads()


def fit(run_dir, task, x):
    return Runner(max_epochs=1, progress=False, run_dir=run_dir).fit(task, (x, TARGETS), batch_size=8)


@pytest.mark.backends("jax", "torch", reason="TensorFlow has tensors of text")
@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.TextVectorization(output_sequence_length=3, vocabulary=["a", "b"], name="words"),
        lambda: layers.StringLookup(vocabulary=["a", "b"], name="words"),
    ],
    ids=["TextVectorization", "StringLookup"],
)
def test_text_in_a_batch_is_refused_with_the_layer_that_would_read_it(tmp_path, layer):
    found = layer()
    name = {"jax": "JAX"}.get(BACKEND, BACKEND)
    message = (
        rf"Reads\.train_step: Array 0 of a batch is text, which {name} cannot compute with: expected numbers\. .*"
        r"`build_encoder`, .* or set KERAS_BACKEND=tensorflow\. "
        rf"The layers that read it: words \({type(found).__name__}\)\."
    )
    with pytest.raises(TaskError, match=message):
        fit(tmp_path / "run", task_with(found, "string"), TEXTS)
    assert not (tmp_path / "run").exists()


@pytest.mark.backends("jax", "torch", reason="TensorFlow runs it")
def test_a_text_module_in_the_model_is_named(tmp_path):
    from lightkeras.data.lookup import Lookup
    from lightkeras.encoders.hub import HubLayer, find_module

    module = HubLayer(find_module("auto", Lookup(source="sample")).handle, name="module")
    with pytest.raises(TaskError, match=r"The layers that read it: module \(HubLayer\)\."):
        fit(tmp_path / "run", task_with(module, "string"), TEXTS)


@pytest.mark.backends("jax", reason="the others run them")
@pytest.mark.parametrize("kind", [layers.Hashing, layers.IntegerLookup], ids=["Hashing", "IntegerLookup"])
def test_a_layer_that_computes_with_tensorflow_is_named_with_the_way_out(tmp_path, kind):
    layer = kind(8, name="rows") if kind is layers.Hashing else kind(vocabulary=[1, 2], name="rows")
    message = (
        rf"Reads\.train_step: the layer \w+/rows \({kind.__name__}\) computes with TensorFlow, which a step on jax "
        r"cannot\. Compute its outputs in the input pipeline, .*`build_encoder` in the task; "
        r"or set KERAS_BACKEND=tensorflow\."
    )
    with pytest.raises(TaskError, match=message):
        fit(tmp_path / "run", task_with(layer, "int32"), NUMBERS)


class Failing(layers.Layer):
    def call(self, inputs):
        raise ArithmeticError("no such number")


class Around(layers.Layer):
    def __init__(self, **settings):
        super().__init__(**settings)
        self.inner = Failing(name="inner")

    def call(self, inputs):
        return self.inner(inputs)


def test_an_error_in_a_layer_comes_out_with_the_innermost_layers_name(tmp_path):
    class Wraps(Task):
        def build(self):
            self.layer, self.optimizer = Around(name="outer"), keras.optimizers.SGD(0.1)

        def loss(self, batch, training):
            return ops.mean(self.layer(batch[0]))

    with pytest.raises(ArithmeticError, match="no such number") as caught:
        fit(tmp_path / "run", Wraps(), TARGETS)
    assert "It was raised in the layer outer/inner (Failing)." in caught.value.__notes__


def test_an_error_outside_of_layers_names_none(tmp_path):
    class Wrong(Task):
        def build(self):
            self.layer, self.optimizer = layers.Dense(1), keras.optimizers.SGD(0.1)

        def loss(self, batch, training):
            self.layer(batch[0])
            raise ArithmeticError("no such number")

    with pytest.raises(ArithmeticError) as caught:
        fit(tmp_path / "run", Wrong(), TARGETS)
    assert not any("raised in the layer" in note for note in caught.value.__notes__)


# ---------------------------------------------------------------------- what is diagnosed, and what is not

WIDE = np.zeros((16, 8), "float32")


class Steps(Task):
    """A model for four columns, whose loss is given."""

    def __init__(self, loss, evaluate=None):
        super().__init__()
        self._given, self._evaluate = loss, evaluate

    def build(self):
        self.model = keras.Sequential([keras.Input((4,), name="four"), layers.Dense(1)])
        self.other = keras.Sequential([keras.Input((2,), name="two"), layers.Dense(1)])
        self.optimizer = keras.optimizers.SGD(0.1)

    def loss(self, batch, training):
        given = self._given if training or self._evaluate is None else self._evaluate
        return given(self, *batch) + 0.0 * ops.sum(self.other(batch[0][:, :2]))


def squared(task, x, y):
    return ops.mean(ops.square(task.model(x) - y))


@pytest.mark.parametrize(
    ("loss", "error"),
    [
        (lambda task, x, y: squared(task, x[:, :4], y) * task.wieght, "wieght"),
        (lambda task, x, y: squared(task, x[:, :4], y) * unknown, "unknown"),  # noqa: F821
        (lambda task, x, y: squared(task, x[:, :4], y) + {}["key"], "key"),
        (lambda task, x, y: squared(task, x[:, :4], y) + ops.mean(ops.matmul(x, ops.ones((3, 2)))), "[38]"),
        (lambda task, x, y: squared(task, x[:, :4], y) + ops.mean(Failing()(x)), "no such number"),
    ],
    ids=["attribute", "name", "key", "shapes", "layer"],
)
def test_a_mistake_of_a_step_that_crops_its_input_is_raised_as_it_is(tmp_path, loss, error):
    with pytest.raises(Exception, match=error) as caught:
        Runner(max_epochs=1, run_dir=tmp_path / "run").fit(Steps(loss), (WIDE, TARGETS), batch_size=8)
    assert not isinstance(caught.value, TaskError)
    assert any("This came from train_step" in note for note in caught.value.__notes__)


def test_wrong_inputs_of_any_model_are_diagnosed_and_the_error_is_quoted(tmp_path):
    message = (
        r"the model's input 'four' takes float32\[batch, 4\], but the batch has float32\[batch, 8\]\..* The error was: "
    )
    with pytest.raises(TaskError, match=message) as caught:
        Runner(run_dir=tmp_path / "run").fit(Steps(squared), (WIDE, TARGETS), batch_size=8)
    assert str(caught.value.__cause__) in str(caught.value)
    wrong = Steps(lambda task, x, y: ops.mean(task.other(x)))
    with pytest.raises(TaskError, match=r"self\.other's input 'two' takes float32\[batch, 2\], but .*The error was: "):
        Runner(run_dir=tmp_path / "run").fit(wrong, (WIDE, TARGETS), batch_size=8)


def test_other_batches_of_validation_are_not_blamed_for_a_misspelled_name(tmp_path):
    def fit(evaluate):
        task = Steps(lambda task, x, y, weight=None: squared(task, x[:, :4], y), evaluate)
        weights = np.ones(16, "float32")
        Runner(run_dir=tmp_path / "run").fit(task, (WIDE, TARGETS), (WIDE + 1, TARGETS, weights), batch_size=8)

    with pytest.raises(AttributeError, match="mispelled"):
        fit(lambda task, x, y, weight: task.mispelled)
    with pytest.raises(
        TaskError, match=r"a batch of validation has the arrays .* The error was: TypeError: .*argument"
    ):
        fit(lambda task, x, y: squared(task, x[:, :4], y))


@pytest.mark.any_backend
def test_the_first_four_variables_are_named_and_the_others_counted():
    variables = [keras.Variable(0.0, name=f"v{number}") for number in range(6)]
    assert paths(variables[:4]) == "v0, v1, v2, v3"
    assert paths(variables) == "v0, v1, v2, v3 and 2 more"


@pytest.mark.any_backend
def test_the_difference_of_two_batches_is_their_structure_or_the_first_array():
    x, y = ArraySpec((3,), "float32"), ArraySpec((), "int32")
    assert difference((x, y), (x, y)) is None
    assert difference({"a": x}, {"b": x}) == (
        "a batch of validation has the arrays ['a'], but one of train ['b']. Give both the same structure."
    )
    assert difference((x, x), (x, y)) == (
        "array 1 of validation is float32[batch, 3], but int32[batch] in train. Prepare both in the same way."
    )
    assert difference(y, x).startswith("array 0 of validation is int32[batch]")


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("wanted", "found", "fits"),
    [
        (((3,), "float32"), ((3,), "int32"), True),
        (((3,), "float32"), ((4,), "float32"), False),
        (((None,), "float32"), ((4,), "float32"), True),
        (((4,), "float32"), ((None,), "float32"), True),
        (((3, 1), "float32"), ((3,), "float32"), True),
        (((3, 2), "float32"), ((3,), "float32"), False),
        (((3,), "float32"), ((3, 1), "float32"), True),
        (((3,), "float32"), ((3, 2), "float32"), False),
        (((), "string"), ((), "string"), True),
        (((), "string"), ((), "int32"), False),
        (((), "int32"), ((), "string"), False),
        (((3, 4), "float32"), ((3, 5), "float32"), False),
    ],
)
def test_inputs_fit_by_their_sizes_and_whether_they_are_text(wanted, found, fits):
    assert _fits(keras.KerasTensor((None, *wanted[0]), wanted[1]), ArraySpec(*found)) == fits


@pytest.mark.any_backend
def test_inputs_of_another_number_are_counted_and_alike_ones_advised_to_be_stacked():
    one = keras.Model(a := keras.Input((2,), name="a"), layers.Dense(1)(a))
    spec, other = ArraySpec((2,), "float32"), ArraySpec((3,), "float32")
    assert _mismatch("the model", one, spec) is None
    assert _mismatch("the model", one, (spec, spec)) == (
        "the model takes 1 inputs ['a'], but the batch has 2. If these are 2 examples, make them one array with "
        "`np.stack`."
    )
    assert _mismatch("self.x", one, (spec, other)) == "self.x takes 1 inputs ['a'], but the batch has 2."
    assert _mismatch("self.x", one, {"b": spec}) == "self.x takes the inputs ['a'], but the batch has ['b']."
    assert _mismatch("self.x", one, {"a": spec, "b": other}) is None
    assert _mismatch("self.x", one, {"a": other}).startswith(
        "self.x's input 'a' takes float32[batch, 2], but the batch"
    )
    text = _mismatch("self.x", one, {"a": ArraySpec((), "string")})
    assert text is not None
    assert "but the batch has string[batch]. Make numbers of the text with an encoder in `build_encoder`" in text
    assert _mismatch("self.x", one, {"a": None}) is None
