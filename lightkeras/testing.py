"""Small tasks and data for tests of tasks, callbacks and tools: they train in less than a second."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
from keras import layers, ops

from lightkeras.data.arrays import ArrayData
from lightkeras.data.structure import Structure
from lightkeras.engine.base import Tensor
from lightkeras.hparams import Float, Int
from lightkeras.task import Task


def two_moons(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two interleaved half circles with noise, which are not linearly separable.

    Args:
        count: Number of points.
        seed: Seed of the noise.

    Returns:
        Points, float32 `[count, 2]`, and classes, int32 `[count]`, 0 or 1.
    """
    rng = np.random.default_rng(seed)
    label = np.arange(count) % 2
    angle = rng.uniform(0, np.pi, count)
    x = np.where(label == 0, np.cos(angle), 1 - np.cos(angle))
    y = np.where(label == 0, np.sin(angle), 0.5 - np.sin(angle))
    points = np.stack([x, y], axis=1) + rng.normal(0, 0.1, (count, 2))
    return points.astype(np.float32), label.astype(np.int32)


class TwoMoons(Task):
    """A small classifier of two moons, with a `train_step` of its own."""

    @dataclasses.dataclass(frozen=True)
    class HParams:
        """Hyperparameters.

        Args:
            hidden_units: Units of the hidden layer.
            learning_rate: Learning rate of Adam.
            batch_size: Points per batch.
        """

        hidden_units: int = Int(16, low=4, high=32, step=4)
        learning_rate: float = Float(1e-2, low=1e-3, high=1e-1, log=True)
        batch_size: int = 32

    def build_data(self) -> ArrayData:
        return ArrayData(two_moons(320), two_moons(100, seed=1), two_moons(100, seed=2), batch_size=self.hp.batch_size)

    def build_model(self) -> keras.Model:
        return keras.Sequential([layers.Input((2,)), layers.Dense(self.hp.hidden_units, "relu"), layers.Dense(1)])

    def build_optimizer(self) -> keras.optimizers.Optimizer:
        return keras.optimizers.Adam(self.hp.learning_rate)

    def loss(self, batch: Structure, training: bool) -> Tensor:
        points, label = batch
        label = ops.cast(label, "float32")
        logit = ops.squeeze(self.model(points, training=training), -1)
        self.log("accuracy", ops.mean(ops.cast((logit > 0) == (label > 0.5), "float32")))
        return ops.mean(ops.softplus(logit) - label * logit)

    def train_step(self, batch: Structure) -> Tensor:
        return self.minimize(lambda: self.loss(batch, training=True))
