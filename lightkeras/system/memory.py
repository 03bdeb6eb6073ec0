"""Memory of a process, as Linux counts it: what it holds, the most it held, and what is left for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")


def resident_bytes(proc: Path = PROC) -> int:
    """Memory that this process holds.

    Raises:
        OSError: The system is not Linux, or its `/proc` cannot be read.
    """
    return _kilobytes(proc / "self" / "status", "VmRSS") * 1024


def private_bytes(process: int, proc: Path = PROC) -> int:
    """Memory that a process holds for itself; files that it has mapped are not counted.

    Args:
        process: Its id.
        proc: Where the kernel tells of processes.

    Raises:
        OSError: There is no such process, or the system is not Linux.
    """
    return _kilobytes(proc / str(process) / "status", "RssAnon") * 1024


def peak_bytes(proc: Path = PROC) -> int:
    """The most memory that this process held since `forget_peak`, or since it began.

    Raises:
        OSError: The system is not Linux, or its `/proc` cannot be read.
    """
    return _kilobytes(proc / "self" / "status", "VmHWM") * 1024


def forget_peak(proc: Path = PROC) -> bool:
    """Begins a new peak at what is held now.

    Returns:
        Whether the system did it. Some containers refuse: then the peak is that of the whole life of
        the process, which is never less.
    """
    try:
        (proc / "self" / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def available_bytes(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Memory that this process can have on top of what it holds before the kernel ends it.

    The least of what the machine has left (`MemAvailable`) and of what each control group above the
    process has left, version 1 or 2. Cached files that the kernel would drop count as left.

    Args:
        proc: Where the kernel tells of processes.
        cgroups: Where the control groups are mounted.

    Raises:
        OSError: The system is not Linux, or its `/proc` cannot be read.
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


def _groups(proc: Path, cgroups: Path) -> Iterator[Path]:
    """Folders of the control groups that the process is in, from its own up to the root of each mount."""
    for line in _read(proc / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        roots = [cgroups / "memory"] if controllers else [cgroups, cgroups / "unified"]
        for root in roots:
            # A container may see its own group as the root of the mount, and still be told the outer path.
            group = root / path.lstrip("/")
            while group != root:
                yield group
                group = group.parent
            yield root


def _kilobytes(path: Path, name: str) -> int:
    for line in _read(path).splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise OSError(f"{path} does not tell {name}: expected the /proc of a Linux kernel.")


def _stat(path: Path, name: str) -> int:
    return next((int(line.split()[1]) for line in _read(path).splitlines() if line.split()[0] == name), 0)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError as error:
        raise OSError(f"There is no {path}: the memory of a process is measured on Linux alone.") from error
