"""Signals are noted once and act the second time, in real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from lightkeras.system.signals import StopSignals, exit_status, how_it_ended

# A shell lets its background jobs ignore SIGINT, which a test may run in.
BEGIN = """
import os, signal, sys, threading
signal.signal(signal.SIGINT, signal.default_int_handler)
from lightkeras.system.signals import how_it_ended, StopSignals, exit_status
"""
# The second signal may come at once, before the line after the answer: all of it is inside the try.
TWICE = """
stop = StopSignals()
with stop:
    try:
        print("ready", flush=True)
        sys.stdin.readline()
        print(stop.received, flush=True)
        sys.stdin.readline()
    except KeyboardInterrupt:
        print("interrupted", stop.received, flush=True)
        sys.exit(exit_status(stop.received))
    print("continued", stop.received, flush=True)
"""
# The second signal comes while the main thread is inside native code, where no handler of Python's is run.
IN_NATIVE_CODE = """
import ctypes
stop = StopSignals()
with stop:
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.received == "SIGTERM"
    print("ready", flush=True)
    ctypes.PyDLL(None).sleep(600)
"""
WORKER = """
import multiprocessing
def work():
    print("ready", flush=True)
    threading.Event().wait()
with StopSignals() as stop:
    worker = multiprocessing.get_context("fork").Process(target=work)
    worker.start()
    sys.stdin.readline()
    worker.terminate()
    worker.join()
    print(worker.exitcode, stop.received, flush=True)
"""


def started(program: str) -> subprocess.Popen:
    command = [sys.executable, "-c", BEGIN + program]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    return process


def answer(process: subprocess.Popen) -> str:
    """Lets the process go on to its next line."""
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_the_program_continues(number):
    with started(TWICE) as process:
        process.send_signal(number)
        assert answer(process) == number.name
        assert answer(process) == f"continued {number.name}"
    assert process.returncode == 0


def test_without_a_signal_there_is_none():
    with started(TWICE) as process:
        assert answer(process) == "None"
        assert answer(process) == "continued None"


def test_a_second_interrupt_interrupts():
    with started(TWICE) as process:
        process.send_signal(signal.SIGINT)
        assert answer(process) == "SIGINT"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted SIGINT\n"
    assert process.returncode == 130


def test_a_second_termination_ends_the_process():
    with started(TWICE) as process:
        process.send_signal(signal.SIGTERM)
        assert answer(process) == "SIGTERM"
        process.send_signal(signal.SIGTERM)
        assert process.wait() == -signal.SIGTERM


def test_a_second_termination_ends_native_code_too():
    with started(IN_NATIVE_CODE) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait() == -signal.SIGTERM


def test_of_two_different_signals_the_first_is_named():
    with started(TWICE) as process:
        process.send_signal(signal.SIGINT)
        assert answer(process) == "SIGINT"
        process.send_signal(signal.SIGTERM)
        assert answer(process) == "continued SIGINT"
    assert process.returncode == 0


def test_a_forked_worker_is_ended_as_ever():
    with started(WORKER) as process:
        assert answer(process) == f"{-signal.SIGTERM} None"
    assert process.returncode == 0


@pytest.fixture
def handlers():
    """The handlers that were there, put back afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_handlers_that_were_there_are_put_back(handlers):
    def mine(number, frame):
        """Does nothing."""

    signal.signal(signal.SIGINT, mine)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    stop = StopSignals()
    for _ in range(2):
        with stop:
            assert stop.received is None
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.received == "SIGTERM"
        assert signal.getsignal(signal.SIGINT) is mine
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert stop.received == "SIGTERM"  # it can be asked afterwards


def test_a_signal_that_was_ignored_stays_ignored(handlers):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with StopSignals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.received is None
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_outside_the_main_thread_nothing_is_changed():
    before = signal.getsignal(signal.SIGTERM)
    inside = []

    def run():
        with StopSignals() as stop:
            inside.extend([signal.getsignal(signal.SIGTERM), stop.received])

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert inside == [before, None]
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_exit_status_is_that_of_a_shell():
    assert (exit_status("SIGINT"), exit_status("SIGTERM")) == (130, 143)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (0, "ended with status 0"),
        (3, "ended with status 3"),
        (None, "ended with status None"),
        (-15, "was killed by SIGTERM"),
        (-9, "was killed by SIGKILL, perhaps because memory ran out"),
    ],
)
def test_the_end_of_a_process_is_described(code, expected):
    assert how_it_ended(code) == expected
