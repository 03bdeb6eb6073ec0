"""Datasets whose batches are made by workers, in a file that a worker process can import."""

from __future__ import annotations

import os
import random
import threading
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np


class Rows(keras.utils.PyDataset):
    """Rows of a table in an order that is drawn at the end of each epoch; the first batches take the longest."""

    def __init__(self, batches: int = 6, rows: int = 4, fails_at: int | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        self.batches, self.rows, self.fails_at = batches, rows, fails_at
        self.rng, self.order = np.random.default_rng(3), np.arange(batches * rows)
        self.x = np.random.default_rng(1).normal(size=(batches * rows, 2)).astype("float32")
        self.slow = 0.0

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        time.sleep(self.slow * (self.batches - index))
        if index == self.fails_at:
            fail(index)
        chosen = self.order[self.rows * index : self.rows * (index + 1)]
        return self.x[chosen], (self.x[chosen, 0] > 0).astype("int64")

    def on_epoch_end(self) -> None:
        self.rng.shuffle(self.order)


def fail(index: int) -> None:
    raise KeyError(f"row {index}")


class OddError(Exception):
    """It can be pickled, but not loaded."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


class FailsOddly(Rows):
    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if index == 2:
            raise OddError(1, 2)
        return super().__getitem__(index)


class Endless(Rows):
    num_batches = None


class Random(Rows):
    """Rows with noise of the global generators."""

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        x, y = super().__getitem__(index)
        return x + np.float32(np.random.rand() + random.random()), y


class Processes(Rows):
    """The number of the process that made a batch, and of the signals that it got."""

    def __getitem__(self, index: int) -> np.ndarray:
        return np.full((2, 1), os.getpid(), np.int64)


class Dies(Rows):
    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if index == 3:
            os.kill(os.getpid(), 9)
        return super().__getitem__(index)


class Locked(Rows):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.lock = threading.Lock()


class Noted(Rows):
    """Writes the process of each worker to a folder, and takes long."""

    def __init__(self, folder: str, **settings: Any) -> None:
        super().__init__(batches=400, **settings)
        self.folder = Path(folder)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        (self.folder / str(os.getpid())).touch()
        time.sleep(0.05)
        return super().__getitem__(index)
