"""Virtual devices of a CPU on TensorFlow: lightkeras against a hand-written loop around `Strategy.run`.

    python benchmarks/devices.py                    # 2 devices; prints a table
    python benchmarks/devices.py --devices 4 --rounds 9

Both train the same model with the same global batches, in turns: an epoch of the hand-written loop, then one of a fit.
Ratios are medians over the rounds. The loop runs 75 steps in one `tf.while_loop`, gathers each batch from the arrays
in memory, lets each device compute a part by `tf.distribute.MirroredStrategy.run`, in which Keras's optimizer sums the
gradients, and reads the losses once per call. A fit also logs every step and checks weights. "difference" is the
relative one between the mean losses of the first epoch: the two compute the same.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ |= {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": ""}
MODELS = {"784-128-10, batch 64": ((128,), 64, 400), "784-1024-1024-10, batch 256": ((1024, 1024), 256, 40)}
CALL = 75


def model_of(units: tuple[int, ...]) -> Any:
    import keras

    keras.utils.set_random_seed(0)
    inside = [keras.layers.Dense(count, "relu") for count in units]
    return keras.Sequential([keras.Input((784,)), *inside, keras.layers.Dense(10)])


class Loop:
    """The hand-written loop."""

    def __init__(self, units: tuple[int, ...], x: Any, y: Any, batch: int, strategy: Any) -> None:
        import keras
        import tensorflow as tf

        self.strategy = strategy
        with self.strategy.scope():
            self.model, self.optimizer = model_of(units), keras.optimizers.Adam()
            self.optimizer.build(self.model.trainable_variables)
        self.loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.x, self.y = tf.constant(x), tf.constant(y)
        self.batch, self.part = batch, batch // strategy.num_replicas_in_sync
        self.call = tf.function(self.steps, autograph=False).get_concrete_function(
            tf.TensorSpec([None, batch], tf.int32)
        )

    def step(self, rows: Any) -> Any:
        """The step of one device, for the rows of the whole batch."""
        import tensorflow as tf

        number = tf.distribute.get_replica_context().replica_id_in_sync_group
        own = rows[number * self.part : (number + 1) * self.part]
        x, y = tf.gather(self.x, own), tf.gather(self.y, own)
        with tf.GradientTape() as tape:
            loss = self.loss(y, self.model(x, training=True))  # a strategy makes it a part of the mean of all
        values = [variable.value for variable in self.model.trainable_variables]
        self.optimizer.apply(tape.gradient(loss, values), self.model.trainable_variables)
        return loss

    def steps(self, rows: Any) -> Any:
        """All steps of a call; returns their losses."""
        import tensorflow as tf

        def body(i: Any, losses: Any) -> Any:
            of_devices = self.strategy.experimental_local_results(self.strategy.run(self.step, (rows[i],)))
            return i + 1, losses.write(i, tf.add_n(of_devices))

        count = tf.shape(rows)[0]
        empty = tf.TensorArray(tf.float32, count, element_shape=())
        return self.total(tf.while_loop(lambda i, _: i < count, body, (tf.constant(0), empty))[1].stack())

    def total(self, losses: Any) -> Any:
        """The losses of a call, given the sums over the devices of this process."""
        return losses

    def epoch(self, order: Any) -> tuple[float, list[float]]:
        """Trains on examples in an order. Returns the seconds and the losses."""
        began, losses = time.perf_counter(), []
        rows = order.reshape(-1, self.batch)
        for start in range(0, len(rows), CALL):
            losses += self.call(rows[start : start + CALL]).numpy().tolist()
        return time.perf_counter() - began, losses


def measure(name: str, devices: int, rounds: int) -> dict[str, Any]:
    """The figures of one model."""
    import lightkeras as lk

    import keras
    import numpy as np
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * devices)
    units, batch, steps = MODELS[name]
    rng = np.random.default_rng(0)
    x = rng.random((batch * steps, 784), dtype="f")
    y = x[:, :10].argmax(1).astype("int32")
    loop = Loop(units, x, y, batch, tf.distribute.MirroredStrategy([f"CPU:{n}" for n in range(devices)]))
    by_hand, ours, losses = [], [], []
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    task = lk.SupervisedTask(model_of(units), loss=loss, optimizer=keras.optimizers.Adam())

    class Rounds(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            seconds, found = loop.epoch(feed.order(epoch, 0))
            by_hand.append(seconds)
            losses.append(found)
            self.began = time.perf_counter()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            ours.append((time.perf_counter() - self.began, logs["loss"]))

    feed = lk.data.ArrayFeed((x, y), batch)
    with tempfile.TemporaryDirectory() as folder:
        settings = {"progress": False, "pictures": False, "export": False, "patience": None, "seed": 0}
        settings |= {"devices": devices, "callbacks": [Rounds()], "run_dir": Path(folder) / "run"}
        lk.Runner(max_epochs=rounds + 1, **settings).fit(task, feed)
    ratios = [mine / theirs for (mine, _), theirs in zip(ours[1:], by_hand[1:], strict=True)]
    return {
        "by hand": statistics.median(by_hand[1:]) / steps,
        "fit": statistics.median(seconds for seconds, _ in ours[1:]) / steps,
        "ratio": statistics.median(ratios),
        "least": min(ratios),
        "most": max(ratios),
        "difference": abs(ours[0][1] / statistics.mean(losses[0]) - 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one is not None:
        print(json.dumps(measure(given.one, given.devices, given.rounds)))
        return
    print(f"{given.devices} virtual devices of a CPU, {given.rounds} rounds")
    print("| model | by hand, ms a step | fit, ms a step | ratio (least to most) | difference |\n|---|---|---|---|---|")
    for name in MODELS:
        # A process for each: in one, the collectives of a second strategy are taken for those of the first.
        command = [sys.executable, __file__, "--devices", str(given.devices), "--rounds", str(given.rounds)]
        done = subprocess.run([*command, "--one", name], stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        ratio = f"{found['ratio']:.3f} ({found['least']:.3f} to {found['most']:.3f})"
        print(
            f"| {name} | {found['by hand'] * 1e3:.3f} | {found['fit'] * 1e3:.3f} | {ratio} | "
            f"{found['difference']:.1e} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
