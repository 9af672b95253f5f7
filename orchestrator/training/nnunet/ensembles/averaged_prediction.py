"""Probabilities of one or several models, averaged as nnU-Net's `ensemble_folders` does, a slice at a time.

Of each model the softmax (sigmoid for regions) of its own logits on the grid of the image is taken in single precision,
they are added in the order of the models, divided by their number, and the largest wins. nnU-Net writes the
probabilities of each model to a disk for that; here the models go over the image together, so that only what their
windows touch, and one slice of all classes, is held.
"""

import math
import mmap
import pickle
import zipfile
from collections import Counter
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from orchestrator.errors import DataError
from orchestrator.images.geometry import Geometry
from orchestrator.training.nnunet.environment import prints_to_log
from orchestrator.training.nnunet.prediction import Predictor, label_writer
from orchestrator.training.nnunet.prediction_memory import BESIDE_BYTES, StoredImage, label_map_bytes
from orchestrator.training.nnunet.prepared_image import PreparedImage

if TYPE_CHECKING:
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

_WHOLE_VECTORS = 64
"""Numbers that fill up any vectors that torch calculates with."""
_FLAT_SPACING = 998.9
"""Thickness that nnU-Net gives a file of two axes, in its larger spacing: 999, which headers may round."""
Slices = Iterator[NDArray[np.float32]]
"""Of all classes, shape (classes, Y, X)."""
_FloatFile = np.memmap[tuple[int, ...], np.dtype[np.float32]]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Member:
    """A model, and the image as it wants it."""

    predictor: Predictor
    image: PreparedImage

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole image, in the model's order of axes."""
        return tuple(map(int, self.image.properties["shape_before_cropping"]))

    @property
    def axes(self) -> tuple[int, ...]:
        """Which axis of the file comes first, second and third."""
        return tuple(map(int, self.predictor.plan.plans_manager.transpose_forward))

    def probabilities(self) -> Slices:
        """Yield the probabilities of each slice of the whole image along the model's first axis."""
        labels = self.predictor.plan.label_manager
        (first, end), *inner = self.image.properties["bbox_used_for_cropping"]
        box = tuple(slice(start, stop) for start, stop in inner)
        # Where there are regions, nothing is outside of the crop; else it is background for sure.
        outside = np.zeros((labels.num_segmentation_heads, 1, 1), np.float32)
        outside[0] = not labels.has_regions
        with closing(self.predictor.value_slices(self.image)) as values:
            for z in range(self.shape[0]):
                whole = np.empty((len(outside), *self.shape[1:]), np.float32)
                whole[:] = outside
                if first <= z < end:
                    whole[(slice(None), *box)] = _activated(next(values), labels, number=z - first, of=end - first)
                yield whole
            # What is looked at when all is done may still be wrong.
            next(values, None)


def _activated(values: NDArray[np.float16], labels: "LabelManager", *, number: int, of: int) -> NDArray[np.float32]:
    """Return the softmax, or sigmoid of regions, of a slice, as torch calculates it of all slices at once.

    Torch's vectors and what is left over of them at the end of an array differ in the last bit. So each slice is filled
    up to whole vectors, and the last one begins and ends at the place within them that it has in the whole volume.
    """
    num_classes, num_voxels = len(values), values[0].size
    flat = torch.from_numpy(values.reshape(num_classes, -1)).float()
    # Classes exclude each other: all of a voxel are calculated together. Regions are rows of one long array.
    groups = [flat[row : row + 1] for row in range(num_classes)] if labels.has_regions else [flat]
    activated = np.empty(flat.shape, np.float32)
    for row, group in enumerate(groups):
        is_end = number == of - 1 and row == len(groups) - 1
        before = (num_voxels * (row * of + number)) % _WHOLE_VECTORS
        after = 0 if is_end else -(before + num_voxels) % _WHOLE_VECTORS
        filled = torch.nn.functional.pad(group, (before, after))
        found = labels.apply_inference_nonlin(filled)[:, before : before + num_voxels]
        activated[row : row + len(group)] = found.numpy()
    return activated.reshape(values.shape)


def averaged_labels(
    members: Sequence[Member], *, probabilities: _FloatFile | None = None
) -> NDArray[np.uint8 | np.uint16]:
    """Return the label map of the averaged probabilities, in the voxels and the order of axes of the file.

    Parameters
    ----------
    members
        Whose labels mean the same.
    probabilities : float32 memory map, shape (classes, Z, Y, X), optional
        Filled in, in the first model's order of axes.
    """
    first = members[0]
    labels, backward = first.predictor.plan.label_manager, np.argsort(first.axes)
    whole = np.zeros(first.shape, np.uint8 if len(labels.foreground_labels) < 255 else np.uint16)
    with together(members) as slices:
        for z, of_slice in enumerate(slices):
            mean = mean_of(of_slice)
            whole[z] = labels.convert_probabilities_to_segmentation(mean)
            if probabilities is not None:
                probabilities[:, z] = mean
                _release(probabilities)
    return whole.transpose(backward)


@contextmanager
def together(members: Sequence[Member]) -> Iterator[Iterator[tuple[NDArray[np.float32], ...]]]:
    """Context with the probabilities of all models, a slice along the first axis of the first one at a time."""
    axes = members[0].axes
    with TemporaryDirectory(prefix="probabilities-") as folder:
        streams = [
            member.probabilities() if member.axes == axes else _turned(member, axes, Path(folder) / f"{n}")
            for n, member in enumerate(members)
        ]
        yield zip(*streams, strict=True)


def mean_of(slices: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return the mean of probabilities, added up in their order."""
    mean = slices[0].copy()
    for other in slices[1:]:
        mean += other
    mean /= np.float32(len(slices))
    return mean


def _turned(member: Member, axes: Sequence[int], file: Path) -> Slices:
    """Yield the slices of a model along another axis than its own first one: they go through a file."""
    num_classes = member.predictor.plan.label_manager.num_segmentation_heads
    shape = (member.shape[0], num_classes, *member.shape[1:])
    held = np.memmap(file, np.float32, "w+", shape=shape)
    for z, values in enumerate(member.probabilities()):
        held[z] = values
        _release(held)
    # (first, classes, second, third) to (classes, first, second, third), then to the axes that are wanted.
    turned = held.transpose(1, 0, 2, 3).transpose(0, *(member.axes.index(axis) + 1 for axis in axes))
    for z in range(turned.shape[1]):
        made = np.array(turned[:, z])
        _release(held)
        yield made


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PredictedImage:
    """What a prediction has shown of an image."""

    num_voxels: dict[int, int]
    """By label, without background and labels that are nowhere."""
    voxel_mm3: float
    """Volume of a voxel; NaN for an image of two axes."""
    shape: tuple[int, ...]
    """Voxels (z, y, x) as nnU-Net's reader has them."""
    spacing_mm: tuple[float, ...]
    """Of the same axes; NaN along the one that an image of two axes does not have."""
    intensities: NDArray[np.float32]
    """A sample of all voxels, shape (channels, voxels)."""
    foreground: NDArray[np.float32]
    """Those of the sample that have any label, shape (channels, voxels)."""
    share_not_finite: float = 0.0
    """Of all intensities: NaN or infinite."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseBytes:
    """What a case takes at most of the memory, beside what the process has already."""

    preparing: int
    """Until its image is read and prepared."""
    predicting: int
    """With that, until its label map is known."""
    writing: int
    """After that, until it is written with all that is made of it."""
    left: int = 0
    """What predicting leaves behind for the first time: kernels, threads, and what allocators keep."""

    @property
    def most(self) -> int:
        """At any time, if it is the only case."""
        return max(self.predicting, self.left + self.writing)


class ModelEnsemble:
    """One model or several that predict together."""

    def __init__(self, predictors: Sequence[Predictor]) -> None:
        """Take over models whose labels mean the same; files are read and written as the first one does."""
        self._predictors = tuple(predictors)

    def predict_onto(
        self, images: Sequence[Path], output: Path, *, grid: Geometry | None = None, description: str = ""
    ) -> None:
        """Predict one case of a run.

        Parameters
        ----------
        images
            NIfTI images, one for each channel, on one grid.
        output
            NIfTI file to write: the label map, uint8.
        grid
            Grid of that file, on which the voxels of the images lie in another order: that of the file which they
            were made from, so that any tool lays one over the other. Default: the grid of the first image.
        description
            Kept in the header of that file: 79 characters at most.

        Raises
        ------
        DataError
            If an image cannot be read.
        IntegrityError
            If they do not lie on the grid.
        """
        write = label_writer(images[0], output, grid=grid, description=description)
        first, *others = self._predictors
        if others:
            write(_averaged([Member(predictor=one, image=one.prepared(images)) for one in self._predictors]))
        else:
            write(first.labels(first.prepared(images)))

    def case_bytes(self, header: StoredImage, *, saves_probabilities: bool = False) -> CaseBytes | None:
        """Return what an image takes, by its header; None where a network has to see it for that."""
        expected = [one.expected_bytes(header) for one in self._predictors]
        known = [numbers for numbers in expected if numbers is not None]
        if len(known) < len(expected):
            return None
        first, *others = self._predictors
        num_classes = first.plan.label_manager.num_segmentation_heads
        is_averaged = bool(others) or saves_probabilities
        one_slice = 4 * num_classes * math.prod(sorted(header.shape)[1:]) * (len(others) + 5) if is_averaged else 0
        (preparing, alone), *further = known
        # A class of probabilities that are brought to the axes of the file, beside the label map.
        saving = 5 * math.prod(header.shape) if saves_probabilities else 0
        return CaseBytes(
            preparing=preparing,
            predicting=max(one_slice + alone + sum(num_bytes for _, num_bytes in further), saving),
            # As it is, and as its writer has it.
            writing=2 * label_map_bytes(header, num_classes=num_classes),
            left=BESIDE_BYTES,
        )

    def predict(
        self,
        images: Sequence[Path],
        output: Path,
        *,
        probabilities: tuple[Path, Path] | None = None,
        structures: Collection[int] | None = None,
    ) -> Generator[None, None, PredictedImage]:
        """Predict one image as nnU-Net's own command does, with the reader and the writer that the plans name.

        Pauses when the image is read and prepared, and when its labels are known: what comes next may be done by
        another thread, while other images are read or written.

        Parameters
        ----------
        images
            A file for each channel.
        output
            File to write, which must end as the model's do.
        probabilities
            `.npz` and `.pkl` to write as nnU-Net's `--save_probabilities` does, if given. The label map is then that of
            these probabilities, in which rounding may have made equals of the two largest.
        structures
            Labels that are kept; the others become background. All unless given.

        Raises
        ------
        DataError
            If the image cannot be read, or is not one for these models.
        """
        first, *others = self._predictors
        image = first.prepared(images)
        yield
        if not others and probabilities is None:
            labels = first.labels(image)
        else:
            members = [Member(predictor=one, image=one.prepared(images)) for one in others]
            labels = _averaged([Member(predictor=first, image=image), *members], probabilities=probabilities)
            del members
        if structures is not None:
            labels[~np.isin(labels, list(structures))] = 0
        # Another image may need its memory while this label map is written.
        image = replace(image, data=np.empty((0, 0, 0, 0), np.float32))
        yield
        first.write(labels, output, properties=image.properties)
        return _predicted_image(labels, image)


def _predicted_image(labels: NDArray[np.integer], image: PreparedImage) -> PredictedImage:
    properties, sample, step = image.properties, image.sample, image.sample_step
    spacing = tuple(map(float, properties["spacing"]))
    # Some readers of nnU-Net tell a file of two axes by its thickness alone.
    is_flat = len(properties.get("sitk_stuff", {}).get("spacing", spacing)) < 3 or (
        len(labels) == 1 and spacing[0] >= _FLAT_SPACING * max(spacing[1:])
    )
    return PredictedImage(
        num_voxels={label: number for label, number in _voxels_of_labels(labels).items() if label},
        voxel_mm3=math.nan if is_flat else math.prod(spacing),
        shape=labels.shape,
        spacing_mm=(math.nan, *spacing[1:]) if is_flat else spacing,
        intensities=sample.reshape(len(sample), -1),
        foreground=sample[:, labels[::step, ::step, ::step] > 0],
        share_not_finite=image.num_not_finite / (len(sample) * labels.size),
    )


def _voxels_of_labels(labels: NDArray[np.integer]) -> dict[int, int]:
    """Return how many voxels have each label, counted slice by slice: numpy counts copies of eight bytes a voxel."""
    numbers: Counter[int] = Counter()
    for of_slice in labels:
        found = np.bincount(of_slice.reshape(-1))
        numbers.update({int(label): int(found[label]) for label in np.flatnonzero(found)})
    return dict(sorted(numbers.items()))


def _averaged(members: Sequence[Member], *, probabilities: tuple[Path, Path] | None = None) -> NDArray[Any]:
    shapes = {tuple(np.take(member.shape, np.argsort(member.axes))) for member in members}
    if len(shapes) > 1:
        raise DataError(f"models read images of {' and '.join(map(str, shapes))}; expected readers that read alike")
    if probabilities is None:
        with prints_to_log():
            return averaged_labels(members)
    first, (archive, properties) = members[0], probabilities
    shape = (first.predictor.plan.label_manager.num_segmentation_heads, *first.shape)
    with TemporaryDirectory(prefix="probabilities-") as folder, prints_to_log():
        held = np.memmap(Path(folder) / "probabilities", np.float32, "w+", shape=shape)
        labels = averaged_labels(members, probabilities=held)
        _write_archive(held, archive, backward=np.argsort(first.axes).tolist())
        del held
    with properties.open("wb") as pickled:
        pickle.dump(first.image.properties, pickled)
    return labels


def _write_archive(held: _FloatFile, archive: Path, *, backward: Sequence[int]) -> None:
    """Write probabilities, shape (classes, Z, Y, X) in the order of axes of a model, as `numpy.savez_compressed` does.

    `backward` are the axes of the file in that order.
    """
    turned = held.transpose(0, *(axis + 1 for axis in backward))
    description = {"descr": np.lib.format.dtype_to_descr(held.dtype), "fortran_order": False, "shape": turned.shape}
    with (
        zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target,
        target.open("probabilities.npy", "w", force_zip64=True) as file,
    ):
        np.lib.format.write_array_header_1_0(file, description)
        for of_class in turned:
            for of_slice in of_class:
                file.write(np.ascontiguousarray(of_slice).data)
            _release(held)


def _release(held: _FloatFile) -> None:
    """Give the memory back that a file has in this process; what is written stays in the file."""
    if hasattr(mmap, "MADV_DONTNEED"):
        held._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]  # noqa: SLF001 - numpy shows it nowhere
