"""The TensorFlow engine: a `tf.while_loop` of steps inside one `tf.function`.

Arrays in memory are copied to the device once and gathered by example index inside the loop; anything else
is read from a `tf.data` iterator inside the loop. XLA is off: on a CPU it made the loop slower.
"""

from __future__ import annotations

from lightkeras.engine.tensorflow.engine import TensorFlowEngine
from lightkeras.engine.tensorflow.programs import TensorFlowProgram

__all__ = ["TensorFlowEngine", "TensorFlowProgram"]
