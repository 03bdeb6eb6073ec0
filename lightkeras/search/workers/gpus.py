"""The GPUs of worker processes, by the environment variables that restrict a process to some."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Mapping

_SECONDS = 30.0  # timeout of nvidia-smi


def environment_of_gpus(gpus: float, environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables of a worker whose GPUs Ray chooses, without those that `environment` sets already.

    Ray 2.60 hides no GPUs from workers with 0, and TensorFlow would take the memory of all.
    """
    return {"CUDA_VISIBLE_DEVICES": ""} if gpus == 0 else _sharing(gpus, environment)


def environments_of_slots(gpus: float, workers: int) -> list[dict[str, str]]:
    """Returns the variables of each worker of this machine: those with 0 `gpus` share all that this process has.

    Raises:
        ValueError: There are fewer GPUs than the workers need.
    """
    if gpus == 0:
        return [{}] * workers
    found = visible_gpus()
    each, sharers = (int(gpus), 1) if gpus >= 1 else (1, int(1 / gpus + 1e-9))
    if len(found) // each * sharers < workers:
        named = f"{len(found)} GPUs ({', '.join(found)})" if found else "no GPU of NVIDIA"
        raise ValueError(
            f"Tuner(workers={workers}, gpus={gpus:g}): this machine has {named} for this process. Ask for fewer, or "
            "leave gpus out to let all workers share them."
        )
    firsts = [worker // sharers * each for worker in range(workers)]
    return [
        {"CUDA_VISIBLE_DEVICES": ",".join(found[first : first + each]), **_sharing(gpus, os.environ)}
        for first in firsts
    ]


def visible_gpus() -> list[str]:
    """Returns the GPUs that a process started by this one would see, as `CUDA_VISIBLE_DEVICES` names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=_SECONDS).stdout.split()
    return []


def _sharing(gpus: float, environment: Mapping[str, str]) -> dict[str, str]:
    if gpus >= 1:
        return {}
    # Backends allocate nearly all memory of a GPU when they start, which others share here.
    sharing = {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    return {name: value for name, value in sharing.items() if name not in environment}
