"""A challenge of 100 submissions, 200 cases and 15 structures, from label maps to the ranked page, in one command.

    python -m bench.submissions [--submissions N] [--cases N] [--labels N] [--folder FOLDER]

Label maps are of 256 x 256 x 64 voxels, NIfTI with gzip. Of each case there are eight predictions of different error
as files, and each submission has one of these as its own by a hard link, so that each of its files is read, expanded
and scored as if it were the only one. Four submissions are broken: one lacks a case, one has a truncated file, one is
on another grid, one is empty. DSC, NSD, HD95 and ASSD are calculated. The command runs as a process of its own; the
memory is the most that it and its workers used at a time, without pages of files.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from bench.instruments.command_line import command_line, positive_integer
from bench.instruments.machine import conditions
from bench.submissions.folders import make_folders, name_of

NUM_VARIANTS = 8
_EVERY_S = 0.25


def main() -> int:
    """Run the benchmark."""
    parser = command_line("submissions", description=__doc__)
    add = parser.add_argument
    add("--submissions", type=positive_integer, default=100)
    add("--cases", type=positive_integer, default=200)
    add("--labels", type=positive_integer, default=15)
    add("--folder", type=Path, help="where the label maps are, or are written and kept (default: a temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary) / "challenge"
        if not folder.exists():
            make_folders(
                folder,
                num_submissions=options.submissions,
                num_cases=options.cases,
                num_labels=options.labels,
                num_variants=NUM_VARIANTS,
            )
            _break_some(folder / "submissions", num_submissions=options.submissions)
        output = Path(temporary) / "output"
        words = ["submit", str(folder / "submissions"), "--reference", str(folder / "reference")]
        command = [sys.executable, "-m", "orchestrator", *words, "--label", f"1-{options.labels}=1.0"]
        command += ["--output", str(output)]
        print(conditions())
        for what in ("all at once", "again, nothing has changed"):
            exit_code, elapsed_s, cpu_s, peak_mib, shown = _measure(command)
            print(
                f"{what}: {options.submissions} submissions x {options.cases} cases x {options.labels} labels: "
                f"{elapsed_s:.0f} s ({cpu_s:.0f} s of CPU), {peak_mib:.0f} MiB, exit code {exit_code}"
            )
        page = output / "report" / "index.html"
        print(f"page: {page.stat().st_size / 1e6:.1f} MB; broken: {shown.count('missing: ')} lines")
    return 0


def _break_some(submissions: Path, *, num_submissions: int) -> None:
    """Break the last four of the submissions, each in another way."""
    names = [name_of(number) for number in range(num_submissions)][-4:]
    for number, name in enumerate(names):
        first = min((submissions / name).iterdir())
        content = first.read_bytes()
        # The file itself belongs to others as well.
        first.unlink()
        if number == 1:
            first.write_bytes(content[: len(content) // 2])
        elif number == 2:
            sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 8, 8), np.uint8)), str(first))
        elif number == 3:
            shutil.rmtree(submissions / name)
            (submissions / name).mkdir()


def _measure(command: list[str]) -> tuple[int, float, float, float, str]:
    """Return exit code, seconds, seconds of CPU, most memory of all processes together in MiB, and what was said."""
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started_s = time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        peak_kib = 0
        while process.poll() is None:
            peak_kib = max(peak_kib, _memory_kib(process.pid))
            time.sleep(_EVERY_S)
        elapsed_s = time.perf_counter() - started_s
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        errors.seek(0)
        said = errors.read()
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return process.returncode, elapsed_s, cpu_s, peak_kib / 1024, said


def _memory_kib(pid: int) -> int:
    """Return the memory of a process and its descendants: what each has to itself, and its share of what it shares."""
    total = 0
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (OSError, ValueError):
        return total
    return total + sum(_memory_kib(int(child)) for child in children)


if __name__ == "__main__":
    sys.exit(main())
