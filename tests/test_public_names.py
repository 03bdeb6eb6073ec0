"""The public names and their arguments are those of `public_names.txt`: a change of them is a decision.

python tests/test_public_names.py        # writes the file anew; tell the difference in CHANGELOG.md
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import lightkeras as lk

RECORD = Path(__file__).with_name("public_names.txt")
pytestmark = pytest.mark.any_backend


def signature(found: Any) -> str:
    """Arguments with their defaults, without annotations."""
    try:
        arguments = inspect.signature(found)
    except (ValueError, TypeError):
        return ""
    plain = [
        argument.replace(
            annotation=inspect.Parameter.empty,
            default=argument.default
            if argument.default in (inspect.Parameter.empty, None)
            else Default(argument.default),
        )
        for argument in arguments.parameters.values()
    ]
    return str(inspect.Signature(plain))


class Default:
    """Writes a default the same way on every machine and Python."""

    def __init__(self, value: Any) -> None:
        plain = isinstance(value, (bool, int, float, str, tuple))
        self.text = repr(value) if plain else f"<{type(value).__name__}>"

    def __repr__(self) -> str:
        return self.text


def lines_of(name: str, found: Any) -> Iterator[str]:
    """The name, and the public methods and properties that a class of ours defines."""
    if isinstance(found, ModuleType):
        own = [inner for inner, value in vars(found).items() if getattr(value, "__module__", "") == found.__name__]
        for inner in vars(found).get("__all__", own):
            if not inner.startswith("_"):
                yield from lines_of(f"{name}.{inner}", getattr(found, inner))
        return
    if not callable(found):
        yield f"{name} = {type(found).__name__}"
        return
    yield f"{name}{signature(found)}"
    for owner in reversed(inspect.getmro(found)) if inspect.isclass(found) else ():
        inherited = owner is not found and owner.__name__ in (*lk.__all__, *lk.data.__all__, *lk.loggers.__all__)
        if inherited or not owner.__module__.startswith("lightkeras"):
            continue
        for member, value in sorted(vars(owner).items()):
            if member.startswith("_"):
                continue
            if isinstance(value, property):
                yield f"{name}.{member}"
            elif inspect.isroutine(value) or isinstance(value, (staticmethod, classmethod)):
                yield f"{name}.{member}{signature(getattr(found, member))}"


def public_names() -> list[str]:
    return sorted({line for name in lk.__all__ for line in lines_of(name, getattr(lk, name))})


def test_the_public_names_and_their_arguments_are_those_recorded():
    recorded, found = RECORD.read_text(encoding="utf-8").splitlines(), public_names()
    changed = [f"- {line}" for line in recorded if line not in found] + [
        f"+ {line}" for line in found if line not in recorded
    ]
    assert changed == [], "Run python tests/test_public_names.py if the change is meant, and tell it in CHANGELOG.md."
    assert len(found) > 200


if __name__ == "__main__":
    RECORD.write_text("\n".join(public_names()) + "\n", encoding="utf-8")
