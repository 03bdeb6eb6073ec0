"""A disk that fails: counts every call that writes to it, and makes a chosen one fail."""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from lightkeras.runs.loggers import csv, tensorboard
from lightkeras.system import files, locks

KINDS = ("open", "write", "fsync", "replace", "mkdir", "truncate")


class Disk:
    """Replaces the calls that write below a folder; calls elsewhere are not changed.

    Args:
        folder: The folder.
        kind: Kind of the call that fails.
        call: Number of the call, from 1; a write that fails has written half of its bytes.
        for_good: Whether all later calls of every kind fail, too.
    """

    def __init__(self, folder: Path, kind: str, call: int, for_good: bool) -> None:
        self._folder, self._kind, self._call, self._for_good = str(folder), kind, call, for_good
        self._calls = 0
        self.failed: str | None = None  # the file of the call that failed
        self.last: str | None = None  # what `last` was made to name

    def fails(self, kind: str, path: object) -> bool:
        """Counts a call. Returns whether it is one that fails."""
        if not str(path).startswith(self._folder):
            return False
        self._calls += kind == self._kind
        now = kind == self._kind and self._calls == self._call
        if now:
            self.failed = str(path)
        return now or (self._for_good and self.failed is not None)

    def check(self, kind: str, path: object) -> None:
        """Counts a call, and raises if it is one that fails."""
        if self.fails(kind, path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def put_in(self, patch: pytest.MonkeyPatch) -> None:
        """Replaces the functions that write, for as long as the patch holds."""
        fsync, replace, mkdir, truncate, opens = os.fsync, os.replace, os.mkdir, os.truncate, os.open
        ftruncate, pwrite = os.ftruncate, os.pwrite

        def failing_open(path: Any, mode: str = "r", **named: Any) -> IO[Any]:
            if mode in ("r", "rb"):
                return builtins.open(path, mode, **named)
            self.check("open", path)
            buffered = io.BufferedWriter(_Raw(self, path, mode.replace("b", "")))
            return buffered if "b" in mode else io.TextIOWrapper(buffered, **named)  # type: ignore[return-value]

        def failing_descriptor(path: Any, flags: int, *more: Any, **named: Any) -> int:
            if flags & (os.O_WRONLY | os.O_RDWR):
                self.check("open", path)
            return opens(path, flags, *more, **named)

        def failing_replace(source: Any, target: Any) -> None:
            self.check("replace", target)
            replace(source, target)
            if Path(target).name == "last":
                self.last = Path(target).read_text().strip()

        def failing(kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
            def checked(target: Any, *more: Any, **named: Any) -> Any:
                self.check(kind, os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else target)
                return function(target, *more, **named)

            return checked

        for module in (files, csv, tensorboard):
            patch.setattr(module, "open", failing_open, raising=False)
        patch.setattr(locks.os, "open", failing_descriptor)
        patch.setattr(os, "replace", failing_replace)
        patch.setattr(os, "fsync", failing("fsync", fsync))
        patch.setattr(os, "mkdir", failing("mkdir", mkdir))
        patch.setattr(os, "truncate", failing("truncate", truncate))
        patch.setattr(os, "ftruncate", failing("truncate", ftruncate))
        patch.setattr(os, "pwrite", failing("write", pwrite))


class _Raw(io.FileIO):
    """An unbuffered file: after a write that failed, the buffer in front of it writes its content again."""

    def __init__(self, disk: Disk, path: Any, mode: str) -> None:
        super().__init__(path, mode)
        self._disk = disk

    def write(self, content: Any) -> int:
        if self._disk.fails("write", self.name):
            super().write(memoryview(content)[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.name))
        return super().write(content) or 0
