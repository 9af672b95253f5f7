"""What the errors of Ray mean: part of the one door to Ray."""

from typing import Final

import ray
from ray import exceptions as ray_errors
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import (
    RayTrainError,
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
)
from ray.train.v2.api.exceptions import PreemptionError

from orchestrator.errors import LostWorkerError, is_out_of_memory
from orchestrator.ray_backend.nodes import node_at
from orchestrator.scheduling.ended import Failed, FailureKind, is_of_machine, kind_of

_KINDS: Final[tuple[tuple[tuple[type[BaseException], ...], FailureKind], ...]] = (
    # The machine is gone, or the one that was asked for.
    (
        (
            ray_errors.NodeDiedError,
            ray_errors.LocalRayletDiedError,
            ray_errors.TaskUnschedulableError,
            ray_errors.ActorUnschedulableError,
            ray_errors.TaskPlacementGroupRemoved,
            ray_errors.ActorPlacementGroupRemoved,
            PreemptionError,
        ),
        FailureKind.PREEMPTION,
    ),
    # A process ended, or its last words are lost: an error that cannot be read here may be of any kind.
    (
        (ray_errors.WorkerCrashedError, ray_errors.RayActorError, ray_errors.UnserializableException),
        FailureKind.CRASH,
    ),
    # The machine could not start a process for the stage, or give it what it was sent.
    (
        (
            ray_errors.RuntimeEnvSetupError,
            ray_errors.RaySystemError,
            ray_errors.ObjectStoreFullError,
            ray_errors.AuthenticationError,
            WorkerGroupStartupFailedError,
            WorkerGroupStartupTimeoutError,
        ),
        FailureKind.MACHINE,
    ),
    ((ray_errors.UserCodeException, ray_errors.CrossLanguageError), FailureKind.DETERMINISTIC),
    # An object that was lost, an owner that died, a call that was not answered, a full disk.
    ((ray_errors.RayError, RayTrainError), FailureKind.TRANSIENT),
)
"""What each class of Ray says; of several that fit, the first."""
_NODE_DEATHS = ("node has died", "node is dead", "node was terminated", "node has been marked dead", "raylet died")
"""What Ray says of an actor that went down with its node; it has no class of its own for that."""


class FailedStageError(Exception):
    """Brings what a stage has failed with out of its process: Ray shows a task as failed only if it raises."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed)
        self.failed = failed

    def __str__(self) -> str:
        return self.failed.text


def failure_of(error: Exception) -> Failed:
    """Return how a stage has failed whose task ended with an error, as ``ray.get`` raises it."""
    cause = innermost(error)
    if isinstance(cause, FailedStageError):
        return cause.failed
    told = cause if isinstance(cause, Exception) else error
    return Failed.of(told, kind=classify(error), node=node_at(address_of(error), found=ray.nodes()) or "")


def address_of(error: BaseException) -> str | None:
    """Return the IP address of the machine where a task has failed before any code of ours could say where."""
    # Where the cause is an error of Ray's own, what comes is of both classes and has forgotten the address.
    address = getattr(error, "ip", None) if isinstance(error, ray_errors.RayTaskError) else None
    return str(address) if address else None


def cause_of(error: WorkerGroupError) -> Exception:
    """Return what the workers of a training ended with: of several failures the one that says most.

    Where one ends without a word, all that the others know is that they lost it.
    """
    failures: list[Exception] = list(error.worker_failures.values())
    return min(failures, key=_silence, default=error)


def _silence(failure: BaseException) -> int:
    """Return 0 for a failure that says why, 1 for a process that ended without a word, 2 for the loss of another."""
    cause = innermost(failure)
    failed = cause.failed if isinstance(cause, FailedStageError) else None
    if failed is None:
        return int(classify(cause) is FailureKind.CRASH)
    return 2 * (failed.kind is FailureKind.CRASH and failed.line.startswith(LostWorkerError.__name__))


def innermost(error: BaseException) -> BaseException:
    """Return what has really happened, out of the envelopes in which Ray sends it."""
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        inner: object = None
        if isinstance(error, ray_errors.RayTaskError):
            inner = error.cause
        elif isinstance(error, WorkerGroupError):
            inner = cause_of(error)
        else:
            # Ray Train's envelopes: a worker that stopped answering, a loop that raised, a controller that failed.
            names = ("health_check_failure", "_base_exc", "controller_failure")
            inner = next(filter(None, (getattr(error, name, None) for name in names)), None)
        if not isinstance(inner, BaseException):
            break
        error = inner
    return error


def classify(error: BaseException) -> FailureKind:
    """Return what kind of failure an error is that ``ray.get`` has raised."""
    cause = innermost(error)
    if is_out_of_memory(cause):
        return FailureKind.MEMORY
    if _is_death_of_a_node(cause):
        return FailureKind.PREEMPTION
    if is_of_machine(cause):
        return FailureKind.MACHINE
    # Ray sends what it cannot pickle as text in an error of its base class: it is of the stage.
    if isinstance(cause, ray_errors.RayTaskError) or type(cause) is ray_errors.RayError:
        return FailureKind.DETERMINISTIC
    return next((kind for classes, kind in _KINDS if isinstance(cause, classes)), None) or kind_of(cause)


def _is_death_of_a_node(error: BaseException) -> bool:
    if not isinstance(error, ray_errors.RayActorError):
        return False
    return error.preempted or any(words in str(error).lower() for words in _NODE_DEATHS)
