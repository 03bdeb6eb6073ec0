"""TFRecord framing of event files.

A record is `length (uint64), masked CRC of it, data, masked CRC of the data`, little endian. The checksum is CRC-32C.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path

import google_crc32c

from lightkeras.system import files

_HEAD, _FOOT = 12, 4  # bytes: length and its checksum, checksum of the data


def frame(records: Sequence[bytes]) -> bytes:
    """Returns the records as they stand in a file, one after the other."""
    lengths = {length: struct.pack("<Q", length) for length in set(map(len, records))}
    heads = {length: packed + masked_crc32c(packed) for length, packed in lengths.items()}
    return b"".join([part for record in records for part in (heads[len(record)], record, masked_crc32c(record))])


def whole_records(path: Path, most: int | None = None) -> int:
    """Returns the size in bytes of the records at the beginning of a file that are complete and undamaged.

    Args:
        path: The file.
        most: Bytes of the file to look at; `None` for all.
    """
    end = 0
    with files.open_to_read(path) as file:
        size = os.fstat(file.fileno()).st_size
        size = size if most is None else min(size, most)
        while len(head := file.read(_HEAD)) == _HEAD:
            (length,) = struct.unpack_from("<Q", head)
            following = end + _HEAD + length + _FOOT
            if masked_crc32c(head[:8]) != head[8:] or following > size:
                break  # the length is damaged, or the record was cut short
            data, checksum = file.read(length), file.read(_FOOT)
            if masked_crc32c(data) != checksum:
                break
            end = following
    return end


def masked_crc32c(data: bytes) -> bytes:
    """Returns the CRC-32C as TFRecord files hold it: rotated, plus a constant, 4 bytes little endian."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
