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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from lightkeras.command_line.launch import free_port
from lightkeras.runs.directory import RunDirectory
from lightkeras.system import ray_cluster
from lightkeras.system.messages import announce
from lightkeras.system.signals import how_it_ended

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
        too, and is not started again.

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
        with _ends_as_a_program():
            return _launch(ray, command, workers, run_dir, restarts)
    finally:
        if joined:
            ray.shutdown()


@contextlib.contextmanager
def _ends_as_a_program() -> Iterator[None]:
    """Context in which SIGTERM and Ctrl-C raise `SystemExit` with their status, so that `finally` cleans up.

    Ray has a handler of its own for Ctrl-C, which raises `SystemExit(0)`.
    """
    received = [signal.SIGINT]

    def end(number: int, frame: FrameType | None) -> None:
        received.append(signal.Signals(number))
        signal.signal(number, signal.SIG_IGN)  # a second one would end the clean-up
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except SystemExit as error:
        raise SystemExit(128 + received[-1]) from error
    finally:
        signal.signal(signal.SIGTERM, before)


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
        "status": str(storage / "status"),
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
    try:
        trainer.fit()
        return int(Path(given["status"]).read_text())
    except ray.train.TrainingFailedError as error:
        print(f"lightkeras: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(storage, ignore_errors=True)


def _diverged(run_dir: Path) -> bool:
    """Whether the run has ended because it diverged: it would do so again."""
    return bool((RunDirectory(run_dir).read_result().get("fit") or {}).get("diverged"))


def _work(config: Mapping[str, Any]) -> None:
    """What each worker does."""
    import ray
    import ray.train
    from ray.train.collective import broadcast_from_rank_zero

    if not Path(config["status"]).parent.is_dir():
        raise FileNotFoundError(
            f"{Path(config['status']).parent} is not on the node {ray.util.get_node_ip_address()}: all nodes must "
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
    status = subprocess.run(command, env=environment, cwd=config["folder"], check=False).returncode
    if status not in (0, _WRONG_ARGUMENT) and not (status == 1 and _diverged(Path(config["run_dir"]))):
        raise RuntimeError(f"Rank {rank} {how_it_ended(status)}.")
    if rank == 0:
        Path(config["status"]).write_text(str(status))
