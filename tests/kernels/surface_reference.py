"""Surfaces, areas and distances done slowly and plainly for the kernels to be compared with, and generated cases."""

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

CORNERS = list(itertools.product((0, 1), repeat=3))
SPACINGS_MM = [
    (1.0, 1.0, 1.0),
    (5.0, 0.7, 0.7),
    (0.30000001192, 0.30000001192, 1.25),
    (0.5, 0.25, 2.0),
    (8.0, 0.9, 0.6),
]


def code_map(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Neighbour code of every dual point: bit 7 for the corner (z-1, y-1, x-1) down to bit 0 for (z, y, x)."""
    padded = np.pad(mask, 1)
    sizes = [size + 1 for size in mask.shape]
    codes = np.zeros(sizes, np.int64)
    for bit, corner in enumerate(reversed(CORNERS)):
        window = tuple(slice(start, start + size) for start, size in zip(corner, sizes, strict=True))
        codes += padded[window].astype(np.int64) << bit
    return codes


def is_border(codes: NDArray[np.int64]) -> NDArray[np.bool_]:
    return (codes > 0) & (codes < 255)


def distances_of_all_pairs(points, targets, spacing_mm) -> NDArray[np.float64]:
    """Least distance of each point to a target, in the arithmetic that the kernels promise."""
    if not len(targets):
        return np.full(len(points), np.inf)
    steps = (points[:, None, :] - targets[None, :, :]) * np.array(spacing_mm)
    z, y, x = np.moveaxis(steps * steps, -1, 0)
    return np.sqrt(((z + y) + x).min(axis=1))


def beyond_counts(reference, prediction, *, spacing_mm, tolerance_mm):
    """Elements by code of the first mask's surface, in total and beyond the tolerance."""
    codes, other = code_map(reference), code_map(prediction)
    own = is_border(codes)
    distances = distances_of_all_pairs(np.argwhere(own), np.argwhere(is_border(other)), spacing_mm)
    total = np.bincount(codes[own], minlength=256)
    return total, np.bincount(codes[own][distances > tolerance_mm], minlength=256)


def transformed_distances(reference, prediction, *, spacing_mm) -> NDArray[np.float64]:
    """Sorted distances of the first mask's surface elements by scipy's distance transform."""
    own, other = (is_border(code_map(mask)) for mask in (reference, prediction))
    return np.sort(ndimage.distance_transform_edt(~other, sampling=spacing_mm)[own])


def possible_areas(code: int, spacing_mm) -> list[float]:
    """Areas of every way to fill the surface's outlines in a cell with triangles."""
    outlines = [np.array(outline) * np.array(spacing_mm) for outline in _outlines(code)]
    choices = [[_area(outline, way) for way in _triangulations(0, len(outline) - 1)] for outline in outlines]
    return [sum(way) for way in itertools.product(*choices)]


def _outlines(code: int) -> list[list[tuple[float, ...]]]:
    """Walk along the cell's faces from edge midpoint to edge midpoint, cutting off the corners of the smaller side."""
    corners = [corner for bit, corner in enumerate(reversed(CORNERS)) if code >> bit & 1]
    if len(corners) > 4:
        corners = [corner for corner in CORNERS if corner not in corners]
    neighbours: dict[tuple[float, ...], list[tuple[float, ...]]] = {}
    for axis, side in itertools.product(range(3), (0, 1)):
        cycle = [tuple(np.insert([u, v], axis, side)) for u, v in ((0, 0), (0, 1), (1, 1), (1, 0))]
        inside = [corner in corners for corner in cycle]
        edges = [tuple(np.add(cycle[i], cycle[(i + 1) % 4]) / 2) for i in range(4)]
        crossed = [i for i in range(4) if inside[i] != inside[(i + 1) % 4]]
        pairs = [(i - 1, i) for i in range(4) if inside[i]] if len(crossed) == 4 else [crossed] if crossed else []
        for a, b in pairs:
            neighbours.setdefault(edges[a], []).append(edges[b])
            neighbours.setdefault(edges[b], []).append(edges[a])
    outlines = []
    while neighbours:
        here = next(iter(neighbours))
        outline = []
        while here in neighbours:
            outline.append(here)
            ahead = neighbours.pop(here)
            here = next((point for point in ahead if point in neighbours), here)
        outlines.append(outline)
    return outlines


def _triangulations(first: int, last: int) -> list[list[tuple[int, int, int]]]:
    if last - first < 2:
        return [[]]
    return [
        [*left, *right, (first, middle, last)]
        for middle in range(first + 1, last)
        for left in _triangulations(first, middle)
        for right in _triangulations(middle, last)
    ]


def _area(outline, triangles) -> float:
    return sum(
        float(np.linalg.norm(np.cross(outline[b] - outline[a], outline[c] - outline[a]))) / 2 for a, b, c in triangles
    )


def generated_cases(num_cases: int) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_], tuple[float, ...], float]]:
    """Masks, spacing and tolerance: sparse to full, rows beyond one word, tolerances equal to grid distances."""
    random = np.random.default_rng(20200426)
    densities = [0.0, 0.02, 0.1, 0.5, 0.9, 1.0]
    for number in range(num_cases):
        shape = tuple(random.integers(1, (3, 4, 140) if number % 7 == 0 else (8, 8, 8)))
        reference = random.random(shape) < random.choice(densities)
        if number % 3:
            prediction = random.random(shape) < random.choice(densities)
        else:
            prediction = reference ^ (random.random(shape) < 0.05)
        spacing_mm = SPACINGS_MM[number % len(SPACINGS_MM)]
        on_grid = [0.0, *spacing_mm, 2 * spacing_mm[2], float(np.hypot(spacing_mm[1], spacing_mm[2]))]
        yield reference, prediction, spacing_mm, float(random.choice([*on_grid, 1.0, 3.0, 50.0]))
