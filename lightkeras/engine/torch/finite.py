"""Values of tensors, checks for variables that are not finite, and gradient sizes, on torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import ml_dtypes
import numpy as np
import torch


def numbers(value: Any) -> np.ndarray | None:
    """See `Numbers`."""
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return None
    value = value.detach().cpu()
    array: np.ndarray = (value.float() if value.dtype is torch.bfloat16 else value).numpy()
    return array


def viewed(value: torch.Tensor, dtype: str) -> np.ndarray:
    """A view of a tensor on the CPU as an array; a copy where Keras stores values in a wider dtype than the array's."""
    if value.dtype is torch.bfloat16:
        array: np.ndarray = value.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return array
    array = value.numpy()
    return array if array.dtype.name == dtype else array.astype(dtype)


def largest(gradient: torch.Tensor | None, device: torch.device) -> torch.Tensor:
    """Largest absolute value of a gradient, float32; NaN if it contains a NaN."""
    if gradient is None or not gradient.numel():
        return torch.zeros((), device=device)
    return gradient.abs().max().float()


def global_norm(gradients: Sequence[torch.Tensor | None]) -> torch.Tensor:
    """Root of the sum of the squares of all values, float32."""
    found = [gradient.detach() for gradient in gradients if gradient is not None]
    if not found:
        return keras.ops.zeros(())
    return torch.linalg.vector_norm(torch.stack([norm.float() for norm in torch._foreach_norm(found)]))


def all_finite(variables: Sequence[keras.Variable]) -> np.ndarray:
    """Whether all values of each variable are finite: bool `[variables]`."""
    sizes = [largest(variable.value.detach(), variable.value.device) for variable in variables]
    finite: np.ndarray = torch.isfinite(torch.stack(sizes)).cpu().numpy()
    return finite
