"""The commands of the README are those of CI."""

from __future__ import annotations

import re
import subprocess

import pytest
from documents import ROOT, Document

README = Document("README.md")


@pytest.mark.parametrize(
    ("heading", "last"),
    [
        ("Run the experiment", "python experiments/imdb_hub.py"),
        ("Run the tests", "tox -p all -o"),
    ],
)
def test_a_command_starts_from_a_bare_python_and_ends_with_what_it_promises(heading: str, last: str) -> None:
    lines = README.below(heading).splitlines()
    assert lines[:2] == ["python3 -m venv .venv", "source .venv/bin/activate"]
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
