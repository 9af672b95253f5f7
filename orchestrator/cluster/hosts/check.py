"""Asks hosts by SSH whether they could work for a run: the same versions, the same files."""

import json
import secrets
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from orchestrator.cluster.environment import in_shell
from orchestrator.cluster.hosts.facts import MARK, HostFacts, facts_here
from orchestrator.errors import ConfigError, OrchestratorError
from orchestrator.storage.filesystem import open_storage

ANSWER_WITHIN_S = 60.0
SSH_FAILED = 255
"""Exit code of ssh itself; others are those of the host's command."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reached:
    """How commands are given on hosts."""

    ssh: tuple[str, ...]
    """Begins each command; host and line of shell follow."""
    setup: tuple[str, ...]
    """Lines of shell before anything else."""
    python: str

    def command(self, host: str, *words: str) -> list[str]:
        """Return the command that runs a module of ours there."""
        line = "; ".join([*self.setup, f"exec {in_shell(self.python)} -m {shlex.join(words)}"])
        return [*self.ssh, host, f"bash -c {shlex.quote(line)}"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What a host is asked."""

    mark: str
    folders: tuple[str, ...]
    """Locations in which the file of the mark must be seen."""
    data: str | None

    @property
    def words(self) -> tuple[str, ...]:
        """The module that answers, and its arguments."""
        folders = [word for folder in self.folders for word in ("--folder", folder)]
        data = ["--data", self.data] if self.data is not None and "://" not in self.data else []
        return ("orchestrator.cluster.hosts.facts", "--mark", self.mark, *folders, *data)


@contextmanager
def marked(folders: Sequence[str], *, data: str | None) -> Iterator[Question]:
    """Context in which each folder shows a file, by which hosts show that they see the same."""
    question = Question(mark=secrets.token_hex(8), folders=tuple(folders), data=data)
    name = f"{MARK}{question.mark}"
    try:
        for folder in folders:
            open_storage(folder).write_bytes(name, b"")
        yield question
    finally:
        for folder in folders:
            with suppress(OrchestratorError):
                open_storage(folder).delete(name)


class NoFacts(str):
    """Why a host that was reached does not say what it has."""

    __slots__ = ()


def ask(reached: Reached, host: str, question: Question) -> HostFacts | str:
    """Return what a host says of itself; why it does not, if it does not answer, or `NoFacts` if it was reached."""
    command = reached.command(host, *question.words)
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            # Banners and shells of hosts write in whatever encoding.
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=ANSWER_WITHIN_S,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {ANSWER_WITHIN_S:g} s"
    except OSError as error:
        return f"{command[0]}: {error.strerror}"
    try:
        # A shell may say more, before and after.
        answers = [line for line in done.stdout.splitlines() if line.startswith("{")]
        found = json.loads(answers[-1])
        return HostFacts(**{**found, "unseen": tuple(found["unseen"])})
    except (ValueError, IndexError, KeyError, TypeError):
        told = done.stderr.strip().splitlines()
        reason = told[-1] if told else f"exit code {done.returncode}"
        if done.returncode == SSH_FAILED:
            return reason
        return NoFacts(
            f"{reason}: it was reached, and {reached.python} does not say what it has; expected the Python and the "
            "packages of this machine there. `python` and `setup` of the cluster file say how"
        )


def ask_all(reached: Reached, hosts: Sequence[str], question: Question) -> dict[str, HostFacts | str]:
    """Return what each host says, or why it does not."""
    with ThreadPoolExecutor(max_workers=max(1, len(hosts))) as pool:
        return dict(zip(hosts, pool.map(lambda host: ask(reached, host, question), hosts), strict=True))


def refuse_others(answers: Mapping[str, HostFacts | str], *, where: str) -> None:
    """Raise ConfigError with all hosts that were reached and are not as this machine."""
    here = facts_here().versions
    problems = []
    for host, facts in answers.items():
        if isinstance(facts, NoFacts):
            problems.append(f"{host}: {facts}")
        if isinstance(facts, str):
            continue
        problems += [
            f"{host}: {name} is {facts.versions.get(name)}; here it is {own}"
            for name, own in here.items()
            if facts.versions.get(name) != own
        ]
        problems += [f"{host}: {location}: not the folder that this machine sees" for location in facts.unseen]
    if problems:
        raise ConfigError(f"{where}: {'; '.join(problems)}")
