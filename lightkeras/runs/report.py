"""`report.html`: one run, or the runs of an experiment side by side, as a self-contained page.

This module collects what the page shows from the files of the run directory: `config.json`, `result.json`,
`metrics.csv` and `figures/`. `report.html.jinja` lays it out, and escapes all of it. The page contains its figures and
its style; it loads nothing and runs no script.
"""

from __future__ import annotations

import base64
import csv
import functools
import io
import math
import os
import shlex
import struct
import urllib.parse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightkeras import plots
from lightkeras.runs.directory import RunDirectory, runs_below
from lightkeras.system import files
from lightkeras.system.messages import printable

if TYPE_CHECKING:
    import jinja2

_PNG_BYTES = 50 * 2**20
SPLITS = {"train": "Train", "validation": "Validation", "test": "Test"}
_FILES = ("config.json", "result.json", "metrics.csv", "model.keras", "profile.json", "trials.csv")
_FOLDERS = ("checkpoints/", "figures/", "broken/", "profile/")
_CAPTIONS = {
    "curves": "Values over the epochs: train dashed, validation solid.",
    "overlay": "Values of all runs over the epochs: train dashed, validation solid.",
    "learning_rate": "Loss over the learning rate, in a range test.",
}


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
    """
    directory = RunDirectory(Path(run_dir))
    config, result = directory.read_config(), directory.read_result()
    several = "experiment" in config or "search" in config
    content = _content_of_several(directory, config, result) if several else _content_of_run(directory, config, result)
    page = _environment().get_template("report.html.jinja").render(content)
    files.write_bytes(directory.report_file, page.encode())
    return directory.report_file


def history_of(directory: RunDirectory) -> dict[str, list[float]]:
    """Reads `FitResult.history` from `metrics.csv`, without names that have no values; a ValueError if damaged."""
    if not os.path.lexists(directory.metrics_file):
        return {}
    try:
        with io.TextIOWrapper(files.open_to_read(directory.metrics_file), encoding="utf-8", newline="") as file:
            header = next(csv.reader([file.readline()]), [])
            # Nearly all of the rows, which may be millions, are of steps.
            rows = list(csv.reader(line for line in file if line.startswith("epoch,")))
        columns = {name: [float(row[i] or "nan") for row in rows] for i, name in enumerate(header) if "/" in name}
    except files.DamagedFileError:
        raise
    except (ValueError, IndexError, csv.Error) as error:
        raise files.DamagedFileError(f"{directory.metrics_file} is damaged: {error}.") from error
    known = {name: values for name, values in columns.items() if name.startswith(("train/", "val/"))}
    return {name: values for name, values in known.items() if any(map(math.isfinite, values))}


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
    environment.filters |= {"plain": _plain, "cell": _cell, "kind": _kind, "url": _url}
    return environment


# ---------------------------------------------------------------------- one run


def _content_of_run(directory: RunDirectory, config: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    fit = result.get("fit") or {}
    return {
        **_background(directory, config, result.get("source", config.get("source"))),
        "warnings": _warnings(fit),
        "metrics": _metrics(fit, result),
        "summary": _summary(fit),
        "runs": None,
        "curves": _curves(directory),
    }


def _warnings(fit: Mapping[str, Any]) -> list[str]:
    lines = []
    if fit.get("diverged"):
        lines.append(f"The run diverged. {fit.get('stop_reason')}")
    if fit.get("interrupted"):
        lines.append(f"The run was interrupted by {fit['interrupted']}; it can be resumed.")
    if fit.get("skipped"):
        lines.append(f"{fit['skipped']} batches were skipped, because their train step was not finite.")
    if not fit:
        lines.append("The run has not finished.")
    return lines


def _metrics(fit: Mapping[str, Any], result: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for name, value in (fit.get("best") or {}).items():
        split, _, plain = name.partition("/")
        if plain:
            title = {"train": "train, best epoch", "val": "validation, best epoch"}.get(split, split)
            rows.setdefault(title, {})[plain] = value
    for split in ("validation", "test"):
        if isinstance(result.get(split), Mapping):
            rows[split] = dict(result[split])
    return [{"title": title, "path": None, "values": values} for title, values in rows.items()]


def _summary(fit: Mapping[str, Any]) -> dict[str, str]:
    best, lines = fit.get("best") or {}, {}
    if best:
        lines["best"] = f"epoch {best.get('epoch')}, step {_plain(best.get('step'))}, by {fit.get('monitor')}"
    if "stop_reason" in fit:
        lines["stopped"] = fit["stop_reason"]
        done = {"epochs": fit.get("epochs"), "steps": fit.get("steps"), "s": fit.get("wall_s")}
        lines["trained"] = ", ".join(f"{_plain(value)} {unit}" for unit, value in done.items())
    return lines


def _curves(directory: RunDirectory) -> dict[str, Any] | None:
    if (png := _png(directory.figures / "curves.png")) is not None:
        return _figure("curves", png)
    history = history_of(directory)
    return _figure("curves", plots.png(plots.curves(history))) if history else None


def _background(directory: RunDirectory, config: Mapping[str, Any], source: str | None) -> dict[str, Any]:
    """What the page shows of any run directory: its data, settings, environment, figures and files."""
    lookup = config.get("lookup") or {}
    data = {**(config.get("data") or {}), "requested": lookup.get("source"), "data_dir": lookup.get("data_dir")}
    path = directory.path.resolve()
    return {
        "task": config.get("task"),
        "folder": path.name,
        "started": config.get("started"),
        "source": source,
        "figures": dict(_figures(directory)),
        "hparams": config.get("hparams") or {},
        "models": config.get("models") or {},
        "data": {"source": config.get("source", source), **_known(data)},
        "environment": {
            "backend": config.get("backend"),
            **(config.get("machine") or {}),
            **(config.get("versions") or {}),
        },
        "settings": _known(_flat({"seed": config.get("seed"), **(config.get("runner") or {})})),
        "command": shlex.join(["python", *map(str, config.get("argv", []))]),
        "resumed": [f"{item.get('at')}, after step {item.get('step', 0)}" for item in config.get("resumed", [])],
        "files": [name for name in (*_FILES, *_FOLDERS) if (path / name).exists()],
        "tensorboard": shlex.join(["tensorboard", "--logdir", str(path)]),
    }


def _figures(directory: RunDirectory) -> Iterable[tuple[str, list[dict[str, Any]]]]:
    """Titles and figures: those of each split, then those beside them."""
    if not files.is_folder(directory.figures):
        return
    found = [path for path in directory.figures.glob("*") if files.is_folder(path)]
    order = {name: number for number, name in enumerate(SPLITS)}
    for folder in sorted(found, key=lambda path: (order.get(path.name, len(order)), path.name)):
        if shown := [_figure(name, png, folder.name) for name, png in _pngs(folder)]:
            yield f"Figures: {SPLITS.get(folder.name, folder.name)}", shown
    if others := [_figure(name, png) for name, png in _pngs(directory.figures) if name != "curves"]:
        yield "Further figures", others


def _pngs(folder: Path) -> Iterable[tuple[str, bytes]]:
    return ((path.stem, png) for path in sorted(folder.glob("*.png")) if (png := _png(path)) is not None)


def _png(path: Path) -> bytes | None:
    """The content of a picture; `None` for what is not a file of its own, such as a link to another file."""
    try:
        return files.read_bytes(path, _PNG_BYTES)
    except (OSError, files.DamagedFileError):
        return None


# ---------------------------------------------------------------------- several runs


def _content_of_several(
    directory: RunDirectory, config: Mapping[str, Any], result: Mapping[str, Any]
) -> dict[str, Any]:
    runs = {}
    for path in runs_below(directory):
        name = path.relative_to(directory.path).as_posix()
        if not ("search" in config and name.split("/")[0] in ("best", "replays")):  # copies of trials
            runs[name] = RunDirectory(path)
    configs = {name: run.read_config() for name, run in runs.items()}
    histories = {name: history for name, run in runs.items() if (history := history_of(run))}
    known = {"task", "source", "backend", "hparams", "versions", "runs"}
    return {
        **_background(directory, config, result.get("source") or _source_of(configs.values())),
        "warnings": [],
        "metrics": None,
        "summary": _flat({name: value for name, value in result.items() if name not in known}),
        "runs": _comparison(runs, configs),
        "curves": _figure("overlay", plots.png(plots.overlay(histories))) if histories else None,
    }


def _comparison(runs: Mapping[str, RunDirectory], configs: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    hparams = {name: config.get("hparams") or {} for name, config in configs.items()}
    names = next(iter(hparams.values()), {})
    varied = [name for name in names if len({str(found.get(name)) for found in hparams.values()}) > 1]
    rows = []
    for name, run in runs.items():
        result = run.read_result()
        fit = result.get("fit") or {}
        values = {each: hparams[name].get(each) for each in varied} | {"epochs": fit.get("epochs")}
        values |= {f"best {key}": value for key, value in (fit.get("best") or {}).items() if key.startswith("val/")}
        values |= {f"test/{key}": value for key, value in (result.get("test") or {}).items()}
        values["stopped"] = fit.get("stop_reason", "not finished")
        path = f"{name}/{run.report_file.name}" if run.report_file.exists() else name
        rows.append({"title": name, "path": path, "values": values})
    return rows


def _source_of(configs: Iterable[Mapping[str, Any]]) -> str | None:
    sources = list(dict.fromkeys(str(config["source"]) for config in configs if config.get("source")))
    return "sample" if "sample" in sources else ", ".join(sources) or None


# ---------------------------------------------------------------------- figures and values


def _figure(name: str, png: bytes, split: str | None = None) -> dict[str, Any]:
    plain = name.replace("_", " ")
    of = f" ({SPLITS[split].lower()} split)" if split in SPLITS else ""
    return {
        "base64": base64.b64encode(png).decode(),
        "alt": f"{plain}{of}",
        "caption": f"{_CAPTIONS.get(name, plain)}{of}",
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


def _kind(value: Any) -> str:
    return "number" if isinstance(value, (int, float)) and not isinstance(value, bool) else "text"


def _cell(value: Any) -> str:
    """A value in a table, whose columns have the same number of digits."""
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


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
