"""Wall time, accuracy and memory of the main job, against the tutorial's code.

    LIGHTKERAS_DATA_DIR=../shared/data python benchmarks/imdb_hub.py [--rounds 1]

Both run as processes of their own, one after the other, on the real reviews with `glove-6b-50d` from the
data folder, fine-tuned; wall time counts from the start of the process to its end.

    ours      experiments/imdb_hub.py with its defaults: early stopping, logs, checkpoints, test of the best weights
    tutorial  benchmarks/tutorial_imdb.py: tf_keras and hub.KerasLayer, 30 epochs, test of the last weights
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    folder = os.environ.get("LIGHTKERAS_DATA_DIR")
    if not folder:
        raise SystemExit("LIGHTKERAS_DATA_DIR must name a folder with imdb_reviews/ and hub/glove-6b-50d/.")
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as scratch:
            ours(Path(scratch) / "run")
        tutorial(folder)


def ours(run_dir: Path) -> None:
    seconds, peak, _ = timed([ROOT / "experiments" / "imdb_hub.py", "--source", "real", "--run_dir", run_dir])
    result = json.loads((run_dir / "result.json").read_text())
    accuracy, epochs = result["test"]["accuracy"], result["fit"]["epochs"]
    print(f"ours      {seconds:6.1f} s  test accuracy {accuracy:.4f}  {epochs:2} epochs  peak {peak / 1e6:.2f} GB")


def tutorial(folder: str) -> None:
    seconds, peak, out = timed([ROOT / "benchmarks" / "tutorial_imdb.py", "--data_dir", folder, "--epochs", "30"])
    found = json.loads(out.splitlines()[-1])
    accuracy = found["test_accuracy"]
    print(f"tutorial  {seconds:6.1f} s  test accuracy {accuracy:.4f}  30 epochs  peak {peak / 1e6:.2f} GB")


def timed(command: list) -> tuple[float, int, str]:
    """Seconds, peak resident memory in kB, and standard output of a Python process."""
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen([sys.executable, *map(str, command)], stdout=out, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{command[0]} ended with status {process.returncode}")
        out.seek(0)
        return time.perf_counter() - began, usage.ru_maxrss, out.read()


if __name__ == "__main__":
    main()
