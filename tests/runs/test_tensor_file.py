"""safetensors files: those that are written are read by safetensors itself, and those that are damaged are named."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from lightkeras.runs import tensor_file
from lightkeras.system.files import DamagedFileError

ARRAYS = {
    "flags": np.array([True, False, True]),
    "half": np.float16([0.5]),
    "kernel": np.arange(6, dtype="float32").reshape(2, 3),
    "none": np.zeros((2, 0), "float32"),
    "step": np.int64(7),
    "ä": np.complex64([1 + 2j]),
}


def written(folder: Path, arrays: dict[str, np.ndarray]) -> Path:
    path = folder / "arrays.safetensors"
    path.write_bytes(b"".join(tensor_file.parts_of(arrays)))
    return path


@pytest.mark.parametrize("read", [tensor_file.read, safetensors.numpy.load_file])
def test_arrays_come_back_in_this_reader_and_in_that_of_safetensors(tmp_path, read):
    found = read(written(tmp_path, ARRAYS))
    assert set(found) == set(ARRAYS)
    for key, array in ARRAYS.items():
        assert (found[key].dtype, found[key].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found[key], array)


def test_a_file_of_safetensors_is_read_and_in_part_too(tmp_path):
    path = tmp_path / "arrays.safetensors"
    safetensors.numpy.save_file({"a": np.ones(2), "b": np.zeros(3)}, path)
    assert {key: array.tolist() for key, array in tensor_file.read(path, ["a", "c"]).items()} == {"a": [1, 1]}


def test_large_arrays_are_written_from_where_they_are():
    kernel = ARRAYS["kernel"]
    _, values = tensor_file.parts_of({"kernel": kernel})
    assert np.shares_memory(values, kernel)


def test_all_values_are_aligned_to_their_size(tmp_path):
    content = written(tmp_path, ARRAYS).read_bytes()
    size = int.from_bytes(content[:8], "little")
    assert size % 8 == 0
    for key, entry in json.loads(content[8 : 8 + size]).items():
        assert entry["data_offsets"][0] % ARRAYS[key].itemsize == 0


@pytest.mark.parametrize("array", [np.array([b"a"], object), np.zeros(1, ml_dtypes.bfloat16)])
def test_a_dtype_without_a_name_is_refused(array):
    with pytest.raises(TypeError, match=f"safetensors has no name for the dtype {array.dtype.name}"):
        tensor_file.parts_of({"a": array})


@pytest.mark.parametrize("content", [b"", b"\x05", b"\x02\0\0\0\0\0\0\0[]", b"\xff" * 40])
def test_what_is_not_such_a_file_is_named(tmp_path, content):
    path = tmp_path / "arrays.safetensors"
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"arrays\.safetensors is damaged: "):
        tensor_file.read(path)
