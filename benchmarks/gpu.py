"""lightkeras on one GPU with JAX and torch: first what is equal to the bit, then the time of a train step.

    for b in jax torch; do KERAS_BACKEND=$b python benchmarks/gpu.py [--quick]; done

Needs neither TensorFlow nor a network: on a machine that cannot install packages, carry the wheels of what is missing
along and put their folder on PYTHONPATH. Takes about two minutes per backend on an H200; runs on a CPU too, where
--quick makes it short. Prints one JSON line per figure.

The data is random. Microseconds per train step are those of the best epoch after the first, with all defaults, and with
`compile="on"` on torch; the device is waited for where an epoch ends. "By hand" is a loop without Keras: `lax.scan` on
JAX, a CUDA graph of one step on torch.
"""

import json
import os
import sys
import tempfile
import time

import lightkeras as lk

import keras
import numpy as np
from keras import layers, ops

QUICK = "--quick" in sys.argv
BACKEND = os.environ["KERAS_BACKEND"]
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
SETTINGS = [{}] if BACKEND == "jax" else [{"compile": "off"}, {"compile": "on"}]


def say(**row):
    print(json.dumps({"backend": BACKEND, **row}), flush=True)


def devices():
    if BACKEND == "jax":
        import jax

        return [str(device.device_kind) for device in jax.devices()]
    import torch

    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] or ["cpu"]


def wait():
    if BACKEND == "jax":
        import jax

        jax.block_until_ready(jax.numpy.zeros(()) + 0)
    else:
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()


def dense():
    return keras.Sequential([layers.Input((784,)), layers.Dense(128, "relu"), layers.Dropout(0.2), layers.Dense(10)])


def convolutional():
    return keras.Sequential(
        [
            layers.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )


def transformer(width=256, depth=4, length=128, heads=4):
    tokens = layers.Input((length,), dtype="int32")
    x = layers.Embedding(8192, width)(tokens)
    for _ in range(depth):
        y = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(heads, width // heads)(y, y)
        y = layers.Dense(4 * width, "gelu")(layers.LayerNormalization()(x))
        x = x + layers.Dense(width)(y)
    return keras.Model(tokens, layers.Dense(10, dtype="float32")(layers.GlobalAveragePooling1D()(x)))


class Clock(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        wait()
        self.began = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        wait()
        self.seconds.append(time.perf_counter() - self.began)


def fit(make, data, batch_size, epochs, run_dir=None, resume=False, **settings):
    """Returns microseconds a step, the history and the weights."""
    keras.utils.set_random_seed(0)
    clock = Clock()
    task = lk.SupervisedTask(make(), loss=LOSS, optimizer=keras.optimizers.Adam(), metrics=["accuracy"])
    runner = lk.Runner(
        max_epochs=epochs,
        patience=None,
        callbacks=[clock],
        pictures=False,
        export=False,
        progress=False,
        run_dir=run_dir or tempfile.mkdtemp() + "/run",
        **settings,
    )
    result = runner.fit(task, data, batch_size=batch_size, resume=resume)
    weights = [ops.convert_to_numpy(variable).tobytes() for variable in task.model.weights]
    return min(clock.seconds[1:], default=0.0) * batch_size / len(data[0]) * 1e6, result.history, weights


def keras_fit(make, data, batch_size, epochs):
    clock, model = Clock(), make()
    model.compile("adam", LOSS, metrics=["accuracy"])
    model.fit(*data, batch_size=batch_size, epochs=epochs, verbose=0, callbacks=[clock])
    return min(clock.seconds[1:]) * batch_size / len(data[0]) * 1e6


def by_hand(data, batch_size, epochs):
    """784-128-10 with dropout and Adam; returns microseconds a step."""
    steps = len(data[0]) // batch_size
    return (jax_by_hand if BACKEND == "jax" else torch_by_hand)(*data, batch_size, steps, epochs) / steps * 1e6


def jax_by_hand(x, y, batch_size, steps, epochs):
    import jax
    import jax.numpy as jnp

    key = jax.random.PRNGKey(0)
    p = [jax.random.normal(key, (784, 128)) * 0.05, jnp.zeros(128), jax.random.normal(key, (128, 10)) * 0.1]
    p.append(jnp.zeros(10))
    zeros = [jnp.zeros_like(a) for a in p]
    xs, ys = jnp.asarray(x), jnp.asarray(y)

    def loss(p, rows, key):
        h = jax.nn.relu(xs[rows] @ p[0] + p[1])
        h = h * (jax.random.bernoulli(key, 0.8, h.shape) / 0.8)
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(h @ p[2] + p[3]), ys[rows][:, None], 1))

    def step(carry, rows):
        p, m, v, t, key = carry
        key, one = jax.random.split(key)
        t, g = t + 1, jax.grad(loss)(p, rows, one)
        m = [0.9 * a + 0.1 * b for a, b in zip(m, g, strict=True)]
        v = [0.999 * a + 0.001 * b * b for a, b in zip(v, g, strict=True)]
        scaled = [b / (1 - 0.9**t) / (jnp.sqrt(c / (1 - 0.999**t)) + 1e-7) for b, c in zip(m, v, strict=True)]
        return ([a - 1e-3 * b for a, b in zip(p, scaled, strict=True)], m, v, t, key), 0.0

    epoch = jax.jit(lambda carry, order: jax.lax.scan(step, carry, order)[0])
    carry, seconds = (p, zeros, zeros, jnp.float32(0), key), []
    for number in range(epochs):
        order = jax.random.permutation(jax.random.PRNGKey(number), len(x))[: steps * batch_size]
        order = order.reshape(steps, batch_size).block_until_ready()
        began = time.perf_counter()
        carry = jax.block_until_ready(epoch(carry, order))
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])


def torch_by_hand(x, y, batch_size, steps, epochs):
    import torch
    from torch import nn

    cuda = torch.cuda.is_available()
    place = "cuda" if cuda else "cpu"
    net = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 10)).to(place)
    optimizer = torch.optim.Adam(net.parameters(), fused=True, **({"capturable": True} if cuda else {}))
    xs, ys = torch.tensor(x, device=place), torch.tensor(y, device=place).long()
    rows = torch.zeros(batch_size, dtype=torch.long, device=place)

    def one():
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(net(xs[rows]), ys[rows]).backward()
        optimizer.step()

    if cuda:
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(3):
                one()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            one()
    seconds = []
    for _ in range(epochs):
        order = torch.randperm(len(x), device=place)[: steps * batch_size].reshape(steps, batch_size)
        wait()
        began = time.perf_counter()
        for row in order:
            rows.copy_(row)
            if cuda:
                graph.replay()
            else:
                one()
        wait()
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])


def main():
    say(what="device", devices=devices(), keras=keras.__version__)
    rng = np.random.default_rng(0)
    data = rng.random((1_610, 784), "float32"), rng.integers(0, 10, 1_610).astype("int32")
    for settings in SETTINGS:
        whole, again = (fit(dense, data, 32, 3, **settings, **more)[1:] for more in ({}, {"steps_per_call": 7}))
        folder = tempfile.mkdtemp() + "/run"
        fit(dense, data, 32, 1, folder, **settings)
        resumed = fit(dense, data, 32, 3, folder, resume=True, **settings)[1:]
        say(what="equal to the bit", **settings, a_second_run=whole == again, a_resumed_run=whole == resumed)

    n = 6_400 if QUICK else 64_000
    flat = rng.random((n, 784), "float32"), rng.integers(0, 10, n).astype("int32")
    n = 1_280 if QUICK else 25_600
    images = rng.random((n, 28, 28, 1), "float32"), rng.integers(0, 10, n).astype("int32")
    n = 256 if QUICK else 8_192
    text = rng.integers(0, 8192, (n, 128)).astype("int32"), rng.integers(0, 10, n).astype("int32")
    for name, make, given, batch_size, policy in (
        ("dense", dense, flat, 32, "float32"),
        ("dense", dense, flat, 512, "float32"),
        ("cnn", convolutional, images, 128, "float32"),
        ("transformer", transformer, text, 64, "mixed_bfloat16"),
    ):
        keras.config.set_dtype_policy(policy)
        found = {str(s.get("compile", "ours")): round(fit(make, given, batch_size, 3, **s)[0], 1) for s in SETTINGS}
        found["fit"] = round(keras_fit(make, given, batch_size, 3), 1)
        if make is dense:
            found["by_hand"] = round(by_hand(given, batch_size, 4), 1)
        say(what=f"{name}, batch {batch_size}, {policy}: us per step", **found)


if __name__ == "__main__":
    main()
