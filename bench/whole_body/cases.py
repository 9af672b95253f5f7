"""Label maps with the number, sizes and shapes of structures of a whole-body CT, and predictions as of a network."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SHAPE = (531, 512, 512)
SPACING_MM = (1.5, 0.8, 0.8)
NUM_LABELS = 117

Point = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Body:
    """Labels to be drawn into, and where in a shape of its own a share of a body lies."""

    labels: NDArray[np.integer]
    spacing_mm: tuple[float, float, float]

    def draw_ellipsoid(self, label: int, centre: Point, radii_mm: Point) -> None:
        """Write an ellipsoid; `centre` is in shares of the shape (z, y, x)."""
        middle = centre * self.labels.shape
        reach = radii_mm / self.spacing_mm
        first = np.maximum(0, np.floor(middle - reach)).astype(int)
        stop = np.minimum(self.labels.shape, np.ceil(middle + reach) + 1).astype(int)
        box = tuple(slice(a, b) for a, b in zip(first, stop, strict=True))
        z, y, x = np.ogrid[box]
        is_inside = sum(((g - m) / r) ** 2 for g, m, r in zip((z, y, x), middle, reach, strict=True)) <= 1
        self.labels[box][is_inside] = label

    def draw_tube(self, label: int, centres: NDArray[np.float64], radius_mm: float) -> None:
        """Write balls close to each other along a curve, shape (points, 3)."""
        for centre in centres:
            self.draw_ellipsoid(label, centre, np.full(3, radius_mm))


def whole_body(
    *, shape: tuple[int, int, int] = SHAPE, num_labels: int = NUM_LABELS, dtype: type = np.uint8, seed: int = 0
) -> NDArray[np.integer]:
    """Return labels 1 to `num_labels`: a fifth are organs, a fifth vertebrae, the others ribs, vessels and muscles.

    Parameters
    ----------
    shape : (Z, Y, X); the body is scaled with it
    num_labels : how many labels there are, one structure each
    dtype : of the map
    seed : of the places and sizes
    """
    random = np.random.default_rng(seed)
    scale = shape[0] / SHAPE[0]
    body = _Body(labels=np.zeros(shape, dtype), spacing_mm=SPACING_MM)
    num_organs = num_bones = num_labels // 5
    for label in range(1, num_organs + 1):
        centre = random.uniform((0.1, 0.35, 0.25), (0.9, 0.65, 0.75))
        # From a gland to the liver.
        body.draw_ellipsoid(
            label, centre, scale * random.uniform(0.6, 1.4, 3) * np.geomspace(85, 15, num_organs)[label - 1]
        )
    for number in range(num_bones):
        centre = np.array([0.04 + 0.92 * number / num_bones, 0.72, 0.5])
        label = num_organs + 1 + number
        body.draw_ellipsoid(label, centre, scale * np.array([15.0, 22.0, 30.0]))
        body.draw_ellipsoid(label, np.add(centre, (0, 0.07, 0)), scale * np.array([9.0, 26.0, 9.0]))
    for label in range(num_organs + num_bones + 1, num_labels + 1):
        body.draw_tube(label, _curve(random, is_rib=label % 2 == 0), scale * random.uniform(5, 16))
    return body.labels


def _curve(random: np.random.Generator, *, is_rib: bool) -> NDArray[np.float64]:
    """Return points along half a ring around the body, or along a line that winds from top to bottom."""
    share = np.linspace(0, 1, 120)
    if is_rib:
        angle = np.pi * (0.05 + 0.9 * share)
        side = random.choice([-1, 1])
        z = random.uniform(0.1, 0.8) + 0.12 * share
        return np.stack([z, 0.5 + 0.25 * np.cos(angle), 0.5 + side * 0.36 * np.sin(angle)], axis=1)
    start, end = random.uniform((0.05, 0.3, 0.2), (0.95, 0.75, 0.8), (2, 3))
    winding = 0.02 * np.sin(share * random.uniform(3, 9))[:, None]
    return np.asarray(start + share[:, None] * (end - start) * (0.45, 0.6, 0.6) + winding)
