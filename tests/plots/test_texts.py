"""Texts as a picture: marks, colours, and long texts that are cut."""

from __future__ import annotations

import pytest

from lightkeras import plots
from lightkeras.plots import texts
from lightkeras.plots.style import RIGHT, WRONG
from lightkeras.plots.texts import MOST_LINES


def test_each_text_has_its_title_with_a_mark_and_a_colour():
    figure = plots.text_panel([("positive 98 %", "What a joy.", True), ("negative 97 %", b"Caf\xc3\xa9", False)])
    found = [[(text.get_text(), text.get_color()) for text in axes.texts] for axes in figure.axes]
    assert found == [
        [("\N{CHECK MARK} positive 98 %", RIGHT), ("What a joy.", "black")],
        [("\N{BALLOT X} negative 97 %", WRONG), ("Caf\N{LATIN SMALL LETTER E WITH ACUTE}", "black")],
    ]


def test_of_a_long_text_the_beginning_is_shown():
    axes = plots.text_panel([("long", "word " * 1000, True)]).axes[0]
    lines = axes.texts[1].get_text().split("\n")
    assert len(lines) == MOST_LINES
    assert min(map(len, lines)) > 80
    assert lines[-1].endswith("\N{HORIZONTAL ELLIPSIS}")


def test_the_widest_text_stays_inside_the_figure():
    figure = plots.text_panel([("title", "WWW MMM " * 60, True), ("one word", "m" * 400, False)])
    figure.draw_without_rendering()
    for axes in figure.axes:
        for text in axes.texts:
            assert text.get_window_extent().x1 <= figure.bbox.x1


def test_texts_do_not_overlap():
    figure = plots.text_panel([("title", "word " * 1000, True)] * 3)
    figure.draw_without_rendering()
    for above, below in zip(figure.axes, figure.axes[1:], strict=False):
        assert above.texts[1].get_window_extent().y0 >= below.texts[0].get_window_extent().y1


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], r"text_panel: got no entries; expected \(title, text, right\) at least once\."),
        ([("title", "text")], r"text_panel: entry 0 is \('title', 'text'\); expected \(title, text, right\)\."),
        ([("title", 3, True)], r"text_panel: entry 0 is \('title', 3, True\); expected \(title, text, right\)\."),
    ],
)
def test_a_value_that_is_not_a_text_is_refused(entries, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        plots.text_panel(entries)


def test_an_empty_text_is_marked_as_empty():
    assert plots.text_panel([("title", "", True)]).axes[0].texts[1].get_text() == "(empty)"


def test_the_looks_of_texts_are_the_recorded_ones(assert_look):
    entries = [("right", "W" * 90, True), ("wrong", b"one\n\xff two", False), ("t" * 61, "word " * 200, True)]
    assert_look("texts", plots.text_panel(entries))


def test_a_text_is_read_up_to_a_thousand_characters(monkeypatch):
    monkeypatch.setattr(texts, "_width", lambda text: len(text) / 100)  # room for 678 in a line
    for count, shown in [(1000, "i" * 1000), (1001, "i" * 1000 + "\N{HORIZONTAL ELLIPSIS}")]:
        lines = plots.text_panel([("t", "i" * count, True)]).axes[0].texts[1].get_text().split("\n")
        assert "".join(lines) == shown
        assert 670 < len(lines[0]) < 680
