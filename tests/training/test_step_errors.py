"""What a backend cannot run is refused before training, with the layer's name and the way out."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from lightkeras import Runner
from lightkeras.task import Task
from lightkeras.training.step_errors import TaskError

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
