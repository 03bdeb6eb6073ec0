"""The framing against TensorBoard's own checksums and readers, and against TensorFlow's."""

from __future__ import annotations

import struct
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.compat.tensorflow_stub import errors, pywrap_tensorflow

from lightkeras.runs.loggers.tfrecord import frame, masked_crc32c, whole_records

RANDOM = np.random.default_rng(0)


def test_the_checksum_of_the_standards_example_is_right():
    # RFC 3720, B.4: CRC-32C of 32 bytes of zeros is aa 36 91 8a, little endian.
    crc = 0x8A9136AA
    masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
    assert masked_crc32c(bytes(32)) == struct.pack("<I", masked)


def test_checksums_are_computed_in_compiled_code():
    assert google_crc32c.implementation == "c"  # in pure Python they cost more than a small train step


@pytest.mark.parametrize("length", [0, 1, 2, 7, 8, 9, 255, 300, 4097])
def test_the_checksums_are_tensorboards(length):
    for record in (RANDOM.bytes(length) for _ in range(20)):
        assert masked_crc32c(record) == struct.pack("<I", pywrap_tensorflow.masked_crc32c(record))


def test_no_records_make_no_bytes():
    assert frame([]) == b""


def test_an_empty_record_is_a_head_and_a_checksum():
    head = struct.pack("<Q", 0)
    expected = head + struct.pack("<II", *map(pywrap_tensorflow.masked_crc32c, (head, b"")))
    assert frame([b""]) == expected


@pytest.fixture(scope="module")
def records() -> list[bytes]:
    """Every length from 0 to 300, shuffled, some of them several times."""
    lengths = RANDOM.permutation(np.concatenate([np.arange(301), RANDOM.integers(0, 301, 50)]))
    return [RANDOM.bytes(int(length)) for length in lengths]


@pytest.fixture
def file(tmp_path: Path, records: list[bytes]) -> Path:
    path = tmp_path / "records"
    path.write_bytes(frame(records))
    return path


def test_tensorboards_reader_reads_all_records_in_order(file, records):
    reader, found = pywrap_tensorflow.PyRecordReader_New(str(file)), []
    for _ in records:
        reader.GetNext()
        found.append(reader.record())
    assert found == records
    with pytest.raises(errors.OutOfRangeError):
        reader.GetNext()


def test_tensorflows_reader_reads_all_records_in_order(file, records):
    assert [record.numpy() for record in tf.data.TFRecordDataset(str(file))] == records


def test_tensorflows_reader_notices_a_flipped_byte(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(tf.errors.DataLossError, match=r"corrupted record"):
        list(tf.data.TFRecordDataset(str(file)))


def test_whole_records_end_where_the_first_broken_one_begins(tmp_path):
    ends = [0]
    for record in (b"one", b"", b"three" * 100):
        ends.append(ends[-1] + len(frame([record])))
    content = frame([b"one", b"", b"three" * 100])
    path = tmp_path / "records"
    for size in range(len(content) + 1):
        path.write_bytes(content[:size])
        assert whole_records(path) == max(end for end in ends if end <= size)
    path.write_bytes(content + bytes(100))  # what a power cut can leave behind
    assert whole_records(path) == len(content)
