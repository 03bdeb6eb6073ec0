"""Files that runs wrote fit the forms that the reader checks, and each form is a dataclass that can be checked."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import earlier_tasks
import pytest

from lightkeras.runs import formats
from lightkeras.system import files
from lightkeras.system.schema import find_problem

EARLIER = Path(earlier_tasks.__file__).with_name("files")


@pytest.mark.parametrize(
    ("pattern", "kind"),
    [
        ("**/config.json", formats.Config),
        ("**/result.json", formats.Result),
        ("**/checkpoints/*/state.json", formats.RunState),
        ("**/broken/*/state.json", formats.BrokenState),
        ("**/manifest.json", dict[str, formats.Entry]),
    ],
)
def test_files_of_earlier_versions_fit(pattern, kind):
    found = sorted(EARLIER.glob(pattern))
    assert found
    for path in found:
        files.read_json(path, kind, files.decode_float)


ABSENT = {(formats.Config, "search"), (formats.Result, "search")}  # have no default in the file


def test_the_defaults_of_each_form_fit_it():
    kinds = [kind for kind in vars(formats).values() if dataclasses.is_dataclass(kind)]
    complete = [kind for kind in kinds if isinstance(kind, type) and not _required(kind)]
    assert formats.Config in complete
    for kind in complete:
        plain = json.loads(json.dumps(dataclasses.asdict(kind())))
        plain = {name: value for name, value in plain.items() if (kind, name) not in ABSENT}
        assert find_problem(plain, kind) is None, kind


def _required(kind: type) -> bool:
    missing = dataclasses.MISSING
    return any(field.default is missing and field.default_factory is missing for field in dataclasses.fields(kind))
