"""The learning-rate finder: curves worked out by hand, and what is read from them."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import lightkeras as lk
from lightkeras.data.feed import ArrayFeed
from lightkeras.testing import TwoMoons
from lightkeras.training.finders import learning_rate


class Line(lk.Task):
    """y = w x with w = 1 at first, squared error, SGD."""

    rate: Any = 0.125

    def build_model(self):
        one = keras.initializers.Constant(1.0)
        return keras.Sequential([keras.Input((1,)), layers.Dense(1, use_bias=False, kernel_initializer=one)])

    def build_optimizer(self):
        return keras.optimizers.SGD(self.rate)

    def loss(self, batch, training):
        x, y = batch
        return ops.mean(ops.square(self.model(x, training=training) - y))


LINE = (np.float32([[1], [2], [3]]), np.float32([[2], [4], [6]]))


def find_rate(task: lk.Task, *data: Any, **settings: Any) -> Any:
    return lk.Runner(progress=False).find_learning_rate(task, *data, **settings)


def test_the_first_losses_are_those_worked_out_by_hand():
    # One batch of x = 1, y = 2: the error is w - 2, the gradient 2 (w - 2), and the error after a step
    # with the rate r is (1 - 2 r) times what it was.
    found = find_rate(Line(), (LINE[0][:1], LINE[1][:1]), low=0.001, high=1.024, steps=11, batch_size=1)
    rates = [0.001 * 2**step for step in range(11)]
    errors = [1.0]
    for rate in rates[:-1]:
        errors.append(errors[-1] * (1 - 2 * rate))
    assert found.rates == pytest.approx(rates)
    assert found.losses == pytest.approx([error**2 for error in errors], rel=1e-4)
    assert found.losses[0] == 1.0  # before any update


def test_steps_continue_through_the_epochs_with_their_smaller_last_batch():
    class Sized(Line):
        def train_step(self, batch):
            self.log("size", ops.cast(ops.shape(batch[0])[0], "float32"))
            return super().train_step(batch)

    found = find_rate(Sized(), LINE, loss="size", steps=10, batch_size=2)
    assert found.losses == (2.0, 1.0) * 5


def test_a_stream_gives_the_curve_that_arrays_give():
    dataset = tf.data.Dataset.from_tensor_slices(LINE).batch(2)
    settings = {"low": 1e-4, "high": 1e-1, "steps": 12}
    stream = find_rate(Line(), dataset, **settings)
    arrays = find_rate(Line(), ArrayFeed(LINE, 2), **settings)
    assert stream.losses == arrays.losses
    assert stream.suggestion == arrays.suggestion


def test_the_test_ends_where_the_loss_runs_away():
    found = find_rate(Line(), LINE, low=1e-3, high=1e3, steps=60, batch_size=3)
    assert len(found.rates) < 60
    assert len(found.losses) == len(found.smoothed) == len(found.rates)
    # The mean of x squared is 14/3, so that the error grows from a rate of 3/14 on.
    assert 3 / 14 < found.rates[-1] < 10
    assert found.suggestion is not None
    assert found.suggestion < 3 / 14
    assert f"stopped at {found.rates[-1]:.2g}, where the loss diverged (step {len(found.rates)} of 60)" in found.reason


def test_a_loss_that_falls_far_is_not_cut_off_where_it_began():
    found = find_rate(Line(), LINE, low=1e-5, high=0.1, steps=80, batch_size=3)
    assert min(found.losses) < found.losses[0] / 1000
    assert found.smoothed[0] == pytest.approx(found.losses[0], rel=1e-2)


def test_a_loss_that_is_not_finite_from_the_start_gives_no_suggestion():
    found = find_rate(Line(), (LINE[0], np.float32([[np.nan]] * 3)), batch_size=3)
    assert found.suggestion is None
    assert len(found.losses) == 1
    assert found.reason.startswith("the first loss is not finite")


@pytest.mark.filterwarnings("ignore:.* is outside its declared range:UserWarning")
def test_the_suggested_rate_learns_two_moons_better_than_the_ends_of_the_range(tmp_path):
    found = find_rate(TwoMoons())
    assert found.suggestion is not None
    losses = {}
    for rate in (found.rates[20], found.suggestion, found.rates[-1]):
        task = TwoMoons(TwoMoons.HParams(learning_rate=rate))
        result = lk.Runner(max_epochs=3, progress=False, run_dir=tmp_path / str(rate)).fit(task)
        losses[rate] = result.history["val/loss"][-1]
    assert min(losses, key=losses.__getitem__) == found.suggestion


def test_with_a_run_directory_the_curve_is_drawn_and_a_fit_can_follow(tmp_path):
    runner = lk.Runner(max_epochs=1, progress=False, run_dir=tmp_path / "run")
    task = TwoMoons()
    found = runner.find_learning_rate(task, steps=20)
    assert found.figure == tmp_path / "run" / "figures" / "learning_rate.png"
    assert found.figure.read_bytes().startswith(b"\x89PNG")
    assert runner.fit(task).epochs == 1
    assert found.figure.is_file()


def test_without_a_run_directory_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_rate(TwoMoons(), steps=12).figure is None
    assert list(tmp_path.iterdir()) == []


def test_a_figure_that_cannot_be_written_is_found_before_the_work(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(OSError, match=r"could not write .*learning_rate\.png"):
        lk.Runner(progress=False, run_dir=tmp_path / "run").find_learning_rate(TwoMoons())


class Two(Line):
    """Two models with an optimizer each."""

    def build(self):
        super().build()
        self.other = keras.Sequential([keras.Input((1,)), layers.Dense(1)])
        self.optimizers = {"other": keras.optimizers.SGD(0.5)}

    def train_step(self, batch):
        x, y = batch
        self.log("rate", self.optimizer.learning_rate)
        self.log("others_rate", self.optimizers["other"].learning_rate)
        mine, others = self.model.trainable_variables, self.other.trainable_variables
        self.minimize(lambda: ops.mean(ops.square(self.other(x) - y)), others, self.optimizers["other"])
        return self.minimize(lambda: self.loss(batch, training=True), mine)


def test_of_several_optimizers_one_is_named_and_the_others_keep_their_rates():
    settings = {"low": 0.001, "high": 0.01, "steps": 10, "optimizer": "optimizers.other"}
    assert find_rate(Two(), LINE, batch_size=3, loss="rate", **settings).losses == (0.125,) * 10
    found = find_rate(Two(), LINE, batch_size=3, loss="others_rate", **settings)
    assert found.losses == pytest.approx(found.rates)


def test_of_several_optimizers_none_is_chosen_by_itself():
    message = (
        r"Two\.train_step uses 2 optimizers\. Choose the one to vary, as in optimizer='optimizers\.other'; "
        r"the others keep their learning rates\. Valid names: optimizers\.other, optimizer\."
    )
    with pytest.raises(ValueError, match=message):
        find_rate(Two(), LINE, batch_size=3)
    with pytest.raises(ValueError, match=r"optimizer='optimizr': no train step uses that\. Did you mean 'optimizer'\?"):
        find_rate(Two(), LINE, batch_size=3, optimizer="optimizr")


def test_the_rate_of_an_optimizer_with_loss_scaling_is_that_of_the_one_inside():
    class Scaled(Line):
        def build_optimizer(self):
            return keras.optimizers.LossScaleOptimizer(super().build_optimizer(), initial_scale=4.0)

        def train_step(self, batch):
            self.log("rate", self.optimizer.inner_optimizer.learning_rate)
            return super().train_step(batch)

    task = Scaled()
    found = find_rate(task, LINE, batch_size=3, loss="rate", steps=10)
    assert found.losses == pytest.approx(found.rates)
    assert float(ops.convert_to_numpy(ops.copy(task.optimizer.learning_rate))) == 0.125


def test_a_schedule_is_refused():
    class Scheduled(Line):
        rate = keras.optimizers.schedules.CosineDecay(0.1, 100)

    message = r"Scheduled\.optimizer computes its learning rate from the step .*Give it a number for the search"
    with pytest.raises(lk.TaskError, match=message):
        find_rate(Scheduled(), LINE, batch_size=3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"low": 0.0}, r"low=0\.0: expected a learning rate, a finite number above 0"),
        ({"high": math.inf}, r"high=inf: expected a learning rate, a finite number above 0"),
        ({"low": 1.0, "high": 0.1}, r"low=1\.0, high=0\.1: expected low to be less than high\. Swap them"),
        ({"steps": 9}, r"steps=9: expected a whole number of at least 10"),
        ({"steps": 20.0}, r"steps=20\.0: expected a whole number of at least 10"),
    ],
)
def test_settings_out_of_range_are_refused_before_anything_is_built(settings, message):
    class Unbuilt(TwoMoons):
        def build_data(self):
            raise AssertionError("it was built")

    with pytest.raises(ValueError, match=message):
        find_rate(Unbuilt(), **settings)


def test_a_loss_that_is_not_logged_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match=r"loss='los': no train step logs that\. Did you mean 'loss'\?"):
        find_rate(TwoMoons(), loss="los")


def test_the_average_is_corrected_for_its_beginning():
    # Half of each: 4 / 2 = 2, corrected by 1 - 1/2: 4. Then (2 + 2) / 2 = 2, by 1 - 1/4: 8/3.
    one = learning_rate.RunningLoss(0.5).after(4.0)
    two = one.after(2.0)
    assert (one.least, two.least) == (4.0, 8 / 3)
    assert (one.least_at, two.least_at, two.after(4.0).least_at) == (1, 2, 2)
    assert two.ceiling == pytest.approx(32 / 3)
    assert not two.diverged
    assert not two.after(15.0).diverged  # (2 + 15) / 2 = 8.5, by 1 - 1/8: 9.71
    assert two.after(17.0).diverged  # 9.5, corrected: 10.86
    assert two.after(math.nan).diverged


def test_a_loss_below_zero_runs_away_as_far_above_its_least():
    running = learning_rate.RunningLoss(0.0).after(-2.0)
    assert running.ceiling == 4.0
    assert not running.after(3.9).diverged
    assert running.after(4.1).diverged


def test_neighbours_on_both_sides_count_by_their_distance():
    # Weights 1, 1/2, 1/4.
    assert learning_rate.smoothed([4.0, 2.0, 0.0], 0.5, 9.0) == pytest.approx([5 / 1.75, 4 / 2.0, 2 / 1.75])
    assert learning_rate.smoothed([4.0, math.inf], 0.5, 6.0) == pytest.approx([7 / 1.5, 8 / 1.5])
    assert learning_rate.smoothed([4.0, 7.0, 1.0], 0.0, 6.0) == [4.0, 6.0, 1.0]


def test_the_suggestion_is_where_a_curve_falls_fastest_over_the_logarithm_of_the_rate():
    rates = np.logspace(-6, 0, 61)
    losses = 1 - 1 / (1 + np.exp(-3 * (np.log10(rates) + 3)))  # steepest at 1e-3
    losses[55:] += np.linspace(0, 5, 6)  # it runs away
    for beta in (0.0, 0.5, 0.8):  # a running average would be late by 0, 1 and 4 steps
        found, why = learning_rate.suggest(rates, losses, learning_rate.smoothed(losses, beta, 1.0), beta)
        assert found == pytest.approx(1e-3)
        assert why == f"the loss fell fastest at {found:.2g}"


@pytest.mark.parametrize(
    ("losses", "why"),
    [
        (np.linspace(1, 2, 40), "the loss did not fall: lower `low`"),
        (1 + 0.1 * np.random.default_rng(0).normal(size=40), "the loss did not fall beyond its noise"),
    ],
)
def test_a_loss_that_does_not_fall_gives_no_suggestion_and_the_reason(losses, why):
    found, reason = learning_rate.suggest(np.logspace(-6, 0, 40), losses, learning_rate.smoothed(losses, 0.9, 8.0), 0.9)
    assert found is None
    assert reason.startswith(why)


def test_the_rates_are_the_given_ones_at_both_ends_and_the_average_is_over_a_tenth():
    test = learning_rate.RangeTest(1e-3, 1.0, 31, None, "loss")
    assert (test.rate(0), test.rate(15), test.rate(30)) == (1e-3, pytest.approx(1e-3**0.5), 1.0)
    assert test.beta == pytest.approx(1 - 10 / 31)
    assert learning_rate.RangeTest(1, 2, 10, None, "loss").beta == 0
    for low, high in [(1.0, 1.0), (True, 2.0), (-1.0, 1.0), ("1", 2.0), (math.nan, 1.0)]:
        with pytest.raises(ValueError, match=r"expected a learning rate|Swap them"):
            learning_rate.RangeTest(low, high, 10, None, "loss")


def test_a_descent_needs_three_losses_and_more_than_its_noise():
    rates = [1e-3, 1e-2, 1e-1, 1.0]
    found, why = learning_rate.suggest(rates, [3.0, 2.0, 3.0, 4.0], [3.0, 2.0, 3.0, 4.0], 0.0)
    assert (found, why.partition(":")[0]) == (None, "the loss did not fall")
    found, why = learning_rate.suggest(rates, [3.0, 3.0, 3.0, 3.0], [9.0, 8.0, 1.0, 2.0], 0.0)
    assert (found, why) == (1e-1, "the loss fell fastest at 0.1")
    # Differences of 1 spread by 1 / 0.954 = 1.05: six times that is 6.29.
    for fell, suggested in [(6.28, False), (6.3, True)]:
        raw = [0.0, 1.0, 2.0, 3.0]
        found, why = learning_rate.suggest(rates, raw, [fell, fell / 2, 0.0, 1.0], 0.0)
        assert (found is not None) == suggested
        assert suggested or why.startswith("the loss did not fall beyond its noise (by 6.3, with a spread of 1 from")
    assert learning_rate.suggest(rates, [math.nan] * 4, [math.nan] * 4, 0.0)[1].startswith("the first loss is not fin")


def test_a_running_average_that_is_equal_is_not_less_and_one_at_the_ceiling_has_not_diverged():
    running = learning_rate.RunningLoss(0.0).after(1.0)
    assert (running.after(1.0).least_at, running.after(0.5).least_at) == (1, 2)
    assert running.ceiling == 4.0
    assert [running.after(loss).diverged for loss in (4.0, 4.01, math.inf)] == [False, True, True]
