"""Noise removed from handwritten digits: a convolutional autoencoder on MNIST.

    python experiments/keras_io_autoencoder.py                 # fit, then test the best weights
    python experiments/keras_io_autoencoder.py predict --run_dir RUN scan.png
    KERAS_BACKEND=torch python experiments/keras_io_autoencoder.py
    python experiments/keras_io_autoencoder.py --help

An encoder reduces an image to 7 x 7 pixels and a decoder restores its size; both are trained to output the clean image
of a noisy one. After "Convolutional autoencoder for image denoising" of keras.io,
https://keras.io/examples/vision/autoencoder/

`error` is the mean squared error of the cleaned images, whose pixels are 0 to 1; `noisy_error` is the error of the
noisy images. `figures/test/before_after.png` shows both beside the originals.
"""

from __future__ import annotations

import dataclasses

import lightkeras as lk

import keras
from keras import layers, ops


class KerasIoAutoencoder(lk.Task):
    """Removes noise from handwritten digits with an autoencoder."""

    @dataclasses.dataclass(frozen=True)
    class HParams:
        """Hyperparameters.

        Args:
            filters: Filters of each convolution.
            noise: Standard deviation of the noise that is added to pixels of 0 to 1.
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
        self.seeds = keras.random.SeedGenerator(0)  # saved with the run: a resume draws the next noise

    def build_model(self) -> keras.Model:
        same = {"padding": "same", "activation": "relu"}
        encoder = [layers.Conv2D(self.hp.filters, 3, strides=2, **same) for _ in range(2)]
        decoder = [layers.Conv2DTranspose(self.hp.filters, 3, strides=2, **same) for _ in range(2)]
        pixels = layers.Conv2D(1, 3, padding="same", activation="sigmoid")
        return keras.Sequential(
            [keras.Input((28, 28)), layers.Reshape((28, 28, 1)), *encoder, *decoder, pixels, layers.Reshape((28, 28))]
        )

    def build_optimizer(self) -> keras.optimizers.Optimizer:
        return keras.optimizers.Adam(self.hp.learning_rate)

    def with_noise(self, image, seed):
        noise = keras.random.normal(ops.shape(image), stddev=self.hp.noise, seed=seed)
        return ops.clip(image + noise, 0.0, 1.0)

    def loss(self, batch, training):
        image, _ = batch
        # New noise in each train step. The same noise in each evaluation, so that evaluations can be compared.
        noisy = self.with_noise(image, seed=self.seeds if training else 1)
        cleaned = self.model(noisy, training=training)
        self.log("error", ops.mean(ops.square(cleaned - image)))
        self.log("noisy_error", ops.mean(ops.square(noisy - image)))
        return ops.mean(keras.losses.binary_crossentropy(image, cleaned))

    def draw(self, predict):
        (image, _), _ = predict(10)
        noisy = self.with_noise(image, seed=1)
        rows = {"noisy": noisy, "cleaned": self.model(noisy, training=False), "original": image}
        return {"before_after": lk.plots.before_after({name: ops.convert_to_numpy(row) for name, row in rows.items()})}


if __name__ == "__main__":
    lk.cli(KerasIoAutoencoder, max_epochs=5, monitor="val/error")
