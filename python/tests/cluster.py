"""A Ray cluster on the loopback address, whose nodes are processes that can be killed."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# Read when ray is imported: without the first Ray asks for this machine's outer address, where it cannot reach itself;
# the second keeps it from calling home.
os.environ.update(RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0", RAY_USAGE_STATS_ENABLED="0")

import ray
from ray.cluster_utils import Cluster

import sepo

# Of the environment of all processes of a cluster: more than one may run on this machine.
_MARK = "TEST_CLUSTER"


class Nodes:
    """A head without room for workers, and nodes with room for one each."""

    def __init__(self, cluster: Cluster, mark: str) -> None:
        self.cluster = cluster
        self.address = str(cluster.address)
        self.nodes: list[Any] = []
        self._mark = mark

    def programs(self) -> list[int]:
        """Processes of `sepo run` that this cluster started, orphans included."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                command = (process / "cmdline").read_bytes().split(b"\0")
                is_run = command[0] == os.fsencode(sepo.program()) and command[1:2] == [b"run"]
                if is_run and environment_of(int(process.name)).get(_MARK) == self._mark:
                    found.append(int(process.name))
            except OSError:
                continue
        return found

    def add(self) -> int:
        """Adds a node; the process id of its raylet, an ancestor of all that runs there."""
        self.nodes.append(patiently(lambda: self.cluster.add_node(num_cpus=1, num_gpus=1)))
        return raylet(self.nodes[-1])

    def kill(self, pid: int) -> None:
        """Kills the node on which process `pid` of the program runs, and the process as the node's end would."""
        node = next(node for node in self.nodes if raylet(node) in ancestors(pid))
        self.nodes.remove(node)
        os.kill(pid, signal.SIGKILL)
        self.cluster.remove_node(node, allow_graceful=False)
        assert not node.any_processes_alive()


def patiently(start: Callable[[], Any]) -> Any:
    """Ray gives a node 30 s to come up, which a machine that compiles meanwhile may need longer for."""
    for _ in range(3):
        try:
            return start()
        except Exception as error:
            last = error
    raise last


def raylet(node: Any) -> int:
    processes = node.all_processes["raylet"]
    return int(processes[0].process.pid)


def ancestors(pid: int) -> set[int]:
    """Of a process that runs."""
    found = set()
    while pid > 1:
        status = Path(f"/proc/{pid}/status").read_text()
        pid = int(status.split("\nPPid:", 1)[1].split()[0])
        found.add(pid)
    return found


@contextmanager
def stopped(pids: Collection[int]) -> Iterator[None]:
    """The processes `pids` stand still meanwhile."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def environment_of(pid: int) -> dict[str, str]:
    entries = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


@contextmanager
def cluster(nodes: int, environment: Mapping[str, str]) -> Iterator[Nodes]:
    """Nodes begin with this process's environment and with `environment`."""
    before, mark = dict(os.environ), uuid.uuid4().hex
    os.environ.update({**environment, _MARK: mark})
    head = patiently(lambda: Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "node_ip_address": "127.0.0.1", "include_dashboard": False}))
    try:
        made = Nodes(head, mark)
        for _ in range(nodes):
            made.add()
        yield made
    finally:
        ray.shutdown()
        head.shutdown()
        os.environ.clear()
        os.environ.update(before)
