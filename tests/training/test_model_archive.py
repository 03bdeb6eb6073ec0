"""The weights of model.keras are written to their place in the archive."""

import pickle
import resource
import zipfile

import keras
import numpy as np
import pytest

from lightkeras.training.export import write_model
from lightkeras.training.model_archive import weights_written_in_place

pytestmark = pytest.mark.any_backend


class Noting(keras.layers.Layer):
    """A megabyte of weights, and the sizes of the files of a folder when they are written."""

    folder, found = None, []

    def build(self, input_shape):
        self.scale = self.add_weight(shape=(2**18,), name="scale")

    def call(self, inputs):
        return inputs

    def save_own_variables(self, store):
        if self.folder is not None:
            self.found.append([path.stat().st_size for path in self.folder.rglob("*") if path.is_file()])
        super().save_own_variables(store)


def members(path):
    """What the members of an archive hold; the metadata has the time."""
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        found = {item.filename: (item.compress_type, archive.read(item)) for item in archive.infolist()}
    found.pop("metadata.json")
    return found


def test_each_member_is_what_keras_encodes_in_memory(tmp_path):
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(200, dtype="bfloat16"), keras.layers.BatchNormalization()]
    )
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    model.save(tmp_path / "of_keras.keras")
    write_model(model, tmp_path / "ours.keras")
    assert members(tmp_path / "ours.keras") == members(tmp_path / "of_keras.keras")


def test_weights_grow_in_the_one_file_that_is_written(tmp_path, monkeypatch):
    model = keras.Sequential([keras.Input((3,)), Noting(), Noting()])
    monkeypatch.setattr(Noting, "folder", tmp_path)
    monkeypatch.setattr(Noting, "found", [])
    write_model(model, tmp_path / "model.keras")
    (first,), (second,) = Noting.found
    assert first < 2**20 <= second
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]


@pytest.mark.parametrize("most", [100, 2**20 + 2**19])
def test_a_disk_that_is_full_is_an_error_and_leaves_the_model_of_before(tmp_path, most):
    model = keras.Sequential([keras.Input((3,)), Noting(), Noting()])
    (tmp_path / "model.keras").write_text("from before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    try:
        with pytest.raises(OSError, match=r"could not write .*model\.keras"):
            write_model(model, tmp_path / "model.keras")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]
    assert (tmp_path / "model.keras").read_text() == "from before"


def test_what_is_read_or_has_no_file_is_left_to_keras(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    with weights_written_in_place():
        loaded = pickle.loads(pickle.dumps(model))  # Keras pickles an archive in memory
        model.save_weights(tmp_path / "alone.weights.h5")
    loaded.load_weights(tmp_path / "alone.weights.h5")
    np.testing.assert_array_equal(loaded.get_weights()[0], model.get_weights()[0])
