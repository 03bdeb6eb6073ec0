"""Keras without TensorFlow: parts of it load TensorFlow, on any backend, only to ask what a value is not."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def tensorflow_only_if_loaded() -> Iterator[None]:
    """Inside, Keras takes TensorFlow for not installed unless it is loaded: no value is of its classes then."""
    from keras.src.utils import module_utils

    before = module_utils.tensorflow._available
    if "tensorflow" not in sys.modules:
        module_utils.tensorflow._available = False
    try:
        yield
    finally:
        module_utils.tensorflow._available = before
