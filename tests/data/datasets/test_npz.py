"""Files of arrays, from wherever they are."""

import pickle
import re

import numpy as np
import pytest

from lightkeras.data.datasets import npz


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "arrays.npz"
    np.savez_compressed(path, x=np.arange(1000), y=np.arange(3))
    return path


def test_arrays_are_read_by_their_keys(file):
    assert npz.array_names(file) == ["x", "y"]
    npz.check_keys(file, ["y"])
    assert npz.read_array(file, "y").tolist() == [0, 1, 2]


def test_other_keys_are_named(file):
    message = (
        f"{file} holds the arrays x, y: expected x, x_test, y_test; x_test, y_test are missing. Save them under these "
        "names with numpy.savez_compressed."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        npz.check_keys(file, ["x", "x_test", "y_test"])


def test_a_file_that_is_not_there_is_named(tmp_path):
    for read in (npz.array_names, npz.read_npy, lambda path: npz.read_array(path, "x")):
        with pytest.raises(FileNotFoundError, match=r"^No such file: .*gone\.npz"):
            read(tmp_path / "gone.npz")
    with pytest.raises(FileNotFoundError, match=r"^No such file"):
        npz.array_names(tmp_path)


class _Runs:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_pickled_objects_are_refused_and_not_run(tmp_path):
    mark, path = tmp_path / "mark", tmp_path / "objects.npz"
    np.savez(path, x=np.array([_Runs(mark)], dtype=object))
    with pytest.raises(
        ValueError, match=r"Array x of .*objects\.npz holds pickled objects, or is not a NumPy array\. Pick"
    ):
        npz.read_array(path, "x")
    np.save(tmp_path / "objects.npy", np.array([_Runs(mark)], dtype=object))
    with pytest.raises(ValueError, match=r"objects\.npy holds pickled objects"):
        npz.read_npy(tmp_path / "objects.npy")
    (tmp_path / "bare.npy").write_bytes(pickle.dumps(_Runs(mark)))
    with pytest.raises(ValueError, match=r"bare\.npy holds pickled objects, or is not a NumPy array"):
        npz.read_npy(tmp_path / "bare.npy")
    assert not mark.exists()


def test_a_file_that_was_cut_off_is_damaged(file):
    file.write_bytes(file.read_bytes()[:-200])
    for read in (npz.array_names, lambda path: npz.check_keys(path, ["x"])):
        with pytest.raises(ValueError, match=r"arrays\.npz is damaged: BadZipFile"):
            read(file)


def test_an_array_that_was_changed_is_damaged(file):
    content = bytearray(file.read_bytes())
    content[300:340] = bytes(40)
    file.write_bytes(bytes(content))
    with pytest.raises(
        ValueError, match=r"Array x of .*arrays\.npz is damaged: .*\. Restore the file from where it came"
    ):
        npz.read_array(file, "x")


def test_empty_and_foreign_files_are_damaged(tmp_path):
    for content, reason in ((b"", "is damaged: EOFError"), (b"not at all", "holds pickled objects, or is not a NumPy")):
        (tmp_path / "file.npz").write_bytes(content)
        with pytest.raises(ValueError, match=rf"file\.npz {reason}"):
            npz.array_names(tmp_path / "file.npz")
    (tmp_path / "empty.npy").write_bytes(b"")
    with pytest.raises(ValueError, match=r"empty\.npy is damaged: EOFError"):
        npz.read_npy(tmp_path / "empty.npy")


def test_an_archive_is_not_a_single_array_nor_the_other_way_round(file, tmp_path):
    with pytest.raises(ValueError, match=r"arrays\.npz is an archive of arrays: expected a single array"):
        npz.read_npy(file)
    np.save(tmp_path / "single.npy", np.arange(3))
    with pytest.raises(ValueError, match=r"single\.npy is a single array: expected an archive of arrays"):
        npz.array_names(tmp_path / "single.npy")
