"""Measures a sweep of 16 trials with asynchronous halving, and what becomes of it when it is killed three times.

    python -m bench.sweep [--trials N] [--folder FOLDER]

Miniatures of one training of the shipped study, on this machine: learning rates from 10^-6 to 10^-1 against a default
that is far too small. The sweep is run once to its end, and once more with three kills (SIGKILL, of everything that it
has started, at moments that are spread over the time of the first); both must have the same trials and the same winner.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from bench.instruments.command_line import command_line, existing_folder, positive_integer
from bench.instruments.machine import conditions

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
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sweep-", dir=options.folder) as name:
        return measure(Path(name), num_trials=options.trials)


def measure(folder: Path, *, num_trials: int) -> int:
    """Run the sweeps and print what they took and found."""
    rates, default = folder / "rates.yaml", folder / "default.yaml"
    rates.write_text(SPACE, encoding="utf-8")
    default.write_text(f"initial_learning_rate: {{choice: [{BAD_RATE}]}}\n", encoding="utf-8")
    elapsed_s = run(folder / "whole", rates, num_trials=num_trials)
    run(folder / "default", default, num_trials=1)
    for number in range(NUM_KILLS):
        kill_after(folder / "killed", rates, num_trials=num_trials, seconds=elapsed_s * (number + 1) / (NUM_KILLS + 2))
    run(folder / "killed", rates, num_trials=num_trials)
    found = {name: found_by(folder / name / "sweeps" / "rates") for name in ("whole", "killed")}
    is_same = found["whole"] == found["killed"]
    ended_early = (folder / "whole" / "sweeps" / "rates" / "tables" / "trials.csv").read_text().count("ended early")
    print(f"{conditions('ray', 'torch', 'nnunetv2')}\n")
    print("| measure | value |\n|---|---|")
    print(f"| {num_trials} trials, of which {ended_early} ended early | {elapsed_s:.0f} s |")
    print(f"| learning rate of the best | {found['whole'][1]:g} |")
    print(f"| its mean DSC on the cases left out | {score_of(folder / 'whole' / 'sweeps' / 'rates'):.3f} |")
    print(f"| the same of the default, {BAD_RATE:g} | {score_of(folder / 'default' / 'sweeps' / 'default'):.3f} |")
    print(f"| killed {NUM_KILLS} times: the same trials and winner | {'yes' if is_same else 'NO'} |")
    return 0 if is_same else 1


def command(output: Path, space: Path, *, num_trials: int) -> list[str]:
    """Return the command of a sweep."""
    words = [sys.executable, "-m", "orchestrator", "sweep", "--only", TRAINING, "--space", str(space)]
    return [*words, "--trials", str(num_trials), "--output", str(output)]


def run(output: Path, space: Path, *, num_trials: int) -> float:
    """Run a sweep to its end; returns the seconds that it took."""
    started_s = time.monotonic()
    subprocess.run(command(output, space, num_trials=num_trials), check=True, stdout=sys.stderr)
    return time.monotonic() - started_s


def kill_after(output: Path, space: Path, *, num_trials: int, seconds: float) -> None:
    """Start a sweep and kill it, with all that it has started, after a while."""
    process = subprocess.Popen(
        command(output, space, num_trials=num_trials), stdout=subprocess.DEVNULL, start_new_session=True
    )
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=seconds)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def found_by(sweep: Path) -> tuple[list[object], float]:
    """Return the settings of all trials and the learning rate of the best."""
    chosen = [json.loads(path.read_text()) for path in sorted((sweep / "trials").iterdir())]
    best = json.loads((sweep / "sweep.json").read_text())["best"]
    return [one for record in chosen for one in record["trials"]], float(best["settings"]["initial_learning_rate"])


def score_of(sweep: Path) -> float:
    """Return the mean DSC of the best trial."""
    head, best = (line.split(",") for line in (sweep / "tables" / "trials.csv").read_text().splitlines()[:2])
    return float(best[head.index("DSC")])


if __name__ == "__main__":
    sys.exit(main())
