"""Memory of a process on Linux: resident, private, peak and available bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")


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
