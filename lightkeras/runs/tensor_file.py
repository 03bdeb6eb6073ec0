"""safetensors files that are written from views of arrays and read array by array, so that no second copy is held.

`safetensors.numpy.save` returns the whole file as bytes, and `save_file` reports a full disk without its `errno`. The
format is eight bytes of length, a JSON header of dtypes, shapes and offsets, and the values:
https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from lightkeras.system.files import DamagedFileError

_DTYPES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "uint32": "U32",
    "int32": "I32",
    "uint64": "U64",
    "int64": "I64",
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "complex64": "C64",
}
_ALIGNED = 8
"""Multiple of bytes at which the values begin."""


def parts_of(arrays: Mapping[str, np.ndarray]) -> list[bytes | memoryview]:
    """Returns the content of a file of arrays in parts: its header, and the bytes of each array, which are not copied.

    Raises:
        TypeError: The format has no name for a dtype.
    """
    # Wide values come first, as safetensors writes them: so all are aligned.
    ordered = sorted(arrays.items(), key=lambda item: (-item[1].itemsize, item[0]))
    header, end = {}, 0
    for key, array in ordered:
        if array.dtype.name not in _DTYPES:
            raise TypeError(f"safetensors has no name for the dtype {array.dtype.name}")
        begin, end = end, end + array.nbytes
        header[key] = {"dtype": _DTYPES[array.dtype.name], "shape": array.shape, "data_offsets": (begin, end)}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNED)
    values = [np.ascontiguousarray(array).reshape(-1).view(np.uint8).data for _, array in ordered]
    return [len(text).to_bytes(8, "little") + text, *values]


def read(path: Path, wanted: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Reads a file of arrays; only the wanted ones that it holds, if given.

    Raises:
        DamagedFileError: It is not such a file.
    """
    with _opened(path) as file:
        return {key: file.get_tensor(key) for key in file.keys() if wanted is None or key in wanted}  # noqa: SIM118


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Reads the shapes of a file's arrays, not their values.

    Raises:
        DamagedFileError: It is not such a file.
    """
    with _opened(path) as file:
        return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safetensors.safe_open(path, framework="np") as file:
            yield file
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DamagedFileError(f"{path} is damaged: {type(error).__name__}, {error}.") from error
