"""Saving and loading a model in every way, on 1,000 of MNIST's digits; each reload is compared.

    python experiments/save_and_load.py                  # exit status 1 if a reload differs
    python experiments/save_and_load.py --help

Four ways are tried: checkpoints, from which a run that was stopped or killed resumes; the weights, which need the code
of the model; the whole model, which plain Keras loads without that code; and an export for serving, which does not need
Keras. The last two are loaded in a new process, and the run is resumed in one. The outputs for the test images must be
equal to those of the saved model, to the last bit; those of the export of a run on JAX, which TensorFlow computes, to
1e-5. After "Save and load models",
https://www.tensorflow.org/tutorials/keras/save_and_load
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import lightkeras as lk

import keras
import numpy as np
from keras import layers, ops

FIRST = 1000  # images of each part
UNTRAINED = "untrained, for comparison"
EXPORT = "export, in a new process"
EXPORTS = {"torch": "torch"}  # format by backend; that of the others is saved_model, which TensorFlow writes

# Loads the whole model and the export in a new process, without lightkeras and without this file.
RELOAD = """
import keras, numpy as np, sys
folder, exported = sys.argv[1:]
images = np.load(f"{folder}/images.npy")
model = keras.models.load_model(f"{folder}/whole.keras")
np.save(f"{folder}/whole.npy", model.predict(images, batch_size=len(images), verbose=0))
if exported.endswith(".pt2"):
    import torch
    outputs = torch.export.load(exported).module()(torch.from_numpy(images))
else:
    import tensorflow as tf
    loaded = tf.saved_model.load(exported)
    outputs = loaded.signatures["serving_default"](inputs=tf.constant(images))
[logits] = outputs.values()  # by their names
np.save(f"{folder}/export.npy", keras.ops.convert_to_numpy(logits))
"""


class FirstOfMnist(lk.DataModule):
    """The first images of MNIST's two parts; the second part is both validation and test, as in the tutorial."""

    def __init__(self, batch_size):
        self.mnist = lk.data.Mnist(batch_size, validation=0)

    def prepare(self, lookup):
        self.mnist.prepare(lookup)
        self.source = self.mnist.source

    def train(self):
        return self.first(self.mnist.train(), shuffle=True)

    def validation(self):
        return self.first(self.mnist.test())

    def test(self):
        return self.first(self.mnist.test())

    def first(self, feed, shuffle=False):
        images, labels = feed.arrays
        return lk.data.ArrayFeed((images[:FIRST], labels[:FIRST]), self.mnist.batch_size, shuffle=shuffle)


class SaveAndLoad(lk.Task):
    """Classifies digits with a small dense network."""

    @dataclasses.dataclass(frozen=True)
    class HParams:
        """Hyperparameters.

        Args:
            hidden_units: Units of the hidden layer.
            dropout: Share of the hidden layer that is dropped while training.
            learning_rate: Learning rate of Adam.
            batch_size: Images per batch.
        """

        hidden_units: int = lk.Int(512, low=32, high=1024, step=32)
        dropout: float = lk.Float(0.2, low=0.0, high=0.5)
        learning_rate: float = lk.Float(1e-3, low=1e-4, high=1e-2, log=True)
        batch_size: int = 32

    def build_data(self) -> lk.DataModule:
        return FirstOfMnist(self.hp.batch_size)

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

    def loss(self, batch, training):
        images, labels = batch
        logits = self.model(images, training=training)
        self.log("accuracy", ops.mean(ops.cast(ops.argmax(logits, -1) == labels, "float32")))
        return ops.mean(keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True))


def main(task: SaveAndLoad, runner: lk.Runner) -> dict:
    """Fits once without a stop and once with one, saves in every way, loads and compares."""
    folder, epochs = runner.run_dir, runner.max_epochs
    straight = dataclasses.replace(runner, run_dir=folder / "straight")
    straight.fit(task, resume=True)
    tested = straight.evaluate(task, weights="last")
    images, labels = task.data.test().arrays

    def outputs(model):
        return model.predict(images, batch_size=len(images), verbose=0)

    def fresh():
        made = SaveAndLoad(task.hp, task.lookup)
        made.set_up(seed=runner.seed + 1)  # other weights, so that a variable that is not loaded shows
        return made

    other = fresh()
    expected, found = outputs(task.model), {UNTRAINED: outputs(other.model)}

    # Checkpoints: stop a run halfway and resume it, with the command line of this file.
    half = dataclasses.replace(runner, run_dir=folder / "resumed", max_epochs=max(1, epochs // 2))
    half.fit(SaveAndLoad(task.hp, task.lookup), resume=True)
    resume = ["fit", "--resume", "--run_dir", half.run_dir, "--runner.max_epochs", str(epochs)]
    python(__file__, *map(str, resume))
    resumed = fresh()
    half.evaluate(resumed, weights="last")  # loads the weights of the last checkpoint
    found["checkpoint, resumed in a new process"] = outputs(resumed.model)

    # The weights.
    task.model.save_weights(folder / "only.weights.h5")
    other.model.load_weights(folder / "only.weights.h5")
    found["weights, into a new model"] = outputs(other.model)

    # The whole model, and the export.
    task.model.save(folder / "whole.keras")
    form = EXPORTS.get(keras.backend.backend(), "saved_model")
    exported = lk.export(task.model, form, folder / "export", unchecked=True)  # all images are compared below
    np.save(folder / "images.npy", images)
    python("-c", RELOAD, str(folder), str(exported.file))
    found["whole.keras, in a new process"] = np.load(folder / "whole.npy")
    found[EXPORT] = np.load(folder / "export.npy")

    reloads = {way: compared(each, expected, labels) for way, each in found.items()}
    print(f"\n{'':44} {'accuracy':>8}  {'largest difference'}")
    for way, row in reloads.items():
        print(f"{way:44} {row['accuracy']:8.3f}  {row['difference']:.3g}")
    limits = {UNTRAINED: np.inf, EXPORT: 1e-5 if keras.backend.backend() == "jax" else 0}
    different.extend(way for way, row in reloads.items() if row["difference"] > limits.get(way, 0))
    return {"test": tested.metrics, "reloads": reloads, "different": different}


def python(*args):
    """Runs Python in a new process; exits with its error if it fails."""
    done = subprocess.run([sys.executable, *args], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)


def compared(found, expected, labels):
    accuracy = np.mean(found.argmax(-1) == labels)
    return {"accuracy": float(accuracy), "difference": float(np.abs(found - expected).max())}


if __name__ == "__main__":
    different: list[str] = []  # reloads that differ
    lk.cli(SaveAndLoad, main, max_epochs=10, patience=None)
    sys.exit(f"these reloads differ from the saved model: {', '.join(different)}" if different else 0)
