"""Measures whole trainings: six miniatures by plain nnU-Net one after the other, and the same six by ours.

    python -m bench.feed.trainings [--folder FOLDER]

Plain nnU-Net runs each in a process of its own with as many loader processes as it chooses. Ours run as the pipeline
runs them without a GPU: a process a core, each going on to the next training. Both begin with the same images, label
maps and plan; preprocessing, store, loader and start-up are included. What networks
learn is compared by `bench.stock_trainer --only dice`.
"""

import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.feed.miniature_cases import MINIATURE, Miniature
from bench.instruments.command_line import command_line, existing_folder, positive_integer
from bench.instruments.machine import conditions
from bench.instruments.rows import Row, format_rows
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


def train_ours(folder: Path, seed: int) -> None:
    """Preprocess and train with our store and loader, as the pipeline does."""
    from orchestrator.training.checkpoint import CheckpointStore
    from orchestrator.training.feed.patch_dataset import ArrowDataset
    from orchestrator.training.nnunet.preprocessing import preprocess_case
    from orchestrator.training.reports import TrainingListener
    from orchestrator.training.trainer import TrainingSettings, train

    cases = Miniature.open(folder)
    with tempfile.TemporaryDirectory(prefix="ours-") as work:
        patches = Path(work) / "patches"
        patches.mkdir()
        for name in cases.train:
            image, labels = cases.paths(name)
            case = preprocess_case([image], labels, cases.plan)
            ArrowDataset.save_case(case.data, case.seg, case.properties, str(patches / name))
        checkpoint = CheckpointStore(open_storage(work), training_id=f"seed{seed}")
        settings = TrainingSettings(
            plan=cases.plan,
            preset=MINIATURE,
            training_id=f"seed{seed}",
            train_cases=tuple(cases.train),
            val_cases=(),
            patches=patches,
            seed=seed,
            device="cpu",
            num_loader_workers=0,
        )
        listener = TrainingListener(on_epoch=lambda _: None)
        train(settings, checkpoint=checkpoint, log=lambda _: None, listener=listener)


def measure_six(cases: Miniature, *, work: Path, num_trainings: int) -> list[Row]:
    """Return the rows of wall and CPU time of the same trainings by both."""
    seeds = range(num_trainings)
    with measured() as plain, (work / "plain.log").open("w") as log:
        for seed in seeds:
            command = [sys.executable, "-m", "bench.feed.plain_nnunet", cases.folder, seed]
            subprocess.run([str(part) for part in command], check=True, stdout=log, stderr=log)
    context = multiprocessing.get_context("spawn")
    with measured() as ours, ProcessPoolExecutor(NUM_CORES, mp_context=context, initializer=_one_thread) as pool:
        for future in [pool.submit(train_ours, cases.folder, seed) for seed in seeds]:
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


def _one_thread() -> None:
    torch.set_num_threads(1)


def measure(folder: Path, *, num_trainings: int = NUM_TRAININGS) -> list[Row]:
    """Return the rows."""
    cases_folder, work = folder / "cases", folder / "work"
    cases_folder.mkdir()
    work.mkdir()
    cases = Miniature.write(cases_folder)
    return measure_six(cases, work=work, num_trainings=num_trainings)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = command_line("feed.trainings", description=__doc__)
    parser.add_argument(
        "--trainings", type=positive_integer, default=NUM_TRAININGS, help="trainings by each, with other seeds (6)"
    )
    parser.add_argument(
        "--folder", type=existing_folder, help="where files are written (default: the temporary folder)"
    )
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="trainings-", dir=options.folder) as folder:
        rows = measure(Path(folder), num_trainings=options.trainings)
    print(f"\n{conditions('nnunetv2', 'torch')}\n")
    print(format_rows(rows))


if __name__ == "__main__":
    main()
