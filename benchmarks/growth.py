"""Time as the work grows ten times: examples, steps, parameters. It must not grow more than the work.

    python benchmarks/growth.py [--rounds 5] [--backend tensorflow]

A dense network on random data, with lightkeras's defaults; seconds in epochs, waiting included. Every side runs in its
own process, in turn (see `rounds.py`). `stream_memory.py` measures the memory of a stream.

    base         12,800 examples of 100 numbers in batches of 32, 5 epochs, 100-256-256-10
    examples     ten times the examples
    steps        ten times the epochs
    parameters   100-1024-1024-10: twelve times the parameters (its arithmetic grows as much)
    large        ten times the parameters of that: 100-3400-3400-10, one epoch; figures are scaled to the same steps
"""

import argparse
import json
import tempfile
from pathlib import Path

import rounds

SIDES = {  # examples, epochs, units
    "base": (12_800, 5, 256),
    "examples": (128_000, 5, 256),
    "steps": (12_800, 50, 256),
    "parameters": (12_800, 5, 1024),
    "large": (12_800, 1, 3400),
}
LIMITS = {"examples": 11.0, "steps": 11.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backend", default="tensorflow")
    parser.add_argument("--side", choices=SIDES, help="run one side in this process and print its figure")
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(measure(*SIDES[arguments.side])))
        return
    found = rounds.interleave(__file__, dict.fromkeys(SIDES, arguments.backend), arguments.rounds)
    rounds.show(found, "s")
    ratios = {f"{side} / base": [rounds.ratio(found, side, "base"), limit] for side, limit in LIMITS.items()}
    parameters = {side: weights(SIDES[side][2]) for side in SIDES}
    for small, big in (("base", "parameters"), ("parameters", "large")):
        grown = parameters[big] / parameters[small]
        steps = SIDES[small][1] / SIDES[big][1]
        ratios[f"{big} / {small}"] = [rounds.ratio(found, big, small) * steps, 1.1 * grown]
    for name, (value, limit) in ratios.items():
        print(f"{name}: {value:.2f}, wanted at most {limit:.2f}{'' if value <= limit else '   MISSED'}")
    rounds.keep(f"growth_{arguments.backend}", found, ratios)


def weights(units: int) -> int:
    return 100 * units + units * units + units * 10 + 2 * units + 10


def measure(examples: int, epochs: int, units: int) -> float:
    """Seconds in epochs."""
    import lightkeras as lk

    import keras
    import numpy as np

    rng = np.random.default_rng(0)
    x, y = rng.random((examples, 100), dtype="float32"), rng.integers(0, 10, examples).astype("int32")
    dense = keras.layers.Dense
    model = keras.Sequential([keras.Input((100,)), dense(units, "relu"), dense(units, "relu"), dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    task = lk.SupervisedTask(model, loss=loss, optimizer="adam", metrics=["accuracy"])
    clock = rounds.epoch_clock()
    with tempfile.TemporaryDirectory() as folder:
        lk.Runner(max_epochs=epochs, run_dir=Path(folder) / "run", callbacks=[clock]).fit(task, (x, y))
    return sum(clock.seconds())


if __name__ == "__main__":
    main()
