"""What an encoder has learned, on disk: arrays in one file of the run directory, without pickle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import safetensors
import safetensors.numpy

from lightkeras.encoders.base import Encoder
from lightkeras.system import files


def to_bytes(encoder: Encoder) -> bytes | None:
    """The file's content; `None` for an encoder that learns nothing."""
    state = encoder.state()
    return safetensors.numpy.save(state) if state else None


def from_bytes(encoder: Encoder, content: bytes, origin: Path) -> None:
    """Gives an encoder what one like it has learned.

    Args:
        encoder: The encoder.
        content: What `to_bytes` gave.
        origin: Where it was read, for errors.

    Raises:
        ValueError: It is damaged, or of another encoder.
    """
    try:
        state = safetensors.numpy.load(content)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{origin} is damaged: {error}. It holds what the run's encoder learned.") from error
    try:
        encoder.restore(state)
    except ValueError as error:
        raise ValueError(f"{origin} cannot be used: {error}") from error


def write(encoder: Encoder | None, path: Path) -> None:
    """Writes what an encoder has learned, atomically; nothing where there is nothing."""
    content = None if encoder is None else to_bytes(encoder)
    if content is not None:
        files.write_bytes(path, content)


def reader(path: Path) -> Callable[[Encoder], None]:
    """Reads what was written to a file into an encoder, for `Task.set_up`."""

    def read(encoder: Encoder) -> None:
        if not path.is_file():
            raise FileNotFoundError(
                f"There is no {path}, which holds what the run's encoder ({type(encoder).__name__}) learned from its "
                "train split. Put it back, or start a new run."
            )
        from_bytes(encoder, path.read_bytes(), path)

    return read
