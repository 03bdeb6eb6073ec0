"""Worker processes on the nodes of a Ray cluster: Ray places them and carries their messages.

See https://docs.ray.io/en/latest/ray-core/actors.html. All nodes share the directory of the search, under the same
path, and have lightkeras and the task's file; data and cached features may be local to each node.
"""

from __future__ import annotations

import functools
import os
import pickle
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, final

from lightkeras.search.workers.gpus import environment_of_gpus
from lightkeras.search.workers.process import Setup
from lightkeras.search.workers.protocol import Channel, Message, environment_of_threads
from lightkeras.search.workers.ray_agent import Agent, AgentReport, missing_requirement, origin, unseen_directory
from lightkeras.system import ray_cluster
from lightkeras.system.environment import versions

LISTEN = 5.0  # seconds that an agent waits for messages before it answers without any
ASK = 60.0  # timeout of the check of a node before the search
PATIENCE = 30.0  # seconds that a worker waits for a place before a warning


@final
class RayChannel:
    """The connection to a worker through its agent, an actor; see `Channel`."""

    def __init__(self, ray: Any, agent: Any, name: str) -> None:
        self._ray, self._agent, self._name = ray, agent, name
        self._waiting_since: float | None = time.monotonic()  # for a place; `None` after the warning
        self.news = agent.listen.remote(0, LISTEN)
        self._messages: list[Message] = []
        self._known = 0  # number of messages received
        self._sent = 0
        self._calls: list[tuple[Any, Callable[[], Any]]] = []  # not acknowledged yet
        self._started = False
        self._ended: str | None = None
        self._held, self._last_output = 0, ""

    def started(self) -> bool:
        waiting = self._waiting_since
        if not self._started and waiting is not None and time.monotonic() - waiting > PATIENCE:
            self._waiting_since = None
            warnings.warn(
                f"The {self._name} has waited for a place on the cluster for {PATIENCE:g} s and keeps waiting, "
                "because other work holds the CPUs or GPUs that it needs: see `ray status`.",
                UserWarning,
                stacklevel=2,
            )
        return self._started

    def send(self, message: Message) -> None:
        self._sent += 1
        self._call(functools.partial(self._agent.send.remote, self._sent, pickle.dumps(message)))

    def received(self) -> list[Message]:
        self._poll()
        found, self._messages = self._messages, []
        return found

    def ended(self) -> str | None:
        self._poll()
        return self._ended

    def last_output(self) -> str:
        return self._last_output

    def memory_bytes(self) -> int:
        return self._held

    def terminate(self) -> None:
        self._call(self._agent.terminate.remote)

    def end(self) -> None:
        self._ray.kill(self._agent)  # the worker ends with it

    def _call(self, call: Callable[[], Any]) -> None:
        self._calls.append((call(), call))

    def _call_again(self) -> None:
        """Repeats calls that may be lost: after ActorUnavailableError it is not known. The agent ignores duplicates."""
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
                return  # the agent has ended; `listen` raises too

    def _poll(self) -> None:
        """Receives the reports of the agent."""
        self._call_again()
        while self._ended is None and self._ray.wait([self.news], timeout=0)[0]:
            try:
                news: AgentReport = self._ray.get(self.news)
            except self._ray.exceptions.ActorUnavailableError:
                # Its node does not answer. The run is only retried when Ray has declared the node lost: a new worker
                # might be placed on the same node, which cost a second attempt.
                self.news = self._agent.listen.remote(self._known, LISTEN)
                return
            except self._ray.exceptions.RayError as error:
                self._ended = f"was lost with its node or its agent: {' '.join(str(error).split())[:300]}"
                return
            self._messages += [pickle.loads(message) for message in news.messages]
            self._known += len(news.messages)
            self._started, self._ended = True, news.ended
            self._held, self._last_output = news.memory_bytes, news.last_output
            if self._ended is None:
                self.news = self._agent.listen.remote(self._known, LISTEN)


@final
class RayLauncher:
    """Starts workers on a cluster; see `Launcher`. Uses the cluster that this process has joined, if any.

    `memory` is the maximum private memory of each in bytes; `None` leaves it to Ray, which monitors its nodes. Raises
    an ImportError if Ray is not installed or a node lacks what the search needs, a ConnectionError if the cluster
    cannot be reached, and a ValueError if it has too few cores or GPUs.
    """

    def __init__(self, setup: Setup, workers: int, memory: float | None, address: str | None, gpus: float) -> None:
        self._ray, self._joined = ray_cluster.join("Tuner(pool='ray')", address)
        self._setup, self.memory, self._gpus = setup, memory, gpus
        try:
            self.threads = threads_for([node["Resources"] for node in self._nodes()], workers, gpus)
            self._agent = self._ray.remote(num_cpus=self.threads, num_gpus=gpus, max_restarts=0, max_concurrency=2)(
                Agent
            )
            self._origin = origin(self._environment(), versions().get("lightkeras", ""))
            problems = self._of_each_node(missing_requirement, self._origin, setup.module)
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
        problems = self._of_each_node(unseen_directory, self._setup)
        if problems:
            raise OSError(" ".join(problems))

    def capacity(self) -> int:
        return places_on([node["Resources"] for node in self._nodes()], self.threads, self._gpus)

    def _environment(self) -> dict[str, str]:
        more = environment_of_threads(self.threads, os.environ) | environment_of_gpus(self._gpus, os.environ)
        return ray_cluster.passed_on() | more

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
            return None  # it has left the cluster
        except (exceptions.RayError, RuntimeError) as error:  # such as an import that fails there
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
    """Returns the number of workers that fit on the nodes (resources as Ray names them), each on one node."""
    by_cpu = [int(node.get("CPU", 0.0)) // threads for node in nodes]
    if not gpus:
        return sum(by_cpu)
    by_gpu = [_places_on_gpus(int(node.get("GPU", 0.0)), gpus) for node in nodes]
    return sum(map(min, by_cpu, by_gpu))


def _places_on_gpus(count: int, gpus: float) -> int:
    """Workers that fit on `count` GPUs; a fraction of a GPU is never made of several."""
    return count // int(gpus) if gpus >= 1 else count * int(1 / gpus + 1e-9)


def threads_for(nodes: Sequence[dict[str, float]], workers: int, gpus: float = 0.0) -> int:
    """Returns the largest number of threads with which the workers fit on the nodes, each on one node.

    A ValueError if they do not fit: the others would wait forever.
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


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:300]
