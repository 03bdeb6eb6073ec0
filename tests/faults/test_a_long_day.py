"""A day of training in a minute: by the clock that the run is given, each step takes two seconds."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

import lightkeras as lk
from lightkeras.runs import checkpoint
from lightkeras.training import saver, setup
from lightkeras.training.fit import Fit

SECONDS_PER_STEP, STEPS_PER_CALL, STEPS_PER_EPOCH = 2, 60, 360
HOUR = 60 * 60
STEPS_PER_SAVE = 10 * 60 // SECONDS_PER_STEP


class Clock:
    """Returns two seconds for each step that the fit has done."""

    fit: Fit | None = None

    def __call__(self) -> float:
        return 0.0 if self.fit is None else SECONDS_PER_STEP * self.fit.state.step


class Memory(keras.callbacks.Callback):
    """Resident memory after each epoch, in MB."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[float] = []

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        gc.collect()
        status = Path("/proc/self/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        self.sizes.append(int(found[1]) / 1000)


def train_points(run_dir: Path) -> Iterator[int]:
    """Steps of `train/loss`, in the order of the event file."""
    (path,) = run_dir.glob("events.out.tfevents.*")
    for event in EventFileLoader(str(path)).Load():
        yield from (event.step for value in event.summary.value if value.tag == "train/loss")


@pytest.mark.parametrize("hours", [1, pytest.param(24, marks=pytest.mark.long)])
def test_a_day_of_training_has_exact_counts_and_flat_memory(
    hours: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock, saves, total = Clock(), [], hours * HOUR // SECONDS_PER_STEP

    def make(*parts: Any) -> Fit:
        clock.fit = Fit(*parts, clock=clock)
        return clock.fit

    write = saver.Saver.write

    def noted(saver: saver.Saver, job: saver.Job) -> None:
        saves.append(job.step)
        write(saver, job)

    monkeypatch.setattr(setup, "Fit", make)
    monkeypatch.setattr(saver.Saver, "write", noted)
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    x = np.random.default_rng(0).normal(size=(STEPS_PER_EPOCH, 2)).astype("float32")
    memory = Memory()
    runner = lk.Runner(
        max_epochs=10**6,
        max_time=hours * HOUR,
        patience=None,
        steps_per_call=STEPS_PER_CALL,
        checkpoints=lk.Checkpoints(every_minutes=10),
        run_dir=tmp_path / "run",
        callbacks=[memory],
        progress=False,
    )
    task = lk.SupervisedTask(model, loss="mse", optimizer=keras.optimizers.SGD(1e-4))
    result = runner.fit(task, (x, x.sum(axis=1, keepdims=True)), batch_size=1)

    assert (result.steps, result.epochs) == (total, total // STEPS_PER_EPOCH)
    assert result.stop_reason == f"max_time={hours * HOUR} s reached"
    assert saves == [*range(STEPS_PER_SAVE, total, STEPS_PER_SAVE), total]  # every ten minutes, and at the end
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[1:]
    steps = [int(row.split(",")[2]) for row in rows if row.startswith("step,")]
    assert steps == list(range(1, total + 1))
    assert [row.split(",")[1] for row in rows if row.startswith("epoch,")] == [
        str(epoch + 1) for epoch in range(total // STEPS_PER_EPOCH)
    ]
    assert list(train_points(tmp_path / "run")) == steps
    folder = tmp_path / "run" / "checkpoints"
    assert len(list(folder.glob("step-*"))) <= 4
    assert checkpoint.load(checkpoint.find(folder, "last")).state["step"] == total

    early, late = memory.sizes[len(memory.sizes) // 5], memory.sizes[-1]
    with capsys.disabled():
        print(f"\nresident memory after a fifth of the day {early:.1f} MB, at its end {late:.1f} MB")
    assert late - early < 20
