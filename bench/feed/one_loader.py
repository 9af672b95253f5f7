"""Measures what one loader for two trainings would save against a loader each: CPU time a batch.

    python -m bench.feed.one_loader [--batches N] [--rounds N]

Two loaders of one thread each make batches of the same case at the same time, in two processes as two trainings have
them, then both in one process. What one process would have to do to hand its batches over is not counted.
"""

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from bench.feed.batches import CUBE
from bench.feed.cases import make_case
from bench.instruments.command_line import command_line, positive_integer
from bench.instruments.machine import conditions
from bench.instruments.rows import Row, format_rows
from orchestrator.training.feed.case_folders import PatchFolder
from orchestrator.training.feed.loader import BatchLoader
from orchestrator.training.feed.patch_dataset import ArrowDataset

CASE = "case"
NUM_WARM = 6
"""Batches before anything counts: kernels are loaded, files mapped and compared with their checksums."""


def cpu_of_a_batch_s(folder: Path, seeds: Sequence[int], num_batches: int) -> float:
    """Return the CPU time that this process takes for a batch, with a loader of one thread for every seed."""
    settings = CUBE.settings
    loaders = [
        BatchLoader(PatchFolder(folder), [CASE], settings=settings, seeds=(seed, 0), num_threads=1, pinned=False)
        for seed in seeds
    ]
    began_s = 0.0
    for index in range(NUM_WARM + num_batches):
        if index == NUM_WARM:
            began_s = time.process_time()
        for loader in loaders:
            loader.next_batch()
    spent_s = time.process_time() - began_s
    for loader in loaders:
        loader.close()
    return spent_s / (num_batches * len(seeds))


def measure(folder: Path, *, num_batches: int, rounds: int) -> Row:
    """Return the row of one loader against two, in turn."""
    case = make_case(num_slices=150, num_labels=41, window="wide", seed=1)
    ArrowDataset.save_case(case.data, case.seg, case.properties, str(folder / CASE))
    context = multiprocessing.get_context("spawn")
    each_s, one_s = [], []
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        for turn in range(rounds):
            seeds = (2 * turn, 2 * turn + 1)
            apart = [pool.submit(cpu_of_a_batch_s, folder, [seed], num_batches) for seed in seeds]
            each_s.append(statistics.fmean(future.result() for future in apart))
            one_s.append(pool.submit(cpu_of_a_batch_s, folder, seeds, num_batches).result())
    return Row(
        measure="CPU of a batch, a loader for each of two trainings against one loader for both",
        values=[each / one for each, one in zip(each_s, one_s, strict=True)],
        must=float("nan"),
        stock=f"each {1e3 * statistics.median(each_s):.1f} ms",
        ours=f"one {1e3 * statistics.median(one_s):.1f} ms",
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = command_line("feed.one_loader", description=__doc__)
    parser.add_argument("--batches", type=positive_integer, default=30, help="batches of each loader a round (30)")
    parser.add_argument("--rounds", type=positive_integer, default=5, help="times that each is measured (5)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="one-loader-") as folder:
        row = measure(Path(folder), num_batches=options.batches, rounds=options.rounds)
    print(f"\n{conditions('numba')}\n\n{format_rows([row])}")


if __name__ == "__main__":
    main()
