"""A run whose files were damaged while it was stopped resumes from an undamaged checkpoint, and warns."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import harness
import keras
import numpy as np
import pytest
import small

import lightkeras as lk
from lightkeras.system import files
from lightkeras.system.digest import Digest
from lightkeras.system.locks import run_lock
from lightkeras.system.variables import CheckpointError
from lightkeras.training import evaluation

LAST, BEFORE, BESIDE = "step-00000006", "step-00000004", "step-00000006-1"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> harness.End:
    """The files of a run that never stopped."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    small.fit(run_dir)
    return harness.end_of(run_dir)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run, stopped inside the second epoch; the checkpoint `BESIDE` has the validation of its last weights."""
    run_dir = tmp_path_factory.mktemp("stopped") / "run"
    small.fit(run_dir, max_steps=6)
    assert sorted(path.name for path in (run_dir / "checkpoints").glob("step-*")) == [BEFORE, LAST, BESIDE]
    return run_dir


@pytest.fixture
def run_dir(stopped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "run"))


# ---------------------------------------------------------------------- kinds of damage


def flip_a_bit(place: str) -> Callable[[Path], str]:
    def damage(path: Path) -> str:
        return _flip(path, place, 1, lambda rng: 1 << rng.randrange(8))

    return damage


def flip_a_region(place: str) -> Callable[[Path], str]:
    def damage(path: Path) -> str:
        return _flip(path, place, 16, lambda rng: rng.randrange(128, 256))  # not UTF-8 any more

    return damage


def _flip(path: Path, place: str, count: int, mask: Callable[[random.Random], int]) -> str:
    seed = int.from_bytes(os.urandom(4))
    rng, content = random.Random(seed), bytearray(path.read_bytes())
    third = len(content) // 3
    low = {"beginning": 0, "middle": third, "end": len(content) - third}[place]
    first = low + rng.randrange(third - count)
    for at in range(first, first + count):
        content[at] ^= mask(rng)
    path.write_bytes(content)
    return f"seed {seed}: bytes {first} to {first + count} of {path.name}"


def cut(part: float, less: int = 0) -> Callable[[Path], str]:
    def damage(path: Path) -> str:
        os.truncate(path, int(path.stat().st_size * part) - less)
        return f"{path.name} cut to {path.stat().st_size} bytes"

    return damage


def remove(path: Path) -> str:
    path.unlink()
    return f"{path.name} removed"


def zero(path: Path) -> str:
    path.write_bytes(bytes(path.stat().st_size))  # what some file systems leave after a power cut
    return f"{path.name} zeroed"


DAMAGES = {
    **{f"a bit of its {place} flipped": flip_a_bit(place) for place in ("beginning", "middle", "end")},
    **{f"a region of its {place} flipped": flip_a_region(place) for place in ("beginning", "middle", "end")},
    "emptied": cut(0),
    "cut in half": cut(0.5),
    "without its last bytes": cut(1, less=2),  # the last byte alone may be a line feed, which is not needed
    "zeroed": zero,
    "removed": remove,
}


# ---------------------------------------------------------------------- checkpoints


# In each run each damage once, and each file twice; the other pairs are long.
DAMAGED_FILES = [
    pytest.param(name, damage, marks=[] if at % len(small.FILES) == number else pytest.mark.long)
    for number, name in enumerate(small.FILES)
    for at, damage in enumerate(DAMAGES)
]


@pytest.mark.parametrize(("name", "damage"), DAMAGED_FILES)
def test_a_run_whose_last_checkpoint_is_damaged_resumes_from_the_one_before(name, damage, run_dir, whole):
    print(DAMAGES[damage](run_dir / "checkpoints" / LAST / name))
    expected = rf"{re.escape(str(run_dir / 'checkpoints' / LAST))} is damaged: .*Resuming from .*{BEFORE}\."
    with pytest.warns(UserWarning, match=expected):
        small.fit(run_dir, resume=True)
    harness.assert_same(whole, harness.end_of(run_dir))


def test_a_run_whose_last_checkpoint_is_missing_resumes_from_the_one_before(run_dir, whole):
    shutil.rmtree(run_dir / "checkpoints" / LAST)
    with pytest.warns(UserWarning, match=rf"checkpoints/last .*{LAST}.* Resuming from .*{BEFORE}\."):
        small.fit(run_dir, resume=True)
    harness.assert_same(whole, harness.end_of(run_dir))


def test_a_damaged_best_checkpoint_is_reported_and_the_weights_are_those_of_a_run_that_never_stopped(run_dir, whole):
    folder = run_dir / "checkpoints"
    assert files.read_json(folder / LAST / "state.json")["kept"]["best"] == BEFORE
    print(flip_a_region("middle")(folder / BEFORE / "variables.safetensors"))
    with pytest.warns(UserWarning, match=rf"{BEFORE} is damaged.* The best weights are lost.*Resuming from .*{LAST}\."):
        small.fit(run_dir, resume=True)
    found = harness.end_of(run_dir)
    assert (found.rows, found.points) == (whole.rows, whole.points)
    last = {key: array.tobytes() for key, array in whole.arrays.items() if key.startswith("last/")}
    assert {key: array.tobytes() for key, array in found.arrays.items() if key in last} == last


def test_a_run_whose_checkpoints_are_all_damaged_is_refused_with_their_names_and_left_unchanged(run_dir):
    folder = run_dir / "checkpoints"
    for path in (LAST, BEFORE, BESIDE):
        print(flip_a_bit("middle")(folder / path / "state.json"))
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file() and path.name != "config.json"}
    with pytest.raises(CheckpointError, match=r"All checkpoints in .* are damaged: ") as caught:
        small.fit(run_dir, resume=True)
    assert all(f"{folder / name} is damaged" in str(caught.value) for name in (LAST, BEFORE, BESIDE))
    assert {path: path.read_bytes() for path in before} == before


def test_a_damaged_checkpoint_that_was_given_by_its_path_is_not_skipped(run_dir):
    path = run_dir / "checkpoints" / LAST
    print(cut(0.5)(path / "state.json"))
    with pytest.raises(CheckpointError, match=rf"{LAST} is damaged: state.json has"):
        small.fit(run_dir, resume=path)


# ---------------------------------------------------------------------- the names `last` and `best`


POINTERS = {
    "emptied": b"",
    "zeroed": bytes(14),
    "not text": b"\xff\xfe\x00step",
    "a path": b"../../somewhere\n",
    "a missing checkpoint": b"step-00000099\n",
}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param(name, content, marks=[] if at % 2 == number else pytest.mark.long)
        for number, name in enumerate(["last", "best"])
        for at, content in enumerate(POINTERS)
    ],
)
def test_a_damaged_name_is_reported_and_restored(name, content, run_dir, whole):
    (run_dir / "checkpoints" / name).write_bytes(POINTERS[content])
    with pytest.warns(UserWarning, match=rf"checkpoints/{name} is damaged: it names .*Resuming from .*{LAST}\."):
        small.fit(run_dir, resume=True)
    harness.assert_same(whole, harness.end_of(run_dir))


@pytest.mark.parametrize("names", [["last"], ["best"], ["last", "best"]])
def test_a_missing_name_is_reported_and_restored(names, run_dir, whole):
    for name in names:
        (run_dir / "checkpoints" / name).unlink()
    with pytest.warns(UserWarning, match=rf"checkpoints/{names[0]} is missing.*Resuming from .*{LAST}\.") as caught:
        small.fit(run_dir, resume=True)
    assert all(any(f"checkpoints/{name} is missing" in str(w.message) for w in caught) for name in names)
    harness.assert_same(whole, harness.end_of(run_dir))


# ---------------------------------------------------------------------- the other files of a run


@pytest.mark.parametrize("damage", ["emptied", "cut in half", "a region of its beginning flipped", "zeroed"])
@pytest.mark.parametrize("name", ["config.json", "result.json"])
def test_a_run_whose_configuration_or_result_is_damaged_is_refused_before_it_trains(name, damage, run_dir):
    print(DAMAGES[damage](run_dir / name))
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=rf"{name} is damaged"):
        small.fit(run_dir, resume=True)
    assert {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(("name", "what"), [("metrics.csv", "rows"), ("events.out.tfevents.*", "points")])
def test_cut_logs_are_reported_and_the_weights_are_those_of_a_run_that_never_stopped(name, what, run_dir, whole):
    (path,) = run_dir.glob(name)
    print(cut(0.5)(path))
    with pytest.warns(UserWarning, match=rf"{re.escape(path.name)} ends at byte .* its {what} from byte .* are lost"):
        small.fit(run_dir, resume=True)
    found = harness.end_of(run_dir)
    assert found.fit == whole.fit
    assert {key: array.tobytes() for key, array in found.arrays.items()} == {
        key: array.tobytes() for key, array in whole.arrays.items()
    }


@pytest.mark.parametrize("name", ["metrics.csv", "events.out.tfevents.*"])
def test_damage_of_logs_that_keeps_their_length_is_reported(name, run_dir, whole):
    (path,) = run_dir.glob(name)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=rf"{re.escape(path.name)} was changed"):
        small.fit(run_dir, resume=True)
    assert harness.end_of(run_dir).fit == whole.fit


# ---------------------------------------------------------------------- links, and files of the user


LINKED = ["run.lock", "metrics.csv", "config.json", "checkpoints", "figures", "model.keras", "result.json"]


@pytest.mark.parametrize("name", LINKED)
def test_nothing_is_written_behind_a_link(name, run_dir, tmp_path):
    """A link is refused by its name, and what it leads to stays as it is."""
    path, outside = run_dir / name, tmp_path / "outside"
    if path.is_dir():
        shutil.copytree(path, outside)
        shutil.rmtree(path)
    else:
        outside.write_bytes(path.read_bytes() if path.exists() else b"years of work")
        path.unlink(missing_ok=True)
    path.symlink_to(outside)
    before = {each: each.read_bytes() for each in [outside, *outside.rglob("*")] if each.is_file()}
    with pytest.raises((OSError, ValueError), match=rf"{name} is a link"):
        small.fit(run_dir, resume=True)
    assert {each: each.read_bytes() for each in before} == before


def test_names_in_a_state_that_lead_elsewhere_are_refused(run_dir, tmp_path):
    thesis = tmp_path / "thesis.lightkeras"
    thesis.write_text("years of work")
    for name in (LAST, BESIDE, BEFORE):
        path = run_dir / "checkpoints" / name
        state = files.read_json(path / "state.json")
        state["logs"] = {"../thesis.lightkeras": 3, **state["logs"]}
        state["kept"]["best"] = "../../thesis.lightkeras"
        (path / "state.json").write_text(json.dumps(state))
        manifest = files.read_json(path / "manifest.json")
        content = (path / "state.json").read_bytes()
        manifest["state.json"] = {"bytes": len(content), "blake2b": Digest(content, size=32).hex()}
        (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"state\.json is damaged: kept\.best: expected text of the form step-"):
        small.fit(run_dir, resume=True)
    assert thesis.read_text() == "years of work"


def test_files_of_the_user_among_the_checkpoints_stay_and_left_overs_go(run_dir, whole):
    folder = run_dir / "checkpoints"
    shutil.copytree(folder / BEFORE, folder / f"{BEFORE}.bak")
    (folder / "step-00000010.tar.gz").write_text("mine")
    (folder / "step-00000012").mkdir()
    (folder / "step-00000012" / "notes").write_text("mine")
    (folder / "step-00000011").symlink_to(run_dir)
    left = [run_dir / ".config.json.0123abcd.part", run_dir / ".0123abcd.part.keras", folder / ".last.0123abcd.part"]
    for path in left:
        path.write_text("half")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the folder that is no checkpoint
        small.fit(run_dir, resume=True)
    harness.assert_same(whole, harness.end_of(run_dir))
    assert (folder / f"{BEFORE}.bak" / "state.json").is_file()
    assert (folder / "step-00000010.tar.gz").read_text() == "mine"
    assert (folder / "step-00000012" / "notes").read_text() == "mine"
    assert (run_dir / "metrics.csv").is_file()
    assert [path for path in left if path.exists()] == []


# ---------------------------------------------------------------------- refused resumes, and the place of the result


def test_a_resume_that_is_refused_changes_nothing(run_dir):
    class Wider(small.Wave):
        def build_model(self) -> keras.Model:
            return keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(9, "tanh"), keras.layers.Dense(1)])

    Wider.__name__ = "Wave"
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    x = np.zeros((32, 1), "float32")
    runner = lk.Runner(run_dir=run_dir, max_epochs=9, progress=False, preflight=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the changes that are accepted
        with pytest.raises(CheckpointError, match="does not fit this task"):
            runner.fit(Wider(), (x, x), (x, x), resume=True, accept_changes=True)
    after = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    assert after == before


def test_an_evaluation_is_shown_where_its_result_cannot_be_written(run_dir, monkeypatch):
    def refused(path: Path, data: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    x = np.zeros((8, 1), "float32")
    monkeypatch.setattr(files, "write_json", refused)
    with pytest.warns(UserWarning, match=r"The result was not written to .*Read-only file system"):
        found = lk.Runner(run_dir=run_dir).evaluate(small.Wave(), (x, x), weights="last")
    assert found.examples == 8


def test_an_evaluation_beside_a_run_does_not_write_into_its_result(run_dir, monkeypatch):
    x = np.zeros((8, 1), "float32")
    monkeypatch.setattr(evaluation, "_WAIT_SECONDS", 0.1)
    before = (run_dir / "result.json").read_bytes()
    with run_lock(run_dir / "run.lock"), pytest.warns(UserWarning, match="is in use by another run"):
        lk.Runner(run_dir=run_dir).evaluate(small.Wave(), (x, x), weights="last")
    assert (run_dir / "result.json").read_bytes() == before


def test_a_clock_before_1980_does_not_end_a_trained_run(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "localtime", lambda *_: time.gmtime(1000))
    small.fit(tmp_path / "run", max_epochs=1)
    monkeypatch.undo()
    assert keras.models.load_model(tmp_path / "run" / "model.keras").count_params() > 0
