"""Sources of batches are read once at a time, in their order, and to where the last epoch ended."""

import threading
from collections.abc import Iterator

import keras
import numpy as np
import pytest
from keras import layers, ops

import lightkeras as lk


class Recorded(lk.Task):
    """Logs the mean of its inputs, and how far inputs and labels are apart."""

    def build_model(self):
        return keras.Sequential([keras.Input((1,)), layers.Dense(1)])

    def build_optimizer(self):
        return keras.optimizers.SGD(1e-6)

    def loss(self, batch, training):
        x, y = batch
        self.log("mean", ops.mean(x))
        self.log("gap", ops.mean(ops.abs(x[:, 0] - y)))
        # Shifted, so that no gradient is zero.
        return ops.mean(ops.square(self.model(x + 1.0, training=training)[:, 0] - y - 1.0))

    def predict_step(self, batch):
        return batch[0], batch[1]


def runner(tmp_path=None, **settings):
    given = {"max_epochs": 3, "patience": None, "pictures": False, "export": False, "progress": False} | settings
    return lk.Runner(run_dir=None if tmp_path is None else tmp_path / "run", **given)


def reused(rows=1024, count=10):
    """A generator function that fills one aligned buffer again and again."""
    raw = np.zeros(4 * rows + 64, "uint8")
    start = -raw.ctypes.data % 64

    def batches():
        buffer, label = raw[start : start + 4 * rows].view("float32").reshape(-1, 1), np.zeros(rows, "float32")
        for i in range(count):
            buffer[:] = i
            label[:] = i
            yield buffer, label

    return batches


class Reused(keras.utils.PyDataset):
    def __init__(self, rows=1024):
        super().__init__()
        self.buffer, self.label = np.zeros((rows, 1), "float32"), np.zeros(rows, "float32")

    def __len__(self):
        return 10

    def __getitem__(self, index):
        self.buffer[:], self.label[:] = index, index
        return self.buffer, self.label


class Loader:
    def __iter__(self):
        return reused()()

    def __len__(self):
        return 10


SOURCES = {"generator": reused, "PyDataset": Reused, "iterable": Loader, "large batches": lambda: reused(1 << 20, 6)}


@pytest.mark.parametrize("name", SOURCES)
def test_a_buffer_may_be_used_again_at_every_way_in(name, tmp_path):
    task = Recorded()
    result = runner(tmp_path).fit(task, SOURCES[name](), SOURCES[name]())
    assert set(result.history["train/gap"]) == set(result.history["val/gap"]) == {0.0}
    assert len(set(result.history["train/mean"])) == 1
    assert runner().evaluate(task, SOURCES[name]()).metrics["gap"] == 0.0
    x, y = runner().predict(task, SOURCES[name]())
    np.testing.assert_array_equal(x[:, 0], y)
    assert set(y.tolist()) == {float(i) for i in range(6 if name == "large batches" else 10)}


class Data(keras.utils.PyDataset):
    """Numbers 0 to 23 in six batches, shuffled in place at the end of an epoch. It must not be read by two threads."""

    def __init__(self, length=6):
        super().__init__()
        self.length, self.rng = length, np.random.default_rng(1)
        self.x = np.arange(4 * length, dtype="float32")[:, None]
        self.calls, self.reading, self.overlapped = [], threading.Lock(), False

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        free = self.reading.acquire(blocking=False)
        self.overlapped |= not free
        try:
            self.calls.append(index)
            sum(range(20_000))  # long enough for another thread to come in
            return self.x[4 * index : 4 * index + 4], self.x[4 * index : 4 * index + 4, 0]
        finally:
            if free:
                self.reading.release()

    def on_epoch_begin(self):
        self.calls.append("begin")

    def on_epoch_end(self):
        self.calls.append("end")
        self.rng.shuffle(self.x)


def test_a_dataset_that_shuffles_itself_loses_no_example(tmp_path):
    train, validation = Data(), Data(3)
    result = runner(tmp_path).fit(Recorded(), train, validation)
    assert result.history["train/mean"] == (11.5,) * 3
    assert result.history["val/mean"] == (5.5,) * 3
    one_pass = ["begin", *range(6), "end"]
    assert train.calls[-24:] == one_pass * 3
    assert "begin" not in train.calls[:-24]
    assert "end" not in train.calls[:-24]  # the preflight is no epoch


def test_the_hooks_of_a_dataset_come_after_its_last_batch_was_trained_on(tmp_path):
    data, order = Data(), []

    class Order(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            order.append((batch, data.calls.count("end")))

        def on_epoch_end(self, epoch, logs=None):
            order.append(("epoch", data.calls.count("end")))

    runner(tmp_path, max_epochs=2, callbacks=[Order()]).fit(Recorded(), data)
    assert order == [*((i, 0) for i in range(6)), ("epoch", 1), *((i, 1) for i in range(6)), ("epoch", 2)]


@pytest.mark.parametrize("every", [1, "4 steps"])
def test_one_dataset_for_both_splits_is_read_by_one_at_a_time(every, tmp_path):
    data = Data()
    with pytest.warns(UserWarning, match="the same stream"):
        result = runner(tmp_path, validate_every=every).fit(Recorded(), data, data)
    assert not data.overlapped
    assert result.history["train/mean"] == (11.5,) * 3
    rows = [line.split(",") for line in (tmp_path / "run" / "metrics.csv").read_text().splitlines()]
    seen = {float(row[rows[0].index("val/mean")]) for row in rows[1:] if row[rows[0].index("val/mean")]}
    assert seen == {11.5}


def test_a_limited_epoch_reads_no_further_and_ends_its_pass(tmp_path):
    data = Data()
    runner(tmp_path, max_epochs=2, limit_batches=lk.LimitBatches(train=4)).fit(Recorded(), data)
    assert data.calls[-12:] == ["begin", 0, 1, 2, 3, "end"] * 2


# ---------------------------------------------------------------------- endless sources


def endless() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    i = 0
    while True:
        yield np.full((4, 1), i % 10, "float32"), np.full(4, i % 10, "float32")
        i += 1


class Endless(keras.utils.PyDataset):
    num_batches = None

    def __getitem__(self, index):
        return np.full((4, 1), index % 10, "float32"), np.full(4, index % 10, "float32")


def repeated():
    import tensorflow as tf

    x = np.repeat(np.arange(10, dtype="float32"), 4)
    return tf.data.Dataset.from_tensor_slices((x[:, None], x)).batch(4).repeat()


def of_a_generator():
    import tensorflow as tf

    signature = (tf.TensorSpec((4, 1), tf.float32), tf.TensorSpec((4,), tf.float32))
    return tf.data.Dataset.from_generator(endless, output_signature=signature)


ENDLESS = {
    "generator": lambda: lambda: endless(),
    "PyDataset": Endless,
    "tf.data": repeated,
    "from_generator": of_a_generator,
}


@pytest.mark.parametrize("name", ENDLESS)
def test_an_endless_source_continues_where_the_epoch_ended(name, tmp_path):
    limits = lk.LimitBatches(train=4, validation=2)
    result = runner(tmp_path, limit_batches=limits).fit(Recorded(), ENDLESS[name](), ENDLESS[name]())
    assert result.history["train/mean"] == (1.5, 5.5, 4.5)  # 0-3, 4-7, then 8, 9, 0, 1, as fit(steps_per_epoch=4)
    assert result.history["val/mean"] == (0.5,) * 3  # each validation starts anew, as in Keras


# Inside the first epoch, at its end, and after the source has begun again; between them, the same again.
@pytest.mark.parametrize("cut", [2, 4, *(pytest.param(cut, marks=pytest.mark.long) for cut in (6, 8)), 11])
@pytest.mark.parametrize("name", ENDLESS)
def test_a_run_on_an_endless_source_resumes_where_it_was(name, cut, tmp_path):
    limits = lk.LimitBatches(train=4)
    runner(tmp_path, limit_batches=limits, max_steps=cut).fit(Recorded(), ENDLESS[name]())
    result = runner(tmp_path, limit_batches=limits).fit(Recorded(), ENDLESS[name](), resume=True)
    assert (result.steps, result.history["train/mean"]) == (12, (1.5, 5.5, 4.5))


@pytest.mark.parametrize(
    ("first", "second", "means"),
    [
        (3, None, (1.0, 4.0, 2.5, 2.5)),  # the second epoch resumes after batch 3, and comes to the source's end
        (None, 3, (1.5, 4.5, 1.0, 4.0)),  # the first epoch had four batches, the second has the last two
    ],
)
def test_the_limit_may_change_when_a_run_is_resumed(first, second, means, tmp_path):
    def batches():
        for i in range(6):
            yield np.full((4, 1), i, "float32"), np.full(4, i, "float32")

    limits = {"limit_batches": lk.LimitBatches(train=second), "max_epochs": 4}
    runner(tmp_path, max_steps=4, limit_batches=lk.LimitBatches(train=first)).fit(Recorded(), batches)
    with pytest.warns(UserWarning, match=r"data\.train\.batches was"):
        runner(tmp_path, max_steps=8, **limits).fit(Recorded(), batches, resume=True, accept_changes=True)
    assert runner(tmp_path, **limits).fit(Recorded(), batches, resume=True).history["train/mean"] == means


def test_a_source_of_unknown_length_starts_again_after_its_end(tmp_path):
    def batches():
        for i in range(6):
            yield np.full((4, 1), i, "float32"), np.full(4, i, "float32")

    limits = lk.LimitBatches(train=3)
    result = runner(tmp_path, max_epochs=4, limit_batches=limits).fit(Recorded(), batches)
    assert result.history["train/mean"] == (1.0, 4.0, 1.0, 4.0)
    limits = lk.LimitBatches(train=4)
    again = runner(tmp_path / "again", limit_batches=limits).fit(Recorded(), batches)
    assert again.history["train/mean"] == (1.5, 4.5, 1.5)  # the second epoch has the last two batches


@pytest.mark.parametrize("name", ["PyDataset", "tf.data"])
def test_an_endless_source_without_a_limit_is_refused_with_the_setting(name, tmp_path):
    advice = r"split is endless: .*LimitBatches\({}=1000\)"
    with pytest.raises(ValueError, match=advice.format("train")):
        runner(tmp_path).fit(Recorded(), ENDLESS[name]())
    x = np.zeros((8, 1), "float32")
    with pytest.raises(ValueError, match=advice.format("validation")):
        runner(tmp_path).fit(Recorded(), (x, x[:, 0]), ENDLESS[name]())
    task = Recorded()
    with pytest.raises(ValueError, match=advice.format("test")):
        runner().evaluate(task, ENDLESS[name]())
    limited = runner(limit_batches=lk.LimitBatches(test=5)).evaluate(task, ENDLESS[name]())
    assert limited.metrics["mean"] == 2.0


def test_a_rate_test_reads_an_endless_source():
    found = runner().find_learning_rate(Recorded(), endless, steps=10, high=1e-6)
    assert len(found.rates) > 1


def test_a_source_that_was_left_is_closed_before_it_is_opened_again(tmp_path):
    open_now, most = [], []

    def batches():
        open_now.append(1)
        most.append(len(open_now))
        try:
            for i in range(50):
                yield np.full((4, 1), i, "float32"), np.full(4, i, "float32")
        finally:
            open_now.pop()

    class Failing(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise RuntimeError("left")

    limits = lk.LimitBatches(train=5, validation=3, test=2)
    task = Recorded()
    runner(tmp_path, limit_batches=limits, validate_every="4 steps").fit(task, batches)
    assert (open_now, max(most)) == ([], 1)
    with pytest.raises(RuntimeError, match="left"):
        runner(tmp_path / "failing", callbacks=[Failing()]).fit(Recorded(), batches)
    assert open_now == []
    runner(limit_batches=limits).evaluate(task, batches)
    assert (open_now, max(most)) == ([], 1)


def test_a_run_with_several_workers_is_the_run_with_one(tmp_path):
    """Its weights, its log, and what the dataset was asked for; it shuffles itself, and validates inside an epoch."""

    class Parallel(Data):
        def __getitem__(self, index):
            return self.x[4 * index : 4 * index + 4], self.x[4 * index : 4 * index + 4, 0]

    def run(name, workers):
        data, validation, task = Parallel(), Parallel(3), Recorded()
        data.workers = validation.workers = workers
        result = runner(tmp_path / name, validate_every="4 steps").fit(task, data, validation)
        asked = [call for call in data.calls[-24:] if isinstance(call, str)]
        return result.history, [weight.numpy().tolist() for weight in task.model.weights], asked

    assert run("several", 3) == run("one", 1)
