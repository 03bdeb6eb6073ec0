"""Versions of Keras and its backends that lightkeras works with."""

from __future__ import annotations

import importlib.metadata
import re
import types
import warnings
from collections.abc import Mapping

OLDEST = {"keras": (3, 10), "tensorflow": (2, 20), "jax": (0, 10), "torch": (2, 6)}
"""Lower bounds of setup.cfg."""


def check_versions(imported: Mapping[str, types.ModuleType]) -> None:
    """Checks the versions of imported packages.

    Args:
        imported: Modules by name, such as `sys.modules`.

    Raises:
        ImportError: One is too old; the message says what to install.
    """
    for name, oldest in OLDEST.items():
        version = str(getattr(imported.get(name), "__version__", ""))
        found = re.match(r"(\d+)\.(\d+)", version)
        if found is not None and tuple(map(int, found.groups())) < oldest:
            bound = ".".join(map(str, oldest))
            raise ImportError(
                f"{name} {version} is installed, and lightkeras needs {name} {bound} or newer: "
                f"`pip install --upgrade '{name}>={bound}'`."
            )


def warn_of_two_keras() -> None:
    """Warns of `keras` and `keras-nightly` in one environment: they write the same files."""
    found = {}
    for package in ("keras", "keras-nightly"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return
    names = " and ".join(f"{package} {version}" for package, version in found.items())
    warnings.warn(
        f"{names} are both installed, and write the same files, so that parts of both may be used. Type `pip uninstall "
        f"{' '.join(found)}`, and install one of them.",
        UserWarning,
        stacklevel=2,
    )
