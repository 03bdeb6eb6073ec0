"""Adam by torch's kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

Tensor = Any

Slots = tuple[list[Tensor], list[Tensor], list[Tensor]]
"""First moments, second moments, and their maxima for amsgrad, else none."""


def update(optimizer: Any, pairs: Sequence[tuple[Tensor, Any]], alpha: Tensor, betas: tuple[float, float]) -> None:
    """Updates variables of one type, given with their gradients, see `lightkeras.engine.fused_adam`."""
    is_compiling = torch.compiler.is_compiling()
    fused: list[tuple[Tensor, Any]] = []
    others: list[tuple[Tensor, Any]] = []
    for gradient, variable in pairs:
        # The kernel walks through memory and takes one order for granted; an orthogonal initializer gives another one.
        walks = not is_compiling and variable.value.is_contiguous()
        (fused if walks else others).append((gradient, variable))
    if fused:
        values, grads, slots = _tensors(optimizer, fused)
        many_steps = torch.full((), math.inf, device=values[0].device)  # where both bias corrections are 1
        # What `torch.optim.Adam(fused=True)` calls.
        torch._fused_adam_(
            values,
            grads,
            *slots,
            [many_steps] * len(values),
            amsgrad=optimizer.amsgrad,
            lr=alpha,
            beta1=betas[0],
            beta2=betas[1],
            weight_decay=0.0,
            eps=optimizer.epsilon,
            maximize=False,
        )
    if others:
        _by_operations(*_tensors(optimizer, others), alpha, betas, optimizer.epsilon)


def _tensors(optimizer: Any, pairs: Sequence[tuple[Tensor, Any]]) -> tuple[list[Tensor], list[Tensor], Slots]:
    """Values, gradients and slots of variables."""
    indices = [optimizer._get_variable_index(variable) for _, variable in pairs]
    m, v = ([kind[index].value for index in indices] for kind in (optimizer._momentums, optimizer._velocities))
    hats = [optimizer._velocity_hats[index].value for index in indices] if optimizer.amsgrad else []
    values = [variable.value for _, variable in pairs]
    return values, [_like(gradient, value) for (gradient, _), value in zip(pairs, values, strict=True)], (m, v, hats)


def _by_operations(
    values: list[Tensor],
    grads: list[Tensor],
    slots: Slots,
    alpha: Tensor,
    betas: tuple[float, float],
    epsilon: float,
) -> None:
    """The update without the kernel, which `torch.compile` cannot call; it fuses these operations itself."""
    m, v, hats = slots
    torch._foreach_lerp_(m, grads, 1 - betas[0])
    torch._foreach_mul_(v, betas[1])
    torch._foreach_addcmul_(v, grads, grads, 1 - betas[1])
    if hats:
        torch._foreach_maximum_(hats, v)
    roots = torch._foreach_add(torch._foreach_sqrt(hats or v), epsilon)
    torch._foreach_sub_(values, torch._foreach_div(torch._foreach_mul(m, alpha), roots))


def _like(gradient: Tensor, value: Tensor) -> Tensor:
    """The gradient, dense, with the dtype and the order in memory of the variable."""
    dense = (gradient.to_dense() if gradient.is_sparse else gradient).to(value.dtype)
    return dense if dense.stride() == value.stride() else torch.empty_like(value).copy_(dense)
