"""A batch system: three commands and how their answers are read, which are data (`clusters/batch/`)."""

import getpass
import os
import pwd
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from orchestrator.cluster.environment import AUTH_TOKEN, in_home
from orchestrator.configuration import Entry, load_yaml, understood
from orchestrator.errors import ClusterError, ConfigError
from orchestrator.shipped import shipped_file

COMMAND_LIMIT_S = 60.0
"""Longest wait for an answer: a controller that is busy takes its time."""
NO_REASON = {"None", "-", "--"}
"""What some say of a job that they have not looked at yet."""


def _with_groups(*names: str) -> AfterValidator:
    def check(pattern: str) -> str:
        try:
            groups = re.compile(pattern, re.MULTILINE).groupindex
        except re.error as error:
            raise ValueError(f"a regular expression ({error})") from None
        if missing := [name for name in names if name not in groups]:
            raise ValueError(f"a group (?P<{missing[0]}>...)")
        return pattern

    return AfterValidator(check)


def _with_places(**examples: object) -> AfterValidator:
    """Return what refuses texts with other placeholders, which could not be filled in once a job is to be submitted."""

    def check(texts: list[str] | dict[str, str]) -> list[str] | dict[str, str]:
        _fill_in(list(texts.values()) if isinstance(texts, dict) else texts, examples)
        return texts

    return AfterValidator(check)


def _fill_in(texts: Sequence[str], examples: Mapping[str, object]) -> None:
    for text in texts:
        try:
            text.format(**examples)
        except (LookupError, ValueError, AttributeError, TypeError):
            places = ", ".join(f"{{{name}}}" for name in examples)
            raise ValueError(f"no placeholder but {places}, and {{{{ for a brace, in {text!r}") from None


class SubmitEntry(Entry):
    """How a job is submitted."""

    command: Annotated[list[str], Field(min_length=1), _with_places(script="x")]
    """`{script}` stands for the path of its script."""
    script_from: Literal["argument", "stdin"] = "argument"
    """Where the command takes the script from."""
    answer: Annotated[str, _with_groups("id")]
    """Regular expression with a group `id`."""
    without: dict[str, Annotated[str, _with_groups()]] = Field(default={})
    """Variable that goes before the lines of a script, if the user's shell sets it, to a regular expression of options:
    where one is in a line, the variable is left out."""


class QueryEntry(Entry):
    """How jobs are listed."""

    command: Annotated[list[str], Field(min_length=1), _with_places(user="x")]
    """`{user}` stands for the name of this user."""
    job: Annotated[str, _with_groups("id", "state", "reason", "name")]
    """Regular expression of one job, with groups `id`, `name`, `state` and `reason`."""
    none: str = "(?!)"
    """Regular expression of what it says, perhaps as an error, where there is no job."""
    waiting: list[str]
    """States of jobs that have not begun."""
    running: list[str]
    """States of jobs that have."""
    suspended: list[str] = Field(default=[])
    """Those of them in which nothing of a job runs for now."""
    without: list[str] = Field(default=[])
    """Variables that would change the list, if the user's shell sets them."""


class CancelEntry(Entry):
    """How a job is ended."""

    command: Annotated[list[str], Field(min_length=1), _with_places(id="x")]
    """`{id}` stands for the job."""


class ScriptEntry(Entry):
    """What stands in a script."""

    directive: str
    """Begins each line for the batch system."""
    options: dict[str, str]
    """Name of a value to the option that tells it, with `{value}` in its place."""
    parts: Annotated[dict[str, str], _with_places(value="x")] = Field(default={})
    """Likewise for values that have no option of their own: what stands at `{name}` in an option of another, where the
    value is given."""
    begin: Annotated[list[str], _with_places(log="x")] = Field(default=[])
    """Lines of shell before all others; `{log}` stands for the beginning of the path of the log."""
    everywhere: Annotated[list[str], _with_places(nodes=1, cpus=1, gpus=1)] = Field(default=[])
    """Starts a command once on each machine of an allocation; `{nodes}`, `{cpus}` and `{gpus}` stand for numbers."""

    @model_validator(mode="after")
    def _with_parts(self) -> "ScriptEntry":
        _fill_in(list(self.options.values()), {"value": "x", **self.parts})
        return self

    def lines(self, values: Mapping[str, object], *, options: Sequence[str], where: str) -> list[str]:
        """Return the lines for the batch system; raises ConfigError if a value is given that they cannot tell."""
        given = {name: value for name, value in values.items() if value is not None}
        parts = {name: text.format(value=given[name]) if name in given else "" for name, text in self.parts.items()}
        lines = []
        for name, value in given.items():
            # The parts of an array have ids of their own.
            told_by = f"array_{name}" if "array" in given and f"array_{name}" in self.options else name
            if told_by in self.options:
                option = self.options[told_by]
                # In a path, where it begins what the batch system replaces, such as %j.
                told = str(value).replace("%", "%%") if name == "log" and "%" in option else value
                lines.append(f"{self.directive} {option.format(value=told, **parts)}")
            elif name not in {"comment", "warning_s", "nodes", "alone"} and not any(
                f"{{{name}}}" in self.options.get(other, "") for other in given
            ):
                raise ConfigError(f"{where}: {name} is {value!r}; this batch system has no option for it")
        # Of two, the later counts.
        lines += [f"{self.directive} {option}" for option in options]
        return [*lines, *(line.format(log=shlex.quote(str(given["log"]))) for line in self.begin if "log" in given)]


class BatchSystem(Entry):
    """A file in `clusters/batch/`."""

    submit: SubmitEntry
    query: QueryEntry
    cancel: CancelEntry
    script: ScriptEntry

    def script_text(
        self,
        values: Mapping[str, object],
        *,
        options: Sequence[str] = (),
        setup: Sequence[str],
        commands: Sequence[str],
        where: str,
    ) -> str:
        """Return a script.

        Parameters
        ----------
        values
            Of the options, by name; what is None is left out.
        options
            Further ones, as they are told.
        setup, commands
            Lines of shell.
        where
            The pool, for messages.

        Raises
        ------
        ConfigError
            If a value is given that this batch system has no option for.
        """
        lines = self.script.lines(values, options=options, where=where)
        return "\n".join(["#!/bin/bash", *lines, *setup, *commands, ""])

    def submit_line(self, script: Path, *, lines: str) -> str:
        """Return the line of shell that submits a job whose script will have these lines for the batch system."""
        line = shlex.join(part.format(script=script) for part in self.submit.command)
        if variables := self._said_in(lines):
            line = f"env {' '.join(f'-u {name}' for name in variables)} {line}"
        return f"{line} < {shlex.quote(str(script))}" if self.submit.script_from == "stdin" else line

    def submit_job(self, script: Path) -> str:
        """Submit a job; returns its id."""
        command = [part.format(script=script) for part in self.submit.command]
        text = script.read_text(encoding="utf-8")
        given = text if self.submit.script_from == "stdin" else None
        answer = _answer(command, text=given, without=self._said_in(text))
        found = re.search(self.submit.answer, answer, re.MULTILINE)
        if found is None:
            raise ClusterError(f"{' '.join(command)}: answered {answer!r:.200}; expected {self.submit.answer}")
        return found["id"]

    def _said_in(self, script: str) -> list[str]:
        """Return the variables that would go before what a script says itself."""
        begin = re.escape(self.script.directive)
        return [
            name
            for name, option in self.submit.without.items()
            if re.search(rf"^{begin}\b.*\s(?:{option})(?![\w-])", script, re.MULTILINE)
        ]

    def jobs(self, prefix: str) -> "tuple[Job, ...]":
        """Return the jobs of this user that wait or run and whose names begin like this."""
        command = [part.format(user=user_name()) for part in self.query.command]
        found = self.understand(_answer(command, none=self.query.none, without=self.query.without))
        return tuple(job for job in found if job.name.startswith(prefix))

    def understand(self, answer: str) -> "list[Job]":
        """Return the jobs of a list that wait or run."""
        jobs = []
        for found in re.finditer(self.query.job, answer, re.MULTILINE):
            job_id, name, state, reason = ((found[key] or "").strip() for key in ("id", "name", "state", "reason"))
            is_waiting = state in self.query.waiting
            if is_waiting or state in self.query.running:
                told = reason if is_waiting and reason not in NO_REASON else ""
                told = state if state in self.query.suspended else told
                jobs.append(Job(id=job_id, name=name, reason=told, is_waiting=is_waiting))
        return jobs

    def cancel_job(self, job_id: str) -> None:
        """End a job."""
        _answer([part.format(id=job_id) for part in self.cancel.command])


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A job that waits or runs."""

    id: str
    name: str
    reason: str
    """Why it waits, or that it is suspended; empty for one that runs."""
    is_waiting: bool


def load_batch_system(name: str, *, beside: Path) -> BatchSystem:
    """Read the file of a batch system: by the name of one that comes along, or by its path from the file `beside`."""
    shipped = {path.stem: path for path in shipped_file("clusters", "batch").glob("*.yaml")}
    if name.endswith((".yaml", ".yml")):
        path = beside.parent / (in_home(Path(name)) if name.startswith("~") else name)
    elif name in shipped:
        path = shipped[name]
    else:
        names = ", ".join(sorted(shipped))
        raise ConfigError(f"{beside}: batch_system is {name!r}; expected one of {names}, or a YAML file")
    return understood(load_yaml(path), BatchSystem, where=str(path))


def user_name() -> str:
    """Return the name of this user, or the number where no name is known."""
    try:
        # Not what the variables say, which getpass believes first: they may be another user's, after su.
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        pass
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.geteuid())


def _answer(command: Sequence[str], *, text: str | None = None, none: str = "(?!)", without: Sequence[str] = ()) -> str:
    # Jobs inherit the environment of whoever submits them; the token is in a file.
    environment = {name: value for name, value in os.environ.items() if name not in {AUTH_TOKEN, *without}}
    try:
        done = subprocess.run(
            command,
            input=text,
            capture_output=True,
            # Names of other users' jobs, and reasons, are written in whatever encoding.
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=COMMAND_LIMIT_S,
            env=environment,
        )
    except FileNotFoundError as error:
        raise ClusterError(f"{command[0]}: not found; expected on this machine, as on every login node") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClusterError(f"{' '.join(command)}: {error}") from error
    if done.returncode and not re.search(none, done.stdout + done.stderr):
        raise ClusterError(f"{' '.join(command)}: exit code {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout
