"""Kills workers, nodes, the controller and the driver of a run at random moments, and compares what comes out.

    python -m bench.chaos [--hosts nodes|namespaces] [--matrix] [--kills 50] [--seed 0] [--only PATTERN] [--kinds LIST]
                          [--limit-min 60] [--output FOLDER]

A Ray cluster of three nodes is started on this machine: processes beside each other, or, as root, hosts of their own in
network namespaces, which can also die whole or be cut off from the others. The trainings are carried out once
undisturbed, unless --output holds that already; then again and again, each time into a new folder, until so many kills
are done; the last run may finish. With --matrix these are all 45 trainings, first by the plain command, without that
cluster, then in one run that has all the kills, spread over its work. Prints a Markdown table; exit code 1 if
anything was lost, doubled or different, or the time did not suffice for so many kills. With --output the same command
goes on where the time was up.
"""

import itertools
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.chaos.checks import Attempts, differences, lost_work, overhead
from bench.chaos.cluster import RUN_ALL, ChaosCluster, Kill, hurt, note_kill, read_kills
from bench.chaos.events import RunEvents
from bench.chaos.hosts import HostCluster, host_cluster
from bench.chaos.nodes import NodeCluster, node_cluster
from bench.instruments import network_hosts
from bench.instruments.command_line import command_line, positive_integer
from bench.instruments.machine import conditions
from orchestrator.benchmark.presets import find_preset

CLUSTERS = {"nodes": node_cluster, "namespaces": host_cluster}
KINDS = {"nodes": NodeCluster.kinds, "namespaces": HostCluster.kinds}
"""Of what can be killed there."""
OF_TRAININGS = ("trainer", "warning")
"""Kinds that only a training can suffer."""
DEFAULT_TRAININGS = ["T1-infection-fold[01]", "T2-infection-structseg-fold0"]
"""Small ones, of which one takes its plan over from another: many runs have more early stages to be killed in."""
STAGES = ("download", "ingest", "labels", "fingerprint", "plan", "preprocess", "train", "predict", "score")
LONGEST_WAIT_S = 40.0
"""For a stage that is wanted; then a kill happens in whatever stage there is."""
LONGEST_WAIT_FOR_TRAINING_S = 90.0
"""Likewise for a training that has begun since the last kill; processes start slowly on a busy machine."""
POLL_S = 0.1
REPAIR_EVERY_S = 1.0
NUM_EARLY_KILLS = STAGES.index("train")
"""Of each run, that are not aimed at trainings: the stages before them are short and come once."""
SHARE_FOR_KILLS = 0.8
"""Of the time limit; the rest is left for the last run to finish."""
SHARE_OF_WORK = 0.8
"""Of the work of all stages, over which the kills are spread where one run has them all."""
CHANCE_OF_TRAINING = 0.5
"""Share of the kills that wait for a training; the others wait for the stage that was hit least."""
BAD_INPUT = 2
"""Exit code of the driver where trying again is in vain."""


class OutOfTimeError(Exception):
    """The limit of the whole benchmark is reached."""


class RefusedError(Exception):
    """The driver refuses the output location or the trainings."""


@dataclass(kw_only=True, slots=True)
class Chaos:
    """The state of the benchmark."""

    cluster: ChaosCluster
    notes: Path
    """File in which kills are kept."""
    patterns: Sequence[str]
    run_seed: int
    rng: random.Random
    kills_until_s: float
    """By the monotonic clock; afterwards the run that is under way may finish."""
    deadline_s: float
    """By the monotonic clock; then the benchmark ends in any case."""
    kinds: Sequence[str]
    is_matrix: bool = False
    """Whether one run has all the kills, spread over its work."""
    kills: list[Kill] = field(default_factory=list)
    num_before: int = 0
    """Kills before the run that is under way."""
    work_s: Mapping[str, float] = field(default_factory=dict)
    """What each stage took in the undisturbed run."""
    num_failed_drivers: int = 0
    """Drivers that ended by themselves and were not done."""
    repaired_s: float = 0.0
    """When the cluster was last looked at."""

    def run(self, output: Path, *, num_kills: int) -> None:
        """Carry the trainings out, killing until so many kills are done."""
        self.num_before = 0 if self.is_matrix else len(self.kills)
        events, arguments = RunEvents(output=output), self._arguments(output)
        self.cluster.start_driver(arguments)
        while True:
            if self.goes_on(num_kills=num_kills) and self._is_due(events, num_kills=num_kills):
                self._wait_and_kill(events)
                self.cluster.repair()
            elif self._is_driver_alive:
                self._sleep()
            code = self.cluster.driver.poll() if self.cluster.driver is not None else None
            if code == 0:
                return
            if code == BAD_INPUT:
                raise RefusedError
            if code is not None:
                if code > 0:
                    self.num_failed_drivers += 1
                    print(f"the driver has ended with exit code {code}", flush=True)
                self.cluster.repair()
                self.cluster.start_driver(arguments)

    def goes_on(self, *, num_kills: int) -> bool:
        """Whether there is more to kill, and time for it."""
        return len(self.kills) < num_kills and time.monotonic() < self.kills_until_s

    def run_plainly(self, output: Path) -> None:
        """Carry the trainings out without the cluster."""
        with (output.parent / "driver.log").open("ab") as log:
            command = [sys.executable, *RUN_ALL, *self._arguments(output)]
            ran = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False)
        if ran.returncode:
            raise RefusedError

    def _arguments(self, output: Path) -> list[str]:
        chosen = [part for pattern in self.patterns for part in ("--only", pattern)]
        return ["--output", str(output), "--seed", str(self.run_seed), *chosen]

    @property
    def _is_driver_alive(self) -> bool:
        return self.cluster.driver is not None and self.cluster.driver.poll() is None

    @property
    def _is_early(self) -> bool:
        """Whether the next kill of this run is one of the first."""
        return len(self.kills) - self.num_before < NUM_EARLY_KILLS

    def _is_due(self, events: RunEvents, *, num_kills: int) -> bool:
        """Whether the run is so far that the next kill may come."""
        if not self.is_matrix or self._is_early:
            return True
        share = sum(self.work_s[stage] for stage in events.finished_stages()) / sum(self.work_s.values())
        return len(self.kills) <= num_kills * share / SHARE_OF_WORK

    def _wait_and_kill(self, events: RunEvents) -> None:
        """Wait for a stage that is wanted, a little longer by chance, and kill something."""
        not_of_trainings = [kind for kind in self.kinds if kind not in OF_TRAININGS]
        kind = self.rng.choice((self._is_early and not_of_trainings) or self.kinds)
        is_training_wanted = kind in OF_TRAININGS or (not self._is_early and self.rng.random() < CHANCE_OF_TRAINING)
        hits = Counter(stage for kill in self.kills for stage in kill.stages)
        # What is over in this run cannot be hit any more.
        first = min(map(STAGES.index, events.stages_under_way()), default=0)
        rarest = min(STAGES[first:], key=lambda name: hits[name])
        since_s = self.kills[-1].time_s if self.kills else 0.0
        begun_s = time.monotonic()
        while time.monotonic() < begun_s + (LONGEST_WAIT_FOR_TRAINING_S if is_training_wanted else LONGEST_WAIT_S):
            if is_training_wanted and events.trainings_under_way(since_s=since_s):
                break
            if not is_training_wanted and rarest in events.stages_under_way():
                break
            if not self._is_driver_alive:
                return
            self._sleep()
        time.sleep(self.rng.uniform(0.0, 6.0 if is_training_wanted else 0.5))
        kill = hurt(self.cluster, kind, stages=events.stages_under_way(), rng=self.rng)
        if kill is not None:
            self.kills.append(kill)
            note_kill(self.notes, kill)
            stages = ", ".join(kill.stages) or "nothing"
            print(f"{len(self.kills)}: {kill.kind} {kill.failed.name} during {stages}", flush=True)

    def _sleep(self) -> None:
        """Wait a little, and repair what has become due."""
        if time.monotonic() > self.deadline_s:
            raise OutOfTimeError
        if time.monotonic() > self.repaired_s + REPAIR_EVERY_S:
            self.cluster.repair()
            self.repaired_s = time.monotonic()
        time.sleep(POLL_S)


def main() -> int:
    """Carry it out and print; returns the exit code."""
    parser = command_line("chaos", description=__doc__)
    parser.add_argument("--hosts", choices=CLUSTERS, default="nodes", help="what the nodes are (default: nodes)")
    parser.add_argument("--matrix", action="store_true", help="all 45 trainings, and all kills in one run")
    parser.add_argument("--kills", type=positive_integer, default=50, help="how many (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="of the kills and of the run (default: 0)")
    parser.add_argument("--only", action="append", default=[], help="trainings (default: three small ones)")
    parser.add_argument("--kinds", help="what is killed, separated by commas (default: all that the cluster knows)")
    parser.add_argument("--limit-min", type=float, default=60.0, help="minutes after which it gives up (default: 60)")
    parser.add_argument("--output", type=Path, help="folder for the runs (default: a temporary one)")
    options = parser.parse_args()
    kinds = options.kinds.split(",") if options.kinds else KINDS[options.hosts]
    if unknown := sorted(set(kinds) - set(KINDS[options.hosts])):
        parser.error(f"--kinds {unknown[0]}: unknown; expected some of {', '.join(sorted(set(KINDS[options.hosts])))}")
    if not options.limit_min > 0:
        parser.error(f"--limit-min {options.limit_min:g}: expected more than 0")
    if options.hosts == "namespaces" and (reason := network_hosts.missing()):
        parser.error(f"{reason}. Without them: --hosts nodes")
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.output or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        begun_s, limit_s = time.monotonic(), 60 * options.limit_min
        with CLUSTERS[options.hosts](folder) as cluster:
            kills = read_kills(folder / "kills.jsonl")
            chaos = Chaos(
                cluster=cluster,
                notes=folder / "kills.jsonl",
                kills=kills,
                patterns=options.only or ([] if options.matrix else DEFAULT_TRAININGS),
                run_seed=options.seed,
                rng=random.Random(f"{options.seed} {len(kills)}"),
                kills_until_s=begun_s + SHARE_FOR_KILLS * limit_s,
                deadline_s=begun_s + limit_s,
                kinds=kinds,
                is_matrix=options.matrix,
            )
            try:
                carry_out(chaos, folder, num_kills=options.kills)
            except OutOfTimeError:
                print(
                    f"Not finished after {options.limit_min:g} minutes and {len(chaos.kills)} of {options.kills} kills."
                    f" The output of the drivers is in {folder}/driver.log (with --output)"
                )
            except RefusedError:
                print((folder / "driver.log").read_text().splitlines()[-1])
                return 2
        return show(chaos, folder, num_kills=options.kills)


def carry_out(chaos: Chaos, folder: Path, *, num_kills: int) -> None:
    """Run undisturbed, then disturbed until all kills are done."""
    undisturbed = folder / "undisturbed"
    if chaos.is_matrix:
        chaos.run_plainly(undisturbed)
    else:
        chaos.run(undisturbed, num_kills=0)
    chaos.work_s = RunEvents(output=undisturbed).finished_stages()
    print(f"undisturbed: {RunEvents(output=undisturbed).driven_s():.0f} s", flush=True)
    for number in itertools.count(1):
        output = folder / f"disturbed-{number}"
        if RunEvents(output=output).is_done():
            continue  # by an earlier call
        if not output.exists() and (not chaos.goes_on(num_kills=num_kills) or (chaos.is_matrix and number > 1)):
            return
        chaos.run(output, num_kills=num_kills)
        print(f"{output.name}: {len(chaos.kills)} kills so far", flush=True)


def show(chaos: Chaos, folder: Path, *, num_kills: int) -> int:
    """Compare, print the table and return the exit code."""
    undisturbed, disturbed = folder / "undisturbed", sorted(folder.glob("disturbed-*"))
    events = [RunEvents(output=output) for output in [undisturbed, *disturbed]]
    if not events[0].is_done():
        return 1
    num_done = sum(of_one.is_done() for of_one in events[1:])
    found = [line for output in disturbed for line in differences(output, undisturbed)]
    interval_s = find_preset("smoke").checkpoint_every_s
    losses = [loss for output in disturbed for loss in lost_work(output, chaos.kills)]
    back = [loss for loss in losses if loss.goes_on_at < loss.saved_at]
    longest_s = max((loss.lost_s for loss in losses), default=0.0)
    cost = overhead(undisturbed)
    attempts = Attempts.of(disturbed)
    by_kind = ", ".join(f"{kind} {number}" for kind, number in Counter(k.kind for k in chaos.kills).items())
    by_stage = Counter(stage for kill in chaos.kills for stage in kill.stages)
    trainings = ", ".join(chaos.patterns) or "the whole matrix"
    print(f"\n{conditions('ray')}, {trainings}, seed {chaos.run_seed}\n")
    print("| measure | value |\n|---|---|")
    print(f"| kills | {len(chaos.kills)} of {num_kills}: {by_kind} |")
    print(f"| stages under way at a kill | {', '.join(f'{name} {by_stage[name]}' for name in STAGES)} |")
    print(f"| runs until all kills were done, of which finished | {len(disturbed)}, {num_done} |")
    print(f"| drivers that ended by themselves before all was done | {chaos.num_failed_drivers} |")
    print(f"| attempts at a training, of which went on from a checkpoint | {attempts.num}, {attempts.num_resumed} |")
    print(f"| results lost, doubled or different; tables that differ | {len(found)} |")
    print(
        f"| most work lost by a kill, checkpoint every {interval_s:g} s | "
        f"{longest_s:.1f} s ({len(losses)} trainings hit) |"
    )
    print(f"| trainings that went on before their last checkpoint | {len(back)} |")
    driven_s = [of_one.driven_s() for of_one in events]
    print(f"| time of drivers, undisturbed and with kills | {driven_s[0]:.0f} s, {sum(driven_s[1:]):.0f} s |")
    if not chaos.is_matrix:  # on the cluster each training has a process of its own, which costs the most of it
        print(f"| overhead of a training of an hour | {100 * cost.share_of_an_hour:.2f} % ({cost.line}) |")
    for line in found:
        print(line)
    is_good = (
        len(chaos.kills) >= num_kills
        and num_done == len(disturbed)
        and not found
        and not back
        and longest_s <= interval_s + cost.longest_iteration_s
        and (chaos.is_matrix or cost.share_of_an_hour < 0.01)
    )
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
