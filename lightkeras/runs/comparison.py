"""What the page of several runs shows: an experiment, a search with its best trial first, or any runs side by side."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightkeras import plots
from lightkeras.runs import overview
from lightkeras.runs.directory import RunDirectory
from lightkeras.runs.overview import Overview
from lightkeras.system.value_names import leading

MOST_CURVES = 20
"""Runs whose curves are drawn: of more, no colour can be told from another."""


def content_of_search(directory: RunDirectory, config: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """The best trial, all trials in the order of their rank, and the ranges that were searched."""
    search, shown = config["search"], overview.read_below(directory.path)
    summary = result.get("search") or {}
    best = summary.get("best") or {}
    mode = search.get("mode", "min")
    ended = [found for found in shown if found.status == "finished" and search["objective"] in found.best]
    order = overview.ranked(ended, search["objective"], mode) if ended else []
    order.sort(key=lambda found: found.name != best.get("trial"))  # by other seeds another one may be the best
    order += [found for found in shown if found not in order]
    tested = RunDirectory(directory.path / "best").read_result().get("test") if best else None
    facts = {
        "best trial": best.get("trial"),
        "stopped": summary.get("stop_reason"),
        "trials": _counted(summary),
        "oracle": search.get("oracle"),
    }
    return {
        "source": result.get("source") or _source_of(shown),
        "warnings": [] if summary else ["The search has not finished."],
        "headlines": _headlines_of_best(best, search["objective"], mode, tested),
        "summary": {name: value for name, value in facts.items() if value is not None},
        "runs": rows(order, {search["objective"]: mode}, best.get("trial"), directory.path, title="Trials"),
        "overlay": _overlay(order, search["objective"]),
        "panels": {
            "Best hyperparameters": best.get("hparams") or {},
            "Searched": config.get("tried") or {},
            "Mean and spread over folds": {
                f"trial {found.get('trial')}": _spread(found) for found in summary.get("folds") or []
            },
            "Repeats with other seeds": {
                f"trial {found.get('trial')}": _spread(found) for found in summary.get("seeds") or []
            },
            "Settings": flat(
                {"seed": search.get("seed"), "max epochs": (config.get("runner") or {}).get("max_epochs")}
            ),
            "Environment": config.get("versions") or {},
        },
    }


def content_of_experiment(
    directory: RunDirectory, config: Mapping[str, Any], result: Mapping[str, Any]
) -> dict[str, Any]:
    """All runs in the order of their start, and what the experiment returned."""
    shown = overview.read_below(directory.path)
    known = {"task", "source", "backend", "hparams", "versions", "runs"}
    returned = flat({name: value for name, value in result.items() if name not in known})
    monitor = overview.common_monitor(shown)
    best = overview.ranked(shown, *monitor)[0].name if monitor is not None and len(shown) > 1 else None
    return {
        "source": result.get("source") or _source_of(shown),
        "summary": {name.replace("_", " ").replace(".", ": "): value for name, value in returned.items()},
        "runs": rows(shown, dict([monitor] if monitor else []), best, directory.path),
        "overlay": _overlay(shown, None if monitor is None else monitor[0]),
    }


def content_of_runs(shown: Sequence[Overview], page: Path, by: tuple[str, str] | None) -> dict[str, Any]:
    """Any runs, in the order given, with what differs between them.

    Args:
        shown: The runs.
        page: The page, which links to their reports.
        by: Name of the value that they are sorted by, and its mode; `None` if by none.
    """
    tasks = list(dict.fromkeys(str(found.config.get("task")) for found in shown if found.config))
    best = shown[0].name if by is not None and len(shown) > 1 else None
    return {
        "title": " and ".join(tasks) or "Runs",
        "folder": f"{len(shown)} runs" + (f", sorted by {by[0]}" if by is not None else ""),
        "source": _source_of(shown),
        "warnings": [f"{found.name} is damaged. {found.note}" for found in shown if found.status == "damaged"],
        "runs": rows(shown, dict([by] if by else []), best, page.absolute().parent),
        "differences": {
            title: [
                {"title": name, "path": None, "best": False, "values": dict(zip(_names(shown), values, strict=True))}
                for name, values in found.items()
            ]
            for title, found in overview.differences(shown).items()
        },
        "overlay": _overlay(shown, None if by is None else by[0]),
    }


def headlines(test: Any, best: Mapping[str, Any] | None, monitor: str | None) -> list[dict[str, Any]]:
    """The results of a run in large letters: of the test, and the monitored value of the best epoch."""
    values = [{"value": value, "label": f"test {name}"} for name, value in (test or {}).items()][:3]
    if best and monitor is not None and monitor in best:
        values.append({"value": best[monitor], "label": f"best {monitor}, epoch {best.get('epoch')}"})
    return values


def rows(
    shown: Sequence[Overview], values: Mapping[str, str], best: str | None, folder: Path, title: str = "Runs"
) -> dict[str, Any]:
    """The table of several runs: their results, the hyperparameters that differ, and why they stopped.

    Of many values the first ones are shown; a second table has all of them, of the runs whose curves are drawn.

    Args:
        shown: The runs.
        values: Names of values to begin with.
        best: Name of the best run; `None` marks none.
        folder: Folder of the page, which links to their reports.
        title: Title of the table.
    """
    known = dict.fromkeys(name for found in shown for name in found.values if name not in values)
    named = set(leading(known))
    varied = overview.differences(shown).get("Hyperparameters", {})
    several = len({found.config.get("task") for found in shown}) > 1
    statuses = any(found.status != "finished" for found in shown)
    found_rows = []
    for number, found in enumerate(shown):
        cells: dict[str, Any] = {name: found.values.get(name) for name in values}
        cells |= {"task": found.config.get("task")} if several else {}
        cells |= {"status": found.status} if statuses else {}
        cells |= {name: column[number] for name, column in varied.items()}
        cells["epochs"] = found.epochs
        cells |= {_heading(name): value for name, value in found.values.items() if name in named}
        cells["stopped"] = found.note
        report = RunDirectory(found.path).report_file
        path = report if report.exists() else found.path
        relative = os.path.relpath(path.absolute(), folder.absolute())
        found_rows.append({"title": found.name, "path": relative, "best": found.name == best, "values": cells})
    all_values = [
        {
            "title": _heading(name),
            "path": None,
            "best": False,
            "values": {found.name: found.values.get(name) for found in shown[:MOST_CURVES]},
        }
        for name in dict.fromkeys([*values, *known])
    ]
    return {"title": title, "rows": found_rows, "all_values": all_values if len(named) < len(known) else []}


def _heading(name: str) -> str:
    return name if name.startswith("test/") else f"best {name}"


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def _overlay(shown: Sequence[Overview], monitor: str | None) -> bytes | None:
    """The curves of the first runs, as PNG."""
    paths = {found.name: found.curves for found in shown if found.curves is not None and found.status != "damaged"}
    histories = {name: history for name, path in paths.items() if (history := overview.history_of(RunDirectory(path)))}
    drawn = dict(list(histories.items())[:MOST_CURVES])
    if not drawn:
        return None
    return plots.png(plots.overlay(drawn, monitor=monitor if (monitor or "").startswith(("train/", "val/")) else None))


def _headlines_of_best(best: Mapping[str, Any], objective: str, mode: str, tested: Any) -> list[dict[str, Any]]:
    if not best:
        return []
    better = "lower" if mode == "min" else "higher"
    first = {"value": best.get("value"), "label": f"{objective} of trial {best['trial']}, {better} is better"}
    return [first, *({"value": value, "label": f"test {name}"} for name, value in list((tested or {}).items())[:3])]


def _counted(summary: Mapping[str, Any]) -> str | None:
    found = [f"{summary[status]} {status}" for status in ("completed", "pruned", "failed") if summary.get(status)]
    return ", ".join(found) or None


def _spread(found: Mapping[str, Any]) -> str:
    mean, spread = found.get("mean"), found.get("spread")
    if not isinstance(mean, float):
        return "all failed"
    return f"{mean:.4f}" + (f" \N{PLUS-MINUS SIGN} {spread:.4f}" if isinstance(spread, float) else "")


def _source_of(shown: Iterable[Overview]) -> str | None:
    sources = list(dict.fromkeys(str(found.config["source"]) for found in shown if found.config.get("source")))
    return "sample" if "sample" in sources else ", ".join(sources) or None


def _names(shown: Sequence[Overview]) -> list[str]:
    return [found.name for found in shown]
