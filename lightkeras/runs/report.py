"""`report.html`: a run, a search, an experiment, or runs side by side, as a self-contained page.

This module collects what the page of a run shows from the files of its directory: `config.json`, `result.json`,
`metrics.csv` and `figures/`; `comparison.py` what that of several runs shows. `report.html.jinja` lays it out, and
escapes all of it. The page contains its figures and its style; it loads nothing and runs no script.
"""

from __future__ import annotations

import base64
import functools
import math
import shlex
import struct
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightkeras import plots
from lightkeras.runs import comparison
from lightkeras.runs.directory import RunDirectory
from lightkeras.runs.overview import Overview, history_of
from lightkeras.system import files
from lightkeras.system.messages import printable
from lightkeras.system.value_names import leading, parted, validation_sets

if TYPE_CHECKING:
    import jinja2

_PNG_BYTES = 50 * 2**20
SPLITS = {"train": "Train", "validation": "Validation", "test": "Test"}
_FILES = ("config.json", "result.json", "metrics.csv", "model.keras", "profile.json", "trials.csv")
_FOLDERS = ("checkpoints/", "figures/", "broken/", "profile/")
_CAPTIONS = {
    "curves": "Values over the epochs: train dashed, validation solid.",
    "overlay": "Values of the runs over the epochs: train dashed, validation solid.",
    "learning_rate": "Loss over the learning rate, in a range test.",
    "objective": "The objective of each trial, in the order in which they were chosen.",
    "hyperparameters": "Each hyperparameter of the completed trials against the objective.",
    "importance": "How much each hyperparameter matters for the objective.",
}
_ORDER = ("objective", "hyperparameters", "importance")


def write(run_dir: str | Path) -> Path:
    """Writes `report.html` of a run directory, or of a directory that holds several runs.

    Args:
        run_dir: The directory.

    Returns:
        Path of the page.

    Raises:
        FileNotFoundError: The directory holds no run.
        ValueError: One of its files is damaged.
        OSError: The page cannot be written.

    Examples:
        ```python
        import lightkeras as lk

        result = lk.Runner(max_epochs=2, pictures=False).fit(lk.testing.TwoMoons())
        print(lk.report.write(result.run_dir))
        ```
    """
    directory = RunDirectory(Path(run_dir))
    config, result = directory.read_config(), directory.read_result()
    content: dict[str, Any] = {"started": config.get("started"), **_background(directory, config, result)}
    if "search" in config:
        content |= comparison.content_of_search(directory, config, result)
    elif "experiment" in config:
        content |= comparison.content_of_experiment(directory, config, result)
    else:
        content |= _content_of_run(directory, result)
    files.write_bytes(directory.report_file, page(content))
    return directory.report_file


def write_comparison(path: str | Path, overviews: list[Overview], by: tuple[str, str] | None) -> Path:
    """Writes a page with runs side by side.

    Args:
        path: The page.
        overviews: The runs, in their order on the page.
        by: Name of the value that they are sorted by, and its mode; `None` if by none.

    Returns:
        The path.

    Raises:
        ValueError: The `metrics.csv` of a run is damaged.
        OSError: The page cannot be written.
    """
    path = Path(path)
    files.write_bytes(path, page(comparison.content_of_runs(overviews, path, by)))
    return path


def page(content: Mapping[str, Any]) -> bytes:
    """Lays out a page. What the content leaves out is left out of the page."""
    shown = {**content, "curves": figure("overlay", content["overlay"])} if content.get("overlay") else content
    text: str = _environment().get_template("report.html.jinja").render(_EMPTY | dict(shown))
    return text.encode()


_EMPTY: dict[str, Any] = {
    "title": "",
    "folder": "",
    "started": None,
    "source": None,
    "warnings": [],
    "headlines": [],
    "metrics": None,
    "all_values": [],
    "summary": {},
    "runs": None,
    "differences": {},
    "curves": None,
    "has_curves": False,
    "figures": {},
    "models": {},
    "panels": {},
    "commands": {},
    "files": [],
    "tensorboard": None,
}


@functools.cache
def _environment() -> jinja2.Environment:
    import jinja2  # not needed by runs that write no page

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.filters |= {"plain": _plain, "cell": _cell, "columns": _columns, "url": _url}
    return environment


# ---------------------------------------------------------------------- one run


def _content_of_run(directory: RunDirectory, result: Mapping[str, Any]) -> dict[str, Any]:
    fit = result.get("fit") or {}
    metrics, monitor = _metrics(fit, result), fit.get("monitor")
    names = list(dict.fromkeys(name for row in metrics for name in row["values"]))
    plain = None if monitor is None else parted(monitor, validation_sets(fit.get("best") or {}))[1]
    shown = leading(names, monitor=plain)
    return {
        "warnings": _warnings(fit),
        "headlines": comparison.headlines(result.get("test"), fit.get("best"), monitor),
        "metrics": [{**row, "values": {name: row["values"].get(name) for name in shown}} for row in metrics],
        "all_values": _all_values(directory, metrics, names) if len(shown) < len(names) else [],
        "summary": _summary(fit),
        "curves": _curves(directory, monitor),
        "has_curves": True,
    }


def _warnings(fit: Mapping[str, Any]) -> list[str]:
    lines = []
    if fit.get("diverged"):
        lines.append(f"The run diverged. {fit.get('stop_reason')}")
    if fit.get("interrupted"):
        lines.append(f"The run was interrupted by {fit['interrupted']}; it can be resumed.")
    if fit.get("skipped"):
        lines.append(f"Batches skipped, because their train step was not finite: {fit['skipped']}.")
    for name, problem in (fit.get("loggers") or {}).items():
        lines.append(f"{name} does not have all values of the run: {problem}")
    if not fit:
        lines.append("The run has not finished.")
    return lines


def _metrics(fit: Mapping[str, Any], result: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    if isinstance(result.get("test"), Mapping):
        rows["test"] = dict(result["test"])
    if isinstance(result.get("validation"), Mapping):
        rows["validation"] = dict(result["validation"])
    best = fit.get("best") or {}
    sets = validation_sets(best)
    for split in [*([f"val/{name}" for name in sets] or ["val"]), "train"]:
        values = {name: best[key] for key in best for part, name in [parted(key, sets)] if part == split and name}
        if values:
            rows[f"{_title(split)}, best epoch"] = values
    return [{"title": title, "path": None, "best": False, "values": values} for title, values in rows.items()]


def _all_values(
    directory: RunDirectory, metrics: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> list[dict[str, Any]]:
    """A row for each value, with those of the splits and of the last epoch."""
    history = history_of(directory)
    last, sets = dict[tuple[str, str], float](), validation_sets(history)
    for name, values in history.items():
        last[parted(name, sets)] = values[-1]
    splits = list(dict.fromkeys(split for split, _ in last))
    return [
        {
            "title": name,
            "path": None,
            "best": False,
            "values": {
                **{row["title"]: row["values"].get(name) for row in metrics},
                **{f"{_title(split)}, last epoch": last.get((split, name)) for split in splits},
            },
        }
        for name in names
    ]


def _title(split: str) -> str:
    """`val/clean` as `validation, clean`."""
    first, _, name = split.partition("/")
    return ", ".join(filter(None, ["validation" if first == "val" else first, name]))


def _summary(fit: Mapping[str, Any]) -> dict[str, str]:
    best, lines = fit.get("best") or {}, {}
    if best:
        lines["best"] = f"epoch {best.get('epoch')}, step {_plain(best.get('step'))}, by {fit.get('monitor')}"
    if "stop_reason" in fit:
        lines["stopped"] = fit["stop_reason"]
        done = {"epochs": fit.get("epochs"), "steps": fit.get("steps"), "s": fit.get("wall_s")}
        lines["trained"] = ", ".join(f"{_plain(value)} {unit}" for unit, value in done.items())
    return lines


def _curves(directory: RunDirectory, monitor: str | None) -> dict[str, Any] | None:
    if (png := _png(directory.figures / "curves.png")) is not None:
        return figure("curves", png)
    history = history_of(directory)
    return figure("curves", plots.png(plots.curves(history, monitor=monitor))) if history else None


# ---------------------------------------------------------------------- any run directory


def _background(directory: RunDirectory, config: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """What the page shows of any run directory: its data, settings, environment, commands, figures and files."""
    lookup, path = config.get("lookup") or {}, directory.path.resolve()
    data = {**(config.get("data") or {}), "requested": lookup.get("source"), "data_dir": lookup.get("data_dir")}
    source = result.get("source", config.get("source"))
    environment = {**(config.get("machine") or {}), **(config.get("versions") or {})}
    return {
        "title": config.get("task"),
        "folder": path.name,
        "source": source,
        "figures": dict(_figures(directory)),
        "models": config.get("models") or {},
        "panels": {
            "Hyperparameters": config.get("hparams") or {},
            "Data": _labelled({"source": config.get("source", source), **data}),
            "Environment": {"backend": config.get("backend"), **{_label(k): v for k, v in environment.items()}},
            "Settings": _labelled({"seed": config.get("seed"), **(config.get("runner") or {})}),
        },
        "commands": _commands(directory, config),
        "files": [name for name in (*_FILES, *_FOLDERS) if (path / name).exists()],
        "tensorboard": shlex.join(["tensorboard", "--logdir", str(path)]),
    }


def _commands(directory: RunDirectory, config: Mapping[str, Any]) -> dict[str, str]:
    """The commands that the run was started and resumed with, by their title; of a trial, the one that repeats it."""
    search = RunDirectory(directory.path.resolve().parent.parent)
    if directory.path.resolve().parent.name == "trials" and search.config_file.is_file():
        argv = search.read_config().get("argv") or []
        repeat = ["python", *argv[:1], "tune", "--run_dir", str(search.path), "--replay", directory.path.resolve().name]
        return {"Repeat the trial": shlex.join(repeat)} if argv else {}
    above = RunDirectory(directory.path.resolve().parent)
    if directory.path.name == "best" and above.config_file.is_file() and "search" in above.read_config():
        best = ((above.read_result().get("search") or {}).get("best") or {}).get("trial")
        argv = above.read_config().get("argv") or []
        repeat = ["python", *argv[:1], "tune", "--run_dir", str(above.path), "--replay", str(best)]
        return {"Repeat the trial": shlex.join(repeat)} if argv and best is not None else {}
    commands = {"Started": shlex.join(["python", *config["argv"]])} if config.get("argv") else {}
    for number, resumed in enumerate(config.get("resumed", []), 1):
        title = f"Resumed after step {resumed.get('step', 0):,}" if "step" in resumed else "Resumed"
        title = f"{number}. {title}" if len(config["resumed"]) > 1 else title
        commands[f"{title}, {resumed.get('at')}"] = shlex.join(["python", *resumed.get("argv", [])])
    return commands


def _figures(directory: RunDirectory) -> Iterable[tuple[str, list[dict[str, Any]]]]:
    """Titles and figures: those of each split, then those beside them."""
    if not files.is_folder(directory.figures):
        return
    found = [path for path in directory.figures.glob("*") if files.is_folder(path)]
    order = {name: number for number, name in enumerate(SPLITS)}
    for folder in sorted(found, key=lambda path: (order.get(path.name, len(order)), path.name)):
        if shown := [figure(name, png, folder.name) for name, png in _pngs(folder)]:
            yield f"Figures: {SPLITS.get(folder.name, folder.name)}", shown
    others = [(name, png) for name, png in _pngs(directory.figures) if name != "curves"]
    others.sort(key=lambda item: _ORDER.index(item[0]) if item[0] in _ORDER else len(_ORDER))
    if others:
        yield "Figures", [figure(name, png) for name, png in others]


def _pngs(folder: Path) -> Iterable[tuple[str, bytes]]:
    return ((path.stem, png) for path in sorted(folder.glob("*.png")) if (png := _png(path)) is not None)


def _png(path: Path) -> bytes | None:
    """The content of a picture; `None` for what is not a file of its own, such as a link to another file."""
    try:
        return files.read_bytes(path, _PNG_BYTES)
    except (OSError, files.DamagedFileError):
        return None


# ---------------------------------------------------------------------- figures and values


def figure(name: str, png: bytes, split: str | None = None) -> dict[str, Any]:
    """A figure of the page."""
    plain = name.replace("_", " ")
    of = f" ({SPLITS[split].lower()} split)" if split in SPLITS else ""
    return {
        "base64": base64.b64encode(png).decode(),
        "alt": f"{plain}{of}",
        "caption": f"{_CAPTIONS.get(name, f'{plain[:1].upper()}{plain[1:]}')}{of}",
        "size": _size(png),
    }


def _size(png: bytes) -> tuple[int, int] | None:
    """Width and height that a figure was drawn for, in CSS pixels (96 per inch); `None` if the file is not a PNG."""
    if not png.startswith(b"\x89PNG") or len(png) < 24:
        return None
    width, height = struct.unpack_from(">II", png, 16)
    return max(1, round(96 * width / plots.DPI)), max(1, round(96 * height / plots.DPI))


def _url(path: str) -> str:
    """A relative path as URL; with `./`, a colon in it does not start a scheme."""
    return f"./{urllib.parse.quote(path)}"


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The columns of a table, each `"number"` if it holds numbers alone, which are flush right with their heading."""
    return {name: _kind(rows, name) for name in dict.fromkeys(name for row in rows for name in row["values"])}


def _kind(rows: Sequence[Mapping[str, Any]], name: str) -> str:
    values = [value for row in rows if (value := row["values"].get(name)) is not None]
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    return "number" if numbers else "text"


def _cell(value: Any) -> str:
    """A value in a table: with four decimals or, where these would be few digits, with four digits."""
    if isinstance(value, float) and 0 < abs(value) < 1e4:
        return f"{value:.4f}" if abs(value) >= 0.01 else f"{value:.4g}"
    return _plain(value)


def _plain(value: Any) -> str:
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else str(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_plain, value)) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _labelled(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values that are known, by plain words in place of their keys."""
    return {_label(name): value for name, value in comparison.flat(values).items() if value is not None}


def _label(key: str) -> str:
    """`checkpoints.keep_by` as `checkpoints: keep by`."""
    return key.replace("_", " ").replace(".", ": ")
