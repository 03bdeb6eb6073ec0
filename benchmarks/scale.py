"""Time and memory of a large model: lightkeras, with the defaults, against Keras's `fit` and `save`.

    python benchmarks/scale.py [--millions 10 100] [--backends jax tensorflow] [--rounds 3]

A dense network with four hidden layers, about `--millions` million parameters, Adam, 3 epochs of 5 batches of 32: what
belongs to the size of the state, and not to the number of steps, dominates. Every side runs in its own process, in turn
(see `rounds.py`). Printed are medians of

    whole    seconds from the start of the process to the end of `fit` (for Keras: of `fit` and `save`)
    cpu      seconds of processor time of the process, of all cores: it depends less on other load
    peak     peak of the resident memory, minus that after the imports, in multiples of the parameters' bytes
    before   seconds from the call of `fit` to the first epoch; the parts after it are those of the run's own ledger
    held     share of the time in which checkpoints and the watch held up the loop, in two epochs of 100 steps: from the
             first step to the beginning of the third epoch, without what a run writes at its end
    resume   seconds from the call of `fit(resume=True)` to the first epoch; `load` reads and verifies its checkpoint
"""

import argparse
import json
import math
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import rounds

BATCH, STEPS, EPOCHS = 32, 5, 3
INPUTS, CLASSES = 64, 10
PARTS = ("start", "compute", "checkpoint", "watch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", nargs="*", type=int, default=[10, 100])
    parser.add_argument("--backends", nargs="*", default=["jax", "tensorflow"])
    parser.add_argument("--kinds", nargs="*", default=["ours", "fit", "resume"], help="also `held`")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", help="name of the file below results/; none is written without it")
    parser.add_argument("--side", help="run one side, KIND-BACKEND-MILLIONS, in this process and print its figures")
    arguments = parser.parse_args()
    if arguments.side:
        kind, _, millions = arguments.side.split("-")
        print(json.dumps(measure(kind, int(millions))))
        return
    found, ratios = {}, {}
    for millions in arguments.millions:
        sides = {f"{kind}-{b}-{millions}": b for b in arguments.backends for kind in arguments.kinds}
        found |= rounds.interleave(__file__, sides, arguments.rounds)
    for side, figures in found.items():
        medians = {name: statistics.median(one[name] for one in figures) for name in figures[0]}
        print(f"{side:20}", "  ".join(f"{name} {value:.2f}" for name, value in medians.items()), flush=True)
        ours, other = f"ours{side[3:]}", side
        if side.startswith("fit") and ours in found:
            pairs = zip(found[ours], found[other], strict=True)
            ratios[f"{ours} / {other}"] = [statistics.median(a["whole"] / b["whole"] for a, b in pairs), 1.2]
    for name, (value, limit) in ratios.items():
        print(f"{name}, whole: {value:.2f}, wanted at most {limit}{'' if value <= limit else '   MISSED'}")
    if arguments.keep:
        rounds.keep(
            arguments.keep, {side: [one["whole"] for one in figures] for side, figures in found.items()}, ratios
        )


def measure(kind: str, millions: int) -> dict[str, float]:
    """The figures of one side, in this process."""
    import lightkeras as lk
    from lightkeras.system import memory

    import keras

    baseline = memory.resident_bytes()
    with tempfile.TemporaryDirectory() as folder:
        if kind == "resume":
            fit(lk, millions, Path(folder), max_epochs=1)
        if kind in ("resume", "ours", "held"):
            longer = {"steps": 100} if kind == "held" else {}
            epochs = 2 if kind == "resume" else EPOCHS
            figures = fit(lk, millions, Path(folder), max_epochs=epochs, resume=kind == "resume", **longer)
        else:
            model, x, y = network(millions), *data(STEPS)
            model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
            model.fit(x, y, batch_size=BATCH, epochs=EPOCHS, verbose=0)
            model.save(Path(folder) / "model.keras")
            figures = {"parameters": model.count_params()}
        whole, cpu = _seconds_since_start(), time.process_time()
        peak = (memory.peak_bytes() - baseline) / (4 * figures.pop("parameters"))
        if kind == "resume":
            figures = {"resume": figures["before"], "load": loading(Path(folder))}
            shutil.rmtree(folder, ignore_errors=True)
        return {"whole": whole, "cpu": cpu, "peak": peak, **figures}


def fit(lk, millions: int, folder: Path, max_epochs: int, resume: bool = False, steps: int = STEPS) -> dict[str, float]:
    """One run of lightkeras: seconds to its first epoch, and in the parts of its ledger."""
    from lightkeras import runner

    import keras

    ledgers, clock = [], rounds.epoch_clock()
    begun = []  # the time, and the seconds of the ledger's parts, when each epoch begins
    noting = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda *_: begun.append((time.perf_counter(), ledgers[0].summary(1)["parts"]))
    )

    def ledger():
        ledgers.append(original())
        return ledgers[0]

    original, runner.TimeLedger = runner.TimeLedger, ledger
    model, (x, y) = network(millions), data(steps)
    task = lk.SupervisedTask(model, loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), optimizer="adam")
    began = time.perf_counter()
    lk.Runner(max_epochs=max_epochs, run_dir=folder / "run", callbacks=[clock, noting], progress=False).fit(
        task, (x, y), batch_size=BATCH, resume=resume
    )
    runner.TimeLedger = original
    seconds = ledgers[0].seconds
    figures = {"before": clock.times[0] - began, **{part: seconds[part] for part in PARTS}}
    if steps != STEPS:
        (first, before), *_, (last, after) = begun
        for part in ("checkpoint", "watch"):
            figures[f"{part} held"] = after[part]["seconds"] - before[part]["seconds"]
        figures["held"] = (figures["checkpoint held"] + figures["watch held"]) / (last - first)
    return {"parameters": model.count_params(), **figures}


def loading(folder: Path) -> float:
    """Seconds to read and verify the last checkpoint of a run."""
    from lightkeras.runs import checkpoint

    began = time.perf_counter()
    checkpoint.load(checkpoint.find(folder / "run" / "checkpoints", "last"))
    return time.perf_counter() - began


def network(millions: int):
    """A dense network: three square matrices hold almost all of its parameters."""
    import keras

    keras.utils.set_random_seed(0)
    units = round(math.sqrt(millions * 1e6 / 3))
    hidden = [keras.layers.Dense(units, "relu") for _ in range(4)]
    return keras.Sequential([keras.Input((INPUTS,)), *hidden, keras.layers.Dense(CLASSES)])


def data(steps: int):
    import numpy as np

    rng = np.random.default_rng(0)
    count = BATCH * steps
    return rng.normal(size=(count, INPUTS)).astype("float32"), rng.integers(0, CLASSES, count).astype("int32")


def _seconds_since_start() -> float:
    """Seconds since this process was started, of Linux's clock since boot."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / 100


if __name__ == "__main__":
    main()
