"""Every class and function that the reference shows has an example in its docstring, which runs.

pytest runs the examples with `>>>` as doctests; the blocks of Python are run here, as files of their own.
"""

from __future__ import annotations

import inspect
import re
import runpy
import textwrap
from pathlib import Path
from typing import Any

import pytest

import lightkeras as lk

REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "reference"
BLOCK = re.compile(r"^ *```python\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
# Of the blocks that train, these run always; the others show settings that tests of their own cover.
ALWAYS = ("Runner 0", "Task 0", "SupervisedTask 0", "DataModule 0")
TRAINS = (".fit(", "lk.cli(", "lk.export(", ".search()", "cross_validate(", "check_task(", ".find_")
NEEDS = {"lk.loggers.MLflow(": "mlflow", "lk.loggers.WandB(": "wandb", "lk.TextEncoder(": "tensorflow_hub"}


def shown() -> dict[str, Any]:
    """The public names of the reference, and the methods that it lists, with what they name."""
    names = []
    for page in sorted(REFERENCE.glob("*.md")):
        owner = ""
        for line in page.read_text(encoding="utf-8").splitlines():
            if found := re.match(r"::: lightkeras\.(\S+)$", line):
                owner = found[1]
                names.append(owner)
            elif found := re.match(r"        - (\w+)$", line):
                names.append(f"{owner}.{found[1]}")
    return {name: value for name in names if callable(value := named(name))}


def named(name: str) -> Any:
    value: Any = lk
    for part in name.split("."):
        value = getattr(value, part)
    return value


def docstring(value: Any) -> str:
    """Its own, not that of a base class."""
    return inspect.cleandoc(value.__doc__ or "")


SHOWN = shown()
BLOCKS = {
    f"{name} {number}": textwrap.dedent(block)
    for name, value in SHOWN.items()
    for number, block in enumerate(BLOCK.findall(docstring(value)))
}


def code_of(name: str) -> str:
    text = docstring(named(name))
    return "\n".join([*re.findall(r"^ *(?:>>>|\.\.\.) (.*)$", text, flags=re.MULTILINE), *BLOCK.findall(text)])


def has_example(name: str) -> bool:
    """Whether its docstring has an example that uses it, or names a function with one that uses or returns it."""
    owner, _, method = name.rpartition(".")
    if re.search(rf"\b{re.escape(name.rpartition('.')[2])}\b", code_of(name)):
        return True
    if owner in SHOWN and re.search(rf"\b{method}\(", code_of(owner)):
        return True
    linked = re.search(r"^Example: `lk\.([\w.]+)`\.$", docstring(SHOWN[name]), flags=re.MULTILINE)
    if linked is None or not code_of(linked[1]):
        return False
    returned = str(inspect.signature(named(linked[1])).return_annotation)
    return returned == name.rpartition(".")[2] or f".{method}(" in code_of(linked[1])


@pytest.mark.any_backend
def test_every_name_of_the_reference_has_an_example() -> None:
    assert len(SHOWN) > 100
    assert [name for name in SHOWN if not has_example(name)] == []


def marked(name: str) -> Any:
    trains = any(call in BLOCKS[name] for call in TRAINS) and name not in ALWAYS
    return pytest.param(name, marks=pytest.mark.long) if trains else name


@pytest.mark.any_backend
@pytest.mark.parametrize("name", [marked(name) for name in BLOCKS])
def test_a_block_runs_as_a_file_of_its_own(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for call, package in NEEDS.items():
        if call in BLOCKS[name]:
            pytest.importorskip(package, reason=f"{package} is not installed")
    monkeypatch.chdir(tmp_path)
    Path("example.py").write_text(BLOCKS[name], encoding="utf-8")
    runpy.run_path("example.py", run_name="__main__")
    printed = capsys.readouterr().out.splitlines()
    expected = re.findall(r"^ *print\(.*\)  # ([(\[\d'T].*)$", BLOCKS[name], flags=re.MULTILINE)
    assert [line for line in expected if line not in printed] == []
