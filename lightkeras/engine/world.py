"""World: the processes of a run, which a launcher started, each of which computes a part of every batch.

    launch = launched()                      # see launchers.py; None for one process
    world = engine.join(launch)              # `ALONE` without others; each backend has its own implementation
    part = world.part(examples=32)           # of a batch: which examples this process computes, and their weight
    counts = world.agree("steps", 75)        # a plain value of each process, by rank: a small exchange
    with world.watched():                    # an error here ends the other processes, which name this one
        ...

The order of the examples is a function of the seed and the epoch, so every process knows all batches. A batch stays the
global batch; losses, gradients and logs are sums over the processes, weighted by examples.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, final

import keras
import numpy as np

from lightkeras.data.structure import Structure, flatten

JOIN_SECONDS = float(os.environ.get("LIGHTKERAS_JOIN_SECONDS", "300"))
"""Time within which all processes must have come."""
LOST_SECONDS = float(os.environ.get("LIGHTKERAS_LOST_SECONDS", "20"))
"""Time without a sign of life after which a process is lost."""
_BLOCK = 512  # bytes of a value that is exchanged at once; longer ones take a second exchange


class WorldError(RuntimeError):
    """Another process of the run was lost, failed, or does something else than this one."""


@dataclasses.dataclass(frozen=True)
class Part:
    """The part of a batch that a process computes.

    Args:
        start: First example.
        stop: The example after the last one.
        weight: Share of this process in sums over the batch; those of all processes add up to 1.
        whole: Whether each process computes the whole batch, because it has fewer examples than there are processes,
            or cannot be divided.
    """

    start: int
    stop: int
    weight: float
    whole: bool = False


class World(abc.ABC):
    """The processes of a run. All of them call its methods in the same order."""

    rank: int = 0
    """Number of this process, from 0."""
    processes: int = 1
    """Number of processes."""
    layers_see_parts: bool = True
    """Whether a layer sees only its process's part of a batch, as opposed to all of it."""

    @property
    def is_writer(self) -> bool:
        """Whether this process writes files, logs and progress; one of them does."""
        return self.rank == 0

    @property
    def name(self) -> str:
        """This process, in messages."""
        return f"rank {self.rank} of {self.processes}"

    @final
    def agree(self, what: str, value: Any) -> list[Any]:
        """Exchanges values, and waits for all processes.

        Args:
            what: What is exchanged: an error if another process exchanges something else.
            value: A JSON value.

        Returns:
            The values of all processes, by rank.

        Raises:
            WorldError: Another process was lost, or exchanges something else.
        """
        if self.processes == 1:
            return [value]
        found = self._gathered(json.dumps([what, value]).encode())
        names = [name for name, _ in found]
        if len(set(names)) > 1:
            places = ", ".join(f"rank {rank} at {name!r}" for rank, name in enumerate(names))
            raise WorldError(
                f"The processes do different things ({places}): a callback, a hook or the task itself takes another "
                "way on one of them. They must do the same in every process, but for writing files."
            )
        return [value for _, value in found]

    def _gathered(self, data: bytes) -> list[Any]:
        """JSON values of all processes. Those that fit into one block take one exchange."""
        head = len(data).to_bytes(4, "little")
        blocks = self._gather((head + data[: _BLOCK - 4]).ljust(_BLOCK, b"\0"))
        sizes = [int.from_bytes(block[:4], "little") for block in blocks]
        parts = [block[4 : 4 + size] for block, size in zip(blocks, sizes, strict=True)]
        if max(sizes) > _BLOCK - 4:
            whole = self._gather(data.ljust(max(sizes), b"\0"))
            parts = [block[:size] for block, size in zip(whole, sizes, strict=True)]
        return [json.loads(part) for part in parts]

    @abc.abstractmethod
    def _gather(self, block: bytes) -> list[bytes]:
        """Exchanges blocks of the same size: those of all processes, by rank."""

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Context of the work of a run: an error in it ends the other processes too, and one of theirs this one."""
        yield

    @final
    def first(self, what: str, value: Any) -> Any:
        """Returns the value of the process that writes."""
        return self.agree(what, value if self.is_writer else None)[0]

    @final
    def any(self, what: str, flag: bool) -> bool:
        """Returns whether a process has the flag set."""
        return any(self.agree(what, bool(flag)))

    @final
    def check_same(self, what: str, value: Mapping[str, Any], advice: str) -> None:
        """Checks that all processes have the same JSON values.

        Args:
            what: What they are, such as `"settings"`.
            value: The values by name; dicts in it too.
            advice: Last sentence of the error.

        Raises:
            ValueError: A process has others than the one with rank 0; the message names both.
        """
        if self.processes == 1:
            return
        expected, *others = self.agree(what, dict(value))
        lines = [
            f"rank {rank}: {line}"
            for rank, found in enumerate(others, start=1)
            for line in _differences(expected, found)
        ]
        if lines:
            more = f"; and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
            raise ValueError(
                f"The processes of the run differ in their {what}. {'; '.join(lines[:_SHOWN])}{more}. {advice}"
            )

    @final
    def part(self, examples: int) -> Part:
        """The part of a batch of this process: parts differ by at most one example."""
        return part_of(examples, self.rank, self.processes)

    def rows(self, examples: int) -> slice:
        """The rows of a batch that this process needs, see `lightkeras.data.feed.Rows`."""
        part = self.part(examples)
        return slice(part.start, part.stop)

    @final
    def part_of_batch(self, batch: Structure) -> Part:
        """As `part`, of arrays; whole if they do not all have one entry for each example on axis 0."""
        sizes = {leaf.shape[0] if leaf.ndim else None for _, leaf in flatten(batch)}
        size = sizes.pop()
        if sizes or size is None:
            return Part(0, size or 0, 1 / self.processes, whole=True)
        return self.part(size)


@final
class Alone(World):
    """One process: nothing is exchanged."""

    def _gather(self, block: bytes) -> list[bytes]:
        return [block]


ALONE = Alone()


def part_of(examples: int, rank: int, processes: int) -> Part:
    """See `World.part`."""
    if examples < processes:
        return Part(0, examples, 1 / processes, whole=True)
    start, stop = (examples * number // processes for number in (rank, rank + 1))
    return Part(start, stop, (stop - start) / examples)


def checksums(variables: Mapping[str, keras.Variable]) -> dict[str, int]:
    """Checksums (CRC-32) of the bits of variables by key: equal for equal values."""
    return {
        key: zlib.crc32(np.ascontiguousarray(keras.ops.convert_to_numpy(variable)).reshape(-1).view(np.uint8).data)
        for key, variable in variables.items()
    }


_SHOWN = 5  # differences in a message


def _differences(expected: Any, found: Any, name: str = "") -> Iterator[str]:
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for key in dict.fromkeys([*expected, *found]):
            yield from _differences(expected.get(key), found.get(key), f"{name}.{key}" if name else str(key))
    elif expected != found and not (expected != expected and found != found):  # NaN
        yield f"{name} is {found!r}, and {expected!r} on rank 0"
