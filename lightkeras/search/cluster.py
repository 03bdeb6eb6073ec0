"""Worker processes on the nodes of a Ray cluster: Ray finds them a place, and carries what is said.

See https://docs.ray.io/en/latest/ray-core/actors.html. All nodes share the directory of the search, under the same
path, and have lightkeras and the task's file; data and kept features may be each node's own.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import socket
import time
from collections.abc import Sequence
from typing import Any, final

from lightkeras.run_directory import versions
from lightkeras.search.agent import Agent, News, origin
from lightkeras.search.channel import Channel, Message, environment_of_threads
from lightkeras.search.worker import Setup

LISTEN = 5.0  # seconds that an agent waits for news before it says that there are none
_PASSED_ON = ("KERAS_", "LIGHTKERAS_", "TF_", "TFDS_", "TFHUB_", "JAX_", "XLA_", "OMP_", "OPENBLAS_", "MKL_")


@final
class RayChannel:
    """The way to a worker through its agent; see `Channel`.

    Args:
        ray: The module.
        agent: The actor.
    """

    def __init__(self, ray: Any, agent: Any) -> None:
        self._ray, self._agent = ray, agent
        self.news = agent.listen.remote(0, LISTEN)
        self._messages: list[Message] = []
        self._known = 0  # messages so far
        self._started = False
        self._ended: str | None = None
        self._held, self._last_words = 0, ""

    def started(self) -> bool:
        return self._started

    def send(self, message: Message) -> None:
        self._agent.send.remote(pickle.dumps(message))

    def received(self) -> list[Message]:
        self._look()
        found, self._messages = self._messages, []
        return found

    def ended(self) -> str | None:
        self._look()
        return self._ended

    def last_words(self) -> str:
        return self._last_words

    def held(self) -> int:
        return self._held

    def terminate(self) -> None:
        self._agent.terminate.remote()

    def end(self) -> None:
        self._ray.kill(self._agent)  # and with it the worker

    def _look(self) -> None:
        """Takes in what the agent has told meanwhile."""
        while self._ended is None and self._ray.wait([self.news], timeout=0)[0]:
            try:
                news: News = self._ray.get(self.news)
            except self._ray.exceptions.ActorUnavailableError:
                # Its node does not answer. Ray finds out in a while whether it is lost; a worker that was started
                # before that might be put there.
                self.news = self._agent.listen.remote(self._known, LISTEN)
                return
            except self._ray.exceptions.RayError as error:
                self._ended = f"was lost with its node or its agent: {_in_a_line(error)}"
                return
            self._messages += [pickle.loads(message) for message in news.messages]
            self._known += len(news.messages)
            self._started, self._ended = True, news.ended
            self._held, self._last_words = news.held, news.last_words
            if self._ended is None:
                self.news = self._agent.listen.remote(self._known, LISTEN)


@final
class RayLauncher:
    """Starts workers on a cluster; see `Launcher`. A Ray that this process has joined already is used as it is.

    Args:
        setup: What each worker is started with.
        workers: How many.
        memory: Most memory of each, in bytes; `None` leaves that to Ray, which watches over its nodes.
        address: See `lightkeras.search.launching.Cluster`.
        gpus: GPUs of each worker.

    Raises:
        ImportError: Ray is not installed.
        ConnectionError: There is no such cluster.
        ValueError: It has not so many cores, or GPUs.
    """

    def __init__(self, setup: Setup, workers: int, memory: float | None, address: str | None, gpus: float) -> None:
        self._ray, self._joined = _join(address)
        self._gpus = gpus
        try:
            self._threads = threads_for(self._nodes(), workers, gpus)
        except BaseException:
            self.close()
            raise
        self._setup, self._memory = setup, memory
        self._agent = self._ray.remote(num_cpus=self._threads, num_gpus=gpus, max_restarts=0, max_concurrency=2)(Agent)
        passed_on = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
        self._origin = origin(
            passed_on | environment_of_threads(self._threads, os.environ), versions().get("lightkeras", "")
        )

    @property
    def threads(self) -> int:
        return self._threads

    @property
    def memory(self) -> float | None:
        return self._memory

    def start(self, slot: int) -> Channel:
        return RayChannel(self._ray, self._agent.remote(self._setup, self._origin, f"lightkeras worker {slot}"))

    def _nodes(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def places(self) -> int:
        return places_on(self._nodes(), self._threads, self._gpus)

    def wait(self, channels: Sequence[Any], seconds: float) -> None:
        if not channels:
            time.sleep(seconds)
        else:
            self._ray.wait([channel.news for channel in channels], timeout=seconds)

    def close(self) -> None:
        if self._joined:
            self._ray.shutdown()


def places_on(nodes: Sequence[dict[str, float]], threads: int, gpus: float) -> int:
    """How many workers fit on the nodes, each on one.

    Args:
        nodes: Resources of each node, as Ray names them.
        threads: CPUs of each worker.
        gpus: GPUs of each worker.
    """
    by_cpu = [int(node.get("CPU", 0.0)) // threads for node in nodes]
    if not gpus:
        return sum(by_cpu)
    by_gpu = [int(node.get("GPU", 0.0) / gpus + 1e-9) for node in nodes]
    return sum(map(min, by_cpu, by_gpu))


def threads_for(nodes: Sequence[dict[str, float]], workers: int, gpus: float = 0.0) -> int:
    """The most threads with which so many workers fit on the nodes, each on one.

    Args:
        nodes: Resources of each node, as Ray names them.
        workers: How many.
        gpus: GPUs of each worker.

    Raises:
        ValueError: They do not fit: those left over would wait for ever.
    """
    most = max((int(node.get("CPU", 0.0)) for node in nodes), default=0)
    found = next((threads for threads in range(most, 0, -1) if places_on(nodes, threads, gpus) >= workers), None)
    if found is None:
        have = ", ".join(f"{node.get('CPU', 0.0):g} CPUs and {node.get('GPU', 0.0):g} GPUs" for node in nodes)
        each = f" of 1 CPU and {gpus:g} GPUs each" if gpus else " of 1 CPU each"
        raise ValueError(
            f"Tuner(workers={workers}, pool='ray'): the cluster has no place for {workers} workers{each}. Its nodes "
            f"have {have or 'nothing'}. Ask for fewer, or add nodes."
        )
    return found


def _join(address: str | None) -> tuple[Any, bool]:
    """Ray, and whether this process joined the cluster here."""
    try:
        import ray
    except ImportError as error:
        raise ImportError(
            "Tuner(pool='ray') needs Ray, which is not installed: pip install 'lightkeras[ray]'."
        ) from error
    if ray.is_initialized():
        joined = ray.get_runtime_context().gcs_address
        if address not in (None, "auto", joined):
            raise ValueError(
                f"Tuner(address={address!r}): this process has joined the Ray cluster at {joined} already. Leave the "
                "address out, or call ray.shutdown() before."
            )
        return ray, False
    _check_reachable(address)
    settings: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": logging.ERROR}
    if address is None and not os.environ.get("RAY_ADDRESS"):
        settings["include_dashboard"] = False
    try:
        ray.init(**settings)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise ConnectionError(f"No Ray cluster could be joined at {address or 'RAY_ADDRESS'}: {error}") from error
    return ray, True


def _check_reachable(address: str | None) -> None:
    """Refuses an address at which nothing listens: Ray itself would try for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not port.isdigit():  # "auto" and its like, which Ray resolves
        return
    try:
        with contextlib.closing(socket.create_connection((host, int(port)), timeout=10)):
            pass
    except OSError as error:
        raise ConnectionError(
            f"Tuner(address={address!r}): nothing listens there ({error}). Start a cluster with `ray start --head`, "
            "which prints its address, or leave the address out to start one on this machine."
        ) from error


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
