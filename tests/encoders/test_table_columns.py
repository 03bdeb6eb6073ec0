"""What is learned from columns, against scikit-learn and Python's calendar, in NumPy and in a model."""

import datetime

import keras
import numpy as np
import pytest

from lightkeras.encoders.table_columns import Category, Date, Number, Scale, from_plain, to_plain

TEXT_IN_A_MODEL = pytest.mark.backends("tensorflow", reason="Keras looks up strings with TensorFlow alone")


def texts(*values):
    array = np.empty(len(values), object)
    array[:] = [value.encode() for value in values]
    return array


def in_a_model(learned, values, column="x"):
    """The numbers of a saved and loaded model of Keras alone."""
    raw = keras.Input((), dtype=learned.dtype, name=column)
    model = keras.Model(raw, learned.join(raw, column))
    model = keras.Model.from_config(model.get_config())
    given = values if values.dtype != object else np.array([value.decode() for value in values], object)
    return keras.ops.convert_to_numpy(model(keras.ops.convert_to_tensor(given)))


def test_missing_numbers_are_the_median_and_numbers_are_scaled_as_by_scikit_learn():
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    random = np.random.default_rng(0)
    train, others = (random.normal(1000, 3, 101).astype("float32") for _ in range(2))
    train[[0, 7, 8]] = others[[1, 2]] = np.nan
    expected = make_pipeline(SimpleImputer(strategy="median"), StandardScaler()).fit(train[:, None].astype(float))
    learned = Number.of(train, "x")
    assert learned.names("x") == ["x"]
    for values in (train, others):
        np.testing.assert_allclose(learned.encode(values, "x"), expected.transform(values[:, None]), atol=2e-5)
        np.testing.assert_allclose(in_a_model(learned, values), learned.encode(values, "x"), atol=1e-6)


def test_a_column_that_is_constant_becomes_zeros():
    learned = Number.of(np.array([7, np.nan, 7], np.float32), "x")
    assert learned.encode(np.array([7, 8], np.float32), "x").tolist() == [[0], [1]]


def test_a_column_without_a_value_is_refused():
    with pytest.raises(ValueError, match=r"^Column 'x' has no value in the train split: leave it out of the features"):
        Number.of(np.full(3, np.nan, np.float32), "x")
    with pytest.raises(ValueError, match=r"^Column 'x' has no date in the train split"):
        Date.of(texts("", ""), "x")


def test_categories_are_columns_as_by_scikit_learn_and_others_are_zeros():
    from sklearn.preprocessing import OneHotEncoder

    train = texts("Bath", "York", "é", "Bath", "[UNK]")
    others = texts("York", "Ely", "", "é", "[UNK]")
    expected = OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit(train[:, None])
    learned = Category.of(train, "town", 4)
    assert learned.names("town") == [f"town_{name.decode()}" for name in expected.categories_[0]]
    for values in (train, others):
        np.testing.assert_array_equal(learned.encode(values, "town"), expected.transform(values[:, None]))
    assert learned.encode(others, "town").sum(axis=1).tolist() == [1, 0, 0, 1, 1]


def test_a_missing_category_is_one_if_the_train_split_has_it():
    learned = Category.of(texts("Bath", "", "York"), "town", 3)
    assert learned.names("town") == ["town_missing", "town_Bath", "town_York"]
    assert learned.encode(texts("", "York", "Ely"), "town").tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]


def test_numbers_may_be_categories_in_the_order_of_their_values():
    learned = Category.of(np.array([10, 9, 1.1, np.nan, 9], np.float32), "x", 4)
    assert learned.names("x") == ["x_1.1", "x_9", "x_10", "x_missing"]
    values = np.array([9, np.nan, 1.1, 3, 10], np.float32)
    expected = [[0, 1, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]]
    assert learned.encode(values, "x").tolist() == expected
    assert in_a_model(learned, values).tolist() == expected


def test_more_categories_than_allowed_are_refused():
    with pytest.raises(
        ValueError, match=r"^Column 'x' has 3 categories in the train split, more than max_categories=2\. "
    ):
        Category.of(texts("a", "b", "c"), "x", 2)


@TEXT_IN_A_MODEL
def test_categories_are_the_same_in_a_model():
    learned = Category.of(texts("Bath", "", "é", "[UNK]"), "the town", 4)
    values = texts("é", "", "Ely", "[UNK]", "Bath", "[UNK]_")
    np.testing.assert_array_equal(in_a_model(learned, values, "the town"), learned.encode(values, "the town"))


def days_of(date: datetime.datetime) -> list[float]:
    """The numbers of a date by Python's own calendar."""
    midnight = datetime.datetime(date.year, date.month, date.day)
    seconds = (date - midnight).total_seconds()
    days = date.toordinal() - datetime.date(1970, 1, 1).toordinal()
    return [days + seconds / 86400, date.month, date.day, date.weekday(), seconds / 3600]


def random_dates(count: int, seed: int) -> list[datetime.datetime]:
    """Dates of the years 1 to 9999, and the days about the ends of February and of the year."""
    random = np.random.default_rng(seed)
    first, span = datetime.datetime(1, 1, 1), 3_652_058 * 86_400
    found = [first + datetime.timedelta(seconds=int(each)) for each in random.integers(0, span, count)]
    for year in (1, 4, 100, 1600, 1900, 1969, 1970, 2000, 2023, 2024, 2100, 9998):
        march, january = datetime.datetime(year, 3, 1), datetime.datetime(year + 1, 1, 1)
        found += [march - datetime.timedelta(seconds=1), march, january - datetime.timedelta(days=1), january]
    return found


def test_dates_are_the_numbers_of_pythons_calendar():
    dates = random_dates(300, seed=0)
    values, numbers = texts(*(date.isoformat() for date in dates)), np.array([days_of(date) for date in dates])
    unscaled = Date("2024-03-01", Scale([0.0] * 5, [1.0] * 5))
    np.testing.assert_array_equal(unscaled.encode(values, "sold"), numbers.astype(np.float32))
    learned = Date.of(values, "sold")
    assert learned.names("sold") == ["sold_days", "sold_month", "sold_day", "sold_weekday", "sold_hour"]
    expected = (numbers - numbers.mean(axis=0)) / numbers.std(axis=0)
    np.testing.assert_allclose(learned.encode(values, "sold"), expected, atol=1e-5)


def test_a_missing_date_is_the_median_one():
    learned = Date.of(texts("2024-03-01", "", "2020-05-05T12:00:00", "2024-03-09", "2030-01-01"), "sold")
    assert learned.median == "2024-03-01T00:00:00"  # the second of four
    missing, median = learned.encode(texts("", "2024-03-01"), "sold")
    np.testing.assert_array_equal(missing, median)
    with pytest.raises(ValueError, match=r"^Column 'sold' in example 1 holds b?'2024-02-30': expected an ISO date"):
        learned.encode(texts("2024-03-01", "2024-02-30"), "sold")


@TEXT_IN_A_MODEL
def test_dates_are_the_same_in_a_model_of_keras_own_layers():
    learned = Date.of(texts("2024-03-01T18:30:00", "1970-01-01", "2024-12-31"), "sold on")
    dates = [date.isoformat() for date in random_dates(500, seed=1)]
    forms = ["", "2024-02-29", "2024-02-29 18:30", "2024-02-29T18:30:15.75", "2024-02-29T18:30:15Z"]
    values = texts(*dates, *forms)
    in_model = in_a_model(learned, values, "sold on")
    np.testing.assert_allclose(in_model, learned.encode(values, "sold on"), rtol=1e-6, atol=1e-6)
    median = learned.encode(texts(""), "sold on")[0]
    for no_date in in_a_model(learned, texts("soon", "2024-13-01", "2024", "20240301"), "sold on"):
        np.testing.assert_allclose(no_date, median, rtol=1e-6, atol=1e-6)


def test_what_was_learned_is_the_same_after_it_was_saved_as_plain_values():
    towns, dates = texts("Bath", "", "é"), texts("2024-03-01", "2024-03-02T18:30:00", "")
    rooms = np.array([1.1, np.nan, 3], np.float32)
    for learned, values in (
        (Number.of(rooms, "x"), rooms),
        (Category.of(towns, "x", 3), towns),
        (Category.of(rooms, "x", 3), rooms),
        (Date.of(dates, "x"), dates),
    ):
        again = from_plain(to_plain(learned))
        assert again == learned
        np.testing.assert_array_equal(again.encode(values, "x"), learned.encode(values, "x"))


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        (3, r"^a column is of the kind None: expected number, category, date\."),
        ({"kind": "other"}, r"^a column is of the kind 'other'"),
        ({"kind": "number"}, r"^of a column, median is missing"),
        ({"kind": "category", "categories": 5}, r"^of a column, categories: expected a list"),
        ({"kind": "category", "categories": ["a"], "dtype": "int"}, r"^of a column, dtype"),
        (
            {"kind": "date", "median": "soon", "scale": {"mean": [0.0] * 5, "deviation": [1.0] * 5}},
            "Error parsing|expected",
        ),
        ({"kind": "date", "median": "2024-01-01", "scale": {"mean": [0.0] * 4, "deviation": [1.0] * 5}}, "broadcast"),
        (
            {"kind": "number", "median": 1.0, "scale": {"mean": [0.0] * 2, "deviation": [1.0] * 2}},
            r"has 2 means: expected 1",
        ),
    ],
)
def test_what_no_column_has_learned_is_refused(plain, message):
    with pytest.raises(ValueError, match=message):
        from_plain(plain)
