"""Every experiment in every format: one epoch on the sample, exported, loaded by the format's runtime and compared.

    python benchmarks/exports.py [--work DIR] [--experiments auto_mpg ...] [--formats onnx ...]

Writes `benchmarks/results/exports.json`, which `--draw` makes the table of docs/how_to/export.md from. An export that
is neither equal nor refused before it is written ends the program with status 1.
"""

import argparse
import ast
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "exports.json"
PAGE = ROOT / "docs" / "how_to" / "export.md"
BEGIN, END = "<!-- table of benchmarks/exports.py -->\n", "<!-- end of the table -->\n"
FORMATS = ("saved_model", "onnx", "litert", "openvino", "torch")
BACKENDS = {"torch": "torch"}  # a run of the format's own backend, else of TensorFlow
TEXT = "has no operators for text"
REFUSED = (TEXT, "needs TensorFlow", "lacks operators", "cannot trace the model")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=None, help="where the runs are kept")
    experiments = sorted(path.stem for path in (ROOT / "experiments").glob("*.py"))
    parser.add_argument("--experiments", nargs="*", choices=experiments, default=experiments)
    parser.add_argument("--formats", nargs="*", choices=FORMATS, default=FORMATS)
    parser.add_argument("--backend", default="tensorflow", help="of the runs")
    parser.add_argument("--times", action="store_true", help="keep latencies too: on a machine that does nothing else")
    parser.add_argument("--draw", action="store_true", help="draw the table of the results that are there")
    arguments = parser.parse_args()
    if not arguments.draw:
        with tempfile.TemporaryDirectory() as scratch:
            measure(arguments, arguments.work or Path(scratch))
    rows = json.loads(RESULTS.read_text())
    draw(rows)
    wrong = [
        f"{name} as {form}: {cell['error']}" for name, row in rows.items() for form, cell in row.items() if bad(cell)
    ]
    sys.exit("\n".join(wrong) or None)


def bad(cell):
    """Whether an export failed otherwise than by a refusal with a reason."""
    return "error" in cell and not any(reason in cell["error"] for reason in REFUSED)


def measure(arguments, work):
    """Runs each experiment and each export, and keeps what is known after each."""
    env = {**os.environ, "KERAS_BACKEND": arguments.backend, "PYTHONPATH": str(ROOT)}
    for name in arguments.experiments:
        file, run = ROOT / "experiments" / f"{name}.py", work / name
        if not (run / "model.keras").exists():
            flags = ["--source", "sample", "--runner.max_epochs", "1", "--runner.pictures", "false"]
            command = [sys.executable, str(file), "fit", *flags, "--run_dir", str(run)]
            subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for form in arguments.formats:
            cell = exported(file, run, form, work / f"{name}-{form}", env, arguments.times)
            if TEXT in cell.get("error", ""):
                cell = exported(file, run, form, work / f"{name}-{form}", env, arguments.times, "numbers")
            print(f"{name:24} {form:12} {cell}", flush=True)
            rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
            rows.setdefault(name, {})[form] = cell
            RESULTS.write_text(json.dumps(dict(sorted(rows.items())), indent=2) + "\n")


def exported(file, run, form, out, env, times, part="whole"):
    """One export: its difference and latencies, or why it was refused."""
    command = [sys.executable, "-m", "lightkeras.command_line.entry_point", "export", str(run), "--format", form]
    command += ["--out", str(out), "--task", f"{file}:{task_of(file)}", "--trust_run", "--part", part]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")] or done.stderr.splitlines()[
            -3:
        ]
        return {"error": " ".join(lines).replace(f"{run}/", "").removeprefix("error: ")[:500]}
    record = json.loads((out / "export.json").read_text())
    cell = {name: record[name] for name in ("part", "largest_difference", "tolerance", "examples")}
    for name, seconds in record["latency"].items() if times else ():
        cell |= {f"{name}_{batch}": value for batch, value in seconds.items()}
    return {**cell, "bytes": sum(each["bytes"] for each in record["files"].values())}


def task_of(file):
    """The class of an experiment that is a task."""
    tree = ast.parse(file.read_text())
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    [name] = [node.name for node in classes if "lk.Task" in [ast.unparse(base) for base in node.bases]]
    return name


def draw(rows):
    """Writes the table into the page."""
    lines = [f"| experiment | {' | '.join(FORMATS)} |", f"|---|{'---|' * len(FORMATS)}"]
    for name, row in rows.items():
        lines.append(f"| `{name}` | {' | '.join(shown(row.get(form)) for form in FORMATS)} |")
    table = "\n".join(lines) + "\n"
    print(table)
    if PAGE.exists():
        head, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(f"{head}{BEGIN}{table}{END}{rest.partition(END)[2]}")


def shown(cell):
    """A cell: the largest difference and, where times were kept, how many times faster than `predict` one example is;
    or why the format was refused."""
    if cell is None:
        return ""
    if "error" in cell:
        return "**failed**" if bad(cell) else "text" if "text" in cell["error"] else "operators"
    faster = f", {cell['predict_s_batch_1'] / cell['artifact_s_batch_1']:.0f}x" if "predict_s_batch_1" in cell else ""
    part = "numbers: " if cell.get("part") == "numbers" else ""
    return f"{part}{cell['largest_difference']:.0e}{faster}"


if __name__ == "__main__":
    main()
