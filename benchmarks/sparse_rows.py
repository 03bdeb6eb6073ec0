"""Time per train step of fine-tuning a text module with a million rows: `LazyAdam` against Keras's Adam.

    python benchmarks/sparse_rows.py [--rounds 3] [--rows 1000000]

The script makes the module in a temporary folder with plain TensorFlow: it splits strings, looks up words in a table
with one row (50 floats) per word, sums the rows and divides by the root of their number. Texts have 230 words, the
average of IMDB's, drawn by Zipf's law; batches have 512 texts. The same task runs in lightkeras.Runner with all its
defaults: validation, per-step logs, checkpoints, early stopping, the watch over the variables. Each optimizer runs in
its own process, in turn, round by round; printed are the medians.

    step     the compiled calls of the train steps
    epoch    from the start of one epoch to the start of the next, per train step, with validation and logs; the best
             epoch of a run
    run      the whole fit, per train step: also reading the module, the first batch, the last checkpoint and
             model.keras
    watched  the share of the run in which variables were checked and copied for snapshots
    held     the share of the run in which the loop waited for checkpoints
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lightkeras.training.divergence import watchdog

SIDES = ("lazy", "adam")
WIDTH, WORDS, BATCH, STEPS, EPOCHS = 50, 230, 512, {"lazy": 40, "adam": 10}, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--measure", nargs=2, metavar=("SIDE", "FOLDER"), help="one side in this process")
    arguments = parser.parse_args()
    if arguments.measure:
        side, folder = arguments.measure
        print(json.dumps(measure(side, Path(folder), arguments.rows)))
        return
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        run("make", folder, arguments.rows)
        for _ in range(arguments.rounds):
            for side in SIDES:
                found[side].append(run(side, folder, arguments.rows))
                print(side, json.dumps(found[side][-1]), flush=True)
    for kind in ("step", "epoch", "run"):
        for side in SIDES:
            values = [one[kind] * 1e3 for one in found[side]]
            rounds = ", ".join(f"{value:.0f}" for value in values)
            print(f"{kind:6} {side:5} {statistics.median(values):7.0f} ms   rounds: {rounds}")
        ratio = statistics.median(
            adam[kind] / lazy[kind] for lazy, adam in zip(found["lazy"], found["adam"], strict=True)
        )
        print(f"{kind:6} LazyAdam is {ratio:.1f} times faster (median of the rounds' ratios)")


def run(side: str, folder: str, rows: int) -> dict[str, float]:
    """One side in a process of its own."""
    command = [sys.executable, __file__, "--rows", str(rows), "--measure", side, folder]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(side: str, folder: Path, rows: int) -> dict[str, float]:
    """Makes the module, or trains once and gives seconds per train step."""
    import lightkeras as lk

    if side == "make":
        make_module(folder, rows)
        return {}
    from lightkeras.engine.tensorflow import TensorFlowProgram
    from lightkeras.training import checkpointer

    import keras

    spent = {"step": 0.0, "held": 0.0, "watched": 0.0}
    calls: list[float] = []

    def timed(owner, method, name):
        function = getattr(owner, method)

        def call(*given, **named):
            began = time.perf_counter()
            try:
                return function(*given, **named)
            finally:
                spent[name] += time.perf_counter() - began

        setattr(owner, method, call)

    def run_steps(self, stream, count, waits=True, original=TensorFlowProgram.run):
        began = time.perf_counter()
        logs = original(self, stream, count, waits)
        # Train steps log no accuracy here; the first call of each size is the compilation.
        if logs.steps and "accuracy" not in logs.values:
            calls.append((time.perf_counter() - began) / logs.steps)
        return logs

    TensorFlowProgram.run = run_steps
    timed(checkpointer.Checkpointer, "save", "held")
    timed(watchdog.Watchdog, "watch", "watched")
    steps = STEPS[side]
    train, validation = texts(steps * BATCH, rows, seed=0), texts(4 * BATCH, rows, seed=1)
    begins: list[float] = []

    class Begins(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            begins.append(time.perf_counter())

        def on_train_end(self, logs=None):
            begins.append(time.perf_counter())

    class Reviews(lk.Task):
        def build_data(self):
            return lk.data.ArrayData(train, validation, batch_size=BATCH)

        def build_model(self):
            text = keras.Input((), dtype="string")
            x = lk.HubLayer(str(folder / "module"), trainable=True)(text)
            return keras.Model(text, keras.layers.Dense(1)(keras.layers.Dense(16, "relu")(x)))

        def build_optimizer(self):
            return lk.optimizers.LazyAdam(1e-3) if side == "lazy" else keras.optimizers.Adam(1e-3)

        def loss(self, batch, training):
            logit = keras.ops.squeeze(self.model(batch[0], training=training), -1)
            label = keras.ops.cast(batch[1], "float32")
            if not training:
                self.log("accuracy", keras.ops.mean(keras.ops.cast((logit > 0) == (label > 0.5), "float32")))
            return keras.ops.mean(keras.ops.softplus(logit) - label * logit)

        def train_step(self, batch):
            return self.minimize(lambda: self.loss(batch, training=True))

        def evaluate_step(self, batch):
            return self.loss(batch, training=False)

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as runs:
        lk.Runner(max_epochs=EPOCHS, run_dir=Path(runs) / "run", callbacks=[Begins()]).fit(Reviews())
        wall = time.perf_counter() - began
    epochs = [after - before for before, after in itertools.pairwise(begins)]
    return {
        "step": statistics.median(calls),
        "epoch": min(epochs) / steps,
        "run": wall / (steps * EPOCHS),
        "watched": spent["watched"] / wall,
        "held": spent["held"] / wall,
        "peak_gb": peak(),
    }


def peak() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def texts(count: int, rows: int, seed: int):
    """Texts of words by Zipf's law, and labels that depend on them."""
    import numpy as np

    rng = np.random.default_rng(seed)
    words = np.minimum(rows ** rng.random((count, WORDS)), rows - 1).astype("int64")  # density 1 / rank
    labels = (words % 2).mean(1) > 0.5
    return np.array([" ".join(f"w{word}" for word in text) for text in words], object), labels.astype("int32")


def make_module(folder: Path, rows: int) -> None:
    """Writes a SavedModel: module(strings [batch]) -> float32 [batch, 50]."""
    import tensorflow as tf

    vocabulary = folder / "tokens.txt"
    vocabulary.write_text("".join(f"w{word}\n" for word in range(rows)))
    module = tf.train.Checkpoint()
    module.embeddings = tf.Variable(tf.random.stateless_normal([rows, WIDTH], [0, 0]) * 0.1, name="embeddings")
    initializer = tf.lookup.TextFileInitializer(
        str(vocabulary), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
    )
    module.table = tf.lookup.StaticHashTable(initializer, 0)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def embed(sentences):
        words = tf.strings.split(sentences)
        ids = tf.RaggedTensor.from_row_splits(module.table.lookup(words.flat_values), words.row_splits)
        return tf.nn.safe_embedding_lookup_sparse(module.embeddings, ids.to_sparse(), combiner="sqrtn")

    module.__call__ = embed
    module.variables = module.trainable_variables = [module.embeddings]
    module.regularization_losses = []
    tf.saved_model.save(module, str(folder / "module"))


if __name__ == "__main__":
    main()
