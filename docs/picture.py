"""Draws docs/curves.png: the curves of the main experiment on the built-in sample.

python docs/picture.py
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

with tempfile.TemporaryDirectory() as folder:
    command = [sys.executable, ROOT / "experiments" / "imdb_hub.py", "fit", "--source", "sample", "--run_dir"]
    subprocess.run([*command, folder], check=True)
    shutil.copy(Path(folder, "figures", "curves.png"), ROOT / "docs" / "curves.png")
