"""Batches as tensors: gathered from arrays on the device, or copied there by the thread that reads them."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Iterator
from typing import final

import keras
import numpy as np
import torch

from lightkeras.data.stream_reader import StreamReader
from lightkeras.data.structure import Structure, flatten, map_structure, may_change
from lightkeras.engine.stream import Stream
from lightkeras.engine.streams import ArrayStream, Prefetcher

_SHARED = {"bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"}


@dataclasses.dataclass(frozen=True)
class _Placed:
    """A batch on the host and on the device.

    Args:
        arrays: NumPy arrays.
        tensors: Tensors on the device.
        ready: Event after which the device has the tensors; `None` if it has them already.
    """

    arrays: Structure
    tensors: Structure
    ready: torch.cuda.Event | None = None


@final
class TensorStream(Stream):
    """Batches that a thread of the host prefetches and copies to the device while steps run.

    A reader owns its batches, so that tensors on the CPU may use their memory.
    """

    def __init__(self, batches: Iterator[Structure], reader: StreamReader | None = None, reread: int = 0) -> None:
        super().__init__(reread, reader)
        device = device_in_use()
        copying = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._place = functools.partial(_placed, device, copying, reader is not None)
        self._batches = Prefetcher(map(self._place, batches))

    def allow(self, count: int | None) -> None:
        if self._reader is not None:
            self._batches = Prefetcher(map(self._place, self._reader.batches(count)))

    def close(self) -> None:
        super().close()
        self._batches.close()

    def next_batch(self) -> Structure | None:
        placed = self._batches.take()
        return None if placed is None else placed.arrays

    def next_tensors(self) -> Structure | None:
        """Returns the next batch on the device; `None` at the end of the epoch."""
        placed = self._batches.take()
        if placed is None:
            return None
        if placed.ready is not None:
            current = torch.cuda.current_stream()
            current.wait_event(placed.ready)
            for _, tensor in flatten(placed.tensors):
                tensor.record_stream(current)
        return placed.tensors


def device_in_use() -> torch.device:
    """Returns the device on which Keras creates tensors."""
    device: torch.device = keras.ops.zeros(()).device
    return device


def resident(arrays: Structure) -> Structure:
    """Copies arrays to the device; on the CPU, those that nobody can write to are used as they are."""
    return map_structure(_resident, arrays)


def tensors_of(batch: Structure) -> Structure:
    """Copies a batch of NumPy arrays to the device."""
    return _placed(device_in_use(), None, False, batch).tensors


def next_batches(stream: Stream, count: int) -> Iterator[Structure]:
    """Yields the next `count` batches on the device, fewer at the end of the epoch."""
    if isinstance(stream, ArrayStream):
        indices = stream.next_indices(count)
        if indices is not None:
            yield from gathered(stream.arrays, torch.from_numpy(indices))
        return
    for _ in range(count):
        if isinstance(stream, TensorStream):
            tensors = stream.next_tensors()
        else:
            batch = stream.next_batch()
            tensors = None if batch is None else tensors_of(batch)
        if tensors is None:
            return
        yield tensors


def gathered(arrays: Structure, indices: torch.Tensor) -> Iterator[Structure]:
    """Yields batches of examples of arrays on the device; indices are `[batches, examples]`."""
    indices = indices.to(device_in_use())
    for row in indices:
        yield map_structure(lambda array: array.index_select(0, row), arrays)  # noqa: B023


def _placed(device: torch.device, copying: torch.cuda.Stream | None, owned: bool, batch: Structure) -> _Placed:
    """Places a batch on the device; on the CPU, the tensors of an `owned` batch use its memory."""
    convert = _shared if owned else _copied
    if device.type != "cuda":
        return _Placed(batch, map_structure(lambda array: convert(array).to(device), batch))
    with torch.cuda.stream(copying):
        tensors = map_structure(lambda array: convert(array).pin_memory().to(device, non_blocking=True), batch)
        return _Placed(batch, tensors, torch.cuda.current_stream().record_event())


def _shared(array: np.ndarray) -> torch.Tensor:
    """Uses the memory of an array from `structure.owned`, which is aligned."""
    return torch.from_numpy(array) if array.dtype.name in _SHARED else _copied(array)


def _copied(array: np.ndarray) -> torch.Tensor:
    """Copies to torch's aligned memory; with unaligned NumPy memory, last digits may differ."""
    if array.dtype.name not in _SHARED:
        return keras.ops.convert_to_tensor(array).cpu().clone()
    copy = torch.empty(array.shape, dtype=getattr(torch, array.dtype.name))
    copy.numpy()[...] = array
    return copy


def _resident(array: np.ndarray) -> torch.Tensor:
    if array.dtype.name not in _SHARED:
        return keras.ops.convert_to_tensor(array)
    with warnings.catch_warnings():
        # The array may be read-only, such as a memory-mapped file; it is only read here.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return tensor.to(device_in_use(), copy=may_change(array))
