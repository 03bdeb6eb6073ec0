"""Keras's own seed generator, of random numbers that are drawn without a seed. Keras creates it at the first draw."""

from __future__ import annotations

from typing import Any


def unseeded_generator() -> Any:
    """Returns the `keras.random.SeedGenerator`, or `None` before the first draw."""
    from lightkeras.system.keras_internals.scopes import global_state  # imports Keras, which flags do not need
    from lightkeras.system.keras_internals.seeds import GLOBAL_SEED_GENERATOR

    return global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)


def set_unseeded_generator(generator: Any) -> None:
    """Sets the generator; `None` removes it."""
    from lightkeras.system.keras_internals.scopes import global_state
    from lightkeras.system.keras_internals.seeds import GLOBAL_SEED_GENERATOR

    global_state.set_global_attribute(GLOBAL_SEED_GENERATOR, generator)
