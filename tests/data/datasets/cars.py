"""A small table of cars, for the tests of `Table`."""

from pathlib import Path

from lightkeras.data.datasets.tables import Table
from lightkeras.data.lookup import Lookup

CSV = """weight,origin,mpg
3504,1,18
3693,1,15
?,3,27
2372,3,24
2833,2,22
"""


def written(folder: Path) -> Path:
    """The table as a file."""
    path = folder / "cars.csv"
    path.write_text(CSV)
    return path


def prepared(table, target="mpg", **settings) -> Table:
    """A table that has been read; all rows are for training unless the settings hold some back."""
    made = Table(table, target, **{"test": 0, "validation": 0, **settings})
    made.prepare(Lookup())
    return made


def columns_of(feed) -> dict[str, list[float]]:
    """The columns of a feed, as lists."""
    return {name: array.tolist() for name, array in feed.arrays[0].items()}
