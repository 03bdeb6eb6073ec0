"""Any data set of TFDS: in memory or as a stream, by the features and splits that are named."""

import socket
from pathlib import Path

import numpy as np
import pytest

from lightkeras.data.datasets import tfds, tfds_reader
from lightkeras.data.datasets.tfds import Tfds
from lightkeras.data.feed import ArrayFeed, StreamFeed
from lightkeras.data.lookup import Lookup

COUNT = 20


@pytest.fixture(autouse=True)
def _nothing_outside(monkeypatch, tmp_path):
    monkeypatch.delenv("LIGHTKERAS_DATA_DIR", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port = opened.getsockname()[1]
    monkeypatch.setattr(tfds, "DOWNLOAD_HOST", f"http://127.0.0.1:{port}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Dots: images of 4 x 3 pixels of one brightness, which is the label modulo 2, and a caption of any length."""
    import tensorflow as tf
    import tensorflow_datasets

    def rows(count: int):
        for number in range(count):
            image = np.full((4, 3, 1), number, np.uint8)
            yield {"image": image, "label": number % 2, "caption": [1] * number}

    features = tensorflow_datasets.features
    signature = {
        "image": tf.TensorSpec((4, 3, 1), tf.uint8),
        "label": tf.TensorSpec((), tf.int64),
        "caption": tf.TensorSpec((None,), tf.int64),
    }
    base = tmp_path_factory.mktemp("tfds")
    tensorflow_datasets.dataset_builders.store_as_tfds_dataset(
        name="dots",
        version="1.0.0",
        data_dir=base,
        split_datasets={
            split: tf.data.Dataset.from_generator(lambda count=count: rows(count), output_signature=signature)
            for split, count in {"train": COUNT, "test": 6}.items()
        },
        features=features.FeaturesDict(
            {
                "image": features.Image(shape=(4, 3, 1)),
                "label": features.ClassLabel(names=["even", "odd"]),
                "caption": features.Tensor(shape=(None,), dtype=np.int64),
            }
        ),
        disable_shuffling=True,
        download_config=tensorflow_datasets.download.DownloadConfig(num_shards=2),
    )
    return base


def prepared(folder: Path, **settings) -> Tfds:
    data = Tfds("dots", **{"features": ("image", "label"), "batch_size": 4, **settings})
    data.prepare(Lookup("real", str(folder)))
    return data


def numbers_of(images: np.ndarray) -> list[int]:
    return images[:, 0, 0, 0].tolist()


def test_splits_are_read_into_memory(folder):
    data = prepared(folder, train="train[:75%]", validation="train[75%:]")
    train, validation, test = data.train(), data.validation(), data.test()
    assert all(isinstance(feed, ArrayFeed) for feed in (train, validation, test))
    assert numbers_of(train.arrays[0]) == list(range(15))
    assert numbers_of(validation.arrays[0]) == list(range(15, 20))
    assert numbers_of(test.arrays[0]) == list(range(6))
    assert [str(spec) for spec in train.spec] == ["uint8[batch, 4, 3, 1]", "int32[batch]"]
    assert train.arrays[1].tolist() == [number % 2 for number in range(15)]
    assert (train.shuffle, validation.shuffle, test.shuffle) == (True, False, False)
    assert (data.source, data.class_names) == ("dots", ("even", "odd"))


def test_the_order_of_features_is_that_of_the_batch(folder):
    data = prepared(folder, features=("label",))
    assert len(data.train().arrays) == 1
    assert data.test().arrays[0].dtype == np.int32


def test_what_does_not_fit_into_memory_is_a_stream_of_the_same_examples(folder):
    data = prepared(folder, memory_mb=0, batch_size=8)
    train = data.train()
    assert isinstance(train, StreamFeed)
    assert (train.steps, train.batch_size) == (3, 8)
    assert [str(spec) for spec in train.spec] == ["uint8[batch, 4, 3, 1]", "int32[batch]"]
    epochs = [[image for images, _ in train.open_epoch(epoch) for image in numbers_of(images)] for epoch in (0, 1, 0)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(COUNT))] * 3
    assert epochs[0] != epochs[1]  # another order each epoch,
    assert epochs[0] == epochs[2]  # which depends on the epoch alone: a run can go on inside it
    assert epochs[0] != list(range(COUNT))
    labels = [int(label) for _, batch in train.open_epoch(0) for label in batch]
    assert labels == [number % 2 for number in epochs[0]]
    other = prepared(folder, memory_mb=0, batch_size=8, seed=1).train()
    assert [image for images, _ in other.open_epoch(0) for image in numbers_of(images)] != epochs[0]


def test_a_stream_to_test_on_keeps_the_order_it_is_stored_in(folder):
    test = prepared(folder, memory_mb=0).test()
    assert [numbers_of(images) for images, _ in test.open_epoch(3)] == [[0, 1, 2, 3], [4, 5]]


def test_the_size_of_a_split_is_that_of_its_decoded_features(folder):
    version = folder / "dots" / "1.0.0"
    assert tfds_reader.size_of(version, "train[:50%]", ("image", "label")) == (10, 10 * (4 * 3 + 8))


def test_a_damaged_file_of_a_stream_is_named(folder, tmp_path):
    import shutil

    shutil.copytree(folder, tmp_path / "copy")
    shard = max((tmp_path / "copy" / "dots" / "1.0.0").glob("*train.tfrecord*"))
    shard.write_bytes(shard.read_bytes()[:-5])
    train = prepared(tmp_path / "copy", memory_mb=0, train="train").train
    with pytest.raises(ValueError, match=r"^A file of split 'train' in .*dots/1\.0\.0 is damaged: .* Restore the file"):
        list(train().open_epoch(0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"features": ("imgae",)}, r"has no feature 'imgae'\. Did you mean 'image'\?"),
        ({"features": ("caption", "label")}, r"Feature 'caption' of .*different sizes .* Leave it out, or read"),
        ({"validation": "dev"}, r"Split 'dev' cannot be read .* these splits: train, test"),
        ({"features": None}, r"^dots does not declare which features .*of caption, image, label"),
    ],
)
def test_what_the_data_set_does_not_have_is_an_error_of_prepare(folder, settings, message):
    with pytest.raises(ValueError, match=message):
        prepared(folder, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"features": "image"}, r"features='image': expected a list of at least one name"),
        ({"features": ()}, r"features=\(\): expected a list of at least one name"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"memory_mb": -1}, "memory_mb=-1: expected a whole number of at least 0"),
        ({"memory_mb": True}, "memory_mb=True"),
    ],
)
def test_settings_out_of_range_are_refused_at_once(settings, message):
    with pytest.raises(ValueError, match=message):
        Tfds("dots", **settings)


def test_a_data_set_that_is_nowhere_has_no_sample(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=r"^dots was not found, and it has no built-in sample\. Tried: no version in .*dots; no version in .*; "
        r"http://127\.0\.0\.1:\d+ does not answer\. Put the data set, as TFDS prepares it, into <folder>/dots/",
    ):
        Tfds("dots").prepare(Lookup("auto", str(tmp_path)))
    with pytest.raises(FileNotFoundError, match=r"^source='sample', but dots has no built-in sample: use"):
        Tfds("dots").prepare(Lookup("sample"))


def test_the_keys_of_a_supervised_data_set_are_its_features(data_folder):
    data = Tfds("imdb_reviews", features=("text", "label"), test=None)
    data.prepare(Lookup("real", str(data_folder)))
    assert data.train().arrays[0][0] == b"train review 0"
    assert (data.class_names, data.validation(), data.test()) == (("neg", "pos"), None, None)


def test_a_split_is_not_there_before_prepare():
    with pytest.raises(RuntimeError, match=r"^Tfds\('dots'\) has no train data yet: call `prepare\(lookup\)` first"):
        Tfds("dots").train()
