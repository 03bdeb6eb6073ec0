"""Worker processes on the nodes of a Ray cluster: Ray finds them a place, and carries what is said.

See https://docs.ray.io/en/latest/ray-core/actors.html. All nodes share the directory of the search, under the same
path, and have lightkeras and the task's file; data and kept features may be each node's own.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import pickle
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, final

from lightkeras.search.workers.process import Setup
from lightkeras.search.workers.protocol import Channel, Message, environment_of_threads
from lightkeras.search.workers.ray_agent import Agent, News, origin, what_is_missing, what_is_not_seen
from lightkeras.system.environment import versions

LISTEN = 5.0  # seconds that an agent waits for news before it says that there are none
ASK = 60.0  # seconds in which a node answers before the search
PATIENCE = 30.0  # seconds in which a worker has a place, or it is said that it has none
REACH = 10.0  # seconds in which an address answers
_SETTINGS = 4  # type of a frame of HTTP/2
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
_PASSED_ON = ("KERAS_", "LIGHTKERAS_", "TF_", "TFDS_", "TFHUB_", "JAX_", "XLA_", "OMP_", "OPENBLAS_", "MKL_")


@final
class RayChannel:
    """The way to a worker through its agent; see `Channel`.

    Args:
        ray: The module.
        agent: The actor.
        name: Name of the worker.
    """

    def __init__(self, ray: Any, agent: Any, name: str) -> None:
        self._ray, self._agent, self._name = ray, agent, name
        self._waiting_since: float | None = time.monotonic()  # for a place; `None` once it has one or that was said
        self.news = agent.listen.remote(0, LISTEN)
        self._messages: list[Message] = []
        self._known = 0  # messages so far
        self._sent = 0
        self._calls: list[tuple[Any, Callable[[], Any]]] = []  # of which it is not known yet whether they arrived
        self._started = False
        self._ended: str | None = None
        self._held, self._last_words = 0, ""

    def started(self) -> bool:
        waiting = self._waiting_since
        if not self._started and waiting is not None and time.monotonic() - waiting > PATIENCE:
            self._waiting_since = None
            warnings.warn(
                f"The {self._name} has waited for a place on the cluster for {PATIENCE:g} s and goes on waiting, "
                "while other work holds the processors or GPUs that it asks for: `ray status` tells.",
                UserWarning,
                stacklevel=2,
            )
        return self._started

    def send(self, message: Message) -> None:
        self._sent += 1
        self._call(functools.partial(self._agent.send.remote, self._sent, pickle.dumps(message)))

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
        self._call(self._agent.terminate.remote)

    def end(self) -> None:
        self._ray.kill(self._agent)  # and with it the worker

    def _call(self, call: Callable[[], Any]) -> None:
        self._calls.append((call(), call))

    def _call_again(self) -> None:
        """Repeats the calls that were lost on their way; the agent knows those that it has had."""
        pending, self._calls = self._calls, []
        for answer, call in pending:
            if not self._ray.wait([answer], timeout=0)[0]:
                self._calls.append((answer, call))
                continue
            try:
                self._ray.get(answer)
            except self._ray.exceptions.ActorUnavailableError:
                self._call(call)
            except self._ray.exceptions.RayError:
                return  # the agent has ended, as the answer to `listen` tells

    def _look(self) -> None:
        """Takes in what the agent has told meanwhile."""
        self._call_again()
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
        address: See `lightkeras.search.workers.launch.Cluster`.
        gpus: GPUs of each worker.

    Raises:
        ImportError: Ray is not installed, or a node lacks what the search needs.
        ConnectionError: There is no such cluster.
        ValueError: It has not so many cores, or GPUs.
    """

    def __init__(self, setup: Setup, workers: int, memory: float | None, address: str | None, gpus: float) -> None:
        self._ray, self._joined = _join(address)
        self._setup, self.memory, self._gpus = setup, memory, gpus
        try:
            self.threads = threads_for([node["Resources"] for node in self._nodes()], workers, gpus)
            self._agent = self._ray.remote(num_cpus=self.threads, num_gpus=gpus, max_restarts=0, max_concurrency=2)(
                Agent
            )
            self._origin = origin(self._environment(), versions().get("lightkeras", ""))
            problems = self._of_each_node(what_is_missing, self._origin, setup.module)
            if problems:
                raise ImportError(f"Not all nodes of the cluster can work for the search: {' '.join(problems)}")
        except BaseException:
            self.close()
            raise

    def start(self, slot: int) -> Channel:
        name = f"lightkeras worker {slot}"
        return RayChannel(self._ray, self._agent.remote(self._setup, self._origin, name), name)

    def begin(self) -> None:
        self._setup.mark()
        problems = self._of_each_node(what_is_not_seen, self._setup)
        if problems:
            raise OSError(" ".join(problems))

    def places(self) -> int:
        return places_on([node["Resources"] for node in self._nodes()], self.threads, self._gpus)

    def _environment(self) -> dict[str, str]:
        passed_on = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
        more = environment_of_threads(self.threads, os.environ) | environment_of_gpus(self._gpus, os.environ)
        return passed_on | more

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _of_each_node(self, ask: Callable[..., str | None], *given: Any) -> list[str]:
        """What the nodes that workers may be put on answer, if anything; a sentence of each."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        names, asked = [], []
        for node in self._nodes():
            if places_on([node["Resources"]], self.threads, self._gpus):
                there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                task = self._ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(ask)
                names.append(f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})")
                asked.append(task.remote(*given))
        self._ray.wait(asked, num_returns=len(asked), timeout=ASK)
        answers = map(self._answer, asked)
        return [f"{name} {answer}." for name, answer in zip(names, answers, strict=True) if answer is not None]

    def _answer(self, made: Any) -> str | None:
        exceptions = self._ray.exceptions
        try:
            answer: str | None = self._ray.get(made, timeout=0)
            return answer.rstrip(".") if answer else None
        except exceptions.GetTimeoutError:
            return f"did not answer in {ASK:g} s"
        except (exceptions.NodeDiedError, exceptions.TaskUnschedulableError):
            return None  # it has left the cluster meanwhile
        except (exceptions.RayError, RuntimeError) as error:  # lightkeras cannot be imported there
            return f"cannot work for lightkeras: {_last_line(error)}"

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
    by_gpu = [_places_on_gpus(int(node.get("GPU", 0.0)), gpus) for node in nodes]
    return sum(map(min, by_cpu, by_gpu))


def _places_on_gpus(count: int, gpus: float) -> int:
    """On so many of them; the part of one that a worker asks for is not put together of several."""
    return count // int(gpus) if gpus >= 1 else count * int(1 / gpus + 1e-9)


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


def environment_of_gpus(gpus: float, environment: Mapping[str, str]) -> dict[str, str]:
    """What to set so that a worker keeps to the GPUs that it was given.

    Args:
        gpus: How many: Ray tells a worker which, but leaves it all of them where it asks for none.
        environment: What is set already, and stays.
    """
    if gpus == 0:
        return {"CUDA_VISIBLE_DEVICES": ""}
    if gpus >= 1:
        return {}
    # Backends take nearly all memory of a GPU when they start, whoever is there beside them.
    sharing = {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    return {name: value for name, value in sharing.items() if name not in environment}


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
    where = _known_address(address)
    said = f"RAY_ADDRESS={where}" if where != address else f"Tuner(address={address!r})"
    _check_reachable(ray, where, said)
    settings: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": logging.ERROR}
    if where is None:
        settings["include_dashboard"] = False
    try:
        with _same_answer_to_sigterm():
            ray.init(**settings)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError, ImportError) as error:
        if where is None:
            raise ConnectionError(f"No Ray could be started on this machine: {error}") from error
        raise ConnectionError(f"{said}: no Ray cluster could be joined there: {error}") from error
    return ray, True


def _known_address(address: str | None) -> str | None:
    """The address that Ray will go to; `None` where it looks for a cluster, or starts one."""
    return address if address not in (None, "auto") else os.environ.get("RAY_ADDRESS") or address


@contextlib.contextmanager
def _same_answer_to_sigterm() -> Iterator[None]:
    """Puts back what happens upon SIGTERM: Ray lets the process exit with status 15, which no shell does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_reachable(ray: Any, where: str | None, said: str) -> None:
    """Refuses an address at which nothing listens, or something else than Ray: that would try for minutes."""
    host, _, port = (where or "").removeprefix("ray://").rpartition(":")
    if not port.isdigit():  # "auto" and its like, which Ray resolves
        return
    host = host.strip("[]")
    if host in _THIS_MACHINE and not str(where).startswith("ray://"):
        host = ray.util.get_node_ip_address()  # which Ray takes it for
    how = (
        "Start a cluster with `ray start --head`, which prints its address, or leave the address out to start one on "
        "this machine."
    )
    try:
        with contextlib.closing(socket.create_connection((host, int(port)), timeout=REACH)) as connection:
            speaks = os.environ.get("RAY_USE_TLS") == "1" or _speaks_http2(connection)
    except (OSError, OverflowError) as error:
        raise ConnectionError(f"{said}: nothing listens at {host}:{port} ({error}). {how}") from error
    if not speaks:
        raise ConnectionError(f"{said}: what listens at {host}:{port} is no Ray cluster. {how}")


def _speaks_http2(connection: socket.socket) -> bool:
    """Whether a server answers as those of gRPC do: the frame of settings comes first (RFC 9113, section 3.4)."""
    empty_settings = bytes([0, 0, 0, _SETTINGS, 0, 0, 0, 0, 0])
    try:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + empty_settings)
        with connection.makefile("rb") as answer:
            head = answer.read(9)  # length (3), type, flags, stream (4)
    except OSError:  # it says nothing, or hangs up
        return False
    return len(head) == 9 and head[3] == _SETTINGS and head[5:] == bytes(4)


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:300]
