"""What JAX compiled, kept on the disk: the second run of a program need not compile it again."""

from __future__ import annotations

import importlib.util
import os
import warnings
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

MOST_BYTES = 2**30
"""Size at which the folder loses what was not used for the longest time."""

LEAST_SECONDS = 0.1
"""What takes less time to compile is not kept."""


def keep_compiled() -> None:
    """Lets JAX keep what it compiles in `$XDG_CACHE_HOME/lightkeras/jax`, or `~/.cache/lightkeras/jax`.

    Nothing is changed where JAX was told where to keep it (`JAX_COMPILATION_CACHE_DIR`) or to keep nothing
    (`JAX_ENABLE_COMPILATION_CACHE=false`); its other settings of the cache hold where they were made in the
    environment.
    """
    if jax.config.jax_compilation_cache_dir is not None or not jax.config.jax_enable_compilation_cache:
        return
    if importlib.util.find_spec("filelock") is None:
        warnings.warn(
            "What JAX compiles is not kept on the disk, because the package filelock is missing: `pip install "
            "filelock`, or set JAX_ENABLE_COMPILATION_CACHE=false.",
            UserWarning,
            stacklevel=2,
        )
        return
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lightkeras" / "jax"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:  # no home to write to: what was compiled cannot be kept, which costs time alone
        return
    _set("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)
    _set("jax_compilation_cache_max_size", MOST_BYTES)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    compilation_cache.reset_cache()  # whatever was compiled before decided that there is none


def _set(name: str, value: float) -> None:
    """Sets an option of JAX that the environment leaves open."""
    if name.upper() not in os.environ:
        jax.config.update(name, value)
