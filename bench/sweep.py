"""Measures a sweep of 16 trials with asynchronous halving, a population, and what becomes of both when they are killed.

    python -m bench.sweep [--trials N] [--members N] [--only asha|pbt] [--folder FOLDER]

Miniatures of one training of the shipped study, on this machine: learning rates from 10^-6 to 10^-1 against a default
that is far too small. The sweep is run once to its end, and once more with three kills (SIGKILL, of everything that it
has started, at moments that are spread over the time of the first); both must have the same trials and the same winner.
So is a sweep by population based training with six members, which must also have the same generations.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from bench.instruments.command_line import command_line, existing_folder, positive_integer
from bench.instruments.machine import conditions
from orchestrator.storage.json_values import JsonObject

TRAINING = "T1-infection-fold0"
BAD_RATE = 1e-6
SPACE = "initial_learning_rate: {loguniform: [0.000001, 0.1]}\n"
NUM_KILLS = 3


def main() -> int:
    """Run the benchmark; returns 1 if a kill changed what is found."""
    parser = command_line("sweep", description=__doc__)
    parser.add_argument("--trials", type=positive_integer, default=16, help="of each sweep (16)")
    parser.add_argument(
        "--folder", type=existing_folder, help="where files are written (default: the temporary folder)"
    )
    parser.add_argument("--members", type=positive_integer, default=6, help="of each population (6)")
    parser.add_argument("--only", choices=["asha", "pbt"], help="measure one of the two (default: both)")
    options = parser.parse_args()
    sizes = {"asha": options.trials, "pbt": options.members}
    with tempfile.TemporaryDirectory(prefix="sweep-", dir=options.folder) as name:
        return measure(Path(name), sizes={options.only: sizes[options.only]} if options.only else sizes)


def measure(folder: Path, *, sizes: Mapping[str, int]) -> int:
    """Run the sweeps and print what they took and found; `sizes` are their trials, by who ends them."""
    rates, default = folder / "rates.yaml", folder / "default.yaml"
    rates.write_text(SPACE, encoding="utf-8")
    default.write_text(f"initial_learning_rate: {{choice: [{BAD_RATE}]}}\n", encoding="utf-8")
    run(folder / "default", default, num_trials=1, stopping="none")
    lines, is_same = [], True
    for stopping, num_trials in sizes.items():
        own, is_own_same = measured(folder, rates, num_trials=num_trials, stopping=stopping)
        lines, is_same = [*lines, *own], is_same and is_own_same
    print(f"{conditions('ray', 'torch', 'nnunetv2')}\n")
    print("| measure | value |\n|---|---|")
    print("\n".join(lines))
    print(f"| mean DSC of the default, {BAD_RATE:g} | {score_of(folder / 'default' / 'sweeps' / 'default'):.3f} |")
    return 0 if is_same else 1


def measured(folder: Path, rates: Path, *, num_trials: int, stopping: str) -> tuple[list[str], bool]:
    """Run a sweep to its end and once more with kills; returns rows, and whether both have found the same."""
    whole, killed = folder / f"{stopping}-whole", folder / f"{stopping}-killed"
    elapsed_s = run(whole, rates, num_trials=num_trials, stopping=stopping)
    for number in range(NUM_KILLS):
        seconds = elapsed_s * (number + 1) / (NUM_KILLS + 2)
        kill_after(killed, rates, num_trials=num_trials, stopping=stopping, seconds=seconds)
    run(killed, rates, num_trials=num_trials, stopping=stopping)
    found, again = (found_by(one / "sweeps" / "rates") for one in (whole, killed))
    told = (whole / "sweeps" / "rates" / "tables" / "trials.csv").read_text()
    copied = f"{num_copies(found)} times one went on from another"
    what = f"{told.count('ended early')} ended early" if stopping == "asha" else copied
    rows = [
        f"| {stopping}: {num_trials} trials, {what} | {elapsed_s:.0f} s |",
        f"| {stopping}: settings of the best | {found[1]} |",
        f"| {stopping}: its mean DSC on the cases left out | {score_of(whole / 'sweeps' / 'rates'):.3f} |",
        f"| {stopping}: killed {NUM_KILLS} times: the same trials and winner | {'yes' if found == again else 'NO'} |",
    ]
    return rows, found == again


def num_copies(found: tuple[list[JsonObject], object]) -> int:
    """Return how often a member of a population went on from another one."""
    return sum(one["source"] != one["trial"] for record in found[0] for one in record.get("members", ()))


def command(output: Path, space: Path, *, num_trials: int, stopping: str) -> list[str]:
    """Return the command of a sweep."""
    words = [sys.executable, "-m", "orchestrator", "sweep", "--only", TRAINING, "--space", str(space)]
    words += ["--stopping", stopping, *(["--first-epochs", "1"] if stopping == "pbt" else [])]
    return [*words, "--trials", str(num_trials), "--output", str(output)]


def run(output: Path, space: Path, *, num_trials: int, stopping: str) -> float:
    """Run a sweep to its end; returns the seconds that it took."""
    started_s = time.monotonic()
    words = command(output, space, num_trials=num_trials, stopping=stopping)
    subprocess.run(words, check=True, stdout=sys.stderr)
    return time.monotonic() - started_s


def kill_after(output: Path, space: Path, *, num_trials: int, stopping: str, seconds: float) -> None:
    """Start a sweep and kill it, with all that it has started, after a while."""
    words = command(output, space, num_trials=num_trials, stopping=stopping)
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, start_new_session=True)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=seconds)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def found_by(sweep: Path) -> tuple[list[JsonObject], str]:
    """Return what was decided of all trials, and the settings of the best."""
    folders = [sweep / name for name in ("trials", "generations") if (sweep / name).exists()]
    chosen = [json.loads(path.read_text()) for folder in folders for path in sorted(folder.iterdir())]
    record = json.loads((sweep / "sweep.json").read_text())
    best = record["trials"][record["best"]["trial"]]
    steps = best["schedule"] or [{"from_epoch": 0, **best["settings"]}]
    return chosen, ", then ".join(f"{step['initial_learning_rate']:g}" for step in steps)


def score_of(sweep: Path) -> float:
    """Return the mean DSC of the best trial."""
    head, best = (line.split(",") for line in (sweep / "tables" / "trials.csv").read_text().splitlines()[:2])
    return float(best[head.index("DSC")])


if __name__ == "__main__":
    sys.exit(main())
