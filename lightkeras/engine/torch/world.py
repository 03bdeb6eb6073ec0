"""The processes of a run on torch, joined by `torch.distributed`: gloo on CPUs, NCCL on GPUs.

    world = join(launch)             # or the process group that the user has initialized
    world.sum(tensor)                # in place, over all processes
    world.broadcast(tensors)         # in place, of the process with rank 0

Beside the work, a thread of each process writes a count to the store of the process group once a second, and reads that
of the next rank. A process that was killed or stopped is so noticed on every backend and transport, also by one that
waits in a collective operation, which Python cannot interrupt: it is ended.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, final

import torch
import torch.distributed as dist

from lightkeras.engine.world import ALONE, JOIN_SECONDS, LOST_SECONDS, Launch, World, WorldError

STUCK_SECONDS = float(os.environ.get("LIGHTKERAS_STUCK_SECONDS", "1800"))
"""Time that a process waits for another one that lives, such as one that writes a large checkpoint."""
_BEAT_SECONDS = 1.0
_GRACE_SECONDS = 5.0  # for a process to end by itself, once it is known that another one failed


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
        return TorchWorld(Watch(dist.PrefixStore("lightkeras", store), rank, processes), rank, processes, own=False)
    if launch is None:
        return ALONE
    if launch.variable != "WORLD_SIZE":
        raise ValueError(f"{launch.variable} tells of {launch.processes} processes; torch is started with torchrun.")
    _use_device(launch)
    store = _store(launch, keeps=launch.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True")
    connection = _store(launch, keeps=False)  # of its own: the main thread may wait in the other
    connection.set_timeout(datetime.timedelta(seconds=LOST_SECONDS))  # the process that keeps the store may be stopped
    watch = Watch(connection, launch.rank, launch.processes)
    _wait_for_all(store, launch)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
        store=dist.PrefixStore("group", store),
        rank=launch.rank,
        world_size=launch.processes,
        timeout=datetime.timedelta(seconds=STUCK_SECONDS),
    )
    return TorchWorld(watch, launch.rank, launch.processes, own=True)


@final
class TorchWorld(World):
    """The processes of a process group.

    Args:
        watch: The signs of life of the processes.
        rank: Number of this process.
        processes: Number of processes.
        own: Whether the group is ours, to be ended with the process.
    """

    def __init__(self, watch: Watch, rank: int, processes: int, own: bool) -> None:
        self.rank, self.processes, self._watch = rank, processes, watch
        # Small exchanges are of tensors on the CPU; a group of the user may have NCCL alone.
        has_cpu = own or "gloo" in dist.get_backend_config()
        self._group = None if has_cpu else dist.new_group(backend="gloo")
        watch.begin()
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
            try:
                yield
            except BaseException as error:
                if self._watch.is_outermost:
                    error.add_note(f"(on {self.name})")
                    self._watch.fail(f"Rank {self.rank} ended with {type(error).__name__}: {error}")
                raise

    def _leave(self) -> None:
        """Ends the group with the process; that with rank 0, which may keep the store, leaves last."""
        self._watch.end()
        if dist.is_initialized():
            dist.destroy_process_group()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Context that names the process that was lost in errors of collective operations."""
        try:
            yield
        except RuntimeError as error:  # of gloo and NCCL, which know no ranks
            raise WorldError(self._watch.explain(error)) from error


@final
class Watch:
    """Signs of life of the processes, in the store of their group.

    Args:
        store: The store.
        rank: Number of this process.
        processes: Number of processes.
    """

    def __init__(self, store: Any, rank: int, processes: int) -> None:
        self._store, self._rank, self._processes = store, rank, processes
        self._session = 0  # number of `active` contexts so far, the same in all processes
        self._depth = 0
        self._failed = False
        self._ended = threading.Event()
        store.set(self._beat_of(rank), "0")

    def begin(self) -> None:
        """Begins to watch, when all processes have come."""
        threading.Thread(target=self._run, name="lightkeras-watch", daemon=True).start()

    def end(self) -> None:
        """Ends to watch, with the process; rank 0 waits for the others, because its process may keep the store."""
        self._ended.set()
        with contextlib.suppress(RuntimeError):
            left = self._store.add("left", 1)
            deadline = time.monotonic() + _GRACE_SECONDS
            while self._rank == 0 and left < self._processes and time.monotonic() < deadline and not self._failed:
                time.sleep(0.02)
                left = self._store.add("left", 0)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Context in which a process that is lost ends this one."""
        if not self._depth:
            self._session, self._failed = self._session + 1, False
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    @property
    def is_outermost(self) -> bool:
        """Whether no other `active` context is around the current one."""
        return self._depth == 1

    def fail(self, words: str) -> None:
        """Tells the other processes why this one ends, unless another one failed before."""
        self._failed = True
        with contextlib.suppress(RuntimeError):  # the store is gone, with its process
            self._store.compare_set(self._failure, "", words)

    def explain(self, error: Exception) -> str:
        """Why a collective operation failed: the last words of another process, or the one without a sign of life."""
        deadline = time.monotonic() + _GRACE_SECONDS
        store, before, beats = self._store, None, list[bytes]()
        try:
            while time.monotonic() < deadline:
                if store.check([self._failure]):
                    return self._words()
                beats = store.multi_get([self._beat_of(rank) for rank in range(self._processes)])
                before = beats if before is None else before
                time.sleep(0.1)
        except RuntimeError:
            return f"Rank 0 is lost, or torchrun, which keeps the store of the process group. ({_first_line(error)})"
        silent = [rank for rank, beat in enumerate(beats) if before is not None and beat == before[rank]]
        lost = [rank for rank in silent if rank != self._rank]
        found = self._lost(lost) if lost else f"A collective operation failed: {_first_line(error)}"
        self.fail(found)
        return found

    def _run(self) -> None:
        """Writes signs of life and reads those of the next rank, until the process ends."""
        store = self._store
        other = (self._rank + 1) % self._processes
        count, seen, last = 0, time.monotonic(), None
        while not self._ended.wait(_BEAT_SECONDS):
            count += 1
            try:
                store.set(self._beat_of(self._rank), str(count))
                beat = store.get(self._beat_of(other))
                seen, last = (seen, last) if beat == last else (time.monotonic(), beat)
                words = self._words() if self._depth and store.check([self._failure]) else None
            except RuntimeError:  # the store is gone: of a run that has ended, or with its process
                words = "The store of the process group is lost, which rank 0 keeps, or torchrun."
            if words is None and self._depth and time.monotonic() - seen > LOST_SECONDS:
                words = self._lost([other])
            if words is not None and self._depth and not self._failed:
                self._end(words)

    def _end(self, words: str) -> None:
        """Ends this process, unless it ends by itself: the main thread may wait for ever in native code."""
        session = self._session
        with contextlib.suppress(RuntimeError):
            self._store.compare_set(self._failure, "", words)
        time.sleep(_GRACE_SECONDS)
        if self._depth and self._session == session and not self._failed:
            print(f"lightkeras: {words} Rank {self._rank} ends too.", file=sys.stderr, flush=True)
            os._exit(1)

    def _words(self) -> str:
        words: str = self._store.get(self._failure).decode()
        return words

    def _lost(self, ranks: Sequence[int]) -> str:
        names = ", ".join(map(str, ranks))
        return (
            f"Rank {names} of {self._processes} gives no sign of life: it was killed, perhaps because memory ran out, "
            "was stopped, or its host is lost. Resume the run with resume=True (--resume)."
        )

    @property
    def _failure(self) -> str:
        return f"failed/{self._session}"

    @staticmethod
    def _beat_of(rank: int) -> str:
        return f"beat/{rank}"


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
                f"host's. Choose another port. ({_first_line(error)})"
            ) from error
        raise WorldError(
            f"{place}: rank 0 did not answer there within {JOIN_SECONDS:.0f} s. Was it started? ({_first_line(error)})"
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


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
