"""MNIST and Fashion-MNIST: the real ones where they are, the sample where they are not."""

import gzip
import os
import socket

import keras
import numpy as np
import pytest

from lightkeras.data import FashionMnist, Lookup, Mnist
from lightkeras.data.datasets import mnist

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (40, 28, 28), dtype=np.uint8)
LABELS = (np.arange(40) % 10).astype(np.uint8)
REAL = os.environ.get("LIGHTKERAS_DATA_DIR")
BOTH = pytest.mark.parametrize(
    ("kind", "file", "source"), [(Mnist, "mnist.npz", "mnist"), (FashionMnist, "fashion_mnist.npz", "fashion_mnist")]
)


@pytest.fixture(autouse=True)
def _nothing_outside(monkeypatch, tmp_path):
    """No data but what a test writes, and no network: the download's host is a port where nobody listens."""
    monkeypatch.delenv("LIGHTKERAS_DATA_DIR", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path / "keras"))  # read once, on import
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port = opened.getsockname()[1]
    monkeypatch.setattr(mnist, "DOWNLOAD_HOST", f"http://127.0.0.1:{port}")


def prepared(kind, lookup: Lookup, **settings):
    data = kind(**settings)
    data.prepare(lookup)
    return data


def save(path, images=IMAGES, labels=LABELS, test=10) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, x_train=images[test:], y_train=labels[test:], x_test=images[:test], y_test=labels[:test])


def save_as_keras_does(folder) -> None:
    """The four files of Fashion-MNIST, in the format that Keras's loader reads."""
    folder.mkdir(parents=True)
    for name, array, header in (
        ("train-labels-idx1-ubyte.gz", LABELS[10:], 8),
        ("train-images-idx3-ubyte.gz", IMAGES[10:], 16),
        ("t10k-labels-idx1-ubyte.gz", LABELS[:10], 8),
        ("t10k-images-idx3-ubyte.gz", IMAGES[:10], 16),
    ):
        (folder / name).write_bytes(gzip.compress(bytes(header) + array.tobytes()))


# ------------------------------------------------------------------ where it is looked for


@BOTH
def test_the_data_folder_is_looked_into_first(tmp_path, kind, file, source, capfd):
    save(tmp_path / "data" / file)
    save(tmp_path / "keras" / "datasets" / file, images=IMAGES[:, :5])  # would be an error if it were used
    data = prepared(kind, Lookup("real", str(tmp_path / "data")), batch_size=4, validation=10, seed=3)
    assert data.source == source
    assert capfd.readouterr() == ("", "")
    train, validation, test = data.train(), data.validation(), data.test()
    assert [str(spec) for spec in train.spec] == ["float32[batch, 28, 28]", "int32[batch]"]
    assert (train.examples, validation.examples, test.examples) == (20, 10, 10)
    assert np.array_equal(test.arrays[0], IMAGES[:10] / np.float32(255))
    assert test.arrays[1].tolist() == list(range(10))
    assert np.bincount(validation.arrays[1]).tolist() == [1] * 10  # 3 of each digit are left to train and validation
    assert (train.seed, train.batch_size, train.shuffle) == (3, 4, True)


def test_the_file_in_the_folder_of_keras_comes_next(tmp_path):
    save(tmp_path / "keras" / "datasets" / "mnist.npz")
    assert prepared(Mnist, Lookup("real"), validation=10).test().examples == 10


def test_the_files_of_keras_for_fashion_mnist_come_next(tmp_path):
    save_as_keras_does(tmp_path / "keras" / "datasets" / "fashion-mnist")
    data = prepared(FashionMnist, Lookup("real"), validation=10)
    assert data.source == "fashion_mnist"
    assert np.array_equal(data.test().arrays[0], IMAGES[:10] / np.float32(255))
    assert data.train().examples == 20


def test_the_home_of_keras_is_the_users_unless_it_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    save(tmp_path / ".keras" / "datasets" / "mnist.npz")
    assert prepared(Mnist, Lookup("real"), validation=10).source == "mnist"


def test_a_test_split_is_read_when_it_is_asked_for_and_splits_are_kept(tmp_path):
    save(tmp_path / "mnist.npz")
    data = prepared(Mnist, Lookup("real", str(tmp_path)), validation=10)
    train = data.train()
    (tmp_path / "mnist.npz").unlink()
    assert data.train() is train
    assert data.validation().examples == 10
    with pytest.raises(FileNotFoundError, match=r"^No such file: .*mnist\.npz"):
        data.test()


def test_preparing_again_does_nothing(tmp_path, capfd):
    data = prepared(Mnist, Lookup("sample"))
    data.prepare(Lookup("real", str(tmp_path)))
    assert data.source == "sample"
    assert capfd.readouterr() == ("", "")


# ------------------------------------------------------------------ the sample


@BOTH
def test_without_the_data_the_sample_stands_in_and_reports_it_in_one_line(tmp_path, capfd, kind, file, source):
    data = prepared(kind, Lookup("auto", str(tmp_path)))
    assert data.source == "sample"
    assert data.class_names == tuple("0123456789")  # they are digits, whatever they stand in for
    out, err = capfd.readouterr()
    assert out == ""
    title = "MNIST" if kind is Mnist else "Fashion-MNIST"
    assert err.startswith(f"lightkeras: {title} was not found (no data folder has it, and http://127.0.0.1:")
    assert err.endswith(
        "does not answer): using the built-in sample, scikit-learn's 1,797 handwritten digits, enlarged to 28 x 28 "
        "pixels\n"
    )
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("validation", "held_out"),
    [(10_000, 250), (5_000, 125), (1, 1), (0.1, 150), (0, 0)],  # of 1,500: the same share as of 60,000
)
def test_of_the_sample_the_same_share_is_held_out(validation, held_out):
    data = prepared(Mnist, Lookup("sample"), validation=validation)
    assert (data.validation() is None) == (held_out == 0)
    assert held_out == 0 or data.validation().examples == held_out
    assert (data.train().examples, data.test().examples) == (1500 - held_out, 297)


def test_the_seed_chooses_the_held_out_images_and_not_the_test_images():
    first, second, again = (prepared(Mnist, Lookup("sample"), seed=seed) for seed in (1, 2, 1))
    assert first.test().fingerprint() == second.test().fingerprint()
    assert first.validation().fingerprint() == again.validation().fingerprint()
    assert first.validation().fingerprint() != second.validation().fingerprint()


@BOTH
def test_the_sample_is_never_taken_for_real_data(tmp_path, kind, file, source):
    with pytest.raises(FileNotFoundError) as caught:
        prepared(kind, Lookup("real", str(tmp_path)))
    message = str(caught.value)
    assert (
        f"not found, and source='real' does not allow the built-in sample. Tried: no {tmp_path.resolve()}/{file}; no "
        in message
    )
    assert f"{tmp_path}/keras/datasets/" in message
    assert "does not answer. Put " in message
    assert f"Put {file}, with the arrays x_train, y_train, x_test, y_test, into a folder and name that with" in message


def test_without_a_data_folder_the_error_states_that_none_is_named():
    with pytest.raises(FileNotFoundError, match="no data folder is named by LIGHTKERAS_DATA_DIR or --data_dir"):
        prepared(Mnist, Lookup("real"))


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize("source", ["auto", "real"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is damaged: EOFError, No data left in file"),
        (b"no archive", "holds pickled objects, or is not a NumPy"),
        (b"PK\x03\x04", r"is damaged: BadZipFile, File is not a zip file\. Restore the file"),
    ],
)
def test_the_sample_does_not_replace_a_damaged_file(tmp_path, source, content, reason):
    (tmp_path / "mnist.npz").write_bytes(content)
    with pytest.raises(ValueError, match=rf"mnist\.npz {reason}"):
        prepared(Mnist, Lookup(source, str(tmp_path)))


def test_damaged_files_of_keras_are_an_error_and_no_reason_for_the_sample(tmp_path):
    folder = tmp_path / "keras" / "datasets" / "fashion-mnist"
    save_as_keras_does(folder)
    images = folder / "t10k-images-idx3-ubyte.gz"
    images.write_bytes(images.read_bytes()[:100])
    with pytest.raises(
        ValueError, match=r"files of Fashion-MNIST in .*fashion-mnist are damaged \(.*\)\. Delete the folder"
    ):
        prepared(FashionMnist, Lookup("auto"))


def test_other_keys_are_refused(tmp_path):
    np.savez(tmp_path / "mnist.npz", images=IMAGES, labels=LABELS)
    with pytest.raises(
        ValueError, match=r"holds the arrays images, labels: expected x_train, y_train, x_test, y_test; x_"
    ):
        prepared(Mnist, Lookup("auto", str(tmp_path)))


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES[:, :20], LABELS, r"images x_train are \[30, 20, 28\]: expected images \[n, 28, 28\]\."),
        (IMAGES[..., np.newaxis], LABELS, r"images x_train are \[30, 28, 28, 1\]: expected images \[n, 28, 28\]\."),
        (np.stack([IMAGES] * 3, -1), LABELS, r"images x_train are \[30, 28, 28, 3\]: expected images \[n, 28, 28\]\."),
        (
            IMAGES,
            LABELS + 1,
            r"y_train hold 10, which is not one of the 10 classes \(3 of 30 labels\): expected whole num",
        ),
        (
            IMAGES[:38],
            LABELS,
            r"labels y_train are \[30\] for 28 images x_train: expected one label for each, \[28\]\.",
        ),
        (IMAGES[:10], LABELS[:10], r"images x_train are \[0, 28, 28\], which is empty"),
        (
            IMAGES,
            np.array([None] * 40),
            r"Array y_train of .*mnist\.npz holds pickled objects, or is not a NumPy array",
        ),
        (IMAGES.astype("U3"), LABELS, "images x_train are of dtype <U3: expected numbers"),
    ],
)
def test_images_and_labels_that_are_not_mnists_are_refused(tmp_path, images, labels, message):
    save(tmp_path / "mnist.npz", images, labels)
    data = prepared(Mnist, Lookup("auto", str(tmp_path)), validation=10)
    with pytest.raises(ValueError, match=message):
        data.train()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "batch_size=0: expected"),
        ({"seed": -1}, ValueError, "seed=-1: expected"),
        ({"validation": -5}, ValueError, "validation=-5: expected a fraction between 0 and 1"),
        ({"validation": "a"}, TypeError, "validation='a': expected a fraction"),
    ],
)
def test_settings_out_of_range_are_refused_at_once(settings, error, message):
    with pytest.raises(error, match=message):
        Mnist(**settings)


def test_more_than_there_are_cannot_be_held_out(tmp_path):
    save(tmp_path / "mnist.npz")
    with pytest.raises(ValueError, match="validation=10000 of 30 examples holds out 10000: expected at least 1"):
        prepared(Mnist, Lookup("real", str(tmp_path))).train()


# ------------------------------------------------------------------ the download, and typed inputs


def test_a_failed_download_is_reported_and_the_sample_stands_in(monkeypatch, capfd):
    # A host that answers and a download that breaks cannot be had without the network.
    def broken():
        raise Exception("URL fetch failure on https://...: None -- reset")  # as Keras does

    monkeypatch.setattr(mnist, "reachable", lambda address: True)
    monkeypatch.setattr(keras.datasets.mnist, "load_data", broken)
    assert prepared(Mnist, Lookup("auto")).source == "sample"
    downloading, found = capfd.readouterr().err.splitlines()
    assert downloading.startswith("lightkeras: downloading MNIST with Keras to ")
    assert (
        "Keras could not download it: Exception: URL fetch failure on https://...: None -- reset): using the" in found
    )


def test_a_download_that_works_is_used(monkeypatch):
    # The download itself needs the network; this is what Keras's loader returns.
    loaded = (IMAGES[10:], LABELS[10:]), (IMAGES[:10], LABELS[:10])
    monkeypatch.setattr(mnist, "reachable", lambda address: True)
    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", lambda: loaded)
    data = prepared(FashionMnist, Lookup("real"), validation=10)
    assert (data.source, data.train().examples) == ("fashion_mnist", 20)
    assert np.array_equal(data.test().arrays[0], IMAGES[:10] / np.float32(255))


def test_images_of_the_test_split_are_found_where_they_are_asked_for(tmp_path):
    save(tmp_path / "mnist.npz")
    data = Mnist()
    with pytest.raises(RuntimeError, match=r"Mnist has no test data yet: call `prepare\(lookup\)` first"):
        data.predict(["test:3"])
    assert data.expand(["test:3-4"], Lookup("real", str(tmp_path))) == ["test:3", "test:4"]
    assert np.array_equal(data.predict(["test:3-4"]).arrays[0], IMAGES[3:5] / np.float32(255))


def test_files_need_no_data(tmp_path):
    np.save(tmp_path / "one.npy", IMAGES[5])
    data, path = Mnist(), str(tmp_path / "one.npy")
    assert data.expand([path], Lookup("real")) == [path]
    assert data.predict([path]).arrays[0].shape == (1, 28, 28)
    assert data.source is None


@pytest.mark.real
@pytest.mark.skipif(not REAL, reason="LIGHTKERAS_DATA_DIR names no folder with the real images")
@BOTH
def test_the_real_data_has_50000_10000_and_10000_images(kind, file, source):
    data = prepared(kind, Lookup("real", REAL))
    splits = data.train(), data.validation(), data.test()
    assert data.source == source
    assert [feed.examples for feed in splits] == [50_000, 10_000, 10_000]
    assert [feed.steps for feed in splits] == [1563, 313, 313]
    # MNIST's training part has 5,923 zeros: 987.2 of them are held out. Fashion-MNIST has 6,000 of each.
    assert int((splits[1].arrays[1] == 0).sum()) == (987 if kind is Mnist else 1000)
    assert all(feed.arrays[0].min() == 0 and feed.arrays[0].max() == 1 for feed in splits)
