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
