"""`kind: ssh`: machines of one's own, reached by SSH, which are asked what they have and checked before a run."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PrivateAttr

from orchestrator.cluster.batch.entries import Line
from orchestrator.cluster.config import ClusterConfig, EmbeddedRay, Folder, RunName, RunningRay
from orchestrator.cluster.environment import ensure_token, in_home
from orchestrator.cluster.gpu_kinds import GpuName, kind_named
from orchestrator.cluster.hosts.check import Question, Reached, ask, ask_all, marked, refuse_others
from orchestrator.cluster.hosts.facts import HostFacts
from orchestrator.cluster.hosts.workers import HostWorkers
from orchestrator.cluster.node_pool import NO_GPU, NodePool
from orchestrator.cluster.ray_head import AGENT, private_folder, serving_head
from orchestrator.configuration import Entry
from orchestrator.errors import ClusterError, ConfigError

Host = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][\w.@-]*$", max_length=100)]
SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=20", "-o", "ServerAliveInterval=10")


class HostEntry(Entry):
    """A host, below the name that SSH knows it by."""

    cpus: Annotated[int, Field(ge=1)] | None = None
    """CPU cores for stages; unless given, all that it has."""
    gpus: Annotated[int, Field(ge=0)] | None = None
    """Likewise for GPUs."""
    gpu: GpuName = ""
    """Kind of the GPUs by Ray's name, such as A100; empty if it is not known."""
    memory_gib: Annotated[float, Field(gt=0)] | None = None
    """Memory for stages; unless given, what is free."""


class SshCluster(ClusterConfig):
    """Machines that are there and have no batch system."""

    kind: Literal["ssh"] = "ssh"
    hosts: Annotated[dict[Host, HostEntry], Field(min_length=1)]
    """Hosts by the names that SSH knows them by; this machine drives, and works if it is among them."""
    setup: list[Line] = Field(default=[])
    """Lines of shell before anything else on each host: modules, an environment."""
    python: str | None = None
    """Python of the hosts; unless given, that of the command."""
    folder: Folder = "~/.orchestrator"
    """Folder that all hosts see, for logs and the token of runs."""
    address: Host | None = None
    """Address of this machine for the others; unless given, that of its usual way to them."""
    ssh_options: list[str] = Field(default=[])
    """Further options of ssh, such as -J or -F."""
    retry_s: Annotated[float, Field(ge=1)] = 60.0
    """Time until a host that was lost, or does not answer, is asked again."""
    _found: dict[str, HostFacts] = PrivateAttr(default_factory=dict)

    def node_pools(self) -> tuple[NodePool, ...]:
        """Return the hosts, as far as the file or they themselves say what they have."""
        pools = []
        for name, host in self.hosts.items():
            found = self._found.get(name)
            cpus = host.cpus or (found.num_cpus if found else None)
            gpus = host.gpus if host.gpus is not None else (found.num_gpus if found else 0)
            if cpus is not None:
                gpu = kind_named(host.gpu) if gpus else NO_GPU
                pools.append(NodePool(name=name, max_nodes=1, cpus=cpus, gpus=gpus, gpu=gpu))
        return tuple(pools)

    def imagined(self, prices: object) -> tuple[NodePool, ...]:
        """Return the hosts, if the file says what they have."""
        del prices
        for name, host in self.hosts.items():
            if host.cpus is None:
                raise ConfigError(f"{self.path}: hosts.{name}: no cpus; expected a number: the simulator asks no host")
        return self.node_pools()

    def authenticate(self) -> None:
        """Use this user's token, which the hosts get as a file."""
        ensure_token()

    def reach(self, run: RunName | None) -> AbstractContextManager[EmbeddedRay | RunningRay]:
        """Context with a head on this machine, and with all hosts that join it."""
        return self._reach(run) if run is not None else super().reach(run)

    @contextmanager
    def _reach(self, run: RunName) -> Iterator[EmbeddedRay | RunningRay]:
        folder = private_folder(in_home(Path(self.folder)) / run.short)
        reached = Reached(ssh=(*SSH, *self.ssh_options), setup=tuple(self.setup), python=self.python or sys.executable)
        with marked((str(folder), run.output), data=run.data) as question:
            first = self._first_answers(reached, question)
            with serving_head(folder, address=self.address) as address:
                workers = HostWorkers(
                    {host: self._command(reached, host, folder) for host in self.hosts},
                    ask=partial(self._ask_again, reached, question=question),
                    first=first,
                    folder=folder,
                    retry_s=self.retry_s,
                )
                try:
                    yield RunningRay(address=address, provisioner=workers)
                finally:
                    workers.close()

    def _first_answers(self, reached: Reached, question: Question) -> dict[str, HostFacts | str]:
        answers = ask_all(reached, tuple(self.hosts), question)
        refuse_others(answers, where=str(self.path))
        self._found.update({host: facts for host, facts in answers.items() if isinstance(facts, HostFacts)})
        if not self._found:
            told = "; ".join(f"{host}: {reason}" for host, reason in answers.items())
            raise ClusterError(f"{self.path}: no host answers: {told}. Try: ssh HOST true")
        return answers

    def _ask_again(self, reached: Reached, host: str, *, question: Question) -> HostFacts | str:
        facts = ask(reached, host, question)
        try:
            refuse_others({host: facts}, where=str(self.path))
        except ConfigError as error:
            return str(error)
        return facts

    def _command(self, reached: Reached, host: str, folder: Path) -> Callable[[HostFacts], list[str]]:
        def command(facts: HostFacts) -> list[str]:
            entry = self.hosts[host]
            gpus = entry.gpus if entry.gpus is not None else facts.num_gpus
            words = [AGENT, "worker", "--while-input", "--folder", str(folder), "--drain-s", "30"]
            words += ["--num-cpus", str(entry.cpus or facts.num_cpus), "--num-gpus", str(gpus)]
            words += ["--memory-gib", f"{entry.memory_gib:g}"] if entry.memory_gib else []
            return reached.command(host, *words)

        return command
