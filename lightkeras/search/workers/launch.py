"""Makes the pool of a search, on this machine or on a Ray cluster."""

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
from lightkeras.system import trust
from lightkeras.task import Task


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The Ray cluster to use.

    Args:
        address: Address for `ray.init`. `None` uses `RAY_ADDRESS`, else the cluster that `ray start` started on this
            machine, else starts one.
    """

    address: str | None = None


def make_pool(
    task: type[Task],
    lookup: Lookup | None,
    workers: int,
    limits: WorkerLimits,
    using: Path | None = None,
    threads: int | None = None,
    cluster: Cluster | None = None,
    gpus: float = 0.0,
) -> Pool:
    """Makes a pool of workers, on a cluster if one is given.

    All workers hold the lock file `using` together from their first run to their end. `gpus` are those of each worker,
    or the fraction of one. Raises a TypeError if another process cannot import the task's class, and the errors of
    `RayLauncher` and `LocalLauncher`.
    """
    setup = Setup(reference_of(task), task.__module__, lookup, None, using, secrets.token_hex(), trust.current())
    memory = None if limits.memory_gb is None else limits.memory_gb * 1e9
    launcher: Launcher
    if cluster is None:
        launcher = LocalLauncher(setup, workers, memory, threads, gpus)
    else:
        from lightkeras.search.workers.ray import RayLauncher

        launcher = RayLauncher(setup, workers, memory, cluster.address, gpus)
    return Pool(launcher, workers, limits)


def reference_of(task: type[Task]) -> bytes:
    """Pickles a class as its module and name; a TypeError if another process cannot import it from there."""
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
