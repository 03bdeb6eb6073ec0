"""Which hyperparameters only a run directory names."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import lightkeras as lk
from lightkeras.runs.untrusted import untrusted_in


@dataclasses.dataclass(frozen=True)
class HParams:
    module: str = "auto"
    kind: str = lk.Choice("a", ["a", "b"])
    sizes: tuple[str, ...] = ()
    units: int = 3


def test_defaults_choices_numbers_and_what_is_given_are_not_the_runs(monkeypatch):
    monkeypatch.setenv("LIGHTKERAS_DATA_DIR", "/data")
    recorded = {"module": "auto", "kind": "b", "units": 7, "sizes": ["x"]}
    found = untrusted_in(Path("RUN"), HParams, recorded, "/theirs")
    assert (found.names, found.data_dir, found.own) == (("x",), "/theirs", ("/data",))
    found = untrusted_in(Path("RUN"), HParams, {**recorded, "module": "evil"}, "/theirs", {"sizes"}, "/mine")
    assert (found.names, found.data_dir, found.own) == (("evil",), None, ("/mine", "/data"))
