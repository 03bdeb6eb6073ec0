"""The pictures of what a user sees, which `docs/screens.py` draws: each is on a page, in both color schemes."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
DRAWN = sorted((ROOT / "docs" / "screens").glob("*.png"))
PAGES = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").rglob("*.md")))
SHOWN = re.findall(r"!\[[^\]]+\]\([./]*screens/(\w+)\.png(#only-light|#only-dark)?\)", PAGES)


def test_each_is_on_a_page() -> None:
    assert {"terminal_fit", "notebook_fit_light", "report_phone"} <= {path.stem for path in DRAWN}
    assert sorted({name for name, _ in SHOWN}) == [path.stem for path in DRAWN]


def test_the_scheme_of_a_picture_is_that_of_the_page_it_is_shown_on() -> None:
    schemes = {"light": "#only-light", "dark": "#only-dark"}
    assert [found for found in SHOWN if found[1] != schemes.get(found[0].rpartition("_")[2], "")] == []
    light = {name.removesuffix("_light") for name, scheme in SHOWN if scheme == "#only-light"}
    assert light == {name.removesuffix("_dark") for name, scheme in SHOWN if scheme == "#only-dark"}


def test_they_are_small_files() -> None:
    for path in DRAWN:
        assert path.stat().st_size <= 150_000, path
        with Image.open(path) as picture:
            assert max(picture.size) <= 2500, path
