"""Options, the order of the tests, and the summary of what they cost.

Tests that repeat what another one shows (more kills, other backends, the real data) are marked `long`. A plain run
leaves them out and reports how many; `pytest -m long` runs them, and `--slice K/N` a part of them.
"""

from __future__ import annotations

import collections
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _pytest.doctest import DoctestModule
from hypothesis import settings

# The machine that runs the tests may be busy: no property depends on how long an example took.
settings.register_profile("lightkeras", deadline=None)
settings.load_profile("lightkeras")

# Files that take a minute and more. Where tests run side by side these begin first, the longest before the others: all
# processes wait for the file that ends last. Before all of them come the experiments on the real data.
FIRST = (
    "on_backends/test_jax.py",
    "on_backends/test_torch.py",
    "engine/test_conformance.py",
    "faults/test_kills.py",
    "scenarios/test_resume.py",
    "search/workers/test_ray.py",
    "faults/",
    "training/callbacks/test_stock_callbacks.py",
    "search/workers/test_pool.py",
    "test_tuner.py",
    "command_line/test_cli.py",
    "scenarios/",
    "test_task.py",
    "runs/loggers/test_server.py",
    "test_testing.py",
    "training/finders/test_batch_size.py",
    "experiments/",
    "end_to_end/",
    "training/test_freezing.py",
    "training/test_pictures.py",
    "test_runner.py",
    "optimizers/test_lazy.py",
    "search/",
)
TESTS = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lightkeras")
    group.addoption("--slice", metavar="K/N", help="of the tests marked `long`, run the K-th of N parts, from 0")
    group.addoption("--kills", type=int, help="how often each task of tests/faults/test_kills.py is killed")
    group.addoption(
        "--search-kills", type=int, default=2, help="how often each search of tests/faults/test_searches.py is killed"
    )


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> Iterator[None]:
    """Keeps pytest from looking for doctests in test files.

    It would import a file for them first, take an error of that import for a doctest to skip, and then find the module,
    half imported and without its tests, in place of the error.
    """
    found = yield
    return [collector for collector in found if not isinstance(collector, DoctestModule)]


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Gives this process a cache folder of its own in place of the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIGHTKERAS_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a program `moons.py`, which is empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["moons.py"])
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("LIGHTKERAS_DATA_DIR", raising=False)
    return tmp_path


# ---------------------------------------------------------------------- which tests run, and in which order


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One process more than there are cores: for a fifth of their time tests wait, for clusters, locks and kills."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sorts the tests, deselects the long ones, and skips those of other backends and of absent real data.

    `@pytest.mark.backends("tensorflow", reason="...")` names the backends that a test runs on.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=place)
    changing = [item.nodeid for item in items if " at 0x" in item.nodeid]
    if changing:
        raise pytest.UsageError(
            "Tests whose names differ between processes cannot run side by side. Give the parameters `ids=` without an "
            "address: " + ", ".join(changing)
        )
    # Keras is not imported for this: some tests are about what happens when it is.
    keras = sys.modules.get("keras")
    backend = os.environ.get("KERAS_BACKEND", "tensorflow") if keras is None else keras.backend.backend()
    for item in items:
        if item.get_closest_marker("any_backend") and backend != "tensorflow":
            item.add_marker(pytest.mark.long)
    deselect_long_tests(config, items)
    data = os.environ.get("LIGHTKERAS_DATA_DIR")
    for item in items:
        if item.get_closest_marker("real") and not data:
            item.add_marker(pytest.mark.skip(reason="needs LIGHTKERAS_DATA_DIR, the folder of the real data"))
        for marker in item.iter_markers("backends"):
            if backend not in marker.args:
                reason = marker.kwargs.get("reason", "it tests that backend alone")
                item.add_marker(pytest.mark.skip(reason=f"runs on {', '.join(marker.args)} only: {reason}"))


def place(item: pytest.Item) -> int:
    """The number of the first entry of `FIRST` that a test belongs to, `len(FIRST)` if none; -1: on the real data."""
    if item.get_closest_marker("real") and "experiments" in item.path.parts:
        return -1
    path = item.path.relative_to(TESTS).as_posix() if item.path.is_relative_to(TESTS) else ""
    return next((number for number, start in enumerate(FIRST) if path.startswith(start)), len(FIRST))


LEFT_OUT = pytest.StashKey[int]()  # number of long tests that a plain run deselected


def deselect_long_tests(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects the long tests, unless `-m` or a test's name asks for them; and those outside of the slice."""
    marked = config.option.markexpr
    wanted = "long" in marked or "real" in marked or any("::" in arg for arg in config.args)
    long = [item for item in items if item.get_closest_marker("long")]
    number, count = slice_of(config)
    left_out = [item for at, item in enumerate(long) if not (wanted and at % count == number)]
    if not left_out:
        return
    items[:] = [item for item in items if item not in set(left_out)]
    config.hook.pytest_deselected(items=left_out)
    if not wanted:
        config.stash[LEFT_OUT] = len(left_out)
        output = getattr(config, "workeroutput", None)  # what a process of pytest-xdist hands to the one that began it
        if output is not None:
            output["left_out"] = len(left_out)


def slice_of(config: pytest.Config) -> tuple[int, int]:
    """The part of the long tests that `--slice` names: every N-th, so that the tests of a file, which cost about the
    same, are spread over all parts.
    """
    if config.option.slice is None:
        return 0, 1
    number, count = map(int, config.option.slice.split("/"))
    if not 0 <= number < count:
        raise pytest.UsageError(f"--slice {config.option.slice}: expected K/N with K from 0 to N - 1")
    return number, count


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Takes the number of tests left out from a process of pytest-xdist: each has collected all of them."""
    if "left_out" in getattr(node, "workeroutput", {}):
        node.config.stash[LEFT_OUT] = node.workeroutput["left_out"]


# ---------------------------------------------------------------------- what they cost

_cpu_s = 0.0  # of this process and its children, when the last phase of a test ended


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[Any]:
    """Adds the CPU time of each phase of a test to its report, that of the processes that it started included."""
    global _cpu_s
    report = yield
    forked = sys.modules.get("forked")
    now = sum(os.times()[:4]) + (forked.cpu_s if forked else 0.0)
    report.cpu_s, _cpu_s = now - _cpu_s, now
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Shows the results on the real data, what each folder cost, and how many long tests were left out."""
    reports = [report for found in terminalreporter.stats.values() for report in found]
    properties = [pair for report in reports for pair in getattr(report, "user_properties", ())]
    lines = [line for name, line in properties if name == "on the real data"]
    if lines:
        terminalreporter.section("on the real data")
        for line in lines:
            terminalreporter.line(line)
    if config.option.durations:
        show_costs(terminalreporter, [report for report in reports if hasattr(report, "cpu_s")])
    if config.stash.get(LEFT_OUT, 0):
        terminalreporter.line(
            f"{config.stash[LEFT_OUT]} long tests were left out: `pytest -m long` runs them, .ci/long all of them"
        )


def show_costs(terminalreporter: pytest.TerminalReporter, reports: list[Any]) -> None:
    """A table of the time that tests took, by folder, and by file for the most expensive files."""
    folders: collections.Counter[str] = collections.Counter()
    files: collections.Counter[str] = collections.Counter()
    waited: collections.Counter[str] = collections.Counter()
    for report in reports:
        path = report.nodeid.partition("::")[0]
        folder = path.rpartition("/")[0] or "."
        for counter, key in ((folders, folder), (files, path)):
            counter[key] += report.cpu_s
        waited[folder] += report.duration
        waited[path] += report.duration
    terminalreporter.section(f"CPU seconds: {sum(folders.values()):.0f}")
    for counter, count in ((folders, None), (files, 25)):
        for key, cpu_s in counter.most_common(count):
            if cpu_s >= 1:
                terminalreporter.line(f"{cpu_s:7.0f} CPU s {waited[key]:7.0f} s  {key}")
        terminalreporter.line("")
