"""Cells of tables: what they hold, as numbers, categories, dates and texts, and rows as people give them."""

import datetime
import decimal

import pytest

from lightkeras.data.datasets.columns import (
    Columns,
    as_date,
    as_number,
    as_text,
    category_key,
    category_order,
    is_missing,
    kind_of,
    parse_row,
)


def of(*values) -> Columns:
    return Columns({"x": values}, [f"line {number}" for number in range(2, len(values) + 2)], "a.csv")


def test_a_column_that_is_not_there_is_answered_with_the_nearest():
    columns = Columns({"weight": [1, 2], "mpg": [3, 4]}, ["row 0", "row 1"], "the table")
    with pytest.raises(ValueError, match=r"^the table has no column 'wieght'\. Did you mean 'weight'\? Valid names: "):
        columns["wieght"]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "2.5", "?", ""], "number"),
        ([1, 2.5, True, None, float("nan"), decimal.Decimal("1.5"), b"3"], "number"),
        ([None, ""], "number"),
        (["2024-03-01", "2024-03-01T18:30:00Z", "2024-03-01 18:30"], "date"),
        ([datetime.date(2024, 3, 1), datetime.datetime(2024, 3, 1, 18), None], "date"),
        (["Bath", " Lund", b"York", "NA"], "text"),
        (["007", "1_000", "01/02/2024"], "text"),
    ],
)
def test_what_a_column_holds_is_read_from_its_values(values, kind):
    assert kind_of("x", of(*values)) == kind


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            ["1", "2", "heavy"],
            r"^Column 'x' in line 4 of a\.csv holds 'heavy': expected a number, as in 2 other rows\. Correct it "
            r"or leave the column out of features, or, if these are texts or categories, give it as Text\('x'\)",
        ),
        (
            ["00501", "501"],
            r"in line 2 .* holds '00501': expected a number, and not a code with leading zeros, as in 1 ",
        ),
        (["2024-03-01", "soon"], r"in line 3 .* holds 'soon': expected an ISO date, as in 1 other row\."),
        (["2024-03-01", 3], r"in line 2 .* holds '2024-03-01': expected a number"),
        (
            ["a", [1, 2]],
            r"in line 3 of a\.csv holds \[1, 2\], of the type list: expected a number, a text or a date\. ",
        ),
        ([{"a": 1}], r"in line 2 of a\.csv holds \{'a': 1\}, of the type dict: "),
        ([datetime.time(12)], r"in line 2 of a\.csv holds 12:00:00, of the type time: "),
    ],
)
def test_a_column_that_holds_several_things_is_refused_with_its_row(values, message):
    with pytest.raises(ValueError, match=message):
        kind_of("x", of(*values))


@pytest.mark.parametrize(
    ("value", "date"),
    [
        ("2024-02-29", "2024-02-29T00:00:00"),
        (" 2024-02-29 18:30 ", "2024-02-29T18:30:00"),
        ("2024-02-29T18:30:15.75Z", "2024-02-29T18:30:15"),
        ("0999-12-31T23:59:59+00:00", "0999-12-31T23:59:59"),
        (b"2024-02-29", "2024-02-29T00:00:00"),
        (datetime.date(2024, 2, 29), "2024-02-29T00:00:00"),
        (datetime.datetime(2024, 2, 29, 18, 30, 15, 750_000, datetime.UTC), "2024-02-29T18:30:15"),
    ],
)
def test_dates_become_text_of_one_form(value, date):
    assert as_date(value, "A cell") == date


@pytest.mark.parametrize("value", ["2023-02-29", "2024-13-01", "2024-1-1", "20240101", "01/02/2024", "soon", 7, None])
def test_what_is_not_an_iso_date_is_named(value):
    with pytest.raises(ValueError, match=r"^A cell holds .*: expected an ISO date, such as '2024-03-01' or "):
        as_date(value, "A cell")


def test_a_time_of_another_zone_is_refused():
    with pytest.raises(
        ValueError, match=r"^A cell holds '2024-03-01T18:30\+02:00': expected a time in UTC, or without"
    ):
        as_date("2024-03-01T18:30+02:00", "A cell")


def test_text_is_stripped_unless_it_is_kept_as_written():
    assert (as_text(" 1.0 ", "A cell"), as_text(" 1.0 ", "A cell", as_written=True)) == (b"1", b" 1.0 ")
    assert (as_text("ü", "A cell"), as_text(7, "A cell"), as_text(True, "A cell")) == ("ü".encode(), b"7", b"True")
    with pytest.raises(ValueError, match=r"^A cell holds '\\udc00', which cannot be encoded as UTF-8"):
        as_text("\udc00", "A cell")


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
