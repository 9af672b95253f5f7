"""Compares the surface kernels with google-deepmind's surface-distance and with MONAI: first results, then speed.

    python -m bench.surface_dice [--masks FOLDER] [--num-masks N] [--rounds N] [--cases N]

The peers are installed by `pip install -e '.[bench]'`. FOLDER holds label maps as NIfTI files with the lungs as 1 and
2; without it lungs of generated patients are used. Speeds are printed only if every result agrees. Times are CPU time
of one thread, ours and a peer's in turn, the median of all rounds for each mask; the table shows the least, median and
largest ratio over the masks.
"""

import argparse
import datetime
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from bench.machine import processor
from kernels import surface_dice, surface_distances, surface_overlap
from kernels.surface_elements import surfel_areas
from orchestrator.scoring.score import ScoredStructure, score_files
from orchestrator.sources.phantom_patient import draw_patient, lung_distance
from orchestrator.sources.phantom_shapes import Grid

try:
    import surface_distance as peer
    from surface_distance import lookup_tables
except ImportError:
    raise SystemExit("surface_distance is not installed; expected it from: pip install -e '.[bench]'") from None
try:
    import monai.metrics
    import torch
except ImportError:
    monai = None

TOLERANCE_MM = 1.0
Mask = NDArray[np.bool_]
Spacing = tuple[float, float, float]
SPACINGS_MM: tuple[Spacing, ...] = (
    (1.0, 1.0, 1.0),
    (5.0, 0.7, 0.7),
    (0.30000001192, 0.30000001192, 1.25),
    (0.5, 0.25, 2.0),
    (8.0, 0.9, 0.6),
    (1.0, 3.0, 1.0),
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Lungs:
    """A label map, 1 and 2, and one like a network's."""

    name: str
    reference: NDArray[np.uint8]
    prediction: NDArray[np.uint8]
    spacing_mm: Spacing

    def masks(self, pair: str) -> tuple[Mask, Mask]:
        """Return two masks that resemble each other, lie apart, or share a part."""
        one = self.reference == 1
        match pair:
            case "alike":
                return one, self.prediction == 1
            case "left and right lung":
                return one, self.reference == 2
            case "20 mm apart":
                return one, np.roll(one, round(20 / self.spacing_mm[2]), axis=2)
            case _:
                part = one.copy()
                columns = np.flatnonzero(one.any(axis=(0, 1)))
                part[:, :, columns[len(columns) // 10] :] = False
                return one, part


FAR_PAIRS = ("left and right lung", "20 mm apart", "a tenth of a lung")


def read_lungs(path: Path) -> tuple[NDArray[np.uint8], Spacing]:
    """Read a label map."""
    image = sitk.ReadImage(str(path))
    x, y, z = image.GetSpacing()
    return sitk.GetArrayFromImage(image).astype(np.uint8), (z, y, x)


def generate_lungs(seed: int) -> tuple[NDArray[np.uint8], Spacing]:
    """Return the lungs of a generated patient at the size of a clinical CT."""
    spacing_mm = ((5.0, 0.8, 0.8), (1.0, 0.75, 0.75), (2.5, 0.7, 0.7))[seed % 3]
    patient = draw_patient(seed)
    num_slices = round(340 / spacing_mm[0])
    z, y, x = (np.arange(size, dtype=np.float32) for size in (num_slices, 512, 512))
    grid = Grid(
        z=(z * spacing_mm[0] + np.float32(patient.base_z - 20))[:, None, None],
        y=((y - 256) * spacing_mm[1])[None, :, None],
        x=((x - 256) * spacing_mm[2])[None, None, :],
        edge_mm=1.0,
    )
    labels = np.zeros((num_slices, 512, 512), np.uint8)
    for part, slab in grid.slabs(num_voxels=2_000_000):
        labels[part] = np.where(lung_distance(slab, patient) < 0, np.where(slab.x > patient.shift_x, 1, 2), 0)
    return labels, spacing_mm


def as_predicted(labels: NDArray[np.uint8], *, seed: int) -> NDArray[np.uint8]:
    """Return a map that has grown in some places, shrunk in others and is right elsewhere, up to three voxels."""
    random = np.random.default_rng(seed)
    size_z, size_y, size_x = labels.shape
    coarse = random.integers(-3, 4, (size_z // 2 + 1, size_y // 16 + 1, size_x // 16 + 1))
    growth = coarse.repeat(2, 0).repeat(16, 1).repeat(16, 2)[:size_z, :size_y, :size_x]
    predicted = labels.copy()
    for step in (1, 2, 3):
        for shift in ((0, 1), (0, -1), (1, 0), (-1, 0)):
            moved = np.roll(predicted, shift, axis=(1, 2))
            np.copyto(predicted, moved, where=(growth >= step) & (predicted == 0) & (moved > 0))
            np.copyto(predicted, 0, where=(growth <= -step) & (predicted > 0) & (moved == 0))
    return predicted


def all_lungs(folder: Path | None, *, num_masks: int) -> Iterator[Lungs]:
    """Yield real or generated lungs with a prediction, one after the other."""
    sources: list[Any] = sorted(folder.glob("*.nii.gz"))[:num_masks] if folder else list(range(min(num_masks, 6)))
    if not sources:
        raise SystemExit(f"{folder}: no .nii.gz files; expected label maps with the lungs as 1 and 2")
    for number, source in enumerate(sources):
        labels, spacing_mm = read_lungs(source) if folder else generate_lungs(source)
        name = source.name if folder else f"generated {source}"
        yield Lungs(name=name, reference=labels, prediction=as_predicted(labels, seed=number), spacing_mm=spacing_mm)


# -- exactness


@contextmanager
def codes_as_areas() -> Iterator[None]:
    """Make the peer return neighbour codes where it returns areas."""
    original = lookup_tables.create_table_neighbour_code_to_surface_area
    lookup_tables.create_table_neighbour_code_to_surface_area = lambda _: np.arange(256.0)
    try:
        yield
    finally:
        lookup_tables.create_table_neighbour_code_to_surface_area = original


def with_areas(coded: dict[str, Any], spacing_mm: Spacing) -> dict[str, Any]:
    """Turn the peer's codes into its areas and sort as it does, which spares a second call."""
    table = np.asarray(lookup_tables.create_table_neighbour_code_to_surface_area(spacing_mm))
    found = {}
    for distances, codes in (
        ("distances_gt_to_pred", "surfel_areas_gt"),
        ("distances_pred_to_gt", "surfel_areas_pred"),
    ):
        areas = table[np.asarray(coded[codes], np.int64)]
        order = np.lexsort((areas, coded[distances]))
        found[distances], found[codes] = np.asarray(coded[distances])[order], areas[order]
    return found


def generated_cases(number: int) -> Iterator[tuple[Mask, Mask, Spacing, float]]:
    """Yield small cases: random, sparse, full, empty, touching every face; tolerances that equal grid distances."""
    random = np.random.default_rng(0)
    for _ in range(number):
        shape = tuple(int(size) for size in random.integers(1, (9, 12, 80)))
        spacing_mm = SPACINGS_MM[random.integers(len(SPACINGS_MM))]
        pair = []
        for share in random.choice([0.0, 0.01, 0.1, 0.5, 0.9, 1.0], 2, p=[0.04, 0.2, 0.26, 0.26, 0.2, 0.04]):
            mask = random.random(shape) < share
            if random.random() < 0.1:
                mask[:] = False
                mask[tuple(int(random.integers(size)) for size in shape)] = True
            pair.append(mask)
        steps = random.integers(0, 4, 3)
        on_grid = float(np.sqrt(sum((step * size) ** 2 for step, size in zip(steps, spacing_mm, strict=True))))
        yield pair[0], pair[1], spacing_mm, float(random.choice([on_grid, 0.0, 1.0, 3.0, random.uniform(0, 12)]))


@dataclass(kw_only=True, slots=True)
class Agreement:
    """What has been compared."""

    num_cases: int = 0
    num_elements: int = 0
    num_last_bit: int = 0
    """Distances that the peer gives one unit in the last place larger."""
    num_moved: int = 0
    """Elements whose count beyond the tolerance differs because of that."""
    largest_difference: float = 0.0
    """Of the NSD."""

    @property
    def text(self) -> str:
        """What was found, in words."""
        return (
            f"Exact: {self.num_cases} cases with {self.num_elements} surface elements have the same counts by "
            "neighbour code, in total and beyond the tolerance, and the same distances; the largest difference of an "
            f"NSD is {self.largest_difference:.0e}. Of the distances {self.num_last_bit} are one unit in the last "
            "place larger in surface-distance, whose distance transform keeps either of two candidates that tie but "
            f"for rounding; {self.num_moved} elements thereby lie beyond a tolerance that they are equal to."
        )

    def compare(self, reference: Mask, prediction: Mask, spacing_mm: Spacing, tolerance_mm: float) -> None:
        """Compare counts, distances, NSD, HD95 and average distances; raises SystemExit at the first difference."""
        options = {"spacing_mm": spacing_mm, "tolerance_mm": tolerance_mm}
        where = f"{reference.shape}, spacing {spacing_mm} mm, tolerance {tolerance_mm} mm"
        overlap = surface_overlap(reference, prediction, **options)
        ours = surface_distances(reference, prediction, spacing_mm=spacing_mm)
        with codes_as_areas():
            coded = peer.compute_surface_distances(reference, prediction, spacing_mm)
        theirs = with_areas(coded, spacing_mm)
        moved = 0
        for way, elements, counts, beyond in (
            ("gt", ours.reference, overlap.num_reference, overlap.num_reference_beyond),
            ("pred", ours.prediction, overlap.num_predicted, overlap.num_predicted_beyond),
        ):
            expected = np.asarray(coded["distances_gt_to_pred" if way == "gt" else "distances_pred_to_gt"])
            found, _ = elements.sorted()
            codes = np.asarray(coded[f"surfel_areas_{way}"]).astype(np.int64)
            _require(np.array_equal(counts, np.bincount(codes, minlength=256)), where, "surface elements by code")
            off = found != expected
            _require(bool(np.all(np.nextafter(found[off], np.inf) == expected[off])), where, "distances")
            difference = np.bincount(codes[expected > tolerance_mm], minlength=256) - beyond
            # An element that the peer puts one unit in the last place farther may fall beyond the tolerance.
            allowed = int(np.count_nonzero(off & (expected > tolerance_mm) & (found <= tolerance_mm)))
            _require(difference.min() >= 0 and difference.sum() == allowed, where, "elements beyond the tolerance")
            self.num_last_bit += int(off.sum())
            self.num_elements += len(found)
            moved += allowed
        self.num_cases += 1
        self.num_moved += moved
        with np.errstate(invalid="ignore"):
            nsd = peer.compute_surface_dice_at_tolerance(theirs, tolerance_mm)
            averages = peer.compute_average_surface_distance(theirs)
        if not moved:
            _require(np.isnan(nsd) == np.isnan(overlap.surface_dice), where, "NaN of the NSD")
            if not np.isnan(nsd):
                self.largest_difference = max(self.largest_difference, abs(nsd - overlap.surface_dice))
            _require(self.largest_difference <= 1e-12, where, "NSD")
        hausdorff, average = ours.hausdorff_distance(percentile=95), ours.average_surface_distance()
        theirs_hausdorff = peer.compute_robust_hausdorff(theirs, 95)
        _require(np.isclose(hausdorff, theirs_hausdorff, rtol=4.5e-16, atol=0), where, "HD95")
        own_averages = (average.reference_to_prediction_mm, average.prediction_to_reference_mm)
        _require(np.allclose(own_averages, averages, rtol=1e-12, atol=0, equal_nan=True), where, "average distances")


def _require(holds: bool, where: str, what: str) -> None:
    if not holds:
        raise SystemExit(f"{what} differ for {where}; no speeds are printed")


def check_areas() -> None:
    """Compare the areas of all neighbour codes for every spacing."""
    for spacing_mm in SPACINGS_MM:
        expected = np.asarray(lookup_tables.create_table_neighbour_code_to_surface_area(spacing_mm))
        _require(np.allclose(surfel_areas(spacing_mm), expected, rtol=1e-12, atol=1e-14), str(spacing_mm), "areas")


# -- speed


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
        ScoredStructure(name=str(label), reference_label=label, prediction_label=label, tolerance_mm=TOLERANCE_MM)
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--masks", type=Path, help="folder of label maps (default: generated lungs)")
    parser.add_argument("--num-masks", type=int, default=30, help="most masks to use (default: 30)")
    parser.add_argument("--rounds", type=int, default=5, help="times that each is measured (default: 5)")
    parser.add_argument("--cases", type=int, default=10_000, help="small generated cases to compare (default: 10000)")
    options = parser.parse_args()
    if monai:
        torch.set_num_threads(1)
    check_areas()
    agreement = Agreement()
    for case in generated_cases(options.cases):
        agreement.compare(*case)
    timings: dict[tuple[str, str], list[Timing]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for lungs in all_lungs(options.masks, num_masks=options.num_masks):
            for pair in ("alike", *FAR_PAIRS):
                agreement.compare(*lungs.masks(pair), lungs.spacing_mm, TOLERANCE_MM)
            for race in races(lungs, Path(folder)):
                timings.setdefault((race.name, race.goal), []).append(measure(race, rounds=options.rounds))
            print(f"{lungs.name} {lungs.reference.shape}", file=sys.stderr)
        cold_s = [first_result_s(str(Path(folder) / f"cache{number}")) for number in range(2)]
        warm_s = [first_result_s(str(Path(folder) / "cache0")) for _ in range(5)]
    num_masks = len(next(iter(timings.values())))
    print(f"\n{conditions()}\n{num_masks} {'real' if options.masks else 'generated'} masks, {options.rounds} rounds\n")
    print(f"{agreement.text}\n")
    print("| measure | times as fast: least | median | most | ours, median | goal |\n|---|---|---|---|---|---|")
    for (name, goal), values in timings.items():
        print(table_row(name, values, goal))
    everything = [value for (name, _), values in timings.items() if name.startswith("HD95") for value in values]
    print(table_row("HD95 + ASSD, all of these", everything, "50 median, 20 least"))
    print(f"| first result of a new process, compiled before | | | | {statistics.median(warm_s):.2f} s | 1 s |")
    print(f"| first result of a new process, never compiled | | | | {statistics.median(cold_s):.1f} s | |")


def table_row(name: str, timings: list[Timing], goal: str) -> str:
    """Return a row of the table."""
    ratios = [timing.theirs_ms / timing.ours_ms for timing in timings]
    digits = ".2f" if max(ratios) < 2 else ".0f"
    cells = [format(value, digits) for value in (min(ratios), statistics.median(ratios), max(ratios))]
    ours_ms = statistics.median(timing.ours_ms for timing in timings)
    return f"| {name} | {' | '.join(cells)} | {ours_ms:.1f} ms | {goal} |"


def conditions() -> str:
    """Return date, machine and versions."""
    today = datetime.datetime.now(tz=datetime.UTC).date()
    names = ["numpy", "numba", "surface-distance", *(["monai"] if monai else [])]
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    load = os.getloadavg()[0]
    return (
        f"{today}, {processor()}, {os.cpu_count()} cores, load {load:.1f}, Python {sys.version.split()[0]}, {versions}"
    )


if __name__ == "__main__":
    main()
