"""Functions of Keras that are replaced in steps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from lightkeras.system.keras_internals.backend import nn

_moments = nn.moments


def moments_here(x: Any, axes: Any, keepdims: bool = False, synchronized: bool = False) -> Any:
    """Keras's `moments` where this process has the whole batch: there is nothing to synchronize.

    Keras's own refuses `synchronized=True` on JAX and torch, and torch cannot compile it with a list of Keras's kind.
    """
    return _moments(x, tuple(axes), keepdims)


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
