"""Training on features of a frozen part: the same as with the part inside, made once, joined again."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers, ops

import lightkeras as lk
from lightkeras.data.arrays import as_feed
from lightkeras.encoders.features import FeatureCache, encode_feed

TRAIN, VALIDATION = lk.testing.two_moons(320), lk.testing.two_moons(100, seed=1)


def frozen(seed=3):
    weights = keras.initializers.GlorotNormal(seed)
    return keras.Sequential([keras.Input((2,)), layers.Dense(8, "tanh", kernel_initializer=weights)])


class Inside(lk.testing.TwoMoons):
    """With the frozen part in the model."""

    def build_model(self):
        part = frozen()
        part.trainable = False
        points = keras.Input((2,))
        return keras.Model(points, layers.Dense(1, kernel_initializer=keras.initializers.GlorotNormal(5))(part(points)))


class Ahead(lk.testing.TwoMoons):
    """With the frozen part computed ahead."""

    def build_encoder(self):
        return frozen()

    def build_model(self):
        features = self.encoder.inputs()
        return keras.Model(features, layers.Dense(1, kernel_initializer=keras.initializers.GlorotNormal(5))(features))


class Counted(lk.Encoder):
    """Doubles points, and counts how many examples it was given."""

    block = 64

    def __init__(self, factor=2.0):
        self.factor, self.examples = factor, 0

    @property
    def fingerprint(self):
        return f"times{self.factor}"

    def encode(self, inputs):
        self.examples += len(inputs)
        return inputs * np.float32(self.factor)

    def inputs(self):
        return keras.Input((2,))

    def join(self, model):
        points = keras.Input((2,))
        return keras.Model(points, model(points * self.factor))


def runner(folder, **settings):
    features = FeatureCache(folder=str(folder.parent / "features"))
    quick = {"max_epochs": 3, "progress": False, "pictures": False, "export": False}
    return lk.Runner(**{"run_dir": folder, "features": features, **quick, **settings})


def steps_of(folder):
    return [line for line in (folder / "metrics.csv").read_text().splitlines() if line.startswith("step")]


@pytest.mark.parametrize("on_disk", [True, False])
@pytest.mark.parametrize("kind", ["arrays", "stream"])
def test_it_learns_as_with_the_part_inside(kind, on_disk, tmp_path):
    def data():
        if kind == "arrays":
            return as_feed(TRAIN, 32)

        def batches():
            for start in range(0, 320, 32):
                yield TRAIN[0][start : start + 32], TRAIN[1][start : start + 32]

        return as_feed(batches)

    cache = FeatureCache(on_disk=on_disk, folder=str(tmp_path / "features"))
    inside = runner(tmp_path / "inside").fit(Inside(), data(), VALIDATION)
    ahead = runner(tmp_path / "ahead", features=cache).fit(Ahead(), data(), VALIDATION)
    for name, values in inside.history.items():
        np.testing.assert_allclose(ahead.history[name], values, rtol=1e-6, atol=1e-6, err_msg=name)
    for expected, found in zip(steps_of(tmp_path / "inside"), steps_of(tmp_path / "ahead"), strict=True):
        numbers = [[float(value or "nan") for value in row.split(",")[1:]] for row in (expected, found)]
        np.testing.assert_allclose(numbers[1], numbers[0], rtol=1e-5, atol=1e-6)
    assert (tmp_path / "features").exists() == on_disk  # validation is of arrays in any case


def test_what_is_exported_and_predicts_takes_the_raw_inputs(tmp_path):
    task = Ahead()
    made = runner(tmp_path / "run", export=True)
    result = made.fit(task, TRAIN, VALIDATION)
    predicted = made.predict(task, VALIDATION[0], weights="best")
    exported = keras.models.load_model(result.run_dir / "model.keras")
    assert exported.input_shape == (None, 2)
    np.testing.assert_allclose(ops.convert_to_numpy(exported(VALIDATION[0])), predicted, rtol=1e-5, atol=1e-6)


@pytest.mark.any_backend
def test_each_split_is_encoded_once_for_all_runs(tmp_path):
    encoders = [Counted(), Counted(), Counted(3.0)]
    for number, encoder in enumerate(encoders):

        class Doubled(lk.testing.TwoMoons):
            def build_encoder(self, encoder=encoder):
                return encoder

        task = Doubled()
        made = runner(tmp_path / f"run{number}")
        made.fit(task, TRAIN, VALIDATION)
        made.evaluate(task, VALIDATION, split="validation")
    # One example more of each split, to see what features look like.
    assert encoders[0].examples == 320 + 100 + 3
    assert encoders[1].examples == 3
    assert encoders[2].examples == 320 + 100 + 3
    assert len(list((tmp_path / "features").glob("*/meta.json"))) == 4


@pytest.mark.any_backend
def test_a_damaged_cache_is_made_again_and_reported(tmp_path, capsys):
    runner(tmp_path / "first").fit(Ahead(), TRAIN, VALIDATION)
    for array in (tmp_path / "features").glob("*/0.bin"):
        array.write_bytes(b"\0" * array.stat().st_size)
    runner(tmp_path / "second").fit(Ahead(), TRAIN, VALIDATION)
    assert capsys.readouterr().err.count("they are computed again") == 2
    assert (tmp_path / "first" / "metrics.csv").read_text() == (tmp_path / "second" / "metrics.csv").read_text()


@pytest.mark.any_backend
def test_a_folder_that_cannot_be_written_to_is_done_without(tmp_path, capsys):
    (tmp_path / "features").write_text("in the way")
    result = runner(tmp_path / "run").fit(Ahead(), TRAIN)
    assert result.steps == 30
    assert "features are held in memory and not cached" in capsys.readouterr().err


def test_a_run_on_features_resumes_to_the_same_bits(tmp_path):
    runner(tmp_path / "uncut").fit(Ahead(), TRAIN, VALIDATION)
    runner(tmp_path / "cut", max_steps=13).fit(Ahead(), TRAIN, VALIDATION)
    runner(tmp_path / "cut").fit(Ahead(), TRAIN, VALIDATION, resume=True)
    assert steps_of(tmp_path / "cut") == steps_of(tmp_path / "uncut")


@pytest.mark.any_backend
def test_weights_of_a_run_with_another_encoder_are_refused(tmp_path):
    class Other(Ahead):
        def build_encoder(self):
            return frozen(seed=4)

    runner(tmp_path / "run").fit(Ahead(), TRAIN, VALIDATION)
    with pytest.raises(ValueError, match="used an encoder with the fingerprint"):
        runner(tmp_path / "run").evaluate(Other(), VALIDATION, split="validation", weights="best")


class Wrong(Counted):
    def encode(self, inputs):
        return inputs[:, :1]


class Short(Counted):
    def encode(self, inputs):
        return inputs[:1]


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Wrong, r"Wrong.encode returns float32\[batch, 1\], and its inputs\(\) are float32\[batch, 2\]"),
        (Short, "Short.encode returned 1 features for 64 examples: expected one for each"),
    ],
)
def test_features_of_another_form_than_declared_are_refused(kind, message, tmp_path):
    for cache in (FeatureCache(folder=str(tmp_path)), FeatureCache(on_disk=False)):
        with pytest.raises(ValueError, match=message):
            encode_feed(as_feed(TRAIN, 32), kind(), cache)


@pytest.mark.any_backend
def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"limit_gb=0\): expected a number of gigabytes above 0"):
        FeatureCache(limit_gb=0)
    assert dataclasses.asdict(FeatureCache()) == {"on_disk": True, "folder": None, "limit_gb": 10.0}


@pytest.mark.parametrize("labelled", [True, False])
def test_a_tf_dataset_is_encoded_with_and_without_labels(labelled, tmp_path):
    import tensorflow as tf

    points = TRAIN[0][:4]
    dataset = tf.data.Dataset.from_tensor_slices((points, TRAIN[1][:4]) if labelled else points).batch(2)
    feed = encode_feed(as_feed(dataset), Counted(), FeatureCache(folder=str(tmp_path)))
    batches = list(feed.dataset.as_numpy_iterator())
    features = np.concatenate([batch[0] if labelled else batch for batch in batches])
    np.testing.assert_array_equal(features, 2 * points)
    if labelled:
        assert np.concatenate([batch[1] for batch in batches]).tolist() == TRAIN[1][:4].tolist()
    tf.train.Checkpoint(iterator=iter(feed.dataset)).write(str(tmp_path / "iterator"))  # as a run does
    assert (tmp_path / "iterator.index").exists()
