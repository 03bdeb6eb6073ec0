"""The tests of the parts that stand on an engine, on PyTorch."""

import pytest


@pytest.mark.backends("tensorflow", reason="it starts the other backend itself")
def test_the_tests_pass_on_torch(assert_passes):
    assert_passes("torch")
