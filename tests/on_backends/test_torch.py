"""The tests of the parts that use an engine, on PyTorch."""

import pytest

pytestmark = pytest.mark.backends("tensorflow", reason="it starts the other backend itself")


def test_the_tests_pass_on_torch(assert_passes):
    assert_passes("torch")


@pytest.mark.long
def test_the_long_tests_pass_on_torch(assert_passes):
    assert_passes("torch", "long")
