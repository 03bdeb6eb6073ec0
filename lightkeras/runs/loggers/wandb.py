"""WandB: a run of Weights & Biases for each run."""

from __future__ import annotations

import base64
import html
import io
import json
import secrets
import shutil
import struct
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, final

from lightkeras.runs.loggers.base import Run
from lightkeras.runs.loggers.remote import Entry, Remote, RemoteLogger, require
from lightkeras.system import files

MODES = ("online", "offline")
_HEADER, _BLOCK, _RECORD = 7, 1 << 15, 7  # bytes of a .wandb file: its header, a block, the head of a record in it
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4  # kinds of records


@final
class WandB(RemoteLogger):
    """Logs to Weights & Biases.

    Names are those of TensorBoard: `train/loss` at train steps, `val/loss` at validations, `epoch/...` over epochs,
    `best/...`, `run/...`, the task's figures and texts, histograms. Hyperparameters are the run's `config`; the
    configuration, `model.keras`, `result.json` and the report are its files. A resumed run continues its W&B run. The
    trials of a search are a group.

    Values are handed over when a checkpoint that has them is on the disk, and at the end, by a thread. Those that could
    not be handed over stay in `wandb.outbox` in the run directory, until the next checkpoint or until the run is
    resumed. What W&B writes itself is in the folder `wandb/` there; `wandb sync RUN/wandb/offline-*` uploads it.

    Args:
        project: Name of the project; `None` for W&B's own default.
        entity: User or team; `None` for W&B's own default.
        mode: `"online"`, or `"offline"` to upload later; `None` for W&B's own default, `WANDB_MODE`.
        run_name: Name of the run; `None` for that of the run directory.
        group: Group of the run; `None` for the directory of its search, or no group.
        tags: Tags of the run.
        every_steps: Train steps between two that are logged; 1 logs each.

    Raises:
        ImportError: W&B is not installed (extra `wandb`).
        ValueError: A setting is not valid.

    Examples:
        ```python
        import lightkeras as lk

        wandb = lk.loggers.WandB(project="moons", mode="offline")
        lk.Runner(max_epochs=2, loggers=[wandb]).fit(lk.testing.TwoMoons())
        ```
    """

    def __init__(
        self,
        project: str | None = None,
        entity: str | None = None,
        mode: str | None = None,
        run_name: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        every_steps: int = 1,
    ) -> None:
        require("wandb", "WandB")
        super().__init__("wandb", every_steps)
        if mode not in (None, *MODES):
            raise ValueError(f"WandB(mode={mode!r}): expected 'online', 'offline' or None.")
        self._project, self._entity, self._mode = project, entity, mode
        self._run_name, self._group, self._tags = run_name, group, tuple(tags)

    def connect(self, run: Run, known: str | None) -> tuple[Remote, str]:
        import wandb

        folder, identity = run.directory / "wandb", known or secrets.token_hex(4)
        files.check_no_link(folder)
        earlier = _last_steps(folder, identity)  # before a file of this session is there
        opened = wandb.init(
            project=self._project,
            entity=self._entity,
            name=self._run_name or run.name,
            group=self._group or (None if run.search is None else run.search.name),
            job_type="fit" if run.search is None else "trial",
            tags=list(self._tags),
            config=dict(run.hparams),
            dir=str(run.directory),
            id=identity,
            resume="allow",
            reinit="create_new",  # it is not the run of the user's own calls of wandb.log
            settings=wandb.Settings(console="off", silent=self._mode == "offline"),
            **({} if self._mode is None else {"mode": self._mode}),
        )
        opened.define_metric("epoch/*", step_metric="epoch")
        if known is None:
            files.write_json(Path(opened.dir) / "lightkeras_config.json", run.config)
        return _WandBRun(opened, earlier if opened.offline else None, known is not None), identity


@final
class _WandBRun(Remote):
    """A run of W&B; `earlier` has the last steps of earlier sessions by name, `None` asks the server."""

    def __init__(self, run: Any, earlier: Mapping[str, int] | None, resumed: bool) -> None:
        super().__init__(resumed)
        self._run, self._earlier = run, earlier
        self._at = 0

    def last_step(self, name: str) -> int:
        return int(self._run.starting_step) - 1 if self._earlier is None else self._earlier.get(name, -1)

    def send(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            for step, row in entry.rows():
                new = {name: value for name, value in row.items() if self.is_new(name, step)}
                if not new:
                    continue
                self._at = max(self._at, step)  # W&B takes no earlier step
                epoch = {"epoch": entry.epoch} if entry.kind == "epoch" else {}
                shown = {name: _shown(entry.kind, value) for name, value in new.items()}
                self._run.log({**shown, **epoch, "_timestamp": entry.time}, step=self._at)
                for name in new:
                    self.sent(name, step)

    def send_artifacts(self, paths: Sequence[Path]) -> None:
        for path in paths:
            target = Path(self._run.dir) / path.name
            if path.is_dir():
                shutil.copytree(path, target, dirs_exist_ok=True)
            else:
                shutil.copyfile(path, target)

    def close(self, failed: bool) -> None:
        offline, path = self._run.offline, Path(self._run.dir).parent / f"run-{self._run.id}.wandb"
        self._run.finish(exit_code=int(failed))
        if offline:
            _wait_until_written(path)


def _shown(kind: str, value: Any) -> Any:
    """A value as W&B shows it."""
    import wandb

    if kind == "images":
        from PIL import Image

        return wandb.Image(Image.open(io.BytesIO(base64.b64decode(value))))
    if kind == "text":
        return wandb.Html(f"<pre>{html.escape(value)}</pre>", inject=False)
    if kind == "histograms":
        edges, counts = value
        return wandb.Histogram(np_histogram=(counts, edges))
    return value


def _wait_until_written(path: Path) -> None:
    """Waits for the last record of a file, which W&B's process may write after `finish` has returned.

    A session that continues the run reads what was sent before.

    Raises:
        TimeoutError: It is not written within 30 s.
    """
    from wandb.proto import wandb_internal_pb2

    until = time.monotonic() + 30.0
    while time.monotonic() < until:
        kinds = [wandb_internal_pb2.Record.FromString(content).WhichOneof("record_type") for content in _records(path)]
        if "exit" in kinds:
            return
        time.sleep(0.02)
    raise TimeoutError(
        f"W&B has not written the end of {path} within 30 s: a resume may send the last values of the run twice."
    )


def _last_steps(folder: Path, identity: str) -> dict[str, int]:
    """The last step of each name in the files of a run's earlier sessions: a killed one has less than it was given."""
    from wandb.proto import wandb_internal_pb2

    found: dict[str, int] = {}
    for path in folder.glob(f"*run-*-{identity}/run-{identity}.wandb"):
        for content in _records(path):
            record = wandb_internal_pb2.Record.FromString(content)
            if record.WhichOneof("record_type") == "history":
                items = {next(iter(item.nested_key), item.key): item.value_json for item in record.history.item}
                step = record.history.step.num if record.history.HasField("step") else int(json.loads(items["_step"]))
                found |= {name: max(step, found.get(name, -1)) for name in items}
    return found


def _records(path: Path) -> Iterator[bytes]:
    """Yields the records of a .wandb file: blocks as in LevelDB's log, up to the first record that is not whole."""
    with files.open_to_read(path) as file:
        content = file.read()
    at, parts = _HEADER, b""
    while True:
        left = _BLOCK - at % _BLOCK
        if left < _RECORD:
            at += left
        if at + _RECORD > len(content):
            return
        _, size, kind = struct.unpack_from("<IHB", content, at)
        data = content[at + _RECORD : at + _RECORD + size]
        if kind not in (_FULL, _FIRST, _MIDDLE, _LAST) or len(data) < size:
            return
        parts = data if kind in (_FULL, _FIRST) else parts + data
        if kind in (_FULL, _LAST):
            yield parts
        at += _RECORD + size
