"""Functions of Keras that are replaced in steps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any


@contextlib.contextmanager
def replaced(functions: Mapping[tuple[Any, str], Any]) -> Iterator[None]:
    """Context in which modules or classes have other functions, by module or class and name."""
    originals = {(owner, name): getattr(owner, name) for owner, name in functions}
    for (owner, name), function in functions.items():
        setattr(owner, name, function)
    try:
        yield
    finally:
        for (owner, name), original in originals.items():
            setattr(owner, name, original)
