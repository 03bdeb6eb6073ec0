"""Postpones the import of Keras while a script that calls `lk.cli` is read, so that flags are read first.

`import keras` takes seconds, and neither `--help` nor a mistake in the flags needs it. In such a script `import keras`
and `from keras import layers` give modules that are imported when one of their attributes is first used, or when
`lk.cli` has read the flags. That import is the ordinary one, into the modules that were given before: its order, locks
and errors are Python's. Nothing is postponed in a notebook, under pytest, by `python -m` or `-c`, for a script that
uses Keras before lightkeras, or once the flags are read.
"""

from __future__ import annotations

import gc
import importlib
import importlib.abc
import sys
import threading
import types
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from typing import Any, final

from lightkeras.system.module_loaders import WrappedLoader, found_after

# Of the names with underscores at both ends, those that the code of a module defines. The import system, `inspect` and
# `typing` ask every module for others.
_NEEDS_EXECUTION = {"__all__", "__annotations__", "__dict__", "__dir__", "__doc__", "__getattr__", "__version__"}


# Parts of Keras that training does not use, and that import scikit-learn with SciPy and pyplot: a fifth of its time.
_SELDOM_USED = (
    *("keras.wrappers", "keras._tf_keras.keras.wrappers"),
    *("keras.src.visualization", "keras.visualization", "keras._tf_keras.keras.visualization"),
)


def install() -> None:
    """Postpones the import of Keras, if it is a script with `cli` on its top level that imports lightkeras now."""
    if "keras" not in sys.modules and not _finders() and _is_cli_script():
        sys.meta_path.insert(0, _Finder("keras", of_packages=True))


def import_now() -> None:
    """Imports what was postponed, but the parts that are seldom used. Keras is not postponed from here on."""
    for finder in _finders():
        if finder.of_packages:
            finder.import_all()
            gc.freeze()  # the million objects of these imports would be searched for cycles again and again


def _finders() -> list[_Finder]:
    return [found for found in sys.meta_path if isinstance(found, _Finder)]


def _is_cli_script() -> bool:
    main = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    if main is None or file is None or getattr(main, "__spec__", None) is not None or hasattr(sys, "ps1"):
        return False
    frame: types.FrameType | None = sys._getframe()
    while frame is not None and frame.f_globals.get("__name__", "").startswith(("lightkeras", "importlib.")):
        frame = frame.f_back
    if frame is None or frame.f_globals is not vars(main):
        return False
    code = frame.f_code
    return code.co_name == "<module>" and code.co_filename == file and "cli" in code.co_names


@final
class _Finder(importlib.abc.MetaPathFinder):
    """Finds a module first as a postponed one, then as what it is; of Keras, its public packages with it.

    Args:
        name: The module.
        of_packages: Whether it is Keras.
    """

    def __init__(self, name: str, of_packages: bool = False) -> None:
        self.name, self.of_packages = name, of_packages
        self._lock = threading.Lock()
        self._postponed: dict[str, _Postponed] = {}
        self._importing = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.name and not fullname.startswith(f"{self.name}."):
            return None
        if self._importing and fullname not in self._postponed:
            return None
        found = found_after(self, fullname, path)
        if found is None:
            return None
        spec, loader = found
        if self._importing:
            spec.loader = _Reused(loader, self._postponed[fullname])
        elif fullname == self.name or (self.of_packages and _is_public_package(spec)):
            spec.loader = _Later(loader, self)
        else:
            spec.loader = _AfterKeras(loader, self)
        return spec

    def add(self, module: _Postponed) -> None:
        self._postponed[module.__name__] = module

    def package(self, module: _Postponed, name: str) -> types.ModuleType | None:
        """A public package of Keras; `None` if it has none of that name, or is being imported."""
        if self._importing or not self.of_packages or module.__name__ != self.name:
            return None
        found = found_after(self, f"{self.name}.{name}", module.__path__)
        public = found is not None and _is_public_package(found[0])
        return importlib.import_module(f"{self.name}.{name}") if public else None

    def import_all(self) -> None:
        """Imports all that was postponed. Another thread waits for it, as for any import."""
        with self._lock:
            begins, self._importing = not self._importing, True
            names = [self.name, *(name for name in self._postponed if name != self.name)]
            for name in names if begins else ():
                sys.modules.pop(name, None)
                self._bind(name, None)
            if begins and self.of_packages:
                there = {*self._postponed, *(finder.name for finder in _finders())}
                sys.meta_path[:0] = [_Finder(name) for name in _SELDOM_USED if name not in there]
        try:
            for name in names if begins else (self.name,):
                importlib.import_module(name)
        except BaseException:
            if begins:
                self._postpone_again()
            raise
        if not begins and not self._importing:  # the import that this thread waited for has failed
            self.import_all()
        if begins:
            for module in self._postponed.values():
                object.__setattr__(module, "__class__", types.ModuleType)
                delattr(module, _FINDER)
            sys.meta_path.remove(self)

    def _postpone_again(self) -> None:
        """After an error the modules are postponed as before, and the next use tries again."""
        with self._lock:
            self._importing = False
            for name, module in self._postponed.items():
                sys.modules.setdefault(name, module)
                self._bind(name, module)

    def _bind(self, name: str, module: types.ModuleType | None) -> None:
        """Makes a package an attribute of Keras, or none: Python would take one that is there for imported."""
        if name == self.name or self.name not in self._postponed:
            return
        attributes = types.ModuleType.__getattribute__(self._postponed[self.name], "__dict__")
        attributes.pop(name.removeprefix(f"{self.name}."), None)
        if module is not None:
            attributes[name.removeprefix(f"{self.name}.")] = module


@final
class _Postponed(types.ModuleType):
    """A module that is imported when one of its attributes is first used, and then is an ordinary module."""

    def __getattribute__(self, name: str) -> Any:
        if _needs_code(name) and (finder := _finder_of(self)) is not None:
            if (package := finder.package(self, name)) is not None:
                return package
            finder.import_all()
        return types.ModuleType.__getattribute__(self, name)  # no `super()`: the class has changed

    def __setattr__(self, name: str, value: Any) -> None:
        finder = _finder_of(self)
        if _needs_code(name) and not isinstance(value, _Postponed) and finder is not None:
            finder.import_all()
        types.ModuleType.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        if (finder := _finder_of(self)) is not None:
            finder.import_all()
        types.ModuleType.__delattr__(self, name)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by name, as cloudpickle does with modules."""
        return importlib.import_module, (self.__name__,)


_FINDER = "__finder__"


def _finder_of(module: types.ModuleType) -> _Finder | None:
    """The finder that postponed a module; `None` once it is imported, for a thread that was on its way here."""
    found: _Finder | None = types.ModuleType.__getattribute__(module, "__dict__").get(_FINDER)
    return found


def _needs_code(name: str) -> bool:
    return not (name.startswith("__") and name.endswith("__")) or name in _NEEDS_EXECUTION


def _is_public_package(spec: ModuleSpec) -> bool:
    parent, _, name = spec.name.rpartition(".")
    public = not name.startswith("_") and name not in ("src", "api")
    return parent == "keras" and public and spec.submodule_search_locations is not None


@final
class _Later(WrappedLoader):
    def __init__(self, loader: importlib.abc.Loader, finder: _Finder) -> None:
        super().__init__(loader)
        self._finder = finder

    def create_module(self, spec: ModuleSpec) -> types.ModuleType | None:
        module = _Postponed(spec.name)
        setattr(module, _FINDER, self._finder)
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        super().exec_module(module)
        if isinstance(module, _Postponed):
            self._finder.add(module)


@final
class _Reused(WrappedLoader):
    """Executes a module that was given before."""

    def __init__(self, loader: importlib.abc.Loader, module: types.ModuleType) -> None:
        super().__init__(loader)
        self._module = module

    def create_module(self, spec: ModuleSpec) -> types.ModuleType | None:
        return self._module

    def exec_module(self, module: types.ModuleType) -> None:
        super().exec_module(module)
        self.wrapped.exec_module(module)


@final
class _AfterKeras(WrappedLoader):
    """Loads a module that is not postponed: the import of Keras, which comes first, usually has imported it."""

    def __init__(self, loader: importlib.abc.Loader, finder: _Finder) -> None:
        super().__init__(loader)
        self._finder = finder
        self._imported: types.ModuleType | None = None
        self._spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> types.ModuleType | None:
        self._finder.import_all()
        self._imported = sys.modules.get(spec.name)
        if self._imported is None:
            return super().create_module(spec)
        self._spec = self._imported.__spec__
        return self._imported

    def exec_module(self, module: types.ModuleType) -> None:
        if module is self._imported:
            module.__spec__ = self._spec  # Python has set that of this loader
        else:
            super().exec_module(module)
            self.wrapped.exec_module(module)
