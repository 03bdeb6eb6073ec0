"""CONTRIBUTING.md: its table and picture of the rooms match the import rule, and the files that it names exist."""

from __future__ import annotations

import ast
import itertools
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def may_import() -> dict[str, set[str]]:
    """`MAY_IMPORT` of tests/test_architecture.py, without importing Keras for it."""
    module = ast.parse((ROOT / "tests" / "test_architecture.py").read_text(encoding="utf-8"))
    for node in module.body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "MAY_IMPORT":
            assert node.value is not None
            return {name: ast.literal_eval(value) for name, value in pairs(node.value)}
    raise AssertionError("tests/test_architecture.py has no MAY_IMPORT")


def pairs(table: ast.expr) -> list[tuple[str, ast.expr]]:
    assert isinstance(table, ast.Dict)
    return [(ast.literal_eval(key), value) for key, value in zip(table.keys, table.values, strict=True) if key]


def test_the_table_of_rooms_is_the_rule_of_imports() -> None:
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]*) ?\|$", TEXT, flags=re.MULTILINE)
    found = {room: set(re.findall(r"`(\w+)`", below)) for room, below in rows}
    assert found == {room: below for room, below in may_import().items() if room != "__init__"}


def test_the_picture_shows_the_rule_of_imports() -> None:
    """One arrow for each allowed import that does not follow from other arrows."""
    (picture,) = re.findall(r"^```mermaid\n(.*?)^```$", TEXT, flags=re.MULTILINE | re.DOTALL)
    arrows = set()
    for line in picture.splitlines()[1:]:
        rooms = line.split(" --> ")
        arrows |= {(one.strip(), other.strip()) for one, other in itertools.pairwise(rooms)}
    allowed = {room: below for room, below in may_import().items() if room != "__init__"}
    expected = {
        (room, target)
        for room, below in allowed.items()
        for target in below
        if not any(target in allowed[between] for between in below)
    }
    assert arrows == expected


def test_the_files_that_it_names_exist() -> None:
    """Paths from the root or from `lightkeras/`; `NAME` and `BACKEND` stand for a name of the reader's."""
    paths = {
        path
        for path in re.findall(r"`([\w./]+/[\w./]*|\w+\.(?:py|md))`", TEXT)
        if not path.startswith(("..", ".venv", "build/"))
    }
    assert {"runs/loggers/base.py", "tests/on_backends/"} <= paths
    named = {path for path in paths if "NAME" not in path and "BACKEND" not in path}
    folders = (ROOT, ROOT / "lightkeras", ROOT / "tests" / "engine")
    assert [path for path in sorted(named) if not any((folder / path).exists() for folder in folders)] == []
