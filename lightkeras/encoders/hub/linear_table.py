"""Finds the table rows and weights that a text module computes from a text, without knowing its graph.

Many text modules look rows up in one table and add them, weighted. Their output is linear in the table,

    out[i] = sum over k of  weights[i, k] * table[ids[i, k]]

and the weights are its gradient: with as many texts as the output has columns, column i of the gradient of
sum over i of out[i, i] holds the weights of text i, one row of the table each.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lightkeras.data.bags import Bags
from lightkeras.encoders.hub.graph_split import SAMPLES, changes_something

TOLERANCE = 1e-6
"""Largest difference between a module and its bags, relative to the largest number in its output."""


class NotLinearError(ValueError):
    """A module is not a sum of weighted rows of one table."""


@dataclasses.dataclass(frozen=True)
class Table:
    """The table `[rows, width]` of a module that is linear in it.

    `weigh` takes at most `width` texts and returns rows, weights, the text of each, and the module's output.
    """

    variable: Any
    module: Any
    weigh: Callable[[Any], Any]

    @property
    def width(self) -> int:
        return int(self.variable.shape[1])

    def bags(self, texts: np.ndarray, check: bool = True) -> Bags:
        """The bags of `bytes` or `str`; the rows of each ascending, each once.

        With `check` a NotLinearError if the first ones differ from the module's output.
        """
        ids, weights, counts = [], [], []
        for start in range(0, len(texts), self.width):
            part = texts[start : start + self.width]
            # A text with words beside them: TensorFlow's gradient of a segment sum over no words at all is not defined.
            beside = np.append(part, np.array(SAMPLES[:1], dtype=object))
            found, weight, owner, outputs = (tensor.numpy() for tensor in self.weigh(strings(beside)))
            own = owner < len(part)
            ids.append(found[own].astype(np.int32))
            weights.append(weight[own].astype(np.float32))
            counts.append(np.bincount(owner[own], minlength=len(part)))
            if check and start == 0:
                bags = joined(ids, weights, counts)
                _compare(bags, self.variable.sparse_read(bags.ids).numpy(), outputs[: len(part)])
        return joined(ids, weights, counts)


def find_table(module: Any, samples: Sequence[str] = SAMPLES) -> Table:
    """Finds the table that a module is linear in, and checks it on samples; else a NotLinearError says why."""
    import tensorflow as tf

    function = next((f for f in module.__call__.concrete_functions if f.inputs[0].dtype == tf.string), None)
    if function is None or len(tf.nest.flatten(function.structured_outputs)) != 1:
        raise NotLinearError("it does not make one output of text")
    if "training" in inspect.signature(module.__call__).parameters:
        raise NotLinearError("it does something else in training")
    if changes_something(function.graph.as_graph_def()):
        raise NotLinearError("it changes something, or draws random numbers, when it runs")
    texts = tf.constant(list(samples))
    with tf.GradientTape() as tape:
        outputs = module(texts)
        total = tf.reduce_sum(outputs)
    if outputs.shape.rank != 2 or not outputs.dtype.is_floating:
        raise NotLinearError(f"its output is {outputs.dtype.name} of shape {tuple(outputs.shape)}, not [texts, width]")
    listed = getattr(module, "trainable_variables", function.trainable_variables)
    learned = list({v.ref(): v for v in listed}.values())
    reached = [(v, g) for v, g in zip(learned, tape.gradient(total, learned), strict=True) if g is not None]
    if len(reached) != 1:
        raise NotLinearError(f"it has {len(reached)} trainable variables that its output depends on, not one table")
    [(variable, _)] = reached
    if variable.shape.rank != 2 or variable.shape[1] != outputs.shape[1]:
        raise NotLinearError(f"its variable {tuple(variable.shape)} is not a table of rows as wide as its output")
    if any(float(loss()) != 0 for loss in getattr(module, "regularization_losses", ())):
        raise NotLinearError("it adds losses of its own, in code that only TensorFlow runs")
    table = Table(variable, module, _weighing(module, variable))
    _check(table, np.array(list(samples), dtype=object))
    return table


def _weighing(module: Any, variable: Any) -> Callable[[Any], Any]:
    import tensorflow as tf

    def weigh(texts: Any) -> Any:
        with tf.GradientTape() as tape:
            outputs = module(texts)
            diagonal = tf.reduce_sum(tf.linalg.diag_part(outputs))
        slices = tape.gradient(diagonal, variable)
        if not isinstance(slices, tf.IndexedSlices):  # the whole table's, zeros too
            entries = tf.where(tf.not_equal(tf.transpose(slices), 0))
            return entries[:, 1], tf.gather_nd(slices, entries[:, ::-1]), entries[:, 0], outputs
        # A row that is looked up twice, by one text or by two, is one row of the matrix of weights.
        rows, position = tf.unique(slices.indices)
        weights = tf.math.unsorted_segment_sum(slices.values, position, tf.size(rows))
        # In the order of the table, so that a bag does not depend on the other texts.
        order = tf.argsort(rows)
        rows, weights = tf.gather(rows, order), tf.transpose(tf.gather(weights, order))
        entries = tf.where(tf.not_equal(weights, 0))
        return tf.gather(rows, entries[:, 1]), tf.gather_nd(weights, entries), entries[:, 0], outputs

    signature = [tf.TensorSpec([None], tf.string)]
    return tf.function(weigh, input_signature=signature, autograph=False).get_concrete_function()  # type: ignore[no-any-return]


def _check(table: Table, samples: np.ndarray) -> None:
    """Compares module and bags, with the module's table and with another one in its place.

    The other one is random numbers minus half of the table: random numbers alone could be the module's own table.
    """
    import tensorflow as tf

    bags = [table.bags(samples[start : start + table.width]) for start in range(0, len(samples), table.width)]
    kept = tf.identity(table.variable)
    try:
        # Minus half of the module's table, which may itself be these very random numbers: a test's was.
        table.variable.assign(tf.random.stateless_normal(kept.shape, [1, 2], dtype=kept.dtype) - kept / 2)
        for number, bag in enumerate(bags):
            part = samples[number * table.width :][: len(bag)]
            _compare(bag, table.variable.sparse_read(bag.ids).numpy(), table.module(strings(part)).numpy())
    finally:
        table.variable.assign(kept)


def _compare(bags: Bags, rows: np.ndarray, outputs: np.ndarray) -> None:
    """Compares the first examples with the module's output for them."""
    outputs = outputs.astype(np.float64)
    sums = np.zeros_like(outputs)
    owner = np.repeat(np.arange(len(bags)), np.diff(bags.splits))
    np.add.at(sums, owner, rows.astype(np.float64) * bags.weights[:, None])
    # Sums of many rows cancel: the precision of the module is relative to the size of what was added.
    size = np.zeros_like(outputs)
    np.add.at(size, owner, np.abs(rows) * np.abs(bags.weights[:, None]))
    difference, scale = float(np.abs(sums - outputs).max(initial=0)), float(size.max(initial=0)) or 1.0
    if not difference <= TOLERANCE * scale:
        raise NotLinearError(f"its output is not a weighted sum of rows of its table (they differ by {difference:.2g})")


def joined(ids: list[np.ndarray], weights: list[np.ndarray], counts: list[np.ndarray]) -> Bags:
    """The bags of several parts: rows, weights, and the number of entries of each bag."""
    splits = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate([np.zeros(0, np.int64), *counts]))])
    empty_ids, empty_weights = np.zeros(0, np.int32), np.zeros(0, np.float32)
    return Bags(np.concatenate([empty_ids, *ids]), np.concatenate([empty_weights, *weights]), splits.astype(np.int64))


def strings(texts: np.ndarray) -> Any:
    """Texts as a tensor, `[texts]`."""
    import tensorflow as tf

    return tf.constant(texts.tolist(), tf.string, shape=[len(texts)])
