"""Trains one run in a process of its own, to be signalled; started by `test_signals_in_a_run.py`.

python signalled.py RUN_DIR POINT
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import keras

import lightkeras as lk
from lightkeras.testing import TwoMoons


class Waits(keras.callbacks.Callback):
    """Prints `ready` at one point, and waits for a line of standard input; twice.

    Args:
        point: `"step"`, after step 13, in the second epoch; or `"validation"`, inside the validation of the second
            epoch. With any other name it never waits.
    """

    def __init__(self, point: str) -> None:
        super().__init__()
        self._point = (point,)
        self.steps = self.batches = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.steps += 1
        if self.steps == 13:
            self._wait("step")

    def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.batches += 1
        if self.batches == 6:  # of 4 each
            self._wait("validation")

    def _wait(self, point: str) -> None:
        if self._point == (point,):
            for _ in range(2):
                print("ready", flush=True)
                sys.stdin.readline()


class PrintsReady(keras.callbacks.Callback):
    """Prints `ready` when the second epoch begins, and does not wait."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == 1:
            print("ready", flush=True)


def runner(run_dir: Path, point: str, **settings: Any) -> lk.Runner:
    callbacks = [PrintsReady()] if point == "anywhere" else [Waits(point)]
    return lk.Runner(
        **{"run_dir": run_dir, "max_epochs": 4, "patience": None, "progress": False, "callbacks": callbacks} | settings
    )


if __name__ == "__main__":
    # A shell lets its background jobs ignore SIGINT, which the tests may run in.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    settings = {"max_epochs": 10**6} if sys.argv[2] == "anywhere" else {}
    runner(Path(sys.argv[1]), sys.argv[2], **settings).fit(TwoMoons(), resume=True)
    print("ended", flush=True)
