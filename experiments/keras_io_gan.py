"""Handwritten digits out of noise: a conditional generative adversarial network (GAN) on MNIST.

    python experiments/keras_io_gan.py                 # fit, test, and draw samples after every epoch
    tensorboard --logdir runs/keras_io_gan             # Images: the same noise, epoch after epoch
    python experiments/keras_io_gan.py fit --hp.latent 16 --runner.max_epochs 20
    python experiments/keras_io_gan.py --help

Two networks learn against each other. The generator makes an image of noise and the digit that it shall show; the
discriminator says whether an image is real. Each has an optimizer of its own, and a train step calls `self.minimize`
for the one and then for the other. After "Conditional GAN" of keras.io,
https://keras.io/examples/generative/conditional_gan/; the discriminator has one verdict for each digit instead of ten
more channels (the last layer of Miyato and Koyama, 2018).

The losses of the two do not say how good the images are. So a third network, the judge, learns beside them to read
real digits, and is shown generated ones:

* `readable` is the share in which it reads the digit that was asked for: 0.1 is noise, `readable_of_real` the most.
* `distance` is between its features of generated and of real images (the kernel inception distance of Binkowski et
  al., 2018): 0 where they are alike. It grows, too, where all images of a digit are the same.

`model.keras` is the generator: `keras.models.load_model("model.keras").predict({"noise": noise, "digit": digit})`.
"""

import dataclasses

import lightkeras as lk

import keras
import numpy as np
from keras import layers, ops


class KerasIoGan(lk.Task):
    """A generator of handwritten digits, and the discriminator that it learns from."""

    @dataclasses.dataclass(frozen=True)
    class HParams:
        """Hyperparameters.

        Args:
            latent: Random numbers that an image is made of.
            filters: Filters of both networks at 14 x 14 pixels; at 7 x 7 there are twice as many.
            dropout: Share of the discriminator's features that is dropped while training.
            smoothing: How much less than certain the discriminator shall be of real images.
            generator_rate: Learning rate of the generator.
            discriminator_rate: Learning rate of the discriminator.
            batch_size: Images per batch.
        """

        latent: int = lk.Int(32, low=8, high=128, step=8)
        filters: int = lk.Int(32, low=16, high=64, step=16)
        dropout: float = lk.Float(0.3, low=0.0, high=0.5)
        smoothing: float = lk.Float(0.1, low=0.0, high=0.3)
        generator_rate: float = lk.Float(1e-3, low=1e-4, high=3e-3, log=True)
        discriminator_rate: float = lk.Float(1e-3, low=1e-4, high=3e-3, log=True)
        batch_size: int = 128

    def build_data(self) -> lk.DataModule:
        return lk.data.Mnist(batch_size=self.hp.batch_size)

    def build(self) -> None:
        self.generator = self.build_generator()
        self.discriminator = self.build_discriminator()
        self.features = keras.Sequential([keras.Input((28, 28)), layers.Flatten(), layers.Dense(128, "relu")])
        self.judge = keras.Sequential([self.features, layers.Dense(10)])
        self.generator_optimizer = keras.optimizers.Adam(self.hp.generator_rate, beta_1=0.5)
        self.discriminator_optimizer = keras.optimizers.Adam(self.hp.discriminator_rate, beta_1=0.5)
        self.judge_optimizer = keras.optimizers.Adam()
        self.seeds = keras.random.SeedGenerator(0)  # part of the run's state: a resume draws the noise that comes next

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

    def generate(self, digit, training):
        noise = keras.random.normal((ops.shape(digit)[0], self.hp.latent), seed=self.seeds)
        return self.generator({"noise": noise, "digit": digit}, training=training)

    def verdict(self, image, digit, target):
        """Cross entropy of what the discriminator says of images; `target` is 1 for real, 0 for generated."""
        logit = ops.sum(self.discriminator(image, training=True) * digit, -1)
        return ops.mean(ops.softplus(logit) - target * logit)

    def train_step(self, batch):
        image, label = batch
        digit = ops.one_hot(label, 10)
        generated = ops.stop_gradient(self.generate(digit, training=True))
        discriminator_loss = self.minimize(
            lambda: self.verdict(image, digit, 1.0 - self.hp.smoothing) + self.verdict(generated, digit, 0.0),
            self.discriminator.trainable_variables,
            self.discriminator_optimizer,
        )
        generator_loss = self.minimize(
            lambda: self.verdict(self.generate(digit, training=True), digit, 1.0),  # it shall pass for real
            self.generator.trainable_variables,
            self.generator_optimizer,
        )
        self.log("discriminator_loss", discriminator_loss)
        self.log("generator_loss", generator_loss)
        self.minimize(lambda: self.judge_loss(image, label), self.judge.trainable_variables, self.judge_optimizer)

    def judge_loss(self, image, label):
        logits = self.judge(image, training=True)
        return ops.mean(keras.losses.sparse_categorical_crossentropy(label, logits, from_logits=True))

    def evaluate_step(self, batch):
        image, label = batch
        generated = self.generate(ops.one_hot(label, 10), training=False)
        self.log("readable", self.share_read(generated, label))
        self.log("readable_of_real", self.share_read(image, label))
        self.log("distance", distance(self.features(generated), self.features(image)))

    def share_read(self, image, label):
        read = ops.argmax(self.judge(image, training=False), -1)
        return ops.mean(ops.cast(ops.cast(read, "int32") == ops.cast(label, "int32"), "float32"))

    def predict_step(self, batch):
        logits = self.judge(batch[0], training=False)
        real = ops.sum(self.discriminator(batch[0], training=False) * ops.one_hot(ops.argmax(logits, -1), 10), -1)
        return {"digit": ops.argmax(logits, -1), "real": ops.sigmoid(real)}

    def draw(self, predict):
        rows = 5
        noise = np.random.default_rng(0).normal(size=(10 * rows, self.hp.latent)).astype("float32")
        digit = np.tile(np.eye(10, dtype="float32"), (rows, 1))
        image = self.generator({"noise": noise, "digit": digit}, training=False)
        return {"samples": lk.plots.image_grid(ops.convert_to_numpy(image), columns=10)}

    def model_to_export(self) -> keras.Model:
        return self.generator


def distance(left, right):
    """Squared distance of two sets of features `[batch, n]` in the space of a cubic kernel; without bias."""

    def kernel(x, y):
        return (x @ ops.transpose(y) / x.shape[-1] + 1.0) ** 3

    def within(x):
        likeness, count = kernel(x, x), ops.cast(ops.shape(x)[0], "float32")
        return (ops.sum(likeness) - ops.sum(ops.diagonal(likeness))) / ops.maximum(count * (count - 1.0), 1.0)

    return within(left) + within(right) - 2.0 * ops.mean(kernel(left, right))


if __name__ == "__main__":
    lk.cli(KerasIoGan, max_epochs=8, monitor="val/readable", mode="max", patience=None, draw_every=1)
