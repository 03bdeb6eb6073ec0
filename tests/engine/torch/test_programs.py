"""Programs on torch: many steps in one call, and predictions in order."""

import torch
from by_hand import (
    LINE,
    LINE_WEIGHTS,
    Line,
    learn,
    prepared,
)

from lightkeras.data.feed import ArrayFeed


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
