"""Measures whole trainings: six miniatures by plain nnU-Net one after the other, and the same six by ours.

    python -m bench.feed_trainings [--folder FOLDER]

Plain nnU-Net runs each in a process of its own with as many loader processes as it chooses. Ours run as the pipeline
runs them without a GPU: a process a core, each going on to the next training. Both begin with the same images, label
maps and plan; preprocessing, store, loader and start-up are included. The models are then compared on test cases.
"""

import argparse
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from bench.miniature_cases import MINIATURE, Miniature
from bench.rows import Row, format_rows
from orchestrator.storage.filesystem import open_storage

NUM_TRAININGS = 6
NUM_CORES = 2


@dataclass(kw_only=True, slots=True)
class Spent:
    """Time that something took."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    """Of processes that have ended."""


@contextmanager
def measured() -> Iterator[Spent]:
    """Context that measures the processes that are started and end within it."""
    spent = Spent()
    before, started_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    yield spent
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent.wall_s = time.monotonic() - started_s
    spent.cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def train_ours(folder: Path, seed: int, output: Path) -> None:
    """Preprocess and train with our store and loader, as the pipeline does; leave the weights."""
    from orchestrator.training.checkpoint import CheckpointStore
    from orchestrator.training.patch_dataset import ArrowDataset
    from orchestrator.training.preprocessing import preprocess_case
    from orchestrator.training.trainer import train

    cases = Miniature.open(folder)
    with tempfile.TemporaryDirectory(prefix="ours-") as work:
        patches = Path(work) / "patches"
        patches.mkdir()
        for name in cases.train:
            case = preprocess_case(*cases.paths(name), cases.plan)
            ArrowDataset.save_case(case.data, case.seg, case.properties, str(patches / name))
        checkpoint = CheckpointStore(open_storage(work), training_id=f"seed{seed}")
        train(
            plan=cases.plan,
            preset=MINIATURE,
            training_id=f"seed{seed}",
            train_cases=cases.train,
            val_cases=(),
            patches=patches,
            checkpoint=checkpoint,
            log=lambda _: None,
            seed=seed,
            device="cpu",
            num_loader_processes=0,
            on_epoch=lambda _: None,
        )
        torch.save(checkpoint.load_final()["network_weights"], output)


def measure_six(cases: Miniature, *, work: Path, num_trainings: int) -> list[Row]:
    """Return the rows of wall, CPU and Dice of the same trainings by both."""
    seeds = range(num_trainings)
    with measured() as plain, (work / "plain.log").open("w") as log:
        for seed in seeds:
            command = [sys.executable, "-m", "bench.plain_nnunet", cases.folder, seed, work / f"plain_{seed}.pt"]
            subprocess.run([str(part) for part in command], check=True, stdout=log, stderr=log)
    context = multiprocessing.get_context("spawn")
    with measured() as ours, ProcessPoolExecutor(NUM_CORES, mp_context=context, initializer=_one_thread) as pool:
        for future in [pool.submit(train_ours, cases.folder, seed, work / f"ours_{seed}.pt") for seed in seeds]:
            future.result()
    return [
        Row(
            measure=f"{num_trainings} miniature trainings against plain nnU-Net's one after the other, {name}",
            values=[getattr(plain, field) / getattr(ours, field)],
            must=must,
            better=better,
            stock=f"{getattr(plain, field):.0f} s",
            ours=f"{getattr(ours, field):.0f} s",
        )
        for name, field, must, better in (("wall", "wall_s", 2, 3), ("CPU", "cpu_s", float("nan"), float("nan")))
    ]


def compare_learning(cases: Miniature, *, work: Path, num_trainings: int) -> str:
    """Return a table of the mean Dice of each seed, and what a paired t-test says."""
    from scipy.stats import ttest_rel

    dices = {
        kind: [cases.mean_dice(torch.load(work / f"{kind}_{seed}.pt"), work=work) for seed in range(num_trainings)]
        for kind in ("plain", "ours")
    }
    lines = ["| seed | plain nnU-Net | ours |", "|---|---|---|"]
    lines += [f"| {seed} | {a:.4f} | {b:.4f} |" for seed, (a, b) in enumerate(zip(*dices.values(), strict=True))]
    means = [sum(values) / num_trainings for values in dices.values()]
    probability = ttest_rel(*dices.values()).pvalue
    lines += [f"| mean | {means[0]:.4f} | {means[1]:.4f} |", "", f"paired t-test: p = {probability:.2f}"]
    return "\n".join(lines)


def measure_side_by_side(cases: Miniature, *, rounds: int) -> Row:
    """Return what share of its speed alone on one core each of two trainings keeps side by side on two cores."""
    cores = sorted(os.sched_getaffinity(0))[:NUM_CORES]
    context = multiprocessing.get_context("spawn")
    values, alone_s, both_s = [], 0.0, 0.0
    with ProcessPoolExecutor(NUM_CORES, mp_context=context) as pool:
        both = [pool.submit(_epoch_seconds, cases.folder, core, wait_s=2) for core in cores]
        warm = [future.result() for future in both]
        for _ in range(rounds):
            alone = pool.submit(_epoch_seconds, cases.folder, cores[0], wait_s=0).result()
            together = [pool.submit(_epoch_seconds, cases.folder, core, wait_s=2) for core in cores]
            slower = max(future.result() for future in together)
            values.append(alone / slower)
            alone_s, both_s = alone_s + alone, both_s + slower
    assert warm
    return Row(
        measure="two trainings side by side on two cores, speed of the slower against alone on one core",
        values=values,
        must=0.95,
        better=0.98,
        stock=f"{alone_s / rounds:.2f} s an epoch alone",
        ours=f"{both_s / rounds:.2f} s",
    )


def _epoch_seconds(folder: Path, core: int, *, wait_s: float) -> float:
    """Train on one core and return the seconds of the fastest epoch; `wait_s` lets another process begin as well."""
    from orchestrator.training import trainer as module

    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    time.sleep(wait_s)
    seconds: list[float] = []
    cases = Miniature.open(folder)
    patches = folder / "patches"
    with tempfile.TemporaryDirectory(prefix="side-") as work:
        module.train(
            plan=cases.plan,
            preset=replace(MINIATURE, num_epochs=4),
            training_id="side",
            train_cases=cases.train,
            val_cases=(),
            patches=patches,
            checkpoint=_no_checkpoints(work),
            log=lambda _: None,
            seed=1,
            device="cpu",
            num_loader_processes=0,
            on_epoch=lambda report: seconds.append(report.elapsed_s),
        )
    return min(seconds[1:])


def _no_checkpoints(work: str) -> "object":
    from orchestrator.training.checkpoint import CheckpointStore

    return CheckpointStore(open_storage(work), training_id="side")


def _one_thread() -> None:
    torch.set_num_threads(1)


def _write_patches(cases: Miniature) -> None:
    from orchestrator.training.patch_dataset import ArrowDataset
    from orchestrator.training.preprocessing import preprocess_case

    patches = cases.folder / "patches"
    patches.mkdir()
    for name in cases.train:
        case = preprocess_case(*cases.paths(name), cases.plan)
        ArrowDataset.save_case(case.data, case.seg, case.properties, str(patches / name))


def measure(folder: Path, *, num_trainings: int, rounds: int) -> tuple[list[Row], str]:
    """Return the rows, and the table of what was learned."""
    cases_folder, work = folder / "cases", folder / "work"
    cases_folder.mkdir()
    work.mkdir()
    cases = Miniature.write(cases_folder)
    rows = measure_six(cases, work=work, num_trainings=num_trainings)
    table = compare_learning(cases, work=work, num_trainings=num_trainings)
    _write_patches(cases)
    return [*rows, measure_side_by_side(cases, rounds=rounds)], table


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainings", type=int, default=NUM_TRAININGS, help="trainings by each, with other seeds (6)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of two side by side (3)")
    parser.add_argument("--folder", type=Path, help="where files are written (default: the temporary folder)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="trainings-", dir=options.folder) as folder:
        rows, table = measure(Path(folder), num_trainings=options.trainings, rounds=options.rounds)
    print(f"\nload {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    print(format_rows(rows))
    print(f"\n{table}")


if __name__ == "__main__":
    main()
