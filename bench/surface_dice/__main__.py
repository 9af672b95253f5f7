"""Compares the surface kernels with google-deepmind's surface-distance and with MONAI: first results, then speed.

    python -m bench.surface_dice [--masks FOLDER] [--num-masks N] [--rounds N] [--cases N] [--labels N]

The peers are installed by `pip install -e '.[bench]'`. FOLDER holds label maps as NIfTI files with the lungs as 1 and
2; without it lungs of generated patients are used. Speeds are printed only if every result agrees. Times are CPU time
of one thread, ours and a peer's in turn, the median of all rounds for each mask; the table shows the least, median and
largest ratio over the masks. Last come the 117 structures of a whole body (`bench.whole_body`).
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from bench.instruments.command_line import command_line, existing_folder, positive_integer
from bench.instruments.machine import conditions
from bench.surface_dice.agreement import Agreement, check_areas, peer
from bench.surface_dice.cases import FAR_PAIRS, Lungs, Mask, Spacing, all_lungs, generated_cases, read_lungs
from bench.whole_body.__main__ import measure as measure_whole_body
from kernels import surface_dice, surface_distances
from orchestrator.scoring.score import score_files
from orchestrator.scoring.structures import ScoredStructure

try:
    import monai.metrics
    import torch
except ImportError:
    monai = None

TOLERANCE_MM = 1.0


def cpu_ms(function: Callable[[], object]) -> float:
    """Return the CPU time of this thread for one call."""
    started = time.thread_time()
    function()
    return (time.thread_time() - started) * 1e3


@dataclass(frozen=True, kw_only=True, slots=True)
class Race:
    """Ours against a peer, and the goal as a ratio."""

    name: str
    goal: str
    ours: Callable[[], object]
    theirs: Callable[[], object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """CPU times for one mask."""

    ours_ms: float
    theirs_ms: float


def measure(race: Race, *, rounds: int) -> Timing:
    """Time both in turn and return the medians."""
    race.ours()
    times = [(cpu_ms(race.ours), cpu_ms(race.theirs)) for _ in range(rounds)]
    ours_ms, theirs_ms = (statistics.median(column) for column in zip(*times, strict=True))
    return Timing(ours_ms=ours_ms, theirs_ms=theirs_ms)


def races(lungs: Lungs, folder: Path) -> Iterator[Race]:
    """Yield what is timed for one mask."""
    reference, prediction = lungs.masks("alike")
    spacing_mm = lungs.spacing_mm
    options = {"spacing_mm": spacing_mm, "tolerance_mm": TOLERANCE_MM}

    def nsd() -> float:
        return surface_dice(reference, prediction, **options)

    yield Race(
        name="NSD in memory, against google-deepmind",
        goal="200 median, 100 least",
        ours=nsd,
        theirs=lambda: peer_nsd(reference, prediction, spacing_mm),
    )
    if monai:
        yield Race(
            name="NSD in memory, against MONAI (subvoxels)",
            goal="150 median",
            ours=nsd,
            theirs=lambda: monai_nsd(reference, prediction, spacing_mm),
        )
    yield Race(
        name="reading both masks once, as a share of the NSD",
        goal="0.30 median",
        ours=nsd,
        theirs=lambda: (reference.view(np.uint8).max(), prediction.view(np.uint8).max()),
    )
    for pair in ("alike", *FAR_PAIRS):
        a, b = lungs.masks(pair)
        yield Race(
            name=f"HD95 + ASSD, {pair}",
            goal="50 median, 20 least",
            ours=lambda a=a, b=b: our_distances(a, b, spacing_mm),
            theirs=lambda a=a, b=b: peer_distances(a, b, spacing_mm),
        )
    paths = [folder / "reference.nii.gz", folder / "prediction.nii.gz"]
    for path, labels in zip(paths, (lungs.reference, lungs.prediction), strict=True):
        image = sitk.GetImageFromArray(labels)
        image.SetSpacing(spacing_mm[::-1])
        sitk.WriteImage(image, str(path), useCompression=True)
    structures = [
        ScoredStructure(
            name=str(label), reference_labels=(label,), prediction_labels=(label,), tolerance_mm=TOLERANCE_MM
        )
        for label in (1, 2)
    ]
    yield Race(
        name="two .nii.gz files to DSC + NSD of two labels, against SimpleITK + google-deepmind",
        goal="100 median",
        ours=lambda: score_files(paths[0], [paths[1]], structures=structures),
        theirs=lambda: peer_files(paths[0], paths[1]),
    )


def peer_nsd(reference: Mask, prediction: Mask, spacing_mm: Spacing) -> float:
    """Return google-deepmind's NSD."""
    distances = peer.compute_surface_distances(reference, prediction, spacing_mm)
    return float(peer.compute_surface_dice_at_tolerance(distances, TOLERANCE_MM))


def monai_nsd(reference: Mask, prediction: Mask, spacing_mm: Spacing) -> float:
    """Return MONAI's NSD."""
    images = [torch.from_numpy(mask[None, None]) for mask in (prediction, reference)]
    found = monai.metrics.compute_surface_dice(
        *images, class_thresholds=[TOLERANCE_MM], include_background=True, spacing=spacing_mm, use_subvoxels=True
    )
    return float(found)


def our_distances(reference: Mask, prediction: Mask, spacing_mm: Spacing) -> tuple[float, float]:
    """Return HD95 and ASSD of the kernels."""
    distances = surface_distances(reference, prediction, spacing_mm=spacing_mm)
    return distances.hausdorff_distance(percentile=95), distances.average_surface_distance().symmetric_mm


def peer_distances(reference: Mask, prediction: Mask, spacing_mm: Spacing) -> tuple[float, object]:
    """Return google-deepmind's HD95 and average distances."""
    distances = peer.compute_surface_distances(reference, prediction, spacing_mm)
    return peer.compute_robust_hausdorff(distances, 95), peer.compute_average_surface_distance(distances)


def peer_files(reference: Path, prediction: Path) -> list[tuple[float, float]]:
    """Return DSC and NSD of two labels as most evaluation scripts do."""
    (a, spacing_mm), (b, _) = read_lungs(reference), read_lungs(prediction)
    return [
        (peer.compute_dice_coefficient(a == label, b == label), peer_nsd(a == label, b == label, spacing_mm))
        for label in (1, 2)
    ]


FIRST_RESULT = """
import numpy as np
from kernels import surface_dice
mask = np.zeros((60, 512, 512), bool)
mask[10:50, 100:300, 100:300] = True
surface_dice(mask, np.roll(mask, 2, 1), spacing_mm=(5.0, 0.8, 0.8), tolerance_mm=1.0)
"""


def first_result_s(cache: str | None) -> float:
    """Return the wall time of a new process to its first result."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": cache} if cache else dict(os.environ)
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", FIRST_RESULT], check=True, env=environment)
    return time.perf_counter() - started


def main() -> None:
    """Compare, measure and print."""
    parser = command_line("surface_dice", description=__doc__)
    parser.add_argument("--masks", type=existing_folder, help="folder of label maps (default: generated lungs)")
    parser.add_argument("--num-masks", type=positive_integer, default=30, help="most masks to use (default: 30)")
    parser.add_argument("--rounds", type=positive_integer, default=5, help="times that each is measured (default: 5)")
    parser.add_argument(
        "--cases", type=positive_integer, default=10_000, help="small generated cases to compare (default: 10000)"
    )
    parser.add_argument(
        "--labels", type=positive_integer, default=6, help="whole-body structures that peers are timed on (default: 6)"
    )
    options = parser.parse_args()
    every_lungs = all_lungs(options.masks, num_masks=options.num_masks)
    if monai:
        torch.set_num_threads(1)
    check_areas()
    agreement = Agreement()
    for case in generated_cases(options.cases):
        agreement.compare(*case)
    timings: dict[tuple[str, str], list[Timing]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for lungs in every_lungs:
            for pair in ("alike", *FAR_PAIRS):
                agreement.compare(*lungs.masks(pair), lungs.spacing_mm, TOLERANCE_MM)
            for race in races(lungs, Path(folder)):
                timings.setdefault((race.name, race.goal), []).append(measure(race, rounds=options.rounds))
            print(f"{lungs.name} {lungs.reference.shape}", file=sys.stderr)
        cold_s = [first_result_s(str(Path(folder) / f"cache{number}")) for number in range(2)]
        warm_s = [first_result_s(str(Path(folder) / "cache0")) for _ in range(5)]
    names = ["numpy", "numba", "surface-distance", *(["monai"] if monai else [])]
    num_masks = len(next(iter(timings.values())))
    kind = "real" if options.masks else "generated"
    print(f"\n{conditions(*names)}\n{num_masks} {kind} masks, {options.rounds} rounds\n")
    print(f"{agreement.text}\n")
    print("| measure | times as fast: least | median | most | ours, median | goal |\n|---|---|---|---|---|---|")
    for (name, goal), values in timings.items():
        print(table_row(name, values, goal))
    everything = [value for (name, _), values in timings.items() if name.startswith("HD95") for value in values]
    print(table_row("HD95 + ASSD, all of these", everything, "50 median, 20 least"))
    print(f"| first result of a new process, compiled before | | | | {statistics.median(warm_s):.2f} s | 1 s |")
    print(f"| first result of a new process, never compiled | | | | {statistics.median(cold_s):.1f} s | |")
    print(f"\n{measure_whole_body(num_labels=options.labels, rounds=options.rounds)}")


def table_row(name: str, timings: list[Timing], goal: str) -> str:
    """Return a row of the table."""
    ratios = [timing.theirs_ms / timing.ours_ms for timing in timings]
    digits = ".2f" if max(ratios) < 2 else ".0f"
    cells = [format(value, digits) for value in (min(ratios), statistics.median(ratios), max(ratios))]
    ours_ms = statistics.median(timing.ours_ms for timing in timings)
    return f"| {name} | {' | '.join(cells)} | {ours_ms:.1f} ms | {goal} |"


if __name__ == "__main__":
    main()
