"""JAX's compilation cache on disk."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, sys
os.environ["KERAS_BACKEND"] = "jax"
import lightkeras as lk
import jax
from lightkeras.testing import TwoMoons
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
result = lk.Runner(max_epochs=2, run_dir=sys.argv[1], progress=False).fit(TwoMoons())
lk.Runner(run_dir=sys.argv[1], progress=False).evaluate(TwoMoons(), split="test")
print("tensorflow" in sys.modules, events.count("/jax/compilation_cache/cache_misses"),
      events.count("/jax/compilation_cache/cache_hits"), result.history["train/loss"])
"""


def run_program(folder, run, **environment):
    command = [sys.executable, "-c", PROGRAM, str(folder / run)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder), **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split(maxsplit=3)


def test_a_run_imports_no_tensorflow_and_a_second_one_finds_its_steps_compiled(tmp_path):
    imported, misses, _, losses = run_program(tmp_path, "a", JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")
    assert imported == "False"
    assert int(misses) > 0
    assert list((tmp_path / "lightkeras" / "jax").glob("*-cache"))
    again = run_program(tmp_path, "b", JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")
    assert (again[0], again[1], again[3]) == ("False", "0", losses)
    assert int(again[2]) >= int(misses)


@pytest.mark.long  # it is a variable of JAX
def test_the_cache_is_off_where_jax_disables_it(tmp_path):
    run_program(tmp_path, "a", JAX_ENABLE_COMPILATION_CACHE="false")
    assert not (tmp_path / "lightkeras").exists()
