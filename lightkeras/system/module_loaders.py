"""What the finders of this package share: a loader around a module's own, and what the next finders find."""

from __future__ import annotations

import sys
import types
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any


class WrappedLoader(Loader):
    """Wraps a module's loader to run code around its execution; `__loader__` is the wrapped one."""

    def __init__(self, loader: Loader) -> None:
        self.wrapped = loader

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "wrapped":  # `pickle` looks up names before `__init__` has run
            raise AttributeError(name)
        return getattr(self.wrapped, name)

    def create_module(self, spec: ModuleSpec) -> types.ModuleType | None:
        return self.wrapped.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        module.__loader__ = self.wrapped
        if module.__spec__ is not None:
            module.__spec__.loader = self.wrapped


def found_after(finder: MetaPathFinder, name: str, path: Sequence[str] | None) -> tuple[ModuleSpec, Loader] | None:
    """The spec of a module from the finders after `finder`, with its loader; `None` if they find none."""
    for later in sys.meta_path[sys.meta_path.index(finder) + 1 :]:
        spec = later.find_spec(name, path, None)
        if spec is not None and spec.loader is not None:
            return spec, spec.loader
    return None
