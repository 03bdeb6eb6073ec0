"""Runs code after Keras and TensorFlow are imported, without importing them.

* Keras finds a class in a `.keras` file only if it is registered, and importing the modules of lightkeras's layers and
  optimizers registers them. They are imported right after Keras, so that `import lightkeras` suffices and is fast.
* A run that started without TensorFlow has seeded all other generators; TensorFlow is seeded when it is imported.
* TensorFlow 2.21 writes lines to standard error while it loads, before it reads `TF_CPP_MIN_LOG_LEVEL`
  (tensorflow/tensorflow issue 100442). They are captured, and printed only if the import fails. For this lightkeras
  must be imported before Keras.
* Python collects reference cycles while Keras is imported, a fifth of the time; there are next to none.
* While Keras is imported, which takes seconds, a terminal shows that. A script with `lk.cli` imports it once its flags
  are read (`postponed_keras`).
* Keras's error for a backend that is not installed is only its name. Here the error names the extra to install, and
  the valid backends if the name is misspelled. Versions that are too old are refused, and two Keras are warned of.

One finder on `sys.meta_path` does the rest. It delegates to the finders beside it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.abc
import importlib.machinery
import os
import sys
import tempfile
import types
from collections.abc import Iterator, Sequence

from lightkeras.system import postponed_keras, supported
from lightkeras.system.module_loaders import WrappedLoader, found_after

_BACKENDS = ("jax", "tensorflow", "torch")

# Modules that register classes with Keras.
_WITH_CLASSES = ("lightkeras.encoders.hub", "lightkeras.encoders.text", "lightkeras.optimizers")


def install() -> None:
    """Installs the finder. If Keras is already imported, registers the classes now."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if "keras" in sys.modules:
        _register()
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    postponed_keras.install()


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        found = found_after(self, fullname, path) if fullname in ("keras", "tensorflow") else None
        if found is None:
            return None
        spec, loader = found
        spec.loader = _Loader(loader)
        return spec


class _Loader(WrappedLoader):
    def exec_module(self, module: types.ModuleType) -> None:
        super().exec_module(module)
        if module.__name__ == "tensorflow":
            with held_back_standard_error():
                self.wrapped.exec_module(module)
            # A run that began without TensorFlow has set the other seeds.
            if "lightkeras.system.random_states" in sys.modules:
                sys.modules["lightkeras.system.random_states"].seed_late(module)
            return
        with shown_on_terminal("importing Keras and its backend ..."):
            with explained_missing_backend(), without_collections():
                self.wrapped.exec_module(module)
            supported.check_versions(sys.modules | {"keras": module})
            supported.warn_of_two_keras()
            _register()


def _register() -> None:
    for name in _WITH_CLASSES:
        importlib.import_module(name)


@contextlib.contextmanager
def shown_on_terminal(text: str) -> Iterator[None]:
    """Shows a text on the terminal while the block runs; nothing if standard error is a file."""
    stream = sys.stderr
    if stream is None or not stream.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        yield
        return
    stream.write(text)
    stream.flush()
    try:
        yield
    finally:
        stream.write("\r\x1b[2K")
        stream.flush()


@contextlib.contextmanager
def without_collections() -> Iterator[None]:
    """Leaves out collections of reference cycles: an import makes a million objects, and next to no garbage."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextlib.contextmanager
def explained_missing_backend() -> Iterator[None]:
    """Re-raises Keras's errors for a missing or unknown backend with advice."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in _BACKENDS:
            raise
        extra = "" if error.name == "tensorflow" else f"[{error.name}]"
        raise ModuleNotFoundError(
            f"The Keras backend {error.name!r} (from KERAS_BACKEND or keras.json) is not installed: "
            f"`pip install 'lightkeras{extra}'`, or set KERAS_BACKEND to one that is: tensorflow, jax or torch.",
            name=error.name,
        ) from None
    except ValueError as error:
        if "Unable to import backend" not in str(error):
            raise
        from lightkeras.system.messages import did_you_mean  # not needed by an import that succeeds

        wanted = str(error).rpartition(":")[2].strip()
        raise ValueError(
            f"{wanted!r} (from KERAS_BACKEND or keras.json) is not a Keras backend. {did_you_mean(wanted, _BACKENDS)}"
        ) from None


@contextlib.contextmanager
def held_back_standard_error() -> Iterator[None]:
    """Captures standard error, of native code too. Prints it if an exception is raised, else drops it."""
    if sys.stderr is not None:
        sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # the process has no standard error
        yield
        return
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            try:
                yield
            finally:
                if sys.stderr is not None:
                    sys.stderr.flush()  # Python's own buffer is captured too
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
