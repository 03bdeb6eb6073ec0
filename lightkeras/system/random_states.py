"""The global random generators of a process, as plain data.

Streams and callbacks that a run is given may draw from them: `random`, NumPy's, and PyTorch's where that is
loaded. Keras's own generators are variables, and saved with those.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from lightkeras.system.tensorflow import tensorflow_left_out

_unseeded: list[int] = []  # the seed that TensorFlow is given if it is imported later


def seed(number: int) -> None:
    """Seeds the global generators, as `keras.utils.set_random_seed` does, but does not import TensorFlow for that.

    It is seeded where it was imported, and otherwise when it is.

    Args:
        number: The seed, at least 0.
    """
    import keras

    with tensorflow_left_out():
        keras.utils.set_random_seed(number)
    _unseeded[:] = [] if "tensorflow" in sys.modules else [number]


def seed_late(tensorflow: Any) -> None:
    """Seeds TensorFlow when it is imported after `seed`."""
    for number in _unseeded:
        tensorflow.random.set_seed(number)
    _unseeded[:] = []


def read() -> dict[str, Any]:
    """States of the global generators, JSON values."""
    version, words, gauss = random.getstate()
    kind, key, position, has_gauss, cached = np.random.get_state()
    state: dict[str, Any] = {
        "python": [version, np.array(words, np.uint32).tobytes().hex(), gauss],
        "numpy": [kind, np.asarray(key, np.uint32).tobytes().hex(), int(position), int(has_gauss), float(cached)],
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        state["torch"] = torch.get_rng_state().numpy().tobytes().hex()
    return state


def write(state: Mapping[str, Any]) -> None:
    """Sets the global generators to states that `read` gave."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(_words(words).tolist()), gauss))
    kind, key, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, _words(key), position, has_gauss, cached))
    torch, saved = sys.modules.get("torch"), state.get("torch")
    if torch is not None and saved is not None:
        torch.set_rng_state(torch.frombuffer(bytearray.fromhex(saved), dtype=torch.uint8))


def _words(digits: str) -> np.ndarray:
    return np.frombuffer(bytes.fromhex(digits), np.uint32)
