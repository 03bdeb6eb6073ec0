"""The main experiment against the tutorial's code: by default, until an accuracy, and with a frozen module; its help.

    LIGHTKERAS_DATA_DIR=../shared/data python benchmarks/imdb_hub.py [--rounds 5] [--jobs default until frozen help]

Every side runs in its own process, in turn, round by round, on the real reviews with `glove-6b-50d` from the data
folder; wall time counts from the start of the process to its end. Cached features are deleted before each run, except
in `ours-kept`.

    default   the whole of each: experiments/imdb_hub.py with its defaults, early stopping and the test of the best
              weights included; the tutorial's 30 epochs and its test. Memory and test accuracy too.
    until     until validation accuracy is 0.85, the module fine-tuned; 60 epochs at most
    frozen    10 epochs with the frozen module, validation each epoch, no test in either
    help      `--help` and a mistake in the flags, in seconds, beside `import keras`
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

import rounds

ROOT = Path(__file__).parents[1]
TARGET = 0.85
LIMITS = {"default": 0.17, "until": 1 / 3, "frozen": 1 / 3, "help": 1.0}  # of the tutorial's time; of help seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", nargs="*", choices=LIMITS, default=list(LIMITS))
    parser.add_argument("--backend", default="tensorflow", help="of our side")
    arguments = parser.parse_args()
    if not os.environ.get("LIGHTKERAS_DATA_DIR"):
        raise SystemExit("LIGHTKERAS_DATA_DIR must name a folder with imdb_reviews/ and hub/glove-6b-50d/.")
    os.environ["KERAS_BACKEND"] = arguments.backend
    for job in arguments.jobs:
        found: dict[str, list[float]] = {}
        for _ in range(arguments.rounds):
            for side, seconds in {"default": default, "until": until, "frozen": frozen, "help": help_}[job]():
                found.setdefault(side, []).append(seconds)
        rounds.show(found, "s")
        sides = [side for side in found if side not in ("tutorial", "import keras")]
        if job == "help":
            ratios = {f"{side}, s": [statistics.median(found[side]), LIMITS[job]] for side in sides}
        else:
            ratios = {f"{side} / tutorial": [rounds.ratio(found, side, "tutorial"), LIMITS[job]] for side in sides}
        for name, (value, limit) in ratios.items():
            print(f"{job}: {name}: {value:.3f}, wanted at most {limit:.3f}{'' if value <= limit else '   MISSED'}")
        rounds.keep(f"imdb_{job}_{arguments.backend}", found, ratios)


def default():
    with tempfile.TemporaryDirectory() as scratch:
        seconds, peak, _ = ours(Path(scratch) / "run", Path(scratch) / "cache")
        result = json.loads((Path(scratch) / "run" / "result.json").read_text())
    accuracy, epochs = result["test"]["accuracy"], result["fit"]["epochs"]
    print(f"ours      {seconds:6.1f} s  test accuracy {accuracy:.4f}  {epochs:2} epochs  peak {peak / 1e6:.2f} GB")
    yield "ours", seconds
    seconds, peak, out = tutorial("--epochs", 30)
    accuracy = json.loads(out.splitlines()[-1])["test_accuracy"]
    print(f"tutorial  {seconds:6.1f} s  test accuracy {accuracy:.4f}  30 epochs  peak {peak / 1e6:.2f} GB")
    yield "tutorial", seconds


def until():
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with tempfile.TemporaryDirectory() as scratch:
        began = time.time()
        ours(Path(scratch) / "run", Path(scratch) / "cache", "fit", "--runner.max_epochs", 60)
        events = EventAccumulator(str(Path(scratch) / "run")).Reload().Scalars("val/accuracy")
    yield "ours", next(event.wall_time for event in events if event.value >= TARGET) - began
    _, _, out = tutorial("--epochs", 60, "--until", TARGET)
    found = json.loads(out.splitlines()[-1])
    if found["reached_s"] is None:
        raise SystemExit(f"The tutorial's code came to {found['best_validation']} in 60 epochs.")
    yield "tutorial", found["reached_s"]


def frozen():
    with tempfile.TemporaryDirectory() as scratch:
        for side in ("ours", "ours-kept"):  # the second finds the features of the first
            settings = ("--hp.fine_tune", "false", "--runner.max_epochs", 10, "--runner.patience", 10)
            seconds, _, _ = ours(Path(scratch) / side, Path(scratch) / "cache", "fit", *settings)
            yield side, seconds
    _, _, out = tutorial("--epochs", 10, "--frozen", "--until", 2.0)
    yield "tutorial", json.loads(out.splitlines()[-1])["process_s"]


def help_():
    script = ROOT / "experiments" / "imdb_hub.py"
    for side, command, status in [
        ("help", [script, "--help"], 0),
        ("mistake", [script, "--hp.dropuot", "0.1"], 2),
        ("import keras", ["-c", "import keras"], 0),
    ]:
        yield side, timed(command, {}, status)[0]


def ours(run_dir, cache, *command):
    environment = {"LIGHTKERAS_CACHE_DIR": str(cache)}
    script = ROOT / "experiments" / "imdb_hub.py"
    return timed([script, *command, "--source", "real", "--run_dir", run_dir], environment)


def tutorial(*arguments):
    return timed([ROOT / "benchmarks" / "tutorial_imdb.py", *arguments], {})


def timed(command, environment, status=0):
    """Seconds, peak resident memory in kB, and standard output of a Python process that ends with a status."""
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        command = [sys.executable, *map(str, command)]
        process = subprocess.Popen(command, stdout=out, stderr=errors, env={**os.environ, **environment})
        _, ended, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(ended)
        if process.returncode != status:
            errors.seek(0)
            raise SystemExit(f"{command[1]} ended with status {process.returncode}:\n{errors.read()[-2000:]}")
        out.seek(0)
        return time.perf_counter() - began, usage.ru_maxrss, out.read()


if __name__ == "__main__":
    main()
