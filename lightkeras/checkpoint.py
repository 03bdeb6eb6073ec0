"""Checkpoints: the run state on disk, atomic and checksummed, without pickle.

checkpoints/
  step-00000450/
    variables.safetensors   every variable of the run state, by its stable key
    state.json              counters, records, and what each key stands for
    manifest.json           size and BLAKE2 digest of the two
  best, last                text files that name one of the folders

A folder that is there is never written again: a second save of a step makes `step-00000450-1` beside
it, so that what `best` and `last` name is whole at every moment.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import ml_dtypes
import numpy as np
import safetensors.numpy

from lightkeras import files
from lightkeras._messages import did_you_mean

VARIABLES, STATE, MANIFEST = "variables.safetensors", "state.json", "manifest.json"


class CheckpointError(ValueError):
    """A checkpoint that is damaged, or that belongs to something else."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint, read and verified.

    Args:
        path: Its folder.
        arrays: Values of the variables by key.
        state: The rest of the run state.
    """

    path: Path
    arrays: Mapping[str, np.ndarray]
    state: Mapping[str, Any]


def read_variables(variables: Mapping[str, keras.Variable]) -> dict[str, np.ndarray]:
    """Copies of the values of variables, by key."""
    return {key: _read(variable) for key, variable in variables.items()}


def write_variables(variables: Mapping[str, keras.Variable], arrays: Mapping[str, np.ndarray]) -> None:
    """Sets variables to values that `read_variables` gave.

    Raises:
        CheckpointError: A key is missing or too many, or a shape differs. No variable was changed.
    """
    missing, unknown = sorted(set(variables) - set(arrays)), sorted(set(arrays) - set(variables))
    if missing or unknown:
        raise CheckpointError(
            f"The saved state does not fit this task: {len(missing)} of its variables are not in it "
            f"({', '.join(missing[:3]) or 'none'}), {len(unknown)} in it are unknown "
            f"({', '.join(unknown[:3]) or 'none'}). Use the hyperparameters and the code it was saved with."
        )
    for key, variable in variables.items():
        if tuple(arrays[key].shape) != tuple(variable.shape):
            raise CheckpointError(
                f"The saved state does not fit this task: {variable.path} ({key}) has shape "
                f"{tuple(variable.shape)}, the saved value {tuple(arrays[key].shape)}. "
                "Use the hyperparameters and the code it was saved with."
            )
    for key, variable in variables.items():
        variable.assign(arrays[key])


def save(folder: Path, step: int, variables: Mapping[str, keras.Variable], state: Mapping[str, Any]) -> Path:
    """Writes a checkpoint: beside, fsynced, then renamed into place.

    Args:
        folder: The `checkpoints` folder.
        step: Train steps done.
        variables: The variables of the run state, by key.
        state: The rest of the run state, JSON values.

    Returns:
        The folder of the checkpoint.

    Raises:
        OSError: It could not be written; the checkpoints that were there are untouched.
    """
    path = _free_name(folder, f"step-{step:08d}")
    names = {key: {"path": variable.path, "dtype": str(variable.dtype)} for key, variable in variables.items()}
    contents = {
        VARIABLES: safetensors.numpy.save({key: _storable(_read(variable)) for key, variable in variables.items()}),
        STATE: files.json_bytes({**state, "step": step, "variables": names}),
    }
    contents[MANIFEST] = files.json_bytes({name: _entry(content) for name, content in contents.items()})
    beside = folder / f".{path.name}.{secrets.token_hex(4)}.part"
    with files.explained(path):
        try:
            beside.mkdir(parents=True)
            for name, content in contents.items():
                files.write_synced(beside / name, content)
            files.sync(beside)
            files.move_synced(beside, path)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return path


def load(path: Path) -> Checkpoint:
    """Reads a checkpoint and verifies its checksums.

    Args:
        path: Folder of the checkpoint.

    Raises:
        FileNotFoundError: There is no such folder.
        CheckpointError: A file is missing, cut short or changed; the message names it.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"There is no checkpoint at {path}.")
    try:
        manifest = files.read_json(path / MANIFEST)
        contents = {name: (path / name).read_bytes() for name in (VARIABLES, STATE)}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"The checkpoint {path} is damaged: {error}") from error
    for name, content in contents.items():
        expected, found = (manifest.get(name) if isinstance(manifest, dict) else None), _entry(content)
        if expected != found:
            raise CheckpointError(
                f"The checkpoint {path} is damaged: {name} has {found['bytes']} bytes with digest "
                f"{found['blake2b'][:8]}, its manifest says {expected}."
            )
    state = json.loads(contents[STATE])
    stored = safetensors.numpy.load(contents[VARIABLES])
    arrays = {key: _restored(array, state["variables"][key]["dtype"]) for key, array in stored.items()}
    return Checkpoint(path, arrays, state)


def point(folder: Path, name: str, path: Path) -> None:
    """Makes `best` or `last` name a checkpoint."""
    files.write_bytes(folder / name, f"{path.name}\n".encode())


def find(folder: Path, name: str) -> Path:
    """The folder of the checkpoint that `best` or `last` names.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        CheckpointError: The name in the file is not that of a checkpoint.
    """
    if not (folder / name).is_file():
        there = [entry.name for entry in folder.glob("*") if entry.is_file()] if folder.is_dir() else []
        raise FileNotFoundError(f"There is no checkpoint {name!r} in {folder}. {did_you_mean(name, there)}")
    target = (folder / name).read_text(encoding="utf-8", errors="replace").strip()
    if not target.startswith("step-") or Path(target).name != target:
        raise CheckpointError(f"{folder / name} is damaged: it names {target!r}, which is no checkpoint.")
    return folder / target


def prune(folder: Path) -> None:
    """Removes the checkpoints that neither `best` nor `last` names, and parts that a killed run left."""
    kept = {find(folder, name) for name in ("best", "last") if (folder / name).is_file()}
    for path in [*folder.glob("step-*"), *folder.glob(".step-*.part")]:
        if path not in kept:
            shutil.rmtree(path)
    for path in folder.glob(".*.part"):
        path.unlink()


def _free_name(folder: Path, name: str) -> Path:
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(1)))
    return next(folder / found for found in names if not (folder / found).exists())


def _read(variable: keras.Variable) -> np.ndarray:
    if variable.dtype == "bfloat16":  # NumPy 2 cannot read it from TensorFlow; float32 holds all of it
        return np.array(keras.ops.convert_to_numpy(keras.ops.cast(variable, "float32"))).astype(ml_dtypes.bfloat16)
    # TensorFlow's variables, unlike its tensors, answer NumPy 2 with a deprecation warning; `copy` gives a tensor.
    return np.array(keras.ops.convert_to_numpy(keras.ops.copy(variable)))


def _storable(array: np.ndarray) -> np.ndarray:
    """The array, or its bits as whole numbers where safetensors could not give NumPy the dtype back."""
    return array.view(np.uint16) if array.dtype == ml_dtypes.bfloat16 else array


def _restored(array: np.ndarray, dtype: str) -> np.ndarray:
    return array.view(ml_dtypes.bfloat16) if dtype == "bfloat16" else array


def _entry(content: bytes) -> dict[str, Any]:
    return {"bytes": len(content), "blake2b": hashlib.blake2b(content, digest_size=32).hexdigest()}


def round_trip(variable: keras.Variable) -> np.ndarray:
    """What a variable would be after it was saved and loaded, by way of the bytes of a file.

    Raises:
        Exception: Whatever the file's format raises for what it cannot hold.
    """
    content = safetensors.numpy.save({"value": _storable(_read(variable))})
    return _restored(safetensors.numpy.load(content)["value"], str(variable.dtype))
