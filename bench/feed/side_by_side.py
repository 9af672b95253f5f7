"""Measures whether two trainings on one host slow each other down: each on a core of its own, against alone on one.

    python -m bench.feed.side_by_side [--rounds N]

Each training is a process that is held to its core with all of its threads, lives through the whole measurement and
trains an epoch when it is told to: alone, both at once, alone, and so on, so that neither start-up nor a machine that
becomes slower in the meantime counts. The same is done with nnU-Net's own loader and transforms in the place of ours,
which tells what the machine leaves to two trainings.
"""

import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

import torch

from bench.feed.miniature_cases import MINIATURE, Miniature
from bench.instruments.command_line import command_line, positive_integer
from bench.instruments.machine import conditions
from bench.instruments.rows import Row, format_rows

NUM_CORES = 2
ROUNDS = 30
"""Single epochs vary by a twentieth: this many give the median to half a hundredth."""
Feed = Literal["kernels", "nnunet"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochTimes:
    """Of one epoch."""

    wall_s: float
    cpu_s: float


class Competitor:
    """A training in a process of its own that waits for every epoch."""

    def __init__(self, folder: Path, *, core: int, feed: Feed) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_train_when_told, args=(folder, core, feed, other), daemon=True)
        self._process.start()
        other.close()

    def start(self) -> None:
        """Have it train an epoch."""
        self._connection.send(True)

    def wait(self) -> EpochTimes:
        """Return what the epoch took; raises EOFError if the process has failed."""
        times: EpochTimes = self._connection.recv()
        return times

    def stop(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.join()


def measure_side_by_side(cases: Miniature, *, rounds: int) -> list[Row]:
    """Return what share of its speed alone each of two trainings keeps, by wall and by CPU time; `patches` exist."""
    cores = sorted(os.sched_getaffinity(0))[:NUM_CORES]
    if len(cores) < NUM_CORES:
        return []
    rows = []
    for feed, name in (("kernels", "ours"), ("nnunet", "nnU-Net's loader and transforms")):
        with ExitStack() as stack:
            competitors = [Competitor(cases.folder, core=core, feed=feed) for core in cores]  # type: ignore[arg-type]
            for one in competitors:
                stack.callback(one.stop)
            alone, both = _take_turns(competitors, rounds=rounds)
        rows += [_row(alone, both, clock=clock, name=name, has_goal=feed == "kernels") for clock in ("wall_s", "cpu_s")]
    return rows


def _take_turns(competitors: list[Competitor], *, rounds: int) -> tuple[list[list[EpochTimes]], list[list[EpochTimes]]]:
    """Return the epochs of every round, alone and at once, one for each competitor; the first two are not counted."""
    alone: list[list[EpochTimes]] = []
    both: list[list[EpochTimes]] = []
    for _ in range(rounds + 2):
        alone.append([])
        for one in competitors:
            one.start()
            alone[-1].append(one.wait())
            if one is competitors[0]:
                for each in competitors:
                    each.start()
                both.append([each.wait() for each in competitors])
    return alone[2:], both[2:]


def _row(alone: list[list[EpochTimes]], both: list[list[EpochTimes]], *, clock: str, name: str, has_goal: bool) -> Row:
    """Return the row of what each training keeps of its speed in every round."""
    values = [
        getattr(one, clock) / getattr(other, clock)
        for turn in zip(alone, both, strict=True)
        for one, other in zip(*turn, strict=True)
    ]
    middle_s = [statistics.median(getattr(one, clock) for turn in turns for one in turn) for turns in (alone, both)]
    return Row(
        measure=f"two trainings side by side on two cores, speed of each against alone, {name}, "
        f"{clock.removesuffix('_s').replace('cpu', 'CPU')}",
        values=values,
        must=0.95 if has_goal and clock == "wall_s" else float("nan"),
        better=0.98 if has_goal and clock == "wall_s" else float("nan"),
        stock=f"{middle_s[0]:.2f} s an epoch alone",
        ours=f"{middle_s[1]:.2f} s",
    )


def _train_when_told(folder: Path, core: int, feed: Feed, connection: Connection) -> None:
    """Train on one core without end, an epoch whenever something comes."""
    from orchestrator.training import trainer as module
    from orchestrator.training.checkpoint import CheckpointStore
    from orchestrator.training.reports import EpochReport, TrainingListener

    torch.set_num_threads(1)
    # Libraries have begun threads already, and those that follow are held to the core of the one that starts them.
    for thread in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})
    began = [time.perf_counter(), time.process_time()]

    def on_epoch(_: EpochReport) -> None:
        connection.send(EpochTimes(wall_s=time.perf_counter() - began[0], cpu_s=time.process_time() - began[1]))
        connection.recv()
        began[:] = time.perf_counter(), time.process_time()

    cases = Miniature.open(folder)
    connection.recv()
    with tempfile.TemporaryDirectory(prefix="side-") as work:
        from orchestrator.storage.filesystem import open_storage

        settings = module.TrainingSettings(
            plan=cases.plan,
            preset=replace(MINIATURE, num_epochs=10_000, checkpoint_every_s=float("inf"), augmentation=feed),
            training_id="side",
            train_cases=tuple(cases.train),
            val_cases=(),
            patches=folder / "patches",
            seed=1,
            device="cpu",
            num_loader_workers=0,
        )
        checkpoint = CheckpointStore(open_storage(work), training_id="side")
        listener = TrainingListener(on_epoch=on_epoch)
        module.train(settings, checkpoint=checkpoint, log=lambda _: None, listener=listener)


def write_patches(cases: Miniature) -> None:
    """Write the training cases to our store, below the folder of the cases."""
    from orchestrator.training.feed.patch_dataset import ArrowDataset
    from orchestrator.training.nnunet.preprocessing import preprocess_case

    patches = cases.folder / "patches"
    patches.mkdir()
    for name in cases.train:
        image, labels = cases.paths(name)
        case = preprocess_case([image], labels, cases.plan)
        ArrowDataset.save_case(case.data, case.seg, case.properties, str(patches / name))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = command_line("feed.side_by_side", description=__doc__)
    parser.add_argument(
        "--rounds", type=positive_integer, default=ROUNDS, help=f"times that each is measured ({ROUNDS})"
    )
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="side-") as folder:
        cases = Miniature.write(Path(folder))
        write_patches(cases)
        rows = measure_side_by_side(cases, rounds=options.rounds)
    print(f"\n{conditions('nnunetv2', 'torch')}\n")
    print(format_rows(rows))


if __name__ == "__main__":
    main()
