"""The documentation site: its reference has every public name, and its pages show every experiment."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
EXPERIMENTS = sorted(path.stem for path in (ROOT / "experiments").glob("*.py"))
REFERENCE = "\n".join(path.read_text(encoding="utf-8") for path in sorted((DOCS / "reference").glob("*.md")))
SHOWN = re.findall(r"^::: (\S+)$", REFERENCE, flags=re.MULTILINE)
# Public modules whose own names are public as well.
MODULES = {
    "data": "data/__init__.py",
    "hub": "encoders/hub/__init__.py",
    "loggers": "runs/loggers/__init__.py",
    "optimizers": "optimizers/__init__.py",
    "plots": "plots/__init__.py",
    "testing": "testing.py",
}


def parsed(path: str) -> ast.Module:
    return ast.parse((ROOT / "lightkeras" / path).read_text(encoding="utf-8"))


def public_names() -> set[str]:
    imports = [node for node in parsed("__init__.pyi").body if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name for node in imports for alias in node.names}


def names_of(module: str) -> set[str]:
    """The names in a module's `__all__`, else its public classes and functions."""
    body = parsed(MODULES[module]).body
    listed = [node for node in body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"]
    if listed:
        return set(ast.literal_eval(listed[0].value))
    defined = [node.name for node in body if isinstance(node, (ast.ClassDef, ast.FunctionDef))]
    return {name for name in defined if not name.startswith("_")}


def test_every_public_name_is_in_the_reference() -> None:
    names = public_names()
    assert {"Task", "Runner", "Tuner", "cli", *MODULES} <= names
    assert [name for name in sorted(names) if f"lightkeras.{name}" not in SHOWN] == []


@pytest.mark.parametrize("module", MODULES)
def test_every_name_of_a_public_module_is_in_the_reference(module: str) -> None:
    names = names_of(module) - public_names()  # `lk.data.DataModule` is shown as `lk.DataModule`
    assert names
    assert [name for name in sorted(names) if f"lightkeras.{module}.{name}" not in SHOWN] == []


def test_the_reference_shows_a_name_once() -> None:
    assert sorted(name for name in set(SHOWN) if SHOWN.count(name) > 1) == []


def test_the_navigation_has_every_page() -> None:
    """Also that it names no other page: `mkdocs build --strict` checks this where mkdocs is installed."""
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    listed = re.findall(r"([\w/]+\.md)$", text, flags=re.MULTILINE)
    made = {"changelog.md", "contributing.md", "benchmarks.md", "experiments/index.md"}
    made |= {f"experiments/{name}.md" for name in EXPERIMENTS}
    assert sorted(listed) == sorted(made | {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")})
