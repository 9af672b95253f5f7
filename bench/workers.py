"""Compares trainings by one worker and by several, seed by seed, on CPU cores: what they have learned and how long.

    python -m bench.workers [--seeds 5] [--workers 2] [--folder FOLDER]

Each is a miniature through the command itself, with Ray Train and Gloo: phantoms, one training, its scores. Prints a
Markdown table. Two processes that share two cores with anything else wait for each other: seconds are of a machine
that does nothing else.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from bench.instruments.command_line import command_line, existing_folder, positive_integer
from bench.instruments.machine import conditions
from orchestrator.results.store import ResultsStore
from orchestrator.storage.filesystem import open_storage

TRAINING = "T1-lung-fold0"


@dataclass(frozen=True, kw_only=True, slots=True)
class Learned:
    """What has come of a training."""

    dsc: float
    """Mean over cases and structures."""
    nsd: float
    elapsed_s: float
    """Of its epochs."""


def train(folder: Path, *, seed: int, num_workers: int, most: int) -> Learned:
    """Run one training and return what it has learned; `most` cores are given to all alike."""
    output, cluster = folder / f"seed{seed}-workers{num_workers}", folder / f"workers{num_workers}.yaml"
    said = {"kind": "local", "num_cpus": max(2, most), "num_gpus": 0, "workers_per_training": num_workers}
    cluster.write_text(json.dumps(said))
    command = [sys.executable, "-m", "orchestrator.run_all", "--cluster", str(cluster), "--output", str(output)]
    command += ["--only", TRAINING, "--seed", str(seed)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SystemExit(ran.stdout + ran.stderr)
    (row,) = (
        ResultsStore(open_storage(str(output)))
        .query("SELECT avg(dsc) AS dsc, avg(nsd) AS nsd, max(train_elapsed_s) AS elapsed_s FROM scores")
        .to_pylist()
    )
    return Learned(**row)


def measure(folder: Path, *, num_seeds: int, num_workers: int) -> None:
    """Print the table, each line as soon as it is known, and the differences."""
    names = [f"{what}, {who}" for what in ("DSC", "NSD", "s") for who in ("1 worker", num_workers)]
    print(f"| seed | {' | '.join(names)} |\n|{'---|' * (len(names) + 1)}")
    found = []
    for seed in range(1, num_seeds + 1):
        one, several = (train(folder, seed=seed, num_workers=number, most=num_workers) for number in (1, num_workers))
        scores = f"{one.dsc:.3f} | {several.dsc:.3f} | {one.nsd:.3f} | {several.nsd:.3f}"
        print(f"| {seed} | {scores} | {one.elapsed_s:.1f} | {several.elapsed_s:.1f} |", flush=True)
        found.append((one, several))
    differences = [several.dsc - one.dsc for one, several in found]
    spread = f", standard deviation {stdev(differences):.3f}" if len(differences) > 1 else ""
    pace = mean(one.elapsed_s / several.elapsed_s for one, several in found)
    print(f"\nDSC: {mean(differences):+.3f} on average{spread}; {pace:.2f} times as fast on average")


def main() -> None:
    """Print the table."""
    parser = command_line("workers", description=__doc__)
    parser.add_argument("--seeds", type=positive_integer, default=5, metavar="N", help="trainings of each kind (5)")
    parser.add_argument("--workers", type=positive_integer, default=2, metavar="N", help="workers of the second (2)")
    parser.add_argument("--folder", type=existing_folder, help="where the runs are kept; a temporary one by default")
    options = parser.parse_args()
    print(f"{conditions('torch', 'ray', 'nnunetv2')}\n")
    with tempfile.TemporaryDirectory() as temporary:
        measure(options.folder or Path(temporary), num_seeds=options.seeds, num_workers=options.workers)


if __name__ == "__main__":
    main()
