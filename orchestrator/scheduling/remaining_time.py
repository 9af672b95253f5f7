"""How long a run still needs, and which machines end too soon for a training."""

from collections.abc import Mapping
from statistics import median

from orchestrator.scheduling.rebalancing import lower_bound_s
from orchestrator.scheduling.scheduler import RESTART_S, Schedule
from orchestrator.workflow.keys import StageKey


def estimate_remaining_s(schedule: Schedule, *, now_s: float) -> float:
    """Return the seconds that a run still needs if it reaches the least makespan of its predicted durations.

    Infinite as long as no machine is there, or to come, that could train.
    """
    slots = [
        node.speed
        for node in schedule.processors.nodes.values() or schedule.to_come
        for _ in range(schedule.needs.one.num_on(node))
    ]
    on_slots, other_s = [], 0.0
    for stage in schedule.remaining():
        seconds = schedule.remaining_s(stage.key, now_s=now_s)
        if stage.kind.uses_network:
            need = schedule.needs.of(stage)
            on_slots += [seconds / need.pace] * need.num_workers
        else:
            other_s += seconds
    if on_slots and not slots:
        return float("inf")
    longest_s = lower_bound_s(on_slots, slots) if slots else 0.0
    return longest_s + other_s / max(1.0, schedule.processors.offered.cpus)


class TimeLeft:
    """Learns how long trainings take until they have told of an epoch, and which machines end before that.

    A training that begins there would be told to stop before it has done anything.
    """

    def __init__(self) -> None:
        """Begin with nothing known."""
        self._started_s: dict[StageKey, float] = {}
        self._took_s: list[float] = []
        self._had_s: dict[str, float] = {}

    def started(self, key: StageKey, *, now_s: float) -> None:
        """Take note that an attempt of a training begins."""
        self._started_s[key] = now_s

    def told(self, key: StageKey, *, now_s: float) -> None:
        """Take note that it has told of an epoch; all but the first time say nothing."""
        if key in self._started_s:
            self._took_s.append(now_s - self._started_s.pop(key))

    def too_short(self, left_s: Mapping[str, float]) -> frozenset[str]:
        """Return the machines on which no training should begin any more, of those whose time is known.

        In the first half of its time here a machine is never one of them: where all come for a short time, trainings
        begin nevertheless.
        """
        self._had_s = {node_id: self._had_s.get(node_id, seconds) for node_id, seconds in left_s.items()}
        least_s = median(self._took_s or [RESTART_S])
        return frozenset(
            node_id for node_id, seconds in left_s.items() if seconds < min(least_s, self._had_s[node_id] / 2)
        )
