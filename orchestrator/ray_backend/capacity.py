"""Asks Ray's autoscaler for machines: part of the one door to Ray."""

from collections import defaultdict
from collections.abc import Collection, Mapping

import ray

from orchestrator.cluster.node_pool import Resources
from orchestrator.ray_backend.nodes import without


class CapacityRequests:
    """For each machine that is missing a task that takes all of one: it waits until that machine is there, and ends.

    That is what Ray's autoscaler understands. A request by `ray.autoscaler.sdk` would outlive a driver that dies, and
    keep machines that cost money; the tasks die with it.
    """

    def __init__(self) -> None:
        self._waiting: defaultdict[Resources, list[ray.ObjectRef[None]]] = defaultdict(list)

    @property
    def references(self) -> list["ray.ObjectRef[None]"]:
        """Of all that wait."""
        return [reference for waiting in self._waiting.values() for reference in waiting]

    def ended(self, reference: "ray.ObjectRef[None]") -> None:
        """Take note that one has found its machine."""
        for waiting in self._waiting.values():
            if reference in waiting:
                waiting.remove(reference)

    def send(self, missing: Mapping[Resources, int], *, quarantined: Collection[str]) -> None:
        """Let as many wait for machines of each size as are missing."""
        for size in {*self._waiting, *missing}:
            waiting = self._waiting[size]
            while len(waiting) > missing.get(size, 0):
                ray.cancel(waiting.pop())
            while len(waiting) < missing.get(size, 0):
                options = {"num_cpus": size.cpus, "num_gpus": size.gpus, "name": "wait for a machine"}
                if quarantined:
                    options["label_selector"] = without(quarantined)
                waiting.append(_arrive.options(**options).remote())


@ray.remote(max_retries=0)  # type: ignore[untyped-decorator]
def _arrive() -> None:
    """Do nothing: that it runs says that there is room for it."""
