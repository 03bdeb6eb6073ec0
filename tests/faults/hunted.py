"""Tasks for searches whose processes die, hang and eat memory; importable by those processes."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
from pathlib import Path

import keras
import numpy as np

import lightkeras as lk
from lightkeras.testing import TwoMoons


class Moons(TwoMoons):
    """Two moons with a hyperparameter that depends on another one, and few values for a grid."""

    @dataclasses.dataclass(frozen=True)
    class HParams:
        """Hyperparameters."""

        kind: str = lk.Choice("wide", ["wide", "deep"])
        hidden_units: int = lk.Int(8, low=4, high=12, step=4)
        depth: int = lk.Int(1, low=1, high=2, when={"kind": "deep"})
        learning_rate: float = 1e-2
        batch_size: int = 80


class Many(TwoMoons):
    """More trials than a table has rows on a screen."""

    @dataclasses.dataclass(frozen=True)
    class HParams:
        """Hyperparameters."""

        kind: str = lk.Choice("wide", ["wide", "deep"])
        hidden_units: int = lk.Int(8, low=4, high=12, step=4)
        depth: int = lk.Int(1, low=1, high=2, when={"kind": "deep"})
        learning_rate: float = lk.Float(1e-2, low=1e-3, high=1e-1, log=True)
        batch_size: int = 160


class Once(keras.callbacks.Callback):
    """Fails after the second epoch: once in a search, or in each attempt.

    Args:
        fate: Kind of the failure, one of `Hunted.HParams.fate`.
    """

    def __init__(self, fate: str) -> None:
        super().__init__()
        self.fate = fate

    def on_epoch_end(self, epoch, logs=None):
        mark = Path(os.environ["LIGHTKERAS_HUNTED"]) / self.fate
        if epoch != 1 or (mark.exists() and "once" in self.fate):
            return
        mark.touch()
        if self.fate.startswith("dies"):
            print("the last words")
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.fate == "hangs once":
            threading.Event().wait()
        elif self.fate == "eats":
            eaten = [np.ones(2**24) for _ in range(24)]  # 3.2 GB, and no more until it is noticed
            threading.Event().wait()
            assert eaten


class Hunted(TwoMoons):
    """Fails as its hyperparameter says."""

    @dataclasses.dataclass(frozen=True)
    class HParams:
        """Hyperparameters."""

        fate: str = lk.Choice("well", ["well", "dies once", "hangs once", "eats", "raises"])
        hidden_units: int = lk.Int(4, low=4, high=8, step=4)
        learning_rate: float = 1e-2
        batch_size: int = 160

    def build_model(self):
        if self.hp.fate == "raises":
            raise RuntimeError("no such model, of this name")
        return super().build_model()

    def build_callbacks(self):
        return [Once(self.hp.fate)]


class Checked(TwoMoons):
    """Its worker is killed where the task is checked before the first trial, `LIGHTKERAS_KILLS` times."""

    @dataclasses.dataclass(frozen=True)
    class HParams:
        """Hyperparameters."""

        hidden_units: int = lk.Int(4, low=4, high=8, step=4)
        learning_rate: float = 1e-2
        batch_size: int = 160

    def build_model(self):
        folder = Path(os.environ["LIGHTKERAS_HUNTED"])
        killed = len(list(folder.glob("*.killed")))
        if killed < int(os.environ["LIGHTKERAS_KILLS"]):
            (folder / f"{killed}.killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().build_model()


class Waiting(TwoMoons):
    """Waits in its second epoch until the file `continue` exists, so that a test kills it at a known point."""

    @dataclasses.dataclass(frozen=True)
    class HParams:
        """Hyperparameters."""

        hidden_units: int = lk.Int(4, low=4, high=32, step=4)
        learning_rate: float = 1e-2
        batch_size: int = 160

    def build_callbacks(self):
        folder = Path(os.environ["LIGHTKERAS_HUNTED"])

        def wait(epoch, logs=None):
            (folder / f"{os.getpid()}.here").touch()
            while epoch == 1 and not (folder / "continue").exists():
                threading.Event().wait(0.01)

        return [keras.callbacks.LambdaCallback(on_epoch_begin=wait)]
