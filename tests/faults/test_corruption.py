"""A run whose files were damaged while it was stopped resumes from an undamaged checkpoint, and warns."""

from __future__ import annotations

import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import harness
import pytest
import small

from lightkeras.system import files
from lightkeras.system.variables import CheckpointError

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
