"""Postpones the import of Keras while a script that calls `lk.cli` is read, so that flags are read first.

`import keras` takes seconds, and neither `--help` nor a mistake in the flags needs it. In such a script `import keras`
and `from keras import layers` give modules that are imported when one of their attributes is first used, or when
`lk.cli` has read the flags. That import is the ordinary one, into the modules that were given before: its order, locks
and errors are Python's. Nothing is postponed in a notebook, under pytest, by `python -m` or `-c`, for a script that
uses Keras before lightkeras, or once the flags are read.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import threading
import types
from collections.abc import Sequence
from typing import Any

from lightkeras.system.module_loaders import WrappedLoader, found_after

# Of the names with underscores at both ends, those that the code of a module defines. The import system, `inspect` and
# `typing` ask every module for others.
_OF_CODE = {"__all__", "__annotations__", "__dict__", "__dir__", "__doc__", "__getattr__", "__version__"}


def install() -> None:
    """Postpones the import of Keras, if it is a script with `cli` on its top level that imports lightkeras now."""
    if "keras" not in sys.modules and _FINDER not in sys.meta_path and _in_a_command_line():
        sys.meta_path.insert(0, _FINDER)


def import_now() -> None:
    """Imports what was postponed. Nothing is postponed from here on."""
    if _FINDER in sys.meta_path:
        _FINDER.import_all()


def _in_a_command_line() -> bool:
    main = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    if main is None or file is None or main.__spec__ is not None or hasattr(sys, "ps1"):
        return False
    frame: types.FrameType | None = sys._getframe()
    while frame is not None and frame.f_globals.get("__name__", "").startswith(("lightkeras", "importlib.")):
        frame = frame.f_back
    if frame is None or frame.f_globals is not vars(main):
        return False
    code = frame.f_code
    return code.co_name == "<module>" and code.co_filename == file and "cli" in code.co_names


class _Finder(importlib.abc.MetaPathFinder):
    """Finds Keras and its public packages, first as postponed modules, then as what they are."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._postponed: dict[str, _Postponed] = {}
        self.importing = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] != "keras" or (self.importing and fullname not in self._postponed):
            return None
        found = found_after(self, fullname, path)
        if found is None:
            return None
        spec, loader = found
        if self.importing:
            spec.loader = _Reused(loader, self._postponed[fullname])
        elif fullname == "keras" or _is_public_package(spec):
            spec.loader = _Later(loader)
        else:  # its package would be imported first
            self.import_all()
            # Taken out until it is found: of a module that is there Python would execute the code again.
            if (imported := sys.modules.pop(fullname, None)) is not None:
                spec.loader = _Imported(loader, imported)
        return spec

    def add(self, module: _Postponed) -> None:
        self._postponed[module.__name__] = module

    def package(self, module: _Postponed, name: str) -> types.ModuleType | None:
        """A public package of Keras; `None` if it has none of that name, or Keras is being imported."""
        if self.importing or module.__name__ != "keras":
            return None
        found = found_after(self, f"keras.{name}", module.__path__)
        return importlib.import_module(f"keras.{name}") if found is not None and _is_public_package(found[0]) else None

    def import_all(self) -> None:
        """Imports Keras and all that was postponed. Another thread waits for it, as for any import."""
        with self._lock:
            names = [] if self.importing else ["keras", *(name for name in self._postponed if name != "keras")]
            self.importing = True
            for name in names:
                sys.modules.pop(name, None)
                self._bind(name, None)
        try:
            for name in names or ["keras"]:
                importlib.import_module(name)
        except BaseException:
            with self._lock:  # as if nobody had tried
                self.importing = False
                for name, module in self._postponed.items():
                    sys.modules.setdefault(name, module)
                    self._bind(name, module)
            raise
        if names:
            for module in self._postponed.values():
                object.__setattr__(module, "__class__", types.ModuleType)
            sys.meta_path.remove(self)

    def _bind(self, name: str, module: types.ModuleType | None) -> None:
        """Makes a package an attribute of Keras, or none: Python would take one that is there for imported."""
        if name == "keras" or "keras" not in self._postponed:
            return
        attributes = types.ModuleType.__getattribute__(self._postponed["keras"], "__dict__")
        attributes.pop(name.removeprefix("keras."), None)
        if module is not None:
            attributes[name.removeprefix("keras.")] = module


_FINDER = _Finder()


class _Postponed(types.ModuleType):
    """A module that is imported when one of its attributes is first used, and then is an ordinary module."""

    def __getattribute__(self, name: str) -> Any:
        if _needs_code(name):
            if (package := _FINDER.package(self, name)) is not None:
                return package
            _FINDER.import_all()
        return types.ModuleType.__getattribute__(self, name)  # no `super()`: the class has changed

    def __setattr__(self, name: str, value: Any) -> None:
        if _needs_code(name) and not isinstance(value, _Postponed):
            _FINDER.import_all()
        types.ModuleType.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        _FINDER.import_all()
        types.ModuleType.__delattr__(self, name)


def _needs_code(name: str) -> bool:
    return not (name.startswith("__") and name.endswith("__")) or name in _OF_CODE


def _is_public_package(spec: importlib.machinery.ModuleSpec) -> bool:
    parent, _, name = spec.name.rpartition(".")
    public = not name.startswith("_") and name not in ("src", "api")
    return parent == "keras" and public and spec.submodule_search_locations is not None


class _Later(WrappedLoader):
    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        return _Postponed(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        super().exec_module(module)
        if isinstance(module, _Postponed):
            _FINDER.add(module)


class _Reused(WrappedLoader):
    """Executes a module that was given before."""

    def __init__(self, loader: importlib.abc.Loader, module: types.ModuleType) -> None:
        super().__init__(loader)
        self._module = module

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        return self._module

    def exec_module(self, module: types.ModuleType) -> None:
        super().exec_module(module)
        self.wrapped.exec_module(module)


class _Imported(WrappedLoader):
    """Returns a module that was executed while it was searched for."""

    def __init__(self, loader: importlib.abc.Loader, module: types.ModuleType) -> None:
        super().__init__(loader)
        self._module, self._spec = module, module.__spec__

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        return self._module

    def exec_module(self, module: types.ModuleType) -> None:
        module.__spec__ = self._spec
