"""The README's Python blocks are run as a reader would run them, and its commands are those of CI."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def below(heading: str) -> str:
    """The first block of commands below a heading."""
    part = README.split(f"\n## {heading}\n", 1)[1]
    return re.findall(r"^```bash\n(.*?)^```$", part, flags=re.MULTILINE | re.DOTALL)[0]


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_a_python_block_runs_as_a_file_of_its_own(number: int, tmp_path: Path) -> None:
    (tmp_path / "block.py").write_text(blocks("python")[number], encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "block.py"],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (result,) = tmp_path.glob("runs/*/*/result.json")
    best = json.loads(result.read_text(encoding="utf-8"))["fit"]["best"]
    assert "val/accuracy" in best
    assert best["epoch"] > 1  # it learned: validation got better after the first epoch


def test_there_are_python_blocks_to_run() -> None:
    assert len(blocks("python")) == 4


@pytest.mark.parametrize(
    ("heading", "last"),
    [
        ("Run the experiment", ".venv/bin/python experiments/imdb_hub.py"),
        ("Run the tests", ".venv/bin/tox"),
    ],
)
def test_a_command_starts_from_a_bare_python_and_ends_with_what_it_promises(heading: str, last: str) -> None:
    lines = below(heading).splitlines()
    assert lines[0] == "python3 -m venv .venv"
    assert lines[-1] == last


def test_ci_runs_the_test_command_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    function = re.search(r"^readme_block\(\) \{.*?^\}$", script, flags=re.MULTILINE | re.DOTALL)
    assert function is not None
    found = subprocess.run(
        ["bash", "-c", f"{function[0]}\nreadme_block '## Run the tests'"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == below("Run the tests")
    assert 'tests=$(readme_block "## Run the tests")' in script


def test_the_files_it_links_to_exist() -> None:
    paths = re.findall(r"\]\(([^)#:]+)\)", README)
    assert paths
    assert [path for path in paths if not (ROOT / path).is_file()] == []
