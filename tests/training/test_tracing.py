"""Tracing: what is warned of when the steps are traced."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from lightkeras import Runner
from lightkeras.task import Task


def test_a_model_whose_own_step_is_not_called_is_warned_of(tmp_path):
    class Net(keras.Sequential):
        def train_step(self, data):
            raise AssertionError("called")

    class Mine(Task):
        def build_model(self):
            return Net([keras.Input((1,)), layers.Dense(1)])

        def loss(self, batch, training):
            return ops.mean(ops.square(self.model(batch[0]) - batch[1]))

    x = np.ones((8, 1), "float32")
    with pytest.warns(UserWarning, match=r"Net.train_step, of self.model, is not called: .* steps of Mine"):
        Runner(run_dir=tmp_path / "run").check(Mine(), (x, x), batch_size=4)
