"""Searches: against stock keras-tuner, with one worker and two, and the overhead of a trial.

    LIGHTKERAS_DATA_DIR=../shared/data python benchmarks/tuner.py [--jobs stock workers overhead memory once best]

On the real reviews with the frozen `glove-6b-50d` from the data folder; hidden units x dropout x learning rate. Every
side runs in its own process, in turn, round by round; wall time counts from the start of a process.

    stock     30 trials of 10 epochs: `experiments/imdb_hub.py tune`, against keras-tuner's RandomSearch around the
              tutorial's own model, data and `fit` (tf_keras, which `hub.KerasLayer` needs). Both draw the same
              hyperparameters: keras-tuner's oracle with one seed. Cached features are deleted first.
    workers   8 trials of 10 epochs of the Fashion-MNIST tutorial's network on one worker and on two
    wide      the same with a network of wide layers, whose matrix products use all cores
    overhead  seconds of a trial beyond its training, for a small model
    memory    growth of the search's own process over 100 trials, in MB
    once      how often each split is read, and how often the encoder runs over one, in 30 trials
    best      validation accuracy of the best of 30 trials, mean of 3 seeds, against the default hyperparameters
"""

import argparse
import contextlib
import dataclasses
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import rounds

ROOT = Path(__file__).parents[1]
SEED, LIMITS = 0, {"stock": 0.1, "workers": 1 / 1.6, "wide": 1.0, "overhead": 0.2, "memory": 50.0, "once": 1.0}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", nargs="*", choices=[*LIMITS, "best"], default=[*LIMITS, "best"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side is not None:
        SIDES[given.side](given.trials)
        return
    for job in given.jobs:
        {"stock": stock, "workers": workers, "wide": workers, "best": best}.get(job, figure)(job, given)


def stock(job, given):
    found = {"ours": [], "stock": []}
    for _ in range(given.rounds):
        found["ours"].append(timed("ours", given.trials))
        found["stock"].append(timed("stock", given.trials))
    show(job, found, "s", rounds.ratio(found, "ours", "stock"), "ours / stock")


def workers(job, given):
    found = {"two workers": [], "one worker": []}
    for _ in range(given.rounds):
        found["two workers"].append(timed(f"{job} two", 8))
        found["one worker"].append(timed(f"{job} one", 8))
    show(job, found, "s", rounds.ratio(found, "two workers", "one worker"), "two workers / one")


def figure(job, given):
    count = {"overhead": 20, "memory": 100, "once": given.trials}[job]
    repeats = given.rounds if job == "overhead" else 1
    found = {job: [float(last_line(run(job, count))) for _ in range(repeats)]}
    unit = {"overhead": "s", "memory": "MB", "once": "times"}[job]
    show(job, found, unit, statistics.median(found[job]), job)


def best(job, given):
    result = json.loads(last_line(run("best", given.trials)))
    found = {"best": result["best"], "default": result["default"]}
    rounds.show(found, "val/accuracy")
    gain = statistics.fmean(found["best"]) - statistics.fmean(found["default"])
    spread = max(statistics.stdev(values) for values in found.values())
    print(f"best: better by {gain:.4f}, the spread is {spread:.4f}{'' if gain > spread else '   MISSED'}")
    rounds.keep("tuner_best", found, {"gain": [gain, spread]})


def show(job, found, unit, value, name):
    rounds.show(found, unit)
    print(f"{job}: {name}: {value:.3f}, wanted at most {LIMITS[job]:.3f}{'' if value <= LIMITS[job] else '   MISSED'}")
    rounds.keep(f"tuner_{job}", found, {name: [value, LIMITS[job]]})


def run(side, trials, **more):
    command = [sys.executable, __file__, "--side", side, "--trials", str(trials)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **more}, check=False)
    if done.returncode:
        raise SystemExit(f"{side} ended with status {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-3000:]}")
    return done.stdout


def timed(side, trials):
    with tempfile.TemporaryDirectory() as cache:
        began = time.perf_counter()
        run(side, trials, LIGHTKERAS_CACHE_DIR=cache)
        return time.perf_counter() - began


def last_line(text):
    return text.strip().splitlines()[-1]


# ---------------------------------------------------------------------- sides, each in a process of its own


def imdb_task():
    """Returns the main experiment's task, as a class that workers import by the name of its file."""
    sys.path.insert(0, str(ROOT / "experiments"))
    import imdb_hub

    return imdb_hub.ImdbHub


FIXED = {"fine_tune": False, "module": "glove-6b-50d"}


@contextlib.contextmanager
def imdb_tuner(trials, **more):
    import lightkeras as lk

    with tempfile.TemporaryDirectory() as folder:
        runner = lk.Runner(max_epochs=10, patience=None, progress=False)
        yield lk.Tuner(
            imdb_task(),
            objective="val/accuracy",
            trials=trials,
            seed=SEED,
            fixed=FIXED,
            runner=runner,
            lookup=lk.Lookup("real"),
            run_dir=Path(folder) / "search",
            **more,
        )


def ours(trials):
    with imdb_tuner(trials) as tuner:
        print(len(tuner.search().trials))


def stock_search(trials):
    import keras_tuner
    import tensorflow as tf
    import tensorflow_datasets as tfds
    import tensorflow_hub as hub
    import tf_keras

    data = Path(os.environ["LIGHTKERAS_DATA_DIR"])

    class Tutorial(keras_tuner.RandomSearch):
        def run_trial(self, trial, *args, **kwargs):
            hp = trial.hyperparameters
            units = hp.Int("hidden_units", 8, 128, step=8)
            dropout, rate = hp.Float("dropout", 0.0, 0.5), hp.Float("learning_rate", 1e-3, 3e-2, sampling="log")
            train, validation = tfds.load(
                "imdb_reviews", split=("train[:60%]", "train[60%:]"), data_dir=data, as_supervised=True
            )
            handle = str(data / "hub" / "glove-6b-50d")
            model = tf_keras.Sequential(
                [
                    hub.KerasLayer(handle, input_shape=[], dtype=tf.string, trainable=False),
                    tf_keras.layers.Dropout(dropout),
                    tf_keras.layers.Dense(units, activation="relu"),
                    tf_keras.layers.Dense(1),
                ]
            )
            loss = tf_keras.losses.BinaryCrossentropy(from_logits=True)
            model.compile(optimizer=tf_keras.optimizers.Adam(rate), loss=loss, metrics=["accuracy"])
            batches, watched = train.shuffle(10_000).batch(512), validation.batch(512)
            history = model.fit(batches, epochs=10, validation_data=watched, verbose=0)
            return {"val_accuracy": max(history.history["val_accuracy"])}

    space = keras_tuner.HyperParameters()
    space.Int("hidden_units", 8, 128, step=8)
    space.Float("dropout", 0.0, 0.5)
    space.Float("learning_rate", 1e-3, 3e-2, sampling="log")
    with tempfile.TemporaryDirectory() as folder:
        tuner = Tutorial(
            hypermodel=None,
            objective=keras_tuner.Objective("val_accuracy", "max"),
            max_trials=trials,
            seed=random.Random(SEED).randrange(1, 2**31),  # as lightkeras gives its own seed to keras-tuner
            hyperparameters=space,
            directory=folder,
        )
        tuner.search(verbose=0)


def compute_bound(name, epochs, count):
    """Returns a side that runs trials of a task of `compute_bound_task.py` on `count` workers."""

    def side(trials):
        import lightkeras as lk

        import compute_bound_task

        with tempfile.TemporaryDirectory() as folder:
            runner = lk.Runner(max_epochs=epochs, patience=None, progress=False, pictures=False)
            lk.Tuner(
                getattr(compute_bound_task, name),
                objective="val/accuracy",
                trials=trials,
                workers=count,
                runner=runner,
                run_dir=Path(folder) / "search",
            ).search()

    return side


def overhead(trials):
    """Prints the seconds that a trial adds to a search, without training and validation; compilation is overhead."""
    import lightkeras as lk
    from lightkeras.testing import TwoMoons

    with tempfile.TemporaryDirectory() as folder:
        runner = lk.Runner(max_epochs=5, patience=None, progress=False, pictures=False, profile=True)
        ends = []
        tuner = lk.Tuner(
            TwoMoons,
            objective="val/accuracy",
            trials=trials,
            runner=runner,
            run_dir=Path(folder) / "search",
            on_trial=lambda trial: ends.append(time.perf_counter()),
        )
        result = tuner.search()
        profiles = [json.loads((trial.run_dir / "profile.json").read_text()) for trial in result.trials[1:]]
    steps = [p["parts"]["compute"]["seconds"] + p["parts"]["validation"]["seconds"] for p in profiles]
    print(statistics.median(end - start - step for start, end, step in zip(ends, ends[1:], steps, strict=False)))


def memory(trials):
    import lightkeras as lk
    from lightkeras.system import memory as measured
    from lightkeras.testing import TwoMoons

    held = []
    with tempfile.TemporaryDirectory() as folder:
        lk.Tuner(
            TwoMoons,
            objective="val/accuracy",
            trials=trials,
            runner=lk.Runner(max_epochs=1, progress=False, pictures=False),
            run_dir=Path(folder) / "search",
            on_trial=lambda trial: held.append(measured.resident_bytes()),
        ).search()
    print((held[-1] - held[0]) / 1e6)


def once(trials):
    """Prints the largest number of reads of a split, or of runs of the encoder over one, as the workers count them."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LIGHTKERAS_CACHE_DIR"] = folder
        os.environ["COUNTED"] = str(Path(folder) / "counted.txt")
        with imdb_tuner(trials) as tuner:
            tuner.search()
        lines = Path(os.environ["COUNTED"]).read_text().splitlines()
    counts = {line: lines.count(line) for line in lines}
    print(counts)
    print(max(counts.values()))


def best_of(trials):
    import lightkeras as lk

    with imdb_tuner(trials, seeds=3, top=1) as tuner:
        result = tuner.search()
        found = list(result.repeats[result.best.name])
        default = []
        for seed in (1, 2, 3):
            runner = dataclasses.replace(tuner.runner, seed=seed, monitor="val/accuracy")
            task = tuner.task(tuner.task.HParams(**FIXED), lk.Lookup("real"))
            fit = dataclasses.replace(runner, run_dir=result.run_dir / "default" / str(seed)).fit(task)
            default.append(fit.best.value)
    print(json.dumps({"best": found, "default": default}))


SIDES = {
    "ours": ours,
    "stock": stock_search,
    "workers one": compute_bound("Tutorial", 10, 1),
    "workers two": compute_bound("Tutorial", 10, 2),
    "wide one": compute_bound("Wide", 3, 1),
    "wide two": compute_bound("Wide", 3, 2),
    "overhead": overhead,
    "memory": memory,
    "once": once,
    "best": best_of,
}


def count():
    """Runs in workers, which import this file: records each read of a split and each run of the encoder over one."""
    from lightkeras.data import ImdbReviews
    from lightkeras.encoders import features

    def recorded(function, describe):
        def record(*arguments):
            with open(os.environ["COUNTED"], "a") as file:
                file.write(f"{describe(*arguments)}\n")
            return function(*arguments)

        return record

    ImdbReviews._read = recorded(ImdbReviews._read, lambda module, split: f"read {split}")
    features._blocks = recorded(features._blocks, lambda texts, encoder: f"encode {len(texts)} texts")


if os.environ.get("COUNTED"):
    count()

if __name__ == "__main__":
    main()
