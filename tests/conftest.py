import os
import sys

import pytest
from hypothesis import settings

# The machine that runs the tests may be busy: what a property says does not depend on how long it took.
settings.register_profile("lightkeras", deadline=None)
settings.load_profile("lightkeras")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults")
    group.addoption("--kills", type=int, default=20, help="how often each task of tests/faults/test_kills.py is killed")
    group.addoption("--kill-seed", type=int, default=0, help="seed of the instants")
    group.addoption(
        "--every-fault", type=int, default=5, help="which calls fail in tests/faults/test_disk.py: each n-th"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests of other backends, and of real data that is not at hand.

    `@pytest.mark.backends("tensorflow", reason="...")` names the backends that a test runs on.
    """
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
