"""When a script with `lk.cli` imports Keras. Scripts run in processes of their own, most with a small Keras."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# What was executed, in order; the finder that registers classes is left out, because a small Keras has none of its own.
BEGIN = """
import sys
executed = sys.executed = []
import lightkeras as lk
sys.meta_path[:] = [found for found in sys.meta_path if type(found).__module__ != "lightkeras.system.import_hook"]
"""
END = """
if len(sys.argv) > 1:
    lk.cli(None)
"""


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a Keras of a few lines, before all others."""
    files = {
        "__init__": "from keras import layers, ops, wrappers\nfrom keras.src.core import Model\n__version__ = '3.99'\n",
        "layers/__init__": "from keras.src.core import Dense\n",
        "ops/__init__": "from keras import layers\ndef add(a, b):\n    return a + b\n",
        "wrappers/__init__": "from keras.src.core import Dense as Classifier\n",
        "src/__init__": "",
        "src/core": "class Model:\n    pass\nclass Dense(Model):\n    pass\n",
        "src/other": "import keras\nkind = keras.Model\n",
    }
    for name, text in files.items():
        path = tmp_path / "keras" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"import sys\nsys.executed.append(__name__)\n{text}")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    return tmp_path


def output_of(path: Path, code: str, *arguments: str) -> str:
    path.write_text(code)
    done = subprocess.run([sys.executable, path, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


ALL = "['keras', 'keras.layers', 'keras.src', 'keras.src.core', 'keras.ops']"


@pytest.mark.parametrize(
    "imports",
    [
        "import keras\nfrom keras import layers, ops",
        "from keras import ops, layers\nimport keras",
        "import keras.layers as layers, keras.ops\nops = keras.ops\nimport keras",
    ],
)
def test_keras_is_executed_at_the_first_use_in_the_order_of_an_ordinary_import(small, imports):
    code = f"""{BEGIN}
{imports}
print(executed, keras, layers, sep="; ")
print(layers.Dense.__name__, executed)
import types
print({{type(module) for module in (keras, layers, ops)}} == {{types.ModuleType}})
print(keras.layers is layers is sys.modules["keras.layers"], keras.ops is ops, keras is sys.modules["keras"])
print(type(keras.__loader__).__name__, type(layers.__spec__.loader).__name__, keras.__version__, ops.add(1, 2))
print([found.name for found in sys.meta_path if type(found).__name__ == "_Finder" and found.name == "keras"])
{END}"""
    before, use, ordinary, same, rest, left = output_of(small / "script.py", code).splitlines()
    folder = small / "keras"
    assert before == (
        f"[]; <module 'keras' from '{folder}/__init__.py'>; <module 'keras.layers' from '{folder}/layers/__init__.py'>"
    )
    assert use == f"Dense {ALL}"
    assert (ordinary, same, rest, left) == (
        "True",
        "True True True",
        "SourceFileLoader SourceFileLoader 3.99 3",
        "[]",
    )


@pytest.mark.parametrize(
    ("use", "found"),
    [
        ("from keras import Model; print(Model.__name__)", "Model"),
        ("from keras.layers import Dense; print(Dense.__name__)", "Dense"),
        ("import keras.src.core; print(keras.src.core.Model.__name__)", "Model"),
        ("from keras.src import other; print(other.kind.__name__)", "Model"),
        ("import keras; print(isinstance(1, keras.Model))", "False"),
        ("import keras; print(keras.__version__)", "3.99"),
        ("import keras; print('Model' in dir(keras), 'Model' in vars(keras))", "True True"),
        ("import keras; keras.Model = 3; print(keras.Model, sys.modules['keras'].Model)", "3 3"),
        ("import keras, pickle; print(pickle.loads(b'ckeras.layers\\nDense\\n.').__name__)", "Dense"),
        (
            "from keras import wrappers; import keras; print(keras.wrappers is wrappers, wrappers.Classifier.__name__)",
            "True Dense",
        ),
        ("import keras, inspect; print(len(inspect.getsource(keras).splitlines()))", "5"),
    ],
)
def test_what_needs_the_code_of_keras_imports_it(small, use, found):
    lines = output_of(
        small / "script.py", f"{BEGIN}\n{use}\nprint(sorted(executed)[0], len(executed))\n{END}"
    ).splitlines()
    assert lines[0] == found
    assert lines[1] in ("keras 5", "keras 6")  # with `keras.src.other`, or `keras.wrappers`


def test_a_part_that_training_does_not_use_is_executed_when_it_is_used(small):
    code = f"""{BEGIN}
import keras
print(keras.Model.__name__, executed)
print(keras.wrappers.Classifier.__name__, executed[-1], type(keras.wrappers).__name__)
{END}"""
    assert output_of(small / "script.py", code).splitlines() == [f"Model {ALL}", "Dense keras.wrappers module"]


def test_a_name_that_keras_lacks_is_the_error_of_python(small):
    code = f"""{BEGIN}
import keras
for line in ("from keras import layerz", "import keras.layerz", "keras.layerz"):
    try:
        exec(line)
    except (ImportError, AttributeError) as error:
        print(type(error).__name__, str(error).split(" (")[0])
{END}"""
    assert output_of(small / "script.py", code).splitlines() == [
        "ImportError cannot import name 'layerz' from 'keras'",
        "ModuleNotFoundError No module named 'keras.layerz'",
        "AttributeError module 'keras' has no attribute 'layerz'",
    ]


def test_threads_that_use_keras_at_once_import_it_once_and_wait_for_it(small):
    waits = "import threading\nsys.began.set()\nassert sys.proceed.wait(60)\n"
    init = small / "keras" / "__init__.py"
    init.write_text(init.read_text().replace("from keras import layers", f"{waits}from keras import layers"))
    code = f"""{BEGIN}
import threading
sys.began, sys.proceed = threading.Event(), threading.Event()
import keras
from keras import layers
found = []
threads = [threading.Thread(target=lambda: found.append((keras.Model.__name__, layers.Dense.__name__))) for _ in "1234"]
for thread in threads:
    thread.start()
sys.began.wait(60)
print(found)
sys.proceed.set()
for thread in threads:
    thread.join()
print(set(found), executed.count("keras"))
{END}"""
    assert output_of(small / "script.py", code).splitlines() == ["[]", "{('Model', 'Dense')} 1"]


def test_an_import_that_fails_raises_at_each_use_and_can_succeed_later(small):
    init = small / "keras" / "__init__.py"
    init.write_text(init.read_text() + "if not sys.works:\n    raise ImportError('cannot start')\n")
    code = f"""{BEGIN}
sys.works = False
import keras
from keras import layers
for module in (keras, layers):
    try:
        module.Dense
    except ImportError as error:
        print(error)
sys.works = True
print(layers.Dense.__name__, keras.Model.__name__, sys.modules["keras"] is keras)
{END}"""
    assert output_of(small / "script.py", code).splitlines() == ["cannot start", "cannot start", "Dense Model True"]


def test_threads_that_wait_for_an_import_that_fails_get_its_error(small):
    init = small / "keras" / "__init__.py"
    waits = "import threading\nsys.began.set()\nassert sys.proceed.wait(60)\n"
    init.write_text(f"{init.read_text()}{waits}raise ImportError('cannot start')\n")
    code = f"""{BEGIN}
import threading
sys.began, sys.proceed = threading.Event(), threading.Event()
import keras
found = []
def use():
    try:
        keras.Model
    except Exception as error:
        found.append(f"{{type(error).__name__}} {{error}}")
threads = [threading.Thread(target=use) for _ in range(20)]
for thread in threads:
    thread.start()
sys.began.wait(60)
sys.proceed.set()
for thread in threads:
    thread.join()
print(len(found), *set(found))
{END}"""
    assert output_of(small / "script.py", code) == "20 ImportError cannot start"


def test_finding_a_module_of_keras_does_not_import_it(small):
    code = f"""{BEGIN}
import importlib.util
print(importlib.util.find_spec("keras.src").name, executed)
import keras.src.core
import keras.src.other
print(keras.src is sys.modules["keras.src"], keras.src.__spec__.loader is keras.src.__loader__, executed)
print(keras.src.other.__spec__.loader is keras.src.other.__loader__)
{END}"""
    assert output_of(small / "script.py", code).splitlines() == [
        "keras.src []",
        f"True True {ALL[:-1]}, 'keras.src.other']",
        "True",
    ]


def test_a_postponed_module_is_pickled_by_name(small):
    code = f"""{BEGIN}
import pickle
import keras
from keras import layers
print([pickle.loads(pickle.dumps(module)) is module for module in (keras, layers)], executed)
{END}"""
    assert output_of(small / "script.py", code) == "[True, True] []"


def test_a_script_runs_in_the_debugger(small):
    (small / "script.py").write_text(f"{BEGIN}\nimport keras\nprint(str(executed), keras.Model.__name__)\n{END}")
    command = [sys.executable, "-m", "pdb", "-c", "continue", small / "script.py"]
    done = subprocess.run(command, input="quit\n", capture_output=True, text=True, check=True)
    assert "[] Model" in done.stdout
    assert "Error" not in done.stdout


USES = "import keras\nprint(executed != [])"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (f"{BEGIN}{USES}{END}", "False"),
        (f"{BEGIN}def main():\n    lk.cli(None)\n{USES}", "True"),  # no `lk.cli` on the top level
        (f"{BEGIN}{USES}", "True"),
    ],
)
def test_a_script_without_a_command_line_postpones_nothing(small, code, expected):
    assert output_of(small / "script.py", code) == expected


def test_a_module_or_a_string_that_is_run_postpones_nothing(small):
    code = f"{BEGIN}{USES}{END}"
    (small / "program.py").write_text(code)
    for arguments in (["-c", code], ["-m", "program"]):
        done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=small, check=True)
        assert done.stdout == "True\n", arguments


def test_a_library_that_a_script_imports_first_postpones_nothing(small):
    (small / "library.py").write_text(f"{BEGIN}{USES}{END}")
    assert (
        output_of(small / "script.py", "import library, lightkeras\nif library is None:\n    lightkeras.cli()\n")
        == "True"
    )


# ---------------------------------------------------------------------- with the real Keras

EXPERIMENTS = ["imdb_hub"] + [
    pytest.param(name, marks=pytest.mark.long)
    for name in sorted(path.stem for path in (ROOT / "experiments").glob("*.py"))
    if name not in ("imdb_hub", "keras_io_text_transformer", "mnist_expert")  # these extend classes of Keras
]
HEAVY = {"tensorflow", "matplotlib", "keras_tuner", "tensorboard", "pandas", "sklearn", "scipy", "jinja2", "keras.src"}


def loaded(tmp_path: Path, experiment: str, *arguments: str) -> tuple[int, set[str], str]:
    """Status of an experiment, the heavy packages that it imported, and its errors."""
    (tmp_path / "sitecustomize.py").write_text(
        f"import atexit, sys\natexit.register(lambda: print('loaded', *({HEAVY} & set(sys.modules)), sep=','))\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [sys.executable, ROOT / "experiments" / f"{experiment}.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    head, *found = done.stdout.splitlines()[-1].split(",")
    assert head == "loaded", done.stderr
    return done.returncode, set(found), done.stderr


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_the_help_of_an_experiment_imports_no_keras(tmp_path, experiment):
    allowed = {"matplotlib"} if experiment == "auto_mpg" else set()  # it imports it itself
    status, found, _ = loaded(tmp_path, experiment, "--help")
    assert (status, found - allowed) == (0, set())


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--hp.dropuot", "0.1"], "Did you mean '--hp.dropout'"),
        (["tune", "--tuner.trials", "many"], "--tuner.trials: Expected int"),
        pytest.param(["--hp.dropout", "7"], "is outside its declared range", marks=pytest.mark.long),
        pytest.param(["--resume"], "--resume needs --run_dir", marks=pytest.mark.long),
        pytest.param(["test"], "required: --run_dir", marks=pytest.mark.long),
        pytest.param(["predict", "--run_dir", "nowhere", "a"], "nowhere", marks=pytest.mark.long),
    ],
)
def test_a_mistake_in_the_flags_imports_no_keras(tmp_path, arguments, error):
    status, found, printed = loaded(tmp_path, "imdb_hub", *arguments)
    assert (status, found) == (2, set())
    assert error in printed


def test_a_backend_that_is_missing_or_misspelled_is_an_error_once_the_flags_are_read(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflwo")
    status, _, printed = loaded(tmp_path, "auto_mpg", "--run_dir", "run")
    assert status == 2
    assert printed == (
        "error: 'tensorflwo' (from KERAS_BACKEND or keras.json) is not a Keras backend. Did you mean 'tensorflow'? "
        "Valid names: jax, tensorflow, torch.\n"
    )
    assert not (tmp_path / "run").exists()


def test_a_script_runs_as_before_with_classes_registered_and_annotations_that_are_evaluated(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("""import gc
import sys

import lightkeras as lk

import keras
from keras import layers
from lightkeras.testing import TwoMoons


class Moons(TwoMoons):
    def build_model(self):
        print(gc.isenabled(), gc.get_freeze_count() > 100_000)
        print("built", type(keras).__name__, layers.Dense.__module__)
        print(keras.saving.get_registered_object("lightkeras>HubLayer") is lk.HubLayer)
        return super().build_model()


if __name__ == "__main__":
    print("keras.src" in sys.modules)
    lk.cli(Moons)
    print("sklearn" in sys.modules, keras.wrappers.SKLearnClassifier.__name__, "sklearn" in sys.modules)
""")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, script, "--runner.max_epochs", "1", "--dry_run", "--run_dir", tmp_path / "run"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "False"
    assert lines[1] == "True True"
    assert lines[2].startswith("built module keras.src.layers")
    assert lines[3] == "True"
    assert lines[-1] == "False SKLearnClassifier True"
