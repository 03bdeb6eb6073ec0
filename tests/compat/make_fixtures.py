"""Makes `files/`, the files of an earlier version of lightkeras for `test_files_of_earlier_versions.py`.

    git worktree add /tmp/earlier 61574e7
    PYTHONPATH=/tmp/earlier python tests/compat/make_fixtures.py

Run it with the code of commit 61574e7, on TensorFlow: the tests check that later code reads what that commit wrote.
It uses the public API only, and replaces `files/`. Host name, kernel version and paths of the machine are replaced by
neutral ones, and .keras files are compressed. It takes about a minute.

    files/models/           .keras files with classes of lightkeras; expected.npz holds their outputs
    files/judgement/        a run that was killed after step 20 of 48, inside an epoch; two batches were skipped before
    files/judgement.npz     variables of the last and the best checkpoint of the same run, uninterrupted
    files/judgement.json    its metrics, printed line and skipped steps; and test metrics and outputs of the killed run
    files/search/           a search that was killed after two of four trials
    files/search.json       all four trials of the same search, uninterrupted
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any
from unittest import mock

FILES = Path(__file__).with_name("files")
TASKS = Path(__file__).with_name("earlier_tasks.py")


def main() -> None:
    """Makes each part in a separate process, so that parts share no layer names and no random state."""
    shutil.rmtree(FILES, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        own = {name: value for name, value in os.environ.items() if not name.startswith("LIGHTKERAS_")}
        own |= {"KERAS_BACKEND": "tensorflow", "LIGHTKERAS_CACHE_DIR": f"{folder}/cache"}
        work = Path(folder, "work")
        work.mkdir()
        for part in PARTS:
            done = subprocess.run([sys.executable, Path(__file__).resolve(), part], cwd=work, env=own, check=False)
            expected = -signal.SIGKILL if part.startswith("kill") else 0
            if done.returncode != expected:
                raise SystemExit(f"{part} ended with {done.returncode}, and not with {expected}.")
        shutil.rmtree(work / "whole")
        for path in work.rglob("*.lock"):
            path.unlink()
        neutralize(work)
        for path in work.rglob("*.keras"):
            pack(path)
        shutil.copytree(work, FILES)
    for path in sorted(FILES.rglob("*")):
        if path.is_file():
            print(f"{path.stat().st_size:8,}  {path.relative_to(FILES)}")


def neutralize(folder: Path) -> None:
    """Replaces the path of the task's file, and updates the digests in `manifest.json`."""
    for path in folder.rglob("state.json"):
        content = path.read_bytes().replace(json.dumps(str(TASKS.resolve())).encode(), f'"{TASKS.name}"'.encode())
        path.write_bytes(content)
        manifest = json.loads(path.with_name("manifest.json").read_text())
        manifest[path.name] = {"bytes": len(content), "blake2b": hashlib.blake2b(content, digest_size=32).hexdigest()}
        path.with_name("manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


def pack(path: Path) -> None:
    """Compresses a .keras file: Keras writes a zip file without compression, and most of it is zeros."""
    with zipfile.ZipFile(path) as archive:
        contents = {entry: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for entry, content in contents.items():
            archive.writestr(entry.filename, content)


# ---------------------------------------------------------------------- parts


def models() -> None:
    """Models that take text, compiled with optimizers of lightkeras and trained a little."""
    import earlier_tasks
    import keras
    import numpy as np
    import tensorflow as tf

    import lightkeras as lk

    folder = Path("models")
    folder.mkdir()
    texts, labels, _ = earlier_tasks.sentences(64, seed=3)
    typed = tf.constant([*earlier_tasks.TYPED, *texts[:8].tolist()])
    expected = {}
    grams = lk.NgramVectorizer(ngrams=2, max_features=40, weights="naive_bayes")
    words = lk.TextVectorizer(max_tokens=24, length=6, keep="last")
    made = {
        "ngrams": (grams, lambda inputs: keras.layers.Activation("tanh")(grams.embed(inputs, 3))),
        "words": (words, lambda inputs: keras.layers.Flatten()(keras.layers.Embedding(24, 2)(inputs))),
    }
    optimizers = {
        "ngrams": [lk.optimizers.LazyAdam(0.05, tables=["table"], amsgrad=True)],
        "words": [lk.optimizers.LazySGD(0.1, momentum=0.9), lk.optimizers.LazyAdagrad(0.1, weight_decay=0.01)],
    }
    for name, (encoder, layers) in made.items():
        encoder.fit([(texts, labels)])
        for optimizer in optimizers[name]:
            keras.utils.set_random_seed(11)
            inputs = encoder.inputs()
            model = encoder.join(keras.Model(inputs, keras.layers.Dense(1)(layers(inputs))))
            model.compile(optimizer, keras.losses.BinaryCrossentropy(from_logits=True))
            train = {"batch_size": 16, "shuffle": False, "verbose": 0}
            data = tf.constant(texts.tolist()), labels.reshape(-1, 1)
            model.fit(*data, epochs=2, **train)
            file = f"{name}_{optimizer.name}"
            model.save(folder / f"{file}.keras")
            expected[f"{file}/outputs"] = model(typed).numpy()
            model.fit(*data, epochs=1, **train)
            expected[f"{file}/outputs after one more epoch"] = model(typed).numpy()
    np.savez_compressed(folder / "expected.npz", **expected)


def whole() -> None:
    """The uninterrupted run."""
    import earlier_tasks
    import numpy as np
    import safetensors.numpy

    import lightkeras as lk

    run = Path("whole")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        runner = lk.Runner(run_dir=run, checkpoints=earlier_tasks.CHECKPOINTS, **earlier_tasks.SETTINGS)
        result = runner.fit(earlier_tasks.Judgement())
    arrays = {}
    for name in ("last", "best"):
        file = run / "checkpoints" / (run / "checkpoints" / name).read_text().strip() / "variables.safetensors"
        arrays |= {f"{name}/{key}": array for key, array in safetensors.numpy.load_file(file).items()}
    np.savez_compressed("judgement.npz", **arrays)
    rows = (run / "metrics.csv").read_text().splitlines()
    fit = json.loads((run / "result.json").read_text())["fit"]
    fit.pop("wall_s")
    expected = {
        "fit": fit,
        "rows": rows,
        "history": {name: list(values) for name, values in result.history.items()},
        "broken": sorted(path.name for path in (run / "broken").iterdir()),
        "printed": printed.getvalue().splitlines()[-1],
    }
    Path("judgement.json").write_text(json.dumps(expected, indent=1) + "\n")


def kill_run() -> None:
    """The same run, by the command line, killed after a fixed step."""
    import earlier_tasks

    import lightkeras as lk

    counted = earlier_tasks.Counting.on_train_batch_end

    def killing(self: Any, batch: int, logs: Any = None) -> None:
        counted(self, batch, logs)
        if self.batches == earlier_tasks.KILLED_AT:
            time.sleep(2)  # until the thread has written the last checkpoint
            os.kill(os.getpid(), signal.SIGKILL)

    often = ["--runner.checkpoints.every_steps", str(earlier_tasks.CHECKPOINTS.every_steps)]
    sys.argv = ["earlier_tasks.py", "fit", "--run_dir", "judgement", *often]
    with mock.patch.object(earlier_tasks.Counting, "on_train_batch_end", killing):
        lk.cli(earlier_tasks.Judgement, **earlier_tasks.SETTINGS)


def outputs() -> None:
    """Test metrics and outputs of the killed run, with its last and its best weights."""
    import earlier_tasks

    import lightkeras as lk

    shutil.copytree("judgement", "whole/copy")
    expected = json.loads(Path("judgement.json").read_text())
    for weights in ("last", "best"):
        task, runner = earlier_tasks.Judgement(), lk.Runner(run_dir="whole/copy", pictures=False)
        tested = runner.evaluate(task, weights=weights)
        found = runner.predict(task, task.data.predict(earlier_tasks.TYPED), weights=weights)
        expected[weights] = {"test": dict(tested.metrics), "positive": found["positive"].tolist()}
    Path("judgement.json").write_text(json.dumps(expected, indent=1) + "\n")


def whole_search() -> None:
    """The uninterrupted search."""
    import earlier_tasks

    result = earlier_tasks.search("whole/search").search()
    trials = [
        {"name": t.name, "hparams": dict(t.hparams), "objective": t.objective, "status": t.status, "epochs": t.epochs}
        for t in result.trials
    ]
    Path("search.json").write_text(json.dumps({"trials": trials, "best": result.best.name}, indent=1) + "\n")


def kill_search() -> None:
    """The same search, killed when its second trial has ended."""
    import earlier_tasks

    ended = []

    def killing(trial: Any) -> None:
        ended.append(trial)
        if len(ended) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.argv = ["search.py"]
    earlier_tasks.search("search", on_trial=killing).search()


PARTS = {part.__name__: part for part in (models, whole, kill_run, outputs, whole_search, kill_search)}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.path.insert(0, str(TASKS.parent))
        wanted = PARTS[sys.argv[1]]
        with (
            mock.patch("socket.gethostname", return_value="host"),
            mock.patch("platform.platform", return_value="Linux"),
        ):
            wanted()
    else:
        main()
