"""Big data: a table of a million rows, arrays of some gigabytes, n-grams of 250,000 texts.

    python benchmarks/big_data.py [--job table|arrays|ngrams] [--rounds 3] [--backend jax] [--gigabytes 3]

Every side runs in its own process, in turn (see `rounds.py`).

    table    seconds to read a CSV file of a million rows: 17 columns of numbers, 2 of categories and a target. Ours is
             `Table.prepare`, with no split held out; the other reads the file with pyarrow into NumPy arrays.
    arrays   seconds from the call of `fit` to the end of the first train step, on float32 arrays of 1,000 numbers an
             example; ours with lightkeras's defaults, and Keras's `fit`. Then megabytes by which the peak memory of the
             process grows beyond the arrays until then, as a share of theirs.
    ngrams   megabytes by which the peak memory of the process grows in `NgramVectorizer.fit`, of 250,000 texts of about
             230 words, drawn by Zipf's law, with two classes, and its seconds.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import rounds

ROWS, TEXTS, WORDS = 1_000_000, 250_000, 230
FILE = Path(tempfile.gettempdir()) / f"lightkeras_big_data_{ROWS}.csv"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", choices=("table", "arrays", "ngrams"), default="table")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--backend", default="jax")
    parser.add_argument("--gigabytes", type=float, default=3)
    parser.add_argument("--side", help="run one side in this process and print its figure")
    arguments = parser.parse_args()
    sides = {
        "table": {"ours": ours_table, "pyarrow": pyarrow_table},
        "arrays": {f"{who} {what}": part for who, what, part in ARRAYS},
        "ngrams": {"ours megabytes": lambda _: ngrams()[0], "ours seconds": lambda _: ngrams()[1]},
    }[arguments.job]
    if arguments.side:
        print(json.dumps(sides[arguments.side](arguments)))
        return
    if arguments.job == "table" and not FILE.exists():
        write_table(FILE)
    given = ("--job", arguments.job, "--gigabytes", arguments.gigabytes)
    found = rounds.interleave(__file__, dict.fromkeys(sides, arguments.backend), arguments.rounds, given)
    rounds.show(found, "")
    ratios = {}
    if arguments.job == "table":
        ratios["ours / pyarrow"] = [rounds.ratio(found, "ours", "pyarrow"), 2.0]
    if arguments.job == "arrays":
        ratios["ours / fit, seconds"] = [rounds.ratio(found, "ours seconds", "fit seconds"), 1.5]
    for name, (value, limit) in ratios.items():
        print(f"{name}: {value:.2f}, wanted at most {limit:.2f}{'' if value <= limit else '   MISSED'}")
    rounds.keep(f"big_data_{arguments.job}_{arguments.backend}", found, ratios)


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def write_table(path: Path) -> None:
    import numpy as np
    import pyarrow
    import pyarrow.csv

    rng = np.random.default_rng(0)
    columns = {f"x{number}": rng.normal(size=ROWS).round(6) for number in range(16)}
    columns["color"] = rng.choice(["red", "green", "blue"], ROWS)
    columns["town"] = rng.choice(["Bath", "York", "Oslo", "Lund"], ROWS)
    columns["count"] = rng.integers(0, 1000, ROWS)
    columns["y"] = rng.normal(size=ROWS)
    pyarrow.csv.write_csv(pyarrow.table(columns), path)


def ours_table(_) -> float:
    import lightkeras as lk

    import pyarrow.csv  # noqa: F401, its import is not counted on either side

    table = lk.data.Table(FILE, "y", test=0, validation=0)
    began = time.perf_counter()
    table.prepare(lk.data.Lookup())
    return time.perf_counter() - began


def pyarrow_table(_) -> float:
    import pyarrow.csv

    began = time.perf_counter()
    table = pyarrow.csv.read_csv(FILE)
    for column in table.columns:
        column.to_numpy()
    return time.perf_counter() - began


def first_step(gigabytes: float, ours: bool) -> tuple[float, float]:
    """Seconds to the end of the first step, and the growth of the peak memory until then as a share of the arrays."""
    import lightkeras as lk

    import keras
    import numpy as np

    class Stopped(Exception):  # noqa: N818
        pass

    class First(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            found[:] = time.perf_counter() - began, (peak_megabytes() - before) * 1e6 / (x.nbytes + y.nbytes)
            raise Stopped

    examples = int(gigabytes * 1e9 / 4000)
    x = np.ones((examples, 1000), "float32")
    y = np.arange(examples, dtype="int32") % 10
    x[:, 0] = y
    model = keras.Sequential([keras.Input((1000,)), keras.layers.Dense(64, "relu"), keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    lk.Runner, lk.SupervisedTask  # noqa: B018, imported before the clock starts, as Keras is
    found = []
    before = peak_megabytes()
    began = time.perf_counter()
    try:
        if ours:
            task = lk.SupervisedTask(model, loss=loss, optimizer="adam")
            with tempfile.TemporaryDirectory() as folder:
                runner = lk.Runner(max_epochs=1, run_dir=Path(folder) / "run", callbacks=[First()], progress=False)
                runner.fit(task, (x, y))
        else:
            model.compile("adam", loss)
            model.fit(x, y, callbacks=[First()], verbose=0)
    except Stopped:
        pass
    return tuple(found)


ARRAYS = [
    ("ours", "seconds", lambda given: first_step(given.gigabytes, True)[0]),
    ("fit", "seconds", lambda given: first_step(given.gigabytes, False)[0]),
    ("ours", "memory", lambda given: first_step(given.gigabytes, True)[1]),
    ("fit", "memory", lambda given: first_step(given.gigabytes, False)[1]),
]


def ngrams() -> tuple[float, float]:
    """Growth of the peak memory in megabytes, and seconds."""
    import lightkeras as lk

    import numpy as np

    rng = np.random.default_rng(0)
    words = np.array([f"w{number:x}" for number in range(200_000)], object)
    texts = np.empty(TEXTS, object)
    for number in range(TEXTS):
        found = np.minimum(rng.zipf(1.2, rng.integers(WORDS // 2, 3 * WORDS // 2)), len(words)) - 1
        texts[number] = " ".join(words[found]).encode()
    labels = np.arange(TEXTS, dtype="int32") % 2
    encoder = lk.NgramVectorizer(2, 20_000)
    before, began = peak_megabytes(), time.perf_counter()
    encoder.fit([(texts, labels)])
    return peak_megabytes() - before, time.perf_counter() - began


if __name__ == "__main__":
    main()
