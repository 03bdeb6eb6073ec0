"""Files of an earlier version: models load, a run and a search resume, a broken step is replayed.

`make_fixtures.py` made them.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import earlier_tasks
import keras
import numpy as np
import pytest
import safetensors.numpy
from earlier_tasks import CHECKPOINTS, SETTINGS, TYPED, Judgement, search
from packaging.version import Version

import lightkeras as lk

pytestmark = [
    pytest.mark.backends("tensorflow", reason="the files were made on it"),
    # A resume warns of other versions, and of other code of the task.
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

FILES = Path(__file__).with_name("files")
EXPECTED = json.loads((FILES / "judgement.json").read_text())
SEARCHED = json.loads((FILES / "search.json").read_text())
AT_THE_KILL = 15  # the step of the last checkpoint


def arrays_of(run_dir: Path) -> dict[str, np.ndarray]:
    """Variables of the last and the best checkpoint."""
    folder, found = run_dir / "checkpoints", {}
    for name in ("last", "best"):
        file = folder / (folder / name).read_text().strip() / "variables.safetensors"
        found |= {f"{name}/{key}": array for key, array in safetensors.numpy.load_file(file).items()}
    return found


def rows_of(run_dir: Path) -> list[str]:
    return (run_dir / "metrics.csv").read_text().splitlines()


def expected_arrays() -> dict[str, np.ndarray]:
    with np.load(FILES / "judgement.npz") as file:
        return dict(file)


def are_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    return found.keys() == expected.keys() and all(
        found[key].dtype == array.dtype and found[key].tobytes() == array.tobytes() for key, array in expected.items()
    )


@pytest.fixture(scope="module")
def same_bits(tmp_path_factory: pytest.TempPathFactory) -> bool:
    """Whether this machine computes the same bits as the one that made the files.

    Another processor, or another version of Keras or TensorFlow, may round differently. An uninterrupted run shows
    whether it does: where that ends with the expected bits, a resumed run must too. Elsewhere the tests allow small
    differences.
    """
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    lk.Runner(run_dir=run_dir, checkpoints=CHECKPOINTS, **SETTINGS).fit(Judgement())
    found = arrays_of(run_dir)
    assert found.keys() == expected_arrays().keys()
    return are_equal(found, expected_arrays())


@pytest.fixture
def copy(tmp_path: Path) -> Callable[[str], Path]:
    """Copies one of the folders, so that a test may change it."""
    return lambda name: Path(shutil.copytree(FILES / name, tmp_path / name))


def numbers(row: str) -> list[float]:
    return [float(value) for value in row.split(",")[1:] if value]


def assert_same_end(run_dir: Path, same_bits: bool) -> None:
    found, expected = arrays_of(run_dir), expected_arrays()
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        assert found[key].dtype == array.dtype
        np.testing.assert_allclose(found[key], array, rtol=1e-3, atol=1e-4, err_msg=key)
    rows = rows_of(run_dir)
    assert [row.split(",")[:3] for row in rows] == [row.split(",")[:3] for row in EXPECTED["rows"]]
    for row, wanted in zip(rows[1:], EXPECTED["rows"][1:], strict=True):
        assert numbers(row) == pytest.approx(numbers(wanted), rel=1e-3, abs=1e-4)
    fit = json.loads((run_dir / "result.json").read_text())["fit"]
    assert {name: fit[name] for name in EXPECTED["fit"] if name != "best"} == {
        name: value for name, value in EXPECTED["fit"].items() if name != "best"
    }
    if same_bits:
        assert are_equal(found, expected)
        assert rows == EXPECTED["rows"]
        assert fit["best"] == EXPECTED["fit"]["best"]


# ---------------------------------------------------------------------- models


@pytest.mark.parametrize("name", ["ngrams_lazy_adam", "words_lazy_sgd", "words_lazy_adagrad"])
def test_a_model_loads_gives_the_same_outputs_and_trains_further(name: str, tmp_path: Path) -> None:
    import tensorflow as tf

    path = FILES / "models" / f"{name}.keras"
    written = json.loads(zipfile.ZipFile(path).read("metadata.json"))["keras_version"]
    if Version(keras.__version__) < Version(written):
        pytest.skip(f"Keras {keras.__version__} cannot read the layers of Keras {written}, which have more settings")
    with np.load(FILES / "models" / "expected.npz") as file:
        expected, learned = file[f"{name}/outputs"], file[f"{name}/outputs after one more epoch"]
    texts, labels, _ = earlier_tasks.sentences(64, seed=3)
    typed = tf.constant([*TYPED, *texts[:8].tolist()])
    model = keras.models.load_model(path)  # by Keras's safe mode
    assert model.optimizer.name == name.split("_", 1)[1]
    np.testing.assert_allclose(model(typed), expected, rtol=0, atol=1e-6)
    model.fit(tf.constant(texts.tolist()), labels.reshape(-1, 1), batch_size=16, shuffle=False, verbose=0)
    np.testing.assert_allclose(model(typed), learned, rtol=0, atol=1e-5)
    assert np.abs(learned - expected).max() > 1e-3  # or the optimizer's state would not count


# ---------------------------------------------------------------------- a run


def test_a_killed_run_is_resumed_and_ends_as_the_uninterrupted_run(
    copy: Callable[[str], Path], same_bits: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = copy("judgement")
    assert len(rows_of(run_dir)) < len(EXPECTED["rows"])
    lk.cli(Judgement, args=["fit", "--run_dir", str(run_dir), "--resume"], **SETTINGS)
    assert_same_end(run_dir, same_bits)
    assert rows_of(run_dir)[: AT_THE_KILL + 1] == EXPECTED["rows"][: AT_THE_KILL + 1]  # on any machine
    assert EXPECTED["printed"] in capsys.readouterr().out.splitlines()  # the state of callbacks was restored
    assert sorted(path.name for path in (run_dir / "broken").iterdir()) == EXPECTED["broken"]
    [resumed] = json.loads((run_dir / "config.json").read_text())["resumed"]
    assert resumed["step"] == AT_THE_KILL
    assert (run_dir / "model.keras").is_file()


def test_a_run_resumed_twice_ends_as_one_resumed_once(copy: Callable[[str], Path], tmp_path: Path) -> None:
    once, twice = copy("judgement"), Path(shutil.copytree(FILES / "judgement", tmp_path / "twice"))
    settings = SETTINGS | {"checkpoints": CHECKPOINTS}
    histories = []
    for run_dir, limits in ((once, [None]), (twice, [29, None])):
        for limit in limits:
            result = lk.Runner(run_dir=run_dir, max_steps=limit, **settings).fit(Judgement(), resume=True)
        histories.append(result.history)
    assert are_equal(arrays_of(twice), arrays_of(once))
    assert rows_of(twice) == rows_of(once)
    assert repr(histories[0]) == repr(histories[1])
    assert histories[0].keys() == EXPECTED["history"].keys()


@pytest.mark.parametrize("weights", ["last", "best"])
def test_a_killed_run_is_tested_and_predicts(
    weights: str, copy: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir, expected = copy("judgement"), EXPECTED[weights]
    lk.cli(Judgement, args=["test", "--run_dir", str(run_dir), "--weights", weights], **SETTINGS)
    tested = json.loads((run_dir / "result.json").read_text())["test"]
    assert tested == {name: pytest.approx(value, abs=1e-5) for name, value in expected["test"].items()}
    capsys.readouterr()
    lk.cli(Judgement, args=["predict", "--run_dir", str(run_dir), "--weights", weights, *TYPED], **SETTINGS)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [line["input"] for line in lines] == TYPED
    assert [line["positive"] for line in lines] == pytest.approx(expected["positive"], abs=1e-5)


def test_a_skipped_step_is_replayed(
    copy: Callable[[str], Path], same_bits: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = copy("judgement")
    try:
        lk.cli(Judgement, args=["replay", "--run_dir", str(run_dir)], **SETTINGS)
        status = 0
    except SystemExit as end:
        status = end.code
    assert status == 0 or not same_bits
    assert "inf" in capsys.readouterr().out  # the loss


def test_a_run_is_not_resumed_with_other_hyperparameters(copy: Callable[[str], Path]) -> None:
    runner = lk.Runner(run_dir=copy("judgement"), **SETTINGS)
    with pytest.raises(lk.ChangedRunError, match=r"dropout.*0\.2.*0\.4"):
        runner.fit(Judgement(Judgement.HParams(dropout=0.4)), resume=True)


def test_a_report_is_written_of_a_killed_run(copy: Callable[[str], Path]) -> None:
    run_dir = copy("judgement")
    lk.report.write(run_dir)
    assert "Judgement" in (run_dir / "report.html").read_text()


# ---------------------------------------------------------------------- a search


def assert_same_trials(run_dir: Path, same_bits: bool) -> None:
    result = json.loads((run_dir / "result.json").read_text())["search"]
    assert (result["completed"], result["best"]["trial"]) == (4, SEARCHED["best"])
    names, *rows = [row.split(",") for row in (run_dir / "trials.csv").read_text().splitlines()]
    for row, trial in zip(rows, SEARCHED["trials"], strict=True):
        found = dict(zip(names, row, strict=True))
        assert (found["trial"], found["status"]) == (trial["name"], trial["status"])
        assert int(found["epochs"]) == trial["epochs"]
        assert {name: float(found[name]) for name in trial["hparams"]} == trial["hparams"]
        assert float(found["val/loss"]) == pytest.approx(trial["objective"], rel=1e-6 if same_bits else 1e-3)


def test_a_killed_search_is_resumed_by_the_command_line(copy: Callable[[str], Path], same_bits: bool) -> None:
    run_dir = copy("search")
    began = (run_dir / "journal.jsonl").read_bytes()
    lk.cli(earlier_tasks.Moons, args=["tune", "--run_dir", str(run_dir), "--resume"])
    assert (run_dir / "journal.jsonl").read_bytes().startswith(began)
    assert_same_trials(run_dir, same_bits)


def test_a_killed_search_is_resumed_from_python(copy: Callable[[str], Path], same_bits: bool) -> None:
    result = search(copy("search")).search(resume=True)
    for trial, expected in zip(result.trials, SEARCHED["trials"], strict=True):
        assert (trial.name, dict(trial.hparams), trial.status) == tuple(
            expected[key] for key in ("name", "hparams", "status")
        )
        exact = same_bits or trial.name in ("0000", "0001")  # these had ended before the kill
        assert trial.objective == (expected["objective"] if exact else pytest.approx(expected["objective"], rel=1e-3))
    assert (result.best_dir / "model.keras").is_file()
    assert_same_trials(result.run_dir, same_bits)


def test_a_search_is_not_resumed_with_another_seed(copy: Callable[[str], Path]) -> None:
    with pytest.raises(lk.ChangedRunError, match="seed was 5 and is 6"):
        lk.Tuner(**(vars(search(copy("search"))) | {"seed": 6})).search(resume=True)
