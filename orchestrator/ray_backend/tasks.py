"""What runs in Ray's own processes: a stage, or one of several workers of a training; part of the one door to Ray."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import ray
from ray.train.backend import Backend, BackendConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.cluster.environment import COMPILED, FOR_WORKERS
from orchestrator.cluster.node_pool import Resources
from orchestrator.ray_backend.draining import draining_nodes
from orchestrator.ray_backend.errors import FailedStageError, cause_of, classify
from orchestrator.ray_backend.nodes import has_room, only
from orchestrator.scheduling.ended import Done, Failed
from orchestrator.scheduling.placement import Start
from orchestrator.stages.carry_out import carry_out
from orchestrator.stages.context import RunContext
from orchestrator.storage import run_paths
from orchestrator.storage.json_values import JsonMapping
from orchestrator.storage.private_folder import cache_folder
from orchestrator.training.stop_request import Watch, listen_to_signals
from orchestrator.training.workers import Worker
from orchestrator.workflow.graph import Stage
from orchestrator.workflow.keys import StageKind

DRAIN_EVERY_S = 5.0
"""Time between two looks at whether the node of a training is drained."""


class SubmittedTask(NamedTuple):
    """A stage in Ray's hands."""

    reference: "ray.ObjectRef[Done]"
    """What comes back where it succeeds."""
    node: str
    """Where it runs; empty if Ray chooses. A process that dies cannot say where it was."""


def submit(
    start: Start, *, context: "ray.ObjectRef[RunContext]", is_separate: bool, selector: dict[str, str]
) -> SubmittedTask:
    """Hand one stage to Ray under its own name.

    Parameters
    ----------
    start
        What is done and with what.
    context
        A reference to the context.
    is_separate
        It gets a process of its own, on its node if there is room; several workers anyway.
    selector
        Labels of the machines on which the stage may run.
    """
    options: dict[str, object] = {"name": start.stage.key.text}
    if start.num_workers > 1:
        settle_coordinator()
        # The workers take the share; the task that waits for them takes no processors. Yet it and Ray Train's actors,
        # which follow it, take half a GiB: Ray would put those of all trainings beside the driver.
        options |= {"num_cpus": 0, "scheduling_strategy": NodeAffinitySchedulingStrategy(start.node, soft=True)}
        return SubmittedTask(reference=_fit.options(**options).remote(context, start, selector), node="")
    options |= {"num_cpus": start.share.cpus, "num_gpus": start.share.gpus}
    node = start.node if is_separate and has_room(start.node, start.share) else ""
    if node:
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node, soft=False)
    elif selector:
        options["label_selector"] = selector
    task = _carry_out_once if is_separate or start.share.gpus else _carry_out
    return SubmittedTask(reference=task.options(**options).remote(context, start), node=node)


def settle_coordinator() -> None:
    """Start what Ray Train has once in a cluster beside this process, if it does not run yet.

    All trainings of several workers ask it for their processors. It stays where it is asked for first: the machine of
    the first of them, whose loss would keep all others waiting for its answers.
    """
    from ray.data._internal.cluster_autoscaler import get_or_create_autoscaling_coordinator

    get_or_create_autoscaling_coordinator()


def _carry_out_here(context: RunContext, start: Start, *, worker: Worker | None = None) -> Done:
    """Carry out a stage in this process."""
    stage = start.stage
    watches = (Watch(look=_look_for_drain, every_s=DRAIN_EVERY_S),)
    _log_to_process(stage)
    _settle_environment()
    node: str = ray.get_runtime_context().get_node_id()
    try:
        gpus = start.share_of_worker.gpus
        voxels = carry_out(context, stage, watches=watches, gpus=gpus, node=node, worker=worker)
    except Exception as error:
        has_log = stage.kind is StageKind.TRAIN
        raise FailedStageError(Failed.of(error, kind=classify(error), node=node, has_log=has_log)) from error
    return Done(node=node, voxels=voxels)


@ray.remote(max_retries=0)  # type: ignore[untyped-decorator]
def _carry_out(context: RunContext, start: Start) -> Done:
    return _carry_out_here(context, start)


def _settle_environment() -> None:
    """Set what must be set before nnU-Net and torch are imported."""
    os.environ.update(FOR_WORKERS)
    if COMPILED not in os.environ:
        # By default a folder whose name others can know beforehand.
        os.environ[COMPILED] = str(cache_folder("compiled"))


# CUDA stays with the GPU that a process has used first, and keeps memory of it: the next stage gets a new process. Ray
# cares for that by itself only where GPUs are asked for at the decorator.
@ray.remote(max_retries=0, max_calls=1)  # type: ignore[untyped-decorator]
def _carry_out_once(context: RunContext, start: Start) -> Done:
    return _carry_out_here(context, start)


class _ListeningBackend(Backend):  # type: ignore[misc]
    """Lets a worker hear signals: its loop runs in a thread, and only the main thread can set a handler."""

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:  # noqa: ARG002 - Ray's signature
        """Set the handlers in the main thread of each worker."""
        worker_group.execute(listen_to_signals)


@dataclass
class _NoProcessGroup(BackendConfig):  # type: ignore[misc]
    """Tells Ray Train to leave ``torch.distributed`` alone.

    Ray's torch backend starts a process group before the training loop: nnU-Net's trainer then takes itself for
    distributed when it is made, and moves to CUDA. Workers find each other later.
    """

    backend: str = "none"

    @property
    def backend_cls(self) -> type[Backend]:
        """What is done around the training loop."""
        return _ListeningBackend


# Ray Train leaves a reference to what it has put into the object store, until Python collects its garbage: as long as
# the process is there Ray takes its machine for busy, and lets none go.
@ray.remote(max_retries=0, max_calls=1)  # type: ignore[untyped-decorator]
def _fit(context: RunContext, start: Start, selector: dict[str, str]) -> None:
    """Run one training of several workers through Ray Train, and wait for it."""
    from ray.train import RunConfig, ScalingConfig, WorkerGroupError

    from orchestrator.ray_backend.trainer import LeanTrainer

    stage, each = start.stage, start.share_of_worker
    _log_to_process(stage)
    trainer = LeanTrainer(
        _train_worker,
        train_loop_config={"context": context, "start": start},
        torch_config=_NoProcessGroup(),
        scaling_config=ScalingConfig(
            num_workers=start.num_workers,
            use_gpu=each.gpus > 0,
            resources_per_worker={"CPU": each.cpus} | ({"GPU": each.gpus} if each.gpus else {}),
            # nnU-Net's workers are on one machine.
            placement_strategy="STRICT_PACK",
            label_selector=_here_if_free(start.share) or selector or None,
        ),
        run_config=RunConfig(name=stage.key.text.replace(" ", "-"), **_ray_train_storage(context)),
    )
    try:
        trainer.fit()
    except WorkerGroupError as error:
        raise cause_of(error) from None


def _here_if_free(share: Resources) -> dict[str, str]:
    """Return the label of this machine if it has room for all workers; elsewhere, two machines could end a training."""
    node_id = ray.get_runtime_context().get_node_id()
    return only(node_id) if has_room(node_id, share) else {}


def _train_worker(config: JsonMapping) -> None:
    from ray.train import get_context
    from ray.train.collective import broadcast_from_rank_zero

    start: Start = config["start"]
    rank = get_context().get_world_rank()
    with TemporaryDirectory(prefix="workers-") as own:
        worker = Worker(rank=rank, number=start.num_workers, meeting=Path(broadcast_from_rank_zero(own)))
        _carry_out_here(config["context"], start, worker=worker)


def _look_for_drain() -> str:
    """Return why this process must stop if its node is being drained: by the autoscaler or by `ray drain-node`."""
    return "its node is drained" if ray.get_runtime_context().get_node_id() in draining_nodes() else ""


def _ray_train_storage(context: RunContext) -> dict[str, object]:
    """Where Ray Train keeps the state of its own; ours is in the checkpoints."""
    folder = f"{context.output.rstrip('/')}/{run_paths.RAY_TRAIN}"
    scheme, _, path = folder.rpartition("://")
    if scheme in {"", "s3"}:
        return {"storage_path": folder}
    # pyarrow, by which Ray Train writes, finds other credentials on gs:// than we do, and does not know az://.
    from obstore.fsspec import FsspecStore
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    return {
        "storage_path": path,
        "storage_filesystem": PyFileSystem(FSSpecHandler(FsspecStore("gs" if scheme == "gs" else "az"))),
    }


def _log_to_process(stage: Stage) -> None:
    """Send log lines to the process' own log, which the Ray dashboard shows under the name of the stage."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger(__name__).info("stage %s", stage.key)
