"""The processes of a run on torch, joined by `torch.distributed`: gloo on CPUs, NCCL on GPUs.

world = join(launch)             # or the process group that the user has initialized
world.sum(tensor)                # in place, over all processes
world.broadcast(tensors)         # in place, of the process with rank 0
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any, final

import torch
import torch.distributed as dist

from lightkeras.engine.launchers import Launch
from lightkeras.engine.watch import GRACE_SECONDS, STUCK_SECONDS, Watch, first_line
from lightkeras.engine.world import ALONE, JOIN_SECONDS, LOST_SECONDS, World, WorldError


def join(launch: Launch | None) -> World:
    """See `Engine.join`."""
    if not dist.is_available():
        if launch is None:
            return ALONE
        raise ValueError(f"{launch.variable}={launch.processes}: this build of torch has no torch.distributed.")
    if dist.is_initialized():
        if dist.get_world_size() == 1:
            return ALONE
        store = dist.distributed_c10d._get_default_store()  # no public function returns it
        rank, processes = dist.get_rank(), dist.get_world_size()
        return TorchWorld(dist.PrefixStore("lightkeras", store), rank, processes, own=False)
    if launch is None:
        return ALONE
    if launch.variable == "TF_CONFIG":
        raise ValueError(f"{launch.variable} tells of {launch.processes} processes; torch is started with torchrun.")
    _use_device(launch)
    store = _store(launch, keeps=launch.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True")
    connection = _store(launch, keeps=False)  # of its own: the main thread may wait in the other
    connection.set_timeout(datetime.timedelta(seconds=LOST_SECONDS))  # the process that keeps the store may be stopped
    _wait_for_all(store, launch)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
        store=dist.PrefixStore("group", store),
        rank=launch.rank,
        world_size=launch.processes,
        timeout=datetime.timedelta(seconds=STUCK_SECONDS),
    )
    return TorchWorld(connection, launch.rank, launch.processes, own=True)


@final
class TorchWorld(World):
    """The processes of a process group.

    Args:
        store: The store of the group.
        rank: Number of this process.
        processes: Number of processes.
        own: Whether the group is ours, to be ended with the process.
    """

    def __init__(self, store: Any, rank: int, processes: int, own: bool) -> None:
        self.rank, self.processes = rank, processes
        self._store, self._watch = store, Watch(store, rank, processes)
        # Small exchanges are of tensors on the CPU; a group of the user may have NCCL alone.
        has_cpu = own or "gloo" in dist.get_backend_config()
        self._group = None if has_cpu else dist.new_group(backend="gloo")
        self._watch.begin()
        if own:
            atexit.register(self._leave)

    def _gather(self, block: bytes) -> list[bytes]:
        tensor = torch.frombuffer(bytearray(block), dtype=torch.uint8)
        found = [torch.empty_like(tensor) for _ in range(self.processes)]
        with self._explained():
            dist.all_gather(found, tensor, group=self._group)
        return [one.numpy().tobytes() for one in found]

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Replaces a tensor by its sum over all processes."""
        if tensor.numel():
            with self._explained():
                dist.all_reduce(tensor)
        return tensor

    def broadcast(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replaces tensors by those of the process with rank 0."""
        with self._explained():
            for tensor in tensors:
                content = tensor.contiguous().reshape(-1).view(torch.uint8)  # gloo does not take every dtype
                dist.broadcast(content, 0)
                if not tensor.is_contiguous():
                    tensor.copy_(content.view(tensor.dtype).reshape(tensor.shape))

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        with self._watch.active():
            yield

    def _leave(self) -> None:
        """Ends the group with the process; that with rank 0, which may keep the store, leaves last."""
        self._watch.end()
        with contextlib.suppress(RuntimeError):
            left = self._store.add("left", 1)
            deadline = time.monotonic() + GRACE_SECONDS
            while (
                self.is_writer and left < self.processes and time.monotonic() < deadline and not self._watch.has_failed
            ):
                time.sleep(0.02)
                left = self._store.add("left", 0)
        if dist.is_initialized():
            dist.destroy_process_group()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Context that names the process that was lost in errors of collective operations."""
        try:
            yield
        except RuntimeError as error:  # of gloo and NCCL, which know no ranks
            found = self._watch.explain(error)
            if found is None:
                self._watch.fail(found := f"A collective operation failed: {first_line(error)}")
            raise WorldError(found) from error


def _use_device(launch: Launch) -> None:
    """Chooses the GPU of this process, if there are any."""
    if not torch.cuda.is_available():
        return
    count = torch.cuda.device_count()
    if launch.local_rank >= count:
        raise ValueError(
            f"LOCAL_RANK={launch.local_rank}: this host has {count} GPU{'s' * (count > 1)}, one for each process. "
            "Start fewer processes, or set CUDA_VISIBLE_DEVICES='' to train on CPUs."
        )
    torch.cuda.set_device(launch.local_rank)


def _store(launch: Launch, keeps: bool) -> Any:
    """A connection to the store of all processes; torchrun keeps it, or the process with rank 0, which `keeps` it."""
    try:
        store = dist.TCPStore(
            launch.address,
            launch.port,
            is_master=keeps,
            timeout=datetime.timedelta(seconds=JOIN_SECONDS),
            wait_for_workers=False,
        )
    except RuntimeError as error:
        place = f"MASTER_ADDR={launch.address}, MASTER_PORT={launch.port}"
        if keeps:
            raise ValueError(
                f"{place}: rank 0 cannot listen there; another program may use the port, or the address is another "
                f"host's. Choose another port. ({first_line(error)})"
            ) from error
        raise WorldError(
            f"{place}: rank 0 did not answer there within {JOIN_SECONDS:.0f} s. Was it started? ({first_line(error)})"
        ) from error
    return dist.PrefixStore(f"lightkeras/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _wait_for_all(store: Any, launch: Launch) -> None:
    if store.add(f"taken/{launch.rank}", 1) > 1:
        raise ValueError(f"RANK={launch.rank}: two processes have this rank. Give each its own, from 0.")
    keys = [f"taken/{rank}" for rank in range(launch.processes)]
    try:
        store.wait(keys, datetime.timedelta(seconds=JOIN_SECONDS))
    except RuntimeError as error:
        missing = ", ".join(str(rank) for rank, key in enumerate(keys) if not store.check([key]))
        raise WorldError(
            f"Rank {missing} of {launch.processes} did not come within {JOIN_SECONDS:.0f} s. Start all processes, or "
            "set LIGHTKERAS_JOIN_SECONDS."
        ) from error
