"""The tests of the parts that stand on an engine, on JAX."""

import pytest


@pytest.mark.backends("tensorflow", reason="it starts the other backend itself")
def test_the_tests_pass_on_jax(assert_passes):
    assert_passes("jax")
