"""Random numbers of compiled steps: each is a function of a seed generator's state and of its own position.

A compiled step cannot set the seed of a `torch.Generator`, from which Keras draws on torch. These numbers need none: a
hash of 32 bits (lowbias32, Wellons, 2018) of the seed, the number of the draw and the position, of operations that are
compiled with the step. They are the same on every device, and a resumed run draws them again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import torch

from lightkeras.system.keras_internals.backend import core
from lightkeras.system.keras_internals.seeds import global_seed_generator
from lightkeras.system.keras_internals.torch_random import keras_random

_MASK = 0xFFFFFFFF
_BITS = 24  # all that a float32 between 0 and 1 has


def dropout(inputs: torch.Tensor, rate: float, noise_shape: Any = None, seed: Any = None) -> torch.Tensor:
    """See `keras.random.dropout`."""
    generator = _generator(seed)
    if generator is None or not 0 < rate < 1:
        return _ORIGINAL["dropout"](inputs, rate, noise_shape, seed)
    sizes = inputs.shape if noise_shape is None else noise_shape
    shape = [given if size is None else size for size, given in zip(sizes, inputs.shape, strict=True)]
    kept = _drawn(shape, generator, inputs.device) >= round(rate * 2**_BITS)
    return torch.where(kept, inputs / (1 - rate), torch.zeros((), dtype=inputs.dtype, device=inputs.device))


def uniform(
    shape: Sequence[int], minval: Any = 0.0, maxval: Any = 1.0, dtype: str | None = None, seed: Any = None
) -> torch.Tensor:
    """See `keras.random.uniform`."""
    generator = _generator(seed)
    if generator is None or len(shape) == 0:
        return _ORIGINAL["uniform"](shape, minval, maxval, dtype, seed)
    return (minval + (maxval - minval) * _unit(shape, generator)).to(_dtype(dtype))


def normal(
    shape: Sequence[int], mean: Any = 0.0, stddev: Any = 1.0, dtype: str | None = None, seed: Any = None
) -> torch.Tensor:
    """See `keras.random.normal`; of two uniform numbers each (Box and Muller, 1958)."""
    generator = _generator(seed)
    if generator is None or len(shape) == 0:
        return _ORIGINAL["normal"](shape, mean, stddev, dtype, seed)
    radius, angle = 1 - _unit(shape, generator), _unit(shape, generator)
    found = torch.sqrt(-2 * torch.log(radius)) * torch.cos(2 * math.pi * angle)
    return (mean + stddev * found).to(_dtype(dtype))


COUNTED = {
    (keras_random, "dropout"): dropout,
    (keras_random, "uniform"): uniform,
    (keras_random, "normal"): normal,
}
"""Keras's functions that draw these numbers in compiled steps, each with the one in its place."""

_ORIGINAL = {name: getattr(module, name) for module, name in COUNTED}


def _generator(seed: Any) -> keras.random.SeedGenerator | None:
    if seed is None:
        seed = global_seed_generator()
    return seed if isinstance(seed, keras.random.SeedGenerator) else None


def _dtype(name: str | None) -> torch.dtype:
    dtype: torch.dtype = core.to_torch_dtype(name or keras.config.floatx())
    return dtype


def _unit(shape: Sequence[int], generator: keras.random.SeedGenerator) -> torch.Tensor:
    """Numbers from 0 to below 1, float32."""
    return _drawn(shape, generator, generator.state.value.device).to(torch.float32) * 2.0**-_BITS


def _drawn(shape: Sequence[int], generator: keras.random.SeedGenerator, device: torch.device) -> torch.Tensor:
    """Whole numbers of 24 bits, int64, of the next draw of a generator."""
    state = generator.state.value.detach()
    key = _mixed(_mixed(state[0].to(torch.int64) & _MASK) + (state[1].to(torch.int64) & _MASK))
    with torch.no_grad():
        state[1].add_(1)
    position = torch.arange(math.prod(shape), dtype=torch.int64, device=device)
    return (_mixed(_mixed(position) ^ key) >> (32 - _BITS)).reshape(tuple(shape))


def _mixed(word: torch.Tensor) -> torch.Tensor:
    """Hashes whole numbers of 32 bits, kept in int64."""
    word = word & _MASK
    word = ((word ^ (word >> 16)) * 0x7FEB352D) & _MASK
    word = ((word ^ (word >> 15)) * 0x846CA68B) & _MASK
    return word ^ (word >> 16)
