"""Runs a program in several processes that a launcher would have started, on loopback."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import forked


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Ranks:
    """The processes of a program, each with its rank in its environment, as torchrun would set it.

    Args:
        args: Arguments of Python, see `forked.Process`.
        backend: The Keras backend.
        count: Number of processes; 1 sets no variables.
        env: Further variables.
    """

    def __init__(
        self, args: Sequence[str | Path], backend: str, count: int = 2, env: Mapping[str, str] | None = None
    ) -> None:
        given = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "TF_CONFIG")}
        given |= {"KERAS_BACKEND": backend, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **(env or {})}
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(count)}
        self._files: list[tuple[Any, Any]] = []
        self._printed: list[list[str]] = []
        self.processes = []
        for rank in range(count):
            own = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} if count > 1 else {}
            out, err = (tempfile.TemporaryFile("w+") for _ in range(2))  # noqa: SIM115, closed with this object
            self._files.append((out, err))
            self.processes.append(forked.Process(args, env=given | own, stdout=out, stderr=err))

    def wait(self, timeout: float = 120) -> list[int]:
        """Waits for the end of all. Returns their exit statuses; those that do not end are killed."""
        try:
            return [process.wait(timeout) for process in self.processes]
        finally:
            self.kill()

    def kill(self) -> None:
        """Kills those that have not ended, and reads what all printed."""
        for process in self.processes:
            process.kill()
            process.wait()
        for files in self._files:
            texts = []
            for file in files:
                file.seek(0)
                texts.append(file.read())
                file.close()
            self._printed.append(texts)
        self._files = []

    def printed(self, rank: int, error: bool = False) -> str:
        """What a process that has ended printed to its standard output, or its standard error."""
        return self._printed[rank][int(error)]


def run(args: Sequence[str | Path], backend: str, count: int = 2, timeout: float = 120) -> Ranks:
    """Runs a program to its end in all processes, which must succeed."""
    ranks = Ranks(args, backend, count)
    statuses = ranks.wait(timeout)
    assert statuses == [0] * count, "\n".join(ranks.printed(rank, error=True)[-3000:] for rank in range(count))
    return ranks
