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

from lightkeras._lazily import tensorflow_only_if_loaded

_seed: int | None = None  # for a TensorFlow that is loaded later


def set_seed(seed: int) -> None:
    """`keras.utils.set_random_seed`, which loads TensorFlow, on any backend; here that gets its seed once it is loaded.

    Args:
        seed: Seed of Python's, NumPy's, Keras's, TensorFlow's and the backend's generators.
    """
    import keras

    global _seed
    _seed = seed
    with tensorflow_only_if_loaded():
        keras.utils.set_random_seed(seed)


def seed_tensorflow(tensorflow: Any) -> None:
    """Gives TensorFlow, which was just loaded, the seed that was set before."""
    if _seed is not None:
        tensorflow.random.set_seed(_seed)


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
