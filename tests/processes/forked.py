"""Runs Python programs in processes that have imported Keras and its backend already.

Importing TensorFlow takes 7 seconds of a core, and hundreds of the programs that the tests run begin with it. So one
process for each backend imports it once (`server.py`) and forks for each program. Nothing of the backend has run
before the fork. The program is a process of its own in all other respects: it has its own `__main__`, arguments,
environment, working directory and standard streams, it can be sent signals, and it ends as Python ends: with its
threads joined and its `atexit` functions called.

A test of what is imported when, of what an import prints, or of the interpreter's flags needs `subprocess` instead.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

SERVER = Path(__file__).with_name("server.py")

# Variables that Keras, a backend or lightkeras reads while it is imported: a server's are those of its programs.
READ_BY_IMPORTS = ("KERAS_BACKEND", "PYTHONPATH", "TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS", "XLA_FLAGS")

cpu_s = 0.0  # CPU time of all programs that have ended


class Process:
    """A program that runs; the part of `subprocess.Popen` that the tests use.

    Args:
        args: Arguments of Python: `["program.py", ...]`, `["-c", "code", ...]` or `["-m", "module", ...]`.
        cwd: Working directory. `None`: that of this process.
        env: All of its environment. `None`: that of this process.
        stdin, stdout, stderr: A file, or `subprocess.PIPE` for a text stream that is an attribute of the process.
    """

    def __init__(
        self,
        args: Sequence[str | Path],
        *,
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: IO[Any] | int = subprocess.DEVNULL,
        stdout: IO[Any] | int = subprocess.PIPE,
        stderr: IO[Any] | int = subprocess.PIPE,
    ) -> None:
        self.args = [str(arg) for arg in args]
        self.returncode: int | None = None
        environment = dict(os.environ if env is None else env)
        ours, theirs = [], []
        for number, stream in enumerate((stdin, stdout, stderr)):
            end, given = _opened(stream, writes=number == 0)
            ours.append(end)
            theirs.append(given)
        self.stdin, self.stdout, self.stderr = ours
        request = {"args": self.args, "cwd": str(cwd or Path.cwd()), "env": environment}
        with tempfile.TemporaryFile() as file:  # an environment may be longer than a message
            file.write(json.dumps(request).encode())
            file.flush()
            self._connection = _server(environment).connect()
            socket.send_fds(self._connection, [b"run"], [file.fileno(), *theirs])
        for descriptor in theirs:
            os.close(descriptor)
        self.pid = int(self._answer())

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def poll(self) -> int | None:
        """The exit status, or `None` while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(timeout=0.001)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Waits for its end. Returns its exit status, negative for a signal."""
        global cpu_s
        if self.returncode is None:
            self._connection.settimeout(timeout)
            try:
                status, used = self._answer().split()
            except TimeoutError:
                raise subprocess.TimeoutExpired(self.args, timeout or 0) from None
            self.returncode = int(status)
            cpu_s += float(used)
            self._connection.close()
        return self.returncode

    def communicate(self) -> tuple[str, str]:
        """Ends its standard input, and waits for its end. Returns what it printed since it was last read.

        Its standard error may be no longer than a pipe holds.
        """
        if self.stdin is not None and not self.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self.stdin.close()
        printed = []
        for stream in (self.stdout, self.stderr):
            printed.append("" if stream is None or stream.closed else stream.read())
            if stream is not None:
                stream.close()
        self.wait()
        return printed[0], printed[1]

    def _answer(self) -> str:
        """The next line of the server; no byte more is read, since the one after it may come at any time."""
        line = b""
        while not line.endswith(b"\n"):
            byte = self._connection.recv(1)
            if not byte:
                raise RuntimeError(f"the server that forks ended before it answered: {self.args}")
            line += byte
        return line.decode()


def run(
    args: Sequence[str | Path],
    *,
    cwd: str | Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str = "",
    timeout: float = 600,
) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end, whatever its exit status; for the arguments see `Process`."""
    with contextlib.ExitStack() as stack:
        given, out, err = (stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8")) for _ in range(3))
        given.write(stdin)
        given.seek(0)
        process = Process(args, cwd=cwd, env=env, stdin=given, stdout=out, stderr=err)
        try:
            process.wait(timeout)
        except BaseException:
            process.kill()
            process.wait()
            raise
        printed = []
        for file in (out, err):
            file.seek(0)
            printed.append(file.read())
        return subprocess.CompletedProcess(process.args, process.wait(), *printed)


def _opened(stream: IO[Any] | int, writes: bool) -> tuple[IO[str] | None, int]:
    """Our end of a pipe, if it is one, and a descriptor for the program."""
    if stream == subprocess.DEVNULL:
        return None, os.open(os.devnull, os.O_RDWR)
    if stream != subprocess.PIPE:
        return None, os.dup(stream if isinstance(stream, int) else stream.fileno())
    reader, writer = os.pipe()
    if writes:
        return open(writer, "w", encoding="utf-8"), reader
    return open(reader, encoding="utf-8"), writer


class _Server:
    """The process that forks; it ends when this process closes its standard input, or dies."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._home = tempfile.TemporaryDirectory(prefix="forked-")
        self._path = str(Path(self._home.name) / "socket")
        # Only what imports read may differ from a bare environment: each program gets one of its own.
        kept = {name: value for name, value in environment.items() if name in READ_BY_IMPORTS}
        kept |= {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
        folders = {"HOME": "", "XDG_CACHE_HOME": "cache", "TFDS_DATA_DIR": "tfds"}
        kept |= {name: str(Path(self._home.name) / folder) for name, folder in folders.items()}
        kept["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # torch asks for GPUs without starting CUDA, which does not fork
        kept["MPLCONFIGDIR"] = environment.get("MPLCONFIGDIR") or _fonts()
        self._process = subprocess.Popen(
            [sys.executable, str(SERVER), self._path],
            env=kept,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n", "the server that forks could not begin"

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self._path)
        return connection

    def close(self) -> None:
        self._process.communicate()
        self._home.cleanup()


_servers: dict[tuple[str | None, ...], _Server] = {}


def _server(environment: Mapping[str, str]) -> _Server:
    key = tuple(environment.get(name) for name in READ_BY_IMPORTS)
    if key not in _servers:
        _servers[key] = _Server(environment)
        if len(_servers) == 1:
            atexit.register(_close)
    return _servers[key]


def _close() -> None:
    for server in _servers.values():
        server.close()
    _servers.clear()


def _fonts() -> str:
    """The user's folder of matplotlib: fonts are looked for once, not in each new home, which takes seconds."""
    return str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "matplotlib")
