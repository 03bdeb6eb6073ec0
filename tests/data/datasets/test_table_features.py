"""Features of tables: numbers, dates, categories and texts in the columns of a batch."""

import cars
import numpy as np
import pytest
from cars import CSV, columns_of, prepared

from lightkeras.data.datasets.table_features import Date, OneHot, Text


@pytest.fixture
def file(tmp_path):
    return cars.written(tmp_path)


HOUSES = {
    "rooms": ["3", "", "4", "2"],
    "town": [" Bath", "York ", "NA", "Bath"],
    "sold": ["2024-03-01", "2024-03-02T18:30", "", "2023-12-31"],
    "note": ["NA", " two baths", "", "7"],
    "price": [300, 200, 400, 250],
}


def test_categories_that_are_not_given_are_those_of_the_table_in_order():
    table = prepared({"size": ["10", "9", "s", 9], "y": [1, 2, 3, 4]}, "y", features=[OneHot("size")])
    assert columns_of(table.train()) == {"size_9": [0, 1, 0, 1], "size_10": [1, 0, 0, 0], "size_s": [0, 0, 1, 0]}


def test_codes_with_leading_zeros_are_different_categories_and_not_numbers(tmp_path):
    (tmp_path / "z.csv").write_text("zip,price\n00501,1\n501,2\n0501,3\n")
    table = prepared(tmp_path / "z.csv", "price", features=[OneHot("zip")])
    assert columns_of(table.train()) == {"zip_501": [0, 1, 0], "zip_00501": [1, 0, 0], "zip_0501": [0, 0, 1]}
    assert columns_of(table.predict(["zip=00501", {"zip": "501"}, {"zip": 501}])) == {
        "zip_501": [0, 1, 1],
        "zip_00501": [1, 0, 0],
        "zip_0501": [0, 0, 0],
    }
    with pytest.raises(
        ValueError,
        match=r"'zip' in line 2 .*'00501': expected a number, .* give it as Text\('zip'\) or OneHot\('zip'\)",
    ):
        prepared(tmp_path / "z.csv", "price")


def test_a_column_declared_as_text_keeps_what_is_written(tmp_path):
    (tmp_path / "v.csv").write_text("version,price\n1.1,1\n1.10,2\n1.0,3\n1,4\nNA,5\n,6\n")
    table = prepared(tmp_path / "v.csv", "price", features=[OneHot("version", text=True)])
    names = ("version_1", "version_1.0", "version_1.1", "version_1.10", "version_NA")
    assert (table.features, table.incomplete_rows) == (names, 1)
    assert table.train().arrays[0]["version_1.10"].tolist() == [0, 1, 0, 0, 0]
    assert columns_of(table.predict([{"version": "NA"}]))["version_NA"] == [1]


def test_a_category_that_was_not_given_is_named(file):
    with pytest.raises(
        ValueError, match=r"^Column 'origin' in line 6 of .*cars\.csv holds '2', which is not a category of it\. .*1, 3"
    ):
        prepared(file, features=[OneHot("origin", [1, 3])])


def test_text_in_a_column_of_numbers_is_named_with_its_line(file):
    file.write_text(CSV.replace("2833", "heavy"))
    with pytest.raises(
        ValueError,
        match=r"^Column 'weight' in line 6 of .*cars\.csv holds 'heavy': expected a number, as in 3 other "
        r"rows\. Correct it or leave the column out of features",
    ):
        prepared(file)


def test_two_features_that_make_one_column_are_an_error():
    table = {"a": [1, 2], "a_1": [3, 4], "y": [5, 6]}
    with pytest.raises(ValueError, match=r"^Two features make a column 'a_1': rename"):
        prepared(table, "y", features=[OneHot("a"), "a_1"])


@pytest.mark.parametrize("values", [[], [1, 1.0], {1: "USA", 2: "USA"}])
def test_categories_are_there_once(values):
    with pytest.raises(ValueError, match=r"^OneHot\('origin', .*\): expected at least one category, each once"):
        OneHot("origin", values)


def test_columns_hold_numbers_dates_and_texts_and_rows_without_a_value_may_be_kept():
    table = prepared(HOUSES, "price", features=["rooms", "town", "sold", Text("note")], incomplete="keep")
    columns, price = table.train().arrays
    np.testing.assert_array_equal(columns["rooms"], np.array([3, np.nan, 4, 2], np.float32))
    assert columns["town"].tolist() == [b"Bath", b"York", b"", b"Bath"]
    assert columns["sold"].tolist() == [b"2024-03-01T00:00:00", b"2024-03-02T18:30:00", b"", b"2023-12-31T00:00:00"]
    assert columns["note"].tolist() == [b"NA", b" two baths", b"", b"7"]
    assert (price.tolist(), table.incomplete_rows) == ([300, 200, 400, 250], 0)
    rows = table.predict(
        ["rooms=,town=Bath,sold=2024-01-01,note=", {"rooms": 1, "town": None, "sold": "", "note": "a"}]
    )
    (columns,) = rows.arrays
    np.testing.assert_array_equal(columns["rooms"], np.array([np.nan, 1], np.float32))
    assert columns["town"].tolist() == [b"Bath", b""]
    assert columns["sold"].tolist() == [b"2024-01-01T00:00:00", b""]


@pytest.mark.parametrize("features", [None, ["sold"], [Date("sold")]])
@pytest.mark.parametrize("value", ["2024-02-30", "soon"])
def test_a_date_that_cannot_be_read_is_named_with_its_row(tmp_path, features, value):
    (tmp_path / "a.csv").write_text(f"sold,price\n2024-02-01,1\n{value},2\n")
    with pytest.raises(
        ValueError, match=rf"^Column 'sold' in line 3 of .*a\.csv holds '{value}': expected an ISO date"
    ):
        prepared(tmp_path / "a.csv", "price", features=features)


def test_a_column_that_is_declared_as_dates_holds_dates_only():
    sold = {"sold": ["01/02/2024", "02/02/2024"], "y": [1, 2]}
    assert prepared(sold, "y").train().arrays[0]["sold"].tolist() == [b"01/02/2024", b"02/02/2024"]
    with pytest.raises(
        ValueError, match=r"^Column 'sold' in row 0 of the table holds '01/02/2024': expected an ISO date"
    ):
        prepared(sold, "y", features=[Date("sold")])
    table = prepared({"sold": ["2024-03-01", "2024-03-02"], "y": [1, 2]}, "y")
    with pytest.raises(ValueError, match=r"^Column 'sold' in row 2 of the input holds 'soon': expected an ISO date"):
        table.predict([{"sold": "2024-03-01"}, {"sold": "soon"}])


def test_a_column_of_lists_is_refused_if_it_is_used():
    rows = {"x": [1, 2], "tags": np.array([["a"], ["b", "c"]], object), "y": [1, 2]}
    assert prepared(rows, "y", features=["x"]).features == ("x",)
    for features in (None, [Text("tags")]):
        with pytest.raises(ValueError, match=r"^Column 'tags' in row 0 of the table holds \['a'\], of the type list: "):
            prepared(rows, "y", features=features)


def test_a_parquet_column_of_lists_is_refused_with_its_row(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    import pyarrow.parquet as parquet

    table = pyarrow.table({"x": [1, 2], "tags": [None, ["a", "b"]], "where": [{"lat": 1}, None], "y": [1, 2]})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert prepared(tmp_path / "a.parquet", "y", features=["x"]).features == ("x",)
    message = (
        r"^Column 'tags' in row 1 of .*a\.parquet holds \['a', 'b'\], of the type list: expected a number, a text or"
    )
    with pytest.raises(ValueError, match=message):
        prepared(tmp_path / "a.parquet", "y", incomplete="keep")
    with pytest.raises(
        ValueError, match=r"^Column 'where' in row 0 of .*a\.parquet holds \{'lat': 1\}, of the type dict"
    ):
        prepared(tmp_path / "a.parquet", "y", features=["where"])
