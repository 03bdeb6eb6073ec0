"""Imports Keras and its backend, and forks for each program that `forked.py` asks for.

python server.py SOCKET
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import importlib.util
import json
import os
import select
import signal
import socket
import sys
import threading
import time
import types
import warnings
from typing import Any

# What nearly all programs import. lightkeras comes first, as in most of them: it watches the import of Keras.
MODULES = (
    "lightkeras",
    "keras",
    "matplotlib.pyplot",
    "rich.console",
    "rich.live",
    "jsonargparse",
    "sklearn.datasets",
    "lightkeras.command_line.cli",
    "lightkeras.tuner",
    "keras_tuner",
)
# What those on one backend import besides.
OF_BACKEND = {"tensorflow": ("tensorflow_hub", "lightkeras.engine.tensorflow.engine")}


def main(path: str) -> None:
    """Serves until the process that started this one is gone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in (*MODULES, *OF_BACKEND.get(os.environ.get("KERAS_BACKEND", "tensorflow"), ())):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # else the collector of each forked process would copy all pages of the objects that exist by now
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the processes that wait for the programs
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        print("ready", flush=True)
        request = _next(listener)
    if request is not None:
        end(run(**request))


def _next(listener: socket.socket) -> dict[str, Any] | None:
    """The request that this process, forked for it, is to run; `None` at the end of the server."""
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:
            return None
        connection, _ = listener.accept()
        _, descriptors, _, _ = socket.recv_fds(connection, 100, 4)
        if _forked():
            connection.close()
            for descriptor in descriptors:
                os.close(descriptor)
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        child = _forked()
        if child:
            _report(connection, child, descriptors)
        connection.close()
        listener.close()
        with open(descriptors[0]) as file:
            file.seek(0)
            request = json.load(file)
        for number, descriptor in enumerate(descriptors[1:]):
            os.dup2(descriptor, number)
            os.close(descriptor)
        return request


def _forked() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX warns of threads that it has not started yet
        return os.fork()


def _report(connection: socket.socket, child: int, descriptors: list[int]) -> None:
    """Sends the program's process number, and when it has ended, its status and CPU seconds. Does not return."""
    for descriptor in (*descriptors, 0, 1):
        os.close(descriptor)
    connection.sendall(f"{child}\n".encode())
    _, status, usage = os.wait4(child, 0)
    with contextlib.suppress(BrokenPipeError):
        connection.sendall(f"{os.waitstatus_to_exitcode(status)} {usage.ru_utime + usage.ru_stime}\n".encode())
    os._exit(0)


def run(args: list[str], cwd: str, env: dict[str, str]) -> int:
    """Runs a program as Python would. Returns its exit status."""
    import numpy as np

    os.environ.clear()
    os.environ.update(env)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # which lightkeras has set before it imported TensorFlow
    time.tzset()
    os.chdir(cwd)
    np.random.seed()  # else each program would draw the numbers of the others
    module = types.ModuleType("__main__")
    if args[0] == "-c":
        source, name, sys.argv = args[1], "<string>", ["-c", *args[2:]]
        sys.path[0] = ""
    elif args[0] == "-m":
        sys.argv = args[1:]
        sys.path[0] = cwd
        spec = importlib.util.find_spec(args[1])
        assert spec is not None
        assert spec.origin is not None
        module.__spec__, module.__file__, name = spec, spec.origin, spec.origin
        module.__package__ = spec.parent
        with open(name, encoding="utf-8") as file:
            source = file.read()
    else:
        name, sys.argv = args[0], args
        module.__file__ = os.path.abspath(name)
        sys.path[0] = os.path.dirname(module.__file__)
        with open(name, encoding="utf-8") as file:
            source = file.read()
    module.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = module
    try:
        exec(compile(source, name, "exec"), module.__dict__)
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return error.code or 0
        print(error.code, file=sys.stderr)
        return 1
    except BaseException as error:
        traceback = error.__traceback__.tb_next if error.__traceback__ is not None else None  # without this function
        sys.excepthook(type(error), error.with_traceback(traceback), traceback)
        return -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    return 0


def end(status: int) -> None:
    """Ends the process as Python does, but for the last collection of all objects: it takes 1.5 CPU seconds here."""
    threading._shutdown()  # waits for threads, as Python does
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BrokenPipeError):
            stream.flush()
    if status < 0:  # of an interrupt that nothing caught, Python ends by the signal
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


if __name__ == "__main__":
    main(sys.argv[1])
