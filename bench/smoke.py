"""Measures the miniature run: wall time, memory, what it learns, and what the same command costs again.

    python -m bench.smoke [--output FOLDER] [--only PATTERN]

Prints a Markdown table. The folder must not hold a run yet; without --output a temporary one is used.
"""

import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from bench.instruments.command_line import command_line
from bench.instruments.machine import conditions
from orchestrator.results.store import ResultsStore
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage

SAMPLE_INTERVAL_S = 1.0
FINDINGS = {
    "task 1 lungs, mean DSC": "task = 1 AND subtask = 'lung'",
    "task 1 infection, mean DSC": "task = 1 AND subtask = 'infection'",
    "task 2 infection, mean DSC": "task = 2 AND subtask = 'infection'",
    "task 3 infection, mean DSC": "task = 3 AND subtask = 'infection'",
    "task 2 lungs, mean DSC": "task = 2 AND subtask = 'lung'",
    "task 3 lungs, mean DSC": "task = 3 AND subtask = 'lung'",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One call of run_all."""

    elapsed_s: float
    peak_gib: float
    """Largest sum of the proportional memory of the command and all that it started."""


def run_all(output: Path, patterns: list[str]) -> Measured:
    """Run the command to its end and watch its memory."""
    command = [sys.executable, "-m", "orchestrator.run_all", "--output", str(output)]
    for pattern in patterns:
        command += ["--only", pattern]
    started_s = time.monotonic()
    process = subprocess.Popen(command)
    peak_bytes = [0]

    def watch() -> None:
        while process.poll() is None:
            peak_bytes[0] = max(peak_bytes[0], sum(map(proportional_bytes, descendants(process.pid))))
            time.sleep(SAMPLE_INTERVAL_S)

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    elapsed_s = time.monotonic() - started_s
    watcher.join()
    if code != 0:
        raise SystemExit(f"{' '.join(command)} ended with exit code {code}")
    return Measured(elapsed_s=elapsed_s, peak_gib=peak_bytes[0] / 1024**3)


def descendants(root: int) -> list[int]:
    """Return a process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(status.parent.name))
    found, open_pids = [], [root]
    while open_pids:
        pid = open_pids.pop()
        found.append(pid)
        open_pids += children.get(pid, [])
    return found


def proportional_bytes(pid: int) -> int:
    """Return the memory of a process, shared pages divided among those that share them; 0 if it has ended."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def main() -> None:
    """Measure and print."""
    parser = command_line("smoke", description=__doc__)
    parser.add_argument("--output", type=Path, help="folder for the run")
    parser.add_argument("--only", action="append", default=[], help="only some trainings")
    options = parser.parse_args()
    if options.output and (options.output / run_paths.RUN).exists():
        parser.error(f"--output {options.output}: holds a run; expected a folder without one")
    with tempfile.TemporaryDirectory() as folder:
        output = options.output or Path(folder) / "run"
        first, again = run_all(output, options.only), run_all(output, options.only)
        store = ResultsStore(open_storage(str(output)))
        print(f"\n{conditions('torch', 'ray')}, {len(store.finished())} trainings\n")
        print("| measure | value |\n|---|---|")
        print(f"| wall time | {first.elapsed_s / 60:.1f} min |")
        print(f"| peak memory | {first.peak_gib:.1f} GiB |")
        print(f"| the same command again | {again.elapsed_s:.1f} s |")
        for title, condition in FINDINGS.items():
            sql = f"SELECT avg(dsc) AS dsc FROM scores WHERE evaluation_set = 'test' AND {condition}"
            mean = store.query(sql)["dsc"][0].as_py()
            print(f"| {title} | {'-' if mean is None else format(mean, '.3f')} |")


if __name__ == "__main__":
    main()
