"""Steps of which processes compute a part; the sums over several processes are tests/scenarios/test_ranks.py."""

import keras
import pytest
import torch

from lightkeras.engine.base import Update
from lightkeras.engine.torch import parallel
from lightkeras.engine.world import Part


class Doubling:
    """Two processes, of which the other one always has the same."""

    rank, processes = 1, 2

    def sum(self, tensor):
        return tensor.mul_(2)


def test_a_loss_counts_by_its_share_inside_a_step_over_a_part_alone():
    sharing = parallel.Sharing(Doubling())
    loss = torch.tensor(8.0)
    assert sharing.weighted(loss) is loss
    with sharing.step(Part(0, 3, 0.75)):
        assert sharing.weighted(loss) == 6.0


def test_gradients_are_summed_and_one_that_is_missing_here_counts_as_zero():
    sharing, values = parallel.Sharing(Doubling()), [torch.zeros(2), torch.zeros(1), torch.zeros(1)]
    given = [torch.tensor([1.0, 2.0]), None, None]
    variables = tuple(keras.Variable(value) for value in values)
    sharing.note(len, [Update(variables, None, variables[2:])], [])
    assert sharing.summed(given, values, 0) == given
    with sharing.step(Part(0, 1, 0.5)):
        first, second, third = sharing.summed(given, values, 0)
    assert (first.tolist(), second.tolist(), third) == ([2.0, 4.0], [0.0], None)


def test_changes_of_metrics_add_up_and_those_of_layers_are_averaged():
    metric, layer = keras.metrics.Mean(), keras.layers.BatchNormalization()
    layer.build((None, 1))
    count, moving = metric.count, layer.moving_mean
    count.assign(10.0)
    moving.assign([1.0])
    sharing = parallel.Sharing(Doubling())
    with sharing.step(Part(0, 3, 0.5), [count, moving]):
        count.assign(13.0)
        moving.assign([5.0])
    # 3 examples here and 3 there; half of a change by 4 here and half there.
    assert (float(count), float(moving[0])) == (16.0, 5.0)
    with sharing.step(Part(0, 1, 0.5, whole=True), [count]):
        count.assign(17.0)  # the same example in both
    assert float(count) == 17.0


def test_what_depends_on_examples_is_summed():
    seeds, metric = keras.random.SeedGenerator(1), keras.metrics.MeanIoU(2)
    layer = keras.layers.BatchNormalization()
    layer.build((None, 1))
    found = parallel.shared_of([seeds.state, metric.total_cm, layer.moving_mean])
    assert [v.path for v in found] == [metric.total_cm.path, layer.moving_mean.path]


def test_moments_are_those_of_the_whole_batch_where_they_are_synchronized():
    sharing, x = parallel.Sharing(Doubling()), torch.tensor([[1.0, 2.0], [3.0, 6.0]], requires_grad=True)
    with sharing.running(), sharing.step(Part(0, 2, 0.5)):
        mean, variance = keras.ops.moments(x, [0], keepdims=True, synchronized=True)
    assert (mean.tolist(), variance.tolist()) == ([[2.0, 4.0]], [[1.0, 4.0]])
    # Two equal processes: the gradient of both sums with respect to each example is 2 / 4.
    (gradient,) = torch.autograd.grad(mean.sum(), x)
    assert gradient.flatten().tolist() == pytest.approx([0.5] * 4)


def test_seeds_are_those_of_the_rank():
    assert parallel.fold(0) == 0
    assert len({parallel.fold(rank) for rank in range(100)}) == 100
    sharing, drawn = parallel.Sharing(Doubling()), []
    for inside in (False, True, True):
        seed = keras.random.SeedGenerator(3)
        with sharing.running(), sharing.step(Part(0, 1, 0.5)) if inside else torch.no_grad():
            drawn.append(keras.random.normal((4,), seed=seed).tolist())
    assert drawn[0] != drawn[1] == drawn[2]
