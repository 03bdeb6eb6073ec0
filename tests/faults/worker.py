"""Trains one run in a process of its own, to be killed; started by `harness.py`.

    python worker.py TASK RUN_DIR [--kill POINT:CALL] [--ready FILE]

An attempt begins the run or resumes it. With `--kill rename:3` the process kills itself, by SIGKILL, at the third call
of that point; FILE is made when the first steps begin.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hunted
import keras
import numpy as np
import tensorflow as tf
from keras import layers

import lightkeras as lk
from lightkeras.data.lookup import Lookup
from lightkeras.engine import tensorflow as engine
from lightkeras.runs import checkpoint
from lightkeras.runs.loggers import csv, tensorboard
from lightkeras.search import coordinator
from lightkeras.search.pruning import Pruning
from lightkeras.system import files
from lightkeras.training import checkpointer, fit, stepper

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


# ---------------------------------------------------------------------- tasks


def digits() -> tuple[Any, Any]:
    """MNIST's first images, or scikit-learn's digits without real data: `(x, y)` to train and to validate on."""
    folder = os.environ.get("LIGHTKERAS_DATA_DIR")
    if folder:
        with np.load(Path(folder) / "mnist.npz") as found:
            x, y = found["x_train"][:2400].reshape(-1, 784) / np.float32(255), found["y_train"][:2400]
    else:
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        x = x / 16
    x, y = x.astype("float32"), y.astype("int32")
    cut = len(x) * 4 // 5
    return (x[:cut], y[:cut]), (x[cut:], y[cut:])


def classifier(features: int) -> lk.Task:
    model = keras.Sequential(
        [
            keras.Input((features,)),
            layers.Dense(32, "relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.3),
            layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return lk.SupervisedTask(model, loss=loss, optimizer=keras.optimizers.Adam(5e-3), metrics=["accuracy"])


def mnist() -> tuple[lk.Task, dict[str, Any]]:
    train, validation = digits()
    keras.utils.set_random_seed(1)
    return classifier(train[0].shape[1]), {"train": train, "validation": validation}


def devices() -> tuple[lk.Task, dict[str, Any]]:
    """The digits on two devices of a CPU."""
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    return mnist()


def stream() -> tuple[lk.Task, dict[str, Any]]:
    """The digits from a shuffled `tf.data` dataset: the iterator's state is part of a checkpoint."""
    train, validation = digits()
    keras.utils.set_random_seed(1)
    feed = tf.data.Dataset.from_tensor_slices(train).shuffle(300, seed=4).batch(32)
    return classifier(train[0].shape[1]), {"train": feed, "validation": validation}


def generator() -> tuple[lk.Task, dict[str, Any]]:
    """The digits from a generator that shuffles with NumPy's global state; a resume reads it from its start."""
    (x, y), validation = digits()
    keras.utils.set_random_seed(1)

    def batches() -> Iterator[Any]:
        order = np.random.permutation(len(x))
        for first in range(0, len(x), 32):
            yield x[order[first : first + 32]], y[order[first : first + 32]]

    return classifier(x.shape[1]), {"train": batches, "validation": validation}


def imdb() -> tuple[lk.Task, dict[str, Any]]:
    spec = importlib.util.spec_from_file_location("imdb_hub", EXPERIMENTS / "imdb_hub.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["imdb_hub"] = module
    spec.loader.exec_module(module)
    task = module.ImdbHub
    return task(task.HParams(batch_size=64), Lookup("sample")), {}


class Columns(lk.Task):
    """A table with missing values, whose encoder learns from the train split."""

    def build_data(self) -> lk.DataModule:
        random = np.random.default_rng(3)
        x, town = random.normal(size=600), random.choice(["Bath", "York", ""], 600)
        kind = np.where(x + (town == "Bath") > 0.3, "house", "flat")
        x[::7] = np.nan
        return lk.data.Table({"x": x, "town": town, "kind": kind}, "kind", classes=True, incomplete="keep")

    def build_encoder(self) -> lk.Encoder:
        return lk.TableEncoder()

    def build_model(self) -> keras.Model:
        inputs = self.encoder.inputs()
        x = layers.Dropout(0.3)(layers.Dense(16, "relu")(inputs["numbers"]))
        return keras.Model(inputs, layers.Dense(2)(x))

    def loss(self, batch: Any, training: bool) -> Any:
        columns, kind = batch
        logits = self.model(columns, training=training)
        return keras.ops.mean(keras.losses.sparse_categorical_crossentropy(kind, logits, from_logits=True))


def table() -> tuple[lk.Task, dict[str, Any]]:
    return Columns(), {}


TASKS = {"mnist": mnist, "devices": devices, "stream": stream, "generator": generator, "imdb": imdb, "table": table}


SEARCHES = tuple(f"search-{kind}" for kind in ("random", "bayesian", "hyperband", "grid"))


def search(kind: str, run_dir: Path) -> None:
    """A search of a few tiny runs in this process, each saved after every second step."""
    checkpoints = lk.Checkpoints(every_steps=2, every_epochs=1, keep=1)
    runner = lk.Runner(max_epochs=3, checkpoints=checkpoints, progress=False, pictures=False, preflight=False)
    lk.Tuner(
        hunted.Moons,
        objective="val/accuracy",
        oracle=kind,
        trials=None if kind == "hyperband" else 5,
        pruning=Pruning("halving" if kind == "random" else None),
        workers=0,
        runner=runner,
        run_dir=run_dir,
    ).search(resume=True)


def train(name: str, run_dir: Path) -> None:
    if name in SEARCHES:
        search(name.removeprefix("search-"), run_dir)
        return
    task, data = TASKS[name]()
    runner = lk.Runner(
        max_epochs=7,
        patience=2,
        monitor="val/loss",
        run_dir=run_dir,
        checkpoints=lk.Checkpoints(every_steps=7, every_epochs=1, keep=2),
        callbacks=[
            keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.3, patience=1),
            keras.callbacks.EarlyStopping("loss", patience=1, min_delta=0.02),
        ],
        progress=False,
        devices=2 if name == "devices" else None,
    )
    runner.fit(task, **data, resume=True)


# ---------------------------------------------------------------------- points where a process kills itself


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(function: Callable[..., Any]) -> Callable[..., Any]:
    def dies(*arguments: Any, **named: Any) -> Any:
        die()

    return dies


def after(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def dies(*arguments: Any, **named: Any) -> Any:
        function(*arguments, **named)
        die()

    return dies


def half_written(function: Callable[..., Any]) -> Callable[..., Any]:
    def dies(path: Path, *parts: bytes | memoryview) -> None:
        content = b"".join(parts)
        path.write_bytes(content[: len(content) // 2])
        die()

    return dies


def renamed(function: Callable[..., Any]) -> Callable[..., Any]:
    def dies(source: Path, target: Path) -> None:
        os.replace(source, target)
        die()

    return dies


def half_removed(function: Callable[..., Any]) -> Callable[..., Any]:
    def dies(path: str | Path, *arguments: Any, **named: Any) -> None:
        for file in sorted(Path(path).glob("*"))[:1]:
            file.unlink()
        die()

    return dies


# Point: owner and name of the function to replace, and how.
POINTS: dict[str, tuple[Any, str, Callable[[Callable[..., Any]], Callable[..., Any]]]] = {
    "write": (files, "write_synced", half_written),  # in the middle of a file of a checkpoint
    "rename": (files, "move_synced", before),
    "fsync": (files, "move_synced", renamed),  # between the rename and the fsync of the folder
    "pointed": (checkpoint, "point", after),  # `best` moved and `last` not yet
    "prune": (shutil, "rmtree", half_removed),
    "pruned": (checkpoint, "prune", after),
    "step": (engine.TensorFlowProgram, "run", before),
    "validation": (stepper.Stepper, "_run", after),
    "epoch": (fit.Fit, "add_epoch", after),  # logged, and not saved
    "row": (csv.CsvLogger, "log_steps", after),
    "points": (tensorboard.TensorBoardLogger, "log_steps", after),
    "save": (checkpointer.Checkpointer, "_job", after),  # copied, and not written
    "resume": (fit.Fit, "begin", after),
    "decided": (coordinator.Coordinator, "_write", before),  # decided and not journaled
    "noted": (coordinator.Coordinator, "_write", after),  # journaled and not acted upon
}


def arm(point: str, call: int) -> None:
    """Makes the process kill itself at a call of a point, counted from 1."""
    owner, name, make = POINTS[point]
    function, calls = getattr(owner, name), 0

    @functools.wraps(function)
    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        return (make(function) if calls == call else function)(*arguments, **named)

    setattr(owner, name, counted)


def touch_when_training_begins(path: Path) -> None:
    function = fit.Fit.open_epoch

    @functools.wraps(function)
    def begins(fit: fit.Fit) -> Any:
        path.touch()
        return function(fit)

    fit.Fit.open_epoch = begins  # type: ignore[method-assign]


# ---------------------------------------------------------------------- one attempt


def attempt(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=[*TASKS, *SEARCHES])
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--kill")
    parser.add_argument("--ready", type=Path)
    given = parser.parse_args(arguments)
    if given.kill:
        point, call = given.kill.split(":")
        arm(point, int(call))
    if given.ready:
        touch_when_training_begins(given.ready)
    train(given.task, given.run_dir)


if __name__ == "__main__":
    attempt(sys.argv[1:])
