"""Names of the values of a run: `train/loss`, `val/loss`, and with several validation sets `val/clean/loss`."""

from __future__ import annotations

import re
from collections.abc import Iterable

SET_NAME = re.compile(r"\w[\w.+-]*")
"""What a validation or test set may be called: letters, digits and `_ . + -`."""

MOST_SHOWN = 16
"""Values that a line, or a row of a table, shows: more cannot be read."""


def within(split: str, set_name: str) -> str:
    """Returns the name of a set of a split: `"val/clean"`; that of the split for a set without a name, `""`."""
    return f"{split}/{set_name}" if set_name else split


def validation_sets(names: Iterable[str]) -> list[str]:
    """Returns the names of the validation sets; empty if there is one set, without a name.

    Args:
        names: Names of all values of an epoch.

    Examples:
        >>> validation_sets(["train/loss", "val/clean/loss", "val/noisy/loss"])
        ['clean', 'noisy']
        >>> validation_sets(["train/loss", "val/loss", "val/f1_score/0"])
        []
    """
    names = list(names)
    parts = [name.split("/") for name in names if name.startswith("val/")]
    if any(len(found) < 3 for found in parts):
        return []
    found = list(dict.fromkeys(found[1] for found in parts))
    return [] if any(name.startswith(f"train/{one}/") for name in names for one in found) else found


def parted(name: str, sets: Iterable[str]) -> tuple[str, str]:
    """Parts a name into that of its split or set, and that of the value: `("val/clean", "loss")`.

    Args:
        name: The name.
        sets: Result of `validation_sets`.
    """
    split, _, plain = name.partition("/")
    first, _, rest = plain.partition("/")
    return (f"val/{first}", rest) if split == "val" and rest and first in sets else (split, plain)


def leading(names: Iterable[str], most: int = MOST_SHOWN, monitor: str | None = None) -> list[str]:
    """Returns the names to show of many: the monitored value, the losses, then the others in their order.

    Args:
        names: The names; at most `most` of them are returned as they are.
        most: Maximum number of names.
        monitor: Name of the monitored value, as in `names`; `None` for none.

    Examples:
        >>> leading(["train/a", "train/b", "train/loss", "val/b"], most=3, monitor="val/b")
        ['val/b', 'train/loss', 'train/a']
    """
    names = list(names)

    def rank(name: str) -> tuple[bool, bool, bool]:
        return name != monitor, name.rpartition("/")[2] != "loss", "loss" not in name

    return names if len(names) <= most else sorted(names, key=rank)[:most]  # stable
