"""Checkpoints: the run state on disk, written atomically, with checksums and without pickle.

checkpoints/
  step-00000450/
    variables.safetensors   every variable of the run state, by its stable key
    state.json              counters, records, and the path and dtype of each variable
    (more)                  state of the feed, arrays of callbacks, if any
    manifest.json           size and BLAKE2 digest of all of these
  best, last                text files that name one of the folders

An existing folder is never written again: a second save of a step makes `step-00000450-1` beside it, so that `best`
and `last` name a complete checkpoint at every moment.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import itertools
import os
import re
import secrets
import shutil
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from lightkeras.runs import formats, tensor_file
from lightkeras.system import files
from lightkeras.system.digest import Digest
from lightkeras.system.held_values import HeldValues
from lightkeras.system.messages import did_you_mean
from lightkeras.system.variables import CheckpointError

VARIABLES, STATE, MANIFEST = "variables.safetensors", "state.json", "manifest.json"
_NAME = re.compile(formats.CHECKPOINT)
_POINTER_BYTES = 4096
_DIGEST_BYTES = 32


@dataclasses.dataclass(frozen=True)
class Captured:
    """Copies of the values of variables, in host memory.

    Args:
        arrays: Values by key.
        names: Path and dtype of each variable by key.
    """

    arrays: Mapping[str, np.ndarray]
    names: Mapping[str, Mapping[str, str]]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose checksums were verified.

    Args:
        path: Folder of the checkpoint.
        arrays: Values of the variables by key.
        state: The rest of the run state.
        extra: Contents of further files by name.
    """

    path: Path
    arrays: Mapping[str, np.ndarray]
    state: Mapping[str, Any]
    extra: Mapping[str, bytes]


def capture(held: HeldValues) -> Captured:
    """The values of variables that an engine holds, with their paths and dtypes."""
    names = {key: {"path": found.path, "dtype": str(found.dtype)} for key, found in held.variables.items()}
    return Captured(held.arrays, names)


def save(
    path: Path, step: int, captured: Captured, state: Mapping[str, Any], extra: Mapping[str, bytes] | None = None
) -> None:
    """Writes a checkpoint atomically: writes a folder beside it, fsyncs it and renames it.

    Args:
        path: Folder of the checkpoint, with a name from `free_name`.
        step: Train steps done.
        captured: The variables of the run state.
        state: The rest of the run state, JSON values.
        extra: Contents of further files by name; `None` for none.

    Raises:
        OSError: It could not be written; existing checkpoints are unchanged.
    """
    folder = path.parent
    contents: dict[str, Sequence[bytes | memoryview]] = {
        VARIABLES: tensor_file.parts_of({key: _storable(array) for key, array in captured.arrays.items()}),
        STATE: [files.json_bytes({**state, "step": step, "variables": captured.names}, files.encode_float)],
        **{name: [content] for name, content in (extra or {}).items()},
    }
    beside = folder / f".{path.name}.{secrets.token_hex(4)}.part"
    with files.explained(path):
        try:
            files.make_folder(folder)
            beside.mkdir()
            with concurrent.futures.ThreadPoolExecutor(1) as digesting:
                entries = {name: digesting.submit(_entry, *parts) for name, parts in contents.items()}
                for name, parts in contents.items():
                    files.write_synced(beside / name, *parts)
                manifest = {name: entry.result() for name, entry in entries.items()}
            files.write_synced(beside / MANIFEST, files.json_bytes(manifest))
            files.sync(beside)
            files.move_synced(beside, path)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def load(path: Path, kind: type = formats.State, wanted: Collection[str] | None = None) -> Checkpoint:
    """Reads a checkpoint and verifies its checksums.

    Args:
        path: Folder of the checkpoint.
        kind: The dataclass of `runs.formats` that its state must fit.
        wanted: Keys of the variables to read, as far as it has them; `None` reads all.

    Raises:
        FileNotFoundError: The folder does not exist.
        CheckpointError: A file is missing, truncated or changed, or holds what no run writes; the message names it.
    """
    contents = _verified(path)
    with decoding(path):
        state = files.parse_json(contents.pop(STATE), path / STATE, kind, object_hook=files.decode_float)
        stored = tensor_file.read(path / VARIABLES, wanted)
        unknown = sorted(set(stored) - set(state["variables"]))
        if unknown:
            raise ValueError(f"{STATE} does not describe the variable {unknown[0]!r}.")
        arrays = {key: _restored(array, state["variables"][key]["dtype"]) for key, array in stored.items()}
    return Checkpoint(path, arrays, state, contents)


def verify(path: Path) -> None:
    """Verifies the checksums of a checkpoint.

    Raises:
        FileNotFoundError: The folder does not exist.
        CheckpointError: A file is missing, truncated or changed; the message names it.
    """
    _verified(path)


def arrays_of(content: bytes, path: Path) -> dict[str, np.ndarray]:
    """Decodes a safetensors file.

    Raises:
        DamagedFileError: The content is not that of a safetensors file.
    """
    try:
        return safetensors.numpy.load(content)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise files.DamagedFileError(f"{path} is damaged: {type(error).__name__}, {error}.") from error


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Adds the name of a checkpoint to a `CheckpointError` that does not have it."""
    try:
        yield
    except CheckpointError as error:
        if str(path) in str(error):
            raise
        raise CheckpointError(f"The checkpoint {path} cannot be used: {error}") from error


@contextlib.contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Re-raises what decoders raise for content of a wrong form as a `CheckpointError` that names the checkpoint.

    The content of a checkpoint that passed its checksums has a wrong form only if somebody else wrote it.
    """
    try:
        with naming(path):
            yield
    except CheckpointError:
        raise
    except files.DamagedFileError as error:
        raise CheckpointError(f"The checkpoint {path} is damaged: {error}") from error
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, MemoryError) as error:
        reason = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise CheckpointError(f"The checkpoint {path} is damaged: it cannot be decoded ({reason}).") from error


def is_ours(path: Path) -> bool:
    """Whether a path has the name of a checkpoint and is a folder with a manifest, as `save` writes it."""
    return bool(_NAME.fullmatch(path.name)) and files.is_folder(path) and files.is_file(path / MANIFEST)


def _verified(path: Path) -> dict[str, bytes]:
    """Verifies the checksums of a checkpoint. Returns the contents of its files, without that of the variables."""
    if not path.is_dir():
        raise FileNotFoundError(f"There is no checkpoint at {path}.")
    try:
        files.check_no_link(path)
        manifest = files.read_json(path / MANIFEST, dict[str, formats.Entry])
        if not {VARIABLES, STATE} <= set(manifest):
            raise ValueError(f"{MANIFEST} does not list {VARIABLES} and {STATE}.")
        if wrong := next((name for name in manifest if Path(name).name != name), None):
            raise ValueError(f"{MANIFEST} lists {wrong!r}, which is not the name of a file.")
        contents = {
            name: files.read_bytes(path / name, entry["bytes"]) for name, entry in manifest.items() if name != VARIABLES
        }
        found = {name: _entry(content) for name, content in contents.items()}
        found[VARIABLES] = _entry_of(path / VARIABLES, manifest[VARIABLES]["bytes"])
    except (OSError, ValueError) as error:
        raise CheckpointError(f"The checkpoint {path} is damaged: {error}") from error
    for name, expected in manifest.items():
        if expected != found[name]:
            raise CheckpointError(
                f"The checkpoint {path} is damaged: {name} has {found[name]['bytes']} bytes with digest "
                f"{found[name]['blake2b'][:8]}, its manifest says {expected}."
            )
    return contents


def _entry_of(path: Path, most: int) -> dict[str, Any]:
    """The entry of a file of at most so many bytes, which is not read into memory."""
    with files.open_to_read(path, most) as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=_DIGEST_BYTES))
        return {"bytes": file.tell(), "blake2b": digest.hexdigest()}


def point(folder: Path, name: str, path: Path) -> None:
    """Makes `best` or `last` name the checkpoint."""
    files.write_bytes(folder / name, f"{path.name}\n".encode())


def find(folder: Path, name: str) -> Path:
    """Returns the folder of the checkpoint that `best` or `last` names.

    Raises:
        FileNotFoundError: The name does not exist.
        CheckpointError: The file does not hold the name of a checkpoint.
    """
    target = named(folder, name)
    if target is None:
        there = [entry.name for entry in folder.glob("*") if entry.is_file()] if folder.is_dir() else []
        raise FileNotFoundError(f"There is no checkpoint {name!r} in {folder}. {did_you_mean(name, there)}")
    if not _NAME.fullmatch(target):
        raise CheckpointError(f"{folder / name} is damaged: {target!r} is not the name of a checkpoint.")
    return folder / target


def named(folder: Path, name: str) -> str | None:
    """Returns the content of `best` or `last`, unchecked; `None` if the file is missing."""
    try:
        return files.read_bytes(folder / name, _POINTER_BYTES).decode(errors="replace").strip()
    except FileNotFoundError:
        return None
    except (files.DamagedFileError, NotADirectoryError):
        return ""


def prune(folder: Path, kept: Iterable[str]) -> None:
    """Removes all checkpoints except the named ones, and temporary files of a killed run.

    Files of the user, also copies of checkpoints under other names, stay.

    Raises:
        LinkError: The folder is a link.
    """
    names = set(kept)
    files.check_no_link(folder)
    for path in list(folder.glob("step-*")):
        if path.name not in names and is_ours(path):
            files.remove_folder(path)
    files.sweep(folder)


def free_name(folder: Path, step: int, taken: Container[str] = ()) -> str:
    """Returns an unused name for a checkpoint of a step."""
    name = f"step-{step:08d}"
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(1)))
    return next(found for found in names if found not in taken and not os.path.lexists(folder / found))


def newest_first(folder: Path) -> list[Path]:
    """Returns the checkpoints of a folder: the one that `last` names, then the others by descending step."""
    last = named(folder, "last")
    paths = [path for path in folder.glob("step-*") if files.is_folder(path) and _NAME.fullmatch(path.name)]
    return sorted(paths, key=lambda path: (path.name == last, *numbers(path)), reverse=True)


def numbers(path: Path) -> tuple[int, int]:
    """Returns the step of a checkpoint and its number among those of the same step, which is the order of writing."""
    found = _NAME.fullmatch(path.name)
    return (int(found[1]), int(found[2] or 0)) if found else (-1, 0)


def _storable(array: np.ndarray) -> np.ndarray:
    """Returns the array, or its bits as uint16 for bfloat16, which safetensors cannot load into NumPy."""
    return array.view(np.uint16) if array.dtype == ml_dtypes.bfloat16 else array


def _restored(array: np.ndarray, dtype: str) -> np.ndarray:
    return array.view(ml_dtypes.bfloat16) if dtype == "bfloat16" and array.dtype == np.uint16 else array


def _entry(*parts: bytes | memoryview) -> dict[str, Any]:
    return {"bytes": sum(map(len, parts)), "blake2b": Digest(*parts, size=_DIGEST_BYTES).hex()}


def round_trip(array: np.ndarray, dtype: str) -> np.ndarray:
    """Returns the value of a variable of a dtype after encoding and decoding it as in a checkpoint.

    Raises:
        Exception: The file format cannot hold the value.
    """
    content = b"".join(tensor_file.parts_of({"value": _storable(array)}))
    return _restored(safetensors.numpy.load(content)["value"], dtype)
