"""Runs the sides of a comparison, each in its own process, in turn, round by round.

Other load on the machine then affects all sides alike: ratios are computed within a round, and their median counts.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def interleave(script, sides, rounds, arguments=(), paths=None):
    """Runs `script --side SIDE ARGUMENTS` for each side, `rounds` times; each prints its figure as its last line.

    Args:
        script: Path of the script.
        sides: `{side: Keras backend}`.
        rounds: How often.
        arguments: More arguments.
        paths: `{side: folder}` whose packages precede the installed ones, such as another Keras.

    Returns:
        `{side: [figure of each round]}`.
    """
    found = {side: [] for side in sides}
    for _ in range(rounds):
        for side, backend in sides.items():
            command = [sys.executable, script, "--side", side, *map(str, arguments)]
            environment = {**os.environ, "KERAS_BACKEND": backend}
            if folder := (paths or {}).get(side):
                environment["PYTHONPATH"] = os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")])
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
            if done.returncode:
                raise SystemExit(f"{side} ended with status {done.returncode}:\n{done.stderr[-3000:]}")
            found[side].append(json.loads(done.stdout.splitlines()[-1]))
    return found


def ratio(found, side, other):
    """Median of the rounds' ratios of one side's figure to another's."""
    return statistics.median(a / b for a, b in zip(found[side], found[other], strict=True))


def show(found, unit):
    for side, values in found.items():
        rounds = ", ".join(f"{value:.4g}" for value in values)
        print(f"{side:24} {statistics.median(values):9.4g} {unit}   rounds: {rounds}", flush=True)


def keep(name, found, ratios):
    """Writes figures and ratios to `results/NAME.json`, from which `draw.py` makes the picture."""
    RESULTS.mkdir(exist_ok=True)
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, {_card()}"
    record = {"machine": machine, "date": time.strftime("%Y-%m-%d"), "figures": found, "ratios": ratios}
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")


def _card():
    try:
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "no GPU"


def epoch_clock():
    """A callback that notes when each epoch begins, and when the last one has ended with all that belongs to it."""
    import keras

    class Clock(keras.callbacks.Callback):
        times: list[float] = []  # noqa: RUF012

        def on_epoch_begin(self, epoch, logs=None):
            self.times.append(time.perf_counter())

        def on_train_end(self, logs=None):
            self.times.append(time.perf_counter())

        def seconds(self):
            return [after - before for before, after in zip(self.times, self.times[1:], strict=False)]

    return Clock()


def fit_callbacks(folder):
    """What a user of `fit` adds to have what a run of lightkeras has."""
    import keras

    return [
        keras.callbacks.TensorBoard(folder / "tensorboard"),
        keras.callbacks.CSVLogger(folder / "metrics.csv"),
        keras.callbacks.ModelCheckpoint(folder / "last.keras"),
        keras.callbacks.EarlyStopping("loss", patience=3),
    ]
