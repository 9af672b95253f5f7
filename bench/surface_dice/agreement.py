"""Whether the surface kernels agree with google-deepmind's surface-distance, element by element."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.surface_dice.cases import SPACINGS_MM, Mask, Spacing
from kernels import surface_distances, surface_overlap
from kernels.metrics.surface_elements import surfel_areas

try:
    import surface_distance as peer
    from surface_distance import lookup_tables
except ImportError:
    raise SystemExit("surface_distance is not installed; expected it from: pip install -e '.[bench]'") from None

__all__ = ["Agreement", "check_areas", "codes_as_areas", "peer"]


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
