"""Cross-validation against fits of the folds by hand, and after a stop and resume."""

from __future__ import annotations

import dataclasses
import functools
import json
import statistics

import keras
import numpy as np
import pytest
from sklearn.model_selection import KFold

import lightkeras as lk
from lightkeras.testing import TwoMoons, two_moons

pytestmark = pytest.mark.any_backend

X, Y = two_moons(60)


def runner(run_dir, **settings):
    return lk.Runner(**{"max_epochs": 2, "run_dir": run_dir, "progress": False, "pictures": False} | settings)


def test_each_fold_is_the_fit_of_its_part_and_mean_and_spread_are_those_of_python(tmp_path):
    found = lk.cross_validate(TwoMoons, (X, Y), folds=3, shuffle=False, runner=runner(tmp_path / "folds"))
    losses = []
    for number, (train, test) in enumerate(KFold(3).split(X)):
        alone = runner(tmp_path / str(number)).fit(TwoMoons(), (X[train], Y[train]), (X[test], Y[test]))
        assert alone.history == found.folds[number].history
        losses.append(alone.best.value)
    assert found.mean["val/loss"] == statistics.fmean(losses)
    assert found.std["val/loss"] == statistics.stdev(losses)
    assert set(found.mean) == {"val/loss", "val/accuracy"}
    result = json.loads((tmp_path / "folds" / "result.json").read_text())
    assert (result["mean"], result["std"], result["folds"]) == (found.mean, found.std, 3)
    assert result["runs"] == ["fold_1", "fold_2", "fold_3"]


def test_the_task_s_own_data_is_cut_and_keeps_its_name(tmp_path, capsys):
    settings = runner(tmp_path / "folds", max_epochs=1, pictures=True, progress=True)
    found = lk.cross_validate(TwoMoons, folds=2, stratified=True, runner=settings)
    module = TwoMoons().build_data()
    whole = module.train().examples + module.validation().examples
    for fold in found.folds:
        config = json.loads((fold.run_dir / "config.json").read_text())
        assert config["data"]["source"] == "arrays"
        assert config["data"]["validation"]["examples"] == whole / 2
    text = str(found)
    assert [line.split()[:2] for line in text.splitlines()[1:3]] == [["fold", "1"], ["fold", "2"]]
    assert f"{found.mean['val/loss']:.4g}" in text
    page = (tmp_path / "folds" / "report.html").read_text()
    assert "fold_2" in page
    assert "mean: val/loss" in page
    assert "fold 2 of 2" in capsys.readouterr().err


class Cars(lk.Task):
    """Its model depends on the columns of the table, as in the guide to own data."""

    def build_data(self):
        return lk.data.Table(self.hp.table, "mpg", features=["weight", lk.data.OneHot("origin")], test=0, validation=0)

    def build_model(self):
        self.data.prepare(self.lookup)
        inputs = {name: keras.Input((), name=name) for name in self.data.features}
        return keras.Model(inputs, keras.layers.Dense(1)(keras.ops.stack(list(inputs.values()), axis=-1)))

    def loss(self, batch, training):
        return keras.ops.mean(keras.ops.square(keras.ops.squeeze(self.model(batch[0]), -1) - batch[1]))

    @dataclasses.dataclass(frozen=True)
    class HParams:
        table: str = ""


def test_a_model_that_depends_on_the_columns_of_a_table_is_validated_by_folds(tmp_path):
    table = tmp_path / "cars.csv"
    table.write_text("weight,origin,mpg\n" + "".join(f"{2000 + 97 * n},{1 + n % 3},{15 + n}\n" for n in range(9)))
    task = functools.partial(Cars, Cars.HParams(str(table)))
    found = lk.cross_validate(task, folds=2, runner=runner(tmp_path / "folds"))
    assert [fold.epochs for fold in found.folds] == [2, 2]


class StopsInTheSecondFold(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if StopsInTheSecondFold.left == 0:
            raise KeyboardInterrupt
        StopsInTheSecondFold.left -= 1


class Stopped(TwoMoons):
    def build_callbacks(self):
        return [StopsInTheSecondFold()]


@pytest.mark.long
def test_a_stopped_one_is_resumed_to_the_same_values(tmp_path):
    StopsInTheSecondFold.left = 10**6
    whole = lk.cross_validate(Stopped, folds=3, runner=runner(tmp_path / "whole"))
    StopsInTheSecondFold.left = 3
    with pytest.raises(KeyboardInterrupt):
        lk.cross_validate(Stopped, folds=3, runner=runner(tmp_path / "folds"))
    assert not (tmp_path / "folds" / "fold_3").exists()
    StopsInTheSecondFold.left = 10**6
    with pytest.raises(FileExistsError, match=r"folds is not empty"):
        lk.cross_validate(Stopped, folds=3, runner=runner(tmp_path / "folds"))
    resumed = lk.cross_validate(Stopped, folds=3, runner=runner(tmp_path / "folds"), resume=True)
    assert [fold.history for fold in resumed.folds] == [fold.history for fold in whole.folds]
    assert (resumed.mean, resumed.std) == (whole.mean, whole.std)
    with pytest.raises(lk.ChangedRunError, match=r"data\.train\.fingerprint"):
        lk.cross_validate(Stopped, folds=2, runner=runner(tmp_path / "folds"), resume=True)


def model():
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])


def test_a_function_makes_the_model_of_each_fold(tmp_path):
    def make():
        return lk.SupervisedTask(model(), loss="mse", metrics=["mae"])

    found = [
        lk.cross_validate(make, (X, Y.astype("float32")), folds=2, runner=runner(tmp_path / name)).mean
        for name in ("a", "b")
    ]
    assert found[0] == found[1]  # the weights come from the seed
    assert set(found[0]) == {"val/loss", "val/mae"}


def test_an_encoder_learns_from_the_train_part_alone(tmp_path):
    class Words(lk.Task):
        def build_encoder(self):
            return lk.TextVectorizer(5, 1)

        def build_model(self):
            return keras.Sequential([keras.layers.Embedding(5, 1), keras.layers.Flatten()])

        def loss(self, batch, training):
            x, y = batch
            return keras.ops.mean((self.model(x)[:, 0] - y) ** 2)

    seen = []

    class Kept(Words):
        def build(self):
            super().build()
            seen.append(set(self.encoder.vocabulary))

    texts = np.array(["red", "red", "blue", "blue"], dtype=object)
    lk.cross_validate(
        Kept, (texts, np.zeros(4, "float32")), folds=2, shuffle=False, runner=runner(tmp_path / "w", export=False)
    )
    assert ["blue" in words for words in seen] == [True, False]
    assert ["red" in words for words in seen] == [False, True]


def test_what_cannot_be_validated_is_refused_before_anything_is_written(tmp_path):
    one = runner(tmp_path / "folds")
    for task, data, message in [
        (TwoMoons(), None, r"each fold begins with new weights, so it takes the class of a task or a function"),
        (lambda: 3, None, r"expected task\(\) to return a lightkeras\.Task, got int"),
        (TwoMoons, lambda: iter([]), r"takes arrays such as \(x, y\) or a DataModule, got function"),
    ]:
        with pytest.raises(TypeError, match=message):
            lk.cross_validate(task, data, runner=one)
    with pytest.raises(ValueError, match=r"folds=61 of 60 examples: expected at most one fold for each example"):
        lk.cross_validate(TwoMoons, (X, Y), folds=61, runner=one)
    with pytest.raises(ValueError, match=r"There is no data: Task\.build_data returns None"):
        lk.cross_validate(lk.Task, runner=one)
    with pytest.raises(ValueError, match=r"cross_validate\(folds=1\): expected a whole number of at least 2"):
        lk.cross_validate(TwoMoons, folds=1, runner=one)
    with pytest.raises(ValueError, match=r"the runner has callbacks, which would carry their state"):
        lk.cross_validate(TwoMoons, runner=dataclasses.replace(one, callbacks=[keras.callbacks.Callback()]))
    with pytest.raises(ValueError, match=r"resume=True needs the run_dir"):
        lk.cross_validate(TwoMoons, resume=True)
    assert not (tmp_path / "folds").exists()


def test_a_model_that_an_earlier_fold_trained_is_refused(tmp_path):
    shared = model()
    with pytest.raises(TypeError, match=r"returned a task with the model of an earlier fold"):
        lk.cross_validate(
            lambda: lk.SupervisedTask(shared, loss="mse"),
            (X, Y.astype("float32")),
            folds=2,
            runner=runner(tmp_path / "a"),
        )
