"""Time of a train step beside the time that moving its memory takes, from 0.1 to 12 million parameters.

    python benchmarks/memory_floor.py [--rounds 3] [--backend jax]

A step with Adam moves at least ten arrays of the parameters' size: the forward and the backward pass read the weights
and write the gradients, and Adam reads gradients, weights and its two moments, and writes the last three. The floor is
those bytes at the rate of `a + b` over arrays of that size, on the same backend in the same process.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import growth
import rounds

UNITS = (256, 1024, 2000, 3400)  # of two hidden layers: 0.1, 1.2, 4.2 and 11.9 million parameters
ARRAYS = 10
EPOCHS, STEPS = 4, 50
REPEATS = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--backend", default="jax")
    parser.add_argument("--side", help="units: measure in this process and print step and floor")
    arguments = parser.parse_args()
    if arguments.side:
        units = int(arguments.side)
        print(json.dumps([step(units), floor(growth.weights(units))]))
        return
    found = rounds.interleave(__file__, {str(units): arguments.backend for units in UNITS}, arguments.rounds)
    ratios = {}
    for side, values in found.items():
        steps, floors = (statistics.median(column) * 1e6 for column in zip(*values, strict=True))
        ratios[side] = statistics.median(one / other for one, other in values)
        size = growth.weights(int(side))
        print(f"{size:>12,} parameters: step {steps:9.0f} us, floor {floors:9.0f} us, ratio {ratios[side]:.2f}")
    rounds.keep(f"memory_floor_{arguments.backend}", found, ratios)


def step(units: int) -> float:
    """Seconds of a step in the best epoch after the first."""
    import lightkeras as lk

    import keras
    import numpy as np

    examples, rng = 32 * STEPS, np.random.default_rng(0)
    x, y = rng.random((examples, 100), dtype="float32"), rng.integers(0, 10, examples).astype("int32")
    dense = keras.layers.Dense
    model = keras.Sequential([keras.Input((100,)), dense(units, "relu"), dense(units, "relu"), dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    task = lk.SupervisedTask(model, loss=loss, optimizer="adam")
    clock = rounds.epoch_clock()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        lk.Runner(max_epochs=EPOCHS, run_dir=run, callbacks=[clock], pictures=False).fit(task, (x, y))
    return min(clock.seconds()[1:-1]) / STEPS


def floor(parameters: int) -> float:
    """Seconds in which the bytes of a step are moved."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        add = jax.jit(lambda a, b: a + b)
        wait = jax.block_until_ready
    elif keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        add, wait = tf.function(lambda a, b: a + b), lambda array: array
    else:
        add, wait = lambda a, b: a + b, lambda array: array
    a, b = keras.ops.ones(parameters), keras.ops.ones(parameters)
    best = float("inf")
    for _ in range(REPEATS):
        began = time.perf_counter()
        wait(add(a, b))
        best = min(best, time.perf_counter() - began)
    return ARRAYS / 3 * best


if __name__ == "__main__":
    main()
