"""Several processes: lightkeras against a hand-written data-parallel loop, on loopback.

    python benchmarks/distributed.py                     # 2 processes; prints a table
    KERAS_BACKEND=jax python benchmarks/distributed.py --processes 4 --rounds 9

Each process trains the same model with the same global batches, in turns: a round of the hand-written loop, then an
epoch of a fit. Ratios are medians over the rounds, of the process with rank 0. The loop on torch gathers its part of a
batch, takes gradients with `torch.autograd.grad`, sums them flattened in one `all_reduce`, applies Keras's optimizer,
and reads the losses once per 75 steps. On JAX it is one `lax.scan` over the epoch, in which XLA divides each batch. On
TensorFlow 75 steps are a `tf.while_loop` around `MultiWorkerMirroredStrategy.run`. A fit also logs every step, checks
weights, and agrees between its calls.
"agreement" is the share of its exchanges in the time of a fit, once both processes have come to them; "waiting" that of
the process with rank 0 for the other one, and for the barrier by which the two are told apart.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BACKEND = os.environ.setdefault("KERAS_BACKEND", "torch")
MODELS = {"784-128-10, batch 64": ((128,), 64, 400), "784-1024-1024-10, batch 256": ((1024, 1024), 256, 40)}


def model_of(units: tuple[int, ...]) -> Any:
    import keras

    keras.utils.set_random_seed(0)
    inside = [keras.layers.Dense(count, "relu") for count in units]
    return keras.Sequential([keras.Input((784,)), *inside, keras.layers.Dense(10)])


class TorchLoop:
    """The hand-written loop on torch."""

    def __init__(self, units: tuple[int, ...], x: Any, y: Any, batch: int, rank: int, processes: int) -> None:
        import keras
        import torch

        self.model, self.optimizer = model_of(units), keras.optimizers.Adam()
        self.optimizer.build(self.model.trainable_variables)
        self.values = [variable.value for variable in self.model.trainable_variables]
        self.loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.x, self.y = torch.from_numpy(x), torch.from_numpy(y)
        self.batch, self.part = batch, batch // processes
        self.rank, self.processes = rank, processes

    def epoch(self, steps: int) -> float:
        """Runs an epoch, and returns its seconds."""
        import torch
        import torch.distributed as dist

        began, losses = time.perf_counter(), []
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(0))
        for step in range(steps):
            start = step * self.batch + self.rank * self.part
            rows = order[start : start + self.part]
            x, y = self.x.index_select(0, rows), self.y.index_select(0, rows)
            loss = self.loss(y, self.model(x, training=True))
            gradients = torch.autograd.grad(loss, self.values)
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients]) / self.processes
            dist.all_reduce(flat)
            parts = flat.split([gradient.numel() for gradient in gradients])
            with torch.no_grad():
                pairs = zip(parts, gradients, strict=True)
                self.optimizer.apply([part.view_as(g) for part, g in pairs], self.model.trainable_variables)
            losses.append(loss.detach())
            if len(losses) == 75 or step == steps - 1:
                table = torch.stack(losses)
                dist.all_reduce(table)
                table.tolist()
                losses.clear()
        return time.perf_counter() - began


class JaxLoop:
    """The hand-written loop on JAX."""

    def __init__(self, units: tuple[int, ...], x: Any, y: Any, batch: int, rank: int, processes: int) -> None:
        import jax
        import keras
        import numpy as np
        from jax.sharding import Mesh, NamedSharding, PartitionSpec

        mesh = Mesh(np.array(jax.devices()), ("batch",))
        whole, by_example = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("batch"))

        def put(array: Any) -> Any:
            array = np.asarray(array)
            return jax.make_array_from_callback(array.shape, whole, array.__getitem__)

        model, optimizer = model_of(units), keras.optimizers.Adam()
        optimizer.build(model.trainable_variables)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.state = [[put(v.value) for v in found] for found in (model.trainable_variables, optimizer.variables)]
        self.order = put(np.random.default_rng(0).permutation(len(x)).astype("int32"))
        self.data = put(x), put(y)

        def loss_of(values: Any, x: Any, y: Any) -> Any:
            outputs, _ = model.stateless_call(values, [], x, training=True)
            return loss(y, outputs)

        def epoch(state: Any, order: Any, data: Any) -> Any:
            def step(state: Any, number: Any) -> Any:
                values, slots = state
                rows = jax.lax.dynamic_slice_in_dim(order, number * batch, batch)
                part = [jax.lax.with_sharding_constraint(array[rows], by_example) for array in data]
                found, gradients = jax.value_and_grad(loss_of)(values, *part)
                return list(optimizer.stateless_apply(slots, gradients, values)), found

            return jax.lax.scan(step, state, jax.numpy.arange(len(x) // batch))

        self.compiled = jax.jit(epoch, donate_argnums=0)

    def epoch(self, steps: int) -> float:
        """Runs an epoch, and returns its seconds."""
        import numpy as np

        began = time.perf_counter()
        self.state, losses = self.compiled(self.state, self.order, self.data)
        np.asarray(losses)
        return time.perf_counter() - began


class TensorFlowLoop:
    """The hand-written loop on TensorFlow: that of `devices.py`, over the devices of all processes."""

    def __init__(self, units: tuple[int, ...], x: Any, y: Any, batch: int, rank: int, processes: int) -> None:
        from lightkeras.engine import current_world

        import numpy as np

        import devices

        class Loop(devices.Loop):
            def total(self, losses: Any) -> Any:
                return self.strategy.reduce("sum", losses, None)

        self.order = np.random.default_rng(0).permutation(len(x)).astype("int32")
        # A process joins its cluster once.
        self.loop = Loop(units, x, y, batch, current_world().devices._strategy)

    def epoch(self, steps: int) -> float:
        """Runs an epoch, and returns its seconds."""
        return self.loop.epoch(self.order)[0]


LOOPS = {"torch": TorchLoop, "jax": JaxLoop, "tensorflow": TensorFlowLoop}


def measure(name: str, rounds: int) -> dict[str, Any]:
    """The figures of one model, in one of the processes."""
    import lightkeras as lk
    from lightkeras.engine import current_world

    import keras
    import numpy as np

    if BACKEND == "torch":
        import torch

        torch.set_num_threads(1)
    units, batch, steps = MODELS[name]
    rng = np.random.default_rng(0)
    x = rng.random((batch * steps, 784), dtype="f")
    y = x[:, :10].argmax(1).astype("int32")
    joined = current_world()
    loop = LOOPS[BACKEND](units, x, y, batch, joined.rank, joined.processes)
    loop.epoch(min(steps, 50))  # on JAX the whole epoch
    waits, exchanges, agree = [0.0], [0.0], joined.agree

    def timed(what: str, value: Any) -> list[Any]:
        began = time.perf_counter()
        agree("a barrier", None)  # the other process may still work, or write files
        ready = time.perf_counter()
        found = agree(what, value)
        waits[0] += ready - began
        exchanges[0] += time.perf_counter() - ready
        return found

    joined.agree = timed  # type: ignore[method-assign]
    by_hand, ours, shares, waited = [], [], [], []

    class Rounds(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            by_hand.append(loop.epoch(steps))
            waits[0], exchanges[0], self.began = 0.0, 0.0, time.perf_counter()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            ours.append(time.perf_counter() - self.began)
            shares.append(exchanges[0] / ours[-1])
            waited.append(waits[0] / ours[-1])

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    task = lk.SupervisedTask(model_of(units), loss=loss, optimizer=keras.optimizers.Adam())
    with tempfile.TemporaryDirectory() as folder:
        settings = {"progress": False, "pictures": False, "export": False, "patience": None}
        runner = lk.Runner(max_epochs=rounds + 1, run_dir=Path(folder) / "run", callbacks=[Rounds()], **settings)
        runner.fit(task, (x, y), batch_size=batch)
    ratios = [mine / theirs for mine, theirs in zip(ours[1:], by_hand[1:], strict=True)]
    return {
        "by hand": statistics.median(by_hand[1:]) / steps,
        "fit": statistics.median(ours[1:]) / steps,
        "ratio": statistics.median(ratios),
        "least": min(ratios),
        "most": max(ratios),
        "agreement": statistics.median(shares[1:]),
        "waiting": statistics.median(waited[1:]),
    }


def start(name: str, processes: int, rounds: int) -> dict[str, Any]:
    """Starts the processes of one model. Returns the figures of rank 0."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    shared = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    if BACKEND == "jax":
        shared["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    command = [sys.executable, __file__, "--rounds", str(rounds), "--one", name]
    started = [
        subprocess.Popen(command, env={**os.environ, **shared, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(processes)
    ]
    printed = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit(f"{name}: a process failed")
    found: dict[str, Any] = json.loads(printed[0].splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one is not None:
        print(json.dumps(measure(given.one, given.rounds)))
        return
    print(f"{BACKEND}, {given.processes} processes, {given.rounds} rounds")
    print("| model | by hand, ms a step | fit, ms a step | ratio (least to most) | agreement | waiting |")
    print("|---|---|---|---|---|---|")
    for name in MODELS:
        found = start(name, given.processes, given.rounds)
        ratio = f"{found['ratio']:.3f} ({found['least']:.3f} to {found['most']:.3f})"
        print(
            f"| {name} | {found['by hand'] * 1e3:.3f} | {found['fit'] * 1e3:.3f} | {ratio} | "
            f"{found['agreement']:.2%} | {found['waiting']:.2%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
