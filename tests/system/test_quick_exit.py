"""A program that ends without a last collection: files are complete, and what is registered is called."""

from __future__ import annotations

import bz2
import gzip
import lzma
import subprocess
import sys
import zipfile

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


ARCHIVES = """
import bz2, gc, gzip, lzma, sys, zipfile
from lightkeras.system.quick_exit import exit_quickly

class Holder:
    def __init__(self, file):
        self.itself, self.file = self, file

def hold(kind):
    if kind == "zip":
        Holder(zipfile.ZipFile("archive", "w")).file.writestr("name", "text")
    else:
        Holder({"gz": gzip, "bz2": bz2, "xz": lzma}[kind].open("archive", "wt")).file.write("text")

gc.disable()
exit_quickly()
hold(sys.argv[1])
"""


@pytest.mark.parametrize(
    ("kind", "read"),
    [
        ("gz", lambda path: gzip.decompress(path.read_bytes())),
        ("bz2", lambda path: bz2.decompress(path.read_bytes())),
        ("xz", lambda path: lzma.decompress(path.read_bytes())),
        ("zip", lambda path: zipfile.ZipFile(path).read("name")),
    ],
)
def test_archives_that_cycles_hold_are_complete(tmp_path, kind, read):
    subprocess.run([sys.executable, "-c", ARCHIVES, kind], cwd=tmp_path, check=True)
    assert read(tmp_path / "archive") == b"text"


PIPE = """
import os, select, threading
from lightkeras.system.quick_exit import exit_quickly

reader, writer = os.pipe()

def write():
    with os.fdopen(writer, "wb") as file:
        file.write(b"x" * 10_000_000)

exit_quickly()
threading.Thread(target=write, daemon=True).start()
while select.select([], [writer], [], 0)[1]:
    pass  # until the pipe is full
"""


def test_a_pipe_that_a_thread_writes_to_is_not_waited_for():
    subprocess.run([sys.executable, "-c", PIPE], check=True, timeout=60)
