"""The first value that is not finite, in a sentence."""

import math

import numpy as np

from lightkeras.engine.layer_calls import Observation
from lightkeras.testing import TwoMoons, two_moons
from lightkeras.training.divergence.explain import explain, explain_step
from lightkeras.training.divergence.watchdog import Alarm
from lightkeras.training.stepper import bound_engine


def test_the_first_value_that_is_not_finite_is_described_in_a_sentence():
    batch = (np.ones((2, 1), "float32"), np.array([b"a", b"b"], object))
    fine, bad = Observation("layer", "m/a (A)", None, largest=1.0), Observation("layer", "m/b (B)", math.inf)
    assert explain(batch, (), [fine, bad, Observation("loss", "loss", math.nan)], {}, []) == (
        "the first layer whose output is not finite is m/b (B): inf; its inputs were finite"
    )
    assert explain(batch, (), [fine, Observation("loss", "loss", math.nan)], {}, []) == (
        "the outputs of all layers are finite, but the loss computed from them is nan"
    )
    gradients = [Observation("gradient", "a/kernel", None, largest=1.0), Observation("gradient", "b/kernel", math.nan)]
    assert explain(batch, (), [fine, *gradients, Observation("gradient", "c", math.nan)], {}, []) == (
        "the gradient of b/kernel (and of 1 more) is not finite though the loss is: nan"
    )
    assert explain(batch, (), [fine, gradients[0]], {}, [Alarm("a/kernel", math.inf, 0)]) == (
        "the update of a/kernel made it inf, though its gradient is finite, at most 1 in size"
    )
    assert explain(batch, (), [fine], {"x": 1.0, "loss": math.nan}, []) == (
        "all layers, losses and gradients are finite, but the logged value loss is nan"
    )
    assert explain(batch, (), [fine], {"loss": 1.0}, []) == (
        "the step is finite if run uncompiled, layer by layer: only the compiled step breaks"
    )


def test_inputs_that_no_layer_computed_are_reported_as_such():
    bad = Observation("layer", "b (B)", math.nan, inputs=-math.inf)
    assert explain(np.zeros(1), (), [bad], {}, []).endswith("its inputs contain -inf, which no layer computed")


class Broken:
    """An engine whose step makes a variable infinite, beside one that was so before."""

    def __init__(self, before, after):
        self.before, self.after = before, after

    def not_finite(self, variables):
        return [key for key, variable in variables.items() if id(variable) in map(id, (self.before, *self.found))]

    found = ()

    def run_eagerly(self, step, batch):
        self.after.assign([math.inf])
        self.found = (self.after,)
        return {}, []


def test_a_variable_that_a_step_makes_infinite_is_named_and_restored_but_not_one_that_was_so_before():
    task = TwoMoons()
    task.set_up(0)
    before, after = task.model.layers[0].bias, task.model.layers[-1].bias
    found = explain_step(task, Broken(before, after), two_moons(4))
    assert found == f"the update of {after.path} made it inf"
    assert after.numpy().tolist() == [0.0]


def test_a_step_that_runs_only_compiled_is_reported_as_such():
    task = TwoMoons()
    task.set_up(0)
    found = explain_step(task, Broken(None, None), two_moons(4))  # which has nothing to assign to
    assert found.startswith("its layers could not be inspected: uncompiled it raises AttributeError: ")


def test_a_batch_that_is_not_finite_is_named_with_its_row_its_example_and_what_came_of_it():
    batch = (np.array([1, 2]), {"x": np.float32([[1, 2], [3, -np.inf]]), "y": np.float32([np.nan, 1])})
    found = "the batch itself is not finite: array 1/x holds -inf in row 1"
    assert explain(batch, (), [], {}, []) == found
    bad = Observation("layer", "m/b (B)", math.nan, inputs=-math.inf)
    assert explain(batch, (3, 1234), [bad], {}, []) == (
        f"{found} (example 1,234 of the data, counted from 0); the first layer whose output is not finite is m/b (B): "
        "nan; its inputs contain -inf"
    )
    assert explain(np.float32([math.nan]), (), [], {"loss": math.nan}, []) == (
        "the batch itself is not finite: array 0 holds nan in row 0; all layers, losses and gradients are finite, but "
        "the logged value loss is nan"
    )


def test_of_one_gradient_no_others_are_counted_and_an_update_without_a_gradient_has_none():
    gradients = [Observation("gradient", "a", math.inf), Observation("gradient", "b", None, largest=1.0)]
    assert explain(np.zeros(1), (), [*gradients, Observation("loss", "loss", math.nan)], {}, []) == (
        "the gradient of a is not finite though the loss is: inf"
    )
    layer = Observation("layer", "a/kernel", None, largest=2.0)
    assert explain(np.zeros(1), (), [layer], {"loss": math.nan}, [Alarm("a/kernel", math.nan, 0)]) == (
        "the update of a/kernel made it nan"
    )


def test_all_variables_that_a_step_changes_are_restored_after_it_is_explained():
    task = TwoMoons()
    task.set_up(0)
    engine, kernel = bound_engine(task), task.model.layers[0].kernel
    before = kernel.numpy()
    x, y = two_moons(4)
    x[1] = math.nan
    found = explain_step(task, engine, (x, y), (7, 8, 9, 10))
    assert found.startswith("the batch itself is not finite: array 0 holds nan in row 1 (example 8 of the data")
    assert "the first layer whose output is not finite is" in found
    np.testing.assert_array_equal(kernel.numpy(), before)
