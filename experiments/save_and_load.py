"""Saving and loading a model in every way, on 1,000 of MNIST's digits; each reload is compared.

    python experiments/save_and_load.py                  # exit status 1 if a reload differs
    python experiments/save_and_load.py --help

Four ways are tried: checkpoints, from which a run that was stopped or killed resumes; the weights, which need the code
of the model; the whole model, which plain Keras loads without that code; and an export for serving, which does not need
Keras. The last two are loaded in a new process, and the run is resumed in one. The outputs for the test images must be
equal to those of the saved model, to the last bit. After "Save and load models",
https://www.tensorflow.org/tutorials/keras/save_and_load
"""

import dataclasses
import subprocess
import sys

import lightkeras as lk

import keras
import numpy as np
from keras import layers, ops

FIRST = 1000  # images of each part
UNTRAINED = "untrained, for comparison"
EXPORTS = {"torch": ("torch", "export.pt2")}  # format and name by backend
SAVED_MODEL = ("tf_saved_model", "export")  # of the others; JAX needs TensorFlow for it

# Loads the whole model and the export in a new process, without lightkeras and without this file.
RELOAD = """
import keras, numpy as np, sys
folder, name = sys.argv[1:]
images = np.load(f"{folder}/images.npy")
model = keras.models.load_model(f"{folder}/whole.keras")
np.save(f"{folder}/whole.npy", model.predict(images, batch_size=len(images), verbose=0))
if name.endswith(".pt2"):
    import torch
    outputs = torch.export.load(f"{folder}/{name}").module()(torch.from_numpy(images)).detach()
else:
    import tensorflow as tf
    served = tf.saved_model.load(f"{folder}/{name}")
    outputs = served.serve(images)
np.save(f"{folder}/export.npy", outputs.numpy())
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
    form, name = EXPORTS.get(keras.backend.backend(), SAVED_MODEL)
    size = len(images) if form == "torch" else None  # torch exports for one batch size, the others for any
    signature = [keras.InputSpec(shape=(size, 28, 28), dtype="float32")]
    task.model.export(folder / name, format=form, input_signature=signature, verbose=False)
    np.save(folder / "images.npy", images)
    python("-c", RELOAD, str(folder), name)
    found["whole.keras, in a new process"] = np.load(folder / "whole.npy")
    found[f"{name}, in a new process"] = np.load(folder / "export.npy")

    reloads = {way: compared(each, expected, labels) for way, each in found.items()}
    print(f"\n{'':44} {'accuracy':>8}  {'largest difference'}")
    for way, row in reloads.items():
        print(f"{way:44} {row['accuracy']:8.3f}  {row['difference']:.3g}")
    different.extend(way for way, row in reloads.items() if row["difference"] != 0 and way != UNTRAINED)
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
