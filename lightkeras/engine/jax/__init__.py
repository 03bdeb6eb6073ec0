"""The JAX engine: a `jax.lax.while_loop` of steps inside one `jax.jit`, over the values of all variables.

A step is written with variables that change; JAX compiles functions of values. `scope` stands between the
two: inside a step a variable's value is looked up there, and what is assigned is kept there. `steps` finds
which variables a step uses. Data in memory is made resident once and gathered by example number inside the
loop; anything else comes in blocks of batches, copied to the device while the block before it is used.
"""

from __future__ import annotations

from lightkeras.engine.jax.engine import JaxEngine

__all__ = ["JaxEngine"]
