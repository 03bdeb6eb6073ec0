"""`hparams/`: what the HParams tab of TensorBoard lists of a run, in an event file below the run directory.

TensorBoard makes a column of each scalar of a run that has hyperparameters, and of all runs in its folders: the curves
would be columns beside the results. And a run at the top of `--logdir`, which is called `.`, would have columns without
values. In a folder of its own a run has its hyperparameters, `best/val/...` and `test/...`, wherever `--logdir` begins.
A list of columns, which TensorBoard also reads, would be taken from one run, also for the runs of other tasks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from lightkeras.runs.loggers.event_file import EventFile, replaced
from lightkeras.runs.loggers.summaries import scalars, session_end, session_start

FOLDER = "hparams"


@final
class HParamsRun:
    """The hyperparameters of a fit, and the values of its best epoch so far."""

    def __init__(self, run_dir: Path, hparams: Mapping[str, Any]) -> None:
        self._folder, self._hparams = run_dir / FOLDER, hparams
        self._file: EventFile | None = None
        self._best: tuple[int, dict[str, float]] | None = None

    def open(self) -> None:
        """Lists the run, in the place of what was there before a resume."""
        self._file = replaced(self._folder, "fit")
        self._file.add(session_start(self._hparams))
        self._write_best()
        self._file.flush()

    def log_best(self, step: int, values: Mapping[str, float]) -> None:
        """Logs the values of the best epoch so far, such as `val/loss`; the tab shows the last ones."""
        self._best = (step, {f"best/{name}": value for name, value in values.items()})
        self._write_best()

    def flush(self) -> None:
        if self._file is not None:
            self._file.flush()

    def close(self, failed: bool) -> None:
        """Ends the run in the tab."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.closing(file):
                file.add(session_end(failed))

    def _write_best(self) -> None:
        if self._file is not None and self._best is not None:
            step, values = self._best
            self._file.add(scalars(values), step)


def write_tested(
    run_dir: Path, hparams: Mapping[str, Any], best: Mapping[str, Any], step: int, tested: Mapping[str, float]
) -> None:
    """Lists the test of a run, with its hyperparameters: `best/` of a search is not listed by a fit.

    Args:
        run_dir: The run directory.
        hparams: Its hyperparameters.
        best: The best epoch as in `result.json`: its `step`, and values such as `val/loss`.
        step: Train steps of the weights that were tested.
        tested: Means over the test split by plain name.
    """
    file = replaced(run_dir / FOLDER, "test")
    file.add(session_start(hparams))
    values = {f"best/{name}": value for name, value in best.items() if name.startswith("val/") and value is not None}
    if values:
        file.add(scalars(values), int(best.get("step") or step))
    file.add(scalars({f"test/{name}": value for name, value in tested.items()}), step)
    file.add(session_end(failed=False))
    file.close()
