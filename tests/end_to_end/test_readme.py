"""The Python blocks of the README and of its pages are run as a reader would run them; its commands are those of CI."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from documents import ROOT, Document, run_block

README = Document("README.md")
PAGES = [README, *(Document(f"docs/{name}.md") for name in ("runs", "data", "search"))]
BLOCKS = {f"{page.path} {number}": block for page in PAGES for number, block in enumerate(page.blocks("python"))}


def trains(block: str) -> bool:
    return "fit(" in block or "lk.cli(" in block


@pytest.mark.parametrize("name", BLOCKS)
def test_a_python_block_runs_as_a_file_of_its_own(name: str, tmp_path: Path) -> None:
    run_block(BLOCKS[name], tmp_path)
    results = [json.loads(path.read_text(encoding="utf-8")) for path in tmp_path.rglob("result.json")]
    best = [result["fit"]["best"] for result in results if "fit" in result]
    assert bool(best) == trains(BLOCKS[name])
    for found in best:
        assert "val/accuracy" in found
        assert found["epoch"] > 1  # it learned: validation got better after the first epoch


def test_there_are_python_blocks_to_run() -> None:
    assert sum(map(trains, BLOCKS.values())) >= 6
    assert {name.split()[0] for name in BLOCKS} == {"README.md", "docs/runs.md", "docs/data.md"}


@pytest.mark.parametrize(
    ("heading", "last"),
    [
        ("Run the experiment", ".venv/bin/python experiments/imdb_hub.py"),
        ("Run the tests", ".venv/bin/tox -p all -o"),
    ],
)
def test_a_command_starts_from_a_bare_python_and_ends_with_what_it_promises(heading: str, last: str) -> None:
    lines = README.below(heading).splitlines()
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
    assert found.stdout == README.below("Run the tests")
    assert 'tests=$(readme_block "## Run the tests")' in script


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path)
def test_the_files_it_links_to_exist(page: Document) -> None:
    assert page.missing_links() == []
