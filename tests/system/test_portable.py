"""What other systems lack. No such machine is at hand: their missing names are taken away in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from lightkeras.system import portable

pytestmark = pytest.mark.any_backend

# As on Windows, but for portalocker, which locks by fcntl here: its lock is noted and not taken.
WITHOUT = """
import os, signal, sys, types
for owner, names in {
    os: ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "fork", "register_at_fork", "sched_getaffinity"),
    signal: ("SIGKILL", "SIGHUP", "pthread_sigmask"),
}.items():
    for name in names:
        delattr(owner, name)
for name in ("fcntl", "resource", "termios", "pwd", "grp"):
    sys.modules[name] = None
fake = types.ModuleType("portalocker")
fake.taken = []
fake.LockFlags = types.SimpleNamespace(SHARED=1, EXCLUSIVE=2, NON_BLOCKING=4)
fake.AlreadyLocked = fake.LockException = OSError
fake.lock = lambda descriptor, flags: fake.taken.append(flags)
sys.modules["portalocker"] = fake
"""
IMPORTS = """
import importlib, pkgutil
import lightkeras
skipped = ("lightkeras.engine", "lightkeras.exports.reader", "lightkeras.exports.preprocess_words")
names = [found.name for found in pkgutil.walk_packages(lightkeras.__path__, "lightkeras.", onerror=print)]
for name in names:
    if not name.startswith(skipped) and "torch_random" not in name and "jax_distribution" not in name:
        importlib.import_module(name)
assert len(names) > 200
"""
RUN = """
import lightkeras as lk
from lightkeras.testing import TwoMoons
if __name__ == "__main__":
    runner = lk.Runner(max_epochs=2, run_dir=sys.argv[1], progress=False)
    print(runner.fit(TwoMoons()).history["val/loss"], runner.fit(TwoMoons(), resume=True).epochs, fake.taken[0])
"""


def run(code: str, *args: str) -> str:
    done = subprocess.run([sys.executable, "-c", WITHOUT + code, *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_is_imported_where_nothing_is_that_only_linux_has():
    run(IMPORTS)


def test_a_run_is_trained_and_resumed_there(tmp_path):
    assert run(RUN, str(tmp_path / "run")).endswith("2 6\n")


def test_a_lock_is_held_alone_or_shared(tmp_path):
    path = tmp_path / "lock"
    first, second = (os.open(path, os.O_RDWR | os.O_CREAT) for _ in range(2))
    portable.lock(first, shared=True)
    portable.lock(second, shared=True)
    os.close(second)
    second = os.open(path, os.O_RDWR)
    with pytest.raises(BlockingIOError):
        portable.lock(second)
    os.close(first)
    portable.lock(second)
    os.close(second)


def test_files_and_folders_are_synced(tmp_path):
    (tmp_path / "file").write_text("x")
    portable.sync(tmp_path / "file")
    portable.sync(tmp_path)
    with pytest.raises(FileNotFoundError):
        portable.sync(tmp_path / "none")


def test_stop_signals_wait():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with portable.stop_signals_held():
        assert {signal.SIGINT, signal.SIGTERM} <= signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_cores_are_those_of_the_process():
    assert portable.cores() == len(os.sched_getaffinity(0))
