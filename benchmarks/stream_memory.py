"""Memory of a streamed fit as the stream grows: it must stay flat.

    python benchmarks/stream_memory.py [--steps 20000]

Fits a small model on a generator of random batches (32 x 100 floats each, generated one at a time) and prints the
resident memory after each tenth of the steps.
"""

import argparse
import os
import tempfile
from pathlib import Path

import lightkeras as lk

import keras
import numpy as np


def resident_megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20_000)
    steps = parser.parse_args().steps
    seen = 0

    def batches():
        nonlocal seen
        rng = np.random.default_rng(0)
        for step in range(steps):
            if step % (steps // 10) == 0:
                seen += 1
                if seen > 1:  # the very first look is that of the preflight
                    print(f"step {step:>8,}  {resident_megabytes():7.1f} MB", flush=True)
            x = rng.random((32, 100), dtype="float32")
            yield x, x.sum(-1)

    model = keras.Sequential([keras.Input((100,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(1)])
    with tempfile.TemporaryDirectory() as folder:
        runner = lk.Runner(max_epochs=1, run_dir=Path(folder) / "run")
        runner.fit(lk.SupervisedTask(model, loss="mse"), batches)
    print(f"end            {resident_megabytes():7.1f} MB")


if __name__ == "__main__":
    main()
