"""What Ray Train leaves behind where its controller dies: part of the one door to Ray."""

import logging

import ray
from ray.core.generated import gcs_pb2
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, remove_placement_group

logger = logging.getLogger(__name__)


def remove_orphaned_placement_groups() -> int:
    """Give back the processors of trainings whose controllers are dead; returns how many groups they had.

    A controller reserves the place of its worker by a placement group, which Ray keeps until controller and driver have
    both ended. Ray Train's own process that removes it earlier is left out (`trainer.py`): it learns of a group
    only when the worker has started, and needs Ray's dashboard. Without this, each controller that dies can block a
    processor for the rest of the run.
    """
    try:
        # Ray's public table of placement groups does not say who has created them.
        records = ray._private.state.state._connect_and_get_accessor().get_placement_group_table()  # noqa: SLF001
        groups = [gcs_pb2.PlacementGroupTableData.FromString(record) for record in records]
    except (RayError, RuntimeError) as error:
        logger.info("looking for placement groups without a controller: %s", error)
        return 0
    own_job = ray.get_runtime_context().get_job_id()
    removed = gcs_pb2.PlacementGroupTableData.PlacementGroupState.REMOVED
    orphans = [
        group
        for group in groups
        if group.state != removed and group.creator_actor_dead and group.creator_job_id.hex() == own_job
    ]
    for group in orphans:
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
    return len(orphans)
