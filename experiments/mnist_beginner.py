"""Handwritten digits, by a small dense network: the first example of most courses.

    python experiments/mnist_beginner.py                 # fit, then test the best weights
    python experiments/mnist_beginner.py predict --run_dir runs/mnist_beginner/... test:17 my_digit.png
    python experiments/mnist_beginner.py tune --tuner.trials 10
    python experiments/mnist_beginner.py --help

The network computes ten logits for an image; the loss is the cross entropy of their softmax. The untrained network can
only guess, each digit with probability 1/10, so its loss must be close to -ln(1/10) = 2.3: a check that costs nothing
and finds many mistakes. A probability model is the network with the softmax on top. After "TensorFlow 2 quickstart for
beginners", https://www.tensorflow.org/tutorials/quickstart/beginner
"""

from __future__ import annotations

import dataclasses
import math

import lightkeras as lk

import keras
from keras import layers, ops


def cross_entropy(labels, logits):
    return ops.mean(keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True))


class MnistBeginner(lk.Task):
    """Classifies digits from 28 x 28 pixels, with a dense network."""

    @dataclasses.dataclass(frozen=True)
    class HParams:
        """Hyperparameters.

        Args:
            hidden_units: Units of the hidden layer.
            dropout: Share of the hidden layer that is dropped while training.
            learning_rate: Learning rate of Adam.
            batch_size: Images per batch.
        """

        hidden_units: int = lk.Int(128, low=32, high=512, step=32)
        dropout: float = lk.Float(0.2, low=0.0, high=0.5)
        learning_rate: float = lk.Float(1e-3, low=1e-4, high=1e-2, log=True)
        batch_size: int = 32

    def build_data(self) -> lk.DataModule:
        return lk.data.Mnist(batch_size=self.hp.batch_size)

    def build_model(self) -> keras.Model:
        return keras.Sequential(
            [
                keras.Input((28, 28)),
                layers.Flatten(),
                layers.Dense(self.hp.hidden_units, activation="relu"),
                layers.Dropout(self.hp.dropout),
                layers.Dense(10),
            ]
        )

    def build_optimizer(self) -> keras.optimizers.Optimizer:
        return keras.optimizers.Adam(self.hp.learning_rate)

    def build_callbacks(self) -> list[keras.callbacks.Callback]:
        return [keras.callbacks.LambdaCallback(on_train_begin=lambda logs: self.check_untrained_loss())]

    def check_untrained_loss(self):
        images, labels = self.data.train().arrays
        loss = float(cross_entropy(labels[:1000], self.model(images[:1000], training=False)))
        print(f"untrained: the loss is {loss:.2f}, guessing one of 10 digits would be -ln(1/10) = {math.log(10):.2f}")

    def loss(self, batch, training):
        images, labels = batch
        logits = self.model(images, training=training)
        self.log("accuracy", ops.mean(ops.cast(ops.argmax(logits, -1) == labels, "float32")))
        return cross_entropy(labels, logits)

    def predict_step(self, batch):
        logits = self.model(batch[0], training=False)
        return {"digit": ops.argmax(logits, -1), "logits": logits, "probabilities": ops.softmax(logits)}

    def draw(self, predict):
        (images, labels), outputs = predict(15)
        names = self.data.class_names
        return {"predictions": lk.plots.prediction_bars(images, outputs["probabilities"], labels, names)}


if __name__ == "__main__":
    lk.cli(MnistBeginner, max_epochs=20)
