"""An HTML page of its own: elements whose text is escaped, and a style that is read and printed well."""

from __future__ import annotations

import html
import urllib.parse
from collections.abc import Sequence
from typing import Any, final

_EMPTY = ("img", "meta")  # elements without an end
# The browser itself is told to load nothing, and to run nothing.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: #1b1f24; overflow-wrap: anywhere; }
body { font: 16px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 1.5rem 1.25rem 3rem; }
h1 { margin: 0; font-size: 1.9rem; line-height: 1.2; }
h2 { margin: 2rem 0 .6rem; padding-bottom: .25rem; border-bottom: 1px solid #d6dae0; font-size: 1.2rem; }
.quiet { margin: .25rem 0; color: #57606a; }
.warn { padding: .6rem .9rem; border-left: .35rem solid #d55e00; background: #fdf1e7; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #e7eaee; text-align: left; vertical-align: top; }
thead th { border-bottom: 2px solid #b7bdc5; }
th { font-weight: 600; }
td.number, th + th { text-align: right; padding-left: .8rem; }
td.text { padding-left: .8rem; }
.wide { overflow-x: auto; overflow-wrap: normal; }
.list { width: 100%; max-width: 46rem; table-layout: fixed; font-size: .92rem; }
.list th { width: 40%; font-weight: 500; color: #57606a; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr)); gap: 0 2.5rem; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem 2.5rem; align-items: flex-start; }
figure { max-width: 100%; margin: .5rem 0; break-inside: avoid; }
img { display: block; max-width: 100%; height: auto; }
figcaption { margin-top: .35rem; color: #57606a; font-size: .92rem; }
pre { margin: .4rem 0; padding: .6rem .8rem; background: #f4f6f8; font-size: .88rem; }
pre { white-space: pre-wrap; }
ul { margin: .4rem 0; padding-left: 1.2rem; columns: 14rem; }
a { color: #0057a3; }
@media print {
  body { font-size: 11px; }
  main { max-width: none; padding: 0; }
  h2 { break-after: avoid; }
  .warn, pre { print-color-adjust: exact; }
}
"""


@final
class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(name: str, /, *children: Any, **attributes: Any) -> Html:
    """An element.

    Args:
        name: Its name.
        *children: What is in it: HTML as it is, everything else as escaped text.
        **attributes: Its attributes, escaped; `class_` is `class`. Paths in `href` are quoted as a URL needs it, and
            begin in the folder of the page.
    """
    shown = ""
    for key, value in attributes.items():
        text = value if isinstance(value, Html) else html.escape(_url(value) if key == "href" else str(value))
        shown += f' {key.rstrip("_")}="{text}"'
    if name in _EMPTY:
        return Html(f"<{name}{shown}>")
    inside = "".join(child if isinstance(child, Html) else html.escape(str(child)) for child in children)
    return Html(f"<{name}{shown}>{inside}</{name}>")


def page(title: str, body: Sequence[Html]) -> str:
    """A whole page, which loads nothing and runs no script."""
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", **{"http-equiv": "Content-Security-Policy", "content": Html(_POLICY)}),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Html(_STYLE)),
    ]
    return "<!DOCTYPE html>\n" + tag("html", tag("head", *head), tag("body", tag("main", *body)), lang="en") + "\n"


def _url(path: Any) -> str:
    """A path relative to the page: a colon in it begins no scheme."""
    return f"./{urllib.parse.quote(str(path))}"
