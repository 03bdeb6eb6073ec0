"""Output of the commands on the terminal: tables, and lines with paths and commands."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from lightkeras.runs import formats
from lightkeras.runs.directory import RunDirectory, runs_below
from lightkeras.runs.results import EvalResult, FitResult, SearchResult, counted, short
from lightkeras.system import files
from lightkeras.system.console import Console
from lightkeras.system.tables import Tabular, of_splits
from lightkeras.training.timing import PARTS


def report_fit(fitted: FitResult, tested: EvalResult | None) -> None:
    """Prints the closing screen of a run: the best epoch, the test, why it stopped, and where its files are."""
    console = Console()
    splits = fitted.splits()
    if tested is not None:
        splits["test"] = dict(tested.metrics)
    table = of_splits(splits, fitted.lines(), fitted.plain_monitor)
    if fitted.best is not None:
        console.print(table)
    page = RunDirectory(fitted.run_dir).report_file
    lines = {
        **table.lines,
        **({"report": str(page)} if page.exists() else {}),
        "run_dir": str(fitted.run_dir),
        "tensorboard": f"tensorboard --logdir {fitted.run_dir}",
    }
    if fitted.interrupted:
        command = " fit" if sys.argv[1:2] == ["fit"] else ""  # without it, the resumed run would be tested too
        lines["resume"] = f"python {sys.argv[0]}{command} --resume --run_dir {fitted.run_dir}"
    print_lines(console, lines)


def report_experiment(directory: RunDirectory) -> None:
    """Prints a table of the runs of an experiment."""
    console = Console()
    rows: dict[str, Any] = {}
    for path in runs_below(directory):
        result = RunDirectory(path).read_result()
        best = result.get("fit", {}).get("best") or {}
        values = {name: value for name, value in best.items() if name.startswith("val/") and value is not None}
        values |= {f"test/{name}": value for name, value in (result.get("test") or {}).items() if value is not None}
        rows[path.relative_to(directory.path).as_posix()] = values
    table = of_splits(rows)
    if any(rows.values()):
        console.print(table)
    page = {"report": str(directory.report_file)} if directory.report_file.exists() else {}
    tensorboard = f"tensorboard --logdir {directory.path}"
    print_lines(console, {**table.lines, **page, "run_dir": str(directory.path), "tensorboard": tensorboard})


def report_profile(run_dir: Path) -> None:
    """Prints `profile.json`, the largest part first, without parts that took less than 1 ms."""
    directory = RunDirectory(run_dir)
    profile = files.read_json(directory.profile_file, formats.Profile)
    table = Table(title=f"time: {profile['wall_s']:.1f} s, {counted(profile['steps'], 'step')}")
    table.add_column("")
    table.add_column("share", justify="right")
    table.add_column("s", justify="right")
    table.add_column("includes")
    for name, part in sorted(profile["parts"].items(), key=lambda item: -item[1]["seconds"]):
        if part["seconds"] >= 0.001:
            table.add_row(name, f"{100 * part['share']:.1f} %", f"{part['seconds']:.3f}", PARTS.get(name, ""))
    console = Console()
    console.print(table)
    lines = {}
    if profile["compute_us_per_step"] is not None:
        lines["per step"] = f"{profile['compute_us_per_step']:,.0f} us of compute"
    for number, found in enumerate(profile["compilations"], 1):
        compiled = f"{found['step']} step compiled for {found['form']}"
        lines[f"compiled {number}"] = f"{compiled}, {found['seconds']:.2f} s: {found['cause']}"
    if profile["trace"] is not None:
        lines["trace"] = f"tensorboard --logdir {profile['trace']}"
    print_lines(console, lines)


def report_search(result: SearchResult) -> None:
    """Prints the closing screen of a search: the best trials, their repeats, and where the files are."""
    console = Console()
    lines = result.lines()
    if result.best is None:
        lines["best"] = f"none: no trial was completed; the last one failed: {result.trials[-1].reason}"
    else:
        console.print(result.ranked())
        values = ", ".join(f"{name}={short(value)}" for name, value in result.best.hparams.items())
        lines["best"] = f"{result.objective} {result.best.objective:.4f} with {values}"
        for name, repeated in result.repeats.items():
            own = next(trial.objective for trial in result.trials if trial.name == name)
            lines[f"{name}"] = f"{result.objective} {_spread(repeated)} with other seeds ({own:.4f} in the search)"
        lines["test"] = f"python {sys.argv[0]} test --run_dir {result.best_dir}"
    lines |= {"run_dir": str(result.run_dir), "tensorboard": f"tensorboard --logdir {result.run_dir}"}
    print_lines(console, lines)


def _spread(values: Sequence[float]) -> str:
    """Mean and standard deviation, with 4 decimals."""
    if not values:
        return "none, because every run failed,"
    spread = f" \N{PLUS-MINUS SIGN} {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.4f}{spread}"


def print_result(result: Tabular) -> None:
    """Prints the table of a result and the lines below it."""
    console, table = Console(), result.table()
    if table.rows:
        console.print(table)
    print_lines(console, table.lines)


def print_artifact(tested: EvalResult, found: EvalResult, artifact: str) -> None:
    """Prints the values of a run and those of an artifact of it."""
    console = Console()
    table = of_splits({"run": tested.metrics, "artifact": found.metrics}, {"artifact": artifact, **found.table().lines})
    console.print(table)
    print_lines(console, table.lines)


def print_lines(console: Console, lines: Mapping[str, str]) -> None:
    """Prints a label and a text per line, the labels flush right."""
    for name, text in lines.items():
        console.print(f"{name:>11}  {text}", highlight=False, markup=False, soft_wrap=True)


def print_error(error: BaseException) -> None:
    """Prints a user's mistake and its notes on stderr."""
    console = Console(stderr=True, soft_wrap=True)
    console.print(f"error: {error}", markup=False, highlight=False)
    for note in getattr(error, "__notes__", ()):
        console.print(note, markup=False, highlight=False)
