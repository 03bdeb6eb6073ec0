"""Cache of arrays on disk, shared by processes and limited in size.

    <folder>/<key>/0.bin ... meta.json     a complete entry
    <folder>/.<key>.<random>.part/         an entry that is being written, or was when its process was killed
    <folder>/<key>.making.lock             held by the process that writes the entry
    <folder>/<key>.using.lock              shared by the processes that use the entry

An entry is written under another name and renamed, and its checksums are verified whenever it is opened. Array files
are mapped into memory; if they are removed or replaced, processes that have them open keep them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, final

import numpy as np

from lightkeras.system import files
from lightkeras.system.digest import Digest
from lightkeras.system.locks import RunLockedError, exclusive_lock, hold_shared
from lightkeras.system.messages import announce
from lightkeras.system.schema import Count

Columns = list[tuple[np.dtype, tuple[int, ...]]]
"""Dtype, and shape without axis 0, of each array."""

Blocks = Iterable[list[np.ndarray]]
"""The arrays, block by block: some rows of each at a time."""

META = "meta.json"
FORMAT = 1
_READ_BYTES = 1 << 24


class _DamagedError(ValueError):
    """An entry is damaged, or holds other arrays."""


@dataclasses.dataclass
class _Array:
    dtype: str
    shape: list[Count]
    blake2b: str


@dataclasses.dataclass
class _Meta:
    format: int
    arrays: list[_Array]


@final
class ArrayCache:
    """Arrays by key. Above `limit_bytes` the least recently used entries that are not in use are removed."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder, self._limit = folder, limit_bytes

    def get(
        self, key: str, columns: Columns, make: Callable[[], Blocks], record: Mapping[str, Any]
    ) -> tuple[list[np.ndarray], Callable[[], None]]:
        """Returns the arrays of an entry, computed if missing, and a function to call when they are no longer used.

        The key is a digest of everything that the arrays depend on; `columns` are their dtypes and shapes. `make` is
        called by one process at a time. `record` is stored in `meta.json` for people. An UnwritableError if the folder
        cannot be written to.
        """
        with _disk_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            using = hold_shared(self._file(key, "using"))
        try:
            arrays = self._open(key, columns)
            if arrays is None:
                arrays = self._compute(key, columns, make, record)
        except BaseException:
            os.close(using)
            raise
        return arrays, functools.partial(os.close, using)

    def _file(self, key: str, what: str) -> Path:
        return self._folder / f"{key}.{what}.lock"

    def _compute(
        self, key: str, columns: Columns, make: Callable[[], Blocks], record: Mapping[str, Any]
    ) -> list[np.ndarray]:
        def warn() -> None:
            announce(f"waiting for another process that encodes the same data (into {self._folder / key})")

        with exclusive_lock(self._file(key, "making"), warn):
            arrays = self._open(key, columns, warn=False)  # another process may have written it meanwhile
            if arrays is None:
                self._write(key, columns, make(), record)
                arrays = self._open(key, columns)
        if arrays is None:
            raise OSError(f"{self._folder / key} was written, but cannot be read back: check the disk.")
        self._make_room()
        return arrays

    def _open(self, key: str, columns: Columns, warn: bool = True) -> list[np.ndarray] | None:
        """The arrays of an entry; `None` if it does not exist or is damaged, which is printed once."""
        entry = self._folder / key
        if not entry.is_dir():
            return None
        try:
            arrays = _read_entry(entry, columns)
        except (_DamagedError, files.DamagedFileError, OSError) as error:
            if warn:
                announce(f"the cached features in {entry} are damaged ({error}): they are computed again")
            return None
        with contextlib.suppress(OSError):  # removed meanwhile, or not our file: the time of use is not needed then
            os.utime(entry / META)
        return arrays

    def _write(self, key: str, columns: Columns, blocks: Blocks, record: Mapping[str, Any]) -> None:
        with _disk_errors(self._folder):
            self._remove_parts(key)
            beside = self._folder / f".{key}.{secrets.token_hex(4)}.part"
            beside.mkdir()
        try:
            with contextlib.ExitStack() as stack:
                with _disk_errors(beside):
                    sinks = [stack.enter_context(open(beside / f"{n}.bin", "wb")) for n in range(len(columns))]
                rows, digests = _write_blocks(columns, blocks, sinks, beside)
                with _disk_errors(beside):
                    for sink in sinks:
                        sink.flush()
                        os.fsync(sink.fileno())
            meta = {**record, "format": FORMAT, "arrays": _array_records(columns, rows, digests)}
            with _disk_errors(beside):
                files.write_json(beside / META, meta)
                self._replace(beside, self._folder / key)
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def _replace(self, beside: Path, entry: Path) -> None:
        if entry.exists():  # damaged
            _remove(entry)
        files.move_synced(beside, entry)

    def _remove_parts(self, key: str) -> None:
        """Removes unfinished entries of killed processes; the entry's lock must be held."""
        for left in self._folder.glob(f".{key}.*.part"):
            shutil.rmtree(left, ignore_errors=True)

    def _make_room(self) -> None:
        for left in list(self._folder.glob(".*.part")):
            key = left.name[1:].split(".")[0]
            with contextlib.suppress(RunLockedError), exclusive_lock(self._file(key, "making")):
                self._remove_parts(key)
        entries = sorted((e for e in self._folder.iterdir() if (e / META).is_file()), key=_last_used)
        sizes = {entry: _size(entry) for entry in entries}
        for entry in entries:
            if sum(sizes.values()) <= self._limit:
                return
            with (
                contextlib.suppress(RunLockedError),
                exclusive_lock(self._file(entry.name, "making")),
                exclusive_lock(self._file(entry.name, "using")),
            ):
                _remove(entry)
                del sizes[entry]


def read_columns(columns: Columns, blocks: Blocks) -> list[np.ndarray]:
    """Concatenates blocks in memory."""
    sinks = [io.BytesIO() for _ in columns]
    _write_blocks(columns, blocks, sinks, None)
    return [
        np.frombuffer(sink.getbuffer(), dtype).reshape(-1, *shape)
        for (dtype, shape), sink in zip(columns, sinks, strict=True)
    ]


def _write_blocks(
    columns: Columns, blocks: Blocks, sinks: list[Any], place: Path | None
) -> tuple[list[int], list[Digest]]:
    """Writes blocks one after the other; returns the rows and the checksum of each array."""
    rows, digests = [0] * len(columns), [Digest() for _ in columns]
    for block in blocks:
        for number, ((dtype, shape), array) in enumerate(zip(columns, block, strict=True)):
            if (array.dtype, array.shape[1:]) != (dtype, shape):
                raise ValueError(
                    f"An encoder returned {array.dtype}{list(array.shape[1:])} for some examples and "
                    f"{dtype}{list(shape)} for the first: expected the same for all."
                )
            content = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
            digests[number].update(content)
            rows[number] += len(array)
            with _disk_errors(place):
                sinks[number].write(content)
    return rows, digests


def _array_records(columns: Columns, rows: list[int], digests: list[Digest]) -> list[dict[str, Any]]:
    return [
        {"dtype": dtype.str, "shape": [count, *shape], "blake2b": digest.hex()}
        for (dtype, shape), count, digest in zip(columns, rows, digests, strict=True)
    ]


def _read_entry(entry: Path, columns: Columns) -> list[np.ndarray]:
    try:
        meta = files.read_json(entry / META, _Meta)
        described = [(np.dtype(each["dtype"]), tuple(each["shape"]), each["blake2b"]) for each in meta["arrays"]]
        version = meta["format"]
    except (ValueError, TypeError) as error:
        raise _DamagedError(f"{META}: {error}") from error
    if version != FORMAT or [(dtype, shape[1:]) for dtype, shape, _ in described] != columns:
        raise _DamagedError(f"{META} describes other arrays")
    return [_map_array(entry / f"{n}.bin", *each) for n, each in enumerate(described)]


def _map_array(file: Path, dtype: np.dtype, shape: tuple[int, ...], checksum: str) -> np.ndarray:
    expected, found = math.prod(shape) * dtype.itemsize, os.lstat(file).st_size
    if found != expected:
        raise _DamagedError(f"{file.name} has {found:,} bytes, expected {expected:,}")
    if not expected:
        return np.zeros(shape, dtype)  # an empty file cannot be mapped
    digest = Digest()
    with files.open_to_read(file) as stream:
        while content := stream.read(_READ_BYTES):
            digest.update(content)
    if digest.hex() != checksum:
        raise _DamagedError(f"the checksum of {file.name} is wrong")
    return np.memmap(file, dtype, "r", shape=shape)


def _remove(entry: Path) -> None:
    """Removes an entry; no other process ever sees half of it under its name."""
    aside = entry.with_name(f".{entry.name}.{secrets.token_hex(4)}.part")
    entry.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _last_used(entry: Path) -> float:
    with contextlib.suppress(OSError):
        return (entry / META).stat().st_mtime
    return 0.0


def _size(entry: Path) -> int:
    with contextlib.suppress(OSError):
        return sum(file.stat().st_size for file in entry.iterdir())
    return 0


@contextlib.contextmanager
def _disk_errors(place: Path | None) -> Iterator[None]:
    """Turns an OSError into an UnwritableError that names the place; `None` is memory."""
    try:
        yield
    except OSError as error:
        raise files.UnwritableError(f"{place} cannot be written to ({error.strerror or error})") from error
