"""`FusedAdam` by torch's kernel: gradients of any layout, and in compiled steps."""

import shutil

import keras
import numpy as np
import pytest
import torch

from lightkeras.optimizers import FusedAdam

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles with g++")
START = np.random.default_rng(0).normal(size=(5, 2)).astype("float32")


def trained(gradients, apply=None, variable=None, **settings):
    """The variable and its moments after the steps, row by row."""
    variable = keras.Variable(START) if variable is None else variable
    optimizer = FusedAdam(0.1, **settings)
    optimizer.build([variable])

    def step(gradient):
        optimizer.apply([gradient], [variable])

    step = apply(step) if apply else step
    with torch.no_grad():
        for gradient in gradients:
            step(gradient)
    return np.stack(
        [value.value.detach().numpy() for value in (variable, optimizer._momentums[0], optimizer._velocities[0])]
    )


GRADIENTS = [torch.as_tensor(np.random.default_rng(step).normal(size=(5, 2)).astype("float32")) for step in range(4)]


@pytest.mark.parametrize("layout", [lambda g: g.T.contiguous().T, lambda g: g.to_sparse(), lambda g: g.double()])
def test_a_gradient_may_lie_in_memory_in_any_way(layout):
    np.testing.assert_array_equal(trained([layout(gradient) for gradient in GRADIENTS]), trained(GRADIENTS))


def transposed(shape, dtype=None):
    """An initializer that ends with a transposition, as Keras's orthogonal one does."""
    return torch.as_tensor(START.T.copy()).T


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's compiler
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=needs_compiler)])
def test_a_variable_may_lie_in_memory_in_any_way(compiled):
    variable = keras.Variable(transposed, shape=START.shape)
    assert not variable.value.is_contiguous()
    halves = []

    def mixed(step):  # a compiled step, and one of another size that is not
        by_compiler = torch.compile(step, fullgraph=True)

        def one(gradient):
            halves.append(gradient)
            (by_compiler if len(halves) % 2 else step)(gradient)

        return one

    found = trained(GRADIENTS, mixed if compiled else None, variable)
    np.testing.assert_allclose(found, trained(GRADIENTS), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("beta", [0.0, 1 - 1e-7])
def test_betas_may_be_as_near_to_their_limits_as_numbers_can(beta):
    variable = keras.Variable(START, dtype="float64")
    found = trained([gradient.double() for gradient in GRADIENTS], None, variable, beta_2=beta)
    expected = keras.Variable(START, dtype="float64")
    adam = keras.optimizers.Adam(0.1, beta_2=beta)
    adam.build([expected])
    for gradient in GRADIENTS:
        adam.apply([gradient.double()], [expected])
    np.testing.assert_allclose(found[0], expected.value.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_an_update_is_one_call_of_the_kernel(monkeypatch):
    calls = []
    kernel = torch._fused_adam_
    monkeypatch.setattr(torch, "_fused_adam_", lambda *lists, **settings: calls.append(1) or kernel(*lists, **settings))
    trained(GRADIENTS)
    assert len(calls) == len(GRADIENTS)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's compiler
@needs_compiler
@pytest.mark.parametrize("amsgrad", [False, True])
def test_a_compiled_step_computes_the_same(amsgrad):
    def compiled(step):
        return torch.compile(step, fullgraph=True)

    found = trained(GRADIENTS, compiled, amsgrad=amsgrad)
    np.testing.assert_allclose(found, trained(GRADIENTS, amsgrad=amsgrad), rtol=1e-5)
