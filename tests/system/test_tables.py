"""Tables on terminals of several widths, as HTML and as text."""

from __future__ import annotations

import io

from lightkeras.system.console import Console
from lightkeras.system.tables import Table, Tabular, of_splits

TABLE = Table(["trial", "val/loss", "kind"], [["0001", "0.25", "a"], ["0002", "12.5", "b"]], texts=[2], marked=[0])


def drawn(table: Table, width: int) -> list[str]:
    screen = Console(file=io.StringIO(), width=width, color_system=None)
    screen.print(table)
    return [line.rstrip() for line in screen.file.getvalue().splitlines()]


def test_as_text_its_columns_are_aligned_and_its_lines_stand_below():
    table = Table(TABLE.columns, TABLE.rows, {"best": "0001", "run_dir": "runs/a"}, texts=[2])
    assert str(table).splitlines() == [
        "trial  val/loss  kind",
        "0001       0.25  a",
        "0002       12.5  b",
        "best     0001",
        "run_dir  runs/a",
    ]


def test_where_it_fits_it_is_a_table_and_where_it_does_not_a_list_of_values():
    wide = drawn(TABLE, 27)
    assert wide[3] == "│ 0001  │     0.25 │ a    │"
    assert drawn(TABLE, 26) == [
        *("0001", "  val/loss  0.25", "  kind      a"),
        *("0002", "  val/loss  12.5", "  kind      b"),
    ]


def test_a_column_of_text_is_folded_where_the_whole_text_has_no_room_and_numbers_are_not():
    table = Table(["trial", "val/loss", "why"], [["0001", "0.25", "worse than the others"]], texts=[2])
    assert drawn(table, 39)[3:5] == [
        "│ 0001  │     0.25 │ worse than the   │",
        "│       │          │ others           │",
    ]
    assert drawn(table, 38)[:2] == ["0001", "  val/loss  0.25"]


def test_html_and_control_characters_in_cells_are_shown_as_they_are():
    page = Table(["<b>"], [["\x1b[2J&"]], {"<i>": "<u>"})._repr_html_()
    assert "&lt;b&gt;" in page
    assert r"\x1b[2J&amp;" in page
    assert "&lt;i&gt;</span> &lt;u&gt;" in page
    assert r"\x1b[2J" in drawn(Table(["a"], [["\x1b[2J"]]), 40)[3]


def test_the_marked_row_is_bold_and_numbers_are_flush_right_in_html():
    page = TABLE._repr_html_()
    assert page.count("font-weight:600") == 3
    assert 'text-align:right;font-weight:600">0.25<' in page
    assert 'text-align:left">b<' in page


def test_a_table_without_rows_has_only_its_lines():
    table = Table(["a"], [], {"best": "none"})
    assert (str(table), drawn(table, 40)) == ("best  none", [])
    assert "<table" not in table._repr_html_()


def test_splits_are_rows_and_missing_values_are_empty():
    table = of_splits({"train": {"loss": 0.25}, "val": {"loss": 0.5, "auc": 1.0}})
    assert (table.columns, table.rows) == (["", "loss", "auc"], [["train", "0.2500", ""], ["val", "0.5000", "1.0000"]])


def test_of_very_many_values_the_first_are_shown_and_the_others_are_counted():
    values = {f"m{number}": 0.5 for number in range(500)}
    table = of_splits({"train": values, "val": {"auc": 1.0}}, {"best": "epoch 1"}, monitor="auc")
    assert table.columns == ["", "auc", *(f"m{number}" for number in range(15))]
    assert table.lines == {"not shown": "485 further values", "best": "epoch 1"}
    assert "not shown  485 further values" in str(table)


def test_a_result_is_shown_as_its_table():
    class Found(Tabular):
        def table(self) -> Table:
            return TABLE

    assert repr(Found()) == str(Found()) == str(TABLE)
    assert Found()._repr_html_() == TABLE._repr_html_()
