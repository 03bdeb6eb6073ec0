"""What must happen when Keras or TensorFlow are imported, without importing them here.

* Keras finds a class in a `.keras` file by its registration only, and the layers and optimizers of lightkeras are
  registered when their modules are imported. So that `import lightkeras` is all it takes, and costs
  nothing, that import follows the one of Keras.
* A run that began without TensorFlow has seeded all other generators; what imports it later finds it seeded.
* TensorFlow's libraries write lines to the standard error while they load, before they read
  `TF_CPP_MIN_LOG_LEVEL`. Those are held back, and shown only if the import fails.
* Of a backend that is not installed Keras says the bare name: here the extra to install is said too, and what
  backends there are where the name is misspelled.

All act through one finder on `sys.meta_path` that watches for the two names, delegates to the finders
after it, and is otherwise out of the way.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import os
import sys
import tempfile
import types
from collections.abc import Iterator, Sequence
from typing import Any

_BACKENDS = ("jax", "tensorflow", "torch")

# Modules with classes that Keras must know.
_WITH_CLASSES = ("lightkeras.encoders.hub", "lightkeras.encoders.text", "lightkeras.optimizers")


def install() -> None:
    """Starts watching; what is imported already is dealt with at once."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if "keras" in sys.modules:
        _register()
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in ("keras", "tensorflow"):
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _Loader(spec.loader)
                return spec
        return None


class _Loader(importlib.abc.Loader):
    """A module's own loader, but for what happens around its execution; the module itself never sees it."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # `pickle` asks before there is a loader
            raise AttributeError(name)
        return getattr(self._loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        if module.__name__ == "tensorflow":
            with held_back_standard_error():
                self._loader.exec_module(module)
            if (
                "lightkeras.system.random_states" in sys.modules
            ):  # a run that began without TensorFlow has set the seeds
                sys.modules["lightkeras.system.random_states"].seed_late(module)
            return
        with explained_missing_backend():
            self._loader.exec_module(module)
        _register()


def _register() -> None:
    for name in _WITH_CLASSES:
        importlib.import_module(name)


@contextlib.contextmanager
def explained_missing_backend() -> Iterator[None]:
    """Says how to install the backend that Keras is to run on, where Keras does not find it; or that there is none."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in _BACKENDS:
            raise
        extra = "" if error.name == "tensorflow" else f"[{error.name}]"
        raise ModuleNotFoundError(
            f"Keras is to run on {error.name!r} (KERAS_BACKEND, or keras.json), which is not installed: "
            f"`pip install 'lightkeras{extra}'`, or set KERAS_BACKEND to one that is: tensorflow, jax or torch.",
            name=error.name,
        ) from None
    except ValueError as error:
        if "Unable to import backend" not in str(error):
            raise
        from lightkeras.system.messages import did_you_mean  # not needed by an import that succeeds

        wanted = str(error).rpartition(":")[2].strip()
        raise ValueError(
            f"Keras is to run on {wanted!r} (KERAS_BACKEND, or keras.json), which is no backend of it. "
            f"{did_you_mean(wanted, _BACKENDS)}"
        ) from None


@contextlib.contextmanager
def held_back_standard_error() -> Iterator[None]:
    """Holds back what any library writes to the standard error; an exception lets it out."""
    if sys.stderr is not None:
        sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # a process without a standard error has nothing to hold back
        yield
        return
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            try:
                yield
            finally:
                if sys.stderr is not None:
                    sys.stderr.flush()  # what Python itself still keeps is held back, too
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
