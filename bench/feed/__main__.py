"""Compares how a training is fed with how nnU-Net 2.8.1 feeds it, on the same machine, in turn.

    python -m bench.feed [--slices 60 150 350] [--rounds N] [--only MEASURE ...]

Synthetic CT-like cases at full size (see `bench.feed.cases`) are written to both; what comes back is compared before
anything is measured. CPU times are those of the thread, or of the process where stock uses several threads. Then whole
trainings are compared (`bench.feed.trainings`) and, where there is a GPU, epochs on it (`bench.feed.gpu`).
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from bench.feed import gpu, trainings
from bench.feed.batches import measure_batches
from bench.feed.cases import WINDOWS, FeedCase, make_case
from bench.feed.store import measure_store
from bench.instruments.command_line import command_line, existing_folder, positive_integer
from bench.instruments.machine import conditions
from bench.instruments.rows import Row, format_rows, merged

TRAININGS, EPOCHS = "trainings", "gpu"
MEASURES: dict[str, Callable[..., list[Row]]] = {"batches": measure_batches, "store": measure_store}
"""By name: what takes a case, a folder for its files and a number of rounds, and returns rows."""
NUM_LABELS = (2, 41)


def main() -> None:
    """Measure and print."""
    parser = command_line("feed", description=__doc__)
    parser.add_argument(
        "--slices", type=positive_integer, nargs="+", default=[60, 150, 350], help="of the cases (60 150 350)"
    )
    parser.add_argument(
        "--rounds", type=positive_integer, default=5, help="times that batches and stores are measured (5)"
    )
    names = sorted([*MEASURES, TRAININGS, EPOCHS])
    parser.add_argument("--only", choices=names, nargs="+", default=names, help="what to measure")
    parser.add_argument(
        "--folder", type=existing_folder, help="where files are written (default: the temporary folder)"
    )
    options = parser.parse_args()
    rows: list[Row] = []
    for case in cases(options) if set(options.only) & set(MEASURES) else ():
        rows += measure_case(case, options)
        print(f"{case.name} measured", file=sys.stderr, flush=True)
    if TRAININGS in options.only:
        with tempfile.TemporaryDirectory(prefix="feed-", dir=options.folder) as folder:
            rows += trainings.measure(Path(folder))
    measured = conditions("nnunetv2", "blosc2", "pyarrow", "numba")
    print(f"\n{measured}, cases of {options.slices} slices, {options.rounds} rounds\n")
    if rows:
        print(format_rows(merged(rows)))
    if EPOCHS in options.only:
        if torch.cuda.is_available():
            gpu.main([])
        else:
            print(f"\nEpochs on a GPU: torch {torch.__version__} finds none that it can use.")


def cases(options: argparse.Namespace) -> Iterator[FeedCase]:
    """Yield the cases, one after the other: each takes hundreds of megabytes."""
    for window in WINDOWS:
        for num_labels in NUM_LABELS:
            for num_slices in options.slices:
                yield make_case(num_slices=num_slices, num_labels=num_labels, window=window, seed=num_slices)


def measure_case(case: FeedCase, options: argparse.Namespace) -> list[Row]:
    """Return the rows of one case, named by its window and number of labels."""
    kind = case.name.rpartition("_labels_")[0].replace("_", " window, ") + " labels"
    with tempfile.TemporaryDirectory(prefix="feed-", dir=options.folder) as folder:
        return [
            row.named(f"{row.measure}; {kind}")
            for name in options.only
            if name in MEASURES
            for row in MEASURES[name](case, folder=Path(folder), rounds=options.rounds)
        ]


if __name__ == "__main__":
    main()
