"""Programs on torch: many steps in one call, and predictions in order."""

import keras
import numpy as np
import pytest
import torch
from by_hand import (
    LINE,
    LINE_WEIGHTS,
    Line,
    Square,
    learn,
    predictions,
    prepared,
)
from keras import ops

from lightkeras.data.feed import ArrayFeed


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
