"""The blocks of code in a document, and how a reader runs them."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import subprocess
from pathlib import Path

import forked

ROOT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class Document:
    """A Markdown file of the checkout, by its path from the root."""

    path: str

    @property
    def text(self) -> str:
        return (ROOT / self.path).read_text(encoding="utf-8")

    def blocks(self, language: str) -> list[str]:
        """The blocks of a language, in order."""
        return re.findall(rf"^```{language}\n(.*?)^```$", self.text, flags=re.MULTILINE | re.DOTALL)

    def below(self, heading: str) -> str:
        """The first block of commands below a heading."""
        part = self.text.split(f"\n## {heading}\n", 1)[1]
        return re.findall(r"^```bash\n(.*?)^```$", part, flags=re.MULTILINE | re.DOTALL)[0]

    def missing_links(self) -> list[str]:
        """Files and folders that it links to and that do not exist."""
        paths = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", self.text)
        return [path for path in paths if not ((ROOT / self.path).parent / path).exists()]


DOCUMENTS = [
    Document(path.relative_to(ROOT).as_posix()) for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
]


def run_block(block: str, folder: Path, name: str = "block.py") -> subprocess.CompletedProcess[str]:
    """Runs a block of Python as a file of its own, in a folder and a home where nothing was downloaded."""
    (folder / name).write_text(block, encoding="utf-8")
    return run_command(f"python {name}", folder)


def run_command(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a line that begins with `python`; it must end with status 0."""
    program, *args = shlex.split(line)
    assert program == "python"
    kept = {name: value for name, value in os.environ.items() if name != "LIGHTKERAS_DATA_DIR"}
    kept |= {"MLFLOW_DISABLE_TELEMETRY": "true", "WANDB_ERROR_REPORTING": "false"}
    environment = {**kept, "HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache")}
    done = forked.run(args, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    return done
