"""What Arrow reads of CSV files, against Python's `csv` module, and what is left to that module."""

import csv
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightkeras.data.datasets import csv_files, table_files
from lightkeras.data.datasets.column_arrays import PlainNumbers, Texts
from lightkeras.data.datasets.columns import Objects
from lightkeras.data.datasets.csv_files import read_cells
from lightkeras.data.datasets.table_files import TableFile
from lightkeras.data.datasets.tables import Table
from lightkeras.data.lookup import Lookup


def rows_of(content: bytes, count: int, separator: str = ",", header: bool = False):
    found = read_cells(content, separator, count, header)
    return None if found is None else [list(row) for row in zip(*found, strict=True)]


FIELDS = st.text(st.sampled_from('ab10.-,;"\n\r \t\x00é\u2028'), max_size=5)
ENDS = st.sampled_from(["\n", "\r\n", "\r", "\n\n"])


@st.composite
def files(draw):
    """Files that people and programs write, and some that nobody should."""
    count = draw(st.integers(1, 3))
    lines = []
    for row in draw(st.lists(st.lists(FIELDS, min_size=count, max_size=count), min_size=1, max_size=4)):
        quoted = [f'"{field.replace(chr(34), 2 * chr(34))}"' for field in row]
        lines.append(",".join(draw(st.sampled_from([row, quoted]))))
    return draw(ENDS).join(lines) + draw(st.sampled_from(["", "\n", "\r\n", "\n\n", "a", '"'])), count


@settings(max_examples=300, deadline=None)
@given(files())
def test_all_that_is_read_is_what_the_csv_module_reads(file):
    text, count = file
    found = rows_of(text.encode(), count)
    if found is not None:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        assert found == [row for row in reader if row]


@pytest.mark.parametrize(
    ("content", "count", "rows"),
    [
        (b"1,a\n2,b\n", 2, [["1", "a"], ["2", "b"]]),
        (b"1,a\r\n\r\n2,\r\n", 2, [["1", "a"], ["2", ""]]),
        (b'"1,5","a ""b"" c"\n"2","x\ny"', 2, [["1,5", 'a "b" c'], ["2", "x\ny"]]),
        (b'"NA", NA\n"",null\n', 2, [["NA", " NA"], ["", "null"]]),
        ("é\n\u2028\n".encode(), 1, [["é"], ["\u2028"]]),
    ],
)
def test_plain_files_are_read(content, count, rows):
    assert rows_of(content, count) == rows
    names = ",".join("abc"[:count]).encode() + b"\n"
    assert rows_of(names + content, count, header=True) == rows


@pytest.mark.parametrize(
    ("content", "count", "separator"),
    [
        (b"", 1, ","),
        (b"1,2\n3\n", 2, ","),
        (b"1,2\n3,4,5\n", 2, ","),
        (b'1,a"b\n', 2, ","),
        (b'1,"a"b\n', 2, ","),
        (b'1,"a\n', 2, ","),
        (b'1,"a" \n', 2, ","),
        (b"1\r2\r3\n", 1, ","),
        (b"\n1\n", 1, ","),
        (b'1"2', 2, '"'),
        ("1§2\n".encode(), 2, "§"),
        (b"1," + b"a" * (csv.field_size_limit() + 1), 2, ","),
    ],
)
def test_others_are_left_to_the_csv_module(content, count, separator):
    assert read_cells(content, separator, count, header=False) is None


def test_a_row_that_is_longer_than_a_block_is_left_to_the_csv_module(monkeypatch):
    monkeypatch.setattr(csv_files, "_BLOCK_BYTES", 1 << 10)
    assert rows_of(b"a,b\n" * 2000, 2) == [["a", "b"]] * 2000
    assert read_cells(b"a,b\n" + b"a" * 3000 + b",b\n", ",", 2, header=False) is None


def test_a_table_is_the_same_without_arrow_up_to_the_names_of_its_rows(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    path.write_text('x,y\n1,"two\nlines"\n\n2,b\n')
    fast = TableFile(path).read()
    monkeypatch.setattr(table_files, "read_cells", lambda *_, **__: None)
    exact = TableFile(path).read()
    assert fast.values == exact.values == {"x": ["1", "2"], "y": ["two\nlines", "b"]}
    assert fast.rows == exact.rows == ["line 2", "line 5"]


LIKE_NUMBERS = [
    *("1", "0", "-0", "-1.5", ".5", "5.", "1e5", " 1", "\t2", "1 ", "", '""', '"7"', "NA", '"NA"', "nan", "NaN", "?"),
    *("0.05", "100", "-1e-3", "9007199254740993", "4.9e-324", "3.4028235e38", "0.1234567890123456789"),
]
UNLIKE = [
    *(
        "007",
        "-07",
        " 007",
        "00",
        "00.5",
        '"007"',
        '" -07"',
        "+1",
        "1_0",
        "inf",
        "-nan",
        "NAN",
        "1e39",
        "1e400",
        "0x10",
    ),
    *(" NA", "1e-400", "2024-03-01", "true", "a", "1d5", "-", "\u06611", "1 06"),
]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(LIKE_NUMBERS), min_size=1, max_size=8),
    st.lists(st.sampled_from([*LIKE_NUMBERS, *UNLIKE]), max_size=3),
    st.booleans(),
)
def test_a_column_of_numbers_means_what_each_of_its_texts_means(first, rest, header):
    cells = [*first, *rest]
    text = "x,y\n" * header + "".join(f"{cell},{cell}\n" for cell in cells)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_files, "_SAMPLED_BYTES", len("x,y\n") * header + 2 * len(cells[0]) + 2)
        patch.setattr(csv_files, "_SEARCHED_BYTES", 3)
        found = read_cells(text.encode(), ",", 2, header)
    texts = [row[1] for row in csv.reader(io.StringIO(text, newline=""), strict=True)][header:]
    assert found is not None
    expected = Objects(texts)
    assert found[1] == texts
    assert found[1].distinct()[0] == expected.distinct()[0]
    for one, other in ((found[1], expected), (found[1].take(np.arange(1)), expected.take(np.arange(1)))):
        np.testing.assert_array_equal(one.kinds, other.kinds)
        np.testing.assert_array_equal(one.numbers.view(np.uint64), other.numbers.view(np.uint64))  # to the bit


def many(cell: str, last: str = "2.5") -> bytes:
    return ("x,y\n" + f"{cell},a\n" * 40_000 + f"{last},b\n").encode()


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (many("-1.05"), PlainNumbers),
        (many("0.5", last="NA"), PlainNumbers),
        (many("1.5", last="c"), Texts),
        (many("1.5", last="007"), Texts),
        (many("1.5", last="1e39"), Texts),
        (many("1", last=" " * csv.field_size_limit() + "1"), type(None)),
    ],
)
def test_a_column_of_numbers_alone_is_read_without_its_texts(content, kind):
    found = read_cells(content, ",", 2, header=True)
    assert type(None if found is None else found[0]) is kind


def test_a_table_of_numbers_never_reads_their_texts(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    path.write_bytes(many("-1.05").replace(b"a\n", b"3\n").replace(b"b\n", b"\n"))
    read = []
    monkeypatch.setattr(csv_files._Reader, "_texts", lambda self, name: read.append(name))
    table = Table(path, "x", test=0.25, validation=0)
    table.prepare(Lookup())
    assert (table.incomplete_rows, table.train().examples + table.test().examples, read) == (1, 40_000, [])


def test_an_error_in_a_column_of_numbers_names_its_text_and_line(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(many("3", last="3.50"))
    with pytest.raises(ValueError, match=r"Column 'x' in line 40002 of .* holds '3.50': expected a class"):
        Table(path, "x", classes=True).prepare(Lookup())
