"""What readers make of files that were changed: 10,000 changes of each format, in a process that may die.

A change is one to three of: bits, blocks, lengths, numbers, words, parts of a tree; where a format has checksums, a
second run makes them right again. What is promised: no crash, no hang, no memory beyond a limit, only errors of this
project, and no other value than was written where a checksum says so. Each change follows from the seed and its number:
`--only` repeats one of them.
"""

import argparse
import json
import os
import resource
import select
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np

from bench.instruments.command_line import command_line
from bench.instruments.machine import conditions

NUM_MUTATIONS = 10_000
LIMIT_S = 20.0
"""For one file; readers take milliseconds."""
START_S = 300.0
"""Until the first file: imports, and kernels that are compiled for the first time."""
MEMORY_BYTES = 6 * 1024**3
"""That a process may ask for, beyond what it has after reading sound files."""
KINDS = ("refused", "as it was", "otherwise", "problem")
MAX_SHOWN = 12
ROOT = Path(__file__).resolve().parents[2]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1"}
READY, DONE = "ready", "done"
MEMORY = Path("/dev/shm")
"""Where files are: storages wait for the disk with every file that they write."""


@dataclass(kw_only=True, slots=True)
class Findings:
    """What became of the changes of one format."""

    name: str
    counts: Counter[str] = field(default_factory=Counter)
    """By kind."""
    problems: list[str] = field(default_factory=list)
    elapsed_s: float = 0.0

    def add(self, index: int, outcome: str) -> None:
        """Count one change; what is none of the other kinds is a problem."""
        kind = outcome if outcome in KINDS else "problem"
        self.counts[kind] += 1
        if kind == "problem":
            self.problems.append(f"{self.name} {index}: {outcome}")


def fuzz(name: str, *, num_mutations: int, seed: int, first: int = 0) -> Findings:
    """Change and read the files of one format in a process of its own; after a crash or a hang another one goes on."""
    findings = Findings(name=name)
    started_s = time.monotonic()
    index, last = first, first + num_mutations
    while index < last:
        command = [sys.executable, "-m", "bench.fuzz", "--worker", name, str(index), str(last), "--seed", str(seed)]
        with (
            # A process that is killed removes nothing.
            tempfile.TemporaryDirectory(prefix="fuzz-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as folder,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, cwd=ROOT, env={**os.environ, **ONE_THREAD, "TMPDIR": folder}
            ) as worker,
        ):
            index = _follow(worker, findings, index=index)
            worker.kill()
    findings.elapsed_s = time.monotonic() - started_s
    return findings


def _follow(worker: "subprocess.Popen[bytes]", findings: Findings, *, index: int) -> int:
    """Count what a process says until it ends or is silent for too long; return where the next one goes on."""
    limit_s = START_S
    rest = b""
    assert worker.stdout is not None
    while select.select([worker.stdout], [], [], limit_s)[0]:
        part = os.read(worker.stdout.fileno(), 1 << 16)
        if not part:
            if limit_s == START_S:
                raise SystemExit(f"{findings.name}: what reads ends with code {worker.wait()} before the first file")
            findings.add(index, f"the process dies with code {worker.wait()}")
            return index + 1
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            index, outcome = json.loads(line)
            if outcome not in {READY, DONE}:
                findings.add(index, outcome)
                index += 1
            elif outcome == DONE:
                return index
        limit_s = LIMIT_S
    findings.add(index, f"hangs for more than {limit_s:.0f} s")
    return index + 1


def work(name: str, *, first: int, last: int, seed: int, answers: IO[str]) -> None:
    """Read changed files one after the other and write what became of each."""
    from bench.fuzz.formats import FORMATS

    form = FORMATS[name]
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        sound, place = Path(folder) / "sound", Path(folder) / "changed"
        sound.mkdir()
        place.mkdir()
        files = form.make(sound)
        expected = [form.read(content, place) for content in files]
        _limit_memory()
        answers.write(json.dumps([first, READY]) + "\n")
        answers.flush()
        for index in range(first, last):
            random = np.random.default_rng([seed, zlib.crc32(name.encode()), index])
            which = int(random.integers(len(files)))
            content = form.mutate(files[which], random)
            try:
                is_same = form.read(content, place) == expected[which]
                outcome = "as it was" if is_same else "read as something else" if form.is_checked else "otherwise"
            except BaseException as error:
                outcome = _outcome(error)
            answers.write(json.dumps([index, outcome]) + "\n")
            answers.flush()
        answers.write(json.dumps([last, DONE]) + "\n")
        answers.flush()


def _outcome(error: BaseException) -> str:
    from orchestrator.errors import OrchestratorError

    if isinstance(error, OrchestratorError):
        return "refused"
    places = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
    return f"{type(error).__name__}: {str(error)[:120]!r} at {' < '.join(reversed(places[-6:]))}"


def _limit_memory() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def show(findings: Findings) -> None:
    """Print a row, and what went wrong, each kind of it once."""
    counts = " | ".join(str(findings.counts[kind]) for kind in KINDS)
    print(f"| {findings.name} | {counts} | {findings.elapsed_s:.0f} |", flush=True)
    seen: dict[str, str] = {}
    for problem in findings.problems:
        seen.setdefault(problem.partition(": ")[2].split(" at ")[-1], problem)
    for problem in list(seen.values())[:MAX_SHOWN]:
        print(f"  {problem}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = command_line("fuzz", description=__doc__)
    add = parser.add_argument
    add("--formats", nargs="+", metavar="NAME", help="only these (default: all)")
    add("--mutations", type=int, default=NUM_MUTATIONS, help=f"changes of each format ({NUM_MUTATIONS})")
    add("--only", type=int, metavar="NUMBER", help="only the change of this number")
    add("--seed", type=int, default=0, help="(0)")
    add("--worker", nargs=3, help=argparse.SUPPRESS)
    return parser


def main() -> int:
    """Change, read, print; 1 if there was any problem."""
    options = _parser().parse_args()
    if options.worker:
        name, first, last = options.worker
        # Readers that print must not answer in place of this process.
        answers = os.fdopen(os.dup(1), "w")
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123 - of the file's number, not of its path
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        work(name, first=int(first), last=int(last), seed=options.seed, answers=answers)
        return 0
    from bench.fuzz.formats import FORMATS

    print(f"{conditions('pyarrow', 'torch', 'SimpleITK')}\n\n| format | {' | '.join(KINDS)} | s |\n|{'---|' * 6}")
    num_problems = 0
    for name in options.formats or FORMATS:
        one = options.only is not None
        findings = fuzz(
            name,
            num_mutations=1 if one else options.mutations,
            first=options.only if one else 0,
            seed=options.seed,
        )
        show(findings)
        num_problems += len(findings.problems)
    return int(num_problems > 0)


if __name__ == "__main__":
    sys.exit(main())
