"""All four metrics of a whole-body label map with 117 structures, files included, beside what else calculates them.

    python -m bench.whole_body [--labels N] [--rounds N]

Two .nii.gz files of 512 x 512 x 531 voxels with 117 structures, generated, and DSC, NSD, HD95 and ASSD of each. Ours
scores all of them from the files, in a process of its own, whose memory is shown too; then in memory, for other integer
types and layouts. Peers get N structures of different size (6), each cut out to its own box with a margin, which is not
counted, and are scaled to all: some take minutes a structure otherwise. They do not define HD95 and ASSD alike
(docs/metrics.md); the names in the table say of which definition each is, and its values are compared with ours of
that. All times are CPU seconds of one thread. DisTorch is left out: on a CPU it measures all pairs, which takes more
memory than there is.
"""

import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from bench.instruments.command_line import command_line, positive_integer
from bench.instruments.machine import conditions
from bench.surface_dice.cases import as_predicted
from bench.whole_body.cases import NUM_LABELS, SPACING_MM, whole_body
from kernels import FIELDS, METRICS, LabelScore, score_masks
from orchestrator.scoring.score import score_files
from orchestrator.scoring.structures import ScoredStructure

FOUR = ("dsc", "nsd", "hd95", "assd")
TOLERANCE_MM = 1.0
Mask = NDArray[np.bool_]
Values = dict[str, float]
"""By the name of our metric."""


def google_deepmind(reference: Mask, prediction: Mask) -> Values:
    """Score with surface-distance."""
    import surface_distance as peer

    found = peer.compute_surface_distances(reference, prediction, SPACING_MM)
    peer.compute_average_surface_distance(found)
    return {
        "dsc": peer.compute_dice_coefficient(reference, prediction),
        "nsd": peer.compute_surface_dice_at_tolerance(found, TOLERANCE_MM),
        "hd95": peer.compute_robust_hausdorff(found, 95),
    }


def monai(reference: Mask, prediction: Mask) -> Values:
    """Score with MONAI, on tensors."""
    import monai.metrics
    import torch

    images = [torch.from_numpy(mask[None, None]) for mask in (prediction, reference)]
    options: dict[str, Any] = {"include_background": True, "spacing": SPACING_MM}
    nsd = monai.metrics.compute_surface_dice(*images, class_thresholds=[TOLERANCE_MM], use_subvoxels=True, **options)
    return {
        "dsc": float(monai.metrics.compute_dice(*images)),
        "nsd": float(nsd),
        "hd95-voxel": float(monai.metrics.compute_hausdorff_distance(*images, percentile=95, **options)),
        "assd-voxel": float(monai.metrics.compute_average_surface_distance(*images, symmetric=True, **options)),
    }


def panoptica(reference: Mask, prediction: Mask) -> Values:
    """Score with panoptica, whose NSD counts voxels."""
    from panoptica.metrics import Metric

    Metric.NSD(reference, prediction, voxelspacing=SPACING_MM, threshold=TOLERANCE_MM)
    return {
        "dsc": Metric.DSC(reference, prediction),
        "hd95-voxel-pooled": Metric.HD95(reference, prediction, voxelspacing=SPACING_MM),
        "masd-voxel": Metric.ASSD(reference, prediction, voxelspacing=SPACING_MM),
    }


def medpy(reference: Mask, prediction: Mask) -> Values:
    """Score with medpy, which has no NSD."""
    from medpy.metric import binary

    return {
        "dsc": binary.dc(prediction, reference),
        "hd95-voxel-pooled": binary.hd95(prediction, reference, SPACING_MM),
        "assd-voxel": binary.assd(prediction, reference, SPACING_MM),
    }


def mikan(reference: Mask, prediction: Mask) -> Values:
    """Score with mikan-rs, which has no NSD and whose spacing is (x, y, z)."""
    from mikan import ArrayEvaluator

    evaluator = ArrayEvaluator(reference.astype(np.uint8), prediction.astype(np.uint8), SPACING_MM[::-1])
    dsc, hd95, assd, masd = evaluator.labels([1]).metrics(["dice", "hd95", "assd", "masd"])
    return {"dsc": dsc, "hd95-voxel-pooled": hd95, "assd-voxel": assd, "masd-voxel": masd}


PEERS: dict[str, tuple[str, Callable[[Mask, Mask], Values]]] = {
    "google-deepmind": ("surface_distance", google_deepmind),
    "MONAI": ("monai", monai),
    "panoptica": ("panoptica", panoptica),
    "medpy": ("medpy", medpy),
    "mikan": ("mikan", mikan),
}


LAYOUTS: dict[str, Callable[[NDArray[Any]], Any]] = {
    "uint16": lambda array: array.astype(np.uint16),
    "int32": lambda array: array.astype(np.int32),
    "int64": lambda array: array.astype(np.int64),
    "int16, the other byte order": lambda array: array.astype(">i2"),
    "uint8, Fortran order": np.asfortranarray,
    "uint8, reversed": lambda array: np.ascontiguousarray(array[::-1, ::-1, ::-1])[::-1, ::-1, ::-1],
    "uint8, amid a larger array": lambda array: np.pad(array, ((0, 0), (1, 1), (1, 1)))[:, 1:-1, 1:-1],
}


def missing(package: str) -> bool:
    """Whether a peer is not installed."""
    return importlib.util.find_spec(package) is None


@dataclass(frozen=True, kw_only=True, slots=True)
class PeerTime:
    """What a peer takes."""

    name: str
    metrics: tuple[str, ...]
    all_s: float
    """For all structures."""
    largest_difference: float
    """Of a value from ours of the same definition, as a share of it."""


def largest_difference(name: str, found: Values, ours: LabelScore) -> float:
    """Compare with our metrics of the same definition; raises SystemExit if a peer that is exact finds others."""
    differences = {metric: abs(value / getattr(ours, FIELDS[metric]) - 1) for metric, value in found.items()}
    metric, difference = max(differences.items(), key=lambda item: item[1])
    # MONAI calculates with 32 bits, and mikan's percentiles are not those of medpy, which it means to be.
    if difference > {"MONAI": 1e-5, "mikan": 1.0}.get(name, 1e-9):
        raise SystemExit(f"{metric} differs from that of {name} by {difference:.1e}; no times are printed")
    return difference


def measure_peers(reference: NDArray[Any], prediction: NDArray[Any], *, num_labels: int) -> list[PeerTime]:
    """Compare and time the peers that are installed, on some structures."""
    sizes = np.bincount(reference.ravel(), minlength=NUM_LABELS + 1)[1:]
    # From all parts of the range of sizes, each for as many as are like it.
    labels = (np.argsort(sizes)[((np.arange(num_labels) + 0.5) * len(sizes) / num_labels).astype(int)] + 1).tolist()
    boxes = ndimage.find_objects(np.maximum(reference, prediction))
    taken: dict[str, list[float]] = {}
    named: dict[str, tuple[str, ...]] = {}
    differences: dict[str, float] = {}
    for label in labels:
        box = tuple(slice(max(0, part.start - 2), part.stop + 2) for part in boxes[label - 1])
        a, b = (np.ascontiguousarray(array[box] == label) for array in (reference, prediction))
        (ours,) = score_masks(a, b, spacing_mm=SPACING_MM, tolerances_mm={1: TOLERANCE_MM}, metrics=METRICS)
        for name, (package, score) in PEERS.items():
            if missing(package):
                continue
            if not taken.get(name):
                score(a, b)
            began_s = time.process_time()
            found = score(a, b)
            taken.setdefault(name, []).append(time.process_time() - began_s)
            differences[name] = max(differences.get(name, 0.0), largest_difference(name, found, ours))
            named[name] = tuple(found)
    return [
        PeerTime(
            name=name,
            metrics=named[name],
            all_s=statistics.fmean(times) * NUM_LABELS,
            largest_difference=differences[name],
        )
        for name, times in taken.items()
    ]


def score_in_this_process(folder: Path, *, rounds: int) -> dict[str, float]:
    """Return CPU seconds of the first round and of the median of the others, and the peak memory in MiB."""
    structures = [
        ScoredStructure(
            name=str(label), reference_labels=(label,), prediction_labels=(label,), tolerance_mm=TOLERANCE_MM
        )
        for label in range(1, NUM_LABELS + 1)
    ]
    times = []
    for _ in range(rounds + 1):
        began_s = time.process_time()
        score_files(folder / "reference.nii.gz", [folder / "prediction.nii.gz"], structures=structures, metrics=FOUR)
        times.append(time.process_time() - began_s)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak_mib = int(status["VmHWM"].split()[0]) / 1024  # what getrusage says counts the parent's memory too
    return {"first_s": times[0], "median_s": statistics.median(times[1:]), "peak_mib": peak_mib}


def measure_layouts(
    reference: NDArray[Any], prediction: NDArray[Any], *, rounds: int
) -> list[tuple[str, float, float]]:
    """Return for each type and layout CPU seconds, and their ratio to those of C-ordered uint8, measured in turn."""

    def once(a: NDArray[Any], b: NDArray[Any]) -> float:
        tolerances = dict.fromkeys(range(1, NUM_LABELS + 1), TOLERANCE_MM)
        began_s = time.process_time()
        score_masks(a, b, spacing_mm=SPACING_MM, tolerances_mm=tolerances, metrics=FOUR)
        return time.process_time() - began_s

    found = []
    for name, change in LAYOUTS.items():
        others = change(reference), change(prediction)
        once(*others)
        times = [(once(reference, prediction), once(*others)) for _ in range(rounds)]
        plain_s, other_s = (statistics.median(column) for column in zip(*times, strict=True))
        if not found:
            found.append(("uint8, C order", plain_s, 1.0))
        found.append((name, other_s, statistics.median(other / plain for plain, other in times)))
    return found


def measure(*, num_labels: int, rounds: int) -> str:
    """Return the tables."""
    reference = whole_body()
    prediction = as_predicted(reference, seed=1)
    with tempfile.TemporaryDirectory(prefix="whole-body-") as folder:
        for name, labels in (("reference", reference), ("prediction", prediction)):
            image = sitk.GetImageFromArray(labels)
            image.SetSpacing(SPACING_MM[::-1])
            sitk.WriteImage(image, str(Path(folder) / f"{name}.nii.gz"), useCompression=True)
        command = [sys.executable, "-m", "bench.whole_body", "--child", folder, "--rounds", str(rounds)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    ours = json.loads(done.stdout.splitlines()[-1])
    lines = [
        "| 117 structures of 512 x 512 x 531 voxels | CPU | times as long | largest difference of a value from ours |",
        "|---|---|---|---|",
        f"| two .nii.gz files to {', '.join(FOUR)} | {ours['median_s']:.2f} s | 1 | |",
        f"| the same, first in a process; peak memory {ours['peak_mib']:.0f} MiB | {ours['first_s']:.2f} s | | |",
    ]
    peers = measure_peers(reference, prediction, num_labels=num_labels)
    lines += [
        f"| {peer.name}, masks cut out: {', '.join(peer.metrics)} | {peer.all_s:.0f} s "
        f"| {peer.all_s / ours['median_s']:.0f} | {peer.largest_difference:.0e} |"
        for peer in peers
    ]
    lines += ["", "| all four in memory, type and layout of both maps | CPU | ratio |", "|---|---|---|"]
    lines += [
        f"| {name} | {taken_s:.2f} s | {ratio:.2f} |"
        for name, taken_s, ratio in measure_layouts(reference, prediction, rounds=rounds)
    ]
    absent = [name for name, (package, _) in PEERS.items() if missing(package)]
    return "\n".join([*lines, *([f"\nnot installed: {', '.join(absent)}"] if absent else [])])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = command_line("whole_body", description=__doc__)
    parser.add_argument("--labels", type=positive_integer, default=6, help="structures that peers are timed on (6)")
    parser.add_argument("--rounds", type=positive_integer, default=5, help="times that each is measured (5)")
    parser.add_argument("--child", type=Path, help="folder of files to score in this process")
    options = parser.parse_args(arguments)
    if options.child:
        print(json.dumps(score_in_this_process(options.child, rounds=options.rounds)))
        return
    warnings.simplefilter("ignore")  # of peers
    if not missing("torch"):
        import torch

        torch.set_num_threads(1)
    table = measure(num_labels=options.labels, rounds=options.rounds)
    print(f"\n{conditions('numpy', 'numba', 'scipy')}\n\n{table}")


if __name__ == "__main__":
    main()
