"""What a run would take on an imagined cluster: time, GPU hours, money; and which cluster is the cheapest in time."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median_high

from orchestrator.benchmark.definition import Training
from orchestrator.benchmark.presets import Preset
from orchestrator.benchmark.trainings.ensembles import fitted_trainings
from orchestrator.cluster.config import MIN_PREEMPTION_GAIN_S, ClusterConfig
from orchestrator.cluster.prices import Prices
from orchestrator.errors import ConfigError
from orchestrator.scheduling.scheduler import RESTART_S, Schedule
from orchestrator.scheduling.training_need import Needs, first_misfit, needs_of, training_need
from orchestrator.simulation.engine import Conditions, Simulation, Trace
from orchestrator.simulation.fleet import Fleet, alternatives, fleet_of
from orchestrator.training.nnunet.classes import planned_memory_gib
from orchestrator.workflow.graph import Graph, Stage
from orchestrator.workflow.keys import StageKey, StageKind

GROUP_SPREAD, FOLD_SPREAD = 0.15, 0.03
"""Of the logarithm of how trainings differ from what is expected of them, in the imagined world."""

NUM_SIMULATIONS, NUM_SIMULATIONS_OF_OTHERS = 5, 2
"""Played for the cluster that was asked for, and for each of the others."""
NUM_TOGETHER = 25
"""Cases that the others do in one stage: minutes, beside the hours of a training."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What would come of a run on one cluster; the medians of several simulations."""

    fleet: Fleet
    makespan_s: float
    early_s: float
    late_s: float
    """Shortest and longest simulation."""
    gpu_hours: float
    """In which GPUs are taken."""
    held_gpu_hours: float
    """In which machines hold GPUs."""
    usd: float | None
    """None where nothing is paid."""
    num_interruptions: float
    num_requests_to_stop: float
    trace: Trace
    """One of them, for the chart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What the user can bear; None for no limit."""

    deadline_hours: float | None = None
    max_usd: float | None = None

    def allow(self, forecast: Forecast) -> bool:
        """Whether even the longest simulation is in time, and the cost within the budget."""
        in_time = self.deadline_hours is None or forecast.late_s <= self.deadline_hours * 3600
        return in_time and (self.max_usd is None or (forecast.usd or 0.0) <= self.max_usd)

    @property
    def are_set(self) -> bool:
        """Whether there is any."""
        return self.deadline_hours is not None or self.max_usd is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulatedRun:
    """A run on the cluster that was asked for, and on others."""

    asked_for: Forecast
    others: tuple[Forecast, ...]
    """Those that no other beats in both time and cost, cheapest first; none where nothing is rented."""
    other_forms: Mapping[str, Forecast]
    """The same machines asked for in another way, by a name for people."""


def _check_known(preset: Preset, fleet: Fleet, *, cluster: ClusterConfig) -> None:
    """Raise ConfigError if nobody knows how long trainings take on these machines."""
    if not (preset.is_for_cpus or any(node.offered.gpus for node in fleet.nodes)):
        raise ConfigError(
            f"{cluster.path}: no GPU; expected one, since how long trainings of --preset {preset.name} take is known "
            "for GPUs alone. Set num_gpus, or choose another file"
        )


def _check_limits(graph: Graph, fleet: Fleet, *, cluster: ClusterConfig) -> None:
    """Raise ConfigError if something would be begun again and again, since no machine lasts as long as it takes."""
    longest_s = max((pool.lasts_s for pool in fleet.pools), default=float("inf"))
    for stage in graph.values():
        least_s = 2 * RESTART_S if stage.kind is StageKind.TRAIN else stage.expected_s
        if min(least_s, stage.expected_s) > longest_s:
            raise ConfigError(
                f"{cluster.path}: {stage.key} takes about {least_s:.0f} s at a time, and no machine lasts longer than "
                f"{longest_s:.0f} s; expected longer time limits"
            )


def simulate_run(
    graph: Graph,
    *,
    trainings: Sequence[Training],
    preset: Preset,
    cluster: ClusterConfig,
    prices: Prices | None,
    seed: int,
) -> SimulatedRun:
    """Play a run on the cluster of a file and on other numbers of its machines.

    Parameters
    ----------
    graph, trainings, preset
        What is run.
    cluster
        Where.
    prices
        Of machines that are rented.
    seed
        Of interruptions and durations.

    Raises
    ------
    ConfigError
        If a machine has no price or is not in the file, a training fits on none, or how long it takes is not known.
    """
    fleet = fleet_of(cluster, prices=prices)
    _check_known(preset, fleet, cluster=cluster)
    _check_limits(graph, fleet, cluster=cluster)
    planned_gib = planned_memory_gib(training.model for training in fitted_trainings(trainings))
    one = training_need(cluster, fleet.nodes, preset=preset, planned_gib=planned_gib)
    needs_for = partial(needs_of, trainings, one=one, preset=preset, machines=fleet.nodes)
    needs, seeds = needs_for(config=cluster), tuple(range(seed, seed + NUM_SIMULATIONS))
    play = partial(forecast, needs=needs, min_gain_s=cluster.min_preemption_gain_s)
    asked_for = play(graph, fleet, seeds=seeds)
    forms = {}
    for name, pools in (cluster.imagined_otherwise() if prices is None else {}).items():
        forms[name] = play(graph, replace(fleet, pools=pools, is_growing=not pools[0].come_together), seeds=seeds)
    if any(pool.gpus > 1 for pool in fleet.pools):
        at_end = 1 if cluster.workers_at_end > 1 else 2
        otherwise = needs_for(config=cluster.model_copy(update={"workers_at_end": at_end}))
        forms[f"a run with workers_at_end: {at_end}"] = play(graph, fleet, needs=otherwise, seeds=seeds)
    small = compact(graph)
    others = [
        play(small, other, seeds=seeds[:NUM_SIMULATIONS_OF_OTHERS])
        for other in (alternatives(fleet, num_trainings=len(trainings)) if prices is not None else ())
        if first_misfit(needs, other.nodes) is None
    ]
    return SimulatedRun(asked_for=asked_for, others=_unbeaten(others), other_forms=forms)


def _unbeaten(forecasts: Iterable[Forecast]) -> tuple[Forecast, ...]:
    found: list[Forecast] = []
    for one in sorted(forecasts, key=lambda one: (one.usd or 0.0, one.makespan_s)):
        if not found or one.makespan_s < found[-1].makespan_s:
            found.append(one)
    return tuple(found)


def forecast(
    graph: Graph,
    fleet: Fleet,
    *,
    needs: Needs,
    seeds: Sequence[int],
    min_gain_s: float = MIN_PREEMPTION_GAIN_S,
) -> Forecast:
    """Play a run on a cluster, once for each seed.

    Raises ConfigError if a training fits on none of its machines.
    """
    traces = [_play(graph, fleet, needs=needs, seed=seed, min_gain_s=min_gain_s) for seed in seeds]
    by_length = sorted(traces, key=lambda trace: trace.makespan_s)
    costs = [cost_usd(trace, fleet) for trace in traces]
    return Forecast(
        fleet=fleet,
        makespan_s=by_length[len(by_length) // 2].makespan_s,
        early_s=by_length[0].makespan_s,
        late_s=by_length[-1].makespan_s,
        gpu_hours=median_high([trace.gpu_hours for trace in traces]),
        held_gpu_hours=median_high([trace.held_gpu_hours for trace in traces]),
        usd=median_high([cost for cost in costs if cost is not None]) if None not in costs else None,
        num_interruptions=median_high([trace.num_interruptions for trace in traces]),
        num_requests_to_stop=median_high([trace.num_requests_to_stop for trace in traces]),
        trace=traces[0],
    )


def best(forecasts: Iterable[Forecast], limits: Limits) -> Forecast | None:
    """Return the cheapest that keeps a deadline, or the fastest within a budget; None if there is none."""
    allowed = [one for one in forecasts if limits.allow(one)]
    if limits.deadline_hours is None:
        return min(allowed, key=lambda one: (one.makespan_s, one.usd or 0.0), default=None)
    return min(allowed, key=lambda one: (one.usd or 0.0, one.fleet.num_gpus, one.makespan_s), default=None)


def cost_usd(trace: Trace, fleet: Fleet) -> float | None:
    """Return what the machines of a trace cost, by the hour from their order to their end."""
    prices = {pool.name: pool.usd_per_hour for pool in fleet.pools}
    if fleet.head_usd_per_hour is None or None in prices.values():
        return None
    rented = sum((lifetime.end_s - lifetime.start_s) * (prices[lifetime.pool] or 0.0) for lifetime in trace.lifetimes)
    return (rented + trace.makespan_s * fleet.head_usd_per_hour) / 3600


def compact(graph: Graph) -> dict[StageKey, Stage]:
    """Return a graph with cases of one data set done together, one after the other: ten times smaller, as much work."""
    parts: dict[StageKey, list[Stage]] = {}
    part_of: dict[StageKey, StageKey] = {}
    latest: dict[tuple[StageKind, str, str], StageKey] = {}
    for stage in graph.values():
        key = (
            stage.kind,
            stage.training.id if stage.training else "",
            stage.case.dataset if stage.case else stage.key.text,
        )
        first = latest.get(key)
        if first is None or len(parts[first]) == NUM_TOGETHER:
            first = latest[key] = stage.key
        parts.setdefault(first, []).append(stage)
        part_of[stage.key] = first
    kinds = list(StageKind)
    return {
        first: replace(
            stages[0],
            dependencies=tuple(dict.fromkeys(part_of[need] for stage in stages for need in stage.dependencies)),
            expected_s=sum(stage.expected_s for stage in stages),
        )
        # A part may hold what stood after those that need it.
        for first, stages in sorted(parts.items(), key=lambda item: kinds.index(item[1][0].kind))
    }


def _play(graph: Graph, fleet: Fleet, *, needs: Needs, seed: int, min_gain_s: float) -> Trace:
    schedule = Schedule(graph, done=(), nodes=(), to_come=fleet.nodes, needs=needs, min_gain_s=min_gain_s)
    draw = random.Random(seed)
    groups = {stage.training.group for stage in graph.values() if stage.training}
    factors = {group: draw.lognormvariate(0, GROUP_SPREAD) for group in sorted(groups)}
    true_s = {
        stage.key: stage.expected_s * factors[stage.training.group] * draw.lognormvariate(0, FOLD_SPREAD)
        for stage in graph.values()
        if stage.kind is StageKind.TRAIN and stage.training
    }
    longest_s = max(true_s.values(), default=0.0)
    conditions = Conditions(
        seed=seed,
        # A miniature starts in a process that has imported everything.
        start_training_s=min(Conditions().start_training_s, 0.01 * longest_s),
        progress_s=max(600.0, longest_s / 50),
    )
    return Simulation(
        schedule=schedule,
        pools=fleet.pools,
        true_s=true_s,
        conditions=conditions,
        is_growing=fleet.is_growing,
        idle_s=fleet.idle_s,
    ).run()
