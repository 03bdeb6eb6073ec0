"""The memory of a process: this one's, and that of machines and control groups as the kernel describes them."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lightkeras.system import memory

MEGABYTE = 1 << 20


def written(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def machine(tmp_path) -> tuple[Path, Path]:
    """A machine with 1,000 kB available, and no control groups."""
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    written(proc / "meminfo", "MemTotal:  9000 kB\nMemAvailable:  1000 kB\n")
    written(proc / "self" / "cgroup", "")
    return proc, cgroups


def test_the_peak_is_of_what_was_held_since_it_was_forgotten():
    if not memory.forget_peak():
        pytest.skip("this system does not let a process forget its peak")
    before = memory.peak_bytes()
    with mmap.mmap(-1, 64 * MEGABYTE) as held:
        for page in range(0, len(held), mmap.PAGESIZE):
            held[page] = 1
        assert memory.resident_bytes() > before + 48 * MEGABYTE
    assert memory.peak_bytes() > before + 48 * MEGABYTE
    assert memory.forget_peak()
    assert memory.peak_bytes() < before + 16 * MEGABYTE


FAULTS = """
import resource
from lightkeras.system import memory
print(memory.keep_freed())
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    arrays = [b"x" * ((10 << 20) + number) for number in range(4)]  # of 2,560 pages
    del arrays
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def freed(**environment) -> tuple[str, int]:
    """Whether a new process keeps freed memory, and the pages that it gets for ten times four arrays of 2,560 pages."""
    env = {name: value for name, value in os.environ.items() if "MALLOC" not in name and name != "GLIBC_TUNABLES"}
    ended = subprocess.run(
        [sys.executable, "-c", FAULTS], env=env | environment, check=True, capture_output=True, text=True
    )
    kept, faults = ended.stdout.split()
    return kept, int(faults)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="this C library is not glibc")
def test_memory_that_is_freed_is_used_again():
    kept, faults = freed()
    assert kept == "True"
    assert faults < 2 * 4 * 2560


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MALLOC_TRIM_THRESHOLD_", "131072"),
        ("MALLOC_ARENA_MAX", "1"),
        ("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=131072"),
    ],
)
def test_an_allocator_that_the_environment_configures_is_left_alone(name, value):
    kept, _ = freed(**{name: value})
    assert kept == "False"


def test_a_system_that_keeps_the_peak_reports_it(tmp_path):
    assert memory.forget_peak(tmp_path) is False


def test_resident_memory_and_peak_are_kilobytes_of_the_status(tmp_path):
    written(tmp_path / "self" / "status", "Name:\tx\nVmHWM:\t     300 kB\nVmRSS:\t     200 kB\n")
    assert memory.peak_bytes(tmp_path) == 300 * 1024
    assert memory.resident_bytes(tmp_path) == 200 * 1024


def test_without_control_groups_the_machine_decides(machine):
    assert memory.available_bytes(*machine) == 1000 * 1024


def test_what_this_machine_has_left_is_above_zero():
    assert memory.available_bytes() > 0


@pytest.mark.parametrize("root", ["", "unified"])
def test_a_limit_of_version_2_anywhere_above_the_process_counts(machine, root):
    proc, cgroups = machine
    written(proc / "self" / "cgroup", "0::/outer/inner\n")
    outer = cgroups / root / "outer"
    written(outer / "memory.max", "500000\n")
    written(outer / "memory.current", "200000\n")
    written(outer / "memory.stat", "anon 150000\ninactive_file 50000\n")
    written(outer / "inner" / "memory.max", "max\n")
    assert memory.available_bytes(proc, cgroups) == 500_000 - 200_000 + 50_000


def test_a_limit_of_version_1_counts_where_the_container_sees_its_own_group_as_the_root(machine):
    proc, cgroups = machine
    written(proc / "self" / "cgroup", "7:cpu:/\n4:memory:/docker/0123\n0::/\n")
    written(cgroups / "memory" / "memory.limit_in_bytes", "600000")
    written(cgroups / "memory" / "memory.usage_in_bytes", "650000")
    written(cgroups / "memory" / "memory.stat", "cache 1\ntotal_inactive_file 60000\n")
    assert memory.available_bytes(proc, cgroups) == 10_000


def test_a_group_above_its_limit_leaves_nothing(machine):
    proc, cgroups = machine
    written(proc / "self" / "cgroup", "0::/\n")
    written(cgroups / "memory.max", "100")
    written(cgroups / "memory.current", "200")
    written(cgroups / "memory.stat", "inactive_file 0")
    assert memory.available_bytes(proc, cgroups) == 0


def test_without_a_linux_kernel_it_is_refused(tmp_path):
    with pytest.raises(OSError, match=r"status does not exist: the memory of a process can be measured only on Linux"):
        memory.resident_bytes(tmp_path)
    written(tmp_path / "meminfo", "MemTotal: 9000 kB\n")
    with pytest.raises(OSError, match=r"meminfo has no MemAvailable: expected the /proc of a Linux kernel"):
        memory.available_bytes(tmp_path, tmp_path)
