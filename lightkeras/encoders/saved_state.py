"""The learned state of an encoder on disk: arrays in one file of the run directory, without pickle."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import safetensors
import safetensors.numpy

from lightkeras.encoders.base import Encoder
from lightkeras.system import files


def to_bytes(encoder: Encoder) -> bytes | None:
    """Serializes the state; returns `None` for an encoder that learns nothing."""
    state = encoder.state()
    return safetensors.numpy.save(state) if state else None


def from_bytes(encoder: Encoder, content: bytes, origin: Path) -> None:
    """Restores what `to_bytes` saved of an encoder with the same settings, else raises a ValueError."""
    try:
        state = safetensors.numpy.load(content)
    except (safetensors.SafetensorError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{origin} is damaged: {error}. It holds the state of the run's encoder.") from error
    try:
        encoder.restore(state)
    except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}, {error}"
        raise ValueError(f"{origin} cannot be used: {reason}") from error


def write(encoder: Encoder | None, path: Path) -> None:
    """Writes the state of an encoder atomically; no file for `None` or an encoder that learns nothing."""
    content = None if encoder is None else to_bytes(encoder)
    if content is not None:
        files.write_bytes(path, content)


def reader(path: Path) -> Callable[[Encoder], None]:
    """Returns a function that restores an encoder from a file, for `Task.set_up`."""

    def read(encoder: Encoder) -> None:
        if not os.path.lexists(path):
            raise FileNotFoundError(
                f"No such file: {path}, which holds what the run's encoder ({type(encoder).__name__}) learned from its "
                "train split. Put it back, or start a new run."
            )
        from_bytes(encoder, files.read_bytes(path), path)

    return read
