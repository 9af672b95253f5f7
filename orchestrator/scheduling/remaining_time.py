"""How long a run still needs."""

from orchestrator.scheduling.rebalancing import lower_bound_s
from orchestrator.scheduling.scheduler import Schedule


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
