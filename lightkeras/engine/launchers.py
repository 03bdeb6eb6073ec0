"""What a launcher told this process by environment variables: which of several processes it is, and where the first is.

launched()                       # Launch("WORLD_SIZE", rank=1, processes=8, ...), or None for one process
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping, Sequence

TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables of torchrun, Ray Train, Kubernetes' PyTorchJob and others."""
SLURM = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_JOB_ID", "SLURM_STEP_NODELIST")
"""Variables of the tasks of `srun`, beside `SLURM_STEP_NUM_TASKS`."""
_FIRST_PORT, _PORTS = 61440, 4096  # of which a job of SLURM takes one by its number, as in JAX


@dataclasses.dataclass(frozen=True)
class Launch:
    """What a launcher told a process.

    Args:
        variable: The variable that told the number of processes: `"WORLD_SIZE"`, `"TF_CONFIG"` or
            `"SLURM_STEP_NUM_TASKS"`.
        rank: Number of this process, from 0.
        processes: Number of all processes.
        local_rank: Number of this process among those of its host, from 0.
        address: Host of the process with rank 0.
        port: Free port there.
    """

    variable: str
    rank: int
    processes: int
    local_rank: int
    address: str
    port: int


def launched(variables: Mapping[str, str] = os.environ) -> Launch | None:
    """What a launcher told this process by environment variables; `None` for one process.

    Raises:
        ValueError: Variables are missing or malformed, or two launchers set theirs.
    """
    by_rank, by_config = _of_torchrun(variables), _of_tf_config(variables)
    if by_rank is not None and by_config is not None:
        raise ValueError(
            "WORLD_SIZE and TF_CONFIG both tell of several processes: two launchers started this one. Unset the "
            "variables of one of them."
        )
    # Of SLURM last: its tasks may start torchrun, or a program of their own that sets the variables.
    return by_rank or by_config or _of_slurm(variables)


def _of_torchrun(variables: Mapping[str, str]) -> Launch | None:
    size = variables.get("WORLD_SIZE")
    if size is None or ("RANK" not in variables and size.strip() == "1"):
        return None
    _check_set(
        "WORLD_SIZE",
        TORCHRUN,
        variables,
        "Start them with torchrun, or set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT of each.",
    )
    processes, rank = _whole("WORLD_SIZE", size, 1), _whole("RANK", variables["RANK"], 0)
    if rank >= processes:
        raise ValueError(f"RANK={rank}: expected a number from 0 to {processes - 1}, because WORLD_SIZE={processes}.")
    if processes == 1:
        return None
    local, port = (
        _whole("LOCAL_RANK", variables.get("LOCAL_RANK", str(rank)), 0),
        _whole("MASTER_PORT", variables["MASTER_PORT"], 1, 65535),
    )
    return Launch("WORLD_SIZE", rank, processes, local, variables["MASTER_ADDR"], port)


def _of_tf_config(variables: Mapping[str, str]) -> Launch | None:
    """The workers of TF_CONFIG: a chief, if there is one, has rank 0."""
    text = variables.get("TF_CONFIG")
    if not text:
        return None
    try:
        config = json.loads(text)
        cluster, task = config.get("cluster") or {}, config.get("task") or {}
        hosts = {kind: list(cluster.get(kind) or []) for kind in ("chief", "worker")}
        addresses = [*hosts["chief"], *hosts["worker"]]
        if len(addresses) < 2:
            return None
        before = len(hosts["chief"]) if task["type"] == "worker" else 0
        rank, kind = before + int(task["index"]), hosts[task["type"]]
        kind[int(task["index"])]
        host, _, port = addresses[0].rpartition(":")
        return Launch("TF_CONFIG", rank, len(addresses), 0, host, _whole("the port of TF_CONFIG", port, 1, 65535))
    except (json.JSONDecodeError, AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(
            f"TF_CONFIG={text!r} is malformed ({type(error).__name__}: {error}). Expected JSON such as "
            '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}.'
        ) from None


def _of_slurm(variables: Mapping[str, str]) -> Launch | None:
    """The tasks of `srun`, https://slurm.schedmd.com/srun.html#SECTION_OUTPUT-ENVIRONMENT-VARIABLES.

    A shell or a batch script of a job has variables of the job, and is not a task: only a step has its number of tasks.
    """
    name = "SLURM_STEP_NUM_TASKS"
    if "WORLD_SIZE" in variables or _whole(name, variables.get(name, "1"), 1) == 1:
        return None
    _check_set(name, SLURM, variables, "Start them with srun, or unset SLURM_STEP_NUM_TASKS for one process.")
    # A task that was given one GPU of its host sees no other.
    own = "CUDA_VISIBLE_DEVICES" in variables and "," not in variables["CUDA_VISIBLE_DEVICES"]
    job = _whole("SLURM_JOB_ID", variables["SLURM_JOB_ID"], 0)
    return Launch(
        name,
        _whole("SLURM_PROCID", variables["SLURM_PROCID"], 0),
        _whole(name, variables[name], 1),
        0 if own else _whole("SLURM_LOCALID", variables["SLURM_LOCALID"], 0),
        variables.get("MASTER_ADDR") or _first_host(variables["SLURM_STEP_NODELIST"]),
        _whole("MASTER_PORT", variables.get("MASTER_PORT") or str(_FIRST_PORT + job % _PORTS), 1, 65535),
    )


def _check_set(size: str, names: Sequence[str], variables: Mapping[str, str], advice: str) -> None:
    """Checks that all variables that come with the one for the number of processes are set."""
    if missing := [name for name in names if not variables.get(name)]:
        raise ValueError(
            f"{size}={variables[size]} tells of several processes, and {', '.join(missing)} is not set. {advice}"
        )


def _first_host(nodes: str) -> str:
    """The first of the nodes of SLURM, such as `node007` of `node[007-012,020],other3`."""
    first = re.match(r"([^\[,]+)(?:\[([^\]\-,]+)[^\]]*\])?([^\[,]*)", nodes)
    if first is None:
        raise ValueError(f"SLURM_STEP_NODELIST={nodes!r}: expected names of hosts, such as node[001-004].")
    return "".join(part or "" for part in first.groups())


def _whole(name: str, text: str, least: int, most: int | None = None) -> int:
    number = int(text) if text.strip().isdecimal() else -1
    if number < least or (most is not None and number > most):
        limits = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name}={text!r}: expected a whole number {limits}.")
    return number
