"""Overviews of runs: what `lightkeras list`, `lightkeras compare` and the report of several runs show of each.

found(folder)            # run directories below a folder, a search or an experiment
read(path, name)         # one of them, whatever state it is in
ranked(overviews, by, mode)
differences(overviews)   # of hyperparameters, code, data and versions
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightkeras.runs.directory import RunDirectory
from lightkeras.system import files
from lightkeras.system.locks import RunLockedError, check_free
from lightkeras.system.messages import did_you_mean

_DEPTH = 8
_MOST_BYTES = 64 * 2**20  # of a `trials.csv`


@dataclasses.dataclass(frozen=True)
class Overview:
    """One run, or one search with its best trial.

    Args:
        name: Name in a table.
        path: Its run directory.
        status: `"finished"`, `"running"`, `"interrupted"`, `"diverged"`, `"not finished"` or `"damaged"`; of a trial of
            a search also `"pruned"` or `"failed"`.
        note: Why it stopped, or what is damaged; `None` if that is not known.
        config: Its `config.json`; empty if it is damaged.
        epochs: Epochs finished; of a search, its trials.
        best: Values of the best epoch such as `val/loss`.
        test: Means over the test split by plain name.
        hparams: Hyperparameters; of a search, those of its best trial.
        monitor: The monitored value or the objective of the search; `None` if there is none.
        mode: Whether a lower (`"min"`) or a higher (`"max"`) monitored value is better.
        curves: Run directory whose curves are drawn.
    """

    name: str
    path: Path
    status: str
    note: str | None = None
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    epochs: int | None = None
    best: Mapping[str, float] = dataclasses.field(default_factory=dict)
    test: Mapping[str, float] = dataclasses.field(default_factory=dict)
    hparams: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    monitor: str | None = None
    mode: str = "min"
    curves: Path | None = None

    @property
    def values(self) -> dict[str, float]:
        """Values that runs can be sorted by: those of the best epoch, and `test/...`."""
        return {**self.best, **{f"test/{name}": value for name, value in self.test.items()}}

    @property
    def is_search(self) -> bool:
        return "search" in self.config


def found(top: Path) -> list[Path]:
    """Returns the run directories below a folder, in the order of their start.

    A search below it is one of them, without its trials; of a search given itself its trials are returned, and of an
    experiment its runs.

    Raises:
        FileNotFoundError: The folder does not exist.
    """
    if not top.is_dir():
        raise FileNotFoundError(f"{top} does not exist, or is not a folder. Give a folder of runs, such as runs/.")
    paths = list(_below(top, _DEPTH, first=True))
    return sorted(paths, key=lambda path: (str(_config_of(path).get("started")), path.as_posix()))


def read(path: Path, name: str | None = None) -> Overview:
    """Reads a run or a search, in any state; a damaged file makes it `"damaged"`.

    Raises:
        FileNotFoundError: The folder holds no run, or an experiment.
    """
    name, directory = path.name if name is None else name, RunDirectory(path)
    try:
        config, result = directory.read_config(), directory.read_result()
        if "experiment" in config:
            raise FileNotFoundError(f"{path} holds an experiment: give its runs, such as {path}/NAME.")
        shown = _of_search(name, path, config, result) if "search" in config else _of_run(name, path, config, result)
    except files.DamagedFileError as error:
        return Overview(name, path, "damaged", str(error))
    try:
        check_free(directory.lock_file)
    except RunLockedError:
        return dataclasses.replace(shown, status="running", note=None)
    return shown


def read_below(top: Path) -> list[Overview]:
    """Reads all runs that `found` returns, named by their path below the folder; a trial by its number alone.

    Raises:
        FileNotFoundError: The folder does not exist.
    """
    is_search = "search" in _config_of(top)
    ended = trials_of(top) if is_search else {}
    shown = []
    for path in found(top):
        name = path.relative_to(top).as_posix()
        if is_search and name.startswith("trials/"):
            name = path.name
        overview = read(path, path.name if name == "." else name)
        status, reason = ended.get(name, (None, None))
        if status in ("pruned", "failed"):
            overview = dataclasses.replace(overview, status=status, note=reason)
        shown.append(overview)
    return shown


def trials_of(path: Path) -> dict[str, tuple[str, str]]:
    """Status and reason of the ended trials of a search, by name.

    Raises:
        DamagedFileError: `trials.csv` is damaged.
    """
    table = path / "trials.csv"
    if not os.path.lexists(table):
        return {}
    try:
        rows = csv.DictReader(io.StringIO(files.read_bytes(table, _MOST_BYTES).decode()))
        return {row["trial"]: (row["status"], row["reason"]) for row in rows}
    except (KeyError, TypeError, UnicodeDecodeError, csv.Error) as error:
        raise files.DamagedFileError(f"{table} is damaged: {error}.") from error


def history_of(directory: RunDirectory) -> dict[str, list[float]]:
    """Reads `FitResult.history` from `metrics.csv`, without names that have no values; a ValueError if damaged."""
    if not os.path.lexists(directory.metrics_file):
        return {}
    try:
        with io.TextIOWrapper(files.open_to_read(directory.metrics_file), encoding="utf-8", newline="") as file:
            header = next(csv.reader([file.readline()]), [])
            # Nearly all of the rows, which may be millions, are of steps. The last line may be being written.
            rows = list(csv.reader(line for line in file if line.startswith("epoch,") and line.endswith("\n")))
        columns = {name: [float(row[i] or "nan") for row in rows] for i, name in enumerate(header) if "/" in name}
    except files.DamagedFileError:
        raise
    except (ValueError, IndexError, csv.Error) as error:
        raise files.DamagedFileError(f"{directory.metrics_file} is damaged: {error}.") from error
    known = {name: values for name, values in columns.items() if name.startswith(("train/", "val/"))}
    return {name: values for name, values in known.items() if any(map(math.isfinite, values))}


def ranked(overviews: Sequence[Overview], by: str, mode: str) -> list[Overview]:
    """Sorts by a value, the best first; those without the value come last.

    Raises:
        ValueError: None has the value.
    """
    known = list(dict.fromkeys(name for overview in overviews for name in overview.values))
    if by not in known:
        listed = did_you_mean(by, known) if known else "No run has a result yet."
        raise ValueError(f"--by {by}: no run has such a value. {listed}")
    sign = 1 if mode == "min" else -1

    def key(overview: Overview) -> tuple[bool, float]:
        value = overview.values.get(by, math.nan)
        return not math.isfinite(value), sign * value if math.isfinite(value) else 0.0

    return sorted(overviews, key=key)


def common_monitor(overviews: Sequence[Overview]) -> tuple[str, str] | None:
    """Name and mode of the monitored value, if it is the same for all runs with results; else `None`."""
    monitored = {(found.monitor, found.mode) for found in overviews if found.monitor in found.best}
    (name, mode), *others = monitored or {(None, "")}
    return None if name is None or others else (name, mode)


def differences(overviews: Sequence[Overview]) -> dict[str, dict[str, list[Any]]]:
    """What differs between runs, by group and name: one value for each run, `None` where it has none."""
    groups: dict[str, list[Mapping[str, Any]]] = {
        "Hyperparameters": [found.hparams for found in overviews],
        "Code": [_short_digests(found.config.get("code") or {}) for found in overviews],
        "Data and environment": [_surroundings(found.config) for found in overviews],
    }
    return {title: rows for title, columns in groups.items() if (rows := _differing(columns))}


def _short_digests(code: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(digest)[:8] for name, digest in code.items()}


def _differing(columns: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for column in columns for name in column)
    rows = {name: [column.get(name) for column in columns] for name in names}
    return {name: row for name, row in rows.items() if any(value != row[0] for value in row)}


def _surroundings(config: Mapping[str, Any]) -> dict[str, Any]:
    data, versions = config.get("data") or {}, config.get("versions") or {}
    facts = {"data": config.get("source") or data.get("source"), "data fingerprint": data.get("fingerprint")}
    facts |= {"backend": config.get("backend"), "seed": config.get("seed")}
    return facts | {f"version of {name}": version for name, version in versions.items()}


def _below(folder: Path, depth: int, first: bool = False) -> Iterator[Path]:
    if RunDirectory(folder).config_file.is_file():
        config = _config_of(folder)
        if not ("experiment" in config or ("search" in config and first)):
            yield folder
            return
    names = sorted(os.scandir(folder), key=lambda entry: entry.name) if depth else ()
    for entry in names:
        is_copy = first and entry.name in ("best", "replays") and "search" in _config_of(folder)
        if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".") and not is_copy:
            yield from _below(Path(entry.path), depth - 1)


def _config_of(path: Path) -> Mapping[str, Any]:
    try:
        return RunDirectory(path).read_config()
    except (OSError, ValueError):  # `read` names the error
        return {}


def _of_run(name: str, path: Path, config: Mapping[str, Any], result: Mapping[str, Any]) -> Overview:
    fit, monitored = result.get("fit"), config.get("monitor") or {}
    monitor, mode = monitored.get("name"), monitored.get("mode", "min")
    if fit is None:
        history = history_of(RunDirectory(path))
        status, note, epochs = "not finished", None, max(map(len, history.values()), default=0)
        best = _best_of(history, monitor, mode)
    else:
        status = "diverged" if fit.get("diverged") else "interrupted" if fit.get("interrupted") else "finished"
        note, epochs, monitor = fit.get("stop_reason"), fit.get("epochs"), fit.get("monitor") or monitor
        best = {
            key: value
            for key, value in _numbers(fit.get("best")).items()
            if key.startswith("val/") or (key == monitor and "/" in key)
        }
    return Overview(
        name=name,
        path=path,
        status=status,
        note=note,
        config=config,
        epochs=epochs,
        best=best,
        test=_numbers(result.get("test")),
        hparams=config.get("hparams") or {},
        monitor=monitor,
        mode=mode,
        curves=path,
    )


def _of_search(name: str, path: Path, config: Mapping[str, Any], result: Mapping[str, Any]) -> Overview:
    search, objective = result.get("search"), config["search"]["objective"]
    ended = trials_of(path)
    best = (search or {}).get("best") or {}
    tested = RunDirectory(path / "best")
    return Overview(
        name=name,
        path=path,
        status="not finished" if search is None else "finished",
        note=(search or {}).get("stop_reason"),
        config=config,
        epochs=len(ended),
        best=_numbers({objective: best.get("value")}),
        test=_numbers(tested.read_result().get("test") if best else None),
        hparams=best.get("hparams") or {},
        monitor=objective,
        mode=config["search"].get("mode", "min"),
        curves=tested.path if best else None,
    )


def _best_of(history: Mapping[str, Sequence[float]], monitor: str | None, mode: str) -> dict[str, float]:
    """The values of the best of the epochs so far, as in `result.json`."""
    values = [(value, epoch) for epoch, value in enumerate(history.get(monitor or "", ())) if math.isfinite(value)]
    if not values:
        return {}
    _, epoch = min(values) if mode == "min" else max(values, key=lambda pair: (pair[0], -pair[1]))
    return {
        name: column[epoch]
        for name, column in history.items()
        if (name.startswith("val/") or name == monitor) and math.isfinite(column[epoch])
    }


def _numbers(values: Mapping[str, Any] | None) -> dict[str, float]:
    return {
        name: value
        for name, value in (values or {}).items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
