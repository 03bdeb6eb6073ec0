"""Cost of checkpoints and of the watch over the variables, with the defaults.

    LIGHTKERAS_DATA_DIR=../shared/data python benchmarks/checkpoints.py [--rounds 5]

Two models on MNIST (random pixels without `mnist.npz`): 784-128-10, and 784-4096-4096-10 with 20 million parameters.
The small one is trained with the default checkpoints and with almost none, each in its own process, in turn, round by
round. Printed are the medians of the rounds' ratios of wall time and of processor time, and the shares of the time that
the loop waited, that the writing thread worked, and that checks and snapshots took. For the large one, the cost of a
checkpoint.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lightkeras.training.divergence import watchdog

MODELS = {"small": ((128,), 8), "large": ((4096, 4096), 1)}  # hidden units, epochs
SIDES = ("default", "none")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--measure", nargs=2, metavar=("MODEL", "SIDE"), help="one run in this process")
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(*arguments.measure)))
        return
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for _ in range(arguments.rounds):
        for side in SIDES:
            found[side].append(run("small", side))
    for kind in ("wall", "cpu"):
        ratios = [a[kind] / b[kind] for a, b in zip(found["default"], found["none"], strict=True)]
        rounds = ", ".join(f"{ratio:.3f}" for ratio in ratios)
        print(f"small: {kind} time with checkpoints / without: {statistics.median(ratios):.3f}   rounds: {rounds}")
    for name, label in {"held": "held up the loop", "written": "were written", "watched": "variables watched"}.items():
        shares = [one[name] / one["wall"] for one in found["default"]]
        print(f"small: {label}: {statistics.median(shares):.2%} of the run's time")
    large = run("large", "default")
    saves = large["saves"]
    print(f"large: a checkpoint held up the loop for {large['held'] / saves:.2f} s, writing it took", end=" ")
    print(f"{large['written'] / saves:.2f} s; variables watched: {large['watched'] / large['wall']:.2%} of the time")


def run(model: str, side: str) -> dict[str, float]:
    """One run in a process of its own."""
    command = [sys.executable, __file__, "--measure", model, side]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(model: str, side: str) -> dict[str, float]:
    """Trains once; seconds of wall and processor time from the first epoch on, and what was spent on what."""
    import lightkeras as lk
    from lightkeras.runs import checkpoint
    from lightkeras.training import checkpointer

    import keras

    spent = {"saves": 0.0, "held": 0.0, "written": 0.0, "watched": 0.0}

    def timed(owner, method, name, count=None):
        function = getattr(owner, method)

        def call(*given, **named):
            began = time.perf_counter()
            try:
                return function(*given, **named)
            finally:
                spent[name] += time.perf_counter() - began
                if count:
                    spent[count] += 1

        setattr(owner, method, call)

    timed(checkpointer.Checkpointer, "save", "held")
    timed(checkpoint, "save", "written", "saves")
    timed(watchdog.Watchdog, "watch", "watched")
    units, epochs = MODELS[model]
    x, y = pixels()
    net = keras.Sequential([keras.Input((784,)), *(keras.layers.Dense(n, "relu") for n in units)])
    net.add(keras.layers.Dense(10))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    keep = lk.Checkpoints() if side == "default" else lk.Checkpoints(every_epochs=10**6)
    times = []

    class Times(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            times.append((time.perf_counter(), time.process_time()))

    with tempfile.TemporaryDirectory() as folder:
        runner = lk.Runner(
            max_epochs=epochs + 1,
            patience=None,
            checkpoints=keep,
            run_dir=Path(folder) / "run",
            callbacks=[Times()],
            progress=False,
            limit_batches=lk.LimitBatches(train=None if model == "small" else 60),
        )
        runner.fit(lk.SupervisedTask(net, loss=loss), (x, y), batch_size=32 if model == "small" else 256)
        end = (time.perf_counter(), time.process_time())
    return {"wall": end[0] - times[0][0], "cpu": end[1] - times[0][1], **spent}


def pixels():
    """60,000 images as rows of 784, and their digits."""
    import numpy as np

    folder = os.environ.get("LIGHTKERAS_DATA_DIR")
    if folder and (Path(folder) / "mnist.npz").exists():
        with np.load(Path(folder) / "mnist.npz") as found:
            return found["x_train"].reshape(-1, 784).astype("float32") / 255, found["y_train"].astype("int32")
    rng = np.random.default_rng(0)
    return rng.random((60_000, 784), "float32"), rng.integers(0, 10, 60_000).astype("int32")


if __name__ == "__main__":
    main()
