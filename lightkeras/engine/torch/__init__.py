"""The torch engine: eager or compiled steps, whose logs stay on the device until the call ends.

Arrays in memory are copied to the device once and gathered by example index; anything else is copied to the device
by the thread that reads it. `torch.compile` compiles train steps alone, each as one graph.
"""

from __future__ import annotations

from lightkeras.engine.torch.engine import TorchEngine
from lightkeras.engine.torch.programs import TorchProgram

__all__ = ["TorchEngine", "TorchProgram"]
