"""Data sets in TFDS's layout, written by TFDS and then damaged."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lightkeras
from lightkeras.data.datasets import tfds_reader


def shards(folder: Path, split: str) -> list[Path]:
    return sorted(folder.glob(f"imdb_reviews-{split}.tfrecord-*"))


def test_a_split_is_read_in_the_order_it_is_stored_in(version_folder):
    columns = tfds_reader.read_split(version_folder, "train")
    assert columns["text"].tolist() == [f"train review {number}".encode() for number in range(10)]
    assert columns["text"].dtype == object
    assert columns["label"].tolist() == [0, 1] * 5


def test_a_part_of_a_split_may_end_inside_a_file(version_folder):
    assert len(shards(version_folder, "train")) == 2
    first = tfds_reader.read_split(version_folder, "train[:60%]")["text"].tolist()
    second = tfds_reader.read_split(version_folder, "train[60%:]")["text"].tolist()
    assert first == [f"train review {number}".encode() for number in range(6)]
    assert second == [f"train review {number}".encode() for number in range(6, 10)]


def test_reading_prints_nothing(version_folder, capfd):
    tfds_reader.read_split(version_folder, "test")
    capfd.readouterr()  # what TensorFlow says when it starts is not about reading
    tfds_reader.read_split(version_folder, "train")
    assert capfd.readouterr() == ("", "")


def test_features_that_need_decoding_are_decoded(tmp_path):
    import tensorflow as tf
    import tensorflow_datasets

    images = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3, 1)
    features = tensorflow_datasets.features
    tensorflow_datasets.dataset_builders.store_as_tfds_dataset(
        name="dots",
        version="1.0.0",
        data_dir=tmp_path,
        split_datasets={"train": tf.data.Dataset.from_tensor_slices({"image": images, "size": [0.5, 1.5]})},
        features=features.FeaturesDict({"image": features.Image(shape=(4, 3, 1)), "size": features.Scalar(np.float32)}),
        disable_shuffling=True,
    )
    columns = tfds_reader.read_split(tmp_path / "dots" / "1.0.0", "train")
    np.testing.assert_array_equal(columns["image"], images)
    assert columns["image"].dtype == np.uint8
    assert columns["size"].tolist() == [0.5, 1.5]


def test_features_of_varying_size_are_refused_with_a_remedy(tmp_path):
    import tensorflow as tf
    import tensorflow_datasets

    features = tensorflow_datasets.features
    tensorflow_datasets.dataset_builders.store_as_tfds_dataset(
        name="walks",
        version="1.0.0",
        data_dir=tmp_path,
        split_datasets={"train": tf.data.Dataset.from_tensor_slices({"steps": np.array([[1, 2]])})},
        features=features.FeaturesDict({"steps": features.Tensor(shape=(None,), dtype=np.int64)}),
    )
    with pytest.raises(ValueError, match=r"Feature 'steps' of .*different sizes .*`as_feed`"):
        tfds_reader.read_split(tmp_path / "walks" / "1.0.0", "train")


def test_a_flipped_byte_is_found_and_its_file_named(version_folder):
    second = shards(version_folder, "train")[1]
    content = bytearray(second.read_bytes())
    content[-30] ^= 1
    second.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{second.name} is damaged: .*Restore the file .* or delete"):
        tfds_reader.read_split(version_folder, "train")


def test_a_damaged_file_that_a_split_does_not_need_is_not_read(version_folder):
    shards(version_folder, "train")[1].write_bytes(b"")
    assert len(tfds_reader.read_split(version_folder, "train[:2]")["text"]) == 2


def test_a_file_cut_inside_an_example_is_found(version_folder):
    first = shards(version_folder, "train")[0]
    first.write_bytes(first.read_bytes()[:-5])
    with pytest.raises(ValueError, match=rf"{first.name} is damaged: "):
        tfds_reader.read_split(version_folder, "train")


def test_a_file_cut_between_two_examples_is_found_by_counting(version_folder):
    first = shards(version_folder, "train")[0]
    content = first.read_bytes()
    length = int.from_bytes(content[:8], "little") + 16  # one TFRecord: length, checksum, data, checksum
    first.write_bytes(content[:length])
    with pytest.raises(ValueError, match=rf"{first.name} is damaged: it gave 1 examples where .* counts 5"):
        tfds_reader.read_split(version_folder, "train")


def test_records_that_are_not_examples_are_found(version_folder):
    import tensorflow as tf

    first = shards(version_folder, "test")[0]
    with tf.io.TFRecordWriter(str(first)) as writer:
        writer.write(b"no example")
        writer.write(b"none either")
    with pytest.raises(ValueError, match=rf"{first.name} is damaged: after example 0 .*features\.json"):
        tfds_reader.read_split(version_folder, "test")


def test_a_missing_file_is_named(version_folder):
    first = shards(version_folder, "test")[0]
    first.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{first.name} is missing, though .*dataset_info\.json lists"):
        tfds_reader.read_split(version_folder, "test")


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
def test_a_description_that_is_missing_or_no_json_is_named(version_folder, name):
    (version_folder / name).write_text('{"half": ')
    with pytest.raises(ValueError, match=rf"{name} is damaged: it is not JSON .*Restore the file"):
        tfds_reader.check_prepared(version_folder)
    (version_folder / name).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=rf"{name} is damaged: it is not JSON"):
        tfds_reader.check_prepared(version_folder)
    (version_folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{name} is missing, so .* is not a complete TFDS data set"):
        tfds_reader.check_prepared(version_folder)


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
def test_a_description_that_tfds_does_not_understand_is_an_error(version_folder, name):
    (version_folder / name).write_text('{"unknown": 1}')
    with pytest.raises(ValueError, match=r"TFDS cannot understand .*Restore the file"):
        tfds_reader.read_split(version_folder, "test")


def test_an_unknown_split_is_answered_with_the_splits_there_are(version_folder):
    with pytest.raises(ValueError, match=r"Split 'dev' cannot be read .* these splits: train, test"):
        tfds_reader.read_split(version_folder, "dev")


def test_an_empty_split_is_an_error(version_folder):
    with pytest.raises(ValueError, match=r"Split 'train\[:0\]' of .* is empty: .*expected at least one"):
        tfds_reader.read_split(version_folder, "train[:0]")


def test_a_split_whose_description_counts_no_example_is_an_error(version_folder):
    path = version_folder / "dataset_info.json"
    info = json.loads(path.read_text())
    for split in info["splits"]:
        split["shardLengths"] = ["0"]
    path.write_text(json.dumps(info))
    with pytest.raises(ValueError, match=r"Split 'test' of .* is empty"):
        tfds_reader.read_split(version_folder, "test")


def test_tensorflow_is_loaded_when_a_split_is_read_and_no_sooner(version_folder):
    code = (
        "import sys; from pathlib import Path; from lightkeras.data import arrays;"
        "from lightkeras.data.datasets import imdb;"
        "from lightkeras.data.lookup import Lookup;"
        "data = imdb.ImdbReviews(); data.prepare(Lookup('real', sys.argv[1]));"
        "assert data.source == 'imdb_reviews'; assert arrays.as_feed([1, 2]).steps == 1;"
        "print(sorted({'tensorflow', 'tensorflow_datasets', 'keras'} & sys.modules.keys()))"
    )
    root = Path(lightkeras.__file__).parents[1]
    found = subprocess.run(
        [sys.executable, "-c", code, str(version_folder.parents[2])],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    assert (found.stdout.strip(), found.stderr) == ("[]", "")


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="needs a second backend, JAX")
def test_tensorflow_leaves_the_gpus_to_another_backend(version_folder):
    code = (
        "import sys; from pathlib import Path; import keras; from lightkeras.data.datasets import tfds_reader;"
        "tfds_reader.read_split(Path(sys.argv[1]), 'test'); import tensorflow as tf;"
        "tfds_reader.read_split(Path(sys.argv[1]), 'test');"  # TensorFlow runs by now: that must not disturb it
        "print(tf.config.get_visible_devices('GPU'))"
    )
    root = Path(lightkeras.__file__).parents[1]
    found = subprocess.run(
        [sys.executable, "-c", code, str(version_folder)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(root), "KERAS_BACKEND": "jax"},
    )
    assert found.stdout.strip() == "[]"
