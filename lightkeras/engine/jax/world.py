"""The processes of a run on JAX, joined by `jax.distributed`: their devices form one mesh, and XLA sums over it.

    world = join(launch)             # or those that the user has joined

Exchanges between two steps go through the store of JAX's coordination service, which is the process with rank 0; they
take 1 ms, a third of an exchange by the devices, and Python can interrupt them. If the process with rank 0 is lost, JAX
ends the others; the loss of another one is noticed by `Watch`.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
from collections.abc import Sequence
from typing import Any, final

import jax
from jax._src import distributed  # the store has no public name

from lightkeras.engine.jax.devices import rows_here
from lightkeras.engine.launchers import Launch
from lightkeras.engine.watch import GRACE_SECONDS, STUCK_SECONDS, Watch, WatchedWorld, first_line, stuck
from lightkeras.engine.world import ALONE, JOIN_SECONDS, LOST_SECONDS, World, WorldError


def join(launch: Launch | None) -> World:
    """See `Engine.join`."""
    own = launch is not None and not jax.distributed.is_initialized()
    if launch is not None and own:
        _initialize(launch)
    if not jax.distributed.is_initialized() or jax.process_count() == 1:
        return ALONE
    return JaxWorld(distributed.global_state.client, own)


@final
class JaxWorld(WatchedWorld):
    """The processes that `jax.distributed` joined.

    Args:
        client: The client of the coordination service.
        own: Whether they were joined here, so that this process leaves them at its end.
    """

    layers_see_parts = False

    def __init__(self, client: Any, own: bool) -> None:
        self.rank, self.processes = jax.process_index(), jax.process_count()
        self._client, self._exchanges = client, 0
        self._patience = GRACE_SECONDS + 3  # for the others to end, if none has failed before
        self._watch = Watch(_Store(client), self.rank, self.processes)
        self._wait_for_all()
        self._watch.begin()
        if own:
            atexit.register(self._leave)

    def rows(self, examples: int) -> slice:
        return rows_here(examples)

    def _wait_for_all(self) -> None:
        """Waits until all have come here; processes that the user joined may come long after each other."""
        try:
            self._client.wait_at_barrier("lightkeras/joined", int(JOIN_SECONDS * 1000))
        except jax.errors.JaxRuntimeError as error:
            raise WorldError(
                f"Not all of {self.processes} processes came to the run within {JOIN_SECONDS:.0f} s. Start it in all "
                f"of them, or set LIGHTKERAS_JOIN_SECONDS. ({first_line(error)})"
            ) from error

    def _gather(self, block: bytes) -> list[bytes]:
        key = f"lightkeras/exchange/{self._exchanges}"
        with self._explained():
            self._client.key_value_set_bytes(f"{key}/{self.rank}", block)
            found = [block if rank == self.rank else self._wait(f"{key}/{rank}") for rank in range(self.processes)]
            if self._exchanges and self.is_writer:  # all are here, so all have read the one before
                self._client.key_value_delete(f"lightkeras/exchange/{self._exchanges - 1}/")
        self._exchanges += 1
        return found

    def _wait(self, key: str) -> bytes:
        deadline = time.monotonic() + STUCK_SECONDS
        while True:
            try:
                found: bytes = self._client.blocking_key_value_get_bytes(key, 1000)
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise
                if (words := self._watch.last_words()) is not None:
                    raise self._lost(words) from None
                if time.monotonic() > deadline:
                    raise stuck(key.rpartition("/")[2], self.processes) from None
            else:
                return found

    def _is_of_collectives(self, error: Exception) -> bool:
        return isinstance(error, jax.errors.JaxRuntimeError)  # of gloo and NCCL too

    def _lost(self, words: str) -> WorldError:
        self._patience = 1.0
        return WorldError(words)

    def _leave(self) -> None:
        """Leaves the service at the end of the process; rank 0, which runs it, waits for the others to leave first."""
        self._watch.end()
        if not self.is_writer:
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                jax.distributed.shutdown()
            return
        waiting = threading.Thread(target=self._wait_until_left, daemon=True)  # it cannot be interrupted
        waiting.start()
        waiting.join(self._patience)

    def _wait_until_left(self) -> None:
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._client.get_live_nodes(list(range(self.processes)))


@final
class _Store:
    """The store of the coordination service, as `Watch` uses it."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def set(self, key: str, value: str) -> None:
        self._client.key_value_set(f"lightkeras/{key}", value, allow_overwrite=True)

    def get(self, key: str) -> bytes:
        text: str = self._client.blocking_key_value_get(f"lightkeras/{key}", int(LOST_SECONDS * 1000))
        return text.encode()

    def multi_get(self, keys: Sequence[str]) -> list[bytes]:
        return [self.get(key) for key in keys]

    def check(self, keys: Sequence[str]) -> bool:
        try:
            for key in keys:
                self._client.key_value_try_get(f"lightkeras/{key}")
        except jax.errors.JaxRuntimeError as error:
            if "NOT_FOUND" in str(error):
                return False
            raise
        return True

    def compare_set(self, key: str, expected: str, value: str) -> None:
        self._client.key_value_set(f"lightkeras/{key}", value, allow_overwrite=bool(expected))


def _initialize(launch: Launch) -> None:
    if launch.variable == "TF_CONFIG":
        raise ValueError(
            f"{launch.variable} tells of {launch.processes} processes; on JAX, start them with "
            f"`lightkeras launch --processes {launch.processes} FILE.py`, or call jax.distributed.initialize yourself."
        )
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        raise ValueError(
            f"torchrun keeps MASTER_PORT={launch.port} for itself, which JAX needs. Start the processes with "
            f"`lightkeras launch --processes {launch.processes} FILE.py`."
        )
    # A process that fails must not wait for the others at its end.
    jax.config.update("jax_enable_recoverability", True)
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
