"""Time per train step of a small dense network: ours, hand-written loops, Keras's `fit`, PyTorch Lightning.

    LIGHTKERAS_DATA_DIR=../shared/data python benchmarks/mnist_dense.py [--rounds 5] [--backends tensorflow jax torch]
        [--kinds ours norm] [--nightly FOLDER]

784-128-10 with dropout 0.2, batch 32, Adam, on MNIST (random pixels without `mnist.npz`). Every side runs in its own
process, in turn (see `rounds.py`); the best epoch of a process counts. `--backends jax torch` leaves out Keras's `fit`
on TensorFlow. Lightning comes with the extra `benchmark`.

    ours-BACKEND   a task that logs its accuracy, in lightkeras.Runner with all its defaults: progress bar, per-step
                   TensorBoard and CSV, checkpoints
    norm-BACKEND   the same with `log_gradients="norm"`
    off-torch      the same with `compile="off"`: torch compiles the step by default, where an epoch is that long
    compiled-BACKEND  the same in lightkeras.SupervisedTask, with Keras's stateful accuracy as `fit` has it
    loop-BACKEND   the same Keras layers and optimizer in a hand-written loop and nothing else: a tf.while_loop in a
                   tf.function or a jitted lax.scan, 75 steps a call; for torch a plain loop
    fused-BACKEND  ours with `lk.optimizers.FusedAdam`
    raw-BACKEND    the operations of the backend and its fused Adam in a hand-written loop, without Keras: raw_loops.py
    fit-BACKEND    model.fit with TensorBoard (per epoch), CSVLogger, ModelCheckpoint and EarlyStopping
    fit50-BACKEND  the same with steps_per_execution=50
    nightly-BACKEND  the same with the Keras of --nightly: `pip install --target FOLDER --no-deps keras-nightly`
    lightning      torch's own layers and Adam in a LightningModule; TensorBoard and CSV every 50 steps, its default
"""

import argparse
import functools
import json
import os
import tempfile
import time
from pathlib import Path

import raw_loops
import rounds

SIDES = {
    **{f"ours-{backend}": backend for backend in ("tensorflow", "jax", "torch")},
    **{f"norm-{backend}": backend for backend in ("tensorflow", "jax", "torch")},
    "off-torch": "torch",
    **{f"compiled-{backend}": backend for backend in ("tensorflow", "jax", "torch")},
    **{f"loop-{backend}": backend for backend in ("tensorflow", "jax", "torch")},
    **{f"{kind}-{backend}": backend for kind in ("fused", "raw") for backend in ("tensorflow", "jax", "torch")},
    **{f"{kind}-{backend}": backend for kind in ("fit", "fit50", "nightly") for backend in ("tensorflow", "jax")},
    "nightly-torch": "torch",
    "lightning": "torch",
}
WANTED = {  # ratio of the first side's time to the second's: at most
    ("ours-tensorflow", "loop-tensorflow"): 1.05,
    ("ours-jax", "loop-jax"): 1.05,
    ("off-torch", "loop-torch"): 1.05,
    ("fused-tensorflow", "raw-tensorflow"): 1.2,
    ("ours-jax", "raw-jax"): 1.0,
    ("ours-torch", "raw-torch"): 1.5,
    ("fused-torch", "raw-torch"): 1.5,
    ("ours-jax", "nightly-jax"): 1 / 2,
    ("ours-torch", "lightning"): 0.7,
    **{(f"norm-{backend}", f"ours-{backend}"): 1.03 for backend in ("tensorflow", "jax", "torch")},
    ("ours-tensorflow", "fit-tensorflow"): 1 / 2.5,
    ("ours-jax", "fit-jax"): 1 / 1.8,
    ("ours-jax", "fit-tensorflow"): 1 / 6,
    ("ours-jax", "lightning"): 1 / 6,
}
BATCH, EPOCHS, STEPS_PER_CALL = 32, 3, 75


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backends", nargs="*", default=["tensorflow", "jax", "torch"])
    parser.add_argument("--kinds", nargs="*", default=list(dict.fromkeys(side.split("-")[0] for side in SIDES)))
    parser.add_argument("--nightly", help="folder with a nightly Keras")
    parser.add_argument("--keep", default="mnist_dense", help="name of the file below results/")
    parser.add_argument("--side", choices=SIDES, help="run one side in this process and print its figure")
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(measure(arguments.side)))
        return
    sides = {
        side: backend
        for side, backend in SIDES.items()
        if backend in arguments.backends
        and side.split("-")[0] in arguments.kinds
        and (arguments.nightly or not side.startswith("nightly"))
    }
    paths = {side: arguments.nightly for side in sides if side.startswith("nightly")}
    found = rounds.interleave(__file__, sides, arguments.rounds, paths=paths)
    rounds.show(found, "us a step")
    pairs = {pair: limit for pair, limit in WANTED.items() if set(pair) <= set(sides)}
    ratios = {f"{a} / {b}": [rounds.ratio(found, a, b), limit] for (a, b), limit in pairs.items()}
    for name, (value, limit) in ratios.items():
        print(f"{name}: {value:.3f}, wanted at most {limit:.3f}{'' if value <= limit else '   MISSED'}")
    rounds.keep(arguments.keep, found, ratios)


def measure(side: str) -> float:
    """Microseconds per step in the best of the epochs."""
    import lightkeras  # noqa: F401  first: it keeps TensorFlow's start-up messages away

    import keras
    import numpy as np

    images, labels = mnist(np)
    if side == "lightning":
        with tempfile.TemporaryDirectory() as folder:
            return min(lightning(images, labels, Path(folder))) / -(-len(images) // BATCH) * 1e6
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((784,)),
            keras.layers.Dense(128, "relu"),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(10),
        ]
    )
    kind, backend = side.split("-")
    if kind == "raw":
        return min(epochs(len(images), getattr(raw_loops, backend)(images, labels))) / (len(images) // BATCH) * 1e6
    fits = {"fit": keras_fit, "fit50": keras_fit_50, "nightly": keras_fit_50}
    run = {"ours": ours, "norm": norm, "off": off, "fused": fused, "compiled": compiled, **fits}.get(kind) or {
        "tensorflow": loop_tensorflow,
        "jax": loop_jax,
        "torch": loop_torch,
    }[backend]
    with tempfile.TemporaryDirectory() as folder:
        return min(run(model, images, labels, Path(folder))) / (len(images) // BATCH) * 1e6


def mnist(np):
    folder = Path(os.environ.get("LIGHTKERAS_DATA_DIR", "nowhere"))
    if (folder / "mnist.npz").exists():
        with np.load(folder / "mnist.npz") as data:
            return (data["x_train"].reshape(-1, 784) / 255).astype("float32"), data["y_train"].astype("int32")
    rng = np.random.default_rng(0)
    return rng.random((60_000, 784), dtype="float32"), rng.integers(0, 10, 60_000).astype("int32")


def ours(model, images, labels, folder, optimizer="Adam", **settings):
    import lightkeras as lk

    import keras
    from keras import ops

    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    class Digits(lk.Task):
        def build_model(self):
            return model

        def build_optimizer(self):
            return getattr(lk.optimizers if optimizer.startswith("Fused") else keras.optimizers, optimizer)()

        def loss(self, batch, training):
            x, y = batch
            logits = self.model(x, training=training)
            self.log("accuracy", ops.mean(ops.cast(ops.argmax(logits, -1) == y, "float32")))
            return cross_entropy(y, logits)

    clock = rounds.epoch_clock()
    runner = lk.Runner(max_epochs=EPOCHS, run_dir=folder / "run", callbacks=[clock], **settings)
    runner.fit(Digits(), (images, labels), batch_size=BATCH)
    return clock.seconds()


def norm(model, images, labels, folder):
    return ours(model, images, labels, folder, log_gradients="norm")


def off(model, images, labels, folder):
    return ours(model, images, labels, folder, compile="off")


def fused(model, images, labels, folder):
    return ours(model, images, labels, folder, optimizer="FusedAdam")


def compiled(model, images, labels, folder):
    import lightkeras as lk

    import keras

    clock = rounds.epoch_clock()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    task = lk.SupervisedTask(model, loss=loss, optimizer="adam", metrics=["accuracy"])
    runner = lk.Runner(max_epochs=EPOCHS, run_dir=folder / "run", callbacks=[clock])
    runner.fit(task, (images, labels), batch_size=BATCH)
    return clock.seconds()


def keras_fit_50(model, images, labels, folder):
    return keras_fit(model, images, labels, folder, steps_per_execution=50)


def keras_fit(model, images, labels, folder, **settings):
    import keras

    clock = rounds.epoch_clock()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"], **settings)
    callbacks = [*rounds.fit_callbacks(folder), clock]
    model.fit(images, labels, batch_size=BATCH, epochs=EPOCHS, callbacks=callbacks, verbose=0)
    return clock.seconds()


def loop_tensorflow(model, images, labels, folder):
    import keras
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

    return epochs(len(images), raw_loops.looped(step))


def loop_jax(model, images, labels, folder):
    import jax
    import keras
    import numpy as np

    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.Adam()
    optimizer.build(model.trainable_variables)
    images, labels = jax.numpy.array(images), jax.numpy.array(labels)

    def loss(trainable, others, x, y):
        logits, others = model.stateless_call(trainable, others, x, training=True)
        return cross_entropy(y, logits), (others, (logits.argmax(-1) == y).mean())

    @functools.partial(jax.jit, donate_argnums=0)
    def chunk(state, images, labels, indices):
        def step(state, rows):
            trainable, others, slots = state
            x, y = images[rows], labels[rows]
            (value, (others, accuracy)), gradients = jax.value_and_grad(loss, has_aux=True)(trainable, others, x, y)
            trainable, slots = optimizer.stateless_apply(slots, gradients, trainable)
            return (trainable, others, slots), (value, accuracy)

        return jax.lax.scan(step, state, indices)

    groups = (model.trainable_variables, model.non_trainable_variables, optimizer.variables)
    state = tuple([variable.value for variable in group] for group in groups)

    def run(indices):
        nonlocal state
        state, logs = chunk(state, images, labels, indices)
        return [np.asarray(column) for column in logs]

    return epochs(len(images), run)


def loop_torch(model, images, labels, folder):
    import keras
    import torch

    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.Adam()
    optimizer.build(model.trainable_variables)
    device = model.trainable_variables[0].value.device
    images, labels = torch.as_tensor(images, device=device), torch.as_tensor(labels, device=device)

    def run(indices):
        logs = []
        for rows in torch.as_tensor(indices, device=device):
            x, y = images[rows], labels[rows]
            logits = model(x, training=True)
            value = cross_entropy(y, logits)
            model.zero_grad()
            value.backward()
            gradients = [variable.value.grad for variable in model.trainable_variables]
            with torch.no_grad():
                optimizer.apply(gradients, model.trainable_variables)
                logs.append(torch.stack([value.detach(), (logits.argmax(-1) == y).float().mean()]))
        return torch.stack(logs).cpu().numpy()

    return epochs(len(images), run)


def epochs(examples, run):
    """Seconds of each epoch of a hand-written loop: `run` takes int32 `[75, batch]`."""
    import numpy as np

    rng, seconds = np.random.default_rng(0), []
    for _ in range(EPOCHS):
        steps = examples // BATCH // STEPS_PER_CALL * STEPS_PER_CALL  # all of MNIST's 1,875
        order = rng.permutation(examples)[: steps * BATCH].astype("int32")
        began = time.perf_counter()
        for indices in order.reshape(-1, STEPS_PER_CALL, BATCH):
            run(indices)
        seconds.append(time.perf_counter() - began)
    return seconds


def lightning(images, labels, folder):
    import logging
    import warnings

    import lightning as L
    import torch
    from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Network(L.LightningModule):
        def __init__(self):
            super().__init__()
            layers = (torch.nn.Linear(784, 128), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(128, 10))
            self.layers = torch.nn.Sequential(*layers)
            self.times = []

        def training_step(self, batch, _):
            x, y = batch
            logits = self.layers(x)
            loss = torch.nn.functional.cross_entropy(logits, y)
            self.log("loss", loss, prog_bar=True)
            self.log("accuracy", (logits.argmax(-1) == y).float().mean())
            return loss

        def on_train_epoch_start(self):
            self.times.append(time.perf_counter())

        def on_train_end(self):
            self.times.append(time.perf_counter())

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters())

    examples = torch.utils.data.TensorDataset(torch.as_tensor(images), torch.as_tensor(labels).long())
    loader = torch.utils.data.DataLoader(examples, batch_size=BATCH, shuffle=True)
    network = Network()
    trainer = L.Trainer(
        max_epochs=EPOCHS,
        default_root_dir=folder,
        logger=[TensorBoardLogger(folder), CSVLogger(folder)],
        callbacks=[ModelCheckpoint(folder), EarlyStopping("loss", patience=3)],
    )
    trainer.fit(network, loader)
    return [after - before for before, after in zip(network.times, network.times[1:], strict=False)]


if __name__ == "__main__":
    main()
