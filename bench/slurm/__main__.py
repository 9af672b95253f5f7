"""Carries out the trainings of the miniature as jobs of a real Slurm, of few minutes each, and hurts it.

    python -m bench.slurm [--only PATTERN] [--minutes 3] [--every-s 60] [--kinds LIST] [--rounds 2] [--bucket]
                          [--limit-min 60] [--output FOLDER]

As root, with Debian's slurmctld, slurmd and slurm-client: a login host and two nodes in network namespaces of this
machine. The trainings are carried out by the plain command first, unless --output holds that already; then with every
worker, and the driver, a job. Every so many seconds something is done to the cluster: a worker is cancelled or
requeued, a node drained, its slurmd killed, the whole node killed, the job of the driver killed; the same command is
given again as often as it fails. With --bucket everything is on an S3 that fails every twentieth time. Prints a
Markdown table; exit code 1 if anything was lost, doubled or different, or the time did not suffice.
"""

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from bench.chaos.checks import differences, lost_work
from bench.chaos.cluster import RUN_ALL, Kill, Target, kill
from bench.chaos.events import Event, RunEvents
from bench.instruments.command_line import command_line, positive_integer
from bench.instruments.machine import conditions
from bench.instruments.network_hosts import SUBNET
from bench.slurm.hosts import SlurmHosts, slurm_hosts, why_not
from bench.smoke import descendants
from orchestrator.benchmark.presets import find_preset
from orchestrator.results.store import ResultsStore
from orchestrator.storage.filesystem import open_storage

KINDS = ("scancel", "drain", "slurmd", "requeue", "driver", "node")
BACK_AFTER_S = 30.0
"""A node that is drained or dead is given back, and a slurmd started again."""
END_WITHIN_S = 60.0
"""Longest time after the end of the command until no job is left."""
S3_PORT, S3_LOG = 5000, "s3.log"
BUCKET = "s3://trainings/run"
S3_SETTINGS = {
    "AWS_ENDPOINT_URL": f"http://{SUBNET}.1:{S3_PORT}",
    "AWS_ACCESS_KEY_ID": "played",
    "AWS_SECRET_ACCESS_KEY": "played",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_REGION": "us-east-1",
}
MAKE_BUCKET = """
import time, boto3
for attempt in range(60):
    try:
        boto3.client("s3").create_bucket(Bucket="trainings")
        break
    except Exception as error:
        told = error
        time.sleep(2)
else:
    raise told
"""
FETCH = """
import sys
from pathlib import Path
from orchestrator.storage.filesystem import open_storage
storage, folder = open_storage(sys.argv[1]), Path(sys.argv[2])
for below in ("run.json", "results", "tables", "trainings", "events"):
    for key in [below] if below.endswith(".json") else storage.list_keys(below):
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(storage.read_bytes(key))
"""


class OutOfTimeError(Exception):
    """The limit of the whole benchmark is reached."""


@dataclass(kw_only=True, slots=True)
class Trial:
    """A run on the cluster, and what was done to it."""

    hosts: SlurmHosts
    words: Sequence[str]
    """Command line of the run."""
    settings: dict[str, str]
    """Of its environment."""
    log: Path
    left: list[str]
    """What is still to be done to the cluster."""
    every_s: float
    deadline_s: float
    """By the monotonic clock."""
    kills: list[Kill] = field(default_factory=list)
    num_calls: int = 0
    left_s: float = 0.0
    """From the end of the last call until no job was left."""
    repairs: list[tuple[float, Callable[[], object]]] = field(default_factory=list)
    """What is to be done, and when."""

    def carry_out(self) -> None:
        """Give the command, and give it again, until it succeeds; then wait until no job is left."""
        due_s = time.monotonic() + self.every_s
        while True:
            self.num_calls += 1
            called = self.hosts.start(self.words, log=self.log, **self.settings)
            while called.poll() is None:
                self._wait()
                if self.left and time.monotonic() > due_s and self._hurt(self.left[0]):
                    del self.left[0]
                    due_s = time.monotonic() + self.every_s
            if called.returncode == 0:
                break
            print(f"the command has ended with exit code {called.returncode}", flush=True)
        ended_s = time.monotonic()
        while self.hosts.jobs() and time.monotonic() < ended_s + END_WITHIN_S:
            self._wait()
        self.left_s = time.monotonic() - ended_s

    def _wait(self) -> None:
        now_s = time.monotonic()
        if now_s > self.deadline_s:
            raise OutOfTimeError
        for item in [item for item in self.repairs if item[0] < now_s]:
            self.repairs.remove(item)
            item[1]()
        time.sleep(1.0)

    def _hurt(self, kind: str) -> bool:
        """Do something to the cluster; returns whether there was what it can be done to."""
        of_driver = kind == "driver"
        jobs = [job for job in self.hosts.jobs() if job[1] == "RUNNING" and job[2].endswith("-driver") == of_driver]
        if not jobs:
            return False
        job, _, name, node = jobs[len(self.kills) % len(jobs)]
        time_s = time.time()
        match kind:
            case "scancel":
                self.hosts.call("scancel", job)
            case "driver":
                self.hosts.call("scancel", "--signal=KILL", "--full", job)
            case "requeue":
                self.hosts.call("scontrol", "requeue", job)
            case "drain":
                self.hosts.call("scontrol", "update", f"nodename={node}", "state=drain", "reason=trial")
                self._later(lambda: self.hosts.call("scontrol", "update", f"nodename={node}", "state=resume"))
            case "slurmd":
                self.hosts.kill_slurmd(node)
                self._later(lambda: self.hosts.start_node(node))
            case "node":
                self.hosts.nodes[node].kill()
                self._later(lambda: self.hosts.start_node(node))
        # The driver may be on a node that dies: then it hits every training.
        is_only = kind in {"scancel", "requeue", "slurmd"}
        target = Target(name=name, host=node if is_only else "")
        self.kills.append(Kill(kind=kind, failed=target, stages=(), time_s=time_s))
        print(f"{len(self.kills)}: {kind} {name} on {node}", flush=True)
        return True

    def _later(self, repair: Callable[[], object]) -> None:
        self.repairs.append((time.monotonic() + BACK_AFTER_S, repair))


def cluster_file(hosts: SlurmHosts, *, minutes: int) -> Path:
    """Write the cluster file of the run, whose workers last for so many minutes; returns its path."""
    pool = {"number": 2, "cpus": 1, "memory_gib": 4, "partition": "long", "time_limit_minutes": minutes, "drain_s": 30}
    head = {"cpus": 1, "memory_gib": 3, "partition": "long", "time_limit_minutes": 90}
    content = {"kind": "slurm", "look_every_s": 3, "idle_s": 20, "head": head, "pools": {"cores": pool}}
    path = hosts.home / "slurm.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def carry_out(options: argparse.Namespace, folder: Path, hosts: SlurmHosts, *, deadline_s: float) -> tuple[Trial, Path]:
    """Run on the cluster; returns what was done, and the folder of what has come out."""
    patterns = [word for pattern in options.only for word in ("--only", pattern)]
    output = Path(tempfile.mkdtemp(prefix="on-slurm-", dir=folder))
    place = BUCKET if options.bucket else str(output)
    cluster = str(cluster_file(hosts, minutes=options.minutes))
    trial = Trial(
        hosts=hosts,
        words=[sys.executable, *RUN_ALL, "--cluster", cluster, "--output", place, *patterns],
        settings=S3_SETTINGS if options.bucket else {},
        log=folder / "command.log",
        left=options.kinds * options.rounds,
        every_s=options.every_s,
        deadline_s=deadline_s,
    )
    try:
        with s3_of(hosts, output, log=folder / S3_LOG) if options.bucket else nullcontext():
            trial.carry_out()
    finally:
        (folder / "scripts").mkdir(exist_ok=True)
        for path in hosts.home.glob(".orchestrator/*/*.*"):
            if path.suffix in {".log", ".yaml", ".sh"}:
                (folder / "scripts" / path.name).write_bytes(path.read_bytes())
    return trial, output


@contextmanager
def s3_of(hosts: SlurmHosts, output: Path, *, log: Path) -> Iterator[None]:
    """Context with an S3 on the login host; what is there at its end is copied to a folder."""
    serve = [sys.executable, "-m", "bench.slurm.failing_s3", "--address", f"{SUBNET}.1", "--port", str(S3_PORT)]
    server = hosts.start(serve, log=log)
    hosts.start([sys.executable, "-c", MAKE_BUCKET], log=log, **S3_SETTINGS).wait()
    yield
    hosts.start([sys.executable, "-c", FETCH, BUCKET, str(output)], log=log, **S3_SETTINGS).wait()
    for pid in descendants(server.pid):
        kill(pid, signal.SIGTERM)
    server.wait()


def stopped(output: Path) -> tuple[int, int]:
    """Return how often a training was told to stop, by a time limit most of all, and how often it went on elsewhere.

    It goes on if its next attempt begins at the very iteration at which the last one saved its place.
    """
    trainings: dict[str, list[Event]] = {}
    for event in RunEvents(output=output).of_trainings():
        trainings.setdefault(event["training"], []).append(event)
    num = num_went_on = 0
    for events in trainings.values():
        for index, event in enumerate(events):
            if event["kind"] != "attempt_ended" or not event["is_preemption"]:
                continue
            places = {"attempt_started", "checkpoint_saved"}
            before = [e for e in events[:index] if e["attempt"] == event["attempt"] and e["kind"] in places]
            after = [e for e in events[index:] if e["attempt"] != event["attempt"] and e["kind"] == "attempt_started"]
            if before:
                num += 1
                place = (before[-1]["epoch"], before[-1]["iteration"])
                num_went_on += bool(after) and (after[0]["epoch"], after[0]["iteration"]) == place
    return num, num_went_on


def show(trial: Trial, output: Path, undisturbed: Path, *, bucket: bool, minutes: int) -> int:
    """Compare, print the table and return the exit code."""
    expected = ResultsStore(open_storage(undisturbed)).finished()
    done = ResultsStore(open_storage(output)).finished()
    found = list(differences(output, undisturbed))
    losses = list(lost_work(output, trial.kills))
    back = [loss for loss in losses if loss.goes_on_at < loss.saved_at]
    longest_s = max((loss.lost_s for loss in losses), default=0.0)
    interval_s = find_preset("smoke").checkpoint_every_s
    num_stopped, num_went_on = stopped(output)
    by_kind = ", ".join(f"{kind} {number}" for kind, number in Counter(kill.kind for kill in trial.kills).items())
    times_s = [RunEvents(output=folder).driven_s() for folder in (undisturbed, output)]
    left = trial.hosts.jobs()
    where = "a shared folder"
    if bucket:
        where = f"an S3 ({(output.parent / S3_LOG).read_text().splitlines()[-1]})"
    print(f"\n{conditions('ray')}, everything on {where}, workers of {minutes} min\n")
    print("| measure | value |\n|---|---|")
    print(f"| trainings done | {len(done)} of {len(expected)} |")
    print(f"| done to the cluster | {by_kind or 'nothing'} |")
    print(f"| calls of the same command | {trial.num_calls} |")
    print(f"| trainings told to stop, of which went on at that place | {num_stopped}, {num_went_on} |")
    print(f"| results lost, doubled or different; tables that differ | {len(found)} |")
    print(f"| most work lost, checkpoint every {interval_s:g} s | {longest_s:.1f} s ({len(losses)} attempts killed) |")
    print(f"| trainings that went on before their last checkpoint | {len(back)} |")
    print(f"| jobs left, {trial.left_s:.0f} s after the command | {len(left)} |")
    print(f"| time of drivers, plain command and here | {times_s[0]:.0f} s, {times_s[1]:.0f} s |")
    for line in found:
        print(line)
    if trial.left:
        print(f"Not done to the cluster, since the trainings ended before: {', '.join(trial.left)}")
    is_good = done == expected and not found and not back and not left and num_went_on == num_stopped
    return 0 if is_good and longest_s <= 2 * interval_s else 1


def main() -> int:
    """Carry it out and print; returns the exit code."""
    parser = command_line("slurm", description=__doc__)
    parser.add_argument("--only", action="append", default=[], help="trainings (default: all 45)")
    parser.add_argument("--every-s", type=float, default=60.0, help="seconds between two of them (default: 60)")
    parser.add_argument("--kinds", help=f"what is done, separated by commas (default: {','.join(KINDS)}), or none")
    parser.add_argument("--minutes", type=positive_integer, default=3, help="time limit of a worker (default: 3)")
    parser.add_argument("--rounds", type=positive_integer, default=2, help="how often each is done (default: 2)")
    parser.add_argument("--bucket", action="store_true", help="everything on an S3 that fails now and then")
    parser.add_argument("--limit-min", type=float, default=60.0, help="minutes after which it gives up (default: 60)")
    parser.add_argument("--output", type=Path, help="folder for the runs, outside of /tmp (default: a temporary one)")
    options = parser.parse_args()
    options.kinds = [] if options.kinds == "none" else (options.kinds or ",".join(KINDS)).split(",")
    if unknown := sorted(set(options.kinds) - set(KINDS)):
        parser.error(f"--kinds {unknown[0]}: unknown; expected some of {', '.join(KINDS)}, or none")
    for name in ("every_s", "limit_min"):
        if not getattr(options, name) > 0:
            parser.error(f"--{name.replace('_', '-')} {getattr(options, name):g}: expected more than 0")
    if reason := why_not():
        parser.error(reason)
    deadline_s = time.monotonic() + 60 * options.limit_min
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="slurm-", ignore_cleanup_errors=True) as temporary:
        folder = (options.output or Path(temporary) / "runs").absolute()
        folder.mkdir(parents=True, exist_ok=True)
        undisturbed, base = folder / "undisturbed", Path(temporary) / "hosts"
        patterns = [word for pattern in options.only for word in ("--only", pattern)]
        with (folder / "command.log").open("ab") as log:
            plainly = [sys.executable, *RUN_ALL, "--output", str(undisturbed), *patterns]
            subprocess.run(plainly, stdout=log, stderr=subprocess.STDOUT, check=True)
        print(f"undisturbed: {RunEvents(output=undisturbed).driven_s():.0f} s", flush=True)
        base.mkdir()
        with slurm_hosts(base) as hosts:
            try:
                trial, output = carry_out(options, folder, hosts, deadline_s=deadline_s)
            except OutOfTimeError:
                print(f"Not finished after {options.limit_min:g} minutes; the output is in {folder} (with --output)")
                return 1
            return show(trial, output, undisturbed, bucket=options.bucket, minutes=options.minutes)


if __name__ == "__main__":
    sys.exit(main())
