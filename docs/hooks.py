"""Pages of the site that are made from files outside `docs/`, and the links to these files.

The files stay where a reader of the repository expects them. On the site, CONTRIBUTING.md is `contributing.md`, the
table of experiments in README.md is a gallery, and each experiment is a page: its docstring, pictures and code.
"""

from __future__ import annotations

import ast
import html
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENTS = sorted(path.stem for path in (ROOT / "experiments").glob("*.py"))
COPIES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/RESULTS.md": "benchmarks.md",
    "benchmarks/results.png": "results.png",
}
# Pages by the paths, from the root, of the files that they show.
PAGES = {
    **COPIES,
    **{f"experiments/{name}.py": f"experiments/{name}.md" for name in EXPERIMENTS},
    "experiments": "experiments/index.md",
    "README.md": "index.md",
}

_FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<=\]\()([^)#:\s]+)((?:#[^)\s]*)?)(?=\))")
_ROW = re.compile(r"^\| !\[\]\((\S+)\) \| \[`(\w+)\.py`\]\(\S+\) \| (.+) \| (.+) \| (.+) \|$", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made from files outside `docs/`."""
    for source, page in COPIES.items():
        if page.endswith(".md"):
            text = relinked((ROOT / source).read_text(encoding="utf-8"), source, page)
            files.append(File.generated(config, page, content=text))
        else:
            files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    rows = _ROW.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    if sorted(row[1] for row in rows) != EXPERIMENTS:
        raise ValueError(f"The table in README.md has {len(rows)} experiments, and experiments/ {len(EXPERIMENTS)}.")
    files.append(File.generated(config, "experiments/index.md", content=gallery(rows)))
    for _, name, _, result, time in rows:
        files.append(File.generated(config, f"experiments/{name}.md", content=experiment(name, result, time)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Changes the links of a page in `docs/` to links between pages."""
    name = page.file.src_uri
    return markdown if page.file.generated_by else relinked(markdown, f"docs/{name}", name)


def relinked(text: str, source: str, page: str) -> str:
    """Returns Markdown with its links to files of the repository changed to links to the pages that show them.

    Args:
        text: Markdown whose links are relative to its file.
        source: Path of the file from the root.
        page: Path of the page that shows it, from `docs/`.
    """

    def target(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        anchor = "" if path == "README.md" else match[2]
        return posixpath.relpath(PAGES.get(path, path.removeprefix("docs/")), posixpath.dirname(page) or ".") + anchor

    parts = _FENCED.split(text)
    return "".join(part if part.startswith("```") else _LINK.sub(target, part) for part in parts)


def gallery(rows: list[tuple[str, str, str, str, str]]) -> str:
    """The page of all experiments, from the rows of the table in README.md."""
    cards = []
    for picture, name, what, result, _ in rows:
        path = posixpath.relpath(picture.removeprefix("docs/"), "experiments")
        cards.append(
            f'<a class="card" href="{name}.html"><img src="{path}" alt="">'
            f"<b>{name}</b><span>{html.escape(what)}</span><em>{html.escape(result)}</em></a>"
        )
    return f"""# Experiments

Each is one flat file, after a tutorial or guide of TensorFlow or an example of keras.io, and has all the
[commands](../index.md#the-commands-of-an-experiment) of a task. The pictures show runs on the built-in samples; the
figures are on the test split of the real data, with the default settings.

<div class="gallery">
{"".join(cards)}
</div>
"""


def experiment(name: str, result: str, time: str) -> str:
    """The page of an experiment: its docstring, its pictures and its code."""
    code = (ROOT / "experiments" / f"{name}.py").read_text(encoding="utf-8")
    title, _, rest = (ast.get_docstring(ast.parse(code)) or "").partition("\n")
    paths = sorted((ROOT / "docs" / "gallery").glob(f"{name}-*.png")) or [ROOT / "docs" / "thumbnails" / f"{name}.png"]
    pictures = []
    for path in sorted(paths, key=lambda path: not path.stem.endswith("curves")):  # the curves first
        caption = path.stem.partition("-")[2].replace("_", " ")
        pictures.append(f"![{caption}](../{path.parent.name}/{path.name})\n\n*{caption}*")
    lines = [
        f"# {title.rstrip('.')}",
        rest,
        f"On the real data: {result}, in {time} on two cores. The pictures are of a run on the built-in sample.",
        *pictures,
        f'```python title="experiments/{name}.py"\n{code}```',
    ]
    return "\n\n".join(lines)
