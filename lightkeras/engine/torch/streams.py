"""Batches as tensors: gathered from arrays on the device, or put there by the thread that reads them."""

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
from lightkeras.data.structure import Structure, flatten, map_structure
from lightkeras.engine.base import Stream
from lightkeras.engine.streams import ArrayStream, HostStream

_SHARED = {"bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"}


@dataclasses.dataclass(frozen=True)
class _Placed:
    """A batch in both forms.

    Args:
        arrays: As NumPy arrays.
        tensors: On the device.
        there: When the device has it; `None` if it has it already.
    """

    arrays: Structure
    tensors: Structure
    there: torch.cuda.Event | None = None


@final
class TensorStream(Stream):
    """Batches that the host makes, put on the device while steps run.

    Args:
        batches: The batches as NumPy arrays.
        reading: See `HostStream`.
        reread: See `Stream`.
    """

    def __init__(self, batches: Iterator[Structure], reading: StreamReader | None = None, reread: int = 0) -> None:
        super().__init__(reread)
        device = device_in_use()
        place = functools.partial(_placed, device, torch.cuda.Stream(device) if device.type == "cuda" else None)
        self._host = HostStream(map(place, batches), reading, reread)

    def state(self) -> bytes | None:
        return self._host.state()

    def shapes(self) -> list[list[int | None]] | None:
        return None

    def next_batch(self) -> Structure | None:
        placed = self._host.next_batch()
        return None if placed is None else placed.arrays

    def next_tensors(self) -> Structure | None:
        """The next batch on the device; `None` at the end of the epoch."""
        placed = self._host.next_batch()
        if placed is None:
            return None
        if placed.there is not None:
            current = torch.cuda.current_stream()
            current.wait_event(placed.there)
            for _, tensor in flatten(placed.tensors):
                tensor.record_stream(current)
        return placed.tensors


def device_in_use() -> torch.device:
    """The device that Keras makes tensors on."""
    device: torch.device = keras.ops.zeros(()).device
    return device


def resident(arrays: Structure) -> Structure:
    """Arrays as tensors on the device; on the CPU these share the arrays' memory."""
    return map_structure(_resident, arrays)


def tensors_of(batch: Structure) -> Structure:
    """A batch of NumPy arrays on the device, in memory of its own."""
    return _placed(device_in_use(), None, batch).tensors


def next_batches(stream: Stream, count: int) -> Iterator[Structure]:
    """The next batches on the device: `count` of them or, at the end of an epoch, fewer."""
    if isinstance(stream, ArrayStream):
        indices = stream.next_indices(count)
        if indices is not None:
            yield from _gathered(stream.arrays, torch.from_numpy(indices))
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


def _gathered(arrays: Structure, indices: torch.Tensor) -> Iterator[Structure]:
    indices = indices.to(device_in_use())
    for row in indices:
        yield map_structure(lambda array: array.index_select(0, row), arrays)  # noqa: B023


def _placed(device: torch.device, copying: torch.cuda.Stream | None, batch: Structure) -> _Placed:
    if device.type != "cuda":
        return _Placed(batch, map_structure(lambda array: _copied(array).to(device), batch))
    with torch.cuda.stream(copying):
        tensors = map_structure(lambda array: _copied(array).pin_memory().to(device, non_blocking=True), batch)
        return _Placed(batch, tensors, torch.cuda.current_stream().record_event())


def _copied(array: np.ndarray) -> torch.Tensor:
    """A copy in torch's own memory, which is aligned; with NumPy's, which need not be, last digits may differ."""
    if array.dtype.name not in _SHARED:
        return keras.ops.convert_to_tensor(array).cpu().clone()
    copy = torch.empty(array.shape, dtype=getattr(torch, array.dtype.name))
    copy.numpy()[...] = array
    return copy


def _resident(array: np.ndarray) -> torch.Tensor:
    if array.dtype.name not in _SHARED:
        return keras.ops.convert_to_tensor(array)
    with warnings.catch_warnings():
        # An array that cannot be written, such as a file mapped into memory: it is only read here.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(np.ascontiguousarray(array)).to(device_in_use())
