"""Keras without TensorFlow: parts of it load TensorFlow, on any backend, only to ask what a value is not."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def tensorflow_only_if_loaded() -> Iterator[bool]:
    """Inside, Keras takes TensorFlow for not installed unless it is loaded: no value is of its classes then.

    Gives whether it is loaded.
    """
    from keras.src.utils import module_utils

    before, loaded = module_utils.tensorflow._available, "tensorflow" in sys.modules
    if not loaded:
        module_utils.tensorflow._available = False
    try:
        yield loaded
    finally:
        module_utils.tensorflow._available = before
