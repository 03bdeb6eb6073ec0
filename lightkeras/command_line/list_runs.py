"""The commands `lightkeras list` and `lightkeras compare`: runs of any experiments, as a table and as a page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightkeras.runs import overview, report
from lightkeras.runs.directory import RunDirectory, holds_several
from lightkeras.runs.overview import Overview
from lightkeras.runs.results import short
from lightkeras.system.console import Console
from lightkeras.system.tables import Table
from lightkeras.system.value_names import leading
from lightkeras.training.decisions import infer_mode

SIDE_BY_SIDE = 4
"""Runs that `compare` shows in a column each; of more, each has a row."""


def list_runs(folder: Path, by: str | None, page: Path | None) -> None:
    """Prints the runs below a folder: sorted by a value with the best first, else in the order of their start.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: No run has the value, or its name does not show whether lower or higher is better.
        OSError: The page cannot be written.
    """
    shown = overview.read_below(folder)
    if not shown:
        Console().print(f"There are no runs below {folder}.", markup=False, highlight=False)
        return
    order = _order(shown, by)
    shown = overview.ranked(shown, *order) if order is not None and by is not None else shown
    console = Console()
    console.print(_rows(shown, order))
    _print_notes(console, shown)
    if page is not None:
        _print_page(console, page, shown, order if by is not None else None)


def compare(paths: Sequence[Path], by: str | None, page: Path | None) -> None:
    """Prints runs side by side: their results and what differs. A search stands for its best trial.

    Raises:
        FileNotFoundError: A path holds no run.
        ValueError: There is only one run; or as in `list_runs`.
        OSError: The page cannot be written.
    """
    runs = [each for path in paths for each in _runs_of(path)]
    shown = [overview.read(path, name) for path, name in zip(runs, _names(runs), strict=True)]
    if len(shown) < 2:
        raise ValueError(
            f"compare: got one run, {paths[0]}; expected at least two. `lightkeras list FOLDER` shows all runs below a "
            "folder."
        )
    order = _order(shown, by)
    shown = shown if order is None else overview.ranked(shown, *order)
    console = Console()
    differences = overview.differences(shown)
    if len(shown) > SIDE_BY_SIDE:
        console.print(_rows(shown, order, differences.get("Hyperparameters", {})))
    else:
        console.print(_columns(shown, order, differences))
    _print_notes(console, shown)
    if page is not None:
        _print_page(console, page, shown, order)


def _runs_of(path: Path) -> list[Path]:
    directory = RunDirectory(path)
    is_experiment = directory.config_file.exists() and holds_several(directory)
    return overview.found(path) if is_experiment else [path]


def _names(paths: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as tell them apart."""
    parts = [path.absolute().parts for path in paths]
    for count in range(1, max(map(len, parts))):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(set(parts)):
            return names
    return [os.fspath(path) for path in paths]


def _order(shown: Sequence[Overview], by: str | None) -> tuple[str, str] | None:
    """Name and mode of the value to sort by: the given one, or the monitored value that all runs have in common."""
    if by is None:
        return overview.common_monitor(shown)
    modes = {found.mode for found in shown if found.monitor == by}
    if len(modes) == 1:
        return by, modes.pop()
    overview.ranked(shown, by, "min")  # first: a name that no run has
    return by, infer_mode(by)


def _rows(
    shown: Sequence[Overview], order: tuple[str, str] | None, varied: dict[str, list[Any]] | None = None
) -> Table:
    """One row for each run."""
    varied = varied or {}
    columns = ["run", "task", "status", "epochs", "best" if order is None else order[0], "test", *varied]
    rows = []
    for number, found in enumerate(shown):
        if order is not None:
            result = _short(found.values.get(order[0]))
        else:
            best = found.best.get(found.monitor or "")
            result = "" if best is None else f"{found.monitor} {_short(best)}"
        epochs = f"{found.epochs} trials" if found.is_search else _short(found.epochs)
        names = leading(found.test)
        more = [f"and {len(found.test) - len(names)} more"] if len(found.test) > len(names) else []
        tested = ", ".join([*(f"{name} {_short(found.test[name])}" for name in names), *more])
        cells = [found.name, str(found.config.get("task", "")), found.status, epochs, result, tested]
        rows.append([*cells, *(_short(column[number]) for column in varied.values())])
    return Table(columns, rows, texts=(1, 2, 5))


def _columns(
    shown: Sequence[Overview], order: tuple[str, str] | None, differences: dict[str, dict[str, list[Any]]]
) -> Table:
    """One column for each run: results, then what differs."""
    rows: list[list[str]] = []
    titles: list[int] = []

    def add(name: str, values: Sequence[Any]) -> None:
        rows.append([name, *map(_short, values)])

    add("task", [found.config.get("task") for found in shown])
    add("status", [found.status for found in shown])
    add("epochs", [f"{found.epochs} trials" if found.is_search else found.epochs for found in shown])
    by = None if order is None else order[0]
    known = dict.fromkeys(name for found in shown for name in found.values)
    names = leading(known, monitor=by)
    for name in sorted(names, key=lambda name: name != by):
        add(name if name.startswith("test/") else f"best {name}", [found.values.get(name) for found in shown])
    if len(known) > len(names):
        add(f"{len(known) - len(names)} further values", [None] * len(shown))
    for title, differing in differences.items():
        titles.append(len(rows))
        add(title, [None] * len(shown))
        for name, values in differing.items():
            add(name, values)
    return Table(["", *(found.name for found in shown)], rows, marked=titles)


def _print_notes(console: Console, shown: Sequence[Overview]) -> None:
    for found in shown:
        if found.status == "damaged":
            console.print(f"{found.name} is damaged: {found.note}", markup=False, highlight=False, soft_wrap=True)
    if any(found.status == "running" for found in shown):
        console.print("A run that is still going has its values so far.", markup=False, highlight=False)


def _print_page(console: Console, page: Path, shown: list[Overview], order: tuple[str, str] | None) -> None:
    written = report.write_comparison(page, shown, order)
    console.print(f"page  {written}", markup=False, highlight=False, soft_wrap=True)


def _short(value: Any) -> str:
    return "" if value is None else short(value)
