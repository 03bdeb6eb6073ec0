"""The JAX engine: a `jax.lax.while_loop` of steps inside one `jax.jit`, over the values of all variables.

Steps read and assign variables; JAX compiles functions of values. `scope` connects the two: inside a step it holds
the values of variables. `steps` finds the variables that a step uses. Arrays in memory are copied to the device once
and gathered by example index inside the loop; anything else comes in blocks of batches, and each block is copied to
the device while the previous one is used.
"""

from __future__ import annotations

from lightkeras.engine.jax.engine import JaxEngine

__all__ = ["JaxEngine"]
