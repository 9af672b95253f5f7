"""Kills workers, nodes, the controller and the driver of a run at random moments, and compares what comes out.

    python -m bench.chaos [--kills 50] [--seed 0] [--only PATTERN] [--kinds LIST] [--limit-min 60] [--output FOLDER]

A Ray cluster of three nodes is started on this machine. The trainings are carried out once undisturbed; then again and
again, each time into a new folder, until so many kills are done; the last run may finish. Prints a Markdown table; exit
code 1 if anything was lost, doubled or different, or the time did not suffice for so many kills.
"""

import argparse
import datetime
import os
import platform
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.chaos_checks import Attempts, differences, lost_work, overhead, seconds
from bench.chaos_cluster import ChaosCluster, Kill, chaos_cluster, hurt
from orchestrator.benchmark.presets import find_preset
from orchestrator.errors import OrchestratorError
from orchestrator.events import read_events
from orchestrator.storage.filesystem import open_storage

KINDS = ("worker", "worker", "trainer", "warning", "node", "driver", "controller")
"""Drawn from by chance; the processes that work are the most."""
DEFAULT_TRAININGS = ["T1-infection-fold[01]", "T2-infection-structseg-fold0"]
"""Small ones, of which one takes its plan over from another: many runs have more early stages to be killed in."""
STAGES = ("download", "ingest", "fingerprint", "plan", "preprocess", "train", "predict", "score")
LONGEST_WAIT_S = 12.0
"""For a stage that is wanted; then a kill happens in whatever stage there is."""
LONGEST_WAIT_FOR_TRAINING_S = 90.0
"""Likewise for a training that has begun since the last kill; processes start slowly on a busy machine."""
POLL_S = 0.1
SHARE_FOR_KILLS = 0.8
"""Of the time limit; the rest is left for the last run to finish."""
CHANCE_OF_TRAINING = 0.5
"""Share of the kills that wait for a training; the others wait for the stage that was hit least."""


class OutOfTimeError(Exception):
    """The limit of the whole benchmark is reached."""


@dataclass(kw_only=True, slots=True)
class Chaos:
    """The state of the benchmark."""

    cluster: ChaosCluster
    patterns: Sequence[str]
    run_seed: int
    rng: random.Random
    kills_until_s: float
    """By the monotonic clock; afterwards the run that is under way may finish."""
    deadline_s: float
    """By the monotonic clock; then the benchmark ends in any case."""
    kinds: Sequence[str] = KINDS
    kills: list[Kill] = field(default_factory=list)

    def run(self, output: Path, *, num_kills: int) -> float:
        """Carry the trainings out, killing until so many kills are done; returns the seconds that it took."""
        started_s = time.monotonic()
        arguments = ["--output", str(output), "--seed", str(self.run_seed)]
        arguments += [part for pattern in self.patterns for part in ("--only", pattern)]
        self.cluster.start_driver(arguments)
        while True:
            if self.goes_on(num_kills=num_kills):
                self._wait_and_kill(output)
                self.cluster.repair()
            elif self.cluster.driver is not None and self.cluster.driver.poll() is None:
                self._sleep()
            code = self.cluster.driver.poll() if self.cluster.driver is not None else None
            if code == 0:
                return time.monotonic() - started_s
            if code is not None:
                self.cluster.repair()
                self.cluster.start_driver(arguments)

    def goes_on(self, *, num_kills: int) -> bool:
        """Whether there is more to kill, and time for it."""
        return len(self.kills) < num_kills and time.monotonic() < self.kills_until_s

    def _wait_and_kill(self, output: Path) -> None:
        """Wait for a stage that is wanted, a little longer by chance, and kill something."""
        kind = self.rng.choice(self.kinds)
        is_training_wanted = kind in {"warning", "trainer"} or self.rng.random() < CHANCE_OF_TRAINING
        hits = Counter(stage for kill in self.kills for stage in kill.stages)
        # What is over in this run cannot be hit any more.
        first = min(map(STAGES.index, stages_under_way(output)), default=0)
        rarest = min(STAGES[first:], key=lambda name: hits[name])
        since_s = self.kills[-1].time_s if self.kills else 0.0
        begun_s = time.monotonic()
        while time.monotonic() < begun_s + (LONGEST_WAIT_FOR_TRAINING_S if is_training_wanted else LONGEST_WAIT_S):
            if is_training_wanted and trainings_under_way(output, since_s=since_s):
                break
            if not is_training_wanted and rarest in stages_under_way(output):
                break
            if self.cluster.driver is None or self.cluster.driver.poll() is not None:
                return
            self._sleep()
        time.sleep(self.rng.uniform(0.0, 6.0 if is_training_wanted else 0.5))
        kill = hurt(self.cluster, kind, stages=stages_under_way(output), rng=self.rng)
        if kill is not None:
            self.kills.append(kill)
            stages = ", ".join(kill.stages) or "nothing"
            print(f"{len(self.kills)}: {kill.kind} {kill.victim} during {stages}", flush=True)

    def _sleep(self) -> None:
        if time.monotonic() > self.deadline_s:
            raise OutOfTimeError
        time.sleep(POLL_S)


def stages_under_way(output: Path) -> tuple[str, ...]:
    """Return the kinds of the stages that the latest driver has started and not seen the end of."""
    try:
        events = read_events(open_storage(output))
    except OrchestratorError:
        return ()
    starts = [index for index, event in enumerate(events) if event["kind"] == "run_started"]
    running: dict[str, str] = {}
    for event in events[starts[-1] :] if starts else []:
        match event["kind"]:
            case "stage_started":
                running[event["stage"]] = event["stage_kind"]
            case "stage_finished" | "stage_failed":
                running.pop(event["stage"], None)
    return tuple(sorted(set(running.values())))


def trainings_under_way(output: Path, *, since_s: float) -> set[str]:
    """Return the trainings at which an attempt has begun after that time, in seconds since 1970, and not ended."""
    try:
        events = read_events(open_storage(output))
    except OrchestratorError:
        return set()
    running: set[str] = set()
    for event in sorted((e for e in events if "training" in e), key=lambda e: str(e["time"])):
        if event["kind"] == "attempt_started" and seconds(event) > since_s:
            running.add(event["training"])
        elif event["kind"] == "attempt_ended":
            running.discard(event["training"])
    return running


def main() -> int:
    """Carry it out and print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="how many (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="of the kills and of the run (default: 0)")
    parser.add_argument("--only", action="append", default=[], help="trainings (default: three small ones)")
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"what is killed (default: {','.join(KINDS)})")
    parser.add_argument("--limit-min", type=float, default=60.0, help="minutes after which it gives up (default: 60)")
    parser.add_argument("--output", type=Path, help="folder for the runs (default: a temporary one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.output or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        begun_s, limit_s = time.monotonic(), 60 * options.limit_min
        with chaos_cluster(folder) as cluster:
            chaos = Chaos(
                cluster=cluster,
                patterns=options.only or DEFAULT_TRAININGS,
                run_seed=options.seed,
                rng=random.Random(options.seed),
                kills_until_s=begun_s + SHARE_FOR_KILLS * limit_s,
                deadline_s=begun_s + limit_s,
                kinds=options.kinds.split(","),
            )
            try:
                outputs, elapsed_s = carry_out(chaos, folder, num_kills=options.kills)
            except OutOfTimeError:
                print(
                    f"Not finished after {options.limit_min:g} minutes and {len(chaos.kills)} of {options.kills} kills;"
                    f" expected an end. The output of the drivers is in {folder}/driver.log (with --output)"
                )
                return 1
        return show(chaos, outputs, elapsed_s, num_kills=options.kills)


def carry_out(chaos: Chaos, folder: Path, *, num_kills: int) -> tuple[list[Path], list[float]]:
    """Run undisturbed, then disturbed until all kills are done; returns the folders and how long each took."""
    outputs = [folder / "undisturbed"]
    elapsed_s = [chaos.run(outputs[0], num_kills=0)]
    print(f"undisturbed: {elapsed_s[0]:.0f} s", flush=True)
    while chaos.goes_on(num_kills=num_kills):
        outputs.append(folder / f"disturbed-{len(outputs)}")
        elapsed_s.append(chaos.run(outputs[-1], num_kills=num_kills))
        print(f"{outputs[-1].name}: {elapsed_s[-1]:.0f} s, {len(chaos.kills)} kills so far", flush=True)
    return outputs, elapsed_s


def show(chaos: Chaos, outputs: Sequence[Path], elapsed_s: Sequence[float], *, num_kills: int) -> int:
    """Compare, print the table and return the exit code."""
    undisturbed, *disturbed = outputs
    found = [line for output in disturbed for line in differences(output, undisturbed)]
    interval_s = find_preset("smoke").checkpoint_every_s
    losses = [loss for output in disturbed for loss in lost_work(output, chaos.kills)]
    back = [loss for loss in losses if loss.goes_on_at < loss.saved_at]
    longest_s = max((loss.lost_s for loss in losses), default=0.0)
    cost = overhead(undisturbed)
    attempts = Attempts.of(disturbed)
    by_kind = ", ".join(f"{kind} {number}" for kind, number in Counter(k.kind for k in chaos.kills).items())
    by_stage = Counter(stage for kill in chaos.kills for stage in kill.stages)
    today = datetime.datetime.now(tz=datetime.UTC).date()
    print(
        f"\n{today}, {os.cpu_count()} cores, {platform.processor() or platform.machine()}, "
        f"{', '.join(chaos.patterns)}, seed {chaos.run_seed}\n"
    )
    print("| measure | value |\n|---|---|")
    print(f"| kills | {len(chaos.kills)} of {num_kills}: {by_kind} |")
    print(f"| stages under way at a kill | {', '.join(f'{name} {by_stage[name]}' for name in STAGES)} |")
    print(f"| runs until all kills were done | {len(disturbed)} |")
    print(f"| attempts at a training, of which went on from a checkpoint | {attempts.num}, {attempts.num_resumed} |")
    print(f"| results lost, doubled or different; tables that differ | {len(found)} |")
    print(
        f"| most work lost by a kill, checkpoint every {interval_s:g} s | "
        f"{longest_s:.1f} s ({len(losses)} trainings hit) |"
    )
    print(f"| trainings that went on before their last checkpoint | {len(back)} |")
    print(f"| wall time, undisturbed and with kills | {elapsed_s[0]:.0f} s, {sum(elapsed_s[1:]):.0f} s |")
    print(f"| overhead of a training of an hour | {100 * cost.share_of_an_hour:.2f} % ({cost.line}) |")
    for line in found:
        print(line)
    is_good = (
        len(chaos.kills) >= num_kills
        and not found
        and not back
        and longest_s <= interval_s + cost.longest_iteration_s
        and cost.share_of_an_hour < 0.01
    )
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
