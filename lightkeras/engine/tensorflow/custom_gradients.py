"""Custom gradients of traced steps, which are forgotten with the step.

TensorFlow registers the gradient of each call of a function with `tf.custom_gradient` under a new name, for good: that
of every `silu`, and the sum of the gradients over replicas, which Keras's optimizers compute on one device too. Each
holds the graph it was called in, so a process that trains many models, such as a worker of a search, would keep the
graphs of all of them.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator, Sequence

import tensorflow as tf
from tensorflow.python.framework import ops
from tensorflow.python.ops import control_flow_v2_func_graphs as branches
from tensorflow.python.ops import custom_gradient

from lightkeras.engine.replacing import replaced

_BRANCHES = (branches.CondBranchFuncGraph, branches.WhileCondFuncGraph, branches.WhileBodyFuncGraph)


@contextlib.contextmanager
def owned_by(owner: object) -> Iterator[None]:
    """Context that traces a step into the current graph: its custom gradients are removed when `owner` is collected.

    Those of a `tf.function` that the step calls are kept, because other steps may call it.
    """
    graph, names, generate_name = tf.compat.v1.get_default_graph(), list[str](), custom_gradient.generate_name

    def recorded() -> str:
        name = str(generate_name())
        if is_inside(graph):
            names.append(name)
        return name

    with replaced({(custom_gradient, "generate_name"): recorded}):
        yield
    if names:
        weakref.finalize(owner, _remove, names)


def is_inside(graph: tf.Graph) -> bool:
    """Whether operations are added to a graph now, or to a branch or loop in it."""
    inside = tf.compat.v1.get_default_graph()
    while inside is not graph and isinstance(inside, _BRANCHES):
        inside = inside.outer_graph
    return inside is graph


def _remove(names: Sequence[str]) -> None:
    for name in names:
        ops.gradient_registry._registry.pop(name, None)
