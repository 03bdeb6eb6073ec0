"""Predictions that are written while they are computed, in files of some thousand rows, so that memory stays flat.

predictions/
  index.json         what was predicted, and the rows of each part: where to resume
  part-00000.npz     arrays by name; or part-00000.jsonl, part-00000.csv
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from lightkeras.data.structure import Structure, flatten
from lightkeras.system import files
from lightkeras.system.messages import check_whole, did_you_mean

FORMATS = ("npz", "jsonl", "csv")
_INDEX = "index.json"


@dataclasses.dataclass(frozen=True)
class _Part:
    file: str
    rows: int


@dataclasses.dataclass(frozen=True)
class _Index:
    """What `index.json` holds."""

    facts: dict[str, Any]
    complete: bool
    parts: list[_Part]


@dataclasses.dataclass(frozen=True)
class PredictionWriter:
    """Where `Runner.predict` writes its outputs, in place of returning them.

    Parts are complete files: each is written beside its place and renamed. `numpy.load` reads an `.npz` part; parts of
    the other formats can be joined, as by `cat predictions/part-*.jsonl`.

    Args:
        folder: The folder, which is made.
        format: `"npz"` (arrays by name), `"jsonl"` (an object for each row) or `"csv"` (a column for each number; of
            outputs with at most one axis beside the rows). An output that is not a dict is called `prediction`, parts
            of a tuple are called `0`, `1`, ...
        rows: Rows after which a part is written; a part ends with a batch, so it may have a few more.
        resume: Whether to continue a folder that was not finished, after the last part; starts it if there is none.

    Raises:
        ValueError: `format` is unknown, or `rows` below 1.

    Examples:
        ```python
        import lightkeras as lk

        task, runner = lk.testing.TwoMoons(), lk.Runner(max_epochs=1)
        runner.fit(task)
        writer = lk.PredictionWriter("predictions", format="csv", rows=2000)
        folder = runner.predict(task, lk.testing.two_moons(5000)[0], writer=writer)
        print(sorted(path.name for path in folder.glob("part-*")))
        ```
    """

    folder: str | Path
    format: str = "npz"
    rows: int = 10_000
    resume: bool = False

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            known = did_you_mean(self.format, FORMATS)
            raise ValueError(f"PredictionWriter(format={self.format!r}) is not known. {known}")
        check_whole("PredictionWriter", "rows", self.rows, 1)

    def begin(self, facts: Mapping[str, Any]) -> int:
        """Makes the folder, or reads how far it came.

        Args:
            facts: What is predicted with what; a folder of other facts is not continued.

        Returns:
            Rows that are written already; -1 if all are.

        Raises:
            FileExistsError: The folder is not empty, and `resume` is false.
            ValueError: It holds predictions of something else, or its index is damaged.
        """
        folder = Path(self.folder)
        facts = {**facts, "format": self.format, "rows": self.rows}
        if self.resume and (folder / _INDEX).exists():
            index = self._index()
            before = index["facts"]
            changed = [f"{name} was {before.get(name)!r} and is {facts[name]!r}" for name in facts]
            changed = [text for name, text in zip(facts, changed, strict=True) if before.get(name) != facts[name]]
            if changed:
                raise ValueError(f"{folder} holds other predictions: {', '.join(changed)}. Give another folder.")
            return -1 if index["complete"] else sum(part["rows"] for part in index["parts"])
        if folder.exists() and not folder.is_dir():
            raise FileExistsError(f"{folder} is a file: give the path of a folder.")
        with files.explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            used = [path.name for path in folder.iterdir()]
        if used:  # raised here, because `explained` would name the disk as the cause
            advice = ", or continue the predictions in it with resume=True" if _INDEX in used else ""
            raise FileExistsError(f"{folder} is not empty: give another folder{advice}.")
        self._write_index({"facts": facts, "complete": False, "parts": []})
        return 0

    def write(self, outputs: Iterable[Structure]) -> Path:
        """Writes the outputs as they come; returns the folder."""
        index, parts = self._index(), list[Structure]()
        for output in outputs:
            parts.append(output)
            if sum(map(_rows, parts)) >= self.rows:
                self._write_part(index, parts)
                parts = []
        if parts:
            self._write_part(index, parts)
        self._write_index({**index, "complete": True})
        return Path(self.folder)

    def _write_part(self, index: dict[str, Any], parts: list[Structure]) -> None:
        whole = keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *parts)
        columns = {path or "prediction": _without_objects(leaf) for path, leaf in flatten(whole)}
        name = f"part-{len(index['parts']):05d}.{self.format}"
        content = {"npz": _npz, "jsonl": _jsonl, "csv": _csv}[self.format](columns)
        files.write_bytes(Path(self.folder) / name, content)
        index["parts"].append({"file": name, "rows": _rows(whole)})
        self._write_index(index)

    def _index(self) -> dict[str, Any]:
        found: dict[str, Any] = files.read_json(Path(self.folder) / _INDEX, _Index)
        return found

    def _write_index(self, index: Mapping[str, Any]) -> None:
        files.write_json(Path(self.folder) / _INDEX, index)


def _rows(output: Structure) -> int:
    return len(flatten(output)[0][1])


def _without_objects(leaf: np.ndarray) -> np.ndarray:
    """Texts as NumPy's own texts, so that nothing is pickled."""
    array = np.asarray(leaf)
    if array.dtype != object:
        return array
    texts = [text.decode(errors="replace") if isinstance(text, bytes) else str(text) for text in array.flat]
    return np.array(texts).reshape(array.shape)


def _npz(columns: Mapping[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **columns)  # type: ignore[arg-type]  # one of its own keywords takes a bool
    return file.getvalue()


def _jsonl(columns: Mapping[str, np.ndarray]) -> bytes:
    values = [column.tolist() for column in columns.values()]
    lines = (json.dumps(_plain(dict(zip(columns, row, strict=True)))) for row in zip(*values, strict=True))
    return "".join(f"{line}\n" for line in lines).encode()


def _csv(columns: Mapping[str, np.ndarray]) -> bytes:
    names, numbers = list[str](), list[np.ndarray]()
    for name, column in columns.items():
        if column.ndim > 2:
            raise ValueError(
                f"The output {name!r} has the shape {list(column.shape[1:])} in each row, which is no row of a table: "
                "use format='npz' or 'jsonl'."
            )
        wide = column.ndim == 2
        names += [f"{name}_{number}" for number in range(column.shape[1])] if wide else [name]
        numbers += list(column.T) if wide else [column]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(zip(*(column.tolist() for column in numbers), strict=True))
    return file.getvalue().encode()


def _plain(value: Any) -> Any:
    """Values that JSON has: texts of bytes, and `null` for NaN and the infinities."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value if not isinstance(value, float) or np.isfinite(value) else None
