"""Tasks that spend their time in training, for `tuner.py`; in this file, because workers import them."""

import dataclasses

import lightkeras as lk

import keras
import numpy as np
from keras import layers, ops


class Wide(lk.Task):
    """Random labels of random points, with a wide network."""

    @dataclasses.dataclass(frozen=True)
    class HParams:
        """Hyperparameters."""

        learning_rate: float = lk.Float(1e-3, low=1e-4, high=1e-2, log=True)

    def build_data(self):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(6000, 256)).astype("float32")
        y = (x[:, :8].sum(axis=1) > 0).astype("int32")
        return lk.data.ArrayData((x[:5000], y[:5000]), (x[5000:], y[5000:]), batch_size=128)

    def build_model(self):
        wide = [layers.Dense(1024, "relu") for _ in range(3)]
        return keras.Sequential([layers.Input((256,)), *wide, layers.Dense(1)])

    def build_optimizer(self):
        return keras.optimizers.SGD(self.hp.learning_rate)

    def loss(self, batch, training):
        x, label = batch
        label = ops.cast(label, "float32")
        logit = ops.squeeze(self.model(x, training=training), -1)
        self.log("accuracy", ops.mean(ops.cast((logit > 0) == (label > 0.5), "float32")))
        return ops.mean(ops.softplus(logit) - label * logit)


class Tutorial(lk.Task):
    """The Fashion-MNIST tutorial's network and batches: each operation is too small for several cores."""

    @dataclasses.dataclass(frozen=True)
    class HParams:
        """Hyperparameters."""

        learning_rate: float = lk.Float(1e-3, low=1e-4, high=1e-2, log=True)

    def build_data(self):
        return lk.data.FashionMnist(batch_size=32)

    def build_model(self):
        hidden = layers.Dense(128, activation="relu")
        return keras.Sequential([keras.Input((28, 28)), layers.Flatten(), hidden, layers.Dense(10)])

    def build_optimizer(self):
        return keras.optimizers.Adam(self.hp.learning_rate)

    def loss(self, batch, training):
        images, labels = batch
        logits = self.model(images, training=training)
        self.log("accuracy", ops.mean(ops.cast(ops.argmax(logits, -1) == labels, "float32")))
        return ops.mean(keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True))
