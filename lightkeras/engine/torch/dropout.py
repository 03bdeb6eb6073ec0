"""Dropout without a seed, drawn from its layer's own seed generator.

On torch, Keras draws such dropout from the process's global generator. Its state is not a variable, so a run resumed
inside an epoch would draw other numbers, and it is shared with the thread that reads the data. The state of the
layer's generator is a variable and is saved; Keras uses it on the other backends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, final

import keras
import torch

from lightkeras.engine.replacing import replaced
from lightkeras.system.keras_internals.seeds import global_seed_generator
from lightkeras.system.keras_internals.torch_random import keras_random

_WORD = 2**64 - 1


@contextlib.contextmanager
def seeded_dropout(folded: int = 0) -> Iterator[None]:
    """Context in which Keras's dropout draws from seed generators; `folded` into their seeds makes them others."""
    original, counters, generator = keras_random.dropout, {}, torch.Generator()

    def dropout(inputs: torch.Tensor, rate: float, noise_shape: Any = None, seed: Any = None) -> torch.Tensor:
        if seed is None:
            seed = global_seed_generator()
        unseeded = isinstance(seed, keras.random.SeedGenerator) and seed._initial_seed is None
        if not unseeded or noise_shape is not None or not 0 < rate < 1 or inputs.device.type not in ("cpu", "cuda"):
            return original(inputs, rate, noise_shape, seed)
        if id(seed) not in counters:
            counters[id(seed)] = _Counter(seed, folded)
        number = counters[id(seed)].next()
        if inputs.is_cuda:
            # Only steps draw from the device's generator, and its dropout is one kernel.
            torch.cuda.default_generators[inputs.device.index].manual_seed(number)
            return torch.nn.functional.dropout(inputs, rate)
        noise = torch.empty_like(inputs).bernoulli_(1 - rate, generator=generator.manual_seed(number))
        return inputs * noise.div_(1 - rate)

    with replaced({(keras_random, "dropout"): dropout}):
        yield


@final
class _Counter:
    """A seed generator whose state is read once, counted on the host and updated on the device."""

    def __init__(self, generator: keras.random.SeedGenerator, folded: int) -> None:
        self._generator = generator  # kept alive, because it is identified by its id
        self._folded = folded
        self._state = generator.state.value.detach()
        self._drawn = self._state[1]
        self._version: int
        self._read()

    def next(self) -> int:
        """The seed of the next draw."""
        if self._state._version != self._version:  # it was drawn from or set elsewhere
            self._read()
        number = _mixed(self._seed ^ self._folded, self._count)
        self._count += 1
        self._drawn.add_(1)
        self._version = self._state._version
        return number

    def _read(self) -> None:
        self._seed, self._count = self._state.tolist()
        self._version = self._state._version


def _mixed(seed: int, count: int) -> int:
    """Hashes seed and count to 64 bits with the finalizer of splitmix64 (Steele, Lea and Flood, 2014)."""
    bits = (((seed & 0xFFFFFFFF) << 32) + (count & 0xFFFFFFFF) + 0x9E3779B97F4A7C15) & _WORD
    bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 & _WORD
    bits = (bits ^ bits >> 27) * 0x94D049BB133111EB & _WORD
    return bits ^ bits >> 31
