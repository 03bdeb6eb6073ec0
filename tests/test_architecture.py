"""The architecture, as rules that are read off the source and off a real run."""

from __future__ import annotations

import ast
import dataclasses
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lightkeras as lk

# The package that is imported, which need not be the one of the checkout.
PACKAGE = Path(lk.__file__).resolve().parent
ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.py"))
BACKENDS = {"tensorflow", "jax", "torch"}

# Which names on the top level of the package each of them may import, itself aside. Tests of users import `testing`.
MAY_IMPORT: dict[str, set[str]] = {
    "system": set(),
    "hparams": {"system"},
    "plots": {"system"},
    "data": {"system"},
    "encoders": {"data", "system"},
    "engine": {"data", "system"},
    "optimizers": {"engine", "system"},
    "task": {"engine", "encoders", "data", "hparams", "system"},
    "testing": {"runner", "training", "task", "encoders", "engine", "data", "hparams", "system"},
    "pytest_plugin": {"testing"},
    "runs": {"plots", "hparams", "system"},
    "training": {"task", "engine", "encoders", "data", "runs", "plots", "hparams", "system"},
    "exports": {"training", "task", "encoders", "data", "runs", "hparams", "system"},
    "runner": {"training", "task", "encoders", "data", "runs", "system"},
    "experiment": {"runner", "task", "runs", "hparams", "system"},
    "cross_validation": {"experiment", "runner", "task", "data", "runs", "system"},
    "search": {
        "cross_validation",
        "runner",
        "training",
        "task",
        "engine",
        "encoders",
        "data",
        "runs",
        "plots",
        "hparams",
        "system",
    },
    "tuner": {"search", "runner", "training", "task", "data", "runs", "hparams", "system"},
    "command_line": {
        "tuner",
        "exports",
        "experiment",
        "search",
        "runner",
        "training",
        "task",
        "encoders",
        "data",
        "runs",
        "hparams",
        "system",
    },
    "__init__": {"system"},
}


@dataclasses.dataclass(frozen=True)
class Import:
    """One import statement.

    Args:
        file: The file it is in, relative to the root.
        line: Its line.
        module: The module that is imported, absolute.
        at_module_level: Whether it runs when the file is imported.
        for_types: Whether it stands below `if TYPE_CHECKING`.
    """

    file: str
    line: int
    module: str
    at_module_level: bool
    for_types: bool

    @property
    def part(self) -> str:
        """`engine` for `lightkeras/engine/base.py`."""
        return Path(self.file).parts[1].removesuffix(".py")


def imports_of(path: Path) -> list[Import]:
    file = str(path.relative_to(PACKAGE.parent if path.is_relative_to(PACKAGE) else ROOT))
    found = []

    def add(node: ast.AST, at_module_level: bool, for_types: bool) -> None:
        for child in ast.iter_child_nodes(node):
            names: list[str] = []
            if isinstance(child, ast.Import):
                names = [alias.name for alias in child.names]
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{file}:{child.lineno}: a relative import"
                names = [f"{child.module}.{alias.name}" for alias in child.names]
            found.extend(Import(file, child.lineno, name, at_module_level, for_types) for name in names)
            inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            typing = isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")
            add(child, at_module_level and not inside, for_types or typing)

    add(ast.parse(path.read_text(encoding="utf-8")), True, False)
    return found


@functools.cache
def modules() -> dict[str, Path]:
    """Files of the package by their dotted name below it: `engine.base`."""
    names = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


@functools.cache
def imports() -> tuple[Import, ...]:
    return tuple(found for path in modules().values() for found in imports_of(path))


def ours(found: Import) -> str | None:
    """The module of the package that is imported, below the package: `engine.base`; `None` for others."""
    name = found.module.removeprefix("lightkeras.")
    if name == found.module:
        return "" if name == "lightkeras" else None
    while name not in modules() and name:
        name = name.rpartition(".")[0]
    return name


def test_every_name_on_the_top_level_has_its_line() -> None:
    assert {name.split(".")[0] or "__init__" for name in modules()} == set(MAY_IMPORT)


def test_the_rule_has_no_circle() -> None:
    allowed, ordered = dict(MAY_IMPORT), set[str]()
    while free := [name for name, below in allowed.items() if below <= ordered]:
        ordered.update(free)
        allowed = {name: below for name, below in allowed.items() if name not in free}
    assert allowed == {}


def test_imports_follow_the_rule() -> None:
    wrong = []
    for found in imports():
        target = ours(found)
        if target is not None and target.split(".")[0] not in MAY_IMPORT[found.part] | {found.part}:
            wrong.append(f"{found.file}:{found.line} imports {found.module}")
    assert wrong == []


def test_no_module_imports_itself_through_others() -> None:
    """Without what is imported inside functions, which is imported when all modules are there."""
    below: dict[str, set[str]] = {name: set() for name in modules()}
    for found in imports():
        target = ours(found)
        name = found.file.removesuffix(".py").replace("/", ".").removesuffix(".__init__").partition(".")[2]
        if target and found.at_module_level and not found.for_types and not target.startswith(f"{name}."):
            below[name].add(target)
    while free := [name for name, targets in below.items() if not targets & below.keys()]:
        for name in free:
            del below[name]
    assert below == {}


def test_nothing_but_the_engines_imports_a_backend_when_it_is_imported() -> None:
    wrong = [
        f"{found.file}:{found.line} imports {found.module}"
        for found in imports()
        if found.module.split(".")[0] in BACKENDS
        and found.part != "engine"
        and found.at_module_level
        and not found.for_types
    ]
    assert wrong == []


def test_each_engine_imports_its_own_backend_alone() -> None:
    found = {
        (Path(each.file).parts[2].removesuffix(".py"), each.module.split(".")[0])
        for each in imports()
        if each.part == "engine" and each.module.split(".")[0] in BACKENDS
    }
    assert ("tensorflow", "tensorflow") in found
    # Every engine reads `tf.data`, where it is given that.
    assert {(file, backend) for file, backend in found if file != backend} == {("tf_data", "tensorflow")}


def comparisons_with_a_backend(path: Path) -> Iterator[int]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.Compare, ast.Match)):
            names = {leaf.value for leaf in ast.walk(node) if isinstance(leaf, ast.Constant)}
            if names & BACKENDS:
                yield node.lineno


def test_private_parts_of_keras_are_imported_in_one_folder() -> None:
    folder = "lightkeras/system/keras_internals/"
    wrong = [f"{found.file}:{found.line}" for found in imports() if found.module.startswith("keras.src")]
    assert wrong
    assert [place for place in wrong if not place.startswith(folder)] == []


def test_nothing_but_the_engines_asks_which_backend_it_is() -> None:
    """`hub` refuses the backends it cannot run on; `system` keeps TensorFlow off the others' GPU."""
    asking = {name for name, path in modules().items() if list(comparisons_with_a_backend(path))}
    watching = {"import_hook", "tensorflow", "random_states"}  # for a package of that name that is imported
    expected = {"encoders.hub.layer"} | {f"system.{name}" for name in watching}
    assert {name for name in asking if not name.startswith("engine")} == expected


def test_importing_lightkeras_alone_loads_neither_keras_nor_tensorflow() -> None:
    program = "import sys, lightkeras; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert {"keras", "numpy", "tensorboard", *BACKENDS} & set(done.stdout.split()) == set()
    assert "lightkeras" in done.stdout.split()


def test_reading_a_data_set_is_all_that_loads_tensorflow_in_data() -> None:
    program = """
import os, sys
os.environ["KERAS_BACKEND"] = "nothing"
import lightkeras.data, lightkeras.hparams, lightkeras.runs.results, lightkeras.training.decisions
print("keras" in sys.modules, "tensorflow" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_imports_public_names_alone(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert [found.module for found in imports_of(path) if found.module.startswith("lightkeras.")] == []
    used = {
        node.attr
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "lk"
    }
    assert used
    assert used <= set(lk.__all__)
    assert len(text.splitlines()) < 200


def mirrored(path: Path) -> Path:
    """The test file of a module; that of a package is named after its folder."""
    inside = path.relative_to(PACKAGE)
    name = inside.parent.name if inside.name == "__init__.py" else inside.stem
    return ROOT / "tests" / inside.parent / f"test_{name}.py"


def test_every_module_of_more_than_40_lines_has_its_test_file() -> None:
    def is_long(path: Path) -> bool:
        text = path.read_text()
        defines = any(isinstance(node, (ast.ClassDef, ast.FunctionDef)) for node in ast.parse(text).body)
        return defines and len(text.splitlines()) > 40

    long = {name: path for name, path in modules().items() if name and is_long(path)}
    assert len(long) > 100
    assert [name for name, path in long.items() if not mirrored(path).exists()] == []


def test_a_folder_of_tests_that_mirrors_one_of_modules_holds_no_other_test_files() -> None:
    of_several = {  # all backends, or many parts at once
        *("engine/test_conformance.py", "engine/test_every_engine.py", "engine/test_every_source.py"),
        *("runs/loggers/test_server.py", "search/test_tensorboard.py"),
        "training/callbacks/test_stock_callbacks.py",
    }
    expected = {mirrored(path) for path in modules().values()}
    folders = {path.parent for path in expected} - {ROOT / "tests"}
    found = {path for folder in folders for path in folder.glob("test_*.py")}
    assert {path.relative_to(ROOT / "tests").as_posix() for path in found - expected} == of_several


def test_there_are_experiments_to_look_at() -> None:
    assert {"imdb_hub"} <= {path.stem for path in EXPERIMENTS}


def lines_of_examples(node: ast.ClassDef) -> int:
    """Lines of the examples in the docstrings of a class and its methods, which are documentation."""
    described = [inner for inner in ast.walk(node) if isinstance(inner, (ast.ClassDef, ast.FunctionDef))]
    examples = [(ast.get_docstring(inner) or "").partition("\nExamples:\n")[2] for inner in described]
    return sum(len(text.splitlines()) + 3 for text in examples if text)


def test_no_class_has_more_than_250_lines() -> None:
    long = [
        f"{path}: {node.name}, {node.end_lineno - node.lineno + 1} lines"
        for path in sorted((ROOT / "lightkeras").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno - lines_of_examples(node) >= 250
    ]
    assert long == []
