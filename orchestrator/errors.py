"""Every error that this project raises on purpose.

Each class says whether trying again can help, and takes one message string: an exception with other constructor
arguments does not survive the pickling between Ray processes.
"""

import errno
from typing import ClassVar

_SHORT_OF_MEMORY = (
    "allocate memory",
    "bad_alloc",
    "out of memory",
    "_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_INTERNAL_ERROR",
    "unable to find an engine",
)
"""What ITK, torch on a CPU, CUDA and its libraries say; the last three also for other reasons, but mostly for this."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was short, of the machine or of its GPU: some have a class for that, others only words."""
    names = {kind.__name__ for kind in type(error).__mro__}
    has_class = not names.isdisjoint({"MemoryError", "OutOfMemoryError"})
    return has_class or any(words in str(error) for words in _SHORT_OF_MEMORY)


_OF_A_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.EAGAIN}
"""What a disk or file system says that is full, gone or busy."""


def is_of_a_disk(error: BaseException) -> bool:
    """Whether a disk, file system or network failed, which says nothing about a file: a later attempt can succeed."""
    return isinstance(error, OSError) and (error.errno in _OF_A_DISK or isinstance(error, ConnectionError))


class OrchestratorError(Exception):
    """Base of all deliberate errors; the message says what was found, what was expected and what to do."""

    can_retry: ClassVar[bool] = False
    is_preemption: ClassVar[bool] = False
    """Whether the work was taken away without any fault of its own: it may be repeated any number of times."""


class ConfigError(OrchestratorError):
    """A command line, study file or cluster file that is not valid (exit code 2)."""


class DataError(OrchestratorError):
    """A download, case, image or mask that is missing, unreadable or not what it should be (exit code 2)."""


class IntegrityError(OrchestratorError):
    """A file of ours whose checksum or structure does not match what was written."""


class StorageError(OrchestratorError):
    """A storage that could not be read or written."""

    can_retry: ClassVar[bool] = True


class ClusterError(OrchestratorError):
    """A cluster that could not be started, reached or used."""

    can_retry: ClassVar[bool] = True


class GpuError(OrchestratorError):
    """A GPU that torch cannot use, or that has failed: the fault of its machine, and another one will do."""

    can_retry: ClassVar[bool] = True


class TrainingError(OrchestratorError):
    """A training that cannot go on: a bug, a bad case or too little memory; repeating it would fail again."""


class LostWorkerError(OrchestratorError):
    """A worker that trains together with others, of which one has ended: that one may know why."""

    can_retry: ClassVar[bool] = True


class SupersededError(OrchestratorError):
    """An attempt at a training that had been given up for lost: another one has begun, and this one must not go on."""

    can_retry: ClassVar[bool] = True
    is_preemption: ClassVar[bool] = True


class PreemptedError(OrchestratorError):
    """A training that was asked to stop and has written a checkpoint: the next attempt goes on from there."""

    can_retry: ClassVar[bool] = True
    is_preemption: ClassVar[bool] = True
