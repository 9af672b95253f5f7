"""Compares what our trainer for nnUNetv2_train feeds with what nnU-Net's own does, on the same preprocessed folders.

    python -m bench.stock_trainer [--only batches step dice] [--slices N] [--rounds N] [--seeds N]

`batches`: CPU seconds of the whole process for a batch of two 128^3 patches, by the loader of nnU-Net's trainer, by
ours from the same blosc2 files, and by ours from patch files, in turn. `step`: how fast a training of stub steps goes
that take 60 ms each and no CPU, fed on two cores, against the same without any loading. `dice`: miniature trainings by
both trainers with the same seeds, scored on whole cases that neither has seen, with the mean difference over seeds, its
95 % interval and the p-value of a paired t-test. Batches are compared before they are timed.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.instruments.command_line import command_line, existing_folder, positive_integer
from bench.instruments.machine import conditions
from bench.instruments.rows import Row, format_rows
from bench.stock_trainer.cases import StockCases, our_loaders_of, stock_loaders
from bench.stock_trainer.dice import compare_dice
from orchestrator.training.dropin.prepared import PATCHES

MEASURES = ("batches", "step", "dice")
NUM_COMPARED = 6
BATCHES_A_ROUND = 12
STEP_S, NUM_STEPS, NUM_CORES = 0.06, 150, 2


def main() -> None:
    """Measure and print."""
    parser = command_line("stock_trainer", description=__doc__)
    parser.add_argument("--only", choices=MEASURES, nargs="+", default=list(MEASURES), help="what to measure")
    parser.add_argument("--slices", type=positive_integer, default=200, help="of the cases (200)")
    parser.add_argument("--size", type=positive_integer, default=384, help="rows and columns of a slice (384)")
    parser.add_argument("--rounds", type=positive_integer, default=5, help="times that each is measured (5)")
    parser.add_argument("--seeds", type=positive_integer, default=5, help="trainings by each trainer (5)")
    parser.add_argument(
        "--folder", type=existing_folder, help="where files are written (default: the temporary folder)"
    )
    options = parser.parse_args()
    rows, learned = [], ""
    with tempfile.TemporaryDirectory(prefix="stock-", dir=options.folder) as folder:
        if {"batches", "step"} & set(options.only):
            rows = _measure_feed(Path(folder), options)
        if "dice" in options.only:
            learned = compare_dice(Path(folder) / "dice", num_seeds=options.seeds)
    print(f"\n{conditions('nnunetv2', 'blosc2', 'numba', 'torch')}, {options.rounds} rounds\n")
    if rows:
        print(format_rows(rows))
    if learned:
        print(f"\n{learned}")


def _measure_feed(folder: Path, options: argparse.Namespace) -> list[Row]:
    torch.set_num_threads(1)
    rows: list[Row] = []
    for num_channels, num_labels in ((1, 2), (2, 2), (1, 41)):
        cases = StockCases(
            root=folder / f"{num_channels}_{num_labels}", num_channels=num_channels, num_labels=num_labels
        )
        cases.write(num_slices=options.slices, size=options.size)
        if "batches" in options.only:
            rows += measure_batches(cases, rounds=options.rounds)
        if "step" in options.only and num_labels == 2:
            rows += measure_steps(cases, rounds=options.rounds)
        shutil.rmtree(cases.root)
        print(f"{cases.title} measured", file=sys.stderr, flush=True)
    return rows


def measure_batches(cases: StockCases, *, rounds: int) -> list[Row]:
    """Return how many times less CPU a batch takes; raises AssertionError if batches are not what they should be."""
    stock, _ = stock_loaders(cases, num_workers=0)
    own, _ = our_loaders_of(cases, num_workers=0)
    cases.convert(lossless=True)
    exact, _ = our_loaders_of(cases, num_workers=0)
    _check_same(own, exact)
    shutil.rmtree(cases.folder / PATCHES)
    cases.convert(lossless=False)
    patches, _ = our_loaders_of(cases, num_workers=0)
    _check_alike(next(stock), next(patches))
    spent = _interleaved({"stock": lambda: next(stock), "own": own.next_batch, "patches": patches.next_batch}, rounds)
    shutil.rmtree(cases.folder / PATCHES)
    num = rounds * BATCHES_A_ROUND
    return [
        Row(
            measure=f"CPU of a batch of two 128^3, {cases.title}, {source}",
            values=[a / b for a, b in zip(spent["stock"], spent[name], strict=True)],
            must=must,
            stock=f"{1e3 * sum(spent['stock']) / num:.1f} ms",
            ours=f"{1e3 * sum(spent[name]) / num:.1f} ms",
        )
        for name, source, must in (("own", "from nnU-Net's files", 3.0), ("patches", "from patch files", 5.0))
    ]


def _check_same(one: Any, other: Any) -> None:
    """Compare batches of two loaders bit by bit."""
    for _ in range(NUM_COMPARED):
        first, second = one.next_batch(), other.next_batch()
        assert torch.equal(first["data"], second["data"]), "images from blosc2 and from patch files differ"
        pairs = zip(first["target"], second["target"], strict=True)
        assert all(torch.equal(a, b) for a, b in pairs), "labels from blosc2 and from patch files differ"
        assert first["keys"] == second["keys"]


def _check_alike(stock: dict[str, Any], ours: dict[str, Any]) -> None:
    """Compare what a network sees of two batches that were drawn differently."""
    for name in ("data", "target"):
        parts = [batch[name] if isinstance(batch[name], list) else [batch[name]] for batch in (stock, ours)]
        kinds = [[(part.shape, part.dtype) for part in one] for one in parts]
        assert kinds[0] == kinds[1], f"{name}: {kinds[0]} by stock, {kinds[1]} by ours"


def _interleaved(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Take turns batch by batch, after a warm-up; CPU seconds of each round."""
    for _ in range(3):
        for call in calls.values():
            call()
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        of_round = dict.fromkeys(calls, 0.0)
        for _ in range(BATCHES_A_ROUND):
            for name, call in calls.items():
                started_s = time.process_time()
                call()
                of_round[name] += time.process_time() - started_s
        for name, cpu_s in of_round.items():
            spent[name].append(cpu_s)
    return spent


def measure_steps(cases: StockCases, *, rounds: int) -> list[Row]:
    """Return the share of the speed without loading that stub steps reach, on two cores."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(sorted(cores)[:NUM_CORES]))
    try:
        found = {"stock": [_speed(stock_loaders(cases, num_workers=NUM_CORES)[0]) for _ in range(rounds)]}
        found["own"] = [_speed(our_loaders_of(cases, num_workers=NUM_CORES)[0]) for _ in range(rounds)]
        cases.convert(lossless=False)
        found["patches"] = [_speed(our_loaders_of(cases, num_workers=NUM_CORES)[0]) for _ in range(rounds)]
        shutil.rmtree(cases.folder / PATCHES)
    finally:
        os.sched_setaffinity(0, cores)
    stock = f"{sorted(found['stock'])[rounds // 2]:.3f} of the speed"
    return [
        Row(
            measure=f"steps of 60 ms, two cores, {cases.title}, {source}: share of the speed without loading",
            values=found[name],
            must=0.98,
            stock=stock,
            ours=f"{sorted(found[name])[rounds // 2]:.3f}",
        )
        for name, source in (("own", "from nnU-Net's files"), ("patches", "from patch files"))
    ]


def _speed(loader: Any) -> float:
    """Return the time of steps without loading as a share of that with this loader, which is ended."""
    try:
        for _ in range(10):
            next(loader)
            time.sleep(STEP_S)
        started_s = time.perf_counter()
        for _ in range(NUM_STEPS):
            next(loader)
            time.sleep(STEP_S)
        with_loading_s = time.perf_counter() - started_s
    finally:
        getattr(loader, "close", getattr(loader, "_finish", lambda: None))()
    started_s = time.perf_counter()
    for _ in range(NUM_STEPS):
        time.sleep(STEP_S)
    return (time.perf_counter() - started_s) / with_loading_s


if __name__ == "__main__":
    main()
