"""MLflow: a run of an MLflow tracking store for each run."""

from __future__ import annotations

import base64
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, final

from lightkeras.runs.loggers.base import Run
from lightkeras.runs.loggers.remote import Entry, Remote, RemoteLogger, require
from lightkeras.system import files
from lightkeras.system.locks import exclusive_lock
from lightkeras.system.messages import announce

_MOST_METRICS, _MOST_PARAMS = 1000, 100  # of one request
_NOT_IN_NAMES = re.compile(r"[^\w\-. :/]")
_PARENT, _RUN_DIR = "mlflow.parentRunId", "lightkeras.run_dir"


@final
class MLflow(RemoteLogger):
    """Logs to an MLflow tracking server, or to a local store such as `sqlite:///mlflow.db`.

    Metrics are those of TensorBoard: `train/loss` at train steps, `val/loss` at validations, `epoch/...` at epochs,
    `best/...`, `run/...`. Hyperparameters are parameters; the configuration, `model.keras`, `result.json`, the report,
    texts and figures are artifacts. A resumed run continues its MLflow run. The trials of a search are child runs of
    one run for the search.

    Values are sent when a checkpoint that has them is on the disk, and at the end, by a thread. Those that could not be
    sent stay in `mlflow.outbox` in the run directory, until the next checkpoint or until the run is resumed.

    Args:
        tracking_uri: Address of the store; `None` for MLflow's own default: `MLFLOW_TRACKING_URI`, else a local store.
        experiment: Name of the experiment, created if it does not exist; `None` for the name of the task.
        run_name: Name of the run; `None` for that of the run directory.
        tags: Further tags of the run.
        every_steps: Train steps between two that are logged; 1 logs each.

    Raises:
        ImportError: MLflow is not installed (extra `mlflow`).
        ValueError: `every_steps` is below 1.

    Examples:
        ```python
        import lightkeras as lk

        mlflow = lk.loggers.MLflow("sqlite:///mlflow.db", experiment="moons")
        lk.Runner(max_epochs=2, loggers=[mlflow]).fit(lk.testing.TwoMoons())
        ```
    """

    def __init__(
        self,
        tracking_uri: str | None = None,
        experiment: str | None = None,
        run_name: str | None = None,
        tags: Mapping[str, str] | None = None,
        every_steps: int = 1,
    ) -> None:
        require("mlflow", "MLflow")
        super().__init__("mlflow", every_steps)
        self._tracking_uri, self._experiment, self._run_name = tracking_uri, experiment, run_name
        self._tags = dict(tags or {})

    def connect(self, run: Run, known: str | None) -> tuple[Remote, str]:
        from mlflow import MlflowClient

        client = MlflowClient(self._tracking_uri)
        parent = None if run.search is None else self._parent(client, run, run.search)
        if known is None:
            known = self._create(client, run, self._run_name or run.name, run.directory, parent)
            params = [_param(name, value) for name, value in run.hparams.items()]
            for first in range(0, len(params), _MOST_PARAMS):
                client.log_batch(known, params=params[first : first + _MOST_PARAMS])
            client.log_dict(known, dict(run.config), "config.json")
            return _MLflowRun(client, known, parent, resumed=False), known
        client.update_run(known, status="RUNNING")
        return _MLflowRun(client, known, parent, resumed=True), known

    def _create(self, client: Any, run: Run, name: str, folder: Path, parent: str | None = None) -> str:
        tags = {**self._tags, _RUN_DIR: str(folder.absolute()), "mlflow.source.type": "LOCAL"}
        tags |= {"mlflow.source.name": str(next(iter(run.config.get("argv", [])), ""))}
        tags |= {} if parent is None else {_PARENT: parent}
        experiment = _experiment(client, self._experiment or str(run.config.get("task", "lightkeras")))
        return str(client.create_run(experiment, tags=tags, run_name=name).info.run_id)

    def _parent(self, client: Any, run: Run, search: Path) -> str:
        """The MLflow run of a search, which the first of its trials creates."""
        path = search / "mlflow.run.json"
        with exclusive_lock(search / "mlflow.lock", _announce_waiting):
            if not path.exists():
                files.write_json(path, {"id": self._create(client, run, search.name, search)})
            return str(files.read_json(path)["id"])


@final
class _MLflowRun(Remote):
    def __init__(self, client: Any, run_id: str, parent: str | None, resumed: bool) -> None:
        super().__init__(resumed)
        self._client, self._run_id, self._parent = client, run_id, parent

    def last_step(self, name: str) -> int:
        kind, _, rest = name.partition(":")
        if kind == "metric":
            steps = [metric.step for metric in self._client.get_metric_history(self._run_id, rest)]
        else:
            paths = [found.path for found in self._client.list_artifacts(self._run_id, rest)]
            steps = [int(number[1]) for path in paths if (number := re.search(r"(\d+)\.\w+$", path))]
        return max(steps, default=-1)

    def send(self, entries: Iterable[Entry]) -> None:
        from mlflow.entities import Metric

        metrics: list[Any] = []
        last: dict[str, int] = {}  # in this batch
        for entry in entries:
            if entry.kind in ("text", "images"):
                self._send_files(entry)
                continue
            if entry.kind == "histograms":  # MLflow has none
                continue
            for step, row in entry.rows():
                at = entry.epoch if entry.kind == "epoch" else step
                for name, value in row.items():
                    key = _NOT_IN_NAMES.sub("_", name)
                    if at > last.get(key, -1) and self.is_new(f"metric:{key}", at):
                        last[key] = at
                        metrics.append(Metric(key, float(value), int(1000 * entry.time), at))
        for first in range(0, len(metrics), _MOST_METRICS):
            batch = metrics[first : first + _MOST_METRICS]
            self._client.log_batch(self._run_id, metrics=batch)
            for metric in batch:
                self.sent(f"metric:{metric.key}", metric.step)

    def send_artifacts(self, paths: Sequence[Path]) -> None:
        for path in paths:
            if path.is_dir():
                self._client.log_artifacts(self._run_id, str(path), path.name)
            else:
                self._client.log_artifact(self._run_id, str(path))

    def close(self, failed: bool) -> None:
        self._client.set_terminated(self._run_id, "FAILED" if failed else "FINISHED")
        if self._parent is not None:
            self._client.set_terminated(self._parent, "FINISHED")

    def _send_files(self, entry: Entry) -> None:
        folder, ending = ("texts", "md") if entry.kind == "text" else ("images", "png")
        for name, value in entry.values.items():
            path = f"{folder}/{_NOT_IN_NAMES.sub('_', name)}"
            if not self.is_new(f"{entry.kind}:{path}", entry.step):
                continue
            content = value.encode() if entry.kind == "text" else base64.b64decode(value)
            with tempfile.TemporaryDirectory() as temporary:
                file = Path(temporary) / f"{entry.step:08d}.{ending}"
                file.write_bytes(content)
                self._client.log_artifact(self._run_id, str(file), path)
            self.sent(f"{entry.kind}:{path}", entry.step)


def _experiment(client: Any, name: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another process has just created it
            if found is None:
                raise
    return str(found.experiment_id)


def _param(name: str, value: Any) -> Any:
    from mlflow.entities import Param

    return Param(_NOT_IN_NAMES.sub("_", name), str(value))


def _announce_waiting() -> None:
    announce("waiting for another trial to create the MLflow run of the search")
