"""Tables as numbers and texts: what is learned from the train split, and the model that takes the raw columns."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import lightkeras as lk

ROWS = {
    "rooms": [3, None, 4, 2, 5, 3, 1, 2, 6, 3, 4, None],
    "town": ["Bath", "York", None, "Bath", "York", "Ely", "Bath", "York", "Bath", "Ely", "York", "Bath"],
    "sold": ["2024-03-01", "2024-03-02 18:30", None, *["2023-12-31"] * 9],
    "zone": [1, 2, 1, 3, 1, 2, 1, 2, None, 3, 1, 2],
    "note": ["sunny flat", "dark flat", "", *["sunny house", "dark house"] * 4, "sunny"],
    "kind": ["flat", "house"] * 6,
}


def rows_of(number: int) -> dict:
    return {name: column[number] for name, column in ROWS.items() if name != "kind"}


def table(**settings) -> lk.data.Table:
    settings = {"incomplete": "keep", "test": 2, "validation": 3, "batch_size": 4, "seed": 1, **settings}
    return lk.data.Table(ROWS, "kind", classes=True, **settings)


def encoder(**settings) -> lk.TableEncoder:
    return lk.TableEncoder({"note": lk.TextVectorizer(6, 3)}, categories=["zone"], **settings)


def fitted() -> tuple[lk.TableEncoder, lk.data.Table]:
    data, made = table(), encoder()
    data.prepare(lk.Lookup())
    made.fit([data.train().arrays])
    return made, data


class Kinds(lk.Task):
    """Flat or house, from columns of every kind."""

    def build_data(self):
        return table()

    def build_encoder(self):
        return encoder()

    def build_model(self):
        inputs = self.encoder.inputs()
        words = keras.layers.Flatten()(keras.layers.Embedding(6, 4)(inputs["note"]))
        x = keras.layers.Dropout(0.2, seed=0)(keras.layers.Concatenate()([inputs["numbers"], words]))
        return keras.Model(inputs, keras.layers.Dense(2)(x))

    def build_optimizer(self):
        return keras.optimizers.Adam(0.05)

    def loss(self, batch, training):
        columns, kind = batch
        logits = self.model(columns, training=training)
        return keras.ops.mean(keras.losses.sparse_categorical_crossentropy(kind, logits, from_logits=True))


def test_only_the_train_split_is_learned_from():
    made, data = fitted()
    inputs = data.train().arrays[0]
    unseen = {**{name: array[:1] for name, array in inputs.items()}, "rooms": np.float32([np.nan])}

    def scaled_median(rooms) -> float:
        filled = np.where(np.isnan(rooms), np.nanmedian(rooms), rooms)
        return (np.nanmedian(rooms) - filled.mean()) / filled.std()

    found = made.encode(unseen)["numbers"][0, 0]
    np.testing.assert_allclose(found, scaled_median(inputs["rooms"].astype(float)), rtol=1e-5)
    assert abs(found - scaled_median(np.array(ROWS["rooms"], float))) > 0.01  # of all rows
    towns = sorted({town.decode() for town in inputs["town"]})
    names = [name.removeprefix("town_") for name in made.feature_names if name.startswith("town_")]
    assert names == [town or "missing" for town in towns]


def test_numbers_come_in_the_order_of_the_columns_with_their_names():
    made, data = fitted()
    assert made.feature_names[0] == "rooms"
    assert [name for name in made.feature_names if name.startswith("sold")] == [
        f"sold_{part}" for part in ("days", "month", "day", "weekday", "hour")
    ]
    assert made.feature_names[-3:] == ("zone_1", "zone_2", "zone_3")
    features = made.encode(data.train().arrays[0])
    assert features["numbers"].shape == (7, len(made.feature_names))
    assert features["numbers"].dtype == np.float32
    np.testing.assert_allclose(features["numbers"][:, 0].std(), 1, rtol=1e-5)
    assert features["note"].dtype == np.int32
    shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in made.inputs().items()}
    assert shapes == {"numbers": ((None, len(made.feature_names)), "float32"), "note": ((None, 3), "int32")}
    kinds = {"rooms": "number", "town": "category", "sold": "date", "zone": "category", "note": "text"}
    assert made.record()["columns"] == kinds


def test_it_learns_from_several_batches_as_from_one():
    made, data = fitted()
    inputs, kinds = data.train().arrays
    parts = [
        ({name: array[part] for name, array in inputs.items()}, kinds[part]) for part in (slice(3), slice(3, None))
    ]
    again = encoder()
    again.fit(parts)
    assert again.fingerprint == made.fingerprint


def test_its_state_restores_it():
    made, data = fitted()
    again = encoder()
    assert (again.is_fitted, made.is_fitted) == (False, True)
    again.restore(made.state())
    assert (again.fingerprint, again.is_fitted) == (made.fingerprint, True)
    inputs = data.test().arrays[0]
    for name, array in made.encode(inputs).items():
        np.testing.assert_array_equal(again.encode(inputs)[name], array)
    with pytest.raises(ValueError, match=r"^it holds the columns rooms, town, sold, zone, note, and TableEncoder has "):
        lk.TableEncoder().restore(made.state())


def test_bags_of_ngrams_are_features_of_a_column_of_text():
    data = table(features=["rooms", "note"])
    data.prepare(lk.Lookup())
    inputs, kinds = data.train().arrays
    ngrams = lk.NgramVectorizer(1, min_texts=1)
    made = lk.TableEncoder({"note": ngrams})
    made.fit([(inputs, kinds)])  # n-grams are chosen by the labels
    bags, alone = made.encode(inputs)["note"], ngrams.encode(inputs["note"])
    np.testing.assert_array_equal(bags.ids, alone.ids)
    assert list(made.inputs()["note"]) == ["counts", "ids", "weights", "rows"]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"texts": {"a": 3}}, TypeError, r"^TableEncoder\(texts=\{'a': \.\.\.\}\) got int: expected an lk\.Encoder"),
        ({"texts": {"numbers": lk.TextVectorizer(9, 1)}}, ValueError, r"'numbers' is the name of the numbers\. Rename"),
        (
            {"texts": {"a": lk.TextVectorizer(9, 1)}, "categories": ["a"]},
            ValueError,
            r"'a' is also among the categories",
        ),
        ({"categories": "a"}, ValueError, r"categories='a'\): expected a list of columns, \['a'\]"),
        (
            {"max_categories": 0},
            ValueError,
            r"^TableEncoder\(max_categories=0\): expected a whole number of at least 1",
        ),
    ],
)
def test_settings_are_checked(settings, error, message):
    with pytest.raises(error, match=message):
        lk.TableEncoder(**settings)


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        (np.zeros(3), TypeError, r"^TableEncoder takes a dict of columns, and the inputs of the batch are ndarray"),
        ({"x": np.zeros((3, 2))}, TypeError, r"^TableEncoder: column 'x' is float64\[3, 2\]: expected numbers or text"),
        ({"a/b": np.zeros(3)}, ValueError, r"^TableEncoder: column 'a/b' would be the name of an input .*rename"),
        ({"nots": np.zeros(3)}, ValueError, r"has no column 'note'\. Did you mean 'nots'\?"),
    ],
)
def test_tables_that_cannot_be_learned_from_are_refused(columns, error, message):
    with pytest.raises(error, match=message):
        lk.TableEncoder({"note": lk.TextVectorizer(9, 1)} if "nots" in columns else None).fit([(columns,)])


def test_a_column_of_texts_without_an_encoder_has_too_many_categories():
    texts = np.array([f"text {number}" for number in range(30)], object)
    with pytest.raises(
        ValueError, match=r"^Column 'x' has 30 categories .* texts=\{'x': lk\.TextVectorizer\(\.\.\.\)\}"
    ):
        lk.TableEncoder(max_categories=20).fit([{"x": texts}])


def test_columns_that_differ_from_those_of_the_train_split_are_refused():
    made, data = fitted()
    inputs = data.test().arrays[0]
    with pytest.raises(
        ValueError, match=r"the inputs lack the column 'town': expected those of the train split, rooms, "
    ):
        made.encode({name: array for name, array in inputs.items() if name != "town"})
    with pytest.raises(ValueError, match=r"the inputs have the unknown column 'size': expected"):
        made.encode({**inputs, "size": inputs["rooms"]})
    with pytest.raises(TypeError, match=r"column 'town' is float32: expected text, as in the train split"):
        made.encode({**inputs, "town": inputs["rooms"]})
    with pytest.raises(RuntimeError, match=r"TableEncoder knows no columns yet: call fit"):
        encoder().encode(inputs)


# ---------------------------------------------------------------------- runs


def fit(run_dir, steps=None, resume=False):
    keras.utils.set_random_seed(0)
    task = Kinds()
    runner = lk.Runner(max_epochs=4, max_steps=steps, run_dir=run_dir, patience=None, progress=False, pictures=False)
    return task, runner, runner.fit(task, resume=resume)


def test_a_run_that_is_stopped_resumes_to_the_same_weights_with_what_it_learned(tmp_path):
    whole, runner, result = fit(tmp_path / "whole")
    assert result.steps == 8
    fit(tmp_path / "stopped", steps=3)
    resumed, _, again = fit(tmp_path / "stopped", resume=True)
    assert again.history == result.history
    for one, other in zip(whole.model.get_weights(), resumed.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert (tmp_path / "whole" / "encoder.safetensors").read_bytes() == (
        tmp_path / "stopped" / "encoder.safetensors"
    ).read_bytes()
    assert runner.evaluate(Kinds(), weights="best").metrics["loss"] > 0


@pytest.mark.any_backend
def test_each_fold_has_an_encoder_of_its_own_train_split(tmp_path):
    runner = lk.Runner(max_epochs=1, run_dir=tmp_path / "cv", progress=False, pictures=False, preflight=False)
    lk.cross_validate(Kinds, folds=2, runner=runner)
    learned = [path.read_bytes() for path in sorted((tmp_path / "cv").rglob("encoder.safetensors"))]
    assert len(set(learned)) == len(learned) == 2


@pytest.mark.backends("tensorflow", reason="model.keras with text runs on TensorFlow alone")
def test_the_exported_model_takes_the_raw_columns_in_keras_alone(tmp_path):
    task, runner, _ = fit(tmp_path / "run")
    rows = [rows_of(number) for number in range(12)] + [{**rows_of(0), "town": "Oslo", "zone": 9}]
    expected = runner.predict(task, task.data.predict(rows), weights="best")
    model = keras.saving.load_model(tmp_path / "run" / "model.keras")
    columns = {
        "rooms": np.array([row["rooms"] for row in rows], "float32"),  # None becomes NaN
        "zone": np.array([row["zone"] for row in rows], "float32"),
        **{name: np.array([row[name] or "" for row in rows], object) for name in ("town", "sold", "note")},
    }
    np.testing.assert_allclose(model.predict(columns, verbose=0), expected, atol=1e-5)
    assert {str(type(layer).__module__).split(".")[0] for layer in model._flatten_layers()} == {"keras"}


def test_the_exported_model_of_numbers_runs_on_every_backend(tmp_path):
    class Numbers(Kinds):
        def build_data(self):
            return table(features=["rooms", "zone"])

        def build_encoder(self):
            return lk.TableEncoder(categories=["zone"])

        def build_model(self):
            inputs = self.encoder.inputs()
            return keras.Model(inputs, keras.layers.Dense(2)(inputs["numbers"]))

    task, runner = Numbers(), lk.Runner(max_epochs=2, run_dir=tmp_path / "run", progress=False, pictures=False)
    runner.fit(task)
    rows = [{"rooms": 3, "zone": 1}, {"rooms": None, "zone": None}, {"rooms": 2, "zone": 9}]
    expected = runner.predict(task, task.data.predict(rows), weights="best")
    model = keras.saving.load_model(tmp_path / "run" / "model.keras")
    columns = {"rooms": np.float32([3, np.nan, 2]), "zone": np.float32([1, np.nan, 9])}
    np.testing.assert_allclose(model.predict(columns, verbose=0), expected, atol=1e-5)


@pytest.mark.backends("tensorflow", reason="model.keras with text runs on TensorFlow alone")
def test_json_lines_of_texts_reach_a_model_that_takes_raw_text(tmp_path):
    lines = [
        f'{{"text": "a {word} film {number}", "label": "{name}"}}'
        for number in range(20)
        for name, word in (("pos", "good"), ("neg", "bad"))
    ]
    (tmp_path / "reviews.jsonl").write_text("\n".join(lines))

    class Reviews(Kinds):
        def build_data(self):
            path = tmp_path / "reviews.jsonl"
            return lk.data.Table(path, "label", features=[lk.data.Text("text")], classes=True, batch_size=8)

        def build_encoder(self):
            return lk.TextVectorizer(20, 4)

        def build_model(self):
            words = self.encoder.inputs()
            return keras.Model(
                words, keras.layers.Dense(2)(keras.layers.Flatten()(keras.layers.Embedding(20, 8)(words)))
            )

    task, runner = Reviews(), lk.Runner(max_epochs=8, run_dir=tmp_path / "run", progress=False, pictures=False)
    runner.fit(task)
    texts = ["a good film", "a bad film"]
    expected = runner.predict(task, task.data.predict([{"text": text} for text in texts]), weights="best")
    assert [task.data.class_names[number] for number in expected.argmax(axis=-1)] == ["pos", "neg"]
    model = keras.saving.load_model(tmp_path / "run" / "model.keras")
    np.testing.assert_allclose(model.predict(np.array(texts, object), verbose=0), expected, atol=1e-5)
