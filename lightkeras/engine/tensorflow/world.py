"""The processes of a run on TensorFlow, joined by `tf.distribute.MultiWorkerMirroredStrategy`.

    world = join(launch)
    world.devices                    # those that share steps; each process has one

Exchanges between two steps go through a store that the process with rank 0 keeps: an error in a step ends TensorFlow's
collective operations for the rest of the process.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import socket
import time
from collections.abc import Iterable, Sequence
from typing import Any, final

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context

from lightkeras.engine.launchers import Launch
from lightkeras.engine.tensorflow import devices as several
from lightkeras.engine.watch import GRACE_SECONDS, STUCK_SECONDS, Watch, WatchedWorld, stuck
from lightkeras.engine.world import ALONE, JOIN_SECONDS, LOST_SECONDS, World, WorldError


def join(launch: Launch | None) -> World:
    """See `Engine.join`."""
    if launch is None:
        return ALONE
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        raise ValueError(
            f"torchrun keeps MASTER_PORT={launch.port} for itself, which TensorFlow needs. Start the processes with "
            f"`lightkeras launch --processes {launch.processes} FILE.py`."
        )
    if context.context()._context_handle is not None:  # no public function tells
        raise ValueError(
            f"{launch.variable} tells of {launch.processes} processes, but TensorFlow was used before they were "
            "joined. Make models in `build_model` of a task, and tensors and a tf.data.Dataset in its data module."
        )
    from lightkeras.engine.tensorflow.store import connect  # it imports a web server

    store = connect(launch.address, launch.port, keeps=launch.rank == 0)
    if not store.compare_set(f"taken/{launch.rank}", "", ""):
        raise ValueError(f"RANK={launch.rank}: two processes have this rank. Give each its own, from 0.")
    _choose_device(launch)
    return TensorFlowWorld(store, launch, _strategy(store, launch))


@final
class TensorFlowWorld(WatchedWorld):
    """The processes of a `MultiWorkerMirroredStrategy`.

    Args:
        store: The store of the processes.
        launch: Which of them this one is.
        strategy: Sums over their devices.

    Attributes:
        devices: The devices.
    """

    def __init__(self, store: Any, launch: Launch, strategy: tf.distribute.Strategy) -> None:
        self.rank, self.processes = launch.rank, launch.processes
        self.devices = several.Devices(strategy, first=launch.rank)
        self._store, self._watch, self._exchanges = store, Watch(store, self.rank, self.processes), 0
        _wait_for_all(store, "joined", launch)
        self._watch.begin()
        atexit.register(self._leave)

    def _gather(self, block: bytes) -> list[bytes]:
        keys = self._keys_of(self._exchanges)
        try:
            self._store.set(keys[self.rank], block)
            found = self._wait(keys)
            if self.is_writer:  # all are here, so all have read the one before
                self._store.delete(self._keys_of(self._exchanges - 1))
        except WorldError:
            raise
        except RuntimeError as error:
            raise WorldError(self._watch.explain(error) or str(error)) from error
        self._exchanges += 1
        return found

    def _keys_of(self, exchange: int) -> list[str]:
        return [f"exchange/{exchange}/{rank}" for rank in range(self.processes)]

    def _wait(self, keys: Sequence[str]) -> list[bytes]:
        deadline = time.monotonic() + STUCK_SECONDS
        while True:
            found: list[bytes] = self._store.wait(keys, 1.0)
            if found:
                return found
            if (words := self._watch.last_words()) is not None:
                raise WorldError(words)
            if time.monotonic() > deadline:
                absent = ", ".join(str(rank) for rank, key in enumerate(keys) if not self._store.check([key]))
                raise stuck(absent, self.processes)

    def _is_of_collectives(self, error: Exception) -> bool:
        return isinstance(error, tf.errors.OpError) and "Collective ops is aborted" in error.message

    def _leave(self) -> None:
        """Leaves with the process; that with rank 0, which keeps the store, leaves last."""
        self._watch.end()
        with contextlib.suppress(RuntimeError):
            self._store.set(f"left/{self.rank}", "")
            if self.is_writer and not self._watch.has_failed:
                self._store.wait([f"left/{rank}" for rank in range(self.processes)], GRACE_SECONDS)


def over(world: World, devices: int | str | None) -> contextlib.AbstractContextManager[None]:
    """See `Engine.over`."""
    if not isinstance(world, TensorFlowWorld):
        return contextlib.nullcontext() if devices is None else several.over(devices)
    if devices is not None:
        raise ValueError(
            f"devices={devices!r}: each of {world.processes} processes uses one device. Leave devices out and start a "
            "process for each; or use one process."
        )
    return several.using(world.devices)


def share(world: World, variables: Iterable[keras.Variable]) -> None:
    """See `Engine.share`."""
    if not isinstance(world, TensorFlowWorld):
        return

    def total(numbers: Any) -> Any:
        return world.devices.sums([[numbers]])[0][0]

    summed = tf.function(total, [tf.TensorSpec([None], tf.float32)], autograph=False)
    for variable in variables:
        # All bits, as small whole numbers: sums of them are exact, and a NaN stays what it is.
        value = np.ascontiguousarray(keras.ops.convert_to_numpy(variable))
        numbers = value.reshape(-1).view(np.uint8).astype("float32")
        found = summed(numbers if world.is_writer else np.zeros_like(numbers)).numpy()
        variable.assign(found.astype(np.uint8).view(value.dtype).reshape(variable.shape))


def _wait_for_all(store: Any, place: str, launch: Launch, value: str = "") -> list[str]:
    """Waits until all processes have come to a place; returns what each of them gives there, by rank."""
    keys = [f"{place}/{rank}" for rank in range(launch.processes)]
    store.set(keys[launch.rank], value)
    found = store.wait(keys, JOIN_SECONDS)
    if not found:
        missing = ", ".join(str(rank) for rank, key in enumerate(keys) if not store.check([key]))
        raise WorldError(
            f"Rank {missing} of {launch.processes} did not come within {JOIN_SECONDS:.0f} s. Start all processes, or "
            "set LIGHTKERAS_JOIN_SECONDS."
        )
    return [one.decode() for one in found]


def _choose_device(launch: Launch) -> None:
    """Chooses the GPU of this process, if there are any."""
    gpus = tf.config.get_visible_devices("GPU")
    if not gpus:
        return
    if launch.local_rank >= len(gpus):
        raise ValueError(
            f"LOCAL_RANK={launch.local_rank}: this host has {len(gpus)} GPU{'s' * (len(gpus) > 1)}, one for each "
            "process. Start fewer processes, or set CUDA_VISIBLE_DEVICES='' to train on CPUs."
        )
    tf.config.set_visible_devices(gpus[launch.local_rank], "GPU")


def _strategy(store: Any, launch: Launch) -> tf.distribute.Strategy:
    """The strategy over all processes, each of which listens at a free port."""
    own = f"[{store.address}]" if ":" in store.address else store.address
    with socket.socket() as listener:  # keeps the port until all have come
        listener.bind(("", 0))
        addresses = _wait_for_all(store, "address", launch, f"{own}:{listener.getsockname()[1]}")
    # The name by which this process reaches that with rank 0, which may know itself by another one.
    addresses[0] = f"{launch.address}:{addresses[0].rpartition(':')[2]}"
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": addresses}),
        task_type="worker",
        task_id=launch.rank,
        num_accelerators={"GPU": len(tf.config.get_visible_devices("GPU"))},
        rpc_layer="grpc",
    )
    # TensorFlow keeps Python's lock until all have joined, so rank 0 does not answer: nobody may ask from here on.
    if launch.rank == 0:
        _wait_for_all(store, "ready", launch)
        store.wait_until_answered()
    else:
        store.set(f"ready/{launch.rank}", "")
    # As the strategy does, which leaves TensorFlow's limits: it would wait an hour for a process that was killed here.
    job = context.coordination_config_pb2.CoordinatedJob(name="worker", num_tasks=launch.processes)
    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader="/job:worker/replica:0/task:0",
        cluster_register_timeout_in_ms=int(JOIN_SECONDS * 1000),
        heartbeat_timeout_in_ms=int(LOST_SECONDS * 1000),
        coordinated_jobs=[job],
    )
    options = tf.distribute.experimental.CommunicationOptions(timeout_seconds=STUCK_SECONDS)
    return tf.distribute.MultiWorkerMirroredStrategy(resolver, options)
