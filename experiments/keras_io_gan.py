"""Handwritten digits from noise: a conditional generative adversarial network (GAN) on MNIST.

    python experiments/keras_io_gan.py                 # fit, test, and draw samples after every epoch
    tensorboard --logdir runs/keras_io_gan             # Images: the same noise, epoch after epoch
    python experiments/keras_io_gan.py fit --hp.latent 16 --runner.max_epochs 20
    python experiments/keras_io_gan.py --help

Two networks are trained against each other. The generator makes an image from noise and a digit; the discriminator
classifies images as real or generated. Each has its own optimizer, and a train step calls `self.minimize` for one and
then for the other. After "Conditional GAN" of keras.io, https://keras.io/examples/generative/conditional_gan/; the
discriminator has one output for each digit instead of ten more channels (the last layer of Miyato and Koyama, 2018).

What is drawn, tested and saved as `model.keras` is a moving average of the generator over a few hundred steps.
`keras.models.load_model(path).predict({"noise": noise, "digit": digit})` generates images, with `noise` `[n, latent]`
and `digit` `[n, 10]`, one-hot.

The losses of the two networks do not measure the quality of the images. A third network, the student, is trained beside
them to classify digits, on generated images only: `accuracy` is its accuracy on real digits (the classification
accuracy score of Ravuri and Vinyals, 2019; 0.1 is chance). A classifier trained on real digits misled: of accuracy
0.93, it also read 0.93 of images that a person could not read. The kernel distance between its features rose while
images improved.
"""

from __future__ import annotations

import dataclasses

import lightkeras as lk

import keras
import numpy as np
from keras import layers, ops


class KerasIoGan(lk.Task):
    """A generator of handwritten digits, and its discriminator."""

    @dataclasses.dataclass(frozen=True)
    class HParams:
        """Hyperparameters.

        Args:
            latent: Random numbers per image.
            filters: Filters of both networks at 14 x 14 pixels; at 7 x 7 there are twice as many.
            dropout: Share of the discriminator's features that is dropped while training.
            memory: Momentum of the average generator per step.
            smoothing: Label smoothing of real images: their target is 1 - smoothing.
            generator_rate: Learning rate of the generator.
            discriminator_rate: Learning rate of the discriminator.
            batch_size: Images per batch.
        """

        latent: int = lk.Int(32, low=8, high=128, step=8)
        filters: int = lk.Int(32, low=16, high=64, step=16)
        dropout: float = lk.Float(0.2, low=0.0, high=0.5)
        memory: float = lk.Float(0.995, low=0.9, high=0.999)
        smoothing: float = lk.Float(0.1, low=0.0, high=0.3)
        generator_rate: float = lk.Float(5e-4, low=1e-4, high=3e-3, log=True)
        discriminator_rate: float = lk.Float(1e-3, low=1e-4, high=3e-3, log=True)
        batch_size: int = 64

    def build_data(self) -> lk.DataModule:
        return lk.data.Mnist(batch_size=self.hp.batch_size)

    def build(self) -> None:
        self.generator, self.average = self.build_generator(), self.build_generator()
        self.average.set_weights(self.generator.get_weights())
        self.average.trainable = False
        self.discriminator = self.build_discriminator()
        self.student = keras.Sequential(
            [keras.Input((28, 28)), layers.Flatten(), layers.Dense(128, "relu"), layers.Dense(10)]
        )
        self.generator_optimizer = keras.optimizers.Adam(self.hp.generator_rate, beta_1=0.5)
        self.discriminator_optimizer = keras.optimizers.Adam(self.hp.discriminator_rate, beta_1=0.5)
        self.student_optimizer = keras.optimizers.Adam()
        self.seeds = keras.random.SeedGenerator(0)  # saved with the run: a resume draws the next noise

    def build_generator(self) -> keras.Model:
        noise, digit = keras.Input((self.hp.latent,), name="noise"), keras.Input((10,), name="digit")
        filters = self.hp.filters
        x = layers.Concatenate()([noise, digit])
        x = layers.Dense(7 * 7 * 2 * filters, use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.Reshape((7, 7, 2 * filters))(x)
        x = layers.Conv2DTranspose(filters, 4, strides=2, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.Conv2DTranspose(1, 4, strides=2, padding="same", activation="sigmoid")(x)
        return keras.Model({"noise": noise, "digit": digit}, layers.Reshape((28, 28))(x))

    def build_discriminator(self) -> keras.Model:
        inside = [keras.Input((28, 28)), layers.Reshape((28, 28, 1))]
        for filters in (self.hp.filters, 2 * self.hp.filters):
            inside += [layers.Conv2D(filters, 4, strides=2, padding="same"), layers.LeakyReLU(0.2)]
            inside += [layers.Dropout(self.hp.dropout)]
        return keras.Sequential([*inside, layers.Flatten(), layers.Dense(10)])

    def generate(self, generator, digit, training):
        noise = keras.random.normal((ops.shape(digit)[0], self.hp.latent), seed=self.seeds)
        return generator({"noise": noise, "digit": digit}, training=training)

    def verdict(self, image, digit, target):
        """Cross entropy of the discriminator's output for the digit; `target` is 1 for real, 0 for generated."""
        logit = ops.sum(self.discriminator(image, training=True) * digit, -1)
        return ops.mean(ops.softplus(logit) - target * logit)

    def train_step(self, batch):
        image, label = batch
        digit = ops.one_hot(label, 10)
        generated = ops.stop_gradient(self.generate(self.generator, digit, training=True))
        discriminator_loss = self.minimize(
            lambda: self.verdict(image, digit, 1.0 - self.hp.smoothing) + self.verdict(generated, digit, 0.0),
            self.discriminator.trainable_variables,
            self.discriminator_optimizer,
        )
        generator_loss = self.minimize(
            lambda: self.verdict(self.generate(self.generator, digit, training=True), digit, 1.0),  # as if real
            self.generator.trainable_variables,
            self.generator_optimizer,
        )
        for average, newest in zip(self.average.weights, self.generator.weights, strict=True):
            average.assign(self.hp.memory * average + (1.0 - self.hp.memory) * newest)
        self.log("discriminator_loss", discriminator_loss)
        self.log("generator_loss", generator_loss)
        self.teach(ops.stop_gradient(self.generate(self.average, digit, training=False)), label)

    def teach(self, image, label):
        def loss():
            logits = self.student(image, training=True)
            return ops.mean(keras.losses.sparse_categorical_crossentropy(label, logits, from_logits=True))

        self.minimize(loss, self.student.trainable_variables, self.student_optimizer)

    def evaluate_step(self, batch):
        image, label = batch
        read = ops.argmax(self.student(image, training=False), -1)
        self.log("accuracy", ops.mean(ops.cast(read == label, "float32")))

    def predict_step(self, batch):
        digit = ops.argmax(self.student(batch[0], training=False), -1)
        logit = ops.sum(self.discriminator(batch[0], training=False) * ops.one_hot(digit, 10), -1)
        return {"digit": digit, "real": ops.sigmoid(logit)}

    def draw(self, predict):
        rows = 5
        noise = np.random.default_rng(0).normal(size=(10 * rows, self.hp.latent)).astype("float32")
        digit = np.tile(np.eye(10, dtype="float32"), (rows, 1))
        image = self.average({"noise": noise, "digit": digit}, training=False)
        return {"samples": lk.plots.image_grid(ops.convert_to_numpy(image), columns=10)}

    def model_to_export(self) -> keras.Model:
        return self.average


if __name__ == "__main__":
    lk.cli(KerasIoGan, max_epochs=6, monitor="val/accuracy", patience=None, draw_every=1)
