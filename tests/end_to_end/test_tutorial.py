"""The steps of the tutorial are run as a reader would run them."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest
from documents import Document, run_block, run_command

TUTORIAL = Document("docs/tutorial.md")
BLOCKS = TUTORIAL.blocks("python")


def result_in(folder: Path) -> dict:
    (path,) = folder.glob("runs/*/*/result.json")
    return json.loads(path.read_text(encoding="utf-8"))


def lines_of(block: str) -> set[str]:
    return {line.strip() for line in block.splitlines()}


def test_a_script_and_five_steps_are_shown() -> None:
    headings = re.findall(r"^## (\d)\. ", TUTORIAL.text, flags=re.MULTILINE)
    assert headings == ["1", "2", "3", "4", "5"]
    assert len(BLOCKS) == 6
    assert TUTORIAL.text.count("**Gained:**") == 5


def test_the_script_is_plain_keras(tmp_path: Path) -> None:
    assert "lightkeras" not in BLOCKS[0]
    printed = run_block(BLOCKS[0], tmp_path).stdout
    assert "Epoch 5/5" in printed
    assert float(re.findall(r"val_accuracy: ([\d.]+)", printed)[-1]) > 0.8


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_a_step_runs_as_a_file_of_its_own(step: int, tmp_path: Path) -> None:
    printed = run_block(BLOCKS[step], tmp_path).stdout
    fit = result_in(tmp_path)["fit"]
    assert fit["epochs"] == 5
    assert fit["best"]["epoch"] > 1  # it learned: validation got better after the first epoch
    assert fit["best"]["val/accuracy"] > 0.8
    assert "Best(" in printed


def test_a_step_changes_little() -> None:
    """Most lines of a step are those of the step before."""
    for before, after in itertools.pairwise(BLOCKS):
        kept = lines_of(before) & lines_of(after)
        assert len(kept) >= 0.6 * len(lines_of(before))


def test_the_last_step_is_a_command_line(tmp_path: Path) -> None:
    (tmp_path / "digits.py").write_text(BLOCKS[5], encoding="utf-8")
    (commands,) = TUTORIAL.blocks("bash")
    fit, predict, tune = commands.splitlines()
    run_command(fit, tmp_path)
    result = json.loads((tmp_path / "runs" / "first" / "result.json").read_text(encoding="utf-8"))
    assert (result["hparams"]["dropout"], result["source"]) == (0.1, "sample")
    assert result["test"]["accuracy"] > 0.8
    row = json.loads(run_command(predict, tmp_path).stdout)
    assert row["input"] == "test:0"
    assert row["digit"] in range(10)
    assert sum(row["probabilities"]) == pytest.approx(1, abs=1e-5)
    run_command(tune, tmp_path)
    assert len((tmp_path / "runs" / "search" / "trials.csv").read_text(encoding="utf-8").splitlines()) == 1 + 2


def test_the_files_it_links_to_exist() -> None:
    assert TUTORIAL.missing_links() == []
