"""A program that ends without a last collection: files are complete, and what is registered is called."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import atexit, gc, sys
from lightkeras.system.quick_exit import exit_quickly

class Holder:
    def __init__(self, path, mode, content):
        self.itself, self.file = self, open(path, mode)  # only a collection would close it
        self.file.write(content)

    def __del__(self):
        print("collected", flush=True)

def registered():
    print("registered", gc.get_freeze_count())

{first}
Holder(sys.argv[1], "w", "text")
Holder(sys.argv[2], "wb", b"bytes")
Holder(sys.argv[1] + "2", "w", "").file.close()
atexit.register(registered)
{last}
"""


@pytest.mark.parametrize(
    ("first", "last", "status", "expected"),
    [
        ("gc.disable()", "", 0, ["registered 0"] + 3 * ["collected"]),
        ("gc.disable(); exit_quickly(); exit_quickly()", "", 0, ["registered 0"]),
        ("gc.disable(); exit_quickly()", "gc.freeze(); atexit.unregister(registered)", 0, []),
        ("gc.disable(); exit_quickly()", "raise SystemExit(3)", 3, ["registered 0"]),
        ("gc.disable(); exit_quickly()", "1 / 0", 1, ["registered 0"]),
    ],
)
def test_files_that_cycles_hold_are_written_without_a_collection(tmp_path, first, last, status, expected):
    paths = [str(tmp_path / "a"), str(tmp_path / "b")]
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM.format(first=first, last=last), *paths]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert done.stdout.splitlines() == expected
    if "exit_quickly" in first:  # Python itself loses what they have buffered
        assert ((tmp_path / "a").read_text(), (tmp_path / "b").read_bytes()) == ("text", b"bytes")
