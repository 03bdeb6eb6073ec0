"""TFRecord framing for event files, fast enough for a record at every train step.

A record is `length (uint64), masked CRC of it, data, masked CRC of the data`, little endian. The
checksum is CRC-32C, which Python's standard library lacks; TensorBoard's pure Python one costs more
than a small train step. Here the checksums of all records of one length are computed side by side,
one byte position at a time; those of a few records by plain Python, for which NumPy's calls are dear.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

POLYNOMIAL = 0x82F63B78  # CRC-32C (Castagnoli), reflected
_HEAD, _FOOT = 12, 4  # bytes: length and its checksum, checksum of the data
_FEW = 16  # records that plain Python is faster for


def frame(records: Sequence[bytes]) -> bytes:
    """The records as they stand in a file, one after the other."""
    by_length: dict[int, list[int]] = {}
    for number, record in enumerate(records):
        by_length.setdefault(len(record), []).append(number)
    framed: list[bytes] = [b""] * len(records)
    for length, numbers in by_length.items():
        rows = np.frombuffer(b"".join(records[number] for number in numbers), np.uint8).reshape(len(numbers), length)
        checksums = masked_crc32c(rows).astype("<u4")
        size = np.array([length], "<u8")
        head = size.tobytes() + masked_crc32c(size.view(np.uint8)[None]).astype("<u4").tobytes()
        for number, checksum in zip(numbers, checksums, strict=True):
            framed[number] = head + records[number] + checksum.tobytes()
    return b"".join(framed)


def whole_records(path: Path) -> int:
    """Bytes of the records that are whole at the beginning of a file."""
    end = 0
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        while len(head := file.read(_HEAD)) == _HEAD:
            (length,) = struct.unpack_from("<Q", head)
            checksum = masked_crc32c(np.frombuffer(head[:8], np.uint8)[None]).astype("<u4").tobytes()
            following = end + _HEAD + length + _FOOT
            if checksum != head[8:] or following > size:
                break  # the length is no length, or the record was cut short
            end = following
            file.seek(end)
    return end


def masked_crc32c(rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """CRC-32C of each row, masked as TFRecord files want it (rotated, plus a constant).

    Args:
        rows: uint8 `[records, bytes]`.

    Returns:
        uint32 `[records]`.
    """
    if len(rows) < _FEW:
        crc = np.array([_crc(row.tobytes()) for row in rows], np.uint32)
    else:
        crc = np.full(len(rows), 0xFFFFFFFF, np.uint32)
        for column in np.ascontiguousarray(rows.T):
            crc = _TABLE[(crc ^ column) & 0xFF] ^ (crc >> np.uint32(8))
    crc ^= np.uint32(0xFFFFFFFF)
    return ((crc >> np.uint32(15)) | (crc << np.uint32(17))) + np.uint32(0xA282EAD8)


def _crc(data: bytes) -> int:
    """The checksum before its bits are turned over."""
    crc, table = 0xFFFFFFFF, _ENTRIES
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc


def _table() -> npt.NDArray[np.uint32]:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> np.uint32(1)) ^ np.uint32(POLYNOMIAL), table >> np.uint32(1))
    return table.astype(np.uint32)


_TABLE = _table()
_ENTRIES: list[int] = _TABLE.tolist()
