"""Starts the same program in several processes of this machine, which train together.

Each process gets the variables that torchrun sets: RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from lightkeras.system import portable
from lightkeras.system.signals import how_it_ended

GRACE_SECONDS = 30.0
"""Time that the other processes have to end by themselves, after the first one failed."""
_POLL_SECONDS = 0.1


def launch(command: Sequence[str], processes: int, hosts: int = 1, host: int = 0, address: str | None = None) -> int:
    """Runs a Python program in several processes, until all have ended.

    SIGTERM, SIGINT and SIGHUP are passed on to all of them, unless this process ignores them, as `nohup` does SIGHUP.

    Args:
        command: Path of the program, and its arguments.
        processes: Processes on this machine.
        hosts: Machines on which this is called.
        host: Number of this one, from 0.
        address: `HOST:PORT` of the first machine, the same on all; `None` chooses a free port of the only one.

    Returns:
        0 if all ended with 0; else the exit status of the first that did not.

    Raises:
        ValueError: A number is out of its range, or the address is missing or malformed.
        FileNotFoundError: The program does not exist.
    """
    if processes < 1 or hosts < 1 or processes * hosts < 2:
        raise ValueError(f"--processes {processes} --hosts {hosts}: expected at least two processes in all.")
    if not 0 <= host < hosts:
        raise ValueError(f"--host {host}: expected a number from 0 to {hosts - 1}, because --hosts is {hosts}.")
    if address is None and hosts > 1:
        raise ValueError(f"--hosts {hosts}: expected --address HOST:PORT too, of the machine with --host 0.")
    name, _, port = (address or f"127.0.0.1:{free_port()}").rpartition(":")
    if not name or not port.isdecimal():
        raise ValueError(f"--address {address!r}: expected HOST:PORT, such as 10.0.0.1:29500.")
    if not Path(command[0]).is_file():
        raise FileNotFoundError(f"{command[0]} does not exist, or is not a file. Expected the path of an experiment.")
    shared = {"WORLD_SIZE": str(hosts * processes), "MASTER_ADDR": name, "MASTER_PORT": port}
    started: list[subprocess.Popen[bytes]] = []
    with _signals_passed_on(started) as received:
        for number in range(processes):
            own = {"RANK": str(host * processes + number), "LOCAL_RANK": str(number)}
            started.append(
                subprocess.Popen(
                    [sys.executable, *command],
                    env=os.environ | shared | own,
                    stdin=subprocess.DEVNULL,
                    process_group=0,  # so that Ctrl-C reaches each process once, from here
                )
            )
        return _wait(started, host * processes, received)


def _wait(started: Sequence[subprocess.Popen[bytes]], first: int, received: Sequence[int]) -> int:
    """Waits for all processes, or ends them after one failed.

    Args:
        started: The processes.
        first: Rank of the first one.
        received: Signals that were passed on: the processes save and end then, however long it takes.
    """
    failed, deadline = None, float("inf")
    while True:
        codes = [process.poll() for process in started]
        if failed is None and any(codes):
            failed = next(number for number, code in enumerate(codes) if code)
            deadline = time.monotonic() + GRACE_SECONDS
            if not received:
                print(f"lightkeras: rank {first + failed} {how_it_ended(codes[failed])}.", file=sys.stderr, flush=True)
        if None not in codes:
            code = 0 if failed is None else started[failed].returncode
            return 128 - code if code < 0 else code
        if time.monotonic() > deadline and not received:
            for process in started:
                process.kill()
        time.sleep(_POLL_SECONDS)


@contextlib.contextmanager
def _signals_passed_on(started: Sequence[subprocess.Popen[bytes]]) -> Iterator[list[int]]:
    """Context in which processes get the signals of this one, which are added to the list."""
    received: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for process in started:
            process.send_signal(number)

    numbers = (signal.SIGTERM, signal.SIGINT, *portable.HANG_UP)
    heeded = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, pass_on) for number in heeded}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for process in started:
            process.kill()  # none is left, unless an error ends this one


def free_port() -> int:
    """A port of this machine that no program uses now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
