"""Columns in arrays, against the cells that are converted one by one."""

import datetime
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightkeras.data.datasets import column_arrays
from lightkeras.data.datasets.column_arrays import Numbers, Texts, in_arrays
from lightkeras.data.datasets.columns import KINDS, NUMBER, Columns, Objects, kind_of, kinds_and_numbers

WRITTEN = [
    "1", "0", "-0", "-1.5", ".5", "5.", "1e5", "1E-3", " 1", "1 ", "\t2", "1_000", "nan", "NaN", "NAN", "-nan", "inf",
    "-inf", "infinity", "+1", "+", "-", ".", "", " ", "?", " ?", "NA", "NA ", "N/A", "null", "None", "Nones", "007",
    "00", "-07", "0.1", "00.5", "0e0", "1e400", "1e39", "3.4028235e38", "3.4028236e38", "-3.5e38", "1e-400", "4.9e-324",
    "0.1234567890123456789", "123456789012345678901234567890", "9007199254740993", "2024-03-01", "2024-02-30T", "true",
    "Bath", "Bath ", "12 Main", "1e", "1d5", "0x10", "é", "\u00a01", "\u0663", "1\u0663", "1\x00", "\x00", "x" * 200,
]  # fmt: skip

CELLS = st.one_of(
    st.sampled_from(WRITTEN),
    st.floats().map(repr),
    st.integers().map(str),
    st.text(st.sampled_from("01.-+eE "), max_size=6),
)


def same(one, other):
    np.testing.assert_array_equal(one.kinds, other.kinds)
    np.testing.assert_array_equal(one.numbers.view(np.uint64), other.numbers.view(np.uint64))  # to the bit
    values, codes = one.distinct()
    others, other_codes = other.distinct()
    assert values == others
    np.testing.assert_array_equal(codes, other_codes)
    for text in (False, True):
        np.testing.assert_array_equal(one.missing(text), other.missing(text))


@settings(max_examples=300, deadline=None)
@given(st.lists(CELLS, max_size=12))
def test_texts_mean_what_each_of_them_means_alone(values):
    texts = Texts(values)
    same(texts, Objects(values))
    assert texts == values
    rows = np.arange(0, len(values), 2)
    same(texts.take(rows), Objects(values[::2]))
    taken = texts.take(rows).take(rows[: len(rows) // 2] // 2)
    assert taken == values[::2][: len(rows) // 2]
    assert [taken[row] for row in range(len(taken))] == list(taken)


def test_plain_numbers_are_converted_without_an_object_for_each(monkeypatch):
    values = list(map(repr, np.random.default_rng(0).normal(size=1000).tolist()))
    texts = Texts([*values, "", "NA", "?"])
    asked = []

    def noted(cells):
        asked.extend(cells)
        return kinds_and_numbers(cells)

    monkeypatch.setattr(column_arrays, "kinds_and_numbers", noted)
    assert np.count_nonzero(texts.kinds == NUMBER) == 1000
    assert sorted(asked) == ["?", "NA"]  # the others by their bytes
    assert texts.numbers[:1000].tolist() == list(map(float, values))


def test_texts_in_several_pieces_are_one_column():
    pyarrow = pytest.importorskip("pyarrow")
    pieces = pyarrow.chunked_array([["1", "a"], [], ["2.5", ""]], pyarrow.string())
    same(Texts(pieces), Objects(["1", "a", "2.5", ""]))
    assert Texts(pieces)[2] == "2.5"


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int8", "int64", "uint64", "bool"])
def test_numbers_of_arrays_mean_what_each_of_them_means_alone(dtype):
    array = np.array([3, 0, 1, 3, 1, 0]).astype(dtype)
    values = array.tolist()
    if array.dtype.kind == "f":
        array[3], values[3] = np.nan, None
        if array.dtype.itemsize > 2:
            array[4] = values[4] = np.inf
    assert Numbers.can_hold(array)
    same(Numbers(array), Objects(values))
    same(Numbers(array).take(np.array([1, 3])), Objects([values[1], values[3]]))
    assert Numbers(array) == values
    assert (Numbers(array)[3], type(Numbers(array)[0])) == (values[3], type(values[0]))


def test_arrays_of_others_are_not_numbers():
    for array in (np.array(["1"]), np.array([1], object), np.array([1j]), np.array([1], np.longdouble)):
        assert not Numbers.can_hold(array)


def test_what_a_column_of_objects_holds_is_told_apart_where_equal_values_are_other_texts():
    utc, other = datetime.UTC, datetime.timezone(datetime.timedelta(hours=2))
    moments = [datetime.datetime(2024, 3, 1, 12, tzinfo=utc), datetime.datetime(2024, 3, 1, 14, tzinfo=other)]
    values, codes = Objects([1, 1.0, True, "1", b"1", *moments, [1], [1], 1]).distinct()
    assert (len(values), codes.tolist()) == (9, [0, 1, 2, 3, 4, 5, 6, 7, 8, 0])


def test_the_kind_of_a_column_of_texts_is_that_of_all():
    assert kind_of("x", Columns({"x": Texts(["1", "", "2"])}, ["a", "b", "c"], "t")) == "number"
    assert KINDS[Texts(["Bath"]).kinds[0]] == "text"


def test_the_memory_of_a_column_of_numbers_is_that_of_arrays():
    values = [f"{number:.6f}" for number in np.random.default_rng(0).normal(size=100_000)]
    texts = Texts(values)
    tracemalloc.start()
    texts.numbers  # noqa: B018
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 60 * len(values)  # a list of floats and one of their texts: 100


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1.5, None, -0.0, float("nan"), 1e300], Numbers),
        ([1, -3, 2**53 + 1], Numbers),
        ([True, False], Numbers),
        (["1", "", "a"], Texts),
        ([1, 2**64], list),
        (["a", "\ud800"], list),
        ([1, 1.5], list),
        ([1, None], list),
        (["a", None], list),
        ([True, 1], list),
        ([b"a"], list),
        ([[1], {"a": 1}], list),
    ],
)
def test_cells_of_one_kind_are_taken_into_arrays_and_mean_the_same(values, kind):
    found = in_arrays(values)
    assert type(found) is kind
    same(
        Columns({"x": found}, values, "t").cells("x"), Objects([None if value != value else value for value in values])
    )
