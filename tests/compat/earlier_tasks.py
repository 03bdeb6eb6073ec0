"""The tasks of the run and the search in `files/`, which `make_fixtures.py` made."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import layers, ops

import lightkeras as lk

GOOD, BAD = ["fine", "lovely", "warm", "bright"], ["dull", "cold", "slow", "weak"]
OTHER = ["a", "the", "film", "story", "with", "and", "scene", "cast", "ending", "of"]
POISONED = 17  # index of the training sentence whose loss is not finite
TYPED = ["a lovely story with a bright ending", "dull and slow", "the cast of the film", ""]


def sentences(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Makes sentences that say something good or bad.

    Args:
        count: Number of sentences.
        seed: Seed of their words.

    Returns:
        Texts, `[count]`; labels, int32 `[count]`, 1 for good; weights, float32 `[count]`, all 1.
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype="int32") % 2
    texts = []
    for label in labels:
        words = [*rng.choice(OTHER, 5), *rng.choice(GOOD if label else BAD, 2)]
        texts.append(" ".join(rng.permutation(words)[rng.integers(0, 2) :]))
    return np.array(texts, dtype=object), labels, np.ones(count, "float32")


class Sentences(lk.data.ArrayData):
    """Sentences in memory; the weight of one training sentence makes the loss overflow."""

    def __init__(self, batch_size: int) -> None:
        train = sentences(96, seed=0)
        train[2][POISONED] = 3e38
        super().__init__(train, sentences(32, seed=1), sentences(40, seed=2), batch_size=batch_size)

    def predict(self, inputs: Any) -> Any:
        return lk.data.as_feed((np.array(inputs, dtype=object),), 8)


class Counting(keras.callbacks.Callback):
    """Counts batches and keeps the losses of epochs: state that a resume must restore."""

    def __init__(self) -> None:
        super().__init__()
        self.batches, self.losses = 0, []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.batches += 1

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.losses.append(logs["loss"])

    def on_train_end(self, logs: Any = None) -> None:
        print(f"counted {self.batches} batches and {len(self.losses)} epochs")


class Judgement(lk.Task):
    """Whether a sentence says something good; with an encoder, random numbers, and callbacks that have state."""

    @dataclasses.dataclass(frozen=True)
    class HParams:
        """Hyperparameters.

        Args:
            embedding: Width of a word's vector.
            dropout: Share of a sentence's vector that is dropped while training.
            learning_rate: Learning rate of LazyAdam.
            batch_size: Sentences per batch.
        """

        embedding: int = lk.Int(4, low=2, high=8)
        dropout: float = lk.Float(0.2, low=0.0, high=0.5)
        learning_rate: float = lk.Float(0.02, low=1e-3, high=1e-1, log=True)
        batch_size: int = 8

    def build_data(self) -> Sentences:
        return Sentences(self.hp.batch_size)

    def build_encoder(self) -> lk.TextVectorizer:
        return lk.TextVectorizer(max_tokens=24, length=6, keep="last")

    def build_model(self) -> keras.Model:
        words = self.encoder.inputs()
        x = layers.GlobalAveragePooling1D()(layers.Embedding(24, self.hp.embedding)(words))
        x = layers.Dropout(self.hp.dropout)(layers.BatchNormalization()(x))
        return keras.Model(words, layers.Dense(1)(x))

    def build_optimizer(self) -> keras.optimizers.Optimizer:
        return lk.optimizers.LazyAdam(self.hp.learning_rate)

    def build_callbacks(self) -> list[keras.callbacks.Callback]:
        return [
            keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=1, min_delta=0.2),
            keras.callbacks.EarlyStopping("val_loss", patience=9, restore_best_weights=True),
            Counting(),
        ]

    def loss(self, batch: Any, training: bool) -> Any:
        words, label, weight = batch
        label = ops.cast(label, "float32")
        logit = ops.squeeze(self.model(words, training=training), -1)
        self.log("accuracy", ops.mean(ops.cast((logit > 0) == (label > 0.5), "float32")))
        return ops.mean(weight * weight * (ops.softplus(logit) - label * logit))

    def predict_step(self, batch: Any) -> dict[str, Any]:
        return {"positive": ops.sigmoid(ops.squeeze(self.model(batch[0], training=False), -1))}


SETTINGS: dict[str, Any] = {
    "max_epochs": 4,
    "patience": None,
    "skip_broken": 9,
    "pictures": False,
    "progress": False,
}
"""Settings of the run of `Judgement`: 4 epochs of 12 batches, one of them skipped in each epoch."""

CHECKPOINTS = lk.Checkpoints(every_steps=5)

KILLED_AT = 20
"""The step after which the run was killed, inside the second epoch. The last checkpoint is of step 15."""


class Moons(lk.testing.TwoMoons):
    """The task of the search."""


def search(run_dir: Any, **settings: Any) -> lk.Tuner:
    """Makes the search: four trials of one epoch each, in this process."""
    settings |= {"objective": "val/loss", "trials": 4, "seed": 5, "workers": 0, "fixed": {"batch_size": 16}}
    runner = lk.Runner(max_epochs=1, pictures=False, progress=False)
    return lk.Tuner(Moons, run_dir=run_dir, runner=runner, **settings)


if __name__ == "__main__":
    lk.cli(Judgement, **SETTINGS)
