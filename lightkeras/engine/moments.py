"""Keras's `moments` in a step of one process."""

from __future__ import annotations

from typing import Any

from lightkeras.system.keras_internals.backend import nn

_moments = nn.moments


def moments_here(x: Any, axes: Any, keepdims: bool = False, synchronized: bool = False) -> Any:
    """Keras's `moments` where this process has the whole batch: there is nothing to synchronize.

    Keras's own refuses `synchronized=True` on JAX and torch, and torch cannot compile it with a list of Keras's kind.
    """
    return _moments(x, tuple(axes), keepdims)
