"""Changes of a sealed bundle: 1,000 of them, a byte, a row, a cell, a file or a form each, and whether each is named.

    python -m bench.bundle [--changes 1000] [--seed 0] [--only KIND:NUMBER]

Bytes are those of the zip. Rows, cells, forms and half of the files are changed with all digests made anew, so that
only what is calculated anew finds them. A form is how something is written: a number, a separator, a table of rows, the
manifest. A change that leaves the zip as it was, and one that no line names, is a miss.
"""

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from bench.bundle.changes import CHANGES, Files
from bench.bundle.sealed_run import remembered, sealed
from bench.instruments.command_line import command_line
from bench.instruments.machine import conditions
from orchestrator.bundle.archive import read_archive
from orchestrator.bundle.seal import Derive, check_bundle
from orchestrator.errors import OrchestratorError


def lines_about(
    kind: str, *, number: tuple[int, int], files: Files, folder: Path, derive: Derive
) -> tuple[str, list[str]]:
    """Change a bundle as a seed and a number say; return where, and what is said of it."""
    random = np.random.default_rng([*number, *kind.encode()])
    target = folder / "changed.zip"
    where = CHANGES[kind](files, target, random)
    try:
        checked = check_bundle(target, derive=derive)
    except OrchestratorError as error:
        return where, [str(error)]
    return where, [*checked.problems, *checked.notes]


def is_named(kind: str, where: str, lines: list[str]) -> bool:
    """Whether something is said, and of a file also which; of two that are exchanged, one of them."""
    return bool(lines) if kind == "byte" else any(name in line for name in where.split() for line in lines)


def main() -> int:
    """Run the benchmark."""
    parser = command_line("bundle", description=__doc__)
    parser.add_argument("--changes", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="one change, KIND:NUMBER: what is said of it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        path, made = sealed(folder)
        files, derive = dict(read_archive(path).files), remembered()
        if options.only:
            kind, _, text = options.only.partition(":")
            chosen = [(kind, int(text))]
        else:
            chosen = [(list(CHANGES)[number % len(CHANGES)], number) for number in range(options.changes)]
        started_s = time.process_time()
        counts: Counter[str] = Counter()
        missed = []
        for kind, number in chosen:
            where, lines = lines_about(kind, number=(options.seed, number), files=files, folder=folder, derive=derive)
            counts[kind] += 1
            if not is_named(kind, where, lines):
                missed.append(f"{kind}:{number} in {where}: {lines[:3]}")
            if options.only:
                print(where, *lines, sep="\n")
        elapsed_s = time.process_time() - started_s
    print(conditions())
    print(f"{made.num_files} files, {made.num_bytes} bytes; changes: {dict(counts)}; {elapsed_s:.0f} s of processor")
    print(*missed, f"named: {sum(counts.values()) - len(missed)} of {sum(counts.values())}", sep="\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
