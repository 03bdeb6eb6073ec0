"""A journal is whole after whatever happened to its process or its disk."""

from __future__ import annotations

import math
import os

import pytest

from lightkeras.search.journal import Journal

EVENTS = [{"event": "asked", "values": {"rate": 0.1}}, {"event": "ended", "text": "a\nb"}, {"event": "ended", "n": 3}]


def written(path):
    with Journal(path) as journal:
        for event in EVENTS:
            journal.write(event)
    return path


def test_what_was_written_is_read_again(tmp_path):
    with Journal(written(tmp_path / "journal.jsonl")) as journal:
        assert journal.events == EVENTS
        journal.write({"event": "more"})
    with Journal(tmp_path / "journal.jsonl") as journal:
        assert journal.events == [*EVENTS, {"event": "more"}]


def test_cut_at_any_byte_it_holds_the_lines_that_were_whole_and_continues(tmp_path):
    content = written(tmp_path / "journal.jsonl").read_bytes()
    path = tmp_path / "cut.jsonl"
    for size in range(len(content) + 1):
        path.write_bytes(content[:size])
        with Journal(path) as journal:
            assert journal.events == EVENTS[: content[:size].count(b"\n")]
            journal.write({"event": "more"})
        assert path.read_bytes().endswith(b'{"event": "more"}\n')
        assert path.read_bytes().count(b"\n") == content[:size].count(b"\n") + 1


def test_a_damaged_line_is_named(tmp_path):
    path = written(tmp_path / "journal.jsonl")
    path.write_bytes(path.read_bytes().replace(b'"text"', b'"te\x00\xff'))
    with pytest.raises(ValueError, match=r"journal\.jsonl is damaged: line 2 is not an event"):
        Journal(path)
    path.write_text('{"event": "asked"}\n[1, 2]\n')
    with pytest.raises(ValueError, match=r"line 2 is not an event \(expected an object"):
        Journal(path)


def test_a_number_that_is_not_finite_is_null(tmp_path):
    with Journal(tmp_path / "journal.jsonl") as journal:
        journal.write({"event": "reported", "value": math.nan})
    with Journal(tmp_path / "journal.jsonl") as journal:
        assert journal.events == [{"event": "reported", "value": None}]


def test_a_line_that_a_full_disk_cut_short_is_taken_back(tmp_path, monkeypatch):
    path = written(tmp_path / "journal.jsonl")
    before = path.read_bytes()
    pwrite = os.pwrite
    with Journal(path) as journal:

        def half(descriptor, content, offset):
            if offset > len(before):
                raise OSError(28, "No space left on device")
            return pwrite(descriptor, content[: len(content) // 2], offset)

        monkeypatch.setattr(os, "pwrite", half)
        with pytest.raises(OSError, match=r"could not write .*journal\.jsonl: No space left on device"):
            journal.write({"event": "more"})
        assert path.read_bytes() == before
        monkeypatch.undo()
        journal.write({"event": "later"})
    with Journal(path) as journal:
        assert journal.events == [*EVENTS, {"event": "later"}]
