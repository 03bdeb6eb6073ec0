"""Arrays on disk that processes share: made once, checked, bounded."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from lightkeras.encoders.cache import ArrayCache, read_columns
from lightkeras.system.files import UnwritableError

COLUMNS = [(np.dtype("float32"), (2,)), (np.dtype("int32"), ())]
ROWS = np.arange(12, dtype="float32").reshape(6, 2)
NUMBERS = np.arange(6, dtype="int32")


class Maker:
    """Counts how often it was asked."""

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return iter([[ROWS[:4], NUMBERS[:4]], [ROWS[4:], NUMBERS[4:]]])


def get(store, make, key="key", columns=COLUMNS):
    arrays, release = store.get(key, columns, make, {"what": "a test"})
    release()
    return arrays


def test_an_entry_is_made_once_and_mapped_afterwards(tmp_path):
    make = Maker()
    for _ in range(2):
        rows, numbers = get(ArrayCache(tmp_path, 10**9), make)
        assert isinstance(rows, np.memmap)
        assert not rows.flags.writeable
        np.testing.assert_array_equal(rows, ROWS)
        np.testing.assert_array_equal(numbers, NUMBERS)
    assert make.calls == 1
    assert json.loads((tmp_path / "key" / "meta.json").read_text())["what"] == "a test"
    assert not list(tmp_path.glob(".*.part"))


def flip_a_bit(entry):
    content = bytearray((entry / "0.bin").read_bytes())
    content[7] ^= 1
    (entry / "0.bin").write_bytes(content)


def cut(entry):
    os.truncate(entry / "1.bin", 3)


def lose_a_file(entry):
    (entry / "0.bin").unlink()


def garble(entry):
    (entry / "meta.json").write_text('{"format": 1, "arrays"')


def from_another_version(entry):
    meta = json.loads((entry / "meta.json").read_text())
    (entry / "meta.json").write_text(json.dumps({**meta, "format": 99}))


@pytest.mark.parametrize("damage", [flip_a_bit, cut, lose_a_file, garble, from_another_version])
def test_a_damaged_entry_is_made_again_and_that_is_reported(damage, tmp_path, capsys):
    make = Maker()
    get(ArrayCache(tmp_path, 10**9), make)
    damage(tmp_path / "key")
    rows, _ = get(ArrayCache(tmp_path, 10**9), make)
    np.testing.assert_array_equal(rows, ROWS)
    assert make.calls == 2
    said = capsys.readouterr()
    assert "are damaged" in said.err + said.out
    assert "they are computed again" in said.err + said.out
    get(ArrayCache(tmp_path, 10**9), make)
    assert make.calls == 2


def test_an_entry_of_other_arrays_is_made_again(tmp_path, capsys):
    get(ArrayCache(tmp_path, 10**9), Maker())
    doubles = [(np.dtype("float64"), (2,)), COLUMNS[1]]
    rows, _ = get(ArrayCache(tmp_path, 10**9), lambda: iter([[ROWS.astype("float64"), NUMBERS]]), columns=doubles)
    assert rows.dtype == "float64"
    said = capsys.readouterr()
    assert "describes other arrays" in said.err + said.out


def test_what_was_not_used_for_the_longest_time_is_removed_first(tmp_path):
    store = ArrayCache(tmp_path, limit_bytes=1000)  # of entries of 72 bytes and their description
    for number in range(3):
        get(store, Maker(), f"entry{number}")
        os.utime(tmp_path / f"entry{number}" / "meta.json", (number, number))
    get(store, Maker(), "entry0")  # used once more
    for number in range(3, 6):
        get(store, Maker(), f"entry{number}")
    left = sorted(entry.name for entry in tmp_path.iterdir() if entry.is_dir())
    assert "entry1" not in left
    assert left[-1] == "entry5"
    assert sum(file.stat().st_size for name in left for file in (tmp_path / name).iterdir()) <= 1000


def test_what_is_in_use_is_not_removed(tmp_path):
    store = ArrayCache(tmp_path, limit_bytes=1)
    arrays, release = store.get("used", COLUMNS, Maker(), {})
    get(store, Maker(), "other")
    assert (tmp_path / "used").is_dir()
    release()
    get(store, Maker(), "third")
    assert not (tmp_path / "used").exists()
    np.testing.assert_array_equal(arrays[0], ROWS)  # it stays for a process that has it open


def test_an_error_while_it_is_made_leaves_nothing(tmp_path):
    def broken():
        yield [ROWS[:4], NUMBERS[:4]]
        raise ValueError("the encoder broke")

    with pytest.raises(ValueError, match="the encoder broke"):
        get(ArrayCache(tmp_path, 10**9), broken)
    assert not [entry for entry in tmp_path.iterdir() if entry.is_dir()]
    with pytest.raises(ValueError, match=r"returned float32\[2\] for some examples and int32\[\]"):
        get(ArrayCache(tmp_path, 10**9), lambda: iter([[ROWS, ROWS]]))


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UnwritableError, match="cannot be written to"):
        get(ArrayCache(tmp_path / "file" / "folder", 10**9), Maker())


WORKER = """
    import sys, time
    from pathlib import Path
    import numpy as np
    from lightkeras.encoders.cache import ArrayCache

    folder, seconds = Path(sys.argv[1]), float(sys.argv[2])

    def make():
        with open(folder / "calls", "a") as calls:
            calls.write("made\\n")
        yield [np.zeros((3, 2), "float32")]
        time.sleep(seconds)
        yield [np.ones((3, 2), "float32")]

    arrays, _ = ArrayCache(folder / "store", 10**9).get("key", [(np.dtype("float32"), (2,))], make, {})
    print(float(arrays[0].sum()))
"""


def start(folder, seconds):
    command = [sys.executable, "-c", textwrap.dedent(WORKER), str(folder), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_of_several_processes_one_makes_it(tmp_path):
    workers = [start(tmp_path, 1.0) for _ in range(3)]
    outputs = [worker.communicate(timeout=120) for worker in workers]
    assert [output.strip() for output, _ in outputs] == ["6.0"] * 3, outputs
    assert (tmp_path / "calls").read_text() == "made\n"


def test_what_a_killed_process_left_is_cleared_away(tmp_path):
    worker = start(tmp_path, 100)
    end = time.monotonic() + 60
    while not (tmp_path / "calls").exists() and time.monotonic() < end:
        time.sleep(0.05)
    worker.send_signal(signal.SIGKILL)
    worker.communicate()
    assert list((tmp_path / "store").glob(".key.*.part"))
    (tmp_path / "store" / ".other.1.part").mkdir()  # of another key
    output, errors = start(tmp_path, 0.0).communicate(timeout=120)
    assert output.strip() == "6.0", errors
    assert not list((tmp_path / "store").glob(".*.part"))


def test_columns_in_memory():
    rows, numbers = read_columns(COLUMNS, Maker()())
    np.testing.assert_array_equal(rows, ROWS)
    np.testing.assert_array_equal(numbers, NUMBERS)
