"""Arrays of examples as tensors of the backend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np


def tensors(given: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Examples as tensors by name; texts as strings of TensorFlow."""
    return {name: tensor_of(array) for name, array in given.items()}


def tensor_of(array: np.ndarray) -> Any:
    """An array as a tensor."""
    if array.dtype.kind != "S":
        return keras.ops.convert_to_tensor(array)
    import tensorflow as tf

    return tf.constant(array)
