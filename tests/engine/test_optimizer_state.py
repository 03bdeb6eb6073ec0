"""Slots of optimizers that are rebuilt for more variables: values, order and errors."""

import re

import keras
import numpy as np
import pytest
from keras import ops
from packaging.version import Version

from lightkeras import optimizers
from lightkeras.engine.optimizer_state import finalize, make_slots, rebuild, trained_variables


def variables():
    return [keras.Variable(np.full(shape, 0.5, "float32"), name=name) for name, shape in [("a", (2, 3)), ("b", (3, 2))]]


def step(optimizer, learned, size=0.1):
    optimizer.apply([ops.full(variable.shape, size) for variable in learned], learned)


def read(found):
    return [ops.convert_to_numpy(ops.copy(variable)) for variable in found]


def names(optimizer):
    return [re.sub(r"variable(_\d+)?$", "unnamed", variable.name) for variable in optimizer.variables]


def scaled(optimizer):
    return lambda rate: keras.optimizers.LossScaleOptimizer(optimizer(rate), initial_scale=2.0)


OF_KERAS = [
    keras.optimizers.Adadelta,
    keras.optimizers.Adafactor,
    keras.optimizers.Adagrad,
    keras.optimizers.Adam,
    keras.optimizers.AdamW,
    keras.optimizers.Adamax,
    keras.optimizers.Ftrl,
    keras.optimizers.Lamb,
    keras.optimizers.Lion,
    keras.optimizers.Muon,
    keras.optimizers.Nadam,
    keras.optimizers.RMSprop,
    keras.optimizers.SGD,
]
if hasattr(keras.optimizers, "ScheduleFreeAdamW"):  # newer than the oldest Keras that is allowed
    OF_KERAS.append(keras.optimizers.ScheduleFreeAdamW)
MORE = {
    "momentum": lambda rate: keras.optimizers.SGD(rate, momentum=0.9),
    "amsgrad": lambda rate: keras.optimizers.Adam(rate, amsgrad=True),
    "gathering": lambda rate: keras.optimizers.Adam(rate, gradient_accumulation_steps=3),
    "averaging": lambda rate: keras.optimizers.Adam(rate, use_ema=True),
    "scaled Adam": scaled(keras.optimizers.Adam),
    "scaled Nadam": scaled(keras.optimizers.Nadam),
    "LazyAdam": optimizers.LazyAdam,
}
ALL = {kind.__name__: kind for kind in OF_KERAS} | MORE


def marked(name):
    if name == "Muon":
        lacks_path = Version(keras.__version__) < Version("3.11") and keras.backend.backend() == "tensorflow"
        return pytest.param(name, marks=pytest.mark.skipif(lacks_path, reason="Muon of Keras 3.10 fails on TensorFlow"))
    reason = "Keras on JAX cannot assign in a branch outside of a step"
    return pytest.param(name, marks=pytest.mark.backends("tensorflow", "torch", reason=reason))


@pytest.mark.parametrize("name", [marked(name) if name.startswith(("scaled", "Muon")) else name for name in ALL])
def test_an_optimizer_has_the_slots_of_one_that_was_built_for_all_and_keeps_what_it_had(name):
    a, b = variables()
    optimizer, whole = ALL[name](0.01), ALL[name](0.01)
    # Both learn `b` alone for two steps; one of them had slots for `a` all along.
    make_slots(optimizer, [b])
    step(optimizer, [b]), step(optimizer, [b], 0.2)
    c, d = variables()
    whole.build([c, d])
    step(whole, [d]), step(whole, [d], 0.2)
    make_slots(optimizer, [a, b])
    assert trained_variables(optimizer) == (a, b)
    assert names(optimizer) == names(whole)
    # Averages are the one exception: Keras lets that of a variable which is not learned yet begin at its first step.
    for found, expected in zip(read(optimizer.variables), read(whole.variables), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    step(optimizer, [a, b], -0.1), step(whole, [c, d], -0.1)
    for found, expected in zip(read([a, b]), read([c, d]), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_variables_that_are_frozen_keep_their_slots_and_nothing_is_made_anew():
    a, b = variables()
    optimizer = keras.optimizers.Adam(0.01)
    make_slots(optimizer, [a, b])
    before = optimizer.variables
    make_slots(optimizer, [b])
    assert trained_variables(optimizer) == (a, b)
    assert all(one is other for one, other in zip(optimizer.variables, before, strict=True))


def test_what_learns_comes_last_in_its_own_order():
    a, b = variables()
    c = keras.Variable(np.zeros(2, "float32"), name="c")
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
    make_slots(optimizer, [b])
    make_slots(optimizer, [c])
    assert trained_variables(optimizer) == (b, c)
    make_slots(optimizer, [a, b, c])
    assert trained_variables(optimizer) == (a, b, c)
    assert not rebuild(optimizer, [a, b, c])
    assert rebuild(optimizer, [c, a])
    assert trained_variables(optimizer) == (c, a)
    assert [variable.name for variable in optimizer.variables[2:]] == ["c_momentum", "a_momentum"]


def test_an_average_begins_at_the_value_of_its_variable():
    a, b = variables()
    optimizer = keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.5)
    make_slots(optimizer, [b])
    step(optimizer, [b], 0.0)
    a.assign(np.full((2, 3), 4.0, "float32"))
    make_slots(optimizer, [a, b])
    step(optimizer, [a, b], 4.0)  # a is 2 then, and its average (4 + 2) / 2
    finalize(optimizer, [a, b])
    np.testing.assert_array_equal(read([a])[0], np.full((2, 3), 3.0))


def test_what_is_frozen_is_not_set_to_its_average_in_the_end():
    a, b = variables()
    optimizer = keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.5)
    make_slots(optimizer, [a, b])
    step(optimizer, [a, b], 0.0), step(optimizer, [a, b], 1.0)  # both are 0 then, with an average of 0.25
    finalize(optimizer, [b])
    np.testing.assert_array_equal(read([a])[0], np.zeros((2, 3)))
    np.testing.assert_array_equal(read([b])[0], np.full((3, 2), 0.25))


def test_an_optimizer_that_was_never_built_is_finalized_without_harm():
    finalize(keras.optimizers.SGD(0.5, use_ema=True), [])


def test_an_optimizer_whose_slots_would_be_lost_is_refused_with_the_way_out():
    class Appending(keras.optimizers.SGD):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.traces = []

        def build(self, variables):
            if not self.built:
                keras.optimizers.Optimizer.build(self, variables)
                self.traces.extend(self.add_variable_from_reference(v, name="trace") for v in variables)

    a, b = variables()
    optimizer = Appending(0.1)
    make_slots(optimizer, [b])
    with pytest.raises(ValueError, match=r"would lose .*b_trace: .* self.optimizer.build\(self.model"):
        make_slots(optimizer, [a, b])


def test_slots_of_variables_that_are_frozen_for_a_time_stay_in_their_place():
    first, second, optimizer = *variables(), keras.optimizers.Adam(0.1)
    make_slots(optimizer, [first, second])
    slots = [id(variable) for variable in optimizer.variables]
    for trained in ([second], [first], [first, second]):
        make_slots(optimizer, trained)
        assert trained_variables(optimizer) == (first, second)
        assert [id(variable) for variable in optimizer.variables] == slots  # not built again


def test_variables_in_another_order_rebuild_the_optimizer_in_that_order():
    first, second, optimizer = *variables(), keras.optimizers.Adam(0.1)
    make_slots(optimizer, [first, second])
    make_slots(optimizer, [second, first])
    assert trained_variables(optimizer) == (second, first)
