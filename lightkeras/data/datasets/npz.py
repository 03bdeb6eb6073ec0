"""Arrays in `.npz` and `.npy` files. Pickled objects are refused, so that reading a file never runs code from it."""

from __future__ import annotations

import lzma
import math
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightkeras.system import files

# What `numpy.load` and the zip archive raise for files that are truncated, changed or of another kind.
_LOAD_ERRORS = (
    *(ValueError, EOFError, OSError, KeyError, TypeError, IndexError, OverflowError, MemoryError, RecursionError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, NotImplementedError, RuntimeError),
    *(SyntaxError, tokenize.TokenError),  # of the header, which NumPy parses as Python's literals
)


def array_names(path: Path) -> list[str]:
    """Returns the names of the arrays in an `.npz` file, without reading them. Raises the errors of `read_array`."""
    return list(_load(path, str(path), lambda archive: archive.files))


def check_keys(path: Path, expected: Sequence[str]) -> None:
    """Raises a ValueError if an `.npz` file lacks an expected array, and the errors of `read_array`."""
    found = array_names(path)
    missing = [key for key in expected if key not in found]
    if missing:
        raise ValueError(
            f"{path} holds the arrays {', '.join(found) or 'none'}: expected {', '.join(expected)}; "
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing. Save them under these names with "
            "numpy.savez_compressed."
        )


def read_array(path: Path, key: str) -> np.ndarray:
    """Reads one array of an `.npz` file.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is damaged, or the array holds pickled objects.
    """
    return np.asarray(_load(path, f"Array {key} of {path}", lambda archive: _checked(archive, key)[key]))


def read_npy(path: Path) -> np.ndarray:
    """Reads the array of an `.npy` file. Raises the errors of `read_array`."""
    return np.asarray(_load(path, str(path), lambda array: array, single=True))


def _checked(archive: Any, key: str) -> Any:
    """Returns the archive, if the header of the array claims no more than the archive has."""
    name = key if key in archive.zip.namelist() else f"{key}.npy"
    with archive.zip.open(name) as stream:
        _check_claim(stream, archive.zip.getinfo(name).file_size)
    return archive


def _check_claim(stream: Any, size: int) -> None:
    """Raises ValueError if the header of an array claims more bytes than there are: NumPy would allocate them first."""
    if stream.read(len(np.lib.format.MAGIC_PREFIX)) != np.lib.format.MAGIC_PREFIX:
        return  # `numpy.load` explains what it is
    version = tuple(stream.read(2))
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        return
    shape, _, dtype = readers[version](stream)
    if not dtype.hasobject and math.prod(shape) * dtype.itemsize > size:
        raise ValueError(f"its header claims {math.prod(shape) * dtype.itemsize:,} bytes, and there are {size:,}")


def _load(path: Path, what: str, take: Callable[[Any], Any], single: bool = False) -> Any:
    """Applies `take` to what `numpy.load` returns; an error becomes a ValueError about `what`."""
    if not path.is_file():
        raise FileNotFoundError(f"No such file: {path}.")
    try:
        # NumPy does not close a damaged archive that it opened itself. A data folder may hold links.
        with files.open_to_read(path.resolve()) as stream:
            if single:
                _check_claim(stream, os.fstat(stream.fileno()).st_size)
                stream.seek(0)
            loaded = np.load(stream, allow_pickle=False)
            if isinstance(loaded, np.ndarray) is single:
                return take(loaded)
    except _LOAD_ERRORS as error:
        if "allow_pickle" in str(error):  # NumPy takes any file that it does not recognize for a pickle
            raise ValueError(
                f"{what} holds pickled objects, or is not a NumPy array. Pickles can run any code and are not read: "
                "save numbers, with a numeric dtype."
            ) from error
        reason = ", ".join([type(error).__name__, *str(error).splitlines()[:1]]).rstrip(".")
        raise ValueError(f"{what} is damaged: {reason}. Restore the file from where it came.") from error
    if single:
        raise ValueError(f"{path} is an archive of arrays: expected a single array, as numpy.save writes it.")
    raise ValueError(f"{path} is a single array: expected an archive of arrays, as numpy.savez_compressed writes it.")
