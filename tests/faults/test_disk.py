"""A disk that fails during a run: the error names the file, no checkpoint is lost, and the run can be resumed."""

from __future__ import annotations

import errno
import itertools
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import harness
import keras
import pytest
import small
from disk import KINDS, Disk

import lightkeras as lk
from lightkeras.runs import checkpoint

STRIDE = 30  # of the calls that write, each thirtieth fails in a run of its own; the long tests fail those between
RARE: dict[str, Any] = {"checkpoints": lk.Checkpoints(every_epochs=1), "max_epochs": 2}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> harness.End:
    """The files of a run on a disk that works."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    small.fit(run_dir, **RARE)
    return harness.end_of(run_dir)


def assert_checkpoints_are_whole(run_dir: Path) -> None:
    """Asserts that `last` and `best`, where they exist, name checkpoints without damage."""
    folder = run_dir / "checkpoints"
    for name in ("last", "best"):
        if checkpoint.named(folder, name) is not None:
            checkpoint.verify(checkpoint.find(folder, name))


@pytest.mark.parametrize("first", [1, *(pytest.param(call, marks=pytest.mark.long) for call in range(2, STRIDE + 1))])
@pytest.mark.parametrize(
    "for_good", [pytest.param(False, id="once"), pytest.param(True, id="from then on", marks=pytest.mark.long)]
)
@pytest.mark.parametrize("kind", KINDS)
def test_whichever_call_fails_the_error_names_the_file_and_the_run_can_be_resumed(
    kind, for_good, first, tmp_path, whole, monkeypatch
):
    for call in itertools.count(first, STRIDE):
        run_dir = tmp_path / f"run-{call}"
        disk = Disk(run_dir, kind, call, for_good)
        with monkeypatch.context() as patch:
            disk.put_in(patch)
            try:
                small.fit(run_dir, **RARE)
                error = None
            except OSError as raised:
                error = raised
        print(f"{kind} {call} of {disk.failed}: {error}")
        if disk.failed is None:
            break
        assert error is not None, f"{kind} {call} of {disk.failed} failed, and the run did not"
        assert error.errno == errno.ENOSPC
        assert re.search(rf"could not write {re.escape(str(run_dir))}", str(error))
        assert checkpoint.named(run_dir / "checkpoints", "last") == disk.last
        assert_checkpoints_are_whole(run_dir)
        small.fit(run_dir, resume=True, **RARE)
        harness.assert_same(whole, harness.end_of(run_dir))
        harness.assert_nothing_left_over(run_dir)
    assert call > first or first > 1, f"a run makes no {kind} call"


# ---------------------------------------------------------------------- a real file system


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a megabyte, in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--recursive", folder], check=True)


class At(keras.callbacks.Callback):
    """Does something at the end of an epoch, counted from 0."""

    def __init__(self, epoch: int, action: Callable[[], object]) -> None:
        super().__init__()
        self.epoch, self.action = epoch, action

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        if epoch == self.epoch:
            self.action()


def fit(run_dir: Path, epoch: int = -1, action: Callable[[], object] = lambda: None, resume: bool = False) -> None:
    """Fits, and does something at the end of an epoch."""
    small.fit(run_dir, resume=resume, **RARE, callbacks=[*small.callbacks(), At(epoch, action)])


def fill(folder: Path, left: int) -> None:
    """Fills a file system up to a number of free bytes."""
    with open(folder / "ballast", "wb", buffering=0) as file:
        file.write(bytes(shutil.disk_usage(folder).free - left))


@pytest.mark.parametrize("left", [0, 16384, *(pytest.param(left, marks=pytest.mark.long) for left in (4096, 32768))])
def test_a_run_on_a_full_disk_raises_and_can_be_resumed_when_there_is_room(left, small_disk, whole):
    run_dir = small_disk / "run"
    with pytest.raises(OSError, match=rf"could not write {re.escape(str(run_dir))}.*No space left on device") as caught:
        fit(run_dir, 0, lambda: fill(small_disk, left))
    assert caught.value.errno == errno.ENOSPC
    assert_checkpoints_are_whole(run_dir)
    with pytest.raises(OSError, match=r"disk are free, but the run needs about|No space left on device"):
        fit(run_dir, resume=True)
    (small_disk / "ballast").unlink()
    fit(run_dir, resume=True)
    harness.assert_same(whole, harness.end_of(run_dir))
    harness.assert_nothing_left_over(run_dir)


def read_only(folder: Path) -> None:
    """Makes a folder read-only by a bind mount: a file system with open files cannot be remounted read-only."""
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)


def test_a_run_on_a_disk_that_becomes_read_only_raises_and_can_be_resumed_when_it_is_writable(small_disk, whole):
    run_dir = small_disk / "run"
    with pytest.raises(OSError, match=rf"could not write {re.escape(str(run_dir))}.*Read-only file system") as caught:
        fit(run_dir, 0, lambda: read_only(run_dir))
    assert caught.value.errno == errno.EROFS
    with pytest.raises(OSError, match=rf"could not write {re.escape(str(run_dir))}.*Read-only file system"):
        fit(run_dir, resume=True)
    subprocess.run(["umount", run_dir], check=True)
    assert_checkpoints_are_whole(run_dir)
    fit(run_dir, resume=True)
    harness.assert_same(whole, harness.end_of(run_dir))


def test_a_new_run_on_a_disk_that_is_read_only_is_refused_before_it_trains(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    trained: list[int] = []
    with pytest.raises(OSError, match=r"could not write .*run: Read-only file system"):
        fit(small_disk / "run", 0, lambda: trained.append(1))
    assert trained == []
    assert list(small_disk.iterdir()) == []


# ---------------------------------------------------------------------- a slow disk


def test_training_continues_while_a_slow_disk_takes_a_checkpoint(tmp_path, whole, monkeypatch):
    fsync, loop, went_on, waited = os.fsync, threading.current_thread(), threading.Event(), []

    def slow(descriptor: int) -> None:
        if threading.current_thread() is not loop and not waited:
            waited.append(went_on.wait(60))  # for the next epoch's steps: in vain, if they waited for this
        fsync(descriptor)

    def steps_done() -> None:  # those of the second epoch; the checkpoint of the first is not on the disk yet
        assert not (tmp_path / "run" / "checkpoints" / "last").exists()
        went_on.set()

    monkeypatch.setattr(os, "fsync", slow)
    fit(tmp_path / "run", 1, steps_done)
    assert waited == [True]
    harness.assert_same(whole, harness.end_of(tmp_path / "run"))
