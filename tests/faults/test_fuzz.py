"""Every file that is read, changed at random: what comes of it is a result, or an error of ours that names the file.

A hostile writer can make the checksums of a checkpoint fit, so the manifest is written again after each change.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import random
import shutil
import struct
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import earlier_tasks
import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import lightkeras as lk
from lightkeras.command_line import entry_point
from lightkeras.command_line.console import report_profile
from lightkeras.command_line.flags import make_parser
from lightkeras.data.datasets import npz, pixels
from lightkeras.encoders import cache, saved_state
from lightkeras.encoders.hub import module_files, sample_text_module
from lightkeras.runs import checkpoint
from lightkeras.runs.directory import RunDirectory, runs_below
from lightkeras.runs.loggers import Run
from lightkeras.runs.loggers.csv import CsvLogger
from lightkeras.runs.loggers.tensorboard import TensorBoardLogger
from lightkeras.runs.overview import history_of
from lightkeras.runs.resume import choose_checkpoint, compare_configs, read_run
from lightkeras.search.journal import Journal, explained_line
from lightkeras.search.records import Records, check_event
from lightkeras.system import locks, random_states
from lightkeras.system.messages import raised_by_us
from lightkeras.system.variables import check_values, write_variables
from lightkeras.testing import TwoMoons
from lightkeras.training.callbacks.state import CallbackStates
from lightkeras.training.decisions import Patience
from lightkeras.training.divergence.broken_step import BATCH, _decode
from lightkeras.training.freezing import flags_from
from lightkeras.training.run_state import RunState

EARLIER = Path(earlier_tasks.__file__).with_name("files")
STEP, BROKEN = "step-00000015", "step-00000006"

# ---------------------------------------------------------------------- changes

ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**70), 10**300, 0.5, -1.5, 1e308),
    *("", "x", "\x1b]0;x\x07", "a\nb", "../../x", "/etc/passwd", "\0", "nan", "é" * 3, "9" * 400, "https://x.invalid"),
    *([], [[]], [None], [1, 2, 3], ["a"], {}, {"a": 1}, {"float": "nan"}, {"array": "x"}, {"dict": [[1]]}, {"": {}}),
]
RAW = [
    *("[" * 100_000, '{"a":' * 50_000, "9" * 5000, "1e999", "NaN", "Infinity", '"\\ud800"', "[" * 300 + "]" * 300),
    *("", " ", "null", "[]", "{}", '""', "0", "{", "\ufeff{}", '{"a": 1, "a": 2}', "\x00", "hp: null", "&a [*a]"),
    *("? [a]\n: b", "!!python/object/apply:os.system ['x']", "- " * 2000, "a: &a [1]\nb: [*a, *a]"),
]


def changed_json(content: bytes, rng: random.Random) -> bytes:
    """Puts odd values in place of some, renames and removes keys."""
    if rng.random() < 0.1:
        return rng.choice(RAW).encode("utf-8", "surrogatepass")
    data = json.loads(content)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        parts: list[tuple[Any, Any]] = []
        level = [data]
        while level:
            item = level.pop()
            keys = list(item) if isinstance(item, dict) else range(len(item)) if isinstance(item, list) else ()
            parts += [(item, key) for key in keys]
            level += [item[key] for key in keys]
        if not parts:
            break
        # Few levels have most of the values: choose a level first, or the outer ones would hardly be changed.
        owner, key = rng.choice(parts if rng.random() < 0.5 else parts[: max(1, len(parts) // 20)])
        kind = rng.random()
        if kind < 0.7:
            owner[key] = copy.deepcopy(rng.choice(ODD))
        elif kind < 0.85 or not isinstance(owner, dict):
            del owner[key]
        else:
            owner[rng.choice(["x", "\x1b", "", "../x"])] = owner.pop(key)
    return json.dumps(data).encode()


def changed_lines(content: bytes, rng: random.Random) -> bytes:
    """Changes one line of JSON, or their order."""
    lines = content.splitlines(keepends=True)
    number = rng.randrange(len(lines))
    if rng.random() < 0.8:
        lines[number] = changed_json(lines[number], rng).replace(b"\n", b" ") + b"\n"
    else:
        lines.insert(rng.randrange(len(lines)), lines.pop(number))
    return b"".join(lines)


def changed_bytes(content: bytes, rng: random.Random) -> bytes:
    """Flips, cuts, doubles and inserts bytes; most changes are near the beginning, where headers are."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 5])):
        top = len(data) if rng.random() < 0.5 else min(len(data), 300)
        at, kind = rng.randrange(top + 1), rng.random()
        if kind < 0.4 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind < 0.55:
            data[at : at + rng.randrange(1, 40)] = b""
        elif kind < 0.7:
            data[at:at] = rng.randbytes(rng.randrange(1, 40))
        elif kind < 0.8:
            data[at : at + 8] = struct.pack("<Q", rng.choice([0, 1, 2**31, 2**40, 2**63, 2**64 - 1]))
        elif kind < 0.9:
            del data[at:]
        else:
            digits = [n for n, byte in enumerate(data[:2000]) if 48 <= byte <= 57]
            if digits:
                at = rng.choice(digits)
                data[at : at + 1] = rng.choice([b"-1", b"99999999999999", b"", b"1e5", b"x"])
    return bytes(data)


# ---------------------------------------------------------------------- what reads them


def report(folder: Path) -> None:
    entry_point.main(["report", str(folder / "judgement")])
    directory = RunDirectory(folder / "judgement")
    compare_configs(read_run(directory), json.loads((EARLIER / "judgement" / "config.json").read_text()))


def report_of_search(folder: Path) -> None:
    entry_point.main(["report", str(folder / "search")])
    runs_below(RunDirectory(folder / "search"))


class Remembers(keras.callbacks.Callback):
    def __init__(self) -> None:
        super().__init__()
        self.best, self.filepath = 0.0, "mine"


def resume(folder: Path) -> None:
    """As `Checkpointer.restore` does, without a task."""
    directory = RunDirectory(folder / "judgement")
    found = choose_checkpoint(directory)
    assert found is not None
    state = RunState(Patience("min"))
    with checkpoint.decoding(found.path):
        state.restore(found.state)
        extra = found.extra.get("callbacks.safetensors")
        arrays = {} if extra is None else checkpoint.arrays_of(extra, found.path)
        random_states.write(found.state["random"])
    if found.state.get("frozen") is not None:
        flags_from(found.state["frozen"])
    made = [keras.callbacks.EarlyStopping(), keras.callbacks.ReduceLROnPlateau(), Remembers()]
    states = CallbackStates(made)
    states.begin()
    with checkpoint.naming(found.path):
        states.restore(found.state["callbacks"]["callbacks"], arrays)
        assert made[2].filepath == "mine"
        check_values(VARIABLES, found.arrays)
        write_variables(VARIABLES, found.arrays)
    for name in ("last", "best"):
        checkpoint.find(directory.checkpoints, name)


VARIABLES: dict[str, keras.Variable] = {}


def replay(folder: Path) -> None:
    entry_point.main(["replay", str(folder / "judgement")])
    path = folder / "judgement" / "broken" / BROKEN
    found = checkpoint.load(path, checkpoint.formats.BrokenState)
    if BATCH in found.extra:
        with checkpoint.decoding(path):
            _decode(checkpoint.arrays_of(found.extra[BATCH], path / BATCH), found.state["batch"])


def read_journal(folder: Path) -> None:
    records = Records()
    with Journal(folder / "search" / "journal.jsonl") as journal:
        for number, event in enumerate(journal.events, 1):
            with explained_line(folder / "search" / "journal.jsonl", number):
                check_event(event)
                records.apply(event)
    records.ranked("min")


def log_again(folder: Path) -> None:
    directory = RunDirectory(folder / "judgement")
    history_of(directory)
    state = json.loads((directory.checkpoints / STEP / "state.json").read_text())
    names = list(state["history"])
    for logger in (CsvLogger(), TensorBoardLogger()):
        logger.open(Run(directory.path, names, state["logs"], state["step"]))
        logger.close()


def read_encoder(folder: Path) -> None:
    encoder = lk.TextVectorizer(max_tokens=24, length=6)
    saved_state.reader(folder / "judgement" / "encoder.safetensors")(encoder)


def parse_settings(folder: Path) -> None:
    parser = make_parser(TwoMoons, "fit", {}, None)
    with contextlib.suppress(SystemExit):
        parser.parse_args(["--config", str(folder / "settings.yaml")])


def read_cache(folder: Path) -> None:
    with contextlib.suppress(cache._DamagedError):
        cache._read_entry(folder / "entry", [(np.dtype("float32"), (3,))])


def read_lock(folder: Path) -> None:
    locks._refusal(folder / "run.lock")


SUBJECTS: dict[str, tuple[str, Callable[[bytes, random.Random], bytes], Callable[[Path], None]]] = {
    "config.json": ("judgement/config.json", changed_json, report),
    "result.json": ("judgement/result.json", changed_json, report),
    "profile.json": ("judgement/profile.json", changed_json, lambda folder: report_profile(folder / "judgement")),
    "config.json of a search": ("search/config.json", changed_json, report_of_search),
    "result.json of a trial": ("search/trials/0000/result.json", changed_json, report_of_search),
    "journal.jsonl": ("search/journal.jsonl", changed_lines, read_journal),
    "state.json": (f"judgement/checkpoints/{STEP}/state.json", changed_json, resume),
    "manifest.json": (f"judgement/checkpoints/{STEP}/manifest.json", changed_json, resume),
    "variables": (f"judgement/checkpoints/{STEP}/variables.safetensors", changed_bytes, resume),
    "callbacks": (f"judgement/checkpoints/{STEP}/callbacks.safetensors", changed_bytes, resume),
    "last": ("judgement/checkpoints/last", changed_bytes, resume),
    "best": ("judgement/checkpoints/best", changed_bytes, resume),
    "state of a broken step": (f"judgement/broken/{BROKEN}/state.json", changed_json, replay),
    "batch of a broken step": (f"judgement/broken/{BROKEN}/batch.safetensors", changed_bytes, replay),
    "encoder": ("judgement/encoder.safetensors", changed_bytes, read_encoder),
    "metrics.csv": ("judgement/metrics.csv", changed_bytes, log_again),
    "event file": ("judgement/events", changed_bytes, log_again),
    "meta.json of a cache": ("entry/meta.json", changed_json, read_cache),
    "run.lock": ("run.lock", changed_json, read_lock),
    "settings": ("settings.yaml", changed_json, parse_settings),
    "settings as text": ("settings.yaml", changed_bytes, parse_settings),
    "npz": ("a.npz", changed_bytes, lambda folder: [npz.read_array(folder / "a.npz", k) for k in "xy"] and None),
    "npy": ("a.npy", changed_bytes, lambda folder: npz.read_npy(folder / "a.npy") is None),
    "png": ("a.png", changed_bytes, lambda folder: pixels.read_file(folder / "a.png", (4, 4)) is None),
    "table": ("a.csv", changed_bytes, lambda folder: lk.data.TableFile(folder / "a.csv").read() is None),
    "module": ("module/saved_model.pb", changed_bytes, lambda folder: module_files.damage(folder / "module") is None),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file of each kind, as they are read."""
    folder = tmp_path_factory.mktemp("whole")
    for name in ("judgement", "search"):
        shutil.copytree(EARLIER / name, folder / name)
    result = json.loads((folder / "search" / "trials" / "0000" / "result.json").read_text())
    (folder / "judgement" / "result.json").write_text(json.dumps({**result, "test": {"loss": 0.5}}))
    profile = {
        "wall_s": 1.5,
        "steps": 8,
        "parts": {"compute": {"seconds": 1.0, "share": 0.7}},
        "compute_us_per_step": 2.0,
        "compilations": [{"step": "train", "form": "8", "seconds": 0.5, "cause": "first"}],
        "trace": None,
    }
    (folder / "judgement" / "profile.json").write_text(json.dumps(profile))
    for run in [folder / "judgement", *(folder / "search" / "trials").iterdir()]:  # drawing takes most of a second
        (run / "figures").mkdir()
        Image.new("L", (4, 4)).save(run / "figures" / "curves.png")
    for path in (folder / "search" / "trials").glob("*/metrics.csv"):
        path.unlink()
    (event,) = sorted((folder / "judgement").glob("events.*"))[:1]
    (folder / "judgement" / "events").symlink_to(event.name)
    (folder / "entry").mkdir()
    array = np.ones((2, 3), np.float32)
    (folder / "entry" / "0.bin").write_bytes(array.tobytes())
    digest = checkpoint.Digest(array.tobytes()).hex()
    meta = {"format": cache.FORMAT, "arrays": [{"dtype": "<f4", "shape": [2, 3], "blake2b": digest}]}
    (folder / "entry" / "meta.json").write_text(json.dumps(meta))
    (folder / "run.lock").write_text(json.dumps({"pid": 1, "host": "h", "started": "now"}))
    (folder / "settings.yaml").write_text(json.dumps({"hp": {"hidden_units": 8}, "runner": {"max_epochs": 2}}))
    np.savez(folder / "a.npz", x=array, y=np.array(["a", "b"]))
    np.save(folder / "a.npy", array)
    Image.new("L", (4, 4)).save(folder / "a.png")
    (folder / "a.csv").write_text("a,b\n1,x\n2,y\n")
    shutil.copytree(sample_text_module(), folder / "module")
    arrays = checkpoint.load(folder / "judgement" / "checkpoints" / STEP).arrays
    VARIABLES.update({key: keras.Variable(array, dtype=array.dtype.name) for key, array in arrays.items()})
    return folder


def rewrite_manifest(path: Path) -> None:
    """Makes the checksums of a checkpoint fit its files again."""
    manifest = path.parent / "manifest.json"
    if path.name != "manifest.json" and manifest.exists():
        entries = json.loads(manifest.read_text())
        entries[path.name] = checkpoint._entry(path.read_bytes())
        manifest.write_text(json.dumps(entries))


@contextlib.contextmanager
def changed(whole: Path, scratch: Path, place: str, content: bytes) -> Iterator[Path]:
    """The files with one of them changed; they are put back."""
    path = (scratch / place).resolve()
    kept = {each: each.read_bytes() for each in (path, path.parent / "manifest.json") if each.exists()}
    path.write_bytes(content)
    rewrite_manifest(path)
    try:
        yield scratch
    finally:
        for each, before in kept.items():
            each.write_bytes(before)


def check(whole: Path, scratch: Path, subject: str, rng: random.Random) -> None:
    place, change, read = SUBJECTS[subject]
    content = change((whole / place).read_bytes(), rng)
    if read is log_again:  # which writes
        shutil.rmtree(scratch / "judgement", ignore_errors=True)
        shutil.copytree(whole / "judgement", scratch / "judgement", symlinks=True)
    printed = io.StringIO()
    with changed(whole, scratch, place, content), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            try:
                read(scratch)
            except Exception as error:
                named = any(name in str(error) for name in (Path(place).name, Path(place).parent.name, "events.out"))
                if not raised_by_us(error) or not isinstance(error, (ValueError, OSError)) or not named:
                    raise AssertionError(f"{type(error).__name__} of another origin: {error}") from error
    assert not set(printed.getvalue()) & {"\x1b", "\x07", "\0"}


@pytest.fixture(scope="module")
def scratch(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(whole, tmp_path_factory.mktemp("scratch") / "files", symlinks=True))


def fuzz(whole: Path, scratch: Path, subject: str, count: int) -> None:
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=not os.environ.get("LIGHTKERAS_FUZZ_ANEW"),
        suppress_health_check=list(HealthCheck),
    )
    @given(rng=st.randoms(use_true_random=True))
    def run(rng: random.Random) -> None:
        check(whole, scratch, subject, rng)

    run()


@pytest.mark.any_backend
@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_file_that_was_changed_at_random_is_an_error_of_ours_or_none(whole, scratch, subject):
    fuzz(whole, scratch, subject, 25)


@pytest.mark.long
@pytest.mark.any_backend
@pytest.mark.parametrize("subject", SUBJECTS)
def test_twenty_thousand_changes_at_random_are_errors_of_ours_or_none(whole, scratch, subject):
    fuzz(whole, scratch, subject, 20_000 // len(SUBJECTS) + 1)


def test_the_files_are_read_where_nothing_was_changed(whole, scratch):
    for place, _, read in SUBJECTS.values():
        with changed(whole, scratch, place, (whole / place).read_bytes()), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The callbacks differ")
            read(scratch)
