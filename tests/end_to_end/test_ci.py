"""The counts, times and failures that `.ci/run` takes from the output of its steps."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = (Path(__file__).resolve().parents[2] / ".ci" / "run").read_text(encoding="utf-8")
SIDE_BY_SIDE = "created: 2/2 workers\n2 workers [7 items]\n\n..... [100%]\n"


def function(name: str) -> str:
    found = re.search(rf"^{name}\(\) \{{(?:[^\n]*\}}|\n.*?\n\}})$", SCRIPT, flags=re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[0]


def counted(tmp_path: Path, printed: str, status: int) -> str:
    """The closing line of `.ci/run` after a step with that output and exit status."""
    (tmp_path / "printed").write_text(printed, encoding="utf-8")
    program = f"""
set -euo pipefail
work={tmp_path} passed=10 failed=0 took=()
{function("say")}
{function("where_the_time_went")}
{function("what_failed")}
{function("step")}
step "a step" bash -c 'cat {tmp_path}/printed; exit {status}'
echo "${{took[0]}}"
echo "$passed passed, $failed failed"
"""
    *_, took, last = lines_of(program)
    assert re.fullmatch(r" +\d+ s  +\d+ passed, \d+ failed  a step", took)
    assert (tmp_path / "failed").exists() == (status != 0)
    return last


def lines_of(program: str) -> list[str]:
    return subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.parametrize(
    ("printed", "status", "expected"),
    [
        ("======= 7 passed in 2.05s =======\n", 0, "17 passed, 0 failed"),
        (
            SIDE_BY_SIDE + "= 5 passed, 2 skipped in 95.97s (0:01:35) =\npy: OK (99.1 seconds)\n",
            0,
            "15 passed, 0 failed",
        ),
        (SIDE_BY_SIDE + "= 2 failed, 3 passed, 2 errors in 95.97s (0:01:35) =\n", 1, "13 passed, 4 failed"),
        (
            "worker 'gw0' crashed while running 'tests/test_x.py::test_y'\n= 1 failed, 6 passed in 9.00s =\n",
            1,
            "16 passed, 1 failed",
        ),
        (SIDE_BY_SIDE + "= on the real data =\n 51 s  x: 2 failed\n= 7 passed in 9.00s =\n", 0, "17 passed, 0 failed"),
        ("============ 1 error in 3.00s ============\n", 1, "10 passed, 1 failed"),
        ("======= 7 passed in 2.05s =======\nlint: FAIL code 1\n", 1, "17 passed, 1 failed"),
        ("fitted in 12.4 s\n", 0, "11 passed, 0 failed"),
        ("expected an accuracy of at least 0.85\n", 1, "10 passed, 1 failed"),
        ("", 3, "10 passed, 1 failed"),
    ],
)
def test_a_step_is_counted_as_its_tests_or_as_one(tmp_path, printed, status, expected):
    assert counted(tmp_path, printed, status) == expected


TIMES = """
============================= CPU seconds: 812 ==============================
    500 CPU s     300 s  tests/faults
    312 CPU s     290 s  tests/end_to_end

    500 CPU s     300 s  tests/faults/test_kills.py

============= 7 passed in 300.05s (0:05:00) =============
  lint: OK (7.10=setup[6.52]+cmd[0.31,0.27] seconds)
  types-py312: SKIP (0.02 seconds)
  py: OK (521.00=setup[220.00]+cmd[301.00] seconds)
"""


def test_the_time_of_a_step_is_broken_down_by_environment_and_folder(tmp_path):
    (tmp_path / "log").write_text(TIMES, encoding="utf-8")
    program = f"set -euo pipefail\n{function('where_the_time_went')}\nwhere_the_time_went {tmp_path}/log"
    assert lines_of(program) == [
        "      300 s  of it: one process in tests/faults (500 CPU s)",
        "      290 s  of it: one process in tests/end_to_end (312 CPU s)",
        "        6 s  of it: lint, installation",
        "        0 s  of it: lint",
        "      220 s  of it: py, installation",
        "      301 s  of it: py",
    ]


OF_TOX = """
lightkeras/task.py:95: error: Returning Any
Found 1 error in 1 file
types-py311: exit 1 (18.19 seconds) /clone> mypy pid=29681
2 workers [7 items]
ERROR nothing of pytest's summary
=========================== short test summary info ============================
FAILED tests/test_x.py::test_y[a b] - AssertionError: assert 1 == 2
  the rest of its message
FAILED tests/test_x.py::test_z
ERROR tests/test_y.py::test_y - file /clone/tests/test_y.py, line 60
E       fixture 'folder' not found
===================== 2 failed, 4 passed, 1 error in 2.08s =====================
py: exit 1 (2.15 seconds) /clone> pytest -n auto pid=11283
  types-py311: FAIL code 1 (47.55=setup[29.36]+cmd[18.19] seconds)
"""


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        (
            OF_TOX,
            [
                "",
                "lightkeras/task.py:95: error: Returning Any",
                "Found 1 error in 1 file",
                "types-py311: exit 1 (18.19 seconds) /clone> mypy pid=29681",
                "FAILED tests/test_x.py::test_y[a b] - AssertionError: assert 1 == 2",
                "FAILED tests/test_x.py::test_z",
                "ERROR tests/test_y.py::test_y - file /clone/tests/test_y.py, line 60",
                "py: exit 1 (2.15 seconds) /clone> pytest -n auto pid=11283",
            ],
        ),
        ("".join(f"line {number}\n" for number in range(9)), [f"line {number}" for number in range(4, 9)]),
        ("killed\n", ["killed"]),
        ("FAILED " + "x" * 400, ["FAILED " + "x" * 293]),
        ("", []),
    ],
)
def test_what_failed_in_a_step_is_listed_by_test_by_command_or_as_its_last_lines(tmp_path, printed, expected):
    (tmp_path / "log").write_text(printed, encoding="utf-8")
    program = f"set -euo pipefail\n{function('what_failed')}\nwhat_failed {tmp_path}/log"
    assert lines_of(program) == [f"  {line}" for line in expected]


@pytest.mark.parametrize("status", [0, 1])
def test_long_tests_end_with_their_own_status_whatever_the_nightly_keras_does(tmp_path: Path, status: int) -> None:
    """A checkout with one test, and programs in the place of pytest and tox."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(Path(__file__).resolve().parents[2] / ".ci" / "long", tmp_path / ".ci")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_one.py").write_text("import pytest\n\npytestmark = pytest.mark.long\n")
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    for name, line in {
        "pytest": f"exit {status}",
        "tox": "echo '  nightly: IGNORED FAIL code 1 (2.00 seconds)'",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PYTEST": f"{tmp_path}/pytest", "PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def run(*flags: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([tmp_path / ".ci" / "long", *flags], env=environment, capture_output=True, text=True)

    whole, part = run(), run("--slice", "0/9")
    assert (whole.returncode, part.returncode) == (status, status)
    assert whole.stdout.splitlines()[-1] == (
        "nightly Keras (fails nothing):   nightly: IGNORED FAIL code 1 (2.00 seconds)"
    )
    assert "nightly" not in part.stdout
