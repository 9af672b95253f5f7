"""A folder of images predicted on one machine, one after the other and overlapping: seconds, memory and labels.

    python -m bench.predict_folder [--images N] [--shape Z Y X] [--window-s S] [--rounds N]

While an image is predicted, the next is read and prepared, and the label map of the one before is written. What that
saves where a GPU predicts is shown by a stand-in for one: a network that finds compact organs and waits for S seconds a
window, in which the processor has nothing to do. Both arms run by turns, in processes of their own. "said" is what the
command says to take at most before it starts, "taken" the most that the process had in memory. All label maps are
compared.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from bench.instruments.command_line import command_line, positive_integer
from bench.instruments.machine import conditions, resident_gib
from bench.instruments.memory_limit import run_within
from bench.instruments.stock_models import labels_of, small_plans, write_model
from bench.predict import NETWORK_SPACING, STAND_INS, write_scan

ARMS = ("one after the other", "overlapping")
PATCH = (64, 128, 128)
NUM_CLASSES = 25


def main() -> int:
    """Measure, and print a table; returns 1 if a label differs."""
    options = _parse()
    if options.arm:
        print(json.dumps(_measure(options)))
        return 0
    print(conditions("nnunetv2", "torch", "numba"))
    size = " x ".join(map(str, options.shape))
    print(f"{options.images} images of {size} voxels, {options.window_s:g} s a window, {options.rounds} rounds")
    with tempfile.TemporaryDirectory(prefix="bench-predict-folder-") as temporary:
        folder = Path(temporary)
        (folder / "images").mkdir()
        first = write_scan(folder / "images" / "case_0_0000.nii.gz", options.shape, "organs", num_classes=NUM_CLASSES)
        for number in range(1, options.images):
            (folder / "images" / f"case_{number}_0000.nii.gz").write_bytes(first.read_bytes())
        write_model(folder, small_plans(patch=PATCH, spacing=NETWORK_SPACING), labels=labels_of(NUM_CLASSES))
        measured: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
        for number in range(options.rounds):
            for arm in ARMS[:: 1 if number % 2 else -1]:
                measured[arm].append(_in_a_process(options, folder, arm=arm))
        num_different = _num_different(folder)
    print("| | s | s an image | GiB, taken | GiB, said | labels that differ |")
    print("|---|---|---|---|---|---|")
    for arm, rows in measured.items():
        wall_s, gib, said = (statistics.median(row[key] for row in rows) for key in ("wall_s", "gib", "said_gib"))
        each = wall_s / options.images
        print(f"| {arm} | {wall_s:.1f} | {each:.1f} | {gib:.2f} | {said:.2f} | {num_different} |")
    ratios = [one["wall_s"] / other["wall_s"] for one, other in zip(*measured.values(), strict=True)]
    print(f"times as fast: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    return 1 if num_different else 0


def _parse() -> argparse.Namespace:
    parser = command_line("predict_folder", description=__doc__)
    add = parser.add_argument
    add("--images", type=positive_integer, default=6)
    add("--shape", type=positive_integer, nargs=3, default=[150, 512, 512])
    add("--window-s", type=float, default=0.1, help="seconds that the network waits, a window")
    add("--rounds", type=positive_integer, default=3)
    add("--arm", choices=ARMS, help=argparse.SUPPRESS)
    add("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _in_a_process(options: argparse.Namespace, folder: Path, *, arm: str) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.predict_folder", "--arm", arm, "--folder", str(folder)]
    said, _ = run_within([*command, "--window-s", str(options.window_s)], limit_bytes=None)
    found: dict[str, float] = json.loads(said.splitlines()[-1])
    return found


def _num_different(folder: Path) -> int:
    """Return the number of voxels that are not those of the first label map, which all images share."""
    maps = [sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in sorted(folder.glob("of-*/case_*.nii.gz"))]
    return sum(int(np.count_nonzero(labels != maps[0])) for labels in maps)


def _measure(options: argparse.Namespace) -> dict[str, float]:
    """Predict the folder in this process with one arm, and return what it took."""
    from orchestrator.inference.ensembles import model_sources
    from orchestrator.inference.folder import plan_folder
    from orchestrator.inference.options import PredictOptions

    is_alone = options.arm == ARMS[0]
    (model,) = options.folder.glob("Dataset*/*")
    chosen, sources = PredictOptions(mirrors=False), model_sources([str(model)])
    output = options.folder / f"of-{is_alone}"
    for path in output.glob("*"):
        path.unlink()
    work = plan_folder(sources, options.folder / "images", str(output), options=chosen)
    # Memory is told for the network of the model, which is small.
    memory = work.memory(is_alone=is_alone)
    (predictor,) = work._models().ensemble._predictors  # noqa: SLF001
    predictor._networks = (_waiting(options.window_s),)  # noqa: SLF001
    start_s = time.monotonic()
    rows = list(work.rows(memory))
    wall_s = time.monotonic() - start_s
    if failed := [row for row in rows if row.status != "predicted"]:
        raise SystemExit(f"{failed[0].case}: {failed[0].message}")
    return {"wall_s": wall_s, "gib": resident_gib(most=True), "said_gib": memory.most_bytes / 2**30}


def _waiting(window_s: float) -> Any:
    """Return the network of `bench.predict` that finds organs, and waits after each window."""
    import torch

    class Waiting(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.found = STAND_INS["organs"](NUM_CLASSES)

        def forward(self, image: Any) -> Any:
            time.sleep(window_s)
            return self.found(image)

    return Waiting().eval()


if __name__ == "__main__":
    sys.exit(main())
