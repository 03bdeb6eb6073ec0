"""Tables in files, arrays and DataFrames, as they are written and as they should not be."""

import datetime
import sys
from pathlib import Path

import numpy as np
import pytest

from lightkeras.data.datasets.columns import is_missing
from lightkeras.data.datasets.table_files import TableFile, from_arrays, from_frame, is_frame, read_file

CARS = """18.0   8   3504.      1\t"chevrolet chevelle"
25.0   4   2046.      1\t"ford pinto"

24.0   4   2372.      3\t"toyota corona"
"""
NAMES = ["mpg", "cylinders", "weight", "origin", "name"]


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_fields_between_spaces_and_tabs_with_quotes(tmp_path):
    found = TableFile(written(tmp_path / "cars.data", CARS), NAMES).read()
    assert found["mpg"] == ["18.0", "25.0", "24.0"]
    assert found["name"] == ["chevrolet chevelle", "ford pinto", "toyota corona"]
    assert found.rows == ["line 1", "line 2", "line 4"]  # a blank line is not a row, and counts


def test_a_csv_file_names_its_columns_in_its_first_line(tmp_path):
    file = written(tmp_path / "cars.csv", '\ufeffmpg,name\r\n18.0,"a car, ""fast""\nand red"\r\n25.0,another\r\n')
    found = TableFile(file).read()
    assert found.values == {"mpg": ["18.0", "25.0"], "name": ['a car, "fast"\nand red', "another"]}
    assert found.rows == ["line 2", "line 4"]  # the first field in quotes spans two lines


@pytest.mark.parametrize(("name", "separator"), [("cars.tsv", None), ("cars.txt", "\t")])
def test_the_separator_follows_from_the_suffix_or_is_given(tmp_path, name, separator):
    found = TableFile(written(tmp_path / name, "mpg\tname\n18\tford pinto\n"), separator=separator).read()
    assert found["name"] == ["ford pinto"]


def test_a_semicolon_is_given(tmp_path):
    assert TableFile(written(tmp_path / "a.csv", "x;y\n1;2\n"), separator=";").read().values == {"x": ["1"], "y": ["2"]}


def test_a_line_with_another_number_of_fields_is_named(tmp_path):
    short = CARS.replace("2372.      3", "2372.")
    with pytest.raises(
        ValueError,
        match=r"^Line 4 of .*cars\.data has 4 fields, and there are 5 columns "
        r"\(mpg, cylinders, weight, origin, name\): expected one field for each\. Correct the line, or set the "
        r"separator with TableFile\(separator=",
    ):
        TableFile(written(tmp_path / "cars.data", short), NAMES).read()


def test_a_byte_that_is_not_utf_8_is_named_with_its_line(tmp_path):
    file = written(tmp_path / "cars.csv", "name\ncar\nCitroën\n".encode("latin1"))
    with pytest.raises(ValueError, match=r"^Line 3 of .*cars\.csv is not UTF-8: it holds the byte 0xeb .*iconv"):
        TableFile(file).read()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", r"a\.csv is empty: expected a line with the names"),
        ("a.csv", "x,y\n", r"a\.csv has no rows: expected at least one line below the names"),
        ("a.csv", "x,x\n1,2\n", r"The first line of .*a\.csv names the column 'x' twice"),
        ("a.csv", "x,\n1,2\n", r"The first line of .*a\.csv leaves column 2 without a name"),
        ("a.csv", 'x,y\n1,2\n"3,4\n', r"Line 3 of .*a\.csv cannot be read: unexpected end of data"),
        ("a.data", 'x y\n1 "2\n', r"Line 2 of .*a\.data cannot be read: No closing quotation; expected double quotes"),
    ],
)
def test_a_file_that_is_not_a_table_is_refused(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message):
        TableFile(written(tmp_path / name, content)).read()


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=r"No such file: .*gone\.csv; expected a table: CSV or other text, JSON",
    ):
        TableFile(tmp_path / "gone.csv").read()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"separator": ", "}, r"separator=', '\): expected one character"),
        ({"columns": "mpg"}, r"columns='mpg'\): expected a list of names, \['mpg'\]"),
        ({"columns": ["mpg", "mpg"]}, r"columns=\.\.\.\) names the column 'mpg' twice"),
        ({"path": "a.parquet"}, r"^TableFile\('a\.parquet'\) is for text: give the path alone to read \.parquet files"),
    ],
)
def test_settings_are_checked_before_any_file_is_read(settings, message):
    with pytest.raises(ValueError, match=message):
        TableFile(**{"path": "nowhere.csv", **settings})


def test_arrays_keep_their_values():
    columns = from_arrays({"x": np.array([1.5, np.nan]), "y": ["a", "b"]})
    assert columns["y"] == ["a", "b"]
    assert [is_missing(value) for value in columns["x"]] == [False, True]
    assert columns.rows == ["row 0", "row 1"]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "Received no columns"),
        ({"x": []}, "The columns are empty"),
        ({"x": [1, 2], "y": [1]}, "x has 2, y has 1"),
        ({"x": [[1, 2]]}, r"Column 'x' has shape \(1, 2\): expected one value per row"),
        ({"x": [[1, 2], [3]]}, r"^Column 'x' is not an array: .* Expected one value per row"),
    ],
)
def test_arrays_that_are_not_columns_are_refused(arrays, message):
    with pytest.raises(ValueError, match=message):
        from_arrays(arrays)


def test_dates_of_arrays_become_those_of_python():
    days = np.array(["2024-03-01T12:30:15.000000007", "NaT"], "datetime64[ns]")
    assert from_arrays({"x": days})["x"] == [datetime.datetime(2024, 3, 1, 12, 30, 15), None]


def test_a_line_of_a_csv_file_ends_only_where_csv_ends_it(tmp_path):
    """`str.splitlines` ends a line also at these, which texts from the web hold."""
    text = "a\u2028b\x85c\x0cd"
    assert TableFile(written(tmp_path / "a.csv", f"x,y\n{text},1\n")).read().values == {"x": [text], "y": ["1"]}


# ---------------------------------------------------------------------- JSON Lines


def test_json_lines_are_rows_and_a_line_may_lack_a_column(tmp_path):
    lines = ['{"text": "good\u2028film", "stars": 5}', "", '{"stars": null, "seen": true}']
    found = read_file(written(tmp_path / "a.jsonl", "\n".join(lines)))
    assert found.values == {"text": ["good\u2028film", None], "stars": [5, None], "seen": [None, True]}
    assert found.rows == ["line 1", "line 3"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"a\.jsonl is empty: expected one JSON object on each line"),
        ("\n \n", r"a\.jsonl is empty"),
        ('{"x": 1}\n{"x": \n', r"^Line 2 of .*a\.jsonl is not JSON: .*Expected one JSON object on each line"),
        ('{"x": 1}\n\n[1]\n', r"^Line 3 of .*a\.jsonl holds \[1\]: expected a JSON object"),
        ('{"x": 1, "x": 2}\n', r"^Line 1 of .*a\.jsonl names the column 'x' twice"),
        ("{}\n", r"a\.jsonl has no columns"),
        (b'{"x": "\xff"}\n', r"^Line 1 of .*a\.jsonl is not UTF-8"),
        ("[" * 100_000, r"^Line 1 of .*a\.jsonl is not JSON"),
    ],
)
def test_json_lines_that_are_not_a_table_are_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read_file(written(tmp_path / "a.jsonl", content))


# ---------------------------------------------------------------------- Parquet


def pyarrow_():
    return pytest.importorskip("pyarrow", reason="the extra parquet is not installed")


def write(table, path: Path) -> None:
    import pyarrow.parquet

    pyarrow.parquet.write_table(table, path)


def parquet(path: Path, **columns) -> Path:
    write(pyarrow_().table(columns), path)
    return path


def test_parquet_has_the_values_that_were_written(tmp_path):
    moments = np.array(["2024-03-01T12:30:15.000000007", "NaT"], "datetime64[ns]")
    town = pyarrow_().array(["Bath", None]).dictionary_encode()
    path = parquet(tmp_path / "a.parquet", rooms=[1, None], town=town, sold=moments, warm=[True, False])
    found = read_file(path)
    assert found.values == {
        "rooms": [1, None],
        "town": ["Bath", None],
        "sold": [datetime.datetime(2024, 3, 1, 12, 30, 15), None],
        "warm": [True, False],
    }
    assert (found.rows, found.name) == (["row 0", "row 1"], str(path))


def test_parquet_that_is_not_a_table_is_refused(tmp_path):
    pyarrow = pyarrow_()
    with pytest.raises(ValueError, match=r"empty\.parquet cannot be read as Parquet: "):
        read_file(written(tmp_path / "empty.parquet", ""))
    with pytest.raises(ValueError, match=r"text\.parquet cannot be read as Parquet: "):
        read_file(written(tmp_path / "text.parquet", "x,y\n1,2\n"))
    with pytest.raises(FileNotFoundError, match=r"No such file: .*gone\.parquet"):
        read_file(tmp_path / "gone.parquet")
    with pytest.raises(ValueError, match=r"rows\.parquet has no rows"):
        read_file(parquet(tmp_path / "rows.parquet", x=pyarrow.array([], "int64")))
    write(pyarrow.table([[1], [2]], names=["x", "x"]), tmp_path / "twice.parquet")
    with pytest.raises(ValueError, match=r"^The schema of .*twice\.parquet names the column 'x' twice"):
        read_file(tmp_path / "twice.parquet")


def test_parquet_without_pyarrow_is_answered_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r'a\.parquet needs pyarrow, .*pip install "lightkeras\[parquet\]"$'):
        read_file(tmp_path / "a.parquet")


# ---------------------------------------------------------------------- pandas


def test_a_data_frame_has_the_values_that_pandas_has():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {
            "rooms": pandas.array([1, None], "Int64"),
            "price": [1.5, np.nan],
            "town": pandas.Categorical(["Bath", None]),
            "sold": pandas.to_datetime(["2024-03-01T12:30", None]),
            "warm": pandas.array([None, True], "boolean"),
            7: ["a", "b"],
        }
    )
    assert (is_frame(frame), is_frame({"x": [1]})) == (True, False)
    found = from_frame(frame)
    assert found.values == {
        "rooms": [1, None],
        "price": [1.5, None],
        "town": ["Bath", None],
        "sold": [datetime.datetime(2024, 3, 1, 12, 30), None],
        "warm": [None, True],
        "7": ["a", "b"],
    }
    assert (found.rows, found.name) == (["row 0", "row 1"], "the DataFrame")


def test_a_data_frame_that_is_not_a_table_is_refused():
    pandas = pytest.importorskip("pandas")
    with pytest.raises(ValueError, match=r"^The DataFrame names the column 'x' twice"):
        from_frame(pandas.DataFrame([[1, 2]], columns=["x", "x"]))
    for empty in (pandas.DataFrame(), pandas.DataFrame({"x": []})):
        with pytest.raises(ValueError, match=r"^The DataFrame is empty"):
            from_frame(empty)
