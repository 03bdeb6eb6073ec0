"""Time per train step of a CNN, a small transformer and a 3-layer LSTM: lightkeras against Keras's `fit`.

    python benchmarks/networks.py [--rounds 5] [--backends tensorflow jax torch] [--networks cnn transformer lstm]
        [--peers fit fit20 nightly] [--nightly FOLDER]

Batch 64, random data, the same Keras model, the same backend, with callbacks as in `mnist_dense.py`. Every side runs in
its own process, in turn (see `rounds.py`); the best epoch of a process counts. The target is never to be slower than
`fit`, than `fit` with steps_per_execution=20 ("fit20"), and than that with the Keras of --nightly ("nightly").

    cnn          the network of mnist_expert.py: convolution of 32 filters 3x3, dense 128, dense 10, images of 28x28
    transformer  two blocks of 4 heads of 16 and 128 units on 64 words of 2,000, width 64
    lstm         three layers of 64 units on 50 steps of 16 numbers
"""

import argparse
import json
import tempfile
from pathlib import Path

import rounds

NETWORKS = ("cnn", "transformer", "lstm")
BACKENDS = ("tensorflow", "jax", "torch")
BATCH, STEPS, EPOCHS = 64, 40, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backends", nargs="*", default=BACKENDS, choices=BACKENDS)
    parser.add_argument("--networks", nargs="*", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--peers", nargs="*", choices=["fit", "fit20", "nightly"])
    parser.add_argument("--nightly", help="folder with a nightly Keras, see mnist_dense.py")
    parser.add_argument("--keep", default="networks", help="name of the file below results/")
    parser.add_argument("--side", help="run one side, KIND-BACKEND-NETWORK, in this process and print its figure")
    arguments = parser.parse_args()
    if arguments.side:
        kind, _, network = arguments.side.split("-")
        print(json.dumps(measure(kind, network)))
        return
    found, ratios = {}, {}
    if "nightly" in (arguments.peers or ()) and not arguments.nightly:
        parser.error("--peers nightly needs --nightly FOLDER")
    peers = arguments.peers or ("fit", "fit20", *(["nightly"] if arguments.nightly else []))
    for network in arguments.networks:
        sides = {f"{kind}-{b}-{network}": b for b in arguments.backends for kind in ("ours", *peers)}
        paths = {side: arguments.nightly for side in sides if side.startswith("nightly")}
        found |= rounds.interleave(__file__, sides, arguments.rounds, paths=paths)
        for backend in arguments.backends:
            for peer in peers:
                a, b = f"ours-{backend}-{network}", f"{peer}-{backend}-{network}"
                ratios[f"{a} / {b}"] = [rounds.ratio(found, a, b), 1.0]
    rounds.show(found, "us a step")
    for name, (value, limit) in ratios.items():
        print(f"{name}: {value:.3f}, wanted at most {limit:.3f}{'' if value <= limit else '   MISSED'}")
    rounds.keep(arguments.keep, found, ratios)


def measure(kind: str, network: str) -> float:
    """Microseconds per step in the best of the epochs."""
    import lightkeras as lk

    import keras

    keras.utils.set_random_seed(0)
    model, x, y = {"cnn": cnn, "transformer": transformer, "lstm": lstm}[network]()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    clock = rounds.epoch_clock()
    with tempfile.TemporaryDirectory() as folder:
        if kind == "ours":
            task = lk.SupervisedTask(model, loss=loss, optimizer="adam", metrics=["accuracy"])
            runner = lk.Runner(max_epochs=EPOCHS, run_dir=Path(folder) / "run", callbacks=[clock])
            runner.fit(task, (x, y), batch_size=BATCH)
        else:
            model.compile("adam", loss, metrics=["accuracy"], steps_per_execution=1 if kind == "fit" else 20)
            callbacks = [*rounds.fit_callbacks(Path(folder)), clock]
            model.fit(x, y, batch_size=BATCH, epochs=EPOCHS, callbacks=callbacks, verbose=0)
    return min(clock.seconds()) / STEPS * 1e6


def cnn():
    import keras
    import numpy as np
    from keras import layers

    rng = np.random.default_rng(0)
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(10),
        ]
    )
    return model, rng.random((BATCH * STEPS, 28, 28, 1), dtype="float32"), labels(rng)


def transformer():
    import keras
    import numpy as np
    from keras import layers

    rng = np.random.default_rng(0)
    words = keras.Input((64,), dtype="int32")
    x = layers.Embedding(2000, 64)(words)
    for _ in range(2):
        normed = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(4, 16)(normed, normed)
        x = x + layers.Dense(64)(layers.Dense(128, activation="gelu")(layers.LayerNormalization()(x)))
    model = keras.Model(words, layers.Dense(10)(layers.GlobalAveragePooling1D()(x)))
    return model, rng.integers(0, 2000, (BATCH * STEPS, 64)).astype("int32"), labels(rng)


def lstm():
    import keras
    import numpy as np
    from keras import layers

    rng = np.random.default_rng(0)
    model = keras.Sequential(
        [
            keras.Input((50, 16)),
            layers.LSTM(64, return_sequences=True),
            layers.LSTM(64, return_sequences=True),
            layers.LSTM(64),
            layers.Dense(10),
        ]
    )
    return model, rng.normal(size=(BATCH * STEPS, 50, 16)).astype("float32"), labels(rng)


def labels(rng):
    return rng.integers(0, 10, BATCH * STEPS).astype("int32")


if __name__ == "__main__":
    main()
