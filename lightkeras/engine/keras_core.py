"""Keras's private `core` module of the active backend, which has `cond` and the dtypes."""

from __future__ import annotations

from typing import Any

from keras.src import backend

core: Any
try:
    core = backend.ops.core
except AttributeError:  # Keras 3.16 moved `backend.core` to `backend.ops.core`.
    core = backend.core
