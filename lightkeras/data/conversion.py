"""Arrays of other libraries: what NumPy would read wrongly is converted, or refused with what to do."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np


def readable(value: Any) -> Any:
    """Returns a value that NumPy reads as it is meant.

    Args:
        value: An array, a tensor, or a table of pandas. Its columns of booleans and of nullable numbers become
            numbers, and a missing one NaN, as `astype("float32")` makes them.

    Raises:
        TypeError: NumPy cannot hold the value, or would drop a part of it: sparse and ragged tensors, masked arrays,
            tables with text among numbers.
    """
    if isinstance(value, np.ma.MaskedArray):
        masked = int(np.ma.getmaskarray(value).sum())
        if masked:
            raise TypeError(
                f"Received a masked array with {masked:,} masked values: NumPy would drop the mask. "
                "Fill them, `x.filled(0)`, and give the mask as an input or as sample_weight."
            )
        return value.data
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(value, (pandas.DataFrame, pandas.Series)):
        return _from_pandas(value, pandas)
    advice = _dense(value)
    if advice is not None:
        raise TypeError(
            f"Received {type(value).__name__}: expected a dense array. {advice} If it is too large for that, give a "
            "function that yields dense batches."
        )
    return value


def _dense(value: Any) -> str | None:
    """How to make a sparse or ragged array dense; `None` for any other value."""
    library, name = type(value).__module__, type(value).__name__
    if library.startswith("scipy.sparse"):
        return "Make it dense with `x.toarray()`."
    if library.startswith("tensorflow") and name == "SparseTensor":
        return "Make it dense with `tf.sparse.to_dense(x)`."
    if library.startswith("tensorflow") and name == "RaggedTensor":
        return "Pad it to one length with `x.to_tensor()`."
    if library.startswith("jax.experimental.sparse"):
        return "Make it dense with `x.todense()`."
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor) and (value.layout != torch.strided or value.is_nested):
        if value.is_nested:
            return "Pad it to one length with `torch.nested.to_padded_tensor(x, 0.0)`."
        return "Make it dense with `x.to_dense()`."
    return None


def _from_pandas(value: Any, pandas: Any) -> Any:
    """Numbers of a table whose columns NumPy would hold as objects."""
    columns = list(value.items()) if isinstance(value, pandas.DataFrame) else [(value.name, value)]
    types = pandas.api.types
    if all(isinstance(column.dtype, np.dtype) and column.dtype != bool for _, column in columns):
        numbers = [name for name, column in columns if types.is_numeric_dtype(column.dtype)]
        if len(numbers) in (0, len(columns)):
            return value  # NumPy reads a table of numbers, or of text
    other = [f"{name} ({column.dtype})" for name, column in columns if not types.is_numeric_dtype(column.dtype)]
    if not other:
        missing = any(bool(column.isna().any()) for _, column in columns)
        dtypes = [getattr(column.dtype, "numpy_dtype", column.dtype) for _, column in columns]
        dtype = np.result_type(*dtypes, np.float32) if missing else np.result_type(*dtypes)
        return value.to_numpy(dtype=dtype, na_value=np.nan) if missing else value.to_numpy(dtype=dtype)
    if len(other) == len(columns) and all(types.is_string_dtype(column.dtype) for _, column in columns):
        return value.to_numpy(dtype=object)
    raise TypeError(
        f"Columns of a {type(value).__name__} are not numbers: {', '.join(other[:4])}{', ...' * (len(other) > 4)}. "
        "Encode them, for example as `column.astype('category').cat.codes`, or use lk.data.Table, which does that."
    )
