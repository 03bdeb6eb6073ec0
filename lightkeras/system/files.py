"""Atomic writes: after a crash, a file has either its old content or its new content."""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any


class UnwritableError(Exception):
    """An optional place, such as a cache, cannot be written to."""


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a temporary file, fsyncs and renames it: after an OSError an existing file is unchanged."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    with explained(path):
        try:
            write_synced(beside, content)
            move_synced(beside, path)
        finally:
            beside.unlink(missing_ok=True)


def write_synced(path: Path, content: bytes) -> None:
    """Writes a new file and fsyncs it."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def move_synced(source: Path, target: Path) -> None:
    """Renames a written file into place and fsyncs its folder."""
    os.replace(source, target)
    sync(target.parent)


def json_bytes(data: Any, encode_float: Callable[[float], Any] = lambda value: None) -> bytes:
    """Encodes plain data as JSON, for people and for other programs.

    `encode_float` gives what is written for NaN and the infinities, which JSON does not have; `null` unless given.
    `plain_values.encode_float` loses nothing.
    """
    return (json.dumps(_finite(data, encode_float), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write_json(path: Path, data: Any) -> None:
    """Writes JSON atomically; see `json_bytes`."""
    write_bytes(path, json_bytes(data))


def read_json(path: Path) -> Any:
    """Reads JSON; a ValueError if the file is not JSON, a FileNotFoundError if it does not exist."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged: {error}.") from error


def sync(path: Path) -> None:
    """Fsyncs a file, or the names in a folder, so that they survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Re-raises an `OSError` of a write with the file's name and advice."""
    try:
        yield
    except OSError as error:
        raise type(error)(
            error.errno,
            f"could not write {path}: {error.strerror or error}. Existing files are unchanged; "
            "free disk space or give another run directory",
        ) from error


def _finite(data: Any, encode_float: Callable[[float], Any]) -> Any:
    if isinstance(data, Mapping):
        return {str(key): _finite(value, encode_float) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value, encode_float) for value in data]
    return encode_float(data) if isinstance(data, float) and not math.isfinite(data) else data


def cache_dir() -> Path:
    """`$LIGHTKERAS_CACHE_DIR`, else `$XDG_CACHE_HOME/lightkeras`, else `~/.cache/lightkeras`."""
    named = os.environ.get("LIGHTKERAS_CACHE_DIR")
    if named:
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "lightkeras"
