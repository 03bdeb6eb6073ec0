"""Arrays on disk that several processes make once and share, bounded in size.

    <folder>/<key>/0.bin ... meta.json     an entry, complete
    <folder>/.<key>.<random>.part/         one that is being written, or was when its process was killed
    <folder>/<key>.making.lock             held by who makes it
    <folder>/<key>.using.lock              held, together, by those who use it

An entry is written beside and renamed, and it is checked by its checksums whenever it is opened. Array files are
mapped into memory; removed or replaced, they stay for those who have them open.
"""

from __future__ import annotations

import contextlib
import functools
import io
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

Columns = list[tuple[np.dtype, tuple[int, ...]]]
"""Dtype, and shape without axis 0, of each array."""

Blocks = Iterable[list[np.ndarray]]
"""The arrays, some rows of each at a time."""

META = "meta.json"
FORMAT = 1
_READ_BYTES = 1 << 24


class _DamagedError(ValueError):
    """An entry is not what was written, or is of something else."""


@final
class ArrayCache:
    """Arrays by key.

    Args:
        folder: Where they are kept; it is made.
        limit_bytes: Size above which the entries that were used least recently are removed, unless they are in use.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder, self._limit = folder, limit_bytes

    def get(
        self, key: str, columns: Columns, make: Callable[[], Blocks], record: Mapping[str, Any]
    ) -> tuple[list[np.ndarray], Callable[[], None]]:
        """The arrays of an entry, made if they are not there, and what to call when they are no longer used.

        Args:
            key: What they depend on, as a file name.
            columns: What they look like.
            make: Makes them. It is called by one process at a time.
            record: Plain data about them, for people; kept with them.

        Raises:
            UnwritableError: The folder cannot be written to.
        """
        with _writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            using = hold_shared(self._file(key, "using"))
        try:
            arrays = self._open(key, columns)
            if arrays is None:
                arrays = self._made(key, columns, make, record)
        except BaseException:
            os.close(using)
            raise
        return arrays, functools.partial(os.close, using)

    def _file(self, key: str, what: str) -> Path:
        return self._folder / f"{key}.{what}.lock"

    def _made(
        self, key: str, columns: Columns, make: Callable[[], Blocks], record: Mapping[str, Any]
    ) -> list[np.ndarray]:
        def say() -> None:
            announce(f"waiting for another process that encodes the same data (into {self._folder / key})")

        with exclusive_lock(self._file(key, "making"), say):
            arrays = self._open(key, columns, say=False)  # somebody else may have made it meanwhile
            if arrays is None:
                self._write(key, columns, make(), record)
                arrays = self._open(key, columns)
        if arrays is None:
            raise OSError(f"{self._folder / key} was written, and cannot be read: is the disk at fault?")
        self._make_room()
        return arrays

    def _open(self, key: str, columns: Columns, say: bool = True) -> list[np.ndarray] | None:
        """The arrays of an entry; `None` if it is not there, or damaged, which is said once."""
        entry = self._folder / key
        if not entry.is_dir():
            return None
        try:
            arrays = _opened(entry, columns)
        except (_DamagedError, OSError) as error:
            if say:
                announce(f"the cached features in {entry} are damaged ({error}): they are made again")
            return None
        with contextlib.suppress(OSError):  # removed meanwhile, or not ours: who used it last is of no use then
            os.utime(entry / META)
        return arrays

    def _write(self, key: str, columns: Columns, blocks: Blocks, record: Mapping[str, Any]) -> None:
        with _writing(self._folder):
            self._remove_parts(key)
            beside = self._folder / f".{key}.{secrets.token_hex(4)}.part"
            beside.mkdir()
        try:
            with contextlib.ExitStack() as stack:
                with _writing(beside):
                    sinks = [stack.enter_context(open(beside / f"{n}.bin", "wb")) for n in range(len(columns))]
                rows, digests = _poured(columns, blocks, sinks, beside)
                with _writing(beside):
                    for sink in sinks:
                        sink.flush()
                        os.fsync(sink.fileno())
            meta = {**record, "format": FORMAT, "arrays": _described(columns, rows, digests)}
            with _writing(beside):
                files.write_json(beside / META, meta)
                self._replace(beside, self._folder / key)
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def _replace(self, beside: Path, entry: Path) -> None:
        if entry.exists():  # damaged
            _remove(entry)
        files.move_synced(beside, entry)

    def _remove_parts(self, key: str) -> None:
        """Removes what killed processes left of an entry; its lock must be held."""
        for left in self._folder.glob(f".{key}.*.part"):
            shutil.rmtree(left, ignore_errors=True)

    def _make_room(self) -> None:
        for left in list(self._folder.glob(".*.part")):
            key = left.name[1:].split(".")[0]
            with contextlib.suppress(RunLockedError), exclusive_lock(self._file(key, "making")):
                self._remove_parts(key)
        entries = sorted((e for e in self._folder.iterdir() if (e / META).is_file()), key=_used)
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
    """The arrays of blocks, in memory."""
    sinks = [io.BytesIO() for _ in columns]
    _poured(columns, blocks, sinks, None)
    return [
        np.frombuffer(sink.getbuffer(), dtype).reshape(-1, *shape)
        for (dtype, shape), sink in zip(columns, sinks, strict=True)
    ]


def _poured(columns: Columns, blocks: Blocks, sinks: list[Any], place: Path | None) -> tuple[list[int], list[Digest]]:
    """Writes blocks one after the other; gives the rows and the checksum of each array."""
    rows, digests = [0] * len(columns), [Digest() for _ in columns]
    for block in blocks:
        for number, ((dtype, shape), array) in enumerate(zip(columns, block, strict=True)):
            if (array.dtype, array.shape[1:]) != (dtype, shape):
                raise ValueError(
                    f"An encoder gave {array.dtype}{list(array.shape[1:])} for some examples and {dtype}{list(shape)} "
                    "for the first: expected the same of all."
                )
            content = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
            digests[number].update(content)
            rows[number] += len(array)
            with _writing(place):
                sinks[number].write(content)
    return rows, digests


def _described(columns: Columns, rows: list[int], digests: list[Digest]) -> list[dict[str, Any]]:
    return [
        {"dtype": dtype.str, "shape": [count, *shape], "blake2b": digest.hex()}
        for (dtype, shape), count, digest in zip(columns, rows, digests, strict=True)
    ]


def _opened(entry: Path, columns: Columns) -> list[np.ndarray]:
    try:
        meta = files.read_json(entry / META)
        described = [(np.dtype(each["dtype"]), tuple(each["shape"]), each["blake2b"]) for each in meta["arrays"]]
        version = meta["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise _DamagedError(f"{META}: {error}") from error
    if version != FORMAT or [(dtype, shape[1:]) for dtype, shape, _ in described] != columns:
        raise _DamagedError(f"{META} describes other arrays")
    return [_mapped(entry / f"{n}.bin", *each) for n, each in enumerate(described)]


def _mapped(file: Path, dtype: np.dtype, shape: tuple[int, ...], checksum: str) -> np.ndarray:
    expected, found = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize, file.stat().st_size
    if found != expected:
        raise _DamagedError(f"{file.name} has {found:,} bytes, expected {expected:,}")
    if not expected:
        return np.zeros(shape, dtype)  # nothing cannot be mapped
    digest = Digest()
    with open(file, "rb") as stream:
        while content := stream.read(_READ_BYTES):
            digest.update(content)
    if digest.hex() != checksum:
        raise _DamagedError(f"the checksum of {file.name} is wrong")
    return np.memmap(file, dtype, "r", shape=shape)


def _remove(entry: Path) -> None:
    """Removes an entry so that nobody ever sees half of it under its name."""
    aside = entry.with_name(f".{entry.name}.{secrets.token_hex(4)}.part")
    entry.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _used(entry: Path) -> float:
    with contextlib.suppress(OSError):
        return (entry / META).stat().st_mtime
    return 0.0


def _size(entry: Path) -> int:
    with contextlib.suppress(OSError):
        return sum(file.stat().st_size for file in entry.iterdir())
    return 0


@contextlib.contextmanager
def _writing(place: Path | None) -> Iterator[None]:
    """Turns an error of the disk into one that says where; what is written to memory has no place."""
    try:
        yield
    except OSError as error:
        raise files.UnwritableError(f"{place} cannot be written to ({error.strerror or error})") from error
