"""Measures epochs on a GPU: how long they take and how busy the GPU is, by nnU-Net's feed and by ours.

    python -m bench.feed.gpu [--cores 2 4 8] [--iterations N]
    python -m bench.feed.gpu --device cpu --preset smoke --size 64 --slices 40 --iterations 2      # tries it anywhere

Both train nnU-Net's 3d_fullres network on synthetic cases at full size. Stock is nnU-Net's own store, loader and
transforms with one process fewer than there are cores; ours has as many threads. Each runs in a process of its own
that is held to the given cores, with all of its threads and processes. An iteration ends with its loss on the CPU, so
an epoch ends when the GPU has. The network is not compiled: that takes minutes and shortens what both wait for.
"""

import argparse
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from bench.feed.cases import make_case, write_stock
from bench.feed.gpu_utilisation import Utilisation
from bench.instruments.command_line import command_line, positive_integer
from bench.instruments.machine import conditions
from orchestrator.benchmark.definition import LabelSet, Structure
from orchestrator.benchmark.presets import PRESETS, find_preset
from orchestrator.storage.filesystem import open_storage
from orchestrator.training.checkpoint import CheckpointStore
from orchestrator.training.nnunet.planning import CaseFingerprint, Plan, make_plan

KINDS = ("stock", "ours")
NUM_EPOCHS = 4
ITERATIONS_OF_AN_EPOCH = 250
LIMIT_S = 300.0
"""Longest time of one training: a loader that hangs must not take the rest of the table with it."""
_SIDES = LabelSet(
    name="lung",
    structures=tuple(
        Structure(name=name, label=label, tolerance_mm=1.0) for label, name in ((1, "left_lung"), (2, "right_lung"))
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Epochs:
    """What was measured of one training, without its first epoch."""

    seconds: float
    """Of an epoch of 250 iterations."""
    wait_share: float
    """Share of the time in which the training waited for a batch."""
    utilisation: float
    """Mean of what the GPU says of itself, 0 to 100; NaN without a GPU."""


def write_cases(folder: Path, *, slices: list[int], size: int, preset: str) -> None:
    """Write cases into both stores, and the plan."""
    from orchestrator.training.feed.patch_dataset import ArrowDataset

    foreground = np.random.default_rng(0).normal(-700, 150, 100_000).astype(np.float32)
    fingerprint = CaseFingerprint(
        shape_after_crop=(max(slices), size, size),
        spacing_mm=(1.0, 0.8, 0.8),
        relative_size_after_cropping=1.0,
        foreground=foreground[None],
    )
    plan = make_plan(
        [fingerprint], label_set=_SIDES, configuration="3d_fullres", preset=find_preset(preset), donor=None, name="gpu"
    )
    patch = tuple(plan.configuration_manager.patch_size)
    for kind in KINDS:
        (folder / kind).mkdir()
    for index, num_slices in enumerate(slices):
        case = make_case(num_slices=num_slices, size=size, num_labels=2, window="wide", seed=index)
        stock, ours = (folder / kind / f"case_{index}" for kind in KINDS)
        write_stock(case, stock, patch=patch)
        ArrowDataset.save_case(case.data, case.seg, case.properties, str(ours))
    (folder / "plan.json").write_bytes(plan.to_bytes())


def train_epochs(folder: Path, *, kind: str, preset: str, num_workers: int, iterations: int, device: str) -> Epochs:
    """Train in this process and measure."""
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    from orchestrator.training import trainer
    from orchestrator.training.nnunet.trainers import preset_trainer
    from orchestrator.training.reports import EpochReport, TrainingListener

    if kind == "stock":
        setattr(preset_trainer, "ArrowDataset", nnUNetDatasetBlosc2)  # noqa: B010 - not to be read as a new name
    reports: list[EpochReport] = []
    utilisation = Utilisation(device)

    def on_epoch(report: EpochReport) -> None:
        reports.append(report)
        if len(reports) == 1:
            utilisation.start()
        if len(reports) == NUM_EPOCHS:
            utilisation.stop()

    settings = trainer.TrainingSettings(
        plan=Plan.from_bytes((folder / "plan.json").read_bytes()),
        preset=replace(
            find_preset(preset),
            num_epochs=NUM_EPOCHS,
            num_iterations_per_epoch=iterations,
            num_val_iterations_per_epoch=1,
            checkpoint_every_s=float("inf"),
            augmentation="nnunet" if kind == "stock" else "kernels",
        ),
        training_id=kind,
        train_cases=tuple(sorted(path.stem for path in (folder / "ours").glob("*.arrow"))),
        val_cases=(),
        patches=folder / kind,
        seed=1,
        device=device,
        num_loader_workers=num_workers,
    )
    with tempfile.TemporaryDirectory(prefix="gpu-") as work:
        store = CheckpointStore(open_storage(work), training_id=kind)
        listener = TrainingListener(on_epoch=on_epoch)
        trainer.train(settings, checkpoint=store, log=lambda _: None, listener=listener)
    later = reports[1:]
    return Epochs(
        seconds=statistics.median(one.elapsed_s for one in later) * ITERATIONS_OF_AN_EPOCH / iterations,
        wait_share=sum(one.loader_wait_s for one in later) / sum(one.elapsed_s for one in later),
        utilisation=utilisation.mean,
    )


@contextmanager
def held_to(num_cores: int) -> Iterator[None]:
    """Context in which processes that are started have so many cores, from their first thread on."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(cores)[:num_cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def measure(folder: Path, options: argparse.Namespace) -> str:
    """Return a table of both for every number of cores; what has failed is a row that says so."""
    # Kernels that this machine has never run are compiled at their first call, some of them after many batches.
    measure_one(folder, options, kind="ours", num_cores=max(options.cores))
    lines = ["| cores | feed | s an epoch | waiting for batches | GPU utilisation |", "|---|---|---|---|---|"]
    for num_cores in options.cores:
        for kind in KINDS:
            lines.append(f"| {num_cores} | {kind} | {measure_one(folder, options, kind=kind, num_cores=num_cores)} |")
            print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


def measure_one(folder: Path, options: argparse.Namespace, *, kind: str, num_cores: int) -> str:
    """Return the last columns of a row, from a process with so many cores."""
    command = [sys.executable, "-m", "bench.feed.gpu", "--child", kind, "--folder", str(folder)]
    command += ["--iterations", str(options.iterations), "--device", options.device, "--preset", options.preset]
    environment = {**os.environ, "nnUNet_compile": "f", "OMP_NUM_THREADS": "1"}
    with held_to(num_cores):
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    try:
        answer, _ = child.communicate(timeout=options.limit_s)
    except subprocess.TimeoutExpired:
        # With the loaders that it has started.
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        return f"not ended after {options.limit_s:g} s | | "
    if child.returncode:
        return f"failed with exit code {child.returncode} | | "
    found = Epochs(**json.loads(answer.splitlines()[-1]))
    utilisation = "unknown" if math.isnan(found.utilisation) else f"{found.utilisation:.0f} %"
    return f"{found.seconds:.1f} | {found.wait_share:.0%} | {utilisation}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; with --child, measure one training and print it as JSON."""
    all_cores = len(os.sched_getaffinity(0))
    parser = command_line("feed.gpu", description=__doc__)
    default = sorted({min(number, all_cores) for number in (2, 4, 8, all_cores)})
    parser.add_argument(
        "--cores", type=positive_integer, nargs="+", default=default, help="numbers of cores (2, 4, 8 and all)"
    )
    parser.add_argument("--iterations", type=positive_integer, default=50, help="iterations of each of the epochs (50)")
    parser.add_argument(
        "--slices", type=positive_integer, nargs="+", default=[90, 150, 250], help="of the cases (90 150 250)"
    )
    parser.add_argument("--size", type=positive_integer, default=512, help="voxels along y and x of the cases (512)")
    parser.add_argument("--preset", choices=PRESETS, default="paper", help="whose network is trained (paper)")
    parser.add_argument("--limit-s", type=float, default=LIMIT_S, help=f"longest time of a training ({LIMIT_S:g})")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu tries the benchmark itself")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--child", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        found = train_epochs(
            options.folder,
            kind=options.child,
            preset=options.preset,
            num_workers=max(1, all_cores - 1),
            iterations=options.iterations,
            device=options.device,
        )
        print(json.dumps(asdict(found)))
        return
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no GPU is visible; expected one, or --device cpu to try the benchmark itself")
    with tempfile.TemporaryDirectory(prefix="feed-gpu-") as folder:
        write_cases(Path(folder), slices=options.slices, size=options.size, preset=options.preset)
        table = measure(Path(folder), options)
    gpu = f"{torch.cuda.get_device_name()}, " if options.device == "cuda" else ""
    print(f"\n{gpu}{conditions('nnunetv2', 'torch')}\n\n{table}")


if __name__ == "__main__":
    main()
