"""Checkpoints: real files, damaged in every region, and writes that fail at each call in turn."""

from __future__ import annotations

import errno
import hashlib
import math
import os
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

from lightkeras.runs import checkpoint
from lightkeras.system import files
from lightkeras.system.held_values import HeldValues
from lightkeras.system.plain_values import decode
from lightkeras.system.variables import CheckpointError, read_variables, write_variables


def variables(**values) -> dict[str, keras.Variable]:
    return {
        key: keras.Variable(np.asarray(value), dtype=str(np.asarray(value).dtype), trainable=False, name=key)
        for key, value in values.items()
    }


@pytest.fixture
def two() -> dict[str, keras.Variable]:
    return variables(
        **{"model.0000": np.arange(6, dtype="float32").reshape(2, 3), "optimizer.0000": np.int32(7)},
    )


def save(folder: Path, step: int, variables, state, extra=None) -> Path:
    path, arrays = folder / checkpoint.free_name(folder, step), read_variables(variables)
    checkpoint.save(path, step, checkpoint.capture(HeldValues(variables, arrays, arrays)), state, extra)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path, two):
    path = save(tmp_path, 450, two, {"epoch": 3, "best": None})
    assert path == tmp_path / "step-00000450"
    assert sorted(os.listdir(path)) == ["manifest.json", "state.json", "variables.safetensors"]
    found = checkpoint.load(path)
    assert found.path == path
    assert found.state["epoch"] == 3
    assert found.state["step"] == 450
    assert found.state["variables"]["model.0000"] == {"path": two["model.0000"].path, "dtype": "float32"}
    np.testing.assert_array_equal(found.arrays["model.0000"], [[0, 1, 2], [3, 4, 5]])
    assert found.arrays["optimizer.0000"] == 7


def rewrite_state(path: Path, text: str) -> None:
    """Replaces state.json, as another version of the library would have written it."""
    (path / "state.json").write_text(text)
    manifest = files.read_json(path / "manifest.json")
    manifest["state.json"] = {
        "bytes": len(text),
        "blake2b": hashlib.blake2b(text.encode(), digest_size=32).hexdigest(),
    }
    files.write_json(path / "manifest.json", manifest)


def test_numbers_that_json_does_not_have_are_encoded_as_in_the_state_of_callbacks(tmp_path, two):
    state = {"best": math.inf, "logs": {"loss": [math.nan, -math.inf, np.float64("nan")], "float": 0.5}}
    path = save(tmp_path, 1, two, state)
    written = files.read_json(path / "state.json")
    nan, below = {"float": "nan"}, {"float": "-inf"}
    assert (written["best"], written["logs"]) == ({"float": "inf"}, {"loss": [nan, below, nan], "float": 0.5})
    found = checkpoint.load(path).state
    assert (found["best"], repr(found["logs"])) == (math.inf, "{'loss': [nan, -inf, nan], 'float': 0.5}")


def test_a_state_written_before_is_read(tmp_path, two):
    path = save(tmp_path, 1, two, {})
    rewrite_state(
        path,
        """{"step": 7, "best": {"value": {"$float": "-inf"}}, "history": [{"val/loss": {"$float": "nan"}}],
        "callbacks": [{"class": "EarlyStopping", "attributes": {"best": {"float": "inf"}, "wait": 2}}],
        "variables": {"model.0000": {"path": "a", "dtype": "float32"},
                      "optimizer.0000": {"path": "b", "dtype": "int32"}}}""",
    )
    state = checkpoint.load(path).state
    assert (state["step"], state["best"]) == (7, {"value": -math.inf})
    assert math.isnan(state["history"][0]["val/loss"])
    (record,) = state["callbacks"]
    assert {name: decode(data, {}) for name, data in record["attributes"].items()} == {"best": math.inf, "wait": 2}


WIDE = pytest.mark.backends("tensorflow", "torch", reason="JAX halves 64 bits, unless it is configured otherwise")


@pytest.mark.parametrize(
    "dtype",
    [
        *("float16", "bfloat16", "float32", "int8", "int32", "uint8", "uint32", "bool"),
        pytest.param("float64", marks=WIDE),
        pytest.param("int64", marks=WIDE),
    ],
)
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3)])
def test_every_dtype_and_shape_comes_back_bit_for_bit(tmp_path, dtype, shape):
    count = int(np.prod(shape))
    variable = keras.Variable(
        keras.ops.cast(np.linspace(0, 3, count).reshape(shape), dtype), dtype=dtype, trainable=False, name="v"
    )
    before = read_variables({"v": variable})["v"]
    arrays = checkpoint.load(save(tmp_path, 1, {"v": variable}, {})).arrays
    assert arrays["v"].shape == shape
    assert str(arrays["v"].dtype) == dtype
    assert arrays["v"].tobytes() == before.tobytes()
    variable.assign(keras.ops.zeros(shape, dtype))
    write_variables({"v": variable}, arrays)
    assert read_variables({"v": variable})["v"].tobytes() == before.tobytes()


def test_some_of_the_variables_can_be_read_alone(tmp_path, two):
    path = save(tmp_path, 1, two, {})
    found = checkpoint.load(path, wanted=["optimizer.0000", "unknown"])
    assert {key: array.tolist() for key, array in found.arrays.items()} == {"optimizer.0000": 7}
    assert set(found.state["variables"]) == set(two)


def test_values_that_are_not_finite_are_kept(tmp_path):
    values = np.array([np.nan, np.inf, -np.inf, -0.0], "float32")
    arrays = checkpoint.load(save(tmp_path, 1, variables(v=values), {})).arrays
    assert arrays["v"].tobytes() == values.tobytes()


def test_the_state_of_a_seed_generator_is_kept(tmp_path):
    generator = keras.random.SeedGenerator(1337)
    keras.random.uniform((2,), seed=generator)
    arrays = checkpoint.load(save(tmp_path, 1, {"seed": generator.state}, {})).arrays
    expected = keras.random.uniform((2,), seed=generator)
    write_variables({"seed": generator.state}, arrays)
    np.testing.assert_array_equal(keras.random.uniform((2,), seed=generator), expected)


def test_a_run_without_variables_can_be_saved(tmp_path):
    assert checkpoint.load(save(tmp_path, 0, {}, {})).arrays == {}


def test_nothing_is_pickled(tmp_path, two):
    class Unwelcome:
        def __reduce__(self) -> str:
            raise AssertionError("this was pickled")

    with pytest.raises(TypeError, match=r"not JSON serializable"):
        save(tmp_path, 1, two, {"callback": Unwelcome()})
    assert os.listdir(tmp_path) == []
    path = save(tmp_path, 1, two, {})
    assert not any(content.startswith(b"\x80") for content in contents(path).values())


# ---------------------------------------------------------------------- damage


def flips(path: Path, count: int) -> list[int]:
    """Positions over the whole file, its first and last byte among them."""
    size = path.stat().st_size
    return sorted({*np.linspace(0, size - 1, count).astype(int).tolist()})


def problem_of(path: Path) -> str | None:
    try:
        checkpoint.load(path)
    except CheckpointError as error:
        return str(error)
    return None


def test_a_flipped_bit_anywhere_is_noticed_or_does_not_matter(tmp_path, two):
    path = save(tmp_path, 1, two, {"epoch": 1})
    whole = checkpoint.load(path)
    unnoticed = []
    for name in os.listdir(path):
        content = (path / name).read_bytes()
        for position in flips(path / name, 60):
            for bit in (0, 5):
                damaged = bytearray(content)
                damaged[position] ^= 1 << bit
                (path / name).write_bytes(damaged)
                problem = problem_of(path)
                if problem is None:
                    unnoticed.append(name)
                    assert checkpoint.load(path).state == whole.state
                else:
                    assert str(path) in problem
                    assert name in problem or name == "manifest.json"
        (path / name).write_bytes(content)
    assert set(unnoticed) <= {"manifest.json"}  # white space alone
    assert checkpoint.load(path).state == whole.state


@pytest.mark.parametrize("name", ["variables.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("left", [0, 0.5, -1])
def test_a_file_that_was_cut_short_is_named(tmp_path, two, name, left):
    path = save(tmp_path, 1, two, {})
    size = (path / name).stat().st_size
    os.truncate(path / name, {0: 0, 0.5: size // 2, -1: size - 2}[left])
    with pytest.raises(CheckpointError, match=rf"step-00000001 is damaged: .*{name}"):
        checkpoint.load(path)


@pytest.mark.parametrize("name", ["variables.safetensors", "state.json", "manifest.json"])
def test_a_file_that_is_missing_is_named(tmp_path, two, name):
    path = save(tmp_path, 1, two, {})
    (path / name).unlink()
    with pytest.raises(CheckpointError, match=f"step-00000001 is damaged: .*{name}"):
        checkpoint.load(path)


def test_a_file_of_another_checkpoint_is_noticed(tmp_path, two):
    first = save(tmp_path, 1, two, {})
    two["optimizer.0000"].assign(8)
    second = save(tmp_path, 2, two, {})
    shutil.copy(first / "variables.safetensors", second)
    with pytest.raises(CheckpointError, match=r"variables\.safetensors has \d+ bytes with digest [0-9a-f]{8}"):
        checkpoint.load(second)


@pytest.mark.parametrize("content", ["[]", "null", "{}", '{"state.json": 1}'])
def test_a_manifest_of_another_form_is_damage(tmp_path, two, content):
    path = save(tmp_path, 1, two, {})
    (path / "manifest.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"is damaged: .*manifest"):
        checkpoint.load(path)


def test_a_checkpoint_that_is_not_there_is_reported_as_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no checkpoint at .*step-00000001"):
        checkpoint.load(tmp_path / "step-00000001")


# ---------------------------------------------------------------------- failing writes


class Failing:
    def __init__(self, call, fail_at: int) -> None:
        self._call, self._fail_at, self.calls = call, fail_at, 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        if self.calls == self._fail_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._call(*args, **kwargs)


# A real disk cannot be told when to fail, so the calls are replaced. Three files are written, each is
# opened and synced; then the folder is synced, renamed, and the folder above it is synced.
CALLS = [("mkdir", 1), *[("open", n) for n in (1, 2, 3)], *[("fsync", n) for n in (1, 2, 3, 4, 5)], ("replace", 1)]


def fail(monkeypatch: pytest.MonkeyPatch, name: str, call: int) -> Failing:
    failing = Failing({"open": open}.get(name) or getattr(os, name), call)
    if name == "open":
        monkeypatch.setattr(files, "open", failing, raising=False)
    else:
        monkeypatch.setattr(os, name, failing)
    return failing


@pytest.mark.parametrize(("name", "call"), CALLS)
def test_a_save_that_fails_leaves_the_last_checkpoint_and_no_parts(tmp_path, two, monkeypatch, name, call):
    first = save(tmp_path, 1, two, {"epoch": 1})
    checkpoint.point(tmp_path, "last", first)
    before = contents(tmp_path)
    two["optimizer.0000"].assign(8)
    with monkeypatch.context() as patch:
        failing = fail(patch, name, call)
        with pytest.raises(OSError, match=r"could not write .*step-00000002: No space left on device"):
            save(tmp_path, 2, two, {"epoch": 2})
    assert failing.calls == call
    left = contents(tmp_path)
    renamed = (name, call) == ("fsync", 5)  # the new one is there, whole, but nothing names it yet
    assert {path: left[path] for path in before} == before
    assert {path.split("/")[0] for path in left} == {"last", "step-00000001"} | (
        {"step-00000002"} if renamed else set()
    )
    assert checkpoint.load(checkpoint.find(tmp_path, "last")).arrays["optimizer.0000"] == 7
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(("name", "call"), [("open", 1), ("fsync", 1), ("replace", 1)])
def test_a_name_that_cannot_be_moved_stays_where_it_was(tmp_path, two, monkeypatch, name, call):
    first, second = (save(tmp_path, step, two, {}) for step in (1, 2))
    checkpoint.point(tmp_path, "best", first)
    with monkeypatch.context() as patch:
        fail(patch, name, call)
        with pytest.raises(OSError, match=r"could not write .*best"):
            checkpoint.point(tmp_path, "best", second)
    assert checkpoint.find(tmp_path, "best") == first
    assert not list(tmp_path.glob(".*"))


def test_saving_a_step_again_leaves_the_first_one_until_it_is_pruned(tmp_path, two):
    first = save(tmp_path, 5, two, {})
    checkpoint.point(tmp_path, "last", first)
    two["optimizer.0000"].assign(8)
    second = save(tmp_path, 5, two, {})
    assert second == tmp_path / "step-00000005-1"
    assert checkpoint.load(checkpoint.find(tmp_path, "last")).arrays["optimizer.0000"] == 7
    checkpoint.point(tmp_path, "last", second)
    assert checkpoint.load(checkpoint.find(tmp_path, "last")).arrays["optimizer.0000"] == 8
    checkpoint.prune(tmp_path, ["step-00000005-1"])
    assert sorted(os.listdir(tmp_path)) == ["last", "step-00000005-1"]
    assert save(tmp_path, 5, two, {}) == first  # its name is free again


@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_saving_a_step_again_and_failing_keeps_the_first_one(tmp_path, two, monkeypatch, call):
    checkpoint.point(tmp_path, "last", save(tmp_path, 5, two, {}))
    two["optimizer.0000"].assign(8)
    with monkeypatch.context() as patch:
        fail(patch, "fsync", call)
        with pytest.raises(OSError, match=r"No space left"):
            save(tmp_path, 5, two, {})
    assert checkpoint.load(checkpoint.find(tmp_path, "last")).arrays["optimizer.0000"] == 7


# ---------------------------------------------------------------------- names


def test_pruning_removes_what_no_name_names_and_what_a_killed_run_left(tmp_path, two):
    first, _, third = (save(tmp_path, step, two, {}) for step in (1, 2, 3))
    checkpoint.point(tmp_path, "best", first)
    checkpoint.point(tmp_path, "last", third)
    (tmp_path / ".step-00000004.abcd.part").mkdir()
    (tmp_path / ".step-00000004.abcd.part" / "state.json").write_text("{")
    (tmp_path / ".last.0123.part").write_text("step-")
    checkpoint.prune(tmp_path, [first.name, third.name])
    assert sorted(os.listdir(tmp_path)) == ["best", "last", "step-00000001", "step-00000003"]


def test_the_newest_come_first_and_before_them_the_one_that_last_names(tmp_path, two):
    for step in (5, 5, 5, 40, 100_000_000):
        save(tmp_path, step, two, {})
    (tmp_path / "step-x").mkdir()
    names = ["step-100000000", "step-00000040", "step-00000005-2", "step-00000005-1", "step-00000005"]
    assert [path.name for path in checkpoint.newest_first(tmp_path)] == names
    checkpoint.point(tmp_path, "last", tmp_path / "step-00000005-1")
    assert [path.name for path in checkpoint.newest_first(tmp_path)] == [names[3], *names[:3], names[4]]
    assert checkpoint.newest_first(tmp_path / "nowhere") == []


def test_a_name_that_was_given_out_is_not_free(tmp_path):
    assert checkpoint.free_name(tmp_path, 5) == "step-00000005"
    assert checkpoint.free_name(tmp_path, 5, {"step-00000005", "step-00000005-1"}) == "step-00000005-2"


def test_further_files_and_numbers_that_json_has_no_word_for_come_back(tmp_path, two):
    state = {"best": [float("inf"), {"a": float("-inf")}, float("nan"), 1.5], "history": {"x": [0.1]}}
    found = checkpoint.load(save(tmp_path, 1, two, state, {"feed.bin": b"\x00\xff"}))
    assert found.extra == {"feed.bin": b"\x00\xff"}
    assert found.state["best"][:2] == [float("inf"), {"a": float("-inf")}]
    assert np.isnan(found.state["best"][2])
    assert found.state["history"] == {"x": [0.1]}


def test_a_further_file_is_verified_too(tmp_path, two):
    path = save(tmp_path, 1, two, {}, {"feed.bin": b"abc"})
    checkpoint.verify(path)
    (path / "feed.bin").write_bytes(b"abd")
    with pytest.raises(CheckpointError, match=r"step-00000001 is damaged: feed\.bin has 3 bytes"):
        checkpoint.verify(path)


@pytest.mark.parametrize("name", ["../step-1", "step-1/../../secret", "/tmp/step-1", "", "step-/x", "\xff"])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path, name):
    (tmp_path / "best").write_bytes(name.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"best is damaged: .* is not the name of a checkpoint\."):
        checkpoint.find(tmp_path, "best")


def test_a_name_that_is_not_there_is_answered_with_those_that_are(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint 'best' in .*\. There are no valid names\."):
        checkpoint.find(tmp_path / "nowhere", "best")
    (tmp_path / "last").write_text("step-1")
    with pytest.raises(
        FileNotFoundError, match=r"no checkpoint 'lsat' in .*\. Did you mean 'last'\? Valid names: last"
    ):
        checkpoint.find(tmp_path, "lsat")
