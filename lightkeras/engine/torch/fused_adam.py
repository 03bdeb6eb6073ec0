"""Adam by torch's kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

Tensor = Any

_MANY_STEPS = 1e9
"""A step count at which both bias corrections are 1 in float64, for all betas up to 1 - 1e-7."""


def update(optimizer: Any, pairs: Sequence[tuple[Tensor, Any]], alpha: Tensor, betas: tuple[float, float]) -> None:
    """Updates variables of one type, given with their gradients, see `lightkeras.engine.fused_adam`."""
    variables = [variable for _, variable in pairs]
    indices = [optimizer._get_variable_index(variable) for variable in variables]
    values, m, v = (
        [variable.value for variable in chosen]
        for chosen in (
            variables,
            *([kind[i] for i in indices] for kind in (optimizer._momentums, optimizer._velocities)),
        )
    )
    hats = [optimizer._velocity_hats[index].value for index in indices] if optimizer.amsgrad else []
    grads = [_like(gradient, value) for (gradient, _), value in zip(pairs, values, strict=True)]
    if torch.compiler.is_compiling():
        _traced(values, grads, (m, v, hats), alpha, betas, optimizer.epsilon)
        return
    # What `torch.optim.Adam(fused=True)` calls.
    torch._fused_adam_(
        values,
        grads,
        m,
        v,
        hats,
        [torch.full((), _MANY_STEPS, device=value.device) for value in values],
        amsgrad=optimizer.amsgrad,
        lr=alpha,
        beta1=betas[0],
        beta2=betas[1],
        weight_decay=0.0,
        eps=optimizer.epsilon,
        maximize=False,
    )


def _traced(
    values: list[Tensor],
    grads: list[Tensor],
    slots: tuple[list[Tensor], list[Tensor], list[Tensor]],
    alpha: Tensor,
    betas: tuple[float, float],
    epsilon: float,
) -> None:
    """The update as operations that `torch.compile` fuses; it cannot call the kernel."""
    m, v, hats = slots
    torch._foreach_lerp_(m, grads, 1 - betas[0])
    torch._foreach_mul_(v, betas[1])
    torch._foreach_addcmul_(v, grads, grads, 1 - betas[1])
    if hats:
        torch._foreach_maximum_(hats, v)
    roots = torch._foreach_add(torch._foreach_sqrt(hats or v), epsilon)
    torch._foreach_sub_(values, torch._foreach_div(torch._foreach_mul(m, alpha), roots))


def _like(gradient: Tensor, value: Tensor) -> Tensor:
    """The gradient with the dtype and the order of the variable in memory, which the kernel takes for granted."""
    dense = (gradient.to_dense() if gradient.is_sparse else gradient).to(value.dtype)
    return dense if dense.stride() == value.stride() else torch.empty_like(value).copy_(dense)
