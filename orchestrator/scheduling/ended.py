"""How an attempt at a stage has ended, as a value: what carries it out returns it, and the schedule decides by it."""

import traceback
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.errors import GpuError, LostWorkerError, OrchestratorError, is_of_a_disk, is_out_of_memory

NUM_LAST_LINES = 5
"""Of the log of a failed training that people are told."""


class FailureKind(StrEnum):
    """Why a stage has ended without its products."""

    PREEMPTION = "preemption"
    """It was asked to stop, or its machine was taken away: nothing is wrong with it."""
    CRASH = "crash"
    """Its process ended without a word: killed from outside, or by a fault of native code; nobody can tell which."""
    TRANSIENT = "transient"
    """Storage, cluster or a disk failed; a later attempt can succeed."""
    MEMORY = "memory"
    """Memory was short: because of itself, or of what else was there; nobody can tell which."""
    GPU = "gpu"
    """A GPU cannot be used or has failed: its machine is broken."""
    MACHINE = "machine"
    """A machine cannot carry out what others can: it starts no process, or does not import what a stage needs."""
    DETERMINISTIC = "deterministic"
    """A bad case or a bug: another attempt would end the same way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """The stage has left its products."""

    node: str = ""
    """Id of the machine where it was; empty where that is not known."""
    voxels: int = 0
    """Of the image that an ingest has made; 0 of any other stage."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """The stage has ended without its products."""

    kind: FailureKind
    line: str
    """For people: the class of the error and the first line of its message."""
    text: str = ""
    """All that is known: the message, notes and causes, each on lines of its own."""
    last_lines: tuple[str, ...] = ()
    """With which the log of the attempt ends, if it is one at a training that has come to that."""
    node: str = ""
    """Id of the machine where it was; empty where that is not known."""

    @classmethod
    def of(cls, error: BaseException, *, kind: FailureKind, node: str = "", has_log: bool = False) -> "Failed":
        """Return what an error says.

        Parameters
        ----------
        error
            With which the attempt has ended.
        kind
            What kind of failure it is.
        node
            Where it was.
        has_log
            Whether the attempt keeps a log, which ends with the traceback of the error.
        """
        message = str(error).strip()
        logged = "".join(traceback.format_exception(error)).splitlines() if has_log else []
        return cls(
            kind=kind,
            line=f"{type(error).__name__}: {message.splitlines()[0] if message else 'no message'}",
            text=_whole_text(error),
            last_lines=tuple(logged[-NUM_LAST_LINES:]),
            node=node,
        )


Ended = Done | Failed


def _whole_text(error: BaseException) -> str:
    """Return the message of an error, with its notes and its causes."""
    lines = [f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())]
    cause = error.__cause__
    while cause is not None:
        lines.append(f"caused by {type(cause).__name__}: {cause}")
        cause = cause.__cause__
    return "\n".join(lines) + "\n"


_CANNOT_START = ("failed to import on the", "can't start new thread", "cannot open shared object file")
"""What Ray says where a process lacks a module, and Python and the loader where a process can have no more."""


def is_of_machine(error: BaseException) -> bool:
    """Whether an error is of the machine: what is imported, and how many processes it can have, is the same for all."""
    return isinstance(error, ImportError) or any(words in str(error) for words in _CANNOT_START)


def kind_of(error: BaseException) -> FailureKind:
    """Classify an error that a stage itself has raised."""
    if getattr(error, "is_preemption", False):
        return FailureKind.PREEMPTION
    if isinstance(error, GpuError | LostWorkerError):
        return FailureKind.GPU if isinstance(error, GpuError) else FailureKind.CRASH
    if is_out_of_memory(error):
        return FailureKind.MEMORY
    if isinstance(error, OrchestratorError):
        return FailureKind.TRANSIENT if error.can_retry else FailureKind.DETERMINISTIC
    if is_of_a_disk(error):
        return FailureKind.TRANSIENT
    return FailureKind.MACHINE if is_of_machine(error) else FailureKind.DETERMINISTIC
