"""`FusedAdam` by torch's kernel: gradients of any layout, and in compiled steps."""

import shutil

import keras
import numpy as np
import pytest
import torch

from lightkeras.optimizers import FusedAdam

START = np.random.default_rng(0).normal(size=(5, 2)).astype("float32")


def trained(gradients, apply=None, **settings):
    variable = keras.Variable(START)
    optimizer = FusedAdam(0.1, **settings)
    optimizer.build([variable])

    def step(gradient):
        optimizer.apply([gradient], [variable])

    step = apply(step) if apply else step
    with torch.no_grad():
        for gradient in gradients:
            step(gradient)
    return variable.value.detach().numpy()


GRADIENTS = [torch.as_tensor(np.random.default_rng(step).normal(size=(5, 2)).astype("float32")) for step in range(4)]


@pytest.mark.parametrize("layout", [lambda g: g.T.contiguous().T, lambda g: g.to_sparse(), lambda g: g.double()])
def test_a_gradient_may_lie_in_memory_in_any_way(layout):
    np.testing.assert_array_equal(trained([layout(gradient) for gradient in GRADIENTS]), trained(GRADIENTS))


def test_an_update_is_one_call_of_the_kernel(monkeypatch):
    calls = []
    kernel = torch._fused_adam_
    monkeypatch.setattr(torch, "_fused_adam_", lambda *lists, **settings: calls.append(1) or kernel(*lists, **settings))
    trained(GRADIENTS)
    assert len(calls) == len(GRADIENTS)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's compiler
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles with g++")
@pytest.mark.parametrize("amsgrad", [False, True])
def test_a_compiled_step_computes_the_same(amsgrad):
    def compiled(step):
        return torch.compile(step, fullgraph=True)

    found = trained(GRADIENTS, compiled, amsgrad=amsgrad)
    np.testing.assert_allclose(found, trained(GRADIENTS, amsgrad=amsgrad), rtol=1e-5)
