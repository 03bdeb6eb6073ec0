"""The tests of the parts that use an engine, on JAX."""

import pytest

pytestmark = pytest.mark.backends("tensorflow", reason="it starts the other backend itself")


def test_the_tests_pass_on_jax(assert_passes):
    assert_passes("jax")


@pytest.mark.long
def test_the_long_tests_pass_on_jax(assert_passes):
    assert_passes("jax", "long")
