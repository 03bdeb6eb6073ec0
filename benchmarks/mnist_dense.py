"""Time per train step of a small dense network: ours, a hand-written compiled loop, and Keras's `fit`.

    LIGHTKERAS_DATA_DIR=../shared/data python benchmarks/mnist_dense.py [--rounds 5]

784-128-10 with dropout 0.2, batch 32, Adam, on MNIST (random pixels where there is no `mnist.npz`).
Each side runs in a process of its own, one after the other, round by round, so that what the machine
does besides hits all of them alike; the best epoch of a process counts, and the median of the rounds.

    ours    lightkeras.Runner with all its defaults: per-step TensorBoard and CSV logs, checkpoints, early stopping
    loop    tf.while_loop of steps inside one tf.function, 75 steps a call, nothing else
    keras   model.fit with TensorBoard (per epoch), CSVLogger, ModelCheckpoint and EarlyStopping
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

SIDES = ("ours", "loop", "keras")
BATCH, EPOCHS, STEPS_PER_CALL = 32, 4, 75


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", choices=SIDES, help="run one side in this process and print its figure")
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(measure(arguments.side)))
        return
    found: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(arguments.rounds):
        for side in SIDES:
            done = subprocess.run(
                [sys.executable, __file__, "--side", side], capture_output=True, text=True, check=True
            )
            found[side].append(json.loads(done.stdout.splitlines()[-1]))
    median = {side: statistics.median(values) for side, values in found.items()}
    for side, values in found.items():
        print(f"{side:6} {median[side]:7.0f} us a step   rounds: {', '.join(f'{value:.0f}' for value in values)}")
    paired = {
        side: statistics.median(ours / other for ours, other in zip(found["ours"], found[side], strict=True))
        for side in SIDES
    }
    print(f"ours takes {paired['loop']:.2f} times the hand-written loop (median of the rounds' ratios)")
    print(f"ours is {1 / paired['keras']:.2f} times faster than keras fit")


def measure(side: str) -> float:
    """Microseconds per step in the best of the epochs."""
    import lightkeras  # noqa: F401  first: it keeps TensorFlow's start-up messages away

    import keras
    import numpy as np

    images, labels = mnist(np)
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((784,)),
            keras.layers.Dense(128, "relu"),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(10),
        ]
    )
    steps = len(images) // BATCH
    with tempfile.TemporaryDirectory() as folder:
        seconds = {"ours": ours, "loop": loop, "keras": keras_fit}[side](model, images, labels, Path(folder))
    return min(seconds) / steps * 1e6


def mnist(np):
    folder = Path(os.environ.get("LIGHTKERAS_DATA_DIR", "nowhere"))
    if (folder / "mnist.npz").exists():
        with np.load(folder / "mnist.npz") as data:
            return (data["x_train"].reshape(-1, 784) / 255).astype("float32"), data["y_train"].astype("int32")
    rng = np.random.default_rng(0)
    return rng.random((60_000, 784), dtype="float32"), rng.integers(0, 10, 60_000).astype("int32")


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


def ours(model, images, labels, folder):
    import lightkeras as lk

    import keras

    clock = epoch_clock()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    task = lk.SupervisedTask(model, loss=loss, optimizer="adam", metrics=["accuracy"])
    runner = lk.Runner(max_epochs=EPOCHS, run_dir=folder / "run", callbacks=[clock])
    runner.fit(task, (images, labels), batch_size=BATCH)
    return clock.seconds()


def keras_fit(model, images, labels, folder):
    import keras

    clock = epoch_clock()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    callbacks = [
        keras.callbacks.TensorBoard(folder / "tensorboard"),
        keras.callbacks.CSVLogger(folder / "metrics.csv"),
        keras.callbacks.ModelCheckpoint(folder / "last.keras"),
        keras.callbacks.EarlyStopping("loss", patience=3),
        clock,
    ]
    model.fit(images, labels, batch_size=BATCH, epochs=EPOCHS, callbacks=callbacks, verbose=0)
    return clock.seconds()


def loop(model, images, labels, folder):
    import keras
    import numpy as np
    import tensorflow as tf

    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.Adam()
    optimizer.build(model.trainable_variables)
    images, labels = tf.constant(images), tf.constant(labels)

    def step(indices):
        x, y = tf.gather(images, indices), tf.gather(labels, indices)
        values = [variable.value for variable in model.trainable_variables]
        with tf.GradientTape() as tape:
            logits = model(x, training=True)
            value = cross_entropy(y, logits)
        optimizer.apply(tape.gradient(value, values), model.trainable_variables)
        hits = tf.equal(tf.argmax(logits, -1, tf.int32), y)
        return value, tf.reduce_mean(tf.cast(hits, tf.float32))

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, BATCH], tf.int32)])
    def chunk(indices):
        count = tf.shape(indices)[0]

        def body(i, losses, accuracies):
            value, accuracy = step(indices[i])
            return i + 1, losses.write(i, value), accuracies.write(i, accuracy)

        empty = [tf.TensorArray(tf.float32, count, element_shape=()) for _ in range(2)]
        _, *arrays = tf.while_loop(lambda i, *_: i < count, body, (0, *empty))
        return [array.stack() for array in arrays]

    rng, seconds = np.random.default_rng(0), []
    for _ in range(EPOCHS):
        steps = len(images) // BATCH // STEPS_PER_CALL * STEPS_PER_CALL
        order = rng.permutation(len(images))[: steps * BATCH].astype("int32")
        began = time.perf_counter()
        for indices in order.reshape(-1, STEPS_PER_CALL, BATCH):
            [column.numpy() for column in chunk(tf.constant(indices))]
        seconds.append(time.perf_counter() - began)
    return seconds


if __name__ == "__main__":
    main()
