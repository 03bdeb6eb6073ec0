"""Batches that several threads or processes make."""

from __future__ import annotations

import itertools
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import keras
import numpy as np
import pytest

from lightkeras.data import as_feed, batch_workers
from lightkeras.data.batch_workers import WorkerError, Workers, in_order, processes_kept, reading_ahead
from lightkeras.data.stream_reader import StreamReader
from lightkeras.system import random_states

sys.path.insert(0, str(Path(__file__).parent))
import slow_batches

THREADS = {"workers": 3}
PROCESSES = {"workers": 1, "use_multiprocessing": True}


@pytest.fixture(autouse=True)
def _light_processes(monkeypatch):
    """Lets worker processes import Keras without TensorFlow, JAX or torch, which takes seconds."""
    monkeypatch.setenv("KERAS_BACKEND", "numpy")


@pytest.fixture
def kept():
    with processes_kept():
        yield


def values(dataset, epoch=0, **given):
    reader = StreamReader(as_feed(dataset), epoch, **given)
    try:
        return [tuple(part.tolist() for part in batch) for batch in reader.batches()]
    finally:
        reader.close()


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"


def wait_until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# ---------------------------------------------------------------------- order


def test_batches_come_in_their_order_whichever_worker_is_the_first():
    made, release = [], [threading.Event() for _ in range(4)]

    def make(index):
        release[index].wait(10)
        made.append(index)
        if index:
            release[index - 1].set()
        return index

    release[3].set()
    assert list(in_order([make] * 4, iter(range(4)), 10, "Rows")) == [0, 1, 2, 3]
    assert made == [3, 2, 1, 0]


def test_no_more_batches_are_begun_than_the_queue_holds():
    begun = []
    source = in_order([lambda index: index] * 3, itertools.count(), 4, "Rows", lambda _: begun.append(1))
    assert [next(source), len(begun)] == [0, 4]
    assert [next(source), len(begun)] == [1, 5]
    source.close()


def test_no_batch_is_begun_that_the_epoch_will_not_read():
    begun = []
    source = in_order([lambda index: index] * 3, itertools.count(), 10, "Rows", lambda _: begun.append(1))
    for left in (2, 1, 0):
        with reading_ahead(left):
            next(source)
    assert len(begun) == 3
    with reading_ahead(0):  # the next epoch, of one batch
        assert next(source) == 3
    assert len(begun) == 4
    source.close()


def test_the_threads_end_with_the_stream():
    before = threading.active_count()
    source = in_order([lambda index: index] * 3, itertools.count(), 10, "Rows")
    next(source)
    assert threading.active_count() == before + 3
    source.close()
    assert threading.active_count() == before


def test_another_source_is_read_when_no_thread_makes_a_batch():
    """The train split stays open while the run validates inside an epoch."""
    making, overlapped = threading.Lock(), []
    train, validation = slow_batches.Rows(20, **THREADS), slow_batches.Rows(2)
    inner = train.__class__.__getitem__
    busy: set[int] = set()

    class Watched(slow_batches.Rows):
        def __getitem__(self, index):
            with making:
                busy.add(index)
            time.sleep(0.02)
            try:
                return inner(self, index)
            finally:
                with making:
                    busy.discard(index)

    train = Watched(20, **THREADS)
    reader = StreamReader(as_feed(train), 0)
    next(reader.batches())
    other = StreamReader(as_feed(validation), 0)
    overlapped.extend(busy)
    assert overlapped == []
    assert len(list(other.batches())) == 2
    assert len(list(reader.batches())) == 19


# ---------------------------------------------------------------------- equal to one worker


@pytest.mark.parametrize("settings", [THREADS, {**THREADS, "max_queue_size": 1}, {**PROCESSES, "workers": 2}])
def test_the_batches_of_several_workers_are_those_of_one(settings, kept):
    one, several = slow_batches.Rows(), slow_batches.Rows(**settings)
    several.slow = 0.003
    for epoch in range(2):
        assert values(several, epoch) == values(one, epoch)
        assert values(several, epoch, step=4) == values(one, epoch)[4:]
        one.on_epoch_end()
        several.on_epoch_end()  # changes the order here, and must in the processes


@pytest.mark.parametrize("settings", [THREADS, pytest.param(PROCESSES, marks=pytest.mark.long)])
def test_an_endless_dataset_continues_where_the_last_epoch_ended(settings, kept):
    dataset = slow_batches.Endless(100, **settings)
    reader = StreamReader(as_feed(dataset), 0)
    first = [batch[0][0, 0] for batch in itertools.chain(reader.batches(3), reader.batches(4))]
    reader.close()
    assert first == [dataset.x[4 * index, 0] for index in range(7)]


def test_a_thread_may_use_its_buffers_again():
    local = threading.local()

    class Reused(slow_batches.Rows):
        def __getitem__(self, index):
            if not hasattr(local, "x"):
                local.x = np.zeros(4, "float32")
            local.x[:] = index
            return local.x, local.x

    assert [x[0] for x, _ in values(Reused(30, workers=2))] == list(range(30))


def test_threads_that_would_draw_from_one_generator_become_one():
    np.random.seed(1)
    dataset = slow_batches.Random(workers=3)
    with pytest.warns(UserWarning, match="Random draws from a global random generator, so its batches are made one "):
        feed = as_feed(dataset)
    before, one = random_states.read(), as_feed(slow_batches.Random())
    random_states.write(before)
    found = [batch[0].tolist() for batch in feed.open_epoch(0)]
    random_states.write(before)
    assert found == [batch[0].tolist() for batch in one.open_epoch(0)]


def test_processes_draw_numbers_that_depend_on_the_seed_the_epoch_and_the_batch_alone(kept):
    np.random.seed(1)
    before = random_states.read()
    dataset, alone = slow_batches.Random(workers=2, use_multiprocessing=True), slow_batches.Random(**PROCESSES)
    feed, other = as_feed(dataset), as_feed(alone)

    def found(feed, epoch=0, step=0):
        random_states.write(before)
        reader = StreamReader(feed, epoch, step)
        batches = [batch[0].tolist() for batch in reader.batches()]
        reader.close()
        return batches

    first = found(feed)
    assert found(feed) == found(other) == first
    assert found(feed, step=2) == first[2:]
    assert found(feed, epoch=1) != first
    assert random_states.read() == before


# ---------------------------------------------------------------------- errors


@pytest.mark.parametrize("settings", [THREADS, PROCESSES])
def test_an_error_of_a_worker_has_its_own_traceback_and_the_batch(settings, kept):
    dataset = slow_batches.Rows(fails_at=3, **settings)
    reader = StreamReader(as_feed(dataset), 0)
    batches = reader.batches()
    assert len(list(itertools.islice(batches, 3))) == 3  # those before it come first
    with pytest.raises(KeyError, match="row 3") as found:
        next(batches)
    notes = "\n".join(found.value.__notes__)
    assert "Raised by a worker of Rows, for batch 3." in notes
    where = notes if settings is PROCESSES else "".join(map(str, found.traceback))
    assert "slow_batches.py" in where
    assert "fail" in where


def test_an_error_that_cannot_be_loaded_again_is_shown_with_its_text(kept):
    with pytest.raises(WorkerError, match="OddError: 1 and 2") as found:
        values(slow_batches.FailsOddly(**PROCESSES))
    assert "__getitem__" in "".join(found.value.__notes__)


def test_a_worker_process_that_was_killed_is_an_error_that_names_the_signal():
    with pytest.raises(WorkerError, match=r"of Dies was killed by SIGKILL, perhaps because memory ran out\.") as found:
        values(slow_batches.Dies(**PROCESSES))
    assert "for batch 3" in "".join(found.value.__notes__)


def test_a_dataset_that_cannot_be_pickled_is_refused():
    with pytest.raises(ValueError, match=r"Locked has use_multiprocessing=True, but it cannot be pickled .*in threads"):
        values(slow_batches.Locked(**PROCESSES))


def test_a_class_that_a_process_cannot_import_is_refused(monkeypatch):
    monkeypatch.setattr(slow_batches.Rows, "__module__", "of_a_notebook")
    monkeypatch.setitem(sys.modules, "of_a_notebook", slow_batches)
    with pytest.raises(WorkerError, match=r"cannot load the dataset: No module named 'of_a_notebook'.* in a file"):
        values(slow_batches.Rows(**PROCESSES))


@pytest.mark.parametrize(("name", "value"), [("workers", -1), ("workers", 1.5), ("max_queue_size", 0)])
def test_numbers_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=rf"Rows\({name}={value}\): expected a whole number of at least"):
        as_feed(slow_batches.Rows(**{name: value}))


def test_one_worker_is_this_thread():
    dataset = slow_batches.Processes()
    assert {int(batch[0, 0]) for batch in as_feed(dataset).open_epoch(0)} == {os.getpid()}
    assert Workers(dataset, lambda batch: batch, draws=False).open(iter([0]), 0).__name__ == "<genexpr>"


# ---------------------------------------------------------------------- ends of processes


def test_processes_are_kept_from_epoch_to_epoch_and_end_with_the_context():
    dataset = slow_batches.Processes(8, workers=2, use_multiprocessing=True)

    def used():
        return {int(batch[0, 0]) for batch in as_feed(dataset).open_epoch(0)}

    with processes_kept():
        first = used()
        assert os.getpid() not in first
        assert len(first) == 2
        assert used() <= first  # one of them may be quick enough to make all
        for process in first:  # a terminal, or a batch system, sends these to the whole group
            os.kill(process, signal.SIGINT)
            os.kill(process, signal.SIGTERM)
        assert used() <= first
        assert all(map(alive, first))
    assert not any(map(alive, first))
    assert not batch_workers._pools
    assert not any(map(alive, used()))  # outside of the context they end with the epoch


PROGRAM = """
import os
import sys
import keras
import lightkeras as lk
import slow_batches

if __name__ == "__main__":
    os.environ["KERAS_BACKEND"] = "numpy"  # for the worker processes, see `_light_processes`
    data = slow_batches.Noted(sys.argv[1], workers=2, use_multiprocessing=True, max_queue_size=2)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    task = lk.SupervisedTask(model, loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    lk.Runner(max_epochs=3, run_dir=sys.argv[2], pictures=False, progress=False).fit(task, data)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_processes_end_with_a_run_that_is_killed_or_interrupted(number, tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "pids").mkdir()
    path = os.pathsep.join([str(Path(__file__).parents[2]), str(Path(__file__).parent)])
    environment = {**os.environ, "PYTHONPATH": path, "KERAS_BACKEND": keras.backend.backend()}
    arguments = [tmp_path / "program.py", tmp_path / "pids", tmp_path / "run"]
    run = subprocess.Popen([sys.executable, *arguments], env=environment, stderr=subprocess.DEVNULL)

    def workers():
        assert run.poll() is None
        return {int(path.name) for path in (tmp_path / "pids").iterdir()} - {run.pid}

    wait_until(lambda: len(workers()) == 2)
    before = workers()
    assert all(map(alive, before))
    if number == signal.SIGTERM:
        for process in (*before, run.pid):  # a batch system sends it to the whole group
            os.kill(process, number)
        assert run.wait(60) == 143
        assert any((tmp_path / "run/checkpoints").iterdir())
    else:
        run.kill()
        run.wait(60)
    wait_until(lambda: not any(map(alive, before)), 10)


def test_the_dataset_is_sent_once_as_long_as_it_does_not_change(monkeypatch, kept):
    sent = []
    dataset = slow_batches.Rows(**PROCESSES)
    values(dataset)
    (worker,) = batch_workers._pools[id(dataset)]._workers
    real = worker._connection

    class Pipe:
        def send(self, message):
            sent.append(message[0] is not None)
            real.send(message)

        recv = real.recv

    worker._connection = Pipe()
    values(dataset)
    dataset.on_epoch_end()
    values(dataset)
    assert sent == [False] * 6 + [True] + [False] * 5
    assert pickle.loads(pickle.dumps(dataset)).order.tolist() == dataset.order.tolist()
