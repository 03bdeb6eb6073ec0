"""Trains one run in several processes; started by `ranked.py`.

    python ranks.py TASK RUN_DIR [--settings JSON] [--die RANK:POINT:CALL] [--touch FILE]

An attempt begins the run or resumes it. With `--die 1:step:3` the process with rank 1 kills itself, by SIGKILL, at the
third call of that point. FILE.RANK is made when the first steps begin.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

import lightkeras as lk
from lightkeras.runs import checkpoint
from lightkeras.system import files
from lightkeras.testing import TwoMoons, two_moons
from lightkeras.training import checkpointer, fit, stepper

RANK = int(os.environ.get("RANK", "0"))


class Noisy(TwoMoons):
    """With dropout, metrics, batch normalization and a smaller last batch, of 25 examples."""

    def build(self) -> None:
        super().build()
        self.mean, self.auc = keras.metrics.Mean("points"), keras.metrics.AUC(name="auc", from_logits=True)

    def build_data(self) -> lk.DataModule:
        return lk.data.ArrayData(two_moons(185), two_moons(51, seed=1), batch_size=40)

    def build_model(self) -> keras.Model:
        inside = [layers.Dense(8), layers.BatchNormalization(), layers.Activation("tanh"), layers.Dropout(0.3)]
        return keras.Sequential([keras.Input((2,)), *inside, layers.Dense(1)])

    def loss(self, batch: Any, training: bool) -> Any:
        points, label = batch
        self.mean.update_state(keras.ops.mean(points, -1))
        self.auc.update_state(label, keras.ops.squeeze(self.model(points, training=False), -1))
        return super().loss(batch, training)


class Hangs(TwoMoons):
    """Rank 1 stops for ever in the middle of the second epoch."""

    def build_callbacks(self) -> list[keras.callbacks.Callback]:
        def stop(epoch: int, logs: Any) -> None:
            if RANK == 1 and epoch == 1:
                os.kill(os.getpid(), signal.SIGSTOP)

        return [keras.callbacks.LambdaCallback(on_epoch_begin=stop)]


class Fails(TwoMoons):
    """A callback raises in rank 1."""

    def build_callbacks(self) -> list[keras.callbacks.Callback]:
        def fail(epoch: int, logs: Any) -> None:
            if RANK == 1 and epoch == 1:
                raise ValueError("no more paper")

        return [keras.callbacks.LambdaCallback(on_epoch_end=fail)]


class Drifts(TwoMoons):
    """A callback changes a weight of rank 1."""

    def build_callbacks(self) -> list[keras.callbacks.Callback]:
        def change(epoch: int, logs: Any) -> None:
            if RANK == 1 and epoch == 1:
                bias = self.model.layers[-1].bias
                bias.assign(bias + 1.0)

        return [keras.callbacks.LambdaCallback(on_epoch_end=change)]


class Waits(TwoMoons):
    """Trains until it is signalled, from rank 1."""

    def build_callbacks(self) -> list[keras.callbacks.Callback]:
        def send(epoch: int, logs: Any) -> None:
            if RANK == 1 and epoch == 3:
                os.kill(os.getpid(), signal.SIGTERM)

        return [keras.callbacks.LambdaCallback(on_epoch_begin=send)]


class Differs(TwoMoons):
    """Rank 1 has other hyperparameters."""

    def __init__(self, hp: Any = None, lookup: Any = None) -> None:
        super().__init__(TwoMoons.HParams(hidden_units=16 + 4 * RANK), lookup)


class NotFinite(TwoMoons):
    """One example of the second half of a batch has no logarithm, and ends the run."""

    def build_data(self) -> lk.DataModule:
        points, label = two_moons(320)
        weight = np.ones(320, "float32")
        weight[150] = -1.0
        return lk.data.ArrayData((points, label, weight), batch_size=32)

    def loss(self, batch: Any, training: bool) -> Any:
        points, label, weight = batch
        return super().loss((points, label), training) + 0 * keras.ops.mean(keras.ops.log(weight))


class Watched(NotFinite):
    """A callback looks at each step, so that a step begins before the loss of the one before it is checked."""

    def build_callbacks(self) -> list[keras.callbacks.Callback]:
        return [keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: logs["loss"])]


def clipped(**kwargs: Any) -> Any:
    """A classifier whose optimizer clips, accumulates and averages, with compiled metrics."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((2,)), layers.Dense(8, "tanh"), layers.Dense(2)])
    optimizer = keras.optimizers.Adam(
        0.01, global_clipnorm=0.1, gradient_accumulation_steps=2, use_ema=True, ema_momentum=0.9
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    task = lk.SupervisedTask(model, loss=loss, optimizer=optimizer, metrics=["accuracy"])
    return task


def batches() -> Iterator[Any]:
    """A stream, whose last batch has 30 examples."""
    x, y = two_moons(190)
    return ((x[start : start + 40], y[start : start + 40]) for start in range(0, 190, 40))


class Rows:
    """A data set of single examples, which counts those that it is asked for."""

    def __init__(self) -> None:
        self.arrays, self.read = two_moons(190), 0

    def __len__(self) -> int:
        return 190

    def __getitem__(self, index: int) -> Any:
        self.read += 1
        return tuple(array[index] for array in self.arrays)


def loader(rows: Rows) -> Any:
    import torch  # on JAX too

    return torch.utils.data.DataLoader(rows, 40, shuffle=True, generator=torch.Generator().manual_seed(3))


TASKS: dict[str, Any] = {
    **{kind.__name__: kind for kind in (TwoMoons, Noisy, Hangs, Fails, Drifts, Waits, Differs, NotFinite, Watched)},
    "clipped": clipped,
    "streamed": clipped,
    "loaded": clipped,
}
POINTS: dict[str, tuple[Any, str]] = {
    "write": (files, "write_synced"),
    "rename": (files, "move_synced"),
    "pointed": (checkpoint, "point"),
    "validation": (stepper.Stepper, "_run"),
    "step": (fit.Fit, "log_steps"),
    "epoch": (fit.Fit, "add_epoch"),
    "save": (checkpointer.Checkpointer, "_job"),
    "resume": (fit.Fit, "begin"),
}


def arm(point: str, call: int) -> None:
    """Makes the process kill itself at a call of a point, counted from 1."""
    owner, name = POINTS[point]
    function, calls = getattr(owner, name), 0

    @functools.wraps(function)
    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **named)

    setattr(owner, name, counted)


def touch_when_training_begins(path: Path) -> None:
    begin = fit.Fit.begin

    def touched(self: fit.Fit, resumed: Any) -> None:
        begin(self, resumed)
        path.with_name(f"{path.name}.{RANK}").touch()

    fit.Fit.begin = touched  # type: ignore[method-assign]


def train(name: str, run_dir: Path, settings: dict[str, Any]) -> None:
    run = {"max_epochs": 4, "patience": None, "pictures": False, "export": False} | settings
    if run.pop("saves_often", False):
        run["checkpoints"] = lk.Checkpoints(every_steps=3, every_epochs=1)
    data: tuple[Any, ...] = ()
    rows = Rows()
    if TASKS[name] is clipped:
        train = batches if name == "streamed" else loader(rows) if name == "loaded" else two_moons(190)
        data = (train, two_moons(51, seed=1))
    began = time.monotonic()
    result = lk.Runner(run_dir=run_dir, **run).fit(TASKS[name](), *data, resume=True)
    seconds = time.monotonic() - began
    print(json.dumps({"history": result.history, "steps": result.steps, "seconds": seconds, "read": rows.read}))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("task")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--settings", type=json.loads, default={})
    parser.add_argument("--die", default="")
    parser.add_argument("--touch", type=Path)
    given = parser.parse_args()
    rank, _, at = given.die.partition(":")
    if at and int(rank) == RANK:
        point, call = at.split(":")
        arm(point, int(call))
    if given.touch is not None:
        touch_when_training_begins(given.touch)
    for name in given.task.split(","):
        folder = given.run_dir / name if "," in given.task else given.run_dir
        train(name, folder, dict(given.settings))


if __name__ == "__main__":
    main()
