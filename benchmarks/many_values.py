"""Many values, many steps with a callback, many outputs, many trials: what each of them costs.

    python benchmarks/many_values.py [--jobs values hook outputs trials] [--rounds 5] [--backend tensorflow]

Every side runs in its own process, in turn (see `rounds.py`).

    values    500 values logged by each step: seconds from the end of training to the return of `fit`, and MB of
              `report.html`
    hook      a callback with `on_train_batch_end`, which ignores its logs, or reads the loss or all of them:
              microseconds a step in the best of 5 epochs, against `fit` with the same callback
    outputs   a model of 100 outputs, each with a loss and a metric: seconds from the call of `fit` to the end of the
              first step, against Keras's `fit`
    trials    200 trials of a small model in one worker: private memory in MB that a trial adds, and seconds of one of
              the last 50 trials over one of the 50 after the first 10
"""

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import rounds

VALUES, OUTPUTS, TRIALS = 500, 100, 200
JOBS = {
    "values": ("seconds", "page"),
    "hook": tuple(f"{what} {side}" for what in ("ignores", "loss", "all") for side in ("ours", "fit")),
    "outputs": ("outputs ours", "outputs fit"),
    "trials": ("memory", "slower"),
}
LIMITS = {"seconds": 2.0, "page": 1.0, "memory": 0.1, "slower": 1.05}
RATIOS = {
    "hook": [(f"{what} ours", f"{what} fit", 1.0) for what in ("ignores", "loss", "all")],
    "outputs": [("outputs ours", "outputs fit", 1.2)],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", nargs="*", choices=JOBS, default=[*JOBS])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backend", default="tensorflow")
    parser.add_argument("--side", help="run one side in this process and print its figure")
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(figure(arguments.side)))
        return
    for job in arguments.jobs:
        found = rounds.interleave(__file__, dict.fromkeys(JOBS[job], arguments.backend), arguments.rounds)
        rounds.show(found, {"hook": "us", "outputs": "s"}.get(job, ""))
        wanted = {side: [statistics.median(found[side]), LIMITS[side]] for side in JOBS[job] if side in LIMITS}
        for one, other, limit in RATIOS.get(job, ()):
            wanted[f"{one} / {other}"] = [rounds.ratio(found, one, other), limit]
        for name, (value, limit) in wanted.items():
            print(f"{name}: {value:.2f}, wanted at most {limit:.2f}{'' if value <= limit else '   MISSED'}", flush=True)
        rounds.keep(f"many_values_{job}_{arguments.backend}", found, wanted)


def figure(side: str) -> float:
    if side in ("seconds", "page"):
        return values(side)
    if side in ("memory", "slower"):
        return trials(side)
    what, whose = side.split()
    return outputs(whose) if what == "outputs" else hook(what, whose)


def values(side: str) -> float:
    import lightkeras as lk

    import keras
    import numpy as np

    class Many(lk.Task):
        def build_model(self):
            return keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])

        def loss(self, batch, training):
            x, y = batch
            error = self.model(x, training=training) - y
            for number in range(VALUES - 2):
                self.log(f"value_{number}", keras.ops.mean(error) * (number + 1))
            return keras.ops.mean(error**2)

    class End(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            self.at = time.perf_counter()

    rng = np.random.default_rng(0)
    x, y = rng.random((1280, 8), dtype="float32"), rng.random((1280, 1), dtype="float32")
    end = End()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        lk.Runner(max_epochs=3, run_dir=run, callbacks=[end], progress=False).fit(Many(), (x, y), (x[:320], y[:320]))
        seconds = time.perf_counter() - end.at
        return seconds if side == "seconds" else (run / "report.html").stat().st_size / 1e6


def hook(what: str, whose: str) -> float:
    import lightkeras as lk

    import keras
    import numpy as np

    class Batches(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.last = None if what == "ignores" else logs["loss"] if what == "loss" else dict(logs)

    rng = np.random.default_rng(0)
    x, y = rng.random((64_000, 8), dtype="float32"), rng.integers(0, 2, 64_000).astype("int32")
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(2)])
    compiled = {"loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "metrics": ["accuracy"]}
    clock = rounds.epoch_clock()
    callbacks = [Batches(), clock]
    if whose == "ours":
        task = lk.SupervisedTask(model, optimizer="adam", **compiled)
        with tempfile.TemporaryDirectory() as folder:
            runner = lk.Runner(max_epochs=5, run_dir=Path(folder) / "run", callbacks=callbacks, progress=False)
            runner.fit(task, (x, y))
    else:
        model.compile(optimizer="adam", **compiled)
        model.fit(x, y, batch_size=32, epochs=5, callbacks=callbacks, verbose=0)
    return 1e6 * min(clock.seconds()) / 2000


def outputs(whose: str) -> float:
    import lightkeras as lk

    import keras
    import numpy as np

    class First(keras.callbacks.Callback):
        at = None

        def on_train_batch_end(self, batch, logs=None):
            self.at = self.at or time.perf_counter()

    names = [f"out_{number}" for number in range(OUTPUTS)]
    inputs = keras.Input((8,))
    hidden = keras.layers.Dense(32, "relu")(inputs)
    model = keras.Model(inputs, {name: keras.layers.Dense(1, name=name)(hidden) for name in names})
    rng = np.random.default_rng(0)
    x = rng.random((640, 8), dtype="float32")
    y = {name: rng.random((640, 1), dtype="float32") for name in names}
    compiled = {"loss": dict.fromkeys(names, "mse"), "metrics": {name: ["mae"] for name in names}}
    first = First()
    began = time.perf_counter()
    if whose == "ours":
        task = lk.SupervisedTask(model, optimizer="adam", **compiled)
        with tempfile.TemporaryDirectory() as folder:
            settings = {"max_epochs": 1, "run_dir": Path(folder) / "run", "progress": False, "pictures": False}
            lk.Runner(callbacks=[first], **settings).fit(task, (x, y))
    else:
        model.compile(optimizer="adam", **compiled)
        model.fit(x, y, batch_size=32, epochs=1, callbacks=[first], verbose=0)
    return first.at - began


def trials(side: str) -> float:
    import lightkeras as lk

    sys.path.insert(0, str(Path(__file__).parent))
    import many_values_task

    with tempfile.TemporaryDirectory() as folder:
        os.environ["MEASURED"] = str(Path(folder) / "measured.txt")
        lk.Tuner(
            many_values_task.Measured,
            objective="val/accuracy",
            trials=TRIALS,
            runner=lk.Runner(max_epochs=2, progress=False, pictures=False),
            limits=lk.WorkerLimits(runs=2 * TRIALS),
            run_dir=Path(folder) / "search",
        ).search()
        lines = [line.split() for line in Path(os.environ["MEASURED"]).read_text().splitlines()]
    memory, times = [float(line[0]) for line in lines], [float(line[1]) for line in lines]
    took = [after - before for before, after in itertools.pairwise(times)]
    if side == "memory":
        return (memory[-1] - memory[10]) / (len(memory) - 11)
    return statistics.median(took[-50:]) / statistics.median(took[10:60])


if __name__ == "__main__":
    main()
