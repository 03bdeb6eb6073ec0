"""`report.html`: a run, or the runs of an experiment side by side, as one page that needs nothing else.

It is made of the files of the run directory alone: `config.json`, `result.json`, `metrics.csv` and `figures/`. The page
holds its figures and its style, loads nothing, and runs no script; whatever it shows as text is escaped.
"""

from __future__ import annotations

import base64
import csv
import dataclasses
import math
import shlex
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightkeras import plots
from lightkeras.runs.directory import RunDirectory, runs_below
from lightkeras.runs.html import Html, page, tag
from lightkeras.system import files

SPLITS = {"train": "Train", "validation": "Validation", "test": "Test"}
_LINKED = ("config.json", "result.json", "metrics.csv", "model.keras", "profile.json", "trials.csv")
_FOLDERS = ("checkpoints", "figures", "broken", "profile")
_TEXTS = {  # what is said of pictures whose names we know
    "curves": "Values over the epochs: train dashed, validation solid.",
    "overlay": "Values of all runs over the epochs: train dashed, validation solid.",
    "learning_rate": "Loss over the learning rate, in a range test.",
}


def write(run_dir: str | Path) -> Path:
    """Writes `report.html` of a run directory, or of a directory that holds several runs.

    Args:
        run_dir: The directory.

    Returns:
        The file.

    Raises:
        FileNotFoundError: There is no run in the directory.
        ValueError: A file of it is damaged.
        OSError: The page cannot be written.
    """
    directory = RunDirectory(Path(run_dir))
    config, result = directory.read_config(), directory.read_result()
    several = "experiment" in config or "search" in config
    body = _of_several(directory, config, result) if several else _of_run(directory, config, result)
    title = f"{config.get('task')}: {directory.path.resolve().name}"
    files.write_bytes(directory.report_file, page(title, body).encode())
    return directory.report_file


def history_of(directory: RunDirectory) -> dict[str, list[float]]:
    """Values per epoch by name, read from `metrics.csv`: as `FitResult.history`, without values that nothing logged.

    Raises:
        ValueError: The file is damaged.
    """
    if not directory.metrics_file.exists():
        return {}
    with open(directory.metrics_file, newline="", encoding="utf-8") as file:
        header = next(csv.reader([file.readline()]), [])
        # Of millions of rows, nearly all are of steps.
        rows = list(csv.reader(line for line in file if line.startswith("epoch,")))
    try:
        columns = {name: [float(row[i] or "nan") for row in rows] for i, name in enumerate(header) if "/" in name}
    except (ValueError, IndexError) as error:
        raise ValueError(f"{directory.metrics_file} is damaged: {error}.") from error
    return {name: values for name, values in columns.items() if any(map(math.isfinite, values))}


# ---------------------------------------------------------------------- one run


def _of_run(directory: RunDirectory, config: Mapping[str, Any], result: Mapping[str, Any]) -> list[Html]:
    fit = result.get("fit") or {}
    return [
        _head(directory, config, result),
        _said(fit),
        _section("Result", _result_table(fit, result), _summary(fit)),
        _section("Curves", *_curves(directory)),
        *_pictures(directory),
        *_background(directory, config),
    ]


def _head(directory: RunDirectory, config: Mapping[str, Any], result: Mapping[str, Any]) -> Html:
    source = result.get("source", config.get("source"))
    parts = [tag("h1", config.get("task"))]
    line = f"{directory.path.resolve().name}, started {config.get('started', 'at an unknown time')}"
    parts.append(tag("p", line, class_="quiet"))
    if source == "sample":
        text = "This is the built-in sample and not the real data: the numbers say nothing about that."
        parts.append(tag("p", tag("strong", "Sample data. "), text, class_="warn"))
    elif source is not None:
        parts.append(tag("p", "Data: ", tag("strong", source)))
    return tag("header", *parts)


def _said(fit: Mapping[str, Any]) -> Html:
    """What went otherwise than it should."""
    lines = []
    if fit.get("diverged"):
        lines.append(f"The run diverged. {fit.get('stop_reason')}")
    if fit.get("interrupted"):
        lines.append(f"The run was interrupted by {fit['interrupted']}; it can be gone on with.")
    if fit.get("skipped"):
        lines.append(f"{fit['skipped']} batches were skipped, because a step would not have been finite.")
    if not fit:
        lines.append("The run has not come to an end yet.")
    return Html("".join(tag("p", line, class_="warn") for line in lines))


def _result_table(fit: Mapping[str, Any], result: Mapping[str, Any]) -> Html:
    rows: dict[str, dict[str, Any]] = {}
    for name, value in (fit.get("best") or {}).items():
        split, _, plain = name.partition("/")
        if plain:
            rows.setdefault({"train": "train, best epoch", "val": "validation, best epoch"}[split], {})[plain] = value
    for split in ("validation", "test"):
        if isinstance(result.get(split), Mapping):
            rows[split] = dict(result[split])
    return _table(rows, "split") if rows else tag("p", "There is no result yet.", class_="quiet")


def _summary(fit: Mapping[str, Any]) -> Html:
    best, lines = fit.get("best") or {}, {}
    if best:
        lines["best"] = f"epoch {best.get('epoch')}, step {_plain(best.get('step'))}, by {fit.get('monitor')}"
    if "stop_reason" in fit:
        lines["stopped"] = fit["stop_reason"]
        done = {"epochs": fit.get("epochs"), "steps": fit.get("steps"), "s": fit.get("wall_s")}
        lines["trained"] = ", ".join(f"{_plain(value)} {unit}" for unit, value in done.items())
    return _list(lines)


def _curves(directory: RunDirectory) -> list[Html]:
    path = directory.figures / "curves.png"
    if path.exists():
        return [_figure("curves", path.read_bytes())]
    history = history_of(directory)
    if not history:
        return [tag("p", "No epoch was finished.", class_="quiet")]
    return [_figure("curves", plots.png(plots.curves(history)))]


def _pictures(directory: RunDirectory) -> list[Html]:
    """The pictures of the task, by split; then those that lie beside them."""
    sections = []
    found = sorted(path for path in directory.figures.glob("*") if path.is_dir())
    order = sorted(found, key=lambda path: (list(SPLITS).index(path.name) if path.name in SPLITS else 9, path.name))
    for folder in order:
        shown = [_figure(path.stem, path.read_bytes(), folder.name) for path in sorted(folder.glob("*.png"))]
        if shown:
            sections.append(_section(f"Figures: {SPLITS.get(folder.name, folder.name)}", _grid(shown)))
    others = [path for path in sorted(directory.figures.glob("*.png")) if path.stem != "curves"]
    if others:
        shown = [_figure(path.stem, path.read_bytes()) for path in others]
        sections.append(_section("Further figures", _grid(shown)))
    return sections


def _background(directory: RunDirectory, config: Mapping[str, Any]) -> list[Html]:
    """What the run was started with, and where its files are."""
    command = shlex.join(["python", *map(str, config.get("argv", []))])
    resumed = [f"{item.get('at')}, after step {item.get('step', 0)}" for item in config.get("resumed", [])]
    data = {name: value for name, value in (config.get("data") or {}).items() if value is not None}
    lookup = config.get("lookup") or {}
    where = {"asked for": lookup.get("source"), "data_dir": lookup.get("data_dir")}
    where = {name: value for name, value in where.items() if value is not None}
    settings = _flat({"seed": config.get("seed"), **(config.get("runner") or {})})
    settings = {name: value for name, value in settings.items() if value is not None}
    environment = {
        "backend": config.get("backend"),
        **(config.get("machine") or {}),
        **(config.get("versions") or {}),
    }
    links = [tag("a", name, href=name) for name in _LINKED if (directory.path / name).exists()]
    links += [tag("a", f"{name}/", href=f"{name}/") for name in _FOLDERS if (directory.path / name).exists()]
    return [
        _columns(
            _section("Hyperparameters", _list(config.get("hparams") or {}, "There are none.")),
            _section("Data", _list({"source": config.get("source"), **data, **where})),
            _section("Environment", _list(environment)),
            _section("Settings", _list(settings)),
        ),
        _section(
            "Command",
            tag("pre", command),
            *([tag("p", "Gone on with at: ", "; ".join(resumed))] if resumed else []),
        ),
        _section(
            "Files",
            tag("ul", *(tag("li", link) for link in links)),
            tag("p", "Every step is in TensorBoard:"),
            tag("pre", shlex.join(["tensorboard", "--logdir", str(directory.path.resolve())])),
        ),
    ]


# ---------------------------------------------------------------------- several runs


@dataclasses.dataclass(frozen=True)
class _Run:
    """One of several runs.

    Args:
        name: Its path below the directory of them all.
        directory: Its directory.
        config: Its configuration.
        result: Its result.
    """

    name: str
    directory: RunDirectory
    config: Mapping[str, Any]
    result: Mapping[str, Any]


def _of_several(directory: RunDirectory, config: Mapping[str, Any], result: Mapping[str, Any]) -> list[Html]:
    runs = []
    for path in runs_below(directory):
        below = RunDirectory(path)
        name = path.relative_to(directory.path).as_posix()
        if "search" in config and name.split("/")[0] in ("best", "replays"):  # what is there as a trial already
            continue
        runs.append(_Run(name, below, below.read_config(), below.read_result()))
    histories = {run.name: history for run in runs if (history := history_of(run.directory))}
    curves = [_figure("overlay", plots.png(plots.overlay(histories)))] if histories else []
    known = {"task", "source", "backend", "hparams", "versions", "runs"}
    returned = _flat({name: value for name, value in result.items() if name not in known})
    source = {"source": result["source"]} if result.get("source") else {"source": _source_of(runs)}
    return [
        _head(directory, config, source),
        *([_section("Result", _list(returned))] if returned else []),
        _section("Runs", _comparison(runs)),
        *([_section("Curves", *curves)] if curves else []),
        *_pictures(directory),
        *_background(directory, {**config, "source": source["source"]}),
    ]


def _comparison(runs: Sequence[_Run]) -> Html:
    if not runs:
        return tag("p", "There is no run yet.", class_="quiet")
    hparams = [run.config.get("hparams") or {} for run in runs]
    varied = [name for name in hparams[0] if len({str(found.get(name)) for found in hparams}) > 1]
    rows: dict[Any, dict[str, Any]] = {}
    for run, found in zip(runs, hparams, strict=True):
        fit = run.result.get("fit") or {}
        values: dict[str, Any] = {name: found.get(name) for name in varied}
        values["epochs"] = fit.get("epochs")
        best = {f"best {name}": value for name, value in (fit.get("best") or {}).items() if name.startswith("val/")}
        test = {f"test/{name}": value for name, value in (run.result.get("test") or {}).items()}
        values |= best | test | {"stopped": fit.get("stop_reason", "not at an end yet")}
        rows[_link_to(run)] = values
    return _table(rows, "run")


def _link_to(run: _Run) -> Html:
    href = run.name if not run.directory.report_file.exists() else f"{run.name}/{run.directory.report_file.name}"
    return tag("a", run.name, href=href)


def _source_of(runs: Sequence[_Run]) -> str | None:
    sources = list(dict.fromkeys(str(run.config["source"]) for run in runs if run.config.get("source")))
    return "sample" if "sample" in sources else ", ".join(sources) or None


# ---------------------------------------------------------------------- pieces


def _section(title: str, *parts: Html) -> Html:
    return tag("section", tag("h2", title), *parts)


def _columns(*parts: Html) -> Html:
    return tag("div", *parts, class_="columns")


def _grid(figures: Iterable[Html]) -> Html:
    return tag("div", *figures, class_="figures")


def _figure(name: str, png: bytes, split: str | None = None) -> Html:
    source = Html(f"data:image/png;base64,{base64.b64encode(png).decode()}")
    words = name.replace("_", " ")
    text = _TEXTS.get(name, words)
    of = f" ({SPLITS[split].lower()} split)" if split in SPLITS else ""
    image = tag("img", src=source, alt=f"{words}{of}", **_size(png))
    return tag("figure", image, tag("figcaption", f"{text}{of}"))


def _size(png: bytes) -> dict[str, int]:
    """The size that a figure was made for, in the pixels of a page, of which an inch has 96."""
    if not png.startswith(b"\x89PNG") or len(png) < 24:
        return {}  # a file that somebody put there, and that is no PNG; the browser will say so
    width, height = struct.unpack_from(">II", png, 16)
    return {"width": max(1, round(96 * width / plots.DPI)), "height": max(1, round(96 * height / plots.DPI))}


def _list(values: Mapping[str, Any], empty: str = "Nothing is known of it.") -> Html:
    """A table of names and values."""
    if not values:
        return tag("p", empty, class_="quiet")
    rows = (tag("tr", tag("th", name, scope="row"), tag("td", _plain(value))) for name, value in values.items())
    return tag("table", tag("tbody", *rows), class_="list")


def _table(rows: Mapping[Any, Mapping[str, Any]], corner: str) -> Html:
    names = list(dict.fromkeys(name for values in rows.values() for name in values))
    head = tag("tr", tag("th", corner, scope="col"), *(tag("th", name, scope="col") for name in names))
    body = []
    for title, values in rows.items():
        cells = (tag("td", _shown(values.get(name)), class_=_kind(values.get(name))) for name in names)
        body.append(tag("tr", tag("th", title, scope="row"), *cells))
    return tag("div", tag("table", tag("thead", head), tag("tbody", *body)), class_="wide")


def _kind(value: Any) -> str:
    return "number" if isinstance(value, (int, float)) and not isinstance(value, bool) else "text"


def _shown(value: Any) -> str:
    """A value in a table: those of a column have as many digits."""
    if isinstance(value, float) and 1e-3 <= abs(value) < 1e4:
        return f"{value:.4f}"
    return _plain(value)


def _plain(value: Any) -> str:
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_plain, value)) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values in groups as values with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
