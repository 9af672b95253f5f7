"""`kind: slurm`: machines that a batch system gives, Slurm or another one whose commands are written down.

Three forms: workers that are jobs of their own, one allocation for the whole run, and the allocation around the driver.
"""

import math
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from orchestrator.cluster.batch.driver import driver_lines, follow_job
from orchestrator.cluster.batch.entries import Address, JobEntry, Line, Name, PoolEntry
from orchestrator.cluster.batch.steps import StepWorkers
from orchestrator.cluster.batch.system import BatchSystem, load_batch_system
from orchestrator.cluster.batch.workers import MAX_ARRAY, BatchWorkers, cancel_all
from orchestrator.cluster.config import (
    ClusterConfig,
    Driver,
    EmbeddedRay,
    Folder,
    LaunchOutcome,
    OrderedMachine,
    RunName,
    RunningRay,
)
from orchestrator.cluster.environment import ensure_token, in_home, in_shell
from orchestrator.cluster.gpu_kinds import kind_named
from orchestrator.cluster.node_pool import NodePool, Waiting
from orchestrator.cluster.prices import Prices
from orchestrator.cluster.ray_head import AGENT, in_folder_of_all, private_folder, serving_head
from orchestrator.cluster.yaml_files import write_yaml
from orchestrator.errors import ClusterError, ConfigError
from orchestrator.storage.json_values import JsonMapping

START_S = 60.0
"""Until Ray has come up in a job and a training goes on there; a job that is shorter does nothing but start."""
DRIVER = "driver"
"""Of a run, what the name of its driver's job ends with, where a worker's has its pool."""
ASKED = "asked"
"""In the folder of a run: what its driver's job was asked to do."""
HEAD_WARNING_S = 120
"""Before its time limit, the driver's job is warned."""


class SlurmCluster(ClusterConfig):
    """Machines that Slurm gives."""

    kind: Literal["slurm"] = "slurm"
    form: Literal["workers", "allocation", "within"] = "workers"
    """`workers`: each machine is a job of its own, asked for when trainings wait; `allocation`: one job holds all
    machines and the driver; `within`: the driver runs in such a job already."""
    pools: Annotated[dict[Name, PoolEntry], Field(min_length=1)]
    """Machines by name; one pool where they come together."""
    head: JobEntry | None = None
    """With workers: a job for the driver; unless given, it runs where the command is given."""
    batch_system: str = "slurm"
    """Name of a file in clusters/batch/, or a file of that kind."""
    folder: Folder = "~/.orchestrator"
    """Folder that all machines see, for scripts, logs and the token of runs."""
    setup: list[Line] = Field(default=[])
    """Lines of shell before anything else in every job: modules, an environment."""
    python: str | None = None
    """Python of the jobs; unless given, that of the command."""
    address: Address | None = None
    """Address of the driver's machine for the others, or the network in which it has one, such as 192.168.4.0/24;
    unless given, that of its usual way to them."""
    look_every_s: Annotated[float, Field(ge=1)] = 15.0
    """Time between two looks at the queue."""
    idle_s: Annotated[float, Field(ge=1)] = 40.0
    """After so long without work a worker is given back; with one allocation none is."""

    @property
    def is_elsewhere(self) -> bool:
        """Whether the driver runs in a job that is submitted for it."""
        return self.form == "allocation" or (self.form == "workers" and self.head is not None)

    @property
    def is_growing(self) -> bool:
        """Whether each machine comes for itself, when something waits for it."""
        return self.form == "workers"

    @property
    def gives_back_after_s(self) -> float:
        """Return what the file says of idle workers."""
        return self.idle_s

    @property
    def _idle_limit_s(self) -> float:
        """After so long without work a machine is given back; one of an allocation would not come again."""
        return self.idle_s if self.is_growing else math.inf

    def check(self) -> None:
        """Raise ConfigError for what the forms cannot do, and for what the batch system has no option for."""
        system = self._system()
        if self.form != "workers" and (len(self.pools) > 1 or self.head):
            raise ConfigError(
                f"{self.path}: form {self.form}: expected one pool and no head: all machines come together"
            )
        if self.form != "workers" and not system.script.everywhere:
            raise ConfigError(f"{self.path}: form {self.form}: {self.batch_system} says nothing of script.everywhere")
        if self.is_elsewhere and self.address and "/" not in self.address:
            raise ConfigError(
                f"{self.path}: address: of a driver that is a job itself it is not known beforehand; expected the "
                "network in which its machine has one, such as 192.168.4.0/24"
            )
        if self.head and self.head.time_limit_minutes * 60 < HEAD_WARNING_S + START_S:
            raise ConfigError(
                f"{self.path}: head: time_limit_minutes is {self.head.time_limit_minutes}; expected at least "
                f"{math.ceil((HEAD_WARNING_S + START_S) / 60)}: before its limit a driver saves what it has done"
            )
        if DRIVER in self.pools:
            raise ConfigError(f"{self.path}: pools.{DRIVER}: jobs of that name are drivers; expected another name")
        for name, pool in self.pools.items():
            self._check_pool(name, pool, system)

    def _check_pool(self, name: str, pool: PoolEntry, system: BatchSystem) -> None:
        least_s = max(2 * pool.drain_s, pool.drain_s + START_S)
        if pool.time_limit_minutes * 60 < least_s:
            raise ConfigError(
                f"{self.path}: pools.{name}: drain_s is {pool.drain_s:g}, time_limit_minutes "
                f"{pool.time_limit_minutes}; expected a limit of at least twice as long, and drain_s and the "
                f"{START_S:g} s of a start: {math.ceil(least_s / 60)}"
            )
        if pool.waiting and pool.waiting.ninetieth_minutes < pool.waiting.median_minutes:
            raise ConfigError(
                f"{self.path}: pools.{name}.waiting: ninetieth_minutes is {pool.waiting.ninetieth_minutes:g}; "
                f"expected at least median_minutes, which is {pool.waiting.median_minutes:g}"
            )
        if not pool.gpus and (pool.gpu or (pool.gres and "gpu" in pool.gres)):
            asked = f"gpu is {pool.gpu!r}" if pool.gpu else f"gres is {pool.gres!r}"
            raise ConfigError(
                f"{self.path}: pools.{name}: {asked}, gpus is 0; expected their number beside it: trainings go "
                "where GPUs are counted"
            )
        if pool.array and "array" not in system.script.options:
            raise ConfigError(f"{self.path}: pools.{name}: array: {self.batch_system} has no option for it")
        self._worker_script(name, "check-", where=Path("check"), comment="", number=None)

    def node_pools(self) -> tuple[NodePool, ...]:
        """Return the machines that the batch system may give."""
        return tuple(
            NodePool(
                name=name,
                max_nodes=pool.number,
                cpus=pool.cpus,
                gpus=pool.gpus,
                gpu=kind_named(pool.gpu),
                market=pool.partition or "queue",
            )
            for name, pool in self.pools.items()
        )

    def imagined(self, prices: Prices | None) -> tuple[NodePool, ...]:
        """Return the machines with what is known of their queue and their time limits."""
        del prices
        return tuple(
            replace(
                pool,
                waiting=_waiting(entry),
                start_s=START_S,
                lasts_s=entry.time_limit_minutes * 60 - entry.drain_s - START_S,
                come_together=self.form != "workers",
            )
            for pool, entry in zip(self.node_pools(), self.pools.values(), strict=True)
        )

    def imagined_otherwise(self) -> Mapping[str, tuple[NodePool, ...]]:
        """Return the largest pool as one allocation, or an allocation as single jobs."""
        most = max(self.imagined(None), key=lambda pool: (pool.gpus * pool.max_nodes, pool.cpus * pool.max_nodes))
        if self.form == "workers":
            return {f"one allocation of {most.max_nodes} {most.name}": (replace(most, come_together=True),)}
        return {f"single jobs, {most.max_nodes} {most.name} at the most": (replace(most, come_together=False),)}

    def authenticate(self) -> None:
        """Use this user's token, which the machines of the run get as a file."""
        ensure_token()

    def reach(self, run: RunName | None) -> AbstractContextManager[EmbeddedRay | RunningRay]:
        """Context with a head on this machine, and with machines that join it."""
        if run is None:
            return super().reach(run)
        return self._reach(run)

    @contextmanager
    def _reach(self, run: RunName) -> Iterator[EmbeddedRay | RunningRay]:
        folder = private_folder(self._folder(run))
        with serving_head(folder, address=self.address) as address:
            machines = self._within(folder) if self.form == "within" else self._workers(run, folder)
            try:
                yield RunningRay(address=address, provisioner=machines, idle_s=self._idle_limit_s)
            finally:
                machines.close()

    def _within(self, folder: Path) -> StepWorkers:
        ((name, pool),) = self.pools.items()
        start = [
            part.format(nodes=pool.number, cpus=pool.cpus, gpus=pool.gpus) for part in self._system().script.everywhere
        ]
        line = "; ".join([*_scratch(pool), self._agent(name, where=folder)])
        return StepWorkers([*start, "bash", "-c", line], log=folder / "workers.log")

    def _workers(self, run: RunName, folder: Path) -> BatchWorkers:
        prefix, comment = _prefix(run), _comment(run)
        scripts, arrays = {}, {}
        for name, pool in self.pools.items():
            scripts[name] = folder / f"worker-{name}.sh"
            self._write(scripts[name], self._worker_script(name, prefix, where=folder, comment=comment, number=None))
            for number in range(2, min(pool.number, MAX_ARRAY) + 1 if pool.array else 2):
                arrays[name] = private_folder(folder / f"arrays-{name}")
                text = self._worker_script(name, prefix, where=folder, comment=comment, number=number)
                self._write(arrays[name] / f"{number}.sh", text)
        return BatchWorkers(
            self._system(),
            pools=self.node_pools(),
            scripts=scripts,
            arrays=arrays,
            prefix=prefix,
            look_every_s=self.look_every_s,
        )

    def launch(
        self, driver: Driver, *, confirm: Callable[[str], bool], show: Callable[[str], None]
    ) -> LaunchOutcome | None:
        """Submit the driver as a job, unless there is one, and follow it."""
        del confirm  # nothing is paid for
        run = driver.run
        folder, prefix, system = private_folder(self._folder(run)), _prefix(run), self._system()
        ensure_token()
        if not (jobs := system.jobs(f"{prefix}{DRIVER}")):
            with in_folder_of_all(folder):
                write_yaml(folder / "driver.yaml", self._driver_content())
                self._write(folder / "driver.sh", self._driver_script(driver, folder))
                (folder / "exit-code").unlink(missing_ok=True)
                (folder / "driver.log").unlink(missing_ok=True)
                self._write(folder / ASKED, driver.told)
            show(f"job {system.submit_job(folder / 'driver.sh')}: submitted as {prefix}{DRIVER}")
        else:
            asked = folder / ASKED
            driver.expect_same(asked.read_text(encoding="utf-8") if asked.exists() else None, where=f"job {jobs[0].id}")
            show(f"job {jobs[0].id}: there already, attached")
        show(f"Ctrl-C ends only the watching. To end the run: the same command with --down. Log: {folder}/driver.log")
        exit_code = follow_job(
            lambda: system.jobs(f"{prefix}{DRIVER}"), folder=folder, show=show, look_every_s=self.look_every_s
        )
        return LaunchOutcome(succeeded=exit_code == 0, folder=None)

    def bring_down(self, run: RunName, *, show: Callable[[str], None]) -> None:
        """Cancel all jobs of a run."""
        system = self._system()
        jobs = system.jobs(_prefix(run))
        num_cancelled = cancel_all(system, jobs)
        show(f"{num_cancelled} jobs cancelled")
        if jobs and not self.is_elsewhere:
            show("Where the command itself still runs, end it as well (Ctrl-C): it asks for machines again")
        if num_left := len({job.id for job in jobs}) - num_cancelled:
            raise ClusterError(
                f"{num_left} jobs could not be cancelled, as said above; expected all. Try the same command again"
            )

    def ordered_machines(self, run: RunName) -> Sequence[OrderedMachine]:
        """Return the jobs of a run, with what the batch system says of those that wait."""
        prefix = _prefix(run)
        return tuple(
            OrderedMachine(
                pool=job.name.removeprefix(prefix), state="asked for" if job.is_waiting else "there", reason=job.reason
            )
            for job in self._system().jobs(prefix)
        )

    def _system(self) -> BatchSystem:
        return load_batch_system(self.batch_system, beside=self.path)

    def _folder(self, run: RunName) -> Path:
        return in_home(Path(self.folder)) / run.short

    def _python(self) -> str:
        return in_shell(self.python or sys.executable)

    def _agent(self, name: str, *, where: Path) -> str:
        """Return the line that makes a machine a worker."""
        pool = self.pools[name]
        memory = f" --memory-gib {pool.memory_gib:g}" if pool.memory_gib else ""
        return (
            f"exec {self._python()} -m {AGENT} worker --folder {shlex.quote(str(where))} --num-cpus {pool.cpus} "
            f"--num-gpus {pool.gpus}{memory} --limit-s {pool.time_limit_minutes * 60} --spent-s $SECONDS "
            f"--drain-s {pool.drain_s:g}"
        )

    def _worker_script(self, name: str, prefix: str, *, where: Path, comment: str, number: int | None) -> str:
        pool = self.pools[name]
        values = pool.values(
            name=f"{prefix}{name}",
            comment=comment,
            log=where / f"worker-{name}",
            gpus=(pool.gpus or None) if pool.gres is None else None,
            gres=pool.gres,
            warning_s=round(pool.drain_s),
            array=number,
        )
        commands = [*_scratch(pool), self._agent(name, where=where)]
        return self._script(values, pool, commands=commands, where=f"{self.path}: pools.{name}")

    def _driver_script(self, driver: Driver, folder: Path) -> str:
        if self.form == "allocation":
            ((_, pool),) = self.pools.items()
            entry: JobEntry = pool
            more = {"nodes": pool.number, "gpus": (pool.gpus or None) if pool.gres is None else None, "gres": pool.gres}
            warning_s = round(pool.drain_s)
        else:
            assert self.head is not None
            entry, more, warning_s = self.head, {}, HEAD_WARNING_S
        name, comment = f"{_prefix(driver.run)}{DRIVER}", _comment(driver.run)
        values = entry.values(name=name, comment=comment, log=folder / "job", warning_s=warning_s, alone=True, **more)
        arguments = shlex.join([*driver.arguments, "--cluster", str(folder / "driver.yaml")])
        begin = self._script(values, entry, commands=(), where=f"{self.path}: head")
        lines = driver_lines(
            f"{self._python()} -m {driver.module} {arguments}",
            submit_again=self._system().submit_line(folder / "driver.sh", lines=begin),
            folder=folder,
        )
        return begin + "\n".join([*lines, ""])

    def _script(self, values: Mapping[str, object], entry: JobEntry, *, commands: Sequence[str], where: str) -> str:
        return self._system().script_text(
            values,
            options=entry.options,
            setup=[*self.setup, *entry.setup],
            commands=commands,
            where=where,
        )

    def _driver_content(self) -> JsonMapping:
        """Return the cluster file of a driver in its job."""
        batch_system = self.batch_system
        if batch_system.endswith((".yaml", ".yml")):
            batch_system = str((self.path.parent / Path(batch_system).expanduser()).absolute())
        inner = {"head": None, "form": "within" if self.form == "allocation" else "workers"}
        return self.model_copy(update={**inner, "batch_system": batch_system}).content()

    @staticmethod
    def _write(path: Path, text: str) -> None:
        with in_folder_of_all(path):
            path.write_text(text, encoding="utf-8")


def _prefix(run: RunName) -> str:
    """Return what the names of all jobs of a run begin with."""
    return f"{run.short}-"


def _comment(run: RunName) -> str:
    """Return what run and study it is, in characters that a shell leaves alone."""
    text = f"{run.study}: {run.output}"
    return "".join(letter if letter.isalnum() or letter in " ./:_-," else "_" for letter in text)[:200]


def _waiting(pool: PoolEntry) -> Waiting | None:
    if pool.waiting is None:
        return None
    return Waiting(median_s=pool.waiting.median_minutes * 60, ninetieth_s=pool.waiting.ninetieth_minutes * 60)


def _scratch(pool: PoolEntry) -> list[str]:
    if pool.scratch is None:
        return []
    # Ray would take /tmp without a word, which may be the machine's memory.
    told = shlex.quote(f"scratch: {pool.scratch}: is empty here; /tmp is used for temporary files and patches")
    return [
        f'export TMPDIR="{pool.scratch}"',
        'export ORCHESTRATOR_CACHES="$TMPDIR"',
        f'[ -n "$TMPDIR" ] || echo {told} >&2',
    ]
