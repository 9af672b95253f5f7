"""Measures the schedule in the simulator: makespan over its lower bound, and what deciding costs for a large run.

    python -m bench.schedule [--quick]

Prints Markdown tables with their goals. The simulator plays the code that decides in a real run.
"""

import random
import time
import tracemalloc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bench.instruments.command_line import command_line
from bench.instruments.machine import conditions
from orchestrator.benchmark.definition import Training
from orchestrator.benchmark.loading import load_study
from orchestrator.cluster.gpu_kinds import GpuKind
from orchestrator.cluster.node_pool import NodePool
from orchestrator.scheduling.rebalancing import lower_bound_s
from orchestrator.scheduling.resources import ResourceRequest, node_of
from orchestrator.scheduling.scheduler import Schedule
from orchestrator.scheduling.training_need import Needs
from orchestrator.simulation.engine import Conditions, Simulation, Trace
from orchestrator.workflow.graph import Graph, Stage
from orchestrator.workflow.keys import StageKey, StageKind

NUMBERS_OF_GPUS = (1, 2, 3, 4, 6, 8, 11, 16, 23, 24, 32, 40, 44, 48, 64)
FLEETS: Mapping[str, Sequence[float]] = {
    "equal": (1.0,),
    "A100 + A10G": (1.0, 0.4),
    "H100 + L40S + A10G": (1.6, 0.8, 0.4),
}
"""Speeds of the GPUs, taken in turn."""
GROUP_SPREAD, FOLD_SPREAD = 0.4, 0.03
"""Of the logarithm of the durations of different groups, and of the folds of one group."""
GOAL = 1.05
NEED = ResourceRequest(cpus=8, gpus=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One simulated run."""

    ratio: float
    """Makespan over the lower bound."""
    is_longest_alone: bool
    """Whether the bound is the longest training alone, which no schedule can change."""
    num_moves: int
    """Preemptions."""


def stages_of(trainings: Sequence[Training], *, expected_s: float) -> dict[StageKey, Stage]:
    """Return the trainings as a graph without anything before or after them."""
    keys = {StageKey(kind=StageKind.TRAIN, training=training.id): training for training in trainings}
    return {
        key: Stage(key=key, dependencies=(), products=(), expected_s=expected_s, training=training)
        for key, training in keys.items()
    }


def fleet(speeds: Sequence[float], number: int) -> tuple[NodePool, ...]:
    """Return so many machines with a GPU each, of these speeds in turn."""
    found = [speeds[index % len(speeds)] for index in range(number)]
    return tuple(
        NodePool(
            name=f"x{speed:g}",
            cpus=8,
            gpus=1,
            gpu=GpuKind(name=f"x{speed:g}", speed=speed, memory_gib=float("inf")),
            max_nodes=found.count(speed),
        )
        for speed in sorted(set(found))
    )


def play(graph: Graph, pools: tuple[NodePool, ...], true_s: Mapping[StageKey, float], *, progress_s: float) -> Trace:
    """Play one run."""
    schedule = Schedule(graph, done=(), nodes=(), to_come=[node_of(pool) for pool in pools], needs=Needs(one=NEED))
    return Simulation(schedule=schedule, pools=pools, true_s=true_s, conditions=Conditions(progress_s=progress_s)).run()


def measure(graph: Graph, true_s: Mapping[StageKey, float], *, speeds: Sequence[float], number: int) -> Measured:
    """Play one run and compare it with its bound."""
    pools = fleet(speeds, number)
    trace = play(graph, pools, true_s, progress_s=600.0)
    all_speeds = [pool.gpu.speed for pool in pools for _ in range(pool.max_nodes)]
    bound_s = lower_bound_s(list(true_s.values()), all_speeds)
    longest_s = max(true_s.values()) / max(all_speeds)
    return Measured(
        ratio=trace.makespan_s / bound_s,
        is_longest_alone=bound_s <= longest_s * 1.0001,
        num_moves=trace.num_requests_to_stop,
    )


def varied(trainings: Sequence[Training], *, expected_s: float, seed: int) -> dict[StageKey, float]:
    """Draw durations: much between groups, little between folds."""
    draw = random.Random(seed)
    factors = {group: draw.lognormvariate(0, GROUP_SPREAD) for group in sorted({t.group for t in trainings})}
    return {
        StageKey(kind=StageKind.TRAIN, training=t.id): expected_s
        * factors[t.group]
        * draw.lognormvariate(0, FOLD_SPREAD)
        for t in trainings
    }


def makespans(numbers: Sequence[int]) -> None:
    """Print the worst ratio of each kind of run."""
    study = load_study()
    preset = study.preset("paper")
    expected_s = preset.expected_training_s
    print("| trainings | durations | GPUs | worst makespan / bound | at | goal | longest alone: worst | moves |")
    print("|---|---|---|---|---|---|---|---|")
    for matrix in ("core", "all"):
        trainings = study.trainings(matrix=matrix, preset=preset)
        graph = stages_of(trainings, expected_s=expected_s)
        draws = {"equal": [dict.fromkeys(graph, expected_s)]}
        draws["varied, known"] = [varied(trainings, expected_s=expected_s, seed=seed) for seed in range(3)]
        draws["varied, learned on the way"] = draws["varied, known"]
        for title, durations in draws.items():
            for name, speeds in FLEETS.items():
                found = []
                for true_s in durations:
                    believed = graph if "learned" in title else _knowing(graph, true_s)
                    found += [(n, measure(believed, true_s, speeds=speeds, number=n)) for n in numbers]
                _print_row(f"{len(trainings)} | {title} | {name}", found)


def _print_row(start: str, found: Sequence[tuple[int, Measured]]) -> None:
    counted = [(one.ratio, number) for number, one in found if not one.is_longest_alone]
    alone = [one.ratio for _, one in found if one.is_longest_alone]
    worst, at = max(counted)
    print(
        f"| {start} | {worst:.3f} | {at} GPUs | {GOAL} {'met' if worst <= GOAL else 'MISSED'} "
        f"| {f'{max(alone):.3f}' if alone else '-'} | {sum(one.num_moves for _, one in found) / len(found):.0f} |",
        flush=True,
    )


def scaling() -> None:
    """Print what deciding costs, for a tenth of the large run and for all of it."""
    print("\n| trainings | GPUs | decisions and simulation, CPU s | goal | peak MiB | makespan / bound |")
    print("|---|---|---|---|---|---|")
    for num_trainings, num_gpus in ((1000, 100), (3000, 300), (10_000, 1000)):
        draw = random.Random(0)
        graph, true_s = {}, {}
        for index in range(num_trainings):
            key = StageKey(kind=StageKind.TRAIN, training=f"{index:05d}")
            expected_s = 30_000 * draw.lognormvariate(0, 0.3)
            graph[key] = Stage(key=key, dependencies=(), products=(), expected_s=expected_s)
            true_s[key] = graph[key].expected_s * draw.lognormvariate(0, 0.05)
        machines = fleet((1.0, 0.4), num_gpus)
        started_s = time.process_time()
        trace = play(graph, machines, true_s, progress_s=3600.0)
        cpu_s = time.process_time() - started_s
        tracemalloc.start()
        play(graph, machines, true_s, progress_s=3600.0)
        peak = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
        bound_s = lower_bound_s(
            list(true_s.values()), [pool.gpu.speed for pool in machines for _ in range(pool.max_nodes)]
        )
        goal = f"10 {'met' if cpu_s < 10 else 'MISSED'}" if num_trainings == 10_000 else "-"
        print(
            f"| {num_trainings} | {num_gpus} | {cpu_s:.2f} | {goal} | {peak:.0f} | {trace.makespan_s / bound_s:.3f} |",
            flush=True,
        )


def _knowing(graph: Graph, true_s: Mapping[StageKey, float]) -> dict[StageKey, Stage]:
    return {key: replace(stage, expected_s=true_s[key]) for key, stage in graph.items()}


def main() -> None:
    """Measure and print."""
    parser = command_line("schedule", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few numbers of GPUs, and no large run")
    options = parser.parse_args()
    print(f"{conditions()}\n")
    makespans((8, 32, 44) if options.quick else NUMBERS_OF_GPUS)
    if not options.quick:
        scaling()


if __name__ == "__main__":
    main()
