"""Tables as data: columns, categories, rows without a value, splits, and rows as people give them."""

import cars
import numpy as np
import pytest
from cars import CSV, columns_of, prepared

from lightkeras.data.datasets.table_features import OneHot, Text
from lightkeras.data.datasets.table_files import TableFile
from lightkeras.data.datasets.tables import Table
from lightkeras.data.lookup import Lookup

ORIGIN = OneHot("origin", {1: "USA", 2: "Europe", 3: "Japan"})


@pytest.fixture
def file(tmp_path):
    return cars.written(tmp_path)


def test_a_row_without_a_value_is_left_out_and_that_is_reported(file, capfd):
    table = prepared(file, features=["weight", ORIGIN])
    assert capfd.readouterr() == (
        "",
        f"lightkeras: 1 of 5 rows of {file} have no value for 'weight' (line 4): they are dropped\n",
    )
    assert table.incomplete_rows == 1
    assert columns_of(table.train()) == {
        "weight": [3504, 3693, 2372, 2833],
        "origin_USA": [1, 1, 0, 0],
        "origin_Europe": [0, 0, 0, 1],
        "origin_Japan": [0, 0, 1, 0],
    }
    assert table.train().arrays[1].tolist() == [18, 15, 24, 22]
    assert (table.source, table.features) == ("cars.csv", ("weight", "origin_USA", "origin_Europe", "origin_Japan"))
    assert {spec.dtype for spec in table.train().spec[0].values()} == {"float32"}
    assert [str(table.train().spec[1]), table.validation(), table.test()] == ["float32[batch]", None, None]


def test_a_row_without_a_value_in_a_column_that_is_not_used_stays(file, capfd):
    table = prepared(file, features=["origin"])
    assert (table.train().examples, table.incomplete_rows) == (5, 0)
    assert capfd.readouterr() == ("", "")


def test_many_rows_without_a_value_are_not_all_listed(capfd):
    table = prepared({"x": [None] * 8 + [1.0], "y": list(range(9))}, "y")
    assert table.incomplete_rows == 8
    assert "(row 0, row 1, row 2, row 3, row 4, row 5, ...): they are dropped" in capfd.readouterr().err


def test_rows_without_a_value_may_be_an_error(file):
    with pytest.raises(
        ValueError,
        match=r"^1 of 5 rows of .*cars\.csv have no value for 'weight' \(line 4\): expected a value\. Fill it in, or "
        r"drop such rows with incomplete='drop'\.$",
    ):
        prepared(file, incomplete="error")


def test_a_table_without_one_complete_row_is_an_error():
    with pytest.raises(ValueError, match=r"have no value for 'x' or 'y' \(row 0, row 1\): no row is left to train on"):
        prepared({"x": [None, 1.0], "y": [1.0, None]}, "y")


def test_without_features_all_columns_but_the_target_are_taken(file):
    assert prepared(file).features == ("weight", "origin")


def test_text_in_the_target_is_named_with_its_line(file):
    file.write_text(CSV.replace("2833,2,22", "2833,2,far"))
    message = r"^Column 'mpg' in line 6 of .*cars\.csv holds 'far': expected a number\. For a class to predict"
    with pytest.raises(ValueError, match=message):
        prepared(file)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": "mgp"}, r"cars\.csv has no column 'mgp'\. Did you mean 'mpg'\?"),
        ({"features": ["wieght"]}, r"cars\.csv has no column 'wieght'\. Did you mean 'weight'\?"),
        ({"features": [OneHot("orign")]}, r"cars\.csv has no column 'orign'\. Did you mean 'origin'\?"),
        ({"test": 4}, r"^test=4 of 4 examples holds out 4: expected at least 1, and at least 1 left to train on"),
        ({"test": 2, "validation": 2}, r"^validation=2 of 2 examples holds out 2"),
    ],
)
def test_what_the_file_does_not_have_is_an_error_of_prepare(file, settings, message):
    with pytest.raises(ValueError, match=message):
        prepared(file, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"features": "weight"}, r"features='weight': expected a list of columns, \['weight'\]"),
        ({"features": []}, r"features=\[\]: expected at least one column"),
        ({"features": ["mpg", "weight"]}, r"The target 'mpg' is among the features"),
        ({"features": ["origin", OneHot("origin")]}, r"features names the column 'origin' twice"),
        ({"incomplete": "dorp"}, r"incomplete='dorp' is not known\. Did you mean 'drop'\?"),
        ({"test": 1.5}, r"^test=1\.5: expected a fraction between 0 and 1"),
        ({"validation": -1}, r"^validation=-1: expected a fraction between 0 and 1"),
        ({"batch_size": 0}, r"batch_size=0: expected a whole number of at least 1"),
        ({"seed": -1}, r"seed=-1: expected a whole number of at least 0"),
        ({"features": Text("weight")}, r"features=Text\(column='weight'\): expected a list of columns"),
        ({"classes": "cat"}, r"classes='cat': expected True, False, or at least two classes, each once"),
        ({"classes": ["cat"]}, r"classes=\['cat'\]: expected True, False, or at least two classes, each once"),
        ({"classes": ["1", 1]}, r"classes=\['1', 1\]: expected True, False, or at least two classes, each once"),
        (
            {"features": [OneHot("origin")], "incomplete": "keep"},
            r"^OneHot\('origin'\) has no column for a missing category, .* give the column by its name, 'origin'",
        ),
    ],
)
def test_settings_are_checked_before_any_file_is_read(settings, message):
    with pytest.raises(ValueError, match=message):
        Table("nowhere.csv", "mpg", **settings)


# ------------------------------------------------------------------ dates, texts and missing values


HOUSES = {
    "rooms": ["3", "", "4", "2"],
    "town": [" Bath", "York ", "NA", "Bath"],
    "sold": ["2024-03-01", "2024-03-02T18:30", "", "2023-12-31"],
    "note": ["NA", " two baths", "", "7"],
    "price": [300, 200, 400, 250],
}


def test_rows_that_are_dropped_lack_a_value_in_a_column_of_any_kind():
    table = prepared(HOUSES, "price", features=["rooms", "town", "sold", Text("note")])
    assert (table.incomplete_rows, table.train().arrays[1].tolist()) == (2, [300, 250])


@pytest.mark.parametrize("target", [[1.0, None, 2.0], ["a", "", "b"]])
def test_a_target_without_a_value_is_refused_where_rows_are_kept(target):
    classes = isinstance(target[0], str)
    with pytest.raises(
        ValueError, match=r"^1 of 3 rows of the table have no value for 'y' \(row 1\): expected a value"
    ):
        prepared({"x": [1, 2, 3], "y": target}, "y", incomplete="keep", classes=classes)


# ------------------------------------------------------------------ classes


def test_rows_without_a_label_are_dropped_with_a_message_or_refused(capfd):
    rows = {"x": [1, 2, 3, 4, 5], "y": ["a", "b", None, "b", "a"]}
    assert prepared(rows, "y", classes=True).train().arrays[1].tolist() == [0, 1, 1, 0]
    assert "1 of 5 rows of the table have no value for 'y' (row 2): they are dropped" in capfd.readouterr().err
    with pytest.raises(ValueError, match=r"have no value for 'y' \(row 2\): expected a value"):
        prepared(rows, "y", classes=True, incomplete="error")


def test_each_split_has_the_same_share_of_each_class_and_the_rows_that_pandas_drew_last():
    y = np.array(["a"] * 12 + ["b"] * 6 + ["c"] * 2)
    table = prepared({"x": np.arange(20), "y": y}, "y", classes=True, test=0.5, validation=0.2, seed=1)
    splits = {"train": table.train(), "validation": table.validation(), "test": table.test()}
    counts = {name: np.bincount(feed.arrays[1], minlength=3).tolist() for name, feed in splits.items()}
    assert counts == {"train": [5, 2, 1], "validation": [1, 1, 0], "test": [6, 3, 1]}
    rows = {name: feed.arrays[0]["x"].astype(int) for name, feed in splits.items()}
    assert sorted(np.concatenate(list(rows.values()))) == list(range(20))
    order = np.random.RandomState(1).permutation(20)
    last = np.concatenate([order[y[order] == name][-count:] for name, count in {"a": 6, "b": 3, "c": 1}.items()])
    assert sorted(last) == rows["test"].tolist()
    for name, feed in splits.items():
        assert [table.class_names[label] for label in feed.arrays[1]] == y[rows[name]].tolist()


def test_a_class_of_two_rows_that_would_be_held_out_is_named():
    rows = {"x": list(range(6)), "y": ["a", "a", "b", "b", "b", "b"]}
    with pytest.raises(ValueError, match=r"^Class a has 2 of 6 examples, all of which would be held out with 5"):
        prepared(rows, "y", classes=True, test=5)


# ------------------------------------------------------------------ files


def test_parquet_json_lines_and_data_frames_give_what_a_csv_file_gives(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    frame = pandas.DataFrame(
        {
            "rooms": [3, None, 4, 2],
            "town": ["Bath", None, "York", "Bath"],
            "sold": pandas.to_datetime(["2024-03-01", "2024-03-02T18:30", None, "2023-12-31"], format="ISO8601"),
            "kind": ["flat", "house", "flat", "house"],
        }
    )
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True, date_format="iso")
    frame.to_parquet(tmp_path / "a.parquet")
    found = {}
    for table in (tmp_path / "a.csv", tmp_path / "a.jsonl", tmp_path / "a.parquet", frame):
        made = prepared(table, "kind", classes=True, incomplete="keep", test=1)
        name = made.source
        found[name] = [made.class_names, *made.train().arrays, *made.test().arrays]
    assert list(found) == ["a.csv", "a.jsonl", "a.parquet", "arrays"]
    for other in found.values():
        assert other[0] == ("flat", "house")
        for one, two in zip(found["a.csv"][1:], other[1:], strict=True):
            for name in one if isinstance(one, dict) else [...]:
                np.testing.assert_array_equal(one[name], two[name])


def test_splits_by_fraction_and_by_count_share_no_row_and_depend_on_the_seed():
    numbers = {"x": np.arange(100.0), "y": np.arange(100.0)}
    table = prepared(numbers, "y", test=0.2, validation=20, seed=3, batch_size=16)
    train, validation, test = table.train(), table.validation(), table.test()
    assert (train.examples, validation.examples, test.examples) == (60, 20, 20)
    rows = [row for feed in (train, validation, test) for row in feed.arrays[1].tolist()]
    assert sorted(rows) == list(range(100))
    assert (train.shuffle, validation.shuffle, test.shuffle, train.batch_size) == (True, False, False, 16)
    assert train.arrays[0]["x"].tolist() == train.arrays[1].tolist()
    again, other = (prepared(numbers, "y", test=0.2, validation=20, seed=seed) for seed in (3, 4))
    assert again.test().arrays[1].tolist() == test.arrays[1].tolist()
    assert other.test().arrays[1].tolist() != test.arrays[1].tolist()


def test_the_splits_are_those_of_pandas_and_keras():
    """`sample(frac=0.8, random_state=0)` draws by NumPy's old generator; `validation_split` takes the last ones."""
    table = prepared({"x": np.arange(10.0), "y": np.arange(10.0)}, "y", test=0.2, validation=0.25)
    order = [2, 8, 4, 9, 1, 6, 7, 3, 0, 5]  # numpy.random.RandomState(0).permutation(10)
    assert table.test().arrays[1].tolist() == sorted(order[8:])
    assert table.validation().arrays[1].tolist() == sorted(order[6:8])
    assert table.train().arrays[1].tolist() == sorted(order[:6])


def test_preparing_again_does_nothing(file):
    table = prepared(file)
    file.unlink()
    table.prepare(Lookup())
    assert table.train().examples == 4


def test_a_file_without_a_line_of_names_is_given_its_names(tmp_path):
    path = tmp_path / "cars.data"
    path.write_text("18 3504\n15 3693\n")
    assert columns_of(prepared(TableFile(path, ["mpg", "weight"])).train()) == {"weight": [3504, 3693]}


def test_nothing_is_there_before_prepare():
    table = Table("nowhere.csv", "mpg")
    for ask in (table.train, table.validation, table.test, lambda: table.features, lambda: table.predict(["a=1"])):
        with pytest.raises(RuntimeError, match=r"call `prepare\(lookup\)` first"):
            ask()


# ------------------------------------------------------------------ rows to predict for


@pytest.fixture
def table(file) -> Table:
    return prepared(file, features=["weight", ORIGIN])


def test_rows_are_taken_as_the_table_has_them_or_with_names_of_categories(table):
    feed = table.predict(["weight=2372,origin=3", '{"origin": "Europe", "weight": 2833}', {"weight": 1, "origin": 1}])
    assert columns_of(feed) == {
        "weight": [2372, 2833, 1],
        "origin_USA": [0, 0, 1],
        "origin_Europe": [0, 1, 0],
        "origin_Japan": [1, 0, 0],
    }
    assert len(feed.arrays) == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            "weight=1",
            r"^Row 2 has no value for origin: expected one for each of weight, origin, as in weight=1,",
        ),
        ("weight=?,origin=1", r"^Row 2 has no value for weight: "),
        ("weight=1,orign=1", r"^Row 2 gives 'orign', which is not a column\. Did you mean 'origin'\?"),
        ("weight=1,origin=1,mpg=18", r"^Row 2 gives 'mpg', which is the target: leave it out"),
        ("weight=heavy,origin=1", r"^Column 'weight' in row 2 of the input holds 'heavy': expected a number\.$"),
        ("weight=1,origin=Japn", r"in row 2 of the input holds 'Japn', .*Did you mean 'Japan'\?"),
        ("", r"^Row 2 is ''"),
    ],
)
def test_a_row_that_does_not_fit_the_table_is_reported(table, row, message):
    with pytest.raises(ValueError, match=message):
        table.predict(["weight=2372,origin=3", row])


def test_no_rows_or_no_list_of_them_is_an_error(table):
    with pytest.raises(ValueError, match="Received no rows to predict"):
        table.predict([])
    with pytest.raises(TypeError, match=r"^Received the single row 'weight=1,origin=1': expected a list of rows"):
        table.predict("weight=1,origin=1")
