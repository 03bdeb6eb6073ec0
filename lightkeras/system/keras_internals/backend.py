"""The active backend: `core`, which has `cond` and the dtypes, `nn` and `numpy`; their functions are replaced in steps.

`backend.ops` holds them since Keras 3.16.
"""

from __future__ import annotations

from typing import Any

from keras.src import backend as backend

core: Any
nn: Any
numpy: Any
try:
    core, nn, numpy = backend.ops.core, backend.ops.nn, backend.ops.numpy
except AttributeError:  # before Keras 3.16
    core, nn, numpy = backend.core, backend.nn, backend.numpy
