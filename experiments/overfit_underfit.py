"""Overfitting and underfitting: seven models of one task, of different sizes and regularization.

    python experiments/overfit_underfit.py               # all seven runs, one figure, one table
    python experiments/overfit_underfit.py fit --hp.size large --hp.l2 1e-3       # a single run
    python experiments/overfit_underfit.py test --run_dir runs/overfit_underfit/.../large
    python experiments/overfit_underfit.py --help

A review is a vector of zeros and ones over the 10,000 words that occur in most training reviews, as in the classic
tutorial. Networks of four sizes learn its sentiment; the largest also with weight decay (L2), with dropout, and with
both.

A run overfits, by the rule of this file, if the validation loss rose by more than 5 % above its minimum while the train
loss fell. The large network and its regularized variants are compared by their losses after the same number of epochs:
their minima, which are known only afterwards, are close (0.2856, and 0.2859 for the best variant). After "Overfit and
underfit", https://www.tensorflow.org/tutorials/keras/overfit_and_underfit
"""

from __future__ import annotations

import dataclasses

import lightkeras as lk

import keras
import numpy as np
from keras import layers, ops
from rich.console import Console
from rich.table import Table

RISE = 1.05  # ratio of the last validation loss to the minimum, above which a run overfits
SIZES = {"tiny": (4,), "small": (16, 16), "medium": (64, 64), "large": (512, 512)}
RUNS = {
    "tiny": {"size": "tiny"},
    "small": {"size": "small"},
    "medium": {"size": "medium"},
    "large": {"size": "large"},
    "large_l2": {"size": "large", "l2": 1e-3},
    "large_dropout": {"size": "large", "dropout": 0.5},
    "large_both": {"size": "large", "l2": 1e-3, "dropout": 0.5},
}


class OverfitUnderfit(lk.Task):
    """Sentiment of a movie review, from the bag of its words."""

    @dataclasses.dataclass(frozen=True)
    class HParams:
        """Hyperparameters.

        Args:
            size: Hidden layers: tiny (4 units), small (16, 16), medium (64, 64) or large (512, 512).
            l2: Weight decay of all layers but the last: factor of the sum of their squared weights in the loss.
            dropout: Share of each hidden layer that is dropped while training.
            vocabulary: Number of words in the vector.
            learning_rate: Learning rate of Adam.
            batch_size: Reviews per batch.
        """

        size: str = lk.Choice("small", list(SIZES))
        l2: float = lk.Float(0.0, low=0.0, high=1e-2)
        dropout: float = lk.Float(0.0, low=0.0, high=0.7)
        vocabulary: int = lk.Int(10_000, low=1000, high=20_000, log=True)
        learning_rate: float = lk.Float(1e-3, low=1e-4, high=1e-2, log=True)
        batch_size: int = 512

    def build_data(self) -> lk.DataModule:
        return lk.data.ImdbReviews(batch_size=self.hp.batch_size)

    def build_encoder(self) -> lk.Encoder:
        return lk.NgramVectorizer(1, self.hp.vocabulary, select="frequency", weights="binary", normalize=False)

    def build_model(self) -> keras.Model:
        words = self.encoder.inputs()
        decay = keras.regularizers.L2(self.hp.l2) if self.hp.l2 else None
        first, *others = SIZES[self.hp.size]
        x = layers.Activation("relu")(self.encoder.embed(words, first, regularizer=decay))
        x = layers.Dropout(self.hp.dropout)(x)
        for units in others:
            x = layers.Dense(units, activation="relu", kernel_regularizer=decay)(x)
            x = layers.Dropout(self.hp.dropout)(x)
        return keras.Model(words, layers.Dense(1)(x))

    def build_optimizer(self) -> keras.optimizers.Optimizer:
        return keras.optimizers.Adam(self.hp.learning_rate)

    def loss(self, batch, training):
        words, label = batch
        label = ops.cast(label, "float32")
        logit = ops.squeeze(self.model(words, training=training), -1)
        self.log("accuracy", ops.mean(ops.cast((logit > 0) == (label > 0.5), "float32")))
        loss = ops.mean(ops.softplus(logit) - label * logit)  # cross entropy of a logit
        self.log("loss", loss)  # without weight decay, so that runs can be compared
        return loss

    def train_step(self, batch):
        self.minimize(lambda: self.loss(batch, training=True) + sum(self.model.losses))

    def evaluate_step(self, batch):
        self.loss(batch, training=False)

    def predict_step(self, batch):
        return {"positive": ops.sigmoid(ops.squeeze(self.model(batch[0], training=False), -1))}


def judged(history):
    """Returns the minimum and the last validation loss of a run, and whether it overfits."""
    train, validation = np.array(history["train/loss"]), np.array(history["val/loss"])
    best = int(validation.argmin())
    rise = float(validation[-1] / validation[best] - 1)
    overfits = bool(rise > RISE - 1 and train[-1] < train[best])
    losses = {"val_loss": float(validation[best]), "last_val_loss": float(validation[-1])}
    return {"best_epoch": best + 1, **losses, "rise": rise, "overfits": overfits}


def compare_sizes(task, runner):
    """Fits all seven models for the same number of epochs, and compares them."""
    histories = {}
    for name, changes in RUNS.items():
        one = type(task)(dataclasses.replace(task.hp, **changes), task.lookup)
        histories[name] = runner_of(runner, name).fit(one, resume=True).history
    found = {name: judged(history) for name, history in histories.items()}
    table = Table("run", "best epoch", "least", "last", "rise", "verdict", title="loss on validation data")
    for name, row in found.items():
        verdict = "overfits" if row["overfits"] else "does not overfit"
        losses = [f"{row[loss]:.4f}" for loss in ("val_loss", "last_val_loss")]
        table.add_row(name, str(row["best_epoch"]), *losses, f"{row['rise']:.0%}", verdict)
    Console().print(table)
    lk.plots.save(lk.plots.overlay(histories), runner.run_dir / "figures" / "overlay.png")
    plain, regularized = (found[name]["last_val_loss"] for name in ("large", "large_both"))
    return {"comparison": found, "large": plain, "large_regularized": regularized}


def runner_of(runner, name):
    """Returns the runner with a run directory below its own."""
    return dataclasses.replace(runner, run_dir=runner.run_dir / name)


if __name__ == "__main__":
    lk.cli(OverfitUnderfit, compare_sizes, max_epochs=20, patience=None)
