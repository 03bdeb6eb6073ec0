"""Film reviews: the real ones where they are, the sample where they are not."""

import json
import os
import shutil
import socket

import numpy as np
import pytest

from lightkeras.data.datasets import imdb
from lightkeras.data.datasets.imdb import ImdbReviews
from lightkeras.data.feed import ArrayFeed
from lightkeras.data.lookup import Lookup


@pytest.fixture(autouse=True)
def _nothing_outside(monkeypatch, tmp_path):
    """No data but what a test writes, and no network: the download's host is a port where nobody listens."""
    monkeypatch.delenv("LIGHTKERAS_DATA_DIR", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port = opened.getsockname()[1]
    monkeypatch.setattr(imdb, "DOWNLOAD_HOST", f"http://127.0.0.1:{port}")


def prepared(lookup: Lookup, **settings) -> ImdbReviews:
    reviews = ImdbReviews(**settings)
    reviews.prepare(lookup)
    return reviews


def texts_of(feed: ArrayFeed) -> list[bytes]:
    return feed.arrays[0].tolist()


def test_the_data_folder_is_looked_into_first(data_folder, tmp_path, written_by_tfds, capfd):
    shutil.copytree(written_by_tfds, tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache" / "imdb_reviews" / "plain_text" / "1.0.0")
    (tmp_path / "cache" / "imdb_reviews" / "plain_text" / "9.0.0").mkdir()  # would be an error if it were used
    reviews = prepared(Lookup("real", str(data_folder)), batch_size=4, seed=3)
    assert reviews.source == "imdb_reviews"
    assert capfd.readouterr() == ("", "")
    train, validation, test = reviews.train(), reviews.validation(), reviews.test()
    assert texts_of(train) == [f"train review {number}".encode() for number in range(6)]
    assert texts_of(validation) == [f"train review {number}".encode() for number in range(6, 10)]
    assert texts_of(test) == [f"test review {number}".encode() for number in range(4)]
    assert train.arrays[1].tolist() == [0, 1, 0, 1, 0, 1]
    assert train.arrays[1].dtype == np.int32
    assert test.arrays[1].tolist() == [1, 0, 1, 0]
    assert (train.shuffle, validation.shuffle, test.shuffle) == (True, False, False)
    assert (train.seed, train.batch_size, train.steps) == (3, 4, 2)
    assert [str(spec) for spec in train.spec] == ["string[batch]", "int32[batch]"]


def test_another_share_can_be_held_out(data_folder):
    reviews = prepared(Lookup("real", str(data_folder)), validation=0.1)
    assert texts_of(reviews.train()) == [f"train review {number}".encode() for number in range(9)]
    assert texts_of(reviews.validation()) == [b"train review 9"]
    sample = prepared(Lookup("sample"), validation=0.1)
    assert (sample.train().examples, sample.validation().examples, sample.test().examples) == (7500, 500, 2000)


def test_the_folder_of_tfds_comes_next(data_folder, tmp_path):
    data_folder.rename(tmp_path / "cache")
    reviews = prepared(Lookup("real"))
    assert reviews.source == "imdb_reviews"
    assert reviews.test().examples == 4


def test_the_newest_version_is_read(version_folder, data_folder):
    newest = version_folder.with_name("1.10.0")
    version_folder.rename(newest)
    old = version_folder.with_name("1.9.0")
    shutil.copytree(newest, old)
    (old / "features.json").unlink()  # would be an error if it were used
    assert prepared(Lookup("real", str(data_folder))).train().examples == 6


def test_a_split_is_read_when_it_is_asked_for_and_kept(version_folder, data_folder):
    for shard in version_folder.glob("*test.tfrecord*"):
        shard.unlink()
    reviews = prepared(Lookup("real", str(data_folder)))
    train = reviews.train()
    for shard in version_folder.glob("*train.tfrecord*"):
        shard.unlink()
    assert reviews.train() is train
    with pytest.raises(FileNotFoundError, match=r"test\.tfrecord-00000-of-0000\d is missing"):
        reviews.test()


def test_preparing_again_does_nothing(data_folder, capfd):
    reviews = prepared(Lookup("sample"))
    reviews.prepare(Lookup("real", str(data_folder)))
    assert reviews.source == "sample"
    assert capfd.readouterr() == ("", "")


def test_without_the_data_the_sample_stands_in_and_reports_it_in_one_line(tmp_path, capfd):
    reviews = prepared(Lookup("auto", str(tmp_path)))
    assert reviews.source == "sample"
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("lightkeras: the IMDB reviews were not found (no data folder has them, and http://127.0.0.1:")
    assert err.endswith("does not answer): using the built-in sample of generated reviews\n")
    assert err.count("\n") == 1


def test_the_splits_of_the_sample_share_no_text():
    reviews = prepared(Lookup("sample"))
    splits = [set(texts_of(feed)) for feed in (reviews.train(), reviews.validation(), reviews.test())]
    assert [len(split) for split in splits] == [6000, 2000, 2000]
    assert len(set.union(*splits)) == 10_000
    assert reviews.train().arrays[1].mean() == reviews.test().arrays[1].mean() == 0.5


def test_the_seed_orders_the_sample_and_does_not_change_it():
    first, second = (prepared(Lookup("sample"), seed=seed).train() for seed in (1, 2))
    assert first.fingerprint() == second.fingerprint()
    assert first.order(0).tolist() != second.order(0).tolist()


def test_the_sample_is_never_taken_for_real_data(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        prepared(Lookup("real", str(tmp_path)))
    message = str(caught.value)
    assert f"no version in {tmp_path.resolve()}/imdb_reviews/plain_text; no version in {tmp_path}/cache/" in message
    assert "does not answer. Put the data set, as TFDS prepares it, into <folder>/imdb_reviews/plain_text" in message
    assert "name <folder> with LIGHTKERAS_DATA_DIR or --data_dir" in message


def test_without_a_data_folder_the_error_states_that_none_is_named():
    with pytest.raises(FileNotFoundError, match="no data folder is named by LIGHTKERAS_DATA_DIR or --data_dir"):
        prepared(Lookup("real"))


def test_a_data_folder_that_does_not_exist_is_an_error_and_no_reason_for_the_sample(tmp_path):
    with pytest.raises(FileNotFoundError, match="data_dir names"):
        prepared(Lookup("auto", str(tmp_path / "gone")))


@pytest.mark.parametrize("source", ["auto", "real"])
def test_damaged_data_is_an_error_and_no_reason_for_the_sample(version_folder, data_folder, source):
    (version_folder / "dataset_info.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"dataset_info\.json is missing"):
        prepared(Lookup(source, str(data_folder)))


def test_a_failed_download_is_reported_and_the_sample_stands_in(monkeypatch, capfd):
    # A host that answers and a download that breaks cannot be had without the network.
    def broken(name: str):
        raise OSError(f"TFDS could not download {name!r}: ConnectionError: reset")

    monkeypatch.setattr(imdb.tfds_folders, "reachable", lambda address: True)
    monkeypatch.setattr(imdb.tfds_folders, "download", broken)
    reviews = prepared(Lookup("auto"))
    assert reviews.source == "sample"
    downloading, found = capfd.readouterr().err.splitlines()
    assert downloading.startswith("lightkeras: downloading imdb_reviews/plain_text with TFDS to ")
    assert "TFDS could not download 'imdb_reviews/plain_text': ConnectionError: reset): using the" in found


def test_a_download_that_works_is_used(monkeypatch, version_folder):
    # The download itself needs the network; what it leaves behind is real.
    monkeypatch.setattr(imdb.tfds_folders, "reachable", lambda address: True)
    monkeypatch.setattr(imdb.tfds_folders, "download", lambda name: version_folder)
    assert prepared(Lookup("real")).test().examples == 4


def test_labels_other_than_the_two_are_refused(data_folder, version_folder):
    import tensorflow as tf

    def example(label: int) -> bytes:
        features = {
            "text": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"no opinion"])),
            "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
        }
        return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()

    info = json.loads((version_folder / "dataset_info.json").read_text())
    lengths = next(split["shardLengths"] for split in info["splits"] if split["name"] == "test")
    for shard, length in zip(sorted(version_folder.glob("*test.tfrecord*")), lengths, strict=True):
        with tf.io.TFRecordWriter(str(shard)) as writer:
            for _ in range(int(length)):
                writer.write(example(-1))
    with pytest.raises(ValueError, match=r"holds the label -1: 4 of 4 labels are neither .*unsupervised split"):
        prepared(Lookup("real", str(data_folder))).test()


def test_other_features_are_refused(tmp_path):
    import tensorflow as tf
    import tensorflow_datasets

    features = tensorflow_datasets.features
    tensorflow_datasets.dataset_builders.store_as_tfds_dataset(
        name="imdb_reviews",
        config="plain_text",
        version="1.0.0",
        data_dir=tmp_path,
        split_datasets={"test": tf.data.Dataset.from_tensor_slices({"review": ["fine"], "label": [1]})},
        features=features.FeaturesDict({"review": features.Text(), "label": features.ClassLabel(num_classes=2)}),
    )
    with pytest.raises(ValueError, match=r"has the features \['label', 'review'\]: expected 'text' and 'label'"):
        prepared(Lookup("real", str(tmp_path))).test()


def test_a_split_is_not_there_before_prepare():
    with pytest.raises(RuntimeError, match=r"no validation data yet: call `prepare\(lookup\)` first"):
        ImdbReviews().validation()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: expected"),
        ({"seed": -1}, "seed=-1: expected"),
        ({"validation": 0.999}, r"validation=0\.999: expected a share of 0\.01 to 0\.99 in whole hundredths"),
        ({"validation": 0.125}, r"validation=0\.125: expected a share"),
        ({"validation": 10_000}, r"validation=10000: expected a share"),
    ],
)
def test_settings_out_of_range_are_refused_at_once(settings, message):
    with pytest.raises(ValueError, match=message):
        ImdbReviews(**settings)


def test_typed_texts_become_batches_of_text_alone():
    feed = ImdbReviews(batch_size=2).predict(["Good.", "", "Très bien"])
    assert isinstance(feed, ArrayFeed)
    assert [str(spec) for spec in feed.spec] == ["string[batch]"]
    assert texts_of(feed) == [b"Good.", b"", "Très bien".encode()]
    assert (feed.steps, feed.shuffle) == (2, False)


def test_no_texts_or_no_list_of_them_is_an_error():
    with pytest.raises(ValueError, match="no texts to predict: expected at least one"):
        ImdbReviews().predict([])
    with pytest.raises(TypeError, match=r"single string 'Good\.': expected a list of texts, \['Good\.'\]"):
        ImdbReviews().predict("Good.")
    with pytest.raises(TypeError, match="Input 1 is int 3: expected a string"):
        ImdbReviews().predict(["Good.", 3])
    with pytest.raises(ValueError, match=r"Input 0, 'caf\\udce9', is not UTF-8: "):
        ImdbReviews().predict(["caf\udce9"])


REAL = os.environ.get("LIGHTKERAS_DATA_DIR")


@pytest.mark.real
@pytest.mark.skipif(not REAL, reason="LIGHTKERAS_DATA_DIR names no folder with the real reviews")
def test_the_real_data_has_15000_10000_and_25000_reviews_half_of_them_positive():
    reviews = prepared(Lookup("real", REAL))
    splits = reviews.train(), reviews.validation(), reviews.test()
    assert [feed.examples for feed in splits] == [15_000, 10_000, 25_000]
    assert sum(int(feed.arrays[1].sum()) for feed in splits[:2]) == 12_500
    assert int(splits[2].arrays[1].sum()) == 12_500
    assert [feed.steps for feed in splits] == [30, 20, 49]
