"""Masks for the benchmark of the surface kernels: lungs at the size of a clinical CT, and small hostile cases."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from orchestrator.phantoms.patient import draw_patient, lung_distance
from orchestrator.phantoms.shapes import Grid

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
    """Return real or generated lungs with a prediction, made one after the other; exits at once if there are none."""
    sources: list[Any] = sorted(folder.glob("*.nii.gz"))[:num_masks] if folder else list(range(min(num_masks, 6)))
    if not sources:
        raise SystemExit(f"{folder}: no .nii.gz files; expected label maps with the lungs as 1 and 2")
    return (_lungs(source, number=number) for number, source in enumerate(sources))


def _lungs(source: Path | int, *, number: int) -> Lungs:
    labels, spacing_mm = read_lungs(source) if isinstance(source, Path) else generate_lungs(source)
    name = source.name if isinstance(source, Path) else f"generated {source}"
    return Lungs(name=name, reference=labels, prediction=as_predicted(labels, seed=number), spacing_mm=spacing_mm)


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
