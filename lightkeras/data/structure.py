"""Structure of a batch: tuples, lists and dicts of arrays."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from lightkeras.data.bags import Bags
from lightkeras.data.conversion import readable
from lightkeras.system.digest import Digest

Structure = Any
"""A batch: an array, or tuples, lists and dicts of arrays."""

TEXTS = 1024
"""Texts that are copied at a time, to digest them."""

ALIGNMENT = 64
"""Alignment in bytes that the backends need to use NumPy's memory as it is."""


@dataclasses.dataclass(frozen=True)
class ArraySpec:
    """Shape and dtype of one array of a batch.

    Args:
        shape: Shape without the batch axis; `None` where a size varies.
        dtype: NumPy name of the dtype, or `"string"`.

    Examples:
        >>> str(ArraySpec((28, None), "float32"))
        'float32[batch, 28, None]'
    """

    shape: tuple[int | None, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.dtype}[batch{''.join(f', {size}' for size in self.shape)}]"


def map_structure(function: Callable[[Any], Any], structure: Structure) -> Structure:
    """Applies `function` to every leaf of tuples, lists and dicts, keeping their structure."""
    if isinstance(structure, Mapping):
        return {key: map_structure(function, value) for key, value in structure.items()}
    if isinstance(structure, tuple) and hasattr(structure, "_fields"):
        return type(structure)(*(map_structure(function, value) for value in structure))
    if isinstance(structure, (tuple, list)):
        return type(structure)(map_structure(function, value) for value in structure)
    return function(structure)


def flatten(structure: Structure, prefix: str = "") -> list[tuple[str, Any]]:
    """Leaves of a structure with their paths: `("0", x), ("1/label", y)`. `None` is not a leaf."""
    if structure is None:
        return []
    if isinstance(structure, Mapping):
        items: Iterable[tuple[Any, Any]] = structure.items()
    elif isinstance(structure, (tuple, list)):
        items = enumerate(structure)
    else:
        return [(prefix, structure)]
    return [leaf for key, value in items for leaf in flatten(value, f"{prefix}/{key}" if prefix else str(key))]


def as_arrays(structure: Structure) -> Structure:
    """Converts what NumPy can read to NumPy arrays: tensors, lists of numbers, lists of texts.

    Args:
        structure: Arrays, tensors of any backend, lists of plain values (nested ones too, if their
            rows are equally long), or tuples, lists and dicts of these.

    Returns:
        The same tuples, lists and dicts of NumPy arrays, each with at least one axis. Text is an
        object array of `bytes` or `str`.

    Raises:
        ValueError: A scalar or `None` where an array was expected, or rows of different lengths.
        TypeError: An object array that holds anything but text.
    """
    if isinstance(structure, list) and _is_plain(structure):
        return _as_array(structure)
    if isinstance(structure, Mapping):
        return {key: as_arrays(value) for key, value in structure.items()}
    if isinstance(structure, tuple) and hasattr(structure, "_fields"):
        return type(structure)(*(as_arrays(value) for value in structure))
    if isinstance(structure, (tuple, list)):
        return type(structure)(as_arrays(value) for value in structure)
    return _as_array(structure)


def owned(structure: Structure) -> Structure:
    """A copy of a batch of NumPy arrays, which nothing else writes to.

    Its memory is aligned, so that an engine need not copy it again: TensorFlow, JAX and torch use aligned memory as it
    is, and would compute with values that a source writes there later.
    """
    return map_structure(_owned, structure)


def aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """A new array, not filled, whose memory the backends can use as it is."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def may_change(array: np.ndarray) -> bool:
    """Whether somebody can write to the memory of an array, so that an engine must not use it as it is.

    A file that is mapped for reading cannot change that way, and need not be read into memory.
    """
    part: Any = array
    while isinstance(part, np.ndarray):
        if part.flags.writeable:
            return True
        part = part.base
    return False


def spec_of(array: np.ndarray | Bags) -> Structure:
    """Shape, without axis 0, and dtype of one array; of `Bags`, of each array that `Bags.batch` returns."""
    if isinstance(array, Bags):
        return {name: ArraySpec((), column.dtype.name) for name, column in array.take(np.zeros(0, int)).batch().items()}
    return ArraySpec(array.shape[1:], "string" if array.dtype == object else array.dtype.name)


def first_examples(leaf: np.ndarray | Bags, count: int) -> np.ndarray | Bags:
    """The first examples of an array or of bags, as views."""
    return leaf.first(count) if isinstance(leaf, Bags) else leaf[:count]


def digest_of(structure: Structure) -> str:
    """Returns a digest of the paths, shapes, dtypes and contents of arrays."""
    digest = Digest()
    leaves = [(path, part) for path, leaf in flatten(structure) for part in _parts(leaf)]
    for path, array in leaves:
        digest.update(f"{path}:{array.shape}:{array.dtype};")
        if array.dtype == object:
            texts = array.ravel()
            for start in range(0, len(texts), TEXTS):
                digest.update(b"\0".join(bytes_of(texts[start : start + TEXTS])), b"\0")
        else:
            digest.update(array)
    return digest.hex()


def bytes_of(texts: np.ndarray) -> list[bytes]:
    """The texts of an array `[n]`, as UTF-8."""
    found = texts.tolist()
    if set(map(type, found)) <= {bytes}:
        return found  # type: ignore[no-any-return]
    return [text if isinstance(text, bytes) else text.encode() for text in found]


def _owned(array: np.ndarray) -> np.ndarray:
    if array.dtype == object:
        return array.copy()
    copy = aligned(array.shape, array.dtype)
    copy[...] = array
    return copy


def _parts(leaf: np.ndarray | Bags) -> list[np.ndarray]:
    return [leaf.ids, leaf.weights, leaf.splits] if isinstance(leaf, Bags) else [leaf]


def _is_plain(value: Any) -> bool:
    """Whether this is a number, a text, or a list of only those: one array, not a structure of arrays."""
    if isinstance(value, list):
        return bool(value) and all(map(_is_plain, value))
    return isinstance(value, (int, float, complex, str, bytes, np.generic))


def _holds_text(value: Any) -> bool:
    return any(map(_holds_text, value)) if isinstance(value, list) else isinstance(value, (str, bytes))


def _type_beside_text(array: np.ndarray) -> type | None:
    """The type of the first value that is no text; `None` if all are."""
    kinds = dict.fromkeys(map(type, array.ravel().tolist()))  # in their order; a million values take 0.03 s
    return next((kind for kind in kinds if not issubclass(kind, (bytes, str))), None)


def _as_array(value: Any) -> np.ndarray | Bags:
    if isinstance(value, Bags):
        return value
    value = readable(value)
    if value is None:
        raise ValueError("Received None where an array was expected: leave it out, `(x,)` and not `(x, None)`.")
    try:
        # Without dtype=object NumPy would pad each text of a list to the longest, and cut trailing zeros.
        array = np.array(value, dtype=object) if _holds_text(value) else np.asarray(value)
    except ValueError as error:
        raise ValueError(f"Cannot convert to an array: {error} Pad rows of different lengths to one length.") from error
    if array.ndim == 0:
        raise ValueError(
            f"Received the scalar {value!r}: expected an array with one row per example. A list of scalars that are "
            "tensors becomes one with `np.stack`."
        )
    if array.dtype == np.float64:
        return array.astype(np.float32)  # as Keras does
    if array.dtype.kind in "UST":  # str, bytes, and NumPy's variable-width StringDType
        return array.astype(object)
    if array.dtype.kind in "mM":
        raise TypeError(
            f"Received an array of {array.dtype}: expected numbers or text. Convert it to a number, such as the days "
            "since a date: `(x - x.min()) / np.timedelta64(1, 'D')`."
        )
    wrong = _type_beside_text(array) if array.dtype == object else None
    if wrong is not None:
        raise TypeError(
            f"An array of dtype object holds {wrong.__name__}; expected text (bytes or str) or a numeric dtype. "
            "Convert numbers with `.astype('float32')`; pad rows of different lengths to one length first."
        )
    return array
