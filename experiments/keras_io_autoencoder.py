"""Digits out of the fog: a convolutional autoencoder that removes noise from MNIST.

    python experiments/keras_io_autoencoder.py                # fit, then test the best weights
    KERAS_BACKEND=torch python experiments/keras_io_autoencoder.py
    python experiments/keras_io_autoencoder.py --help

An encoder squeezes an image through 7 x 7 pixels, a decoder makes an image of it again, and the two learn to give
back the clean image when they see a noisy one. After "Convolutional autoencoder for image denoising" of
keras.io, https://keras.io/examples/vision/autoencoder/

`error` is the mean squared error of the cleaned images, pixels being 0 to 1; `noisy_error` is that of the noisy ones,
before anything was done: what there is to gain.
"""

import dataclasses

import lightkeras as lk

import keras
from keras import layers, ops


class KerasIoAutoencoder(lk.Task):
    """An autoencoder that removes noise from handwritten digits."""

    @dataclasses.dataclass(frozen=True)
    class HParams:
        """Hyperparameters.

        Args:
            filters: Filters of each convolution.
            noise: Standard deviation of the noise; pixels are 0 to 1.
            learning_rate: Learning rate of Adam.
            batch_size: Images per batch.
        """

        filters: int = lk.Int(32, low=8, high=64, step=8)
        noise: float = 0.4
        learning_rate: float = lk.Float(2e-3, low=3e-4, high=1e-2, log=True)
        batch_size: int = 128

    def build_data(self) -> lk.DataModule:
        return lk.data.Mnist(batch_size=self.hp.batch_size)

    def build(self) -> None:
        super().build()
        self.seeds = keras.random.SeedGenerator(0)  # its state is part of the run: a resume draws the noise that is next

    def build_model(self) -> keras.Model:
        kind = {"padding": "same", "activation": "relu"}
        encoder = [layers.Conv2D(self.hp.filters, 3, strides=2, **kind) for _ in range(2)]
        decoder = [layers.Conv2DTranspose(self.hp.filters, 3, strides=2, **kind) for _ in range(2)]
        last = layers.Conv2D(1, 3, padding="same", activation="sigmoid")
        return keras.Sequential(
            [keras.Input((28, 28)), layers.Reshape((28, 28, 1)), *encoder, *decoder, last, layers.Reshape((28, 28))]
        )

    def build_optimizer(self) -> keras.optimizers.Optimizer:
        return keras.optimizers.Adam(self.hp.learning_rate)

    def noisy(self, image, training):
        # New noise in each train step; the same noise whenever the model is judged, so that it can be compared.
        noise = keras.random.normal(ops.shape(image), stddev=self.hp.noise, seed=self.seeds if training else 1)
        return ops.clip(image + noise, 0.0, 1.0)

    def loss(self, batch, training):
        image, _ = batch
        noisy = self.noisy(image, training)
        cleaned = self.model(noisy, training=training)
        self.log("error", ops.mean(ops.square(cleaned - image)))
        self.log("noisy_error", ops.mean(ops.square(noisy - image)))
        return ops.mean(keras.losses.binary_crossentropy(image, cleaned))

    def train_step(self, batch):
        return self.minimize(lambda: self.loss(batch, training=True))

    def draw(self, predict):
        (image, _), _ = predict(10)
        noisy = self.noisy(image, training=False)
        cleaned = self.model(noisy, training=False)
        rows = {"noisy": noisy, "cleaned": cleaned, "original": image}
        return {"before_after": lk.plots.before_after({name: ops.convert_to_numpy(row) for name, row in rows.items()})}


if __name__ == "__main__":
    lk.cli(KerasIoAutoencoder, max_epochs=6, monitor="val/error")
