"""Lossless encoding of plain values, such as the state of a callback, as JSON and arrays.

Numbers, strings, `None` and lists are encoded as themselves. Everything else is an object with one entry, whose name is
the type: `{"tuple": [...]}`, `{"float": "nan"}`, `{"array": "<key>"}`. Nothing is pickled.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any, final

import keras
import numpy as np

from lightkeras.system.digest import Digest
from lightkeras.system.files import decode_float, encode_float

_STORABLE = "biuf"  # kinds of dtypes that are stored as arrays; others are stored as bytes
_COLLECTIONS: dict[str, Callable[[list[Any]], Any]] = {"tuple": tuple, "set": set, "frozenset": frozenset}


class NotPlainError(TypeError):
    """A value has parts that are not plain."""


@final
class Encoder:
    """Encodes plain values as JSON, and collects the arrays in them.

    Plain are `None`, bools, numbers, strings, bytes, NumPy's arrays and scalars, tensors that have a value, and lists,
    tuples, sets and dictionaries of those. Objects of subclasses are not.

    Args:
        copies: Whether arrays are copied; `False` if they are not changed before they are used.
    """

    def __init__(self, copies: bool = True) -> None:
        self._copies = copies
        self.arrays: dict[str, np.ndarray] = {}
        self._inside: set[int] = set()

    def encode(self, value: Any, key: str) -> Any:
        """Returns JSON values.

        Args:
            value: A plain value.
            key: Prefix of the keys of its arrays.

        Raises:
            NotPlainError: The value is not plain.
        """
        kind = type(value)
        if value is None or kind in (bool, int, str):
            return value
        if kind is float:
            return encode_float(value)
        if kind is bytes:
            return {"bytes": base64.b64encode(value).decode()}
        if isinstance(value, np.generic):
            return {"scalar": self._array(np.asarray(value), key)}
        if kind is np.ndarray:
            return self._array(value, key)
        if kind in (list, tuple, dict, set, frozenset):
            return self._collection(value, key)
        if _is_eager_tensor(value):
            return {"tensor": self._array(np.asarray(keras.ops.convert_to_numpy(value)), key)}
        raise NotPlainError(f"{kind.__name__} is not plain")

    def _collection(self, value: Any, key: str) -> Any:
        if id(value) in self._inside:
            raise NotPlainError("it contains itself")
        self._inside.add(id(value))
        try:
            if isinstance(value, dict):
                items = enumerate(value.items())
                return {"dict": [[self.encode(k, f"{key}/{i}k"), self.encode(v, f"{key}/{i}")] for i, (k, v) in items]}
            found = [self.encode(item, f"{key}/{number}") for number, item in enumerate(_ordered(value))]
            return found if isinstance(value, list) else {type(value).__name__: found}
        finally:
            self._inside.discard(id(value))

    def _array(self, value: np.ndarray, key: str) -> Any:
        if value.dtype.kind == "O":
            items = [self.encode(item, f"{key}/{number}") for number, item in enumerate(value.ravel())]
            return {"objects": [list(value.shape), items]}
        if value.dtype.hasobject or value.dtype.names is not None:
            raise NotPlainError("an array of records is not plain")
        if value.dtype.kind in _STORABLE and value.dtype.isnative and value.dtype.itemsize <= 8:
            self.arrays[key] = np.array(value, order="C", copy=True) if self._copies else np.asarray(value, order="C")
            return {"array": key}
        # A dtype that NumPy does not define, such as bfloat16, has only a name.
        dtype = value.dtype.name if value.dtype.kind == "V" else value.dtype.str
        return {"raw": [dtype, list(value.shape), base64.b64encode(value.tobytes()).decode()]}


def decode(data: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Decodes what `Encoder.encode` returned, with the arrays it collected; a ValueError for other data."""
    try:
        return _decoded(data, arrays)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, MemoryError) as error:
        reason = error if type(error) is ValueError else f"{type(error).__name__}, {error}"
        raise ValueError(f"The saved state of a callback is damaged: {reason}.") from error


def _decoded(data: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if isinstance(data, list):
        return [_decoded(item, arrays) for item in data]
    if not isinstance(data, dict):
        return data
    data = decode_float(data)
    if isinstance(data, float):
        return data
    ((kind, content),) = data.items()
    if kind in _COLLECTIONS:
        return _COLLECTIONS[kind](_decoded(content, arrays))
    match kind:
        case "bytes":
            return base64.b64decode(content)
        case "dict":
            return {_decoded(key, arrays): _decoded(value, arrays) for key, value in content}
        case "array":
            return np.array(arrays[content])
        case "scalar":
            return _decoded(content, arrays)[()]
        case "tensor":
            return keras.ops.convert_to_tensor(_decoded(content, arrays))
        case "raw":
            dtype, shape, text = content
            return np.frombuffer(base64.b64decode(text), np.dtype(dtype)).reshape(shape).copy()
        case "objects":
            shape, items = content
            array = np.empty(len(items), object)
            for number, item in enumerate(items):
                array[number] = _decoded(item, arrays)
            return array.reshape(shape)
    raise ValueError(f"unknown value type {kind!r}")


def fingerprint(value: Any) -> str:
    """Returns a digest of a plain value, else a NotPlainError; different values have different digests."""
    encoder = Encoder(copies=False)
    digest = Digest(json.dumps(encoder.encode(value, "")))
    for key, array in encoder.arrays.items():
        digest.update(f"{key} {array.dtype.str} {array.shape}", array)
    return digest.hex()


def _ordered(value: Any) -> Any:
    """Items of a collection. Sets are sorted, because their order differs between processes."""
    return value if isinstance(value, (list, tuple)) else sorted(value, key=fingerprint)


def _is_eager_tensor(value: Any) -> bool:
    """Returns True for a tensor that has a value: not for a variable or a symbolic tensor."""
    return bool(keras.ops.is_tensor(value)) and type(value).__name__ in ("EagerTensor", "ArrayImpl", "Tensor")
