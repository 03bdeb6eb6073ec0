"""What `import lightkeras` does to the imports of Keras and TensorFlow, each case in a process of its own."""

from __future__ import annotations

import gc
import io
import subprocess
import sys
from pathlib import Path

import pytest

from lightkeras.system import import_hook


def run(code: str, *flags: str, **settings) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, text=True, **settings)


def said(code: str, **settings) -> str:
    done = run(code, **settings)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder before all others, for a `tensorflow` that behaves as a test needs it."""
    here = str(Path(__import__("lightkeras").__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{here}")
    (tmp_path / "tensorflow").mkdir()
    return tmp_path / "tensorflow" / "__init__.py"


def test_importing_lightkeras_loads_neither_keras_nor_tensorflow():
    code = "import sys, lightkeras; print(sorted({'keras', 'tensorflow', 'numpy', 'rich'} & set(sys.modules)))"
    assert said(code) == "[]"


def test_every_public_name_can_be_used_and_an_unknown_one_is_an_attribute_error():
    code = """
import lightkeras as lk
assert set(dir(lk)) == set(lk.__all__)
print([name for name in lk.__all__ if getattr(lk, name, None) is None])
try:
    lk.Trainer
except AttributeError as error:
    print(error)
"""
    assert said(code) == "[]\nNo lightkeras attribute Trainer"


CLASSES = ("HubLayer", "BagEmbedding", "NgramBags", "LastWords", "LazyAdam")
REGISTERED = f"print([keras.saving.get_registered_object('lightkeras>' + n).__name__ for n in {CLASSES}])"


@pytest.mark.parametrize(
    "imports",
    [
        pytest.param("import lightkeras, keras", marks=pytest.mark.long),
        *("import keras, lightkeras", "import lightkeras.encoders.hub.layer, keras"),
    ],
)
def test_our_classes_are_registered_whichever_is_imported_first(imports):
    assert said(f"{imports}\n{REGISTERED}") == str(list(CLASSES))


def test_the_chatter_of_tensorflow_is_held_back():
    done = run("import lightkeras, tensorflow; print(tensorflow.__name__)")
    assert (done.returncode, done.stdout, done.stderr) == (0, "tensorflow\n", "")


def test_what_was_held_back_is_shown_if_the_import_fails(fake):
    fake.write_text("import os\nos.write(2, b'no AVX here\\n')\nraise ImportError('cannot start')\n")
    done = run("import lightkeras, tensorflow")
    assert done.returncode == 1
    assert done.stderr.startswith("no AVX here\nTraceback")
    assert done.stderr.endswith("ImportError: cannot start\n")


def test_after_the_import_the_standard_error_is_back(fake):
    fake.write_text("import os, sys\nos.write(2, b'chatter')\nsys.stderr.write('half a line')\n")
    done = run("import sys, lightkeras, tensorflow; print('mine', file=sys.stderr)")
    assert done.stderr == "mine\n"


def test_a_process_without_a_standard_error_can_import(fake):
    fake.write_text("import os\n")
    code = f"{sys.executable} -c 'import lightkeras, tensorflow; print(tensorflow.__name__)' 2>&-"
    done = subprocess.run(code, shell=True, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "tensorflow\n")


def test_a_program_that_replaced_sys_stderr_can_import(fake):
    fake.write_text("import sys\nif sys.stderr:\n    sys.stderr.write('to whom')\n")
    assert said("import io, sys; sys.stderr = io.StringIO(); import lightkeras, tensorflow; print(1)") == "1"
    assert said("import sys; sys.stderr = None; import lightkeras, tensorflow; print(2)") == "2"


def test_finding_a_module_imports_nothing_and_its_spec_is_whole(fake):
    fake.write_text("x = 1\n")
    (fake.parent / "data.txt").write_text("data")
    code = """
import importlib.util, lightkeras, pickle, pkgutil, sys
spec = importlib.util.find_spec("tensorflow")
print(spec.name, spec.origin.endswith("tensorflow/__init__.py"), "tensorflow" in sys.modules)
print(spec.loader.get_source("tensorflow"), spec.loader.is_package("tensorflow"))
copy = pickle.loads(pickle.dumps(spec))
print(copy.origin == spec.origin, copy.submodule_search_locations == spec.submodule_search_locations)
print(importlib.util.find_spec("no_such_module_at_all"))
print(pkgutil.get_data("tensorflow", "data.txt"))
"""
    assert said(code).splitlines() == [
        "tensorflow True False",
        "x = 1",
        " True",
        "True True",
        "None",
        "b'data'",
    ]


def test_a_module_keeps_the_loader_it_would_have_had(fake):
    fake.write_text("x = 1\n")
    (fake.parent / "data.txt").write_text("data")
    code = """
import lightkeras, importlib.resources, inspect, tensorflow
print(type(tensorflow.__loader__).__name__, type(tensorflow.__spec__.loader).__name__)
print(inspect.getsource(tensorflow).strip())
print(importlib.resources.files("tensorflow").joinpath("data.txt").read_text())
"""
    assert said(code).splitlines() == ["SourceFileLoader SourceFileLoader", "x = 1", "data"]


def test_a_module_can_be_reloaded(fake):
    fake.write_text("import os\nos.write(2, b'chatter')\ncount = globals().get('count', 0) + 1\n")
    done = run("import importlib, lightkeras, tensorflow; print(importlib.reload(tensorflow).count)")
    assert (done.stdout, done.stderr) == ("2\n", "")


def test_lightkeras_can_be_reloaded_and_watches_once():
    code = """
import importlib, sys, lightkeras
importlib.reload(lightkeras)
print([type(finder).__module__ for finder in sys.meta_path].count("lightkeras.system.import_hook"))
"""
    assert said(code) == "1"


def test_a_missing_tensorflow_is_an_ordinary_import_error(fake):
    fake.parent.rmdir()
    code = """
import sys, lightkeras
sys.path[:] = [folder for folder in sys.path if "site-packages" not in folder]
import tensorflow
"""
    done = run(code)
    assert done.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'tensorflow'"


def test_a_module_can_be_run_with_dash_m(fake):
    fake.write_text("")
    (fake.parent / "__main__.py").write_text("print('ran', __name__)")
    code = "import lightkeras, runpy; runpy.run_module('tensorflow', run_name='__main__', alter_sys=True)"
    assert said(code) == "ran __main__"


def test_pytest_runs_beside_it(tmp_path):
    (tmp_path / "conftest.py").write_text("import lightkeras\n")
    (tmp_path / "test_a.py").write_text("def test_a():\n    assert [1] == [1]\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)], capture_output=True, text=True
    )
    assert "1 passed" in done.stdout


def test_a_level_of_tensorflows_messages_that_was_asked_for_is_kept(monkeypatch):
    code = "import os, lightkeras; print(os.environ['TF_CPP_MIN_LOG_LEVEL'])"
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    assert said(code) == "3"
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    assert said(code) == "0"


HIDDEN = """
import sys, lightkeras
class Hides:
    def find_spec(self, name, path, target=None):
        if name == {name!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hides())
{use}
"""


@pytest.mark.parametrize("name", ["jax", "torch", "tensorflow"])
def test_a_backend_that_is_not_installed_is_named_with_its_extra(monkeypatch, name):
    monkeypatch.setenv("KERAS_BACKEND", name)
    extra = "" if name == "tensorflow" else f"[{name}]"
    expected = (
        f"ModuleNotFoundError: The Keras backend {name!r} (from KERAS_BACKEND or keras.json) is not installed: "
        f"`pip install 'lightkeras{extra}'`, or set KERAS_BACKEND to one that is: tensorflow, jax or torch."
    )
    done = run(HIDDEN.format(name=name, use="import keras"))
    assert done.stderr.splitlines()[-1] == expected
    # Without what Keras said: one error, not two.
    assert done.stderr.count("Error: ") == 1
    assert run(HIDDEN.format(name=name, use="lightkeras.Runner")).stderr.splitlines()[-1] == expected


def test_a_backend_whose_name_is_misspelled_is_reported_as_unknown(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflwo")
    done = run("import lightkeras, keras")
    assert done.stderr.splitlines()[-1] == (
        "ValueError: 'tensorflwo' (from KERAS_BACKEND or keras.json) is not a Keras backend. "
        "Did you mean 'tensorflow'? Valid names: jax, tensorflow, torch."
    )
    assert done.stderr.count("Error: ") == 1


class Stream(io.StringIO):
    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


@pytest.mark.parametrize(
    ("terminal", "kind", "expected"),
    [(True, "xterm", "importing ...\r\x1b[2K"), (True, "dumb", ""), (False, "xterm", "")],
)
def test_on_a_terminal_an_import_is_shown_while_it_lasts(monkeypatch, terminal, kind, expected):
    stream = Stream(terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", kind)
    with import_hook.shown_on_terminal("importing ..."):
        assert stream.getvalue() == expected[:13]
    assert stream.getvalue() == expected


@pytest.mark.parametrize("enabled", [True, False])
def test_collections_are_left_out_of_an_import_and_back_afterwards(enabled):
    (gc.enable if enabled else gc.disable)()
    try:
        with pytest.raises(SystemExit, match="False"), import_hook.without_collections():
            raise SystemExit(str(gc.isenabled()))
        assert gc.isenabled() == enabled
    finally:
        gc.enable()
