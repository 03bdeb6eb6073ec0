"""Tables of text, for a terminal, for a notebook (HTML) and as plain text."""

from __future__ import annotations

import abc
import dataclasses
import html
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, final

from lightkeras.system.messages import printable
from lightkeras.system.value_names import leading

_FOLDED = 16
"""Least width to fold a column of text to, in a terminal where the whole text has no room."""
_CELL = "padding:.2em .8em;border:0;border-bottom:1px solid rgba(128,128,128,.35);vertical-align:top"


@final
@dataclasses.dataclass(frozen=True)
class Table:
    """A table, with lines of a label and a text below it. Its first column names the rows.

    Args:
        columns: Headings.
        rows: The cells of each row, as many as there are headings.
        lines: Texts below the table, by label.
        marked: Numbers of the rows to emphasize, from 0.
        texts: Numbers of the columns, besides the first, that hold text; those of numbers are flush right.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    lines: Mapping[str, str] = dataclasses.field(default_factory=dict)
    marked: Collection[int] = ()
    texts: Collection[int] = ()

    def __rich_console__(self, console: Any, options: Any) -> Iterable[Any]:
        """Renders the rows for `rich`: as a table, or as a list of values where that is wider than the terminal.

        The columns of text are folded first.
        """
        import rich.table  # not needed by processes that print nothing
        from rich.text import Text

        if self.rows:
            least = [min(w, _FOLDED) if self._is_text(number) else w for number, w in enumerate(self._widths())]
            if sum(least) + 3 * len(self.columns) + 1 > options.max_width:
                yield Text(self._listed(), overflow="fold")
            else:
                made = rich.table.Table()
                for number, name in enumerate(self.columns):
                    text = self._is_text(number)
                    made.add_column(
                        Text(printable(name)), justify="left" if text else "right", no_wrap=not text, overflow="fold"
                    )
                for number, row in enumerate(self.rows):
                    cells = [Text(printable(cell)) for cell in row]
                    made.add_row(*cells, style="bold" if number in self.marked else None)
                yield made

    def _repr_html_(self) -> str:
        """The table as HTML. Its styles are inline, and its colors those of the page, which may be dark."""
        parts = []
        if self.rows:
            head = "".join(self._html_cell("th", number, name, "") for number, name in enumerate(self.columns))
            body = "".join(
                "<tr>"
                + "".join(
                    self._html_cell("td" if column else "th", column, cell, ";font-weight:600" * (row in self.marked))
                    for column, cell in enumerate(cells)
                )
                + "</tr>"
                for row, cells in enumerate(self.rows)
            )
            parts.append(
                '<table style="border-collapse:collapse;font-variant-numeric:tabular-nums;margin:.3em 0">'
                f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
            )
        for label, text in self.lines.items():
            parts.append(
                f'<div><span style="opacity:.65">{html.escape(printable(label))}</span> '
                f"{html.escape(printable(text))}</div>"
            )
        return f'<div style="overflow-x:auto">{"".join(parts)}</div>'

    def __str__(self) -> str:
        lines = []
        if self.rows:
            widths = self._widths()
            for cells in (self.columns, *self.rows):
                aligned = [
                    cell.ljust(width) if self._is_text(number) else cell.rjust(width)
                    for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
                ]
                lines.append("  ".join(aligned).rstrip())
        width = max(map(len, self.lines), default=0)
        lines += [f"{label:<{width}}  {text}" for label, text in self.lines.items()]
        return printable("\n".join(lines))

    def _html_cell(self, tag: str, column: int, text: str, style: str) -> str:
        side = "left" if self._is_text(column) else "right"
        return f'<{tag} style="{_CELL};text-align:{side}{style}">{html.escape(printable(text))}</{tag}>'

    def _is_text(self, column: int) -> bool:
        return column == 0 or column in self.texts

    def _widths(self) -> list[int]:
        return [max(map(len, column)) for column in zip(self.columns, *self.rows, strict=True)]

    def _listed(self) -> str:
        """One value per line, below the name of its row."""
        names = list(self.columns[1:])
        width = max(map(len, names), default=0)
        blocks = []
        for name, *cells in self.rows:
            values = zip(names, cells, strict=True)
            blocks += [name, *(f"  {column:<{width}}  {cell}" for column, cell in values if cell)]
        return printable("\n".join(blocks))


def of_splits(
    splits: Mapping[str, Mapping[str, float]], lines: Mapping[str, str] | None = None, monitor: str | None = None
) -> Table:
    """Returns a table of values: one row for each split, and one column for each of at most `MOST_SHOWN` names.

    Args:
        splits: Values by plain name, by split.
        lines: Texts below the table, by label; `None` for none.
        monitor: Plain name of the monitored value, which is shown first of many; `None` for none.
    """
    known = dict.fromkeys(name for values in splits.values() for name in values)
    names = leading(known, monitor=monitor)
    counted = {"not shown": f"{len(known) - len(names)} further values"} if len(known) > len(names) else {}
    rows = [
        [split, *(f"{values[name]:.4f}" if name in values else "" for name in names)]
        for split, values in splits.items()
    ]
    return Table(["", *names], rows, {**counted, **(lines or {})})


class Tabular(abc.ABC):
    """Base of results that Python and notebooks show as a table."""

    @abc.abstractmethod
    def table(self) -> Table:
        """The table that is shown."""

    def __repr__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()
