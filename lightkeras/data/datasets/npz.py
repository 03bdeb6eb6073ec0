"""Arrays in `.npz` and `.npy` files, which may come from anywhere: nothing in them is run."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

# What NumPy and the zip archive raise for files that are cut off, changed or something else altogether.
_BROKEN = (ValueError, EOFError, OSError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError)


def keys_of(path: Path) -> list[str]:
    """Names of the arrays in an `.npz` file; none of them is read.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, or no `.npz` file.
    """
    _check_there(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except _BROKEN as error:
        raise ValueError(
            f"{path} is damaged or no .npz file: {_told(error)}. Restore it from where it came."
        ) from error


def check_keys(path: Path, expected: Sequence[str]) -> None:
    """Checks that an `.npz` file has the arrays that are expected; further ones are left alone.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, no `.npz` file, or lacks an array.
    """
    found = keys_of(path)
    missing = [key for key in expected if key not in found]
    if missing:
        raise ValueError(
            f"{path} holds the arrays {', '.join(found) or 'none'}: expected {', '.join(expected)}; "
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing. Save them under these names with "
            "numpy.savez_compressed."
        )


def read_array(path: Path, key: str) -> np.ndarray:
    """One array of an `.npz` file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, or the array holds pickled objects.
    """
    _check_there(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            return np.asarray(archive[key])
    except _BROKEN as error:
        raise _refused(f"Array {key} of {path}", error) from error


def read_npy(path: Path) -> np.ndarray:
    """The array of an `.npy` file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, no `.npy` file, or holds pickled objects.
    """
    _check_there(path)
    try:
        array = np.load(path, allow_pickle=False)
    except _BROKEN as error:
        raise _refused(str(path), error) from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise ValueError(f"{path} is an archive of arrays: expected a single one, as numpy.save writes it.")
    return array


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there, or no file.")


def _refused(what: str, error: Exception) -> ValueError:
    if isinstance(error, ValueError) and "allow_pickle" in str(error):
        return ValueError(
            f"{what} holds pickled objects, or is no array at all. Pickles can run any code and are not read: save "
            "numbers, with a numeric dtype."
        )
    return ValueError(f"{what} is damaged: {_told(error)}. Restore the file from where it came.")


def _told(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}, {lines[0].rstrip('.')}" if lines else type(error).__name__
