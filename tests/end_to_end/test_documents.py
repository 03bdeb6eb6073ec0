"""The Python blocks of the README and of every page in `docs/` are run as a reader would run them."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from documents import DOCUMENTS, ROOT, Document, run_block

import lightkeras as lk
from lightkeras.command_line.entry_point import main
from lightkeras.command_line.flags import LAUNCH
from lightkeras.testing import TwoMoons

# test_tutorial.py runs the blocks of the tutorial.
BLOCKS = {
    f"{page.path} {number}": block
    for page in DOCUMENTS
    if page.path != "docs/tutorial.md"
    for number, block in enumerate(page.blocks("python"))
}


def searches(block: str) -> bool:
    return "search(" in block


def trains(block: str) -> bool:
    return any(call in block for call in ("fit(", "lk.cli(", "cross_validate(")) or searches(block)


def marked(name: str) -> object:
    """A search and an export start processes; test_tuner.py, test_tutorial.py and test_export.py show the same."""
    starts = searches(BLOCKS[name]) or "lk.export(" in BLOCKS[name]
    return pytest.param(name, marks=pytest.mark.long) if starts else name


@pytest.mark.parametrize("name", [marked(name) for name in BLOCKS])
def test_a_python_block_runs_as_a_file_of_its_own(name: str, tmp_path: Path) -> None:
    for call, package in {"lk.loggers.MLflow(": "mlflow", "lk.loggers.WandB(": "wandb"}.items():
        if call in BLOCKS[name]:
            pytest.importorskip(package, reason=f"the extra {package} is not installed")
    run_block(BLOCKS[name], tmp_path)
    results = [json.loads(path.read_text(encoding="utf-8")) for path in tmp_path.rglob("result.json")]
    best = [result["fit"]["best"] for result in results if "fit" in result]
    assert bool(best) == trains(BLOCKS[name])
    if best:
        assert max(found["epoch"] for found in best) > 1  # it learned: it got better after the first epoch


def test_the_commands_that_list_and_compare_runs_run_after_the_block_that_trains_them(tmp_path, monkeypatch, capsys):
    page = Document("docs/how_to/compare.md")
    (block,), (commands,) = page.blocks("python"), page.blocks("bash")
    run_block(block, tmp_path)
    monkeypatch.chdir(tmp_path)
    for line in commands.splitlines():
        program, *args = shlex.split(line, comments=True)
        assert program == "lightkeras"
        assert main(args) == 0
        assert "small" in capsys.readouterr().out
    assert (tmp_path / "comparison.html").is_file()


def test_the_tags_that_the_page_on_tensorboard_names_are_those_that_a_run_writes(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    page = Document("docs/how_to/tensorboard.md")
    task, runner = TwoMoons(), lk.Runner(max_epochs=2, run_dir=tmp_path, log_gradients="histogram", progress=False)
    runner.fit(task)
    runner.evaluate(task, weights="best")
    found = {folder: EventAccumulator(str(tmp_path / folder)).Reload().Tags() for folder in (".", "hparams", "machine")}
    curves = page.text.split("## Curves\n")[1].split("## Hyperparameters\n")[0]
    named = {tag.replace("<name>", "loss") for tag in re.findall(r"`([a-z_]+/[a-z_/<>]+)`", curves)}
    named -= {"run/learning_rate/<attribute>", "run/device_memory_gb"}  # of several optimizers, of an accelerator
    written = {*found["."]["scalars"], *found["machine"]["scalars"]}
    assert named == {tag for tag in written if not tag.endswith("accuracy")} - {"epoch/train/gradient_norm"}
    assert set(found["hparams"]["scalars"]) == {"best/val/loss", "best/val/accuracy", "test/loss", "test/accuracy"}
    assert {"weights", "gradients"} <= {tag.split("/")[0] for tag in found["."]["tensors"]}


def test_there_are_python_blocks_to_run() -> None:
    pages = {name.split()[0] for name in BLOCKS}
    assert {"README.md", "docs/index.md", "docs/runs.md", "docs/data.md", "docs/task.md"} <= pages
    how_to = {page.path for page in DOCUMENTS if page.path.startswith("docs/how_to/")} - {"docs/how_to/index.md"}
    assert how_to <= pages
    assert sum(map(trains, BLOCKS.values())) >= 20


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.path)
def test_the_files_that_a_page_links_to_exist(page: Document) -> None:
    assert page.missing_links() == []


def test_all_commands_are_those_of_an_activated_environment() -> None:
    for page in [*DOCUMENTS, Document("CONTRIBUTING.md")]:
        named = [line for line in page.text.splitlines() if "venv/bin" in line]
        assert [line for line in named if "source .venv/bin/activate" not in line] == []


def test_the_experiments_that_commands_name_exist() -> None:
    for page in DOCUMENTS:
        for block in page.blocks("bash"):
            words = [word for line in block.splitlines() for word in line.split("#")[0].split()]
            files = [word for word in words if word.startswith("experiments/")]
            assert [file for file in files if not (ROOT / file.partition(":")[0]).is_file()] == []


def settings_of(kind: Any, prefix: str = "") -> set[str]:
    """Dotted names of the fields of a dataclass of settings, also of those inside."""
    names = set()
    for field in dataclasses.fields(kind):
        names.add(prefix + field.name)
        if dataclasses.is_dataclass(field.default_factory):
            names |= settings_of(field.default_factory, f"{prefix}{field.name}.")
    return names


@pytest.mark.parametrize(("flag", "kind"), [("runner", lk.Runner), ("tuner", lk.Tuner)])
def test_the_settings_that_pages_name_exist(flag: str, kind: Any) -> None:
    """`--runner.patience` in a command or in the text, and `Runner(patience=3)` in the text or a table."""
    known = settings_of(kind) | (set(LAUNCH) if flag == "runner" else set())
    for logger in (lk.loggers.MLflow, lk.loggers.WandB):
        known |= {f"loggers.{name}" for name in inspect.signature(logger).parameters}
    for page in DOCUMENTS:
        flags = re.findall(rf"--{flag}\.([\w.]*\w)", page.text)
        calls = re.findall(rf"\b{flag.capitalize()}\(([^()]*)=[^=]", page.text)
        arguments = [name for call in calls for name in re.findall(r"\b([a-z_]+)=", f"{call}=")]
        assert sorted({*flags, *arguments} - known) == [], page.path
