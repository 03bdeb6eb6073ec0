"""Runs an experiment in the workers of a Ray cluster. Ray Train starts all of them again after one was lost.

Each worker starts the experiment's command with the variables that torchrun sets, and the run is resumed from its last
checkpoint. All nodes share the run directory and the experiment's folder, under the same paths.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from lightkeras.command_line.launch import free_port
from lightkeras.runs.directory import RunDirectory
from lightkeras.system import ray_cluster
from lightkeras.system.messages import announce
from lightkeras.system.signals import how_it_ended

_STATUS, _STOP = "status", "stop"  # files for the workers, beside those of Ray
_POLL_SECONDS = 0.2
_WRONG_ARGUMENT = 2  # exit status; starting the command again would not help
# Starts a program that is killed with the process that started it: Ray kills a worker to start it anew. The setting
# (PR_SET_PDEATHSIG, of Linux alone) survives exec.
_KILLED_WITH_PARENT = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def launch(command: Sequence[str], workers: int, run_dir: Path, restarts: int) -> int:
    """Runs an experiment in workers, each on a GPU of its own if the cluster has enough of them.

    Args:
        command: Path of the experiment, and its arguments.
        workers: Number of workers.
        run_dir: The run directory. Ray keeps its own files beside it, until the end.
        restarts: Times that all workers are started again, after one failed or its node was lost.

    Returns:
        The exit status of the worker with rank 0 if all ended with 0 or 2; else 1. A run that diverged ends with 1,
        too, and is not started again. 143 or 130 after SIGTERM or Ctrl-C, which save the run; a second one kills it.

    Raises:
        ValueError: There are fewer than two workers, or the cluster has no place for them.
        ImportError: Ray Train is not installed.
        ConnectionError: The cluster cannot be reached.
    """
    if workers < 2:
        raise ValueError(f"--runner.workers {workers}: expected at least 2 processes.")
    if restarts < 0:
        raise ValueError(f"--runner.restarts {restarts}: expected a whole number of at least 0.")
    ray, joined = ray_cluster.join("--runner.launch ray", show_output=True)
    try:
        return _launch(ray, command, workers, run_dir, restarts)
    finally:
        if joined:
            ray.shutdown()


@contextlib.contextmanager
def _stops_workers(stop: Path) -> Iterator[list[int]]:
    """Context in which the first SIGTERM or Ctrl-C makes a file, and a second one raises `SystemExit`.

    Workers that find the file let the run save and end. Yields the signals that were received.
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1:
            raise SystemExit(128 + number)
        stop.touch()

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _launch(ray: Any, command: Sequence[str], workers: int, run_dir: Path, restarts: int) -> int:
    try:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
    except ImportError as error:
        raise ImportError(
            f"--runner.launch ray needs Ray Train, which is not installed: pip install 'lightkeras[ray]'. ({error})"
        ) from error
    found = ray.cluster_resources()
    cpus, gpus = found.get("CPU", 0), found.get("GPU", 0)
    if cpus < workers:
        raise ValueError(
            f"--runner.workers {workers}: the Ray cluster has {cpus:g} CPUs, and each worker needs one. Ask for fewer, "
            "or add nodes."
        )
    on_gpus = gpus >= workers
    if gpus and not on_gpus:
        announce(f"{workers} workers train on CPUs: the Ray cluster has {gpus:g} GPUs, and each would need one.")
    storage = run_dir.absolute().parent / f"{run_dir.name}.ray-{secrets.token_hex(4)}"
    storage.mkdir(parents=True)
    given: dict[str, Any] = {
        "command": list(command),
        "folder": os.getcwd(),
        # Ray does not hide GPUs from workers that asked for none.
        "environment": ray_cluster.passed_on() | ({} if on_gpus else {"CUDA_VISIBLE_DEVICES": ""}),
        "storage": str(storage),
        "run_dir": str(run_dir.absolute()),
    }
    trainer = DataParallelTrainer(
        _work,
        train_loop_config=given,
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=on_gpus),
        run_config=RunConfig(
            name="run", storage_path=str(storage), failure_config=FailureConfig(max_failures=restarts)
        ),
    )
    errors: list[Exception] = []
    # In a thread: in the main one, Ray would take Ctrl-C for itself, and end the workers at once.
    fit = threading.Thread(target=_collect_error, args=(trainer.fit, errors), daemon=True)
    try:
        with _stops_workers(storage / _STOP) as received:
            fit.start()
            while fit.is_alive():
                fit.join(_POLL_SECONDS)
        if received:
            return 128 + received[0]
        if errors:
            print(f"lightkeras: {errors[0]}", file=sys.stderr)
            return 1
        return int((storage / _STATUS).read_text())
    finally:
        shutil.rmtree(storage, ignore_errors=True)


def _collect_error(function: Callable[[], Any], errors: list[Exception]) -> None:
    try:
        function()
    except Exception as error:  # of any kind: Ray's, or one of its connection
        errors.append(error)


def _diverged(run_dir: Path) -> bool:
    """Whether the run has ended because it diverged: it would do so again."""
    return bool((RunDirectory(run_dir).read_result().get("fit") or {}).get("diverged"))


def _work(config: Mapping[str, Any]) -> None:
    """What each worker does."""
    import ray
    import ray.train
    from ray.train.collective import broadcast_from_rank_zero

    storage = Path(config["storage"])
    if not storage.is_dir():
        raise FileNotFoundError(
            f"{storage} is not on the node {ray.util.get_node_ip_address()}: all nodes must "
            "share the folder of the run directory, under the same path."
        )
    context = ray.train.get_context()
    rank = context.get_world_rank()
    address, port = broadcast_from_rank_zero((ray.util.get_node_ip_address(), free_port()) if rank == 0 else None)
    own = {
        "RANK": rank,
        # Ray shows each worker its own GPU alone.
        "LOCAL_RANK": 0 if os.environ.get("CUDA_VISIBLE_DEVICES") else context.get_local_rank(),
        "WORLD_SIZE": context.get_world_size(),
        "MASTER_ADDR": address,
        "MASTER_PORT": port,
    }
    environment = os.environ | config["environment"] | {name: str(value) for name, value in own.items()}
    # A process of its own, because signals reach only the main thread, and Ray calls this in another one.
    command = [sys.executable, "-c", _KILLED_WITH_PARENT, *config["command"]]
    process, stops = subprocess.Popen(command, env=environment, cwd=config["folder"]), False
    while (status := process.poll()) is None:
        if not stops and (storage / _STOP).exists():
            stops = True
            process.terminate()
        time.sleep(_POLL_SECONDS)
    stopped = (storage / _STOP).exists() and status in (128 + signal.SIGTERM, -signal.SIGTERM)
    diverged = status == 1 and _diverged(Path(config["run_dir"]))
    if status not in (0, _WRONG_ARGUMENT) and not stopped and not diverged:
        raise RuntimeError(f"Rank {rank} {how_it_ended(status)}.")
    if rank == 0:
        (storage / _STATUS).write_text(str(status))
