"""Programs that are forked behave like programs that Python starts."""

from __future__ import annotations

import os
import signal
import subprocess

import forked
import pytest


@pytest.mark.parametrize(
    ("code", "status", "out", "err"),
    [
        ("import sys; print(sys.argv[1:], sys.stdin.read())", 0, "['a'] given\n", ""),
        ("import os; print(os.environ['COLOR'], os.getcwd())", 0, "red {cwd}\n", ""),
        ("import sys; sys.exit(3)", 3, "", ""),
        ("import sys; sys.exit('wrong')", 1, "", "wrong\n"),
        ("import atexit; atexit.register(print, 'end'); print('begin')", 0, "begin\nend\n", ""),
        ("import os; os.kill(os.getpid(), 9)", -9, "", ""),
        ("raise KeyboardInterrupt", -2, "", "Traceback"),
        (
            "1 / 0",
            1,
            "",
            'Traceback (most recent call last):\n  File "<string>", line 1, in <module>\nZeroDivisionError',
        ),
    ],
)
def test_a_program_has_its_own_arguments_streams_environment_and_end(code, status, out, err, tmp_path):
    done = forked.run(["-c", code, "a"], cwd=tmp_path, env={**os.environ, "COLOR": "red"}, stdin="given")
    assert (done.returncode, done.stdout) == (status, out.format(cwd=tmp_path))
    assert done.stderr.startswith(err)
    assert bool(done.stderr) == bool(err)


def test_a_program_is_the_main_module(tmp_path):
    (tmp_path / "helper.py").write_text("VALUE = 7\n")
    (tmp_path / "program.py").write_text("import __main__, helper\nprint(__main__.__file__, __name__, helper.VALUE)\n")
    done = forked.run(["program.py"], cwd=tmp_path)
    assert done.stdout == f"{tmp_path / 'program.py'} __main__ 7\n", done.stderr


def test_a_program_can_be_signalled_and_waited_for():
    process = forked.Process(["-c", "import sys; print('here', flush=True); sys.stdin.read()"], stdin=subprocess.PIPE)
    assert process.stdout.readline() == "here\n"
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.01)
    process.send_signal(signal.SIGTERM)
    assert process.communicate() == ("", "")
    assert process.returncode == -signal.SIGTERM
