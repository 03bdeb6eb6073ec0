"""Digests are stored in files: their values are fixed."""

from __future__ import annotations

import hashlib

import ml_dtypes
import numpy as np
import pytest

from lightkeras.system.digest import Digest
from lightkeras.system.plain_values import fingerprint


def test_parts_are_texts_in_utf8_bytes_and_values_of_arrays():
    array = np.arange(6, dtype="<i2").reshape(2, 3)
    expected = hashlib.blake2b("naïve".encode() + b"\0" + bytes([0, 0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0]), digest_size=16)
    assert Digest("naïve", b"\0", array).hex() == expected.hexdigest()
    digest = Digest("naïve")
    digest.update(b"\0", memoryview(array.tobytes()))
    assert digest.hex() == expected.hexdigest()
    assert Digest(b"a", size=32).hex() == hashlib.blake2b(b"a", digest_size=32).hexdigest()


@pytest.mark.parametrize(
    ("array", "content"),
    [
        (np.zeros((0, 3)), b""),
        (np.zeros((3, 0), "int8"), b""),
        (np.array(1, "uint8"), b"\1"),
        (np.arange(4, dtype="uint8").reshape(2, 2).T, bytes([0, 2, 1, 3])),
        (np.array([1.0], ml_dtypes.bfloat16), b"\x80\x3f"),
    ],
    ids=["no rows", "no columns", "no axes", "not contiguous", "bfloat16"],
)
def test_arrays_of_any_shape_and_dtype_are_their_bytes_in_order(array, content):
    assert Digest(array).hex() == Digest(content).hex()


def test_fingerprints_are_those_of_files_written_before():
    assert fingerprint({"best": float("inf"), "wait": 2, "log": (1, [b"x"])}) == "acda8d596152d47f4cc77f1dc4311a30"
    assert fingerprint(np.arange(3, dtype="float32")) == "ac41c2af336070018f43bd4b1f60155f"
