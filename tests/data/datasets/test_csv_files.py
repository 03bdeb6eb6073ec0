"""What Arrow reads of CSV files, against Python's `csv` module, and what is left to that module."""

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightkeras.data.datasets import csv_files, table_files
from lightkeras.data.datasets.csv_files import read_texts
from lightkeras.data.datasets.table_files import TableFile


def rows_of(content: bytes, count: int, separator: str = ",", header: bool = False):
    found = read_texts(content, separator, count, header)
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
    assert read_texts(content, separator, count, header=False) is None


def test_a_row_that_is_longer_than_a_block_is_left_to_the_csv_module(monkeypatch):
    monkeypatch.setattr(csv_files, "_BLOCK_BYTES", 1 << 10)
    assert rows_of(b"a,b\n" * 2000, 2) == [["a", "b"]] * 2000
    assert read_texts(b"a,b\n" + b"a" * 3000 + b",b\n", ",", 2, header=False) is None


def test_a_table_is_the_same_without_arrow_up_to_the_names_of_its_rows(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    path.write_text('x,y\n1,"two\nlines"\n\n2,b\n')
    fast = TableFile(path).read()
    monkeypatch.setattr(table_files, "read_texts", lambda *_, **__: None)
    exact = TableFile(path).read()
    assert fast.values == exact.values == {"x": ["1", "2"], "y": ["two\nlines", "b"]}
    assert fast.rows == exact.rows == ["line 2", "line 5"]
