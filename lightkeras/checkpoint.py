"""Checkpoints: the run state on disk, atomic and checksummed, without pickle.

checkpoints/
  step-00000450/
    variables.safetensors   every variable of the run state, by its stable key
    state.json              counters, records, and what each key stands for
    manifest.json           size and BLAKE2 digest of the two
  best, last                text files that name one of the folders
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
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
    return {key: np.array(keras.ops.convert_to_numpy(variable)) for key, variable in variables.items()}


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
    path = folder / f"step-{step:08d}"
    names = {key: {"path": variable.path, "dtype": str(variable.dtype)} for key, variable in variables.items()}
    contents = {
        VARIABLES: safetensors.numpy.save(read_variables(variables)),
        STATE: files.json_bytes({**state, "step": step, "variables": names}),
    }
    contents[MANIFEST] = files.json_bytes({name: _entry(content) for name, content in contents.items()})
    beside = folder / f".{path.name}.{secrets.token_hex(4)}.part"
    with files.explained(path):
        try:
            beside.mkdir(parents=True)
            for name, content in contents.items():
                files.write_synced(beside / name, content)
            files.sync_folder(beside)
            if path.exists():
                shutil.rmtree(path)
            os.replace(beside, path)
            files.sync_folder(folder)
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
    return Checkpoint(path, safetensors.numpy.load(contents[VARIABLES]), files.read_json(path / STATE))


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
    target = (folder / name).read_text(encoding="utf-8").strip()
    if not target.startswith("step-") or Path(target).name != target:
        raise CheckpointError(f"{folder / name} is damaged: it names {target!r}, which is no checkpoint.")
    return folder / target


def prune(folder: Path) -> None:
    """Removes the checkpoints that neither `best` nor `last` names."""
    kept = {find(folder, name) for name in ("best", "last") if (folder / name).is_file()}
    for path in folder.glob("step-*"):
        if path not in kept:
            shutil.rmtree(path)


def _entry(content: bytes) -> dict[str, Any]:
    return {"bytes": len(content), "blake2b": hashlib.blake2b(content, digest_size=32).hexdigest()}
