"""A run that takes a fraction of a second and has a file of every kind in its checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

import lightkeras as lk
from lightkeras.runs.results import FitResult

STEPS = 4  # of an epoch
EPOCHS = 3
FILES = ("variables.safetensors", "state.json", "feed.bin", "callbacks.safetensors", "manifest.json")


class Wave(lk.Task):
    """Regression of a sine; with dropout, so that the run has a random state."""

    def build_model(self) -> keras.Model:
        return keras.Sequential([layers.Input((1,)), layers.Dense(8, "tanh"), layers.Dropout(0.2), layers.Dense(1)])

    def build_optimizer(self) -> keras.optimizers.Optimizer:
        return keras.optimizers.Adam(0.02)

    def loss(self, batch: Any, training: bool) -> Any:
        x, y = batch
        return ops.mean(ops.square(self.model(x, training=training) - y))


def callbacks() -> list[keras.callbacks.Callback]:
    """The callbacks of the run; their state has arrays."""
    return [keras.callbacks.EarlyStopping("val_loss", patience=9, restore_best_weights=True)]


def fit(run_dir: Path, *, resume: bool | Path = False, **settings: Any) -> FitResult:
    """Begins or resumes the run; saves after every second step and every epoch.

    Args:
        run_dir: The run directory.
        resume: As in `Runner.fit`.
        settings: Settings of the runner in place of this run's.
    """
    keras.utils.set_random_seed(1)  # the shuffling of `tf.data` goes by it, too
    x = np.linspace(-3, 3, 8 * STEPS, dtype="float32").reshape(-1, 1)
    train = tf.data.Dataset.from_tensor_slices((x, np.sin(x))).shuffle(32, seed=3).batch(8)  # has a state: feed.bin
    given: dict[str, Any] = {
        "max_epochs": EPOCHS,
        "patience": None,
        "run_dir": run_dir,
        "checkpoints": lk.Checkpoints(every_steps=2, every_epochs=1),
        "callbacks": callbacks(),
        "progress": False,
        "preflight": False,
    }
    return lk.Runner(**given | settings).fit(Wave(), train, (x[::2], np.sin(x[::2])), resume=resume)
