"""Makes the pool of a search: on this machine, or on a Ray cluster."""

from __future__ import annotations

import dataclasses
import pickle
import secrets
import sys
from pathlib import Path

from lightkeras.data.lookup import Lookup
from lightkeras.search.workers.local import LocalLauncher
from lightkeras.search.workers.pool import Pool, WorkerLimits
from lightkeras.search.workers.process import Setup
from lightkeras.search.workers.protocol import Launcher
from lightkeras.task import Task


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The Ray cluster to work on.

    Args:
        address: Its address, as `ray.init` takes it; `None` uses the one that `RAY_ADDRESS` names, else the one that
            `ray start` started on this machine, else starts one there.
        gpus: GPUs that each worker is given, or the part of one; with 0 it sees none.
    """

    address: str | None = None
    gpus: float = 0.0


def make_pool(
    task: type[Task],
    lookup: Lookup | None,
    workers: int,
    limits: WorkerLimits,
    using: Path | None = None,
    threads: int | None = None,
    cluster: Cluster | None = None,
) -> Pool:
    """A pool of workers.

    Args:
        task: The task's class; it must be importable.
        lookup: Where data and modules are looked for.
        workers: How many.
        limits: What each may take.
        using: File that the workers hold together from their first run on, as long as they live.
        threads: Threads that each computes with; `None` divides the cores between them.
        cluster: Where they run; `None` is this machine.

    Raises:
        TypeError: The task's class cannot be found by another process.
        ImportError: Ray is not installed, or a node of the cluster lacks what the search needs.
        ConnectionError: There is no such cluster.
        ValueError: The cluster has not so many cores, or GPUs.
    """
    setup = Setup(reference_of(task), task.__module__, lookup, None, using, secrets.token_hex())
    memory = None if limits.memory_gb is None else limits.memory_gb * 1e9
    launcher: Launcher
    if cluster is None:
        launcher = LocalLauncher(setup, workers, memory, threads)
    else:
        from lightkeras.search.workers.ray import RayLauncher

        launcher = RayLauncher(setup, workers, memory, cluster.address, cluster.gpus)
    return Pool(launcher, workers, limits)


def reference_of(task: type[Task]) -> bytes:
    """A class as another process can import it: its module and its name.

    Raises:
        TypeError: It cannot be imported.
    """
    advice = (
        "Worker processes import the task by its name: define it at the top of a file, or search in this process "
        "with workers=0."
    )
    if task.__module__ == "__main__" and not getattr(sys.modules["__main__"], "__file__", None):
        raise TypeError(f"{task.__qualname__} was not defined in a file. {advice}")
    try:
        return pickle.dumps(task)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TypeError(f"{task.__qualname__} cannot be imported from {task.__module__}: {error}. {advice}") from error
