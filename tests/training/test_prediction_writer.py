"""Predictions in files are those that are returned, also after a stop in the middle."""

from __future__ import annotations

import csv
import errno
import json

import keras
import numpy as np
import pytest

import lightkeras as lk
from lightkeras import PredictionWriter
from lightkeras.system import files
from lightkeras.testing import TwoMoons, two_moons

X = two_moons(1000)[0]
RUNNER = lk.Runner(progress=False)


class Several(TwoMoons):
    """Gives two outputs by name."""

    def predict_step(self, batch):
        x = batch[0] if isinstance(batch, tuple) else batch
        logit = self.model(x, training=False)
        return {"logit": logit[:, 0], "point": x}


def parts(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def task():
    made = Several()
    made.set_up(0)
    return made


@pytest.fixture(scope="module")
def expected(task):
    return RUNNER.predict(task, X, batch_size=32)


@pytest.mark.any_backend
def test_arrays_by_name_in_parts_of_whole_batches(task, expected, tmp_path):
    folder = RUNNER.predict(task, X, batch_size=32, writer=PredictionWriter(tmp_path / "out", rows=300))
    assert folder == tmp_path / "out"
    assert parts(folder)[:3] == ["index.json", "part-00000.npz", "part-00001.npz"]
    loaded = [np.load(folder / name, allow_pickle=False) for name in parts(folder)[1:]]
    assert all(len(part["logit"]) >= 300 for part in loaded[:-1])
    for name, values in expected.items():
        np.testing.assert_array_equal(np.concatenate([part[name] for part in loaded]), values)
    index = json.loads((folder / "index.json").read_text())
    assert sum(part["rows"] for part in index["parts"]) == 1000
    assert index["complete"]


def test_a_line_for_each_row(task, expected, tmp_path):
    folder = RUNNER.predict(task, X, batch_size=32, writer=PredictionWriter(tmp_path, "jsonl", rows=600))
    rows = [json.loads(line) for name in parts(folder)[1:] for line in (folder / name).read_text().splitlines()]
    np.testing.assert_array_equal(np.float32([row["logit"] for row in rows]), expected["logit"])
    np.testing.assert_array_equal(np.float32([row["point"] for row in rows]), X)


def test_a_column_for_each_number(task, expected, tmp_path):
    folder = RUNNER.predict(task, X, batch_size=32, writer=PredictionWriter(tmp_path, "csv"))
    assert parts(folder) == ["index.json", "part-00000.csv"]
    with open(folder / "part-00000.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["logit", "point_0", "point_1"]
    np.testing.assert_array_equal(np.float32([row["point_1"] for row in rows]), X[:, 1])
    np.testing.assert_array_equal(np.float32([row["logit"] for row in rows]), expected["logit"])


def test_one_output_texts_and_numbers_that_json_has_not(tmp_path):
    writer = PredictionWriter(tmp_path / "a", "jsonl")
    assert writer.begin({}) == 0
    writer.write([np.array([b"a", "\u00fc"], object)])
    assert (tmp_path / "a" / "part-00000.jsonl").read_text() == '{"prediction": "a"}\n{"prediction": "\\u00fc"}\n'
    writer = PredictionWriter(tmp_path / "b", "jsonl")
    writer.begin({})
    writer.write([(np.float32([1, np.nan]), np.float32([[np.inf], [2]]))])
    assert (tmp_path / "b" / "part-00000.jsonl").read_text() == '{"0": 1.0, "1": [null]}\n{"0": null, "1": [2.0]}\n'
    writer = PredictionWriter(tmp_path / "c", "npz")
    writer.begin({})
    writer.write([np.array([b"a"], object)])
    assert np.load(tmp_path / "c" / "part-00000.npz", allow_pickle=False)["prediction"].tolist() == ["a"]
    writer = PredictionWriter(tmp_path / "d", "csv")
    writer.begin({})
    with pytest.raises(
        ValueError, match=r"The output 'prediction' has the shape \[2, 2\] in each row, .* format='npz'"
    ):
        writer.write([np.zeros((3, 2, 2))])


def stream():
    for first in range(0, 1000, 32):
        yield (X[first : first + 32],)


def as_dataset():
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((X,)).batch(32)


@pytest.mark.any_backend
@pytest.mark.parametrize("data", [X, stream, as_dataset], ids=["arrays", "generator", "tf.data"])
@pytest.mark.parametrize(("rows", "full_at"), [(100, 2), (990, 1)], ids=["in the middle", "before the last batch"])
def test_a_full_disk_is_continued_after_the_last_part(task, expected, data, rows, full_at, tmp_path, monkeypatch):
    one = lk.Runner(progress=False, steps_per_call=1)
    data = as_dataset() if data is as_dataset else data
    original, written = files.write_bytes, []

    def full(path, content):
        if path.name.startswith(f"part-0000{full_at}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path.name)
        original(path, content)

    writer = PredictionWriter(tmp_path / "out", rows=rows, resume=True)
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_bytes", full)
        with pytest.raises(OSError, match="No space left"):
            one.predict(task, data, batch_size=32, writer=writer)
    assert len(parts(tmp_path / "out")) == 1 + full_at
    before = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in parts(tmp_path / "out")[1:]}
    folder = one.predict(task, data, batch_size=32, writer=writer)
    assert {name: (folder / name).stat().st_mtime_ns for name in before} == before
    loaded = [np.load(folder / name)["logit"] for name in parts(folder)[1:]]
    np.testing.assert_array_equal(np.concatenate(loaded), expected["logit"])
    times = {name: (folder / name).stat().st_mtime_ns for name in parts(folder)}
    assert one.predict(task, data, batch_size=32, writer=writer) == folder  # it is complete
    assert {name: (folder / name).stat().st_mtime_ns for name in parts(folder)} == times


def test_a_stream_of_other_batches_is_not_continued(task, tmp_path):
    sizes = [32]

    def varying():
        for first in range(0, 1000, sizes[0]):
            yield (X[first : first + sizes[0]],)

    writer = PredictionWriter(tmp_path / "out", rows=300, resume=True)
    RUNNER.predict(task, varying, writer=writer)
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    (tmp_path / "out" / "index.json").write_text(json.dumps({**index, "complete": False, "parts": index["parts"][:1]}))
    sizes[0] = 7
    with pytest.raises(ValueError, match="The data gives other batches than it did before"):
        RUNNER.predict(task, varying, writer=writer)


def test_what_is_not_the_same_prediction_is_not_continued(task, tmp_path):
    RUNNER.predict(task, X, writer=PredictionWriter(tmp_path / "out"))
    with pytest.raises(
        FileExistsError, match=r"^\S*out is not empty: give another folder, or continue .* resume=True\.$"
    ):
        RUNNER.predict(task, X, writer=PredictionWriter(tmp_path / "out"))
    for data, settings, message in [
        (X[:-1], {}, r"holds other predictions: inputs was '\w+' and is '\w+'\. Give another folder"),
        (X, {"rows": 5}, r"rows was 10000 and is 5"),
        (X, {"format": "csv"}, r"format was 'npz' and is 'csv'"),
    ]:
        with pytest.raises(ValueError, match=message):
            RUNNER.predict(task, data, writer=PredictionWriter(tmp_path / "out", resume=True, **settings))
    (tmp_path / "out" / "index.json").write_text('{"facts": {}, "complete": false}')
    with pytest.raises(files.DamagedFileError, match=r"index\.json"):
        RUNNER.predict(task, X, writer=PredictionWriter(tmp_path / "out", resume=True))


def test_a_place_that_is_no_folder_for_predictions_is_refused(task, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match=r"file is a file: give the path of a folder\.$"):
        RUNNER.predict(task, X, writer=PredictionWriter(tmp_path / "file"))
    with pytest.raises(FileExistsError, match=r"is not empty: give another folder\.$"):  # of somebody else
        RUNNER.predict(task, X, writer=PredictionWriter(tmp_path, resume=True))
    with pytest.raises(TypeError, match=r"writer='out': expected lk\.PredictionWriter\(folder\), or None"):
        RUNNER.predict(task, X, writer="out")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "npy"}, r"PredictionWriter\(format='npy'\) is not known\. Did you mean 'npz'"),
        ({"rows": 0}, r"PredictionWriter\(rows=0\): expected a whole number of at least 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PredictionWriter("out", **settings)


@pytest.mark.any_backend
def test_weights_of_a_run_are_part_of_what_is_predicted(tmp_path):
    runner = lk.Runner(max_epochs=1, run_dir=tmp_path / "run", progress=False, pictures=False)
    task = TwoMoons()
    runner.fit(task)
    folder = runner.predict(task, X, weights="best", writer=PredictionWriter(tmp_path / "out"))
    assert json.loads((folder / "index.json").read_text())["facts"]["step"] == 10
    model = keras.saving.load_model(tmp_path / "run" / "model.keras")
    np.testing.assert_allclose(np.load(folder / "part-00000.npz")["prediction"], model.predict(X, verbose=0), atol=1e-6)
