"""Tests of importing the task that `FILE.py:ClassName` names."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lightkeras.training.task_file import load_task

FILE = """
import beside

import lightkeras as lk

NAME = beside.NAME


class Mine(lk.Task):
    pass


if __name__ == "__main__":
    raise RuntimeError("the main part ran")
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "beside.py").write_text("NAME = 'beside'\n")
    (tmp_path / "mine.py").write_text(FILE)
    return tmp_path / "mine.py"


def test_a_file_is_imported_like_one_that_is_run_but_for_its_main_part(file: Path) -> None:
    found = load_task(f"{file}:Mine")
    assert (found.__name__, found.__module__) == ("Mine", "task_of_mine")
    assert sys.modules["task_of_mine"].NAME == "beside"


@pytest.mark.parametrize(
    ("named", "error", "message"),
    [
        ("{}", ValueError, r"expected FILE.py:ClassName"),
        ("{}x:Mine", FileNotFoundError, "does not exist, or is not a file"),
        ("{}:Mime", ValueError, r"mine.py has no task 'Mime'. Did you mean 'Mine'"),
    ],
)
def test_a_mistake_says_what_is_expected(file: Path, named: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load_task(named.format(file))
