"""When single jobs are faster than one allocation, simulated: the study on eight A100 of a queue, nothing is started.

Waiting times are log-normal, by the median and the time that one of ten exceeds. An allocation waits until the last of
its machines would be free; a site that favours large jobs lets it begin earlier.
"""

import tempfile
from pathlib import Path

import yaml

from bench.instruments.command_line import command_line, positive_integer
from bench.instruments.machine import conditions
from orchestrator.benchmark.loading import load_study
from orchestrator.cluster.registry import load_cluster
from orchestrator.progress import duration_text
from orchestrator.simulation.forecast import Forecast, simulate_run
from orchestrator.workflow.graph import graph_of_study

WAITS_MINUTES = ((5, 30), (30, 300), (240, 1440))
LIMITS_HOURS = (4, 24)


def forecasts(folder: Path, *, wait: tuple[int, int], limit_hours: int, machines: int) -> tuple[Forecast, Forecast]:
    """Return what would come of the study with single jobs, and with one allocation."""
    limit = {"cpus": 8, "time_limit_minutes": limit_hours * 60}
    gpu = {**limit, "number": machines, "gpus": 1, "gpu": "A100"}
    gpu["waiting"] = dict(zip(("median_minutes", "ninetieth_minutes"), wait, strict=True))
    path = folder / "slurm.yaml"
    path.write_text(yaml.safe_dump({"kind": "slurm", "pools": {"gpu": gpu, "cpu": {**limit, "number": 2}}}))
    study, cluster = load_study(), load_cluster(path)
    preset = study.preset("paper")
    trainings = study.trainings(preset=preset)
    graph = graph_of_study(study, trainings, preset=preset, phantoms=False)
    found = simulate_run(graph, trainings=trainings, preset=preset, cluster=cluster, prices=None, seed=0)
    (together,) = found.other_forms.values()
    return found.asked_for, together


def main() -> None:
    """Simulate and print."""
    parser = command_line("slurm.queue", description=__doc__)
    parser.add_argument("--machines", type=positive_integer, default=8, help="at the most (default: 8)")
    options = parser.parse_args()
    print(f"{conditions()}\n")
    print("| wait in minutes: median, 9 of 10 | time limit | single jobs | one allocation | GPU hours held |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for wait in WAITS_MINUTES:
            for hours in LIMITS_HOURS:
                single, together = forecasts(Path(folder), wait=wait, limit_hours=hours, machines=options.machines)
                held = f"{single.held_gpu_hours:.0f}, {together.held_gpu_hours:.0f}"
                times = f"{duration_text(single.makespan_s)} | {duration_text(together.makespan_s)}"
                print(f"| {wait[0]}, {wait[1]} | {hours} h | {times} | {held} |", flush=True)


if __name__ == "__main__":
    main()
