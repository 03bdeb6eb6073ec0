"""The torch engine: eager steps, whose logs stay on the device until their call is over.

Data in memory is made resident once and gathered by example number; anything else is put on the device
in the thread that reads it. `torch.compile` is left off.
"""

from __future__ import annotations

from lightkeras.engine.torch.engine import TorchEngine
from lightkeras.engine.torch.programs import TorchProgram

__all__ = ["TorchEngine", "TorchProgram"]
