"""The environment of a run: versions of packages, machine and time."""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

PACKAGES = (
    *("lightkeras", "keras", "keras-nightly", "tensorflow", "jax", "torch"),
    *("tensorflow-hub", "tensorflow-datasets", "keras-tuner", "numpy"),
)


def now(timespec: str = "seconds") -> str:
    """The current time in UTC, in ISO 8601 format."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec=timespec)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a run depends on."""
    found = {package: _version(package) for package in PACKAGES}
    return {"python": platform.python_version()} | {name: version for name, version in found.items() if version}


@functools.cache  # a search calls it in every trial, and it reads files
def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def machine() -> dict[str, Any]:
    """Describes the machine: operating system, processor and number of cores."""
    return {"system": platform.platform(), "processor": _processor(), "cores": os.cpu_count()}


def _processor() -> str:
    """Name of the processor, from /proc: `platform.processor` is empty on most systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
