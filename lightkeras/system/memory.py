"""Memory of a process on Linux: resident, private, peak and available bytes, and what its allocator keeps."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's `mallopt`, from malloc.h."""


def resident_bytes(proc: Path = PROC) -> int:
    """Resident memory of this process; an OSError on systems other than Linux."""
    return _kilobytes(proc / "self" / "status", "VmRSS") * 1024


def private_bytes(process: int, proc: Path = PROC) -> int:
    """Private memory of a process, without mapped files; an OSError if it does not exist, or without Linux."""
    return _kilobytes(proc / str(process) / "status", "RssAnon") * 1024


def peak_bytes(proc: Path = PROC) -> int:
    """Peak resident memory since `forget_peak`, or the start; an OSError on systems other than Linux."""
    return _kilobytes(proc / "self" / "status", "VmHWM") * 1024


def forget_peak(proc: Path = PROC) -> bool:
    """Resets the peak; False if the system refuses, as in some containers: it then covers the whole process."""
    try:
        (proc / "self" / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def available_bytes(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Memory that this process can still allocate before the kernel kills it; an OSError without Linux.

    The minimum of the machine's `MemAvailable` and of the rest of each control group (version 1 or 2) that contains the
    process. Page cache that the kernel would drop counts as available.
    """
    left = [_kilobytes(proc / "meminfo", "MemAvailable") * 1024]
    for folder in _groups(proc, cgroups):
        for limit, used, cache in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            text = _read(folder / limit) if (folder / limit).is_file() else "max"
            if text != "max":
                left.append(int(text) - int(_read(folder / used)) + _stat(folder / "memory.stat", cache))
    return max(0, min(left))


def keep_freed() -> bool:
    """Lets glibc keep freed blocks of up to 32 MB for the next allocations: 128 MB at the end of each of its heaps.

    By default large arrays go back to the system when they are freed, so that each step gets zeroed pages again. A
    thread may have its own heap, and memory below a block in use stays in any case.

    Returns:
        False with another C library, and where the environment configures an allocator: nothing is changed then.
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if set_option is None:
        return False
    return bool(set_option(MMAP_THRESHOLD, 32 << 20)) and bool(set_option(TRIM_THRESHOLD, 128 << 20))


def _groups(proc: Path, cgroups: Path) -> Iterator[Path]:
    """Folders of the process's control groups, from its own up to the root of each mount."""
    for line in _read(proc / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        roots = [cgroups / "memory"] if controllers else [cgroups, cgroups / "unified"]
        for root in roots:
            # In a container the mount may begin at its own group, while the path is the host's.
            group = root / path.lstrip("/")
            while group != root:
                yield group
                group = group.parent
            yield root


def _kilobytes(path: Path, name: str) -> int:
    for line in _read(path).splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise OSError(f"{path} has no {name}: expected the /proc of a Linux kernel.")


def _stat(path: Path, name: str) -> int:
    return next((int(line.split()[1]) for line in _read(path).splitlines() if line.split()[0] == name), 0)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError as error:
        raise OSError(f"{path} does not exist: the memory of a process can be measured only on Linux.") from error
