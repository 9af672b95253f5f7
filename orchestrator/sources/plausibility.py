"""Whether a CT can be of a body, and a mask where it is: some structures are air, the others lie in the body.

A mask that is mirrored, upside down or of another patient may have the very header of its image. No header tells, but
the air does: what is full of it stands out of what is around as nothing else in a CT. What is hardly so gives a
warning.
"""

from collections.abc import Iterator
from itertools import product
from typing import TypeAlias

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from orchestrator.images.geometry import Geometry
from orchestrator.images.problem import SourceError
from orchestrator.sources.labels import LabelRule, PairedStructure

VOXEL_MM = (0.1, 20.0)
"""Edges of voxels: scanners make 0.2 to 10 mm, phantoms for a processor without a GPU up to 9; metres and microns are
far off."""
WIDTH_MM = (25.0, 1000.0)
"""Of a CT from side to side and from front to back: from no more than a windpipe to more than the bore of a scanner."""
MAX_LENGTH_MM = 2500.0
"""From head to feet: more than a table moves."""
AIR_HU = -200.0
"""Between ground glass, which is still air for the most part, and what has none."""
MAX_WITHOUT_AIR = 0.3
"""Up to 0.11 in phantoms with fluid, below 0.05 in what is healthy. More is possible, with one side consolidated or
under fluid, and rare enough to be looked at."""
MIN_GAIN = 0.03
"""By how much more of a mask must be air after a flip. Of a mask that fits, each flip loses: 0.06 to 0.4 in phantoms,
with fluid too, since left and right are not alike and nothing of a body is symmetric from top to bottom."""
OUTSIDE_AIR_HU = -300.0
MAX_LESION_OUTSIDE = 0.05
"""Share of lesions outside of the body: none in phantoms; leaves room for the rounding of a coarse grid."""
REACH_MM = 20.0
"""How far from the organ that it belongs to a lesion may lie: some masks of organs leave out what is ill of them."""
MAX_LESION_FAR = 0.5
_COARSE_MM = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
"""Grids to look at: the finest one with few enough voxels is taken, so that a look costs less than a second."""
_MAX_VOXELS = 1_500_000
_AXES = ("head and feet", "front and back", "left and right")

Steps: TypeAlias = tuple[int, int, int]
Places: TypeAlias = tuple[NDArray[np.intp], ...]


def check_is_of_a_body(geometry: Geometry, *, name: str, shows: str = "a body") -> None:
    """Raise SourceError if the voxels of a CT in LPS, or the whole, are too small or too large, as by a wrong unit."""
    spacing_mm = geometry.spacing_mm
    x, y, z = extents_mm = tuple(step * size for step, size in zip(spacing_mm, geometry.size, strict=True))
    # Written so that NaN fails as well.
    if not all(VOXEL_MM[0] <= step <= VOXEL_MM[1] for step in spacing_mm):
        found = f"voxels of {_by(spacing_mm)} mm (x, y, z)"
        expected = f"those of a CT of {shows}, with edges of {VOXEL_MM[0]:g} to {VOXEL_MM[1]:g} mm"
    elif not (all(WIDTH_MM[0] <= width <= WIDTH_MM[1] for width in (x, y)) and z <= MAX_LENGTH_MM):
        found = f"a volume of {_by(extents_mm)} mm (x, y, z) in voxels of {_by(spacing_mm)} mm"
        expected = f"a CT of {WIDTH_MM[0]:g} to {WIDTH_MM[1]:g} mm across and of at most {MAX_LENGTH_MM:g} mm along"
    else:
        return
    raise SourceError.of(
        name,
        found=found,
        expected=expected,
        advice="Write the right size and unit of length into its header, and into those of its masks.",
    )


def _by(lengths_mm: tuple[float, ...]) -> str:
    return " x ".join(f"{length_mm:.4g}" for length_mm in lengths_mm)


def implausible(image: sitk.Image, labels: sitk.Image, *, rule: LabelRule, name: str) -> tuple[str, ...]:
    """Return what is hardly right about where a label map lies, one sentence each.

    Parameters
    ----------
    image
        The CT in HU and LPS orientation.
    labels
        Label map on its grid.
    rule
        Which of its labels belong to a pair, perhaps full of air; all others lie in the body.
    name
        File name for the messages.
    """
    steps = _steps(image)
    values = sitk.GetArrayViewFromImage(labels)
    pair = rule.pair
    found = list(_of_air(image, values, pair=pair, steps=steps)) if pair and pair.is_air else []
    others = values > 0
    if pair is not None:
        others &= (values != pair.left) & (values != pair.right)
    places = _places(others, steps=steps)
    if places[0].size:
        found += _outside(places, image, what=rule.what, steps=steps)
    return tuple(f"{name}: {words}" for words in found)


def far_from(
    lesions: sitk.Image, organs: sitk.Image, *, rule: LabelRule, pair: PairedStructure, name: str
) -> tuple[str, ...]:
    """Return what is hardly right about lesions of one label map beside the pair of another on the same grid."""
    steps = _steps(organs)
    places = _places(sitk.GetArrayViewFromImage(lesions) > 0, steps=steps)
    if not places[0].size:
        return ()
    z, y, x = steps
    coarse = organs[::x, ::y, ::z]
    of_pair = (coarse == pair.left) | (coarse == pair.right)
    distance_mm = sitk.SignedMaurerDistanceMap(of_pair, squaredDistance=False, useImageSpacing=True)
    share = float(np.mean(sitk.GetArrayViewFromImage(distance_mm)[places] > REACH_MM))
    if share <= MAX_LESION_FAR:
        return ()
    return (f"{name}: {share:.0%} of the {rule.what} lie more than {REACH_MM:g} mm from the {pair.plural}",)


def _steps(image: sitk.Image) -> tuple[int, int, int]:
    """Return by which steps along (z, y, x) the coarse grid is taken from that of an image."""
    for coarse_mm in _COARSE_MM:
        steps = [max(1, round(coarse_mm / spacing_mm)) for spacing_mm in image.GetSpacing()]
        if np.prod([-(-size // step) for size, step in zip(image.GetSize(), steps, strict=True)]) <= _MAX_VOXELS:
            break
    x, y, z = steps
    return z, y, x


def _places(mask: np.ndarray, *, steps: Steps) -> Places:
    """Return where the voxels of a mask are on the coarse grid: a small lesion has none that the grid meets."""
    return tuple(index // step for index, step in zip(np.nonzero(mask), steps, strict=True))


def _of_air(image: sitk.Image, values: np.ndarray, *, pair: PairedStructure, steps: Steps) -> Iterator[str]:
    """Yield what is odd about a pair full of air with what is in it: whatever the one is, the air is theirs."""
    coarse = tuple(slice(None, None, step) for step in steps)
    air = sitk.GetArrayViewFromImage(image)[coarse] < AIR_HU
    share = _share_of(air, values[coarse])
    best, turned = max((_share_of(air, other[coarse]), words) for words, other in _turned(values, image=image))
    if best > share + MIN_GAIN and best >= 1 - MAX_WITHOUT_AIR:
        yield (
            f"{share:.0%} of the {pair.plural} are air (below {AIR_HU:g} HU), and {best:.0%} would be with {turned}"
            " of the mask exchanged: its voxels were probably turned"
        )
    elif share < 1 - MAX_WITHOUT_AIR:
        yield f"{1 - share:.0%} of the {pair.plural} are not air (not below {AIR_HU:g} HU)"


def _turned(values: np.ndarray, *, image: sitk.Image) -> Iterator[tuple[str, np.ndarray]]:
    """Yield a label map with its axes flipped in each way and, where that fits, its rows as columns; and how."""
    x_mm, y_mm, _ = image.GetSpacing()
    has_square_pixels = values.shape[1] == values.shape[2] and np.isclose(x_mm, y_mm)
    for is_transposed in (False, True) if has_square_pixels else (False,):
        for flags in product((False, True), repeat=3):
            axes = tuple(axis for axis, is_flipped in enumerate(flags) if is_flipped)
            words = [_AXES[axis] for axis in axes] + ["rows and columns"] * is_transposed
            if words:
                yield ", ".join(words), np.flip(values.swapaxes(1, 2) if is_transposed else values, axes)


def _share_of(air: np.ndarray, values: np.ndarray) -> float:
    """Return which share of the labelled voxels is air; 1 if none is labelled."""
    inside = air[values > 0]
    return float(inside.mean()) if inside.size else 1.0


def _outside(places: Places, image: sitk.Image, *, what: str, steps: Steps) -> Iterator[str]:
    z, y, x = steps
    coarse = image[::x, ::y, ::z]
    across, down, along = (size - 1 for size in coarse.GetSize())
    corners = [(i, j, k) for k in range(along + 1) for i in (0, across) for j in (0, down)]
    # What has no air is no seed, so a body that fills the slices has nothing outside.
    lowest = float(np.iinfo(np.int16).min)
    outside = sitk.ConnectedThreshold(coarse, seedList=corners, lower=lowest, upper=OUTSIDE_AIR_HU)
    share = float(np.mean(sitk.GetArrayViewFromImage(outside)[places]))
    if share > MAX_LESION_OUTSIDE:
        yield f"{share:.0%} of the {what} lie outside of the body"
