import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# The machine that runs the tests may be busy: what a property says does not depend on how long it took.
settings.register_profile("lightkeras", deadline=None)
settings.load_profile("lightkeras")

# Files that take minutes. Where tests run side by side these are begun first, the longest before the others:
# whatever is begun last, the others wait for.
FIRST = (
    "on_backends/test_jax.py",
    "on_backends/test_torch.py",
    "faults/test_kills.py",
    "engine/test_conformance.py",
    "scenarios/test_resume.py",
    "search/workers/test_ray.py",
    # Of these, those that train the longest on the real data.
    "experiments/test_text_guide.py",
    "experiments/test_keras_io_text_transformer.py",
    "experiments/test_overfit_underfit.py",
    "experiments/test_mnist_expert.py",
    "experiments/test_tune_fashion.py",
    "experiments/test_keras_io_gan.py",
    "experiments/",
    "test_tuner",
    "training/callbacks/test_stock_callbacks.py",
)
TESTS = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults")
    group.addoption("--kills", type=int, default=20, help="how often each task of tests/faults/test_kills.py is killed")
    group.addoption(
        "--search-kills", type=int, default=3, help="how often each search of tests/faults/test_searches.py is killed"
    )
    group.addoption("--kill-seed", type=int, default=0, help="seed of the instants")
    group.addoption(
        "--every-fault", type=int, default=5, help="which calls fail in tests/faults/test_disk.py: each n-th"
    )


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What lightkeras keeps for later runs is kept for this process of tests alone, and not where the user's is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIGHTKERAS_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


def place(item: pytest.Item) -> int:
    """The number of the first entry of `FIRST` that a test is of; of no entry, one more than there are."""
    path = item.path.relative_to(TESTS).as_posix() if item.path.is_relative_to(TESTS) else ""
    return next((number for number, start in enumerate(FIRST) if path.startswith(start)), len(FIRST))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begins with the longest where tests run side by side; skips those of other backends and of absent real data.

    `@pytest.mark.backends("tensorflow", reason="...")` names the backends that a test runs on.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=place)
    unlike = [item.nodeid for item in items if " at 0x" in item.nodeid]
    if unlike:
        raise pytest.UsageError(
            "A name that is another one in each process keeps tests from running side by side. Give the parameters "
            "`ids=` without an address: " + ", ".join(unlike)
        )
    # Keras is not imported for this: what some tests are about is what happens when it is.
    keras = sys.modules.get("keras")
    backend = os.environ.get("KERAS_BACKEND", "tensorflow") if keras is None else keras.backend.backend()
    data = os.environ.get("LIGHTKERAS_DATA_DIR")
    for item in items:
        if item.get_closest_marker("real") and not data:
            item.add_marker(pytest.mark.skip(reason="needs LIGHTKERAS_DATA_DIR, the folder of the real data"))
        for marker in item.iter_markers("backends"):
            if backend not in marker.args:
                reason = marker.kwargs.get("reason", "it tests what is that backend's own")
                item.add_marker(pytest.mark.skip(reason=f"runs on {', '.join(marker.args)} only: {reason}"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Shows what experiments came to on the real data, and how long they took."""
    reports = [report for found in terminalreporter.stats.values() for report in found]
    properties = [pair for report in reports for pair in getattr(report, "user_properties", ())]
    lines = [line for name, line in properties if name == "on the real data"]
    if lines:
        terminalreporter.section("on the real data")
        for line in lines:
            terminalreporter.line(line)
