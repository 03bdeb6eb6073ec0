"""States of the global random generators as plain data: `random`, NumPy's, and PyTorch's if it is imported.

A user's streams and callbacks may draw from them. Keras's own generators are variables, and are saved with those.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from lightkeras.system.tensorflow import tensorflow_left_out

_unseeded: list[int] = []  # the seed for TensorFlow, if it is imported later


def seed(number: int) -> None:
    """Seeds the global generators like `keras.utils.set_random_seed`, but does not import TensorFlow.

    If TensorFlow is not imported yet, it is seeded when it is.
    """
    import keras

    from lightkeras.system.keras_internals.scopes import global_state
    from lightkeras.system.keras_internals.seeds import GLOBAL_SEED_GENERATOR

    with tensorflow_left_out():
        keras.utils.set_random_seed(number)
    # Keras 3.10 keeps its generator of numbers without a seed; newer versions make another from the seed.
    global_state.set_global_attribute(GLOBAL_SEED_GENERATOR, None)
    _unseeded[:] = [] if "tensorflow" in sys.modules else [number]


def seed_late(tensorflow: Any) -> None:
    """Seeds TensorFlow, which was imported after `seed` was called."""
    for number in _unseeded:
        tensorflow.random.set_seed(number)
    _unseeded[:] = []


def read() -> dict[str, Any]:
    """Returns the states of the global generators as JSON values."""
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
    """Restores states that `read` returned."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(_words(words).tolist()), gauss))
    kind, key, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, _words(key), position, has_gauss, cached))
    torch, saved = sys.modules.get("torch"), state.get("torch")
    if torch is not None and saved is not None:
        torch.set_rng_state(torch.frombuffer(bytearray.fromhex(saved), dtype=torch.uint8))


def _words(digits: str) -> np.ndarray:
    return np.frombuffer(bytes.fromhex(digits), np.uint32)
