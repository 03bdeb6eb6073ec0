"""Searches in a process of its own, with workers, to be killed; started by `tests/search/test_pool.py`.

python searching.py RUN_DIR WORKERS
"""

from __future__ import annotations

import sys

import hunted

import lightkeras as lk

if __name__ == "__main__":
    lk.Tuner(
        hunted.Waiting,
        objective="val/accuracy",
        trials=3,
        workers=int(sys.argv[2]),
        runner=lk.Runner(max_epochs=3, pictures=False, checkpoints=lk.Checkpoints(every_epochs=1)),
        run_dir=sys.argv[1],
    ).search(resume=True)
