"""JAX's compilation cache on disk, so that the second run of a program compiles nothing."""

from __future__ import annotations

import importlib.util
import os
import warnings

import jax
from jax.experimental.compilation_cache import compilation_cache

from lightkeras.system import files

MAX_BYTES = 2**30
"""Maximum size of the folder; the least recently used entries are removed."""

MIN_SECONDS = 0.1
"""Programs that compile faster are not cached."""


def enable_compilation_cache() -> None:
    """Enables JAX's compilation cache in `$XDG_CACHE_HOME/lightkeras/jax`, or `~/.cache/lightkeras/jax`.

    Does nothing if `JAX_COMPILATION_CACHE_DIR` is set or `JAX_ENABLE_COMPILATION_CACHE` is false. Other cache settings
    in the environment are kept.
    """
    if jax.config.jax_compilation_cache_dir is not None or not jax.config.jax_enable_compilation_cache:
        return
    if importlib.util.find_spec("filelock") is None:
        warnings.warn(
            "JAX's compilation cache is off, because the package filelock is missing: `pip install filelock`, or set "
            "JAX_ENABLE_COMPILATION_CACHE=false.",
            UserWarning,
            stacklevel=2,
        )
        return
    try:
        folder = files.compiled_code("jax")
    except OSError:  # home is not writable, or another user's: without the cache, runs only start slower
        return
    _set("jax_persistent_cache_min_compile_time_secs", MIN_SECONDS)
    _set("jax_compilation_cache_max_size", MAX_BYTES)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    compilation_cache.reset_cache()  # an earlier compilation would have disabled it


def _set(name: str, value: float) -> None:
    """Sets an option of JAX unless the environment sets it."""
    if name.upper() not in os.environ:
        jax.config.update(name, value)
