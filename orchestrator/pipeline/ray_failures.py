"""What the errors of Ray mean: part of the one door to Ray."""

from typing import Final

from ray import exceptions as ray_errors
from ray.train import WorkerGroupError

from orchestrator.errors import is_out_of_memory
from orchestrator.pipeline.failures import FailureKind, kind_of

_NODE_NOTE: Final = "on node "

_LOST_PLACES = (
    ray_errors.NodeDiedError,
    ray_errors.LocalRayletDiedError,
    ray_errors.TaskUnschedulableError,
    ray_errors.ActorUnschedulableError,
    ray_errors.TaskPlacementGroupRemoved,
    ray_errors.ActorPlacementGroupRemoved,
)
"""The machine is gone, or the one that was asked for."""
_NODE_DEATHS = ("node has died", "node is dead", "node was terminated", "node has been marked dead", "raylet died")
"""What Ray says of an actor that went down with its node; it has no class of its own for that."""


def note_node(error: BaseException, node_id: str) -> None:
    """Write the node on an error before it leaves the node: what Ray makes of it does not say where it was."""
    error.add_note(f"{_NODE_NOTE}{node_id}")


def node_of(error: BaseException) -> str | None:
    """Return the node that was written on an error."""
    for note in getattr(innermost(error), "__notes__", ()):
        if note.startswith(_NODE_NOTE):
            return str(note.removeprefix(_NODE_NOTE))
    return None


def innermost(error: BaseException) -> BaseException:
    """Return what has really happened, out of the envelopes in which Ray sends it."""
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        inner: object = None
        if isinstance(error, ray_errors.RayTaskError):
            inner = error.cause
        elif isinstance(error, WorkerGroupError):
            inner = next(iter(error.worker_failures.values()), None)
        else:
            # Ray Train's private envelopes: a worker that stopped answering, a loop that raised.
            inner = getattr(error, "health_check_failure", None) or getattr(error, "_base_exc", None)
        if not isinstance(inner, BaseException):
            break
        error = inner
    return error


def classify(error: BaseException) -> FailureKind:
    """Return what kind of failure an error is that ``ray.get`` has raised."""
    cause = innermost(error)
    if is_out_of_memory(cause):
        return FailureKind.MEMORY
    if isinstance(cause, _LOST_PLACES) or _is_death_of_a_node(cause):
        return FailureKind.PREEMPTION
    if isinstance(cause, ray_errors.WorkerCrashedError | ray_errors.RayActorError):
        return FailureKind.CRASH
    if isinstance(cause, ray_errors.RayError) and not isinstance(cause, ray_errors.RayTaskError):
        # An object that was lost, a runtime environment that could not be built, an owner that died.
        return FailureKind.TRANSIENT
    return kind_of(cause)


def _is_death_of_a_node(error: BaseException) -> bool:
    if not isinstance(error, ray_errors.RayActorError):
        return False
    return error.preempted or any(words in str(error).lower() for words in _NODE_DEATHS)
