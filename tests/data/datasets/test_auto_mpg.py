"""Fuel economy: the real table where it is, another one where it is not."""

import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest

from lightkeras.data.datasets import auto_mpg
from lightkeras.data.datasets.auto_mpg import AutoMpg
from lightkeras.data.lookup import Lookup
from lightkeras.system import messages

# Invented cars, in the form of UCI's file.
CARS = "".join(
    f"{20 + number}.0   {4 + number % 5}   {100 + number}.0      {'?' if number == 3 else f'{60 + number}.0'}      "
    f'{2000 + number}.      15.{number % 10}   {70 + number % 13}  {1 + number % 3}\t"car {number}"\n'
    for number in range(26)
)
COLUMNS = ("cylinders", "displacement", "horsepower", "weight", "acceleration", "model_year")
ORIGINS = ("origin_USA", "origin_Europe", "origin_Japan")


@pytest.fixture(autouse=True)
def _nothing_outside(monkeypatch, tmp_path):
    """No data but what a test writes, and no network: the file's address is a port where nobody listens."""
    monkeypatch.delenv("LIGHTKERAS_DATA_DIR", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(messages, "_announced", set())
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port = opened.getsockname()[1]
    monkeypatch.setattr(auto_mpg, "URL", f"http://127.0.0.1:{port}/auto-mpg.data")


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "auto-mpg.data").write_text(CARS)
    return tmp_path / "data"


def prepared(lookup: Lookup, **settings) -> AutoMpg:
    data = AutoMpg(**settings)
    data.prepare(lookup)
    return data


def test_the_data_folder_is_looked_into_first(folder, tmp_path, capfd):
    (tmp_path / "keras" / "datasets").mkdir(parents=True)
    (tmp_path / "keras" / "datasets" / "auto-mpg.data").write_text("would be an error if it were read")
    data = prepared(Lookup("real", str(folder)), batch_size=8)
    assert capfd.readouterr().err == (
        f"lightkeras: 1 of 26 rows of {folder / 'auto-mpg.data'} have no value for 'horsepower' (line 4): "
        "they are dropped\n"
    )
    assert (data.source, data.target, data.unit, data.single) == ("auto_mpg", "mpg", "mpg", "horsepower")
    assert data.features == COLUMNS + ORIGINS
    assert [feed.examples for feed in (data.train(), data.validation(), data.test())] == [16, 4, 5]
    inputs, mpg = data.train().arrays
    np.testing.assert_array_equal(inputs["weight"] - 2000, mpg - 20)  # each row is still one car
    np.testing.assert_array_equal(sum(inputs[name] for name in ORIGINS), np.ones(16))


def test_the_cache_of_keras_comes_next(folder, tmp_path):
    (tmp_path / "keras" / "datasets").mkdir(parents=True)
    shutil.move(folder / "auto-mpg.data", tmp_path / "keras" / "datasets")
    assert prepared(Lookup("real", str(folder))).source == "auto_mpg"


def test_a_download_that_works_is_used(monkeypatch, folder):
    # The download itself needs the network; what it leaves behind is a real file.
    import keras

    monkeypatch.setattr(auto_mpg, "reachable", lambda url: True)
    monkeypatch.setattr(keras.utils, "get_file", lambda name, origin: str(folder / name))
    assert prepared(Lookup("real")).source == "auto_mpg"


def test_a_failed_download_is_reported_and_the_sample_stands_in(monkeypatch, capfd):
    import keras

    def broken(name, origin):
        raise Exception(f"URL fetch failure on {origin}: 503 -- busy")  # as Keras does

    monkeypatch.setattr(auto_mpg, "reachable", lambda url: True)
    monkeypatch.setattr(keras.utils, "get_file", broken)
    assert prepared(Lookup()).source == "sample"
    said = capfd.readouterr().err
    assert said.startswith("lightkeras: downloading auto-mpg.data with Keras\n")
    assert "503 -- busy): using the built-in sample, which is another table: " in said


def test_the_sample_is_announced_as_another_table(capfd):
    data = prepared(Lookup())
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("lightkeras: Auto MPG was not found (no data folder has it, and http://127.0.0.1:")
    assert err.endswith("which is another table: scikit-learn's, of the progression of diabetes\n")
    assert (data.source, data.target, data.unit, data.single) == ("sample", "progression", "points", "bmi")
    assert data.features == ("age", "sex_1", "sex_2", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6")
    assert [feed.examples for feed in (data.train(), data.validation(), data.test())] == [283, 71, 88]


def test_the_sample_is_never_taken_for_real_data(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=r"^Auto MPG was not found, and source='real' does not allow the built-in sample\. "
        r"Tried: no data folder is named .*; no file .*keras/datasets/auto-mpg\.data; "
        r"http.* does not answer\. Put UCI's file auto-mpg\.data into a folder",
    ):
        prepared(Lookup("real"))


def test_a_damaged_file_is_an_error_and_no_reason_for_the_sample(folder):
    (folder / "auto-mpg.data").write_text(CARS.replace('"car 5"', ""))
    with pytest.raises(ValueError, match=r"^Line 6 of .*auto-mpg\.data has 8 fields, and there are 9 columns"):
        prepared(Lookup("auto", str(folder)))


def test_only_some_columns_may_be_asked_for(folder):
    assert prepared(Lookup("real", str(folder)), columns=["origin", "weight"]).features == (*ORIGINS, "weight")
    with pytest.raises(ValueError, match=r"has no column 'wieght'\. Did you mean 'weight'\?"):
        prepared(Lookup("real", str(folder)), columns=["wieght"])
    with pytest.raises(ValueError, match=r"^columns='weight': expected a list of columns, \['weight'\]"):
        AutoMpg("weight")


def test_the_sample_is_announced_once_in_a_process(capfd, folder):
    prepared(Lookup("real", str(folder)))
    prepared(Lookup())
    assert len(capfd.readouterr().err.splitlines()) == 2
    prepared(Lookup("real", str(folder)))
    prepared(Lookup())
    assert capfd.readouterr().err == ""


def test_preparing_again_does_nothing(folder):
    data = prepared(Lookup("real", str(folder)))
    data.prepare(Lookup("sample"))
    assert data.source == "auto_mpg"


def test_a_car_is_given_as_people_know_it(folder):
    data = prepared(Lookup("real", str(folder)))
    row = "cylinders=4,displacement=140,horsepower=90,weight=2264,acceleration=15.5,model_year=71,origin=Japan"
    (inputs,) = data.predict([row]).arrays
    assert [inputs[name].tolist() for name in data.features] == [[4], [140], [90], [2264], [15.5], [71], [0], [0], [1]]
    with pytest.raises(ValueError, match=r"^Row 1 gives 'miles', which is not a column"):
        data.predict([row + ",miles=3"])


def test_nothing_is_there_before_prepare():
    data = AutoMpg()
    for ask in (data.train, data.validation, data.test, lambda: data.features, lambda: data.predict(["a=1"])):
        with pytest.raises(RuntimeError, match=r"^AutoMpg has no .* yet: call `prepare\(lookup\)` first"):
            ask()


REAL = os.environ.get("LIGHTKERAS_DATA_DIR")


@pytest.mark.real
@pytest.mark.skipif(not REAL, reason="LIGHTKERAS_DATA_DIR names no folder with the real table")
def test_the_real_table_has_392_complete_rows(capfd):
    data = prepared(Lookup("real", REAL))
    assert "6 of 398 rows" in capfd.readouterr().err
    assert [feed.examples for feed in (data.train(), data.validation(), data.test())] == [251, 63, 78]
    values = np.concatenate([feed.arrays[1] for feed in (data.train(), data.validation(), data.test())])
    assert (values.min(), values.max()) == (9.0, np.float32(46.6))
