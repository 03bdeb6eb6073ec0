"""The processes of a run on JAX, joined by `jax.distributed`: their devices form one mesh, and XLA sums over it.

A process that was lost is noticed by JAX's coordination service, which then ends the others.
"""

from __future__ import annotations

import os
from typing import final

import jax
import numpy as np
from jax.experimental import multihost_utils

from lightkeras.engine.world import ALONE, JOIN_SECONDS, LOST_SECONDS, Launch, World, WorldError


def join(launch: Launch | None) -> World:
    """See `Engine.join`."""
    if launch is not None and not jax.distributed.is_initialized():
        _initialize(launch)
    return JaxWorld() if jax.distributed.is_initialized() and jax.process_count() > 1 else ALONE


@final
class JaxWorld(World):
    """The processes that `jax.distributed` joined."""

    def __init__(self) -> None:
        self.rank, self.processes = jax.process_index(), jax.process_count()

    def _gather(self, block: bytes) -> list[bytes]:
        found = multihost_utils.process_allgather(np.frombuffer(block, np.uint8))
        return [row.tobytes() for row in found]


def _initialize(launch: Launch) -> None:
    if launch.variable != "WORLD_SIZE":
        raise ValueError(
            f"{launch.variable} tells of {launch.processes} processes; on JAX, start them with "
            f"`lightkeras launch --processes {launch.processes} FILE.py`, or call jax.distributed.initialize yourself."
        )
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        raise ValueError(
            f"torchrun keeps MASTER_PORT={launch.port} for itself, which JAX needs. Start the processes with "
            f"`lightkeras launch --processes {launch.processes} FILE.py`."
        )
    try:
        jax.distributed.initialize(
            f"{launch.address}:{launch.port}",
            launch.processes,
            launch.rank,
            # Of the GPUs of a host, each process has one. JAX ignores this on CPUs.
            local_device_ids=None if "JAX_LOCAL_DEVICE_IDS" in os.environ else [launch.local_rank],
            initialization_timeout=int(JOIN_SECONDS),
            heartbeat_timeout_seconds=int(LOST_SECONDS),
        )
    except RuntimeError as error:
        if "before" in str(error):
            raise ValueError(
                f"WORLD_SIZE={launch.processes} tells of several processes, but JAX was used before they were joined. "
                "Make models in `build_model` of a task, or call jax.distributed.initialize at the top of the program."
            ) from error
        raise WorldError(
            f"MASTER_ADDR={launch.address}, MASTER_PORT={launch.port}: the {launch.processes} processes did not join "
            f"within {JOIN_SECONDS:.0f} s, or the port is in use: {error}"
        ) from error
