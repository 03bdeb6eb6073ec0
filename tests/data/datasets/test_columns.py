"""Tables in files and arrays, as they are written and as they should not be."""

from pathlib import Path

import numpy as np
import pytest

from lightkeras.data.datasets.columns import (
    TableFile,
    as_number,
    category_key,
    category_order,
    from_arrays,
    is_missing,
    parse_row,
)

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
    with pytest.raises(FileNotFoundError, match=r"No such file: .*gone\.csv; expected a table as text"):
        TableFile(tmp_path / "gone.csv").read()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"separator": ", "}, r"separator=', '\): expected one character"),
        ({"columns": "mpg"}, r"columns='mpg'\): expected a list of names, \['mpg'\]"),
        ({"columns": ["mpg", "mpg"]}, r"columns=\.\.\.\) names the column 'mpg' twice"),
    ],
)
def test_settings_are_checked_before_any_file_is_read(settings, message):
    with pytest.raises(ValueError, match=message):
        TableFile("nowhere.csv", **settings)


def test_a_column_that_is_not_there_is_answered_with_the_nearest():
    columns = from_arrays({"weight": [1, 2], "mpg": [3, 4]})
    with pytest.raises(ValueError, match=r"^the table has no column 'wieght'\. Did you mean 'weight'\? Valid names: "):
        columns["wieght"]


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
    ],
)
def test_arrays_that_are_not_columns_are_refused(arrays, message):
    with pytest.raises(ValueError, match=message):
        from_arrays(arrays)


@pytest.mark.parametrize("value", ["?", "", " NA ", "nan", None, float("nan")])
def test_what_stands_for_a_missing_value(value):
    assert is_missing(value)


@pytest.mark.parametrize("value", ["0", 0, 0.0, "none at all", False])
def test_what_is_a_value(value):
    assert not is_missing(value)


@pytest.mark.parametrize(
    ("value", "number"),
    [("3504.", 3504.0), (" 1e3 ", 1000.0), (7, 7.0), (b"2.5", 2.5)]
    + [("+5", 5.0), ("-.5", -0.5), ("0.05", 0.05), ("0", 0.0), ("-0.0", 0.0), ("1E-3", 0.001), ("10", 10.0)],
)
def test_a_number_is_read_from_text(value, number):
    assert as_number(value, "A cell") == number


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("heavy", "^A cell holds 'heavy': expected a number"),
        ("3,5", "expected a number"),
        ("1_000", "expected a number"),
        ("\N{ARABIC-INDIC DIGIT THREE}", "expected a number"),
        ("00501", r"^A cell holds '00501': expected a number, and not a code with leading zeros\.$"),
        ("-007.5", "not a code with leading zeros"),
        ("infinity", "expected a finite number"),
        (".", "expected a number"),
        ("e5", "expected a number"),
        ([1], "expected a number"),
        ("inf", "^A cell holds 'inf': expected a finite number, as float32 can hold it"),
        (1e39, "expected a finite number"),
    ],
)
def test_a_value_that_is_not_a_number_is_named(value, message):
    with pytest.raises(ValueError, match=message):
        as_number(value, "A cell")


def test_a_category_is_the_same_as_number_and_as_text():
    assert {category_key(value) for value in (1, 1.0, "1", " 1.0 ", b"1")} == {"1"}
    assert category_key("1.5") == "1.5"
    assert category_key(" Japan ") == "Japan"
    assert {category_key(value) for value in (0, -0.0, "0", "0.0")} == {"0"}


def test_text_that_is_not_written_as_a_number_is_a_category_of_its_own():
    others = [
        "1",
        "01",
        "001",
        "+1",
        "1e0",
        "1.00",
        "1.",
        "1_0",
        "10",
        "\N{ARABIC-INDIC DIGIT ONE}",
        "nan",
        "inf",
        "0x1",
    ]
    assert [category_key(value) for value in others] == others
    long = ["12345678901234567890", "12345678901234567891"]  # equal as float64
    assert [category_key(value) for value in long] == long


def test_a_column_of_text_is_compared_as_it_is_written():
    written = ["1", "1.0", " 1", "Japan", "Japan ", "NA", "?"]
    assert [category_key(value, text=True) for value in written] == written
    assert [is_missing(value, text=True) for value in (*written, "", None, float("nan"))] == [False] * 7 + [True] * 3


def test_numbers_come_before_texts_and_are_sorted_by_value():
    assert sorted(["b", "10", "9", "nan", "007", "-1.5", "1e1"], key=category_order) == [
        "-1.5", "9", "10", "1e1", "007", "b", "nan",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "given",
    ["weight=2372, origin=Japan", '{"weight": "2372", "origin": "Japan"}', {"weight": "2372", "origin": "Japan"}],
)
def test_a_row_is_given_as_text_as_json_or_as_a_dict(given):
    assert parse_row(given, 1) == {"weight": "2372", "origin": "Japan"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", r"^Row 2 is '': expected column=value,column=value or a JSON object, and '' is neither\.$"),
        ("2372", r"and '2372' is neither"),
        ("weight=1,", r"and '' is neither"),
        ("=1", r"and '=1' is neither"),
        ('{"weight": 1', r"^Row 2 begins with a brace, but is not JSON: "),
        ("weight=1,weight=2", r"^Row 2 gives 'weight' twice: expected each column once"),
        ('{"weight": 1, "weight": 2}', r"^Row 2 gives 'weight' twice"),
    ],
)
def test_a_row_that_cannot_be_read_is_reported(given, message):
    with pytest.raises(ValueError, match=message):
        parse_row(given, 2)


def test_a_row_that_is_neither_text_nor_a_dict_is_refused():
    with pytest.raises(TypeError, match=r"^Row 2 is int 3: expected text or a dict"):
        parse_row(3, 2)
