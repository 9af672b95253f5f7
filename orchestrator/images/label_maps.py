"""Label maps and images as files: NIfTI, MetaImage, NRRD and MINC, the header first, and the voxels where it fits."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orchestrator.images.formats.metaimage import parse_metaimage
from orchestrator.images.formats.minc import MincFile
from orchestrator.images.formats.nifti import NiftiFile, scaled
from orchestrator.images.formats.nrrd import parse_nrrd
from orchestrator.images.formats.text_header import check_size, check_whole, read_voxels
from orchestrator.images.geometry import Geometry
from orchestrator.images.image_header import ImageHeader
from orchestrator.images.problem import Fault, SourceError, naming
from orchestrator.images.source_file import what_is_instead
from orchestrator.images.stored_voxels import Encoding, ReadBuffer

SUFFIXES = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr", ".mnc")
"""Endings of label maps."""
_ROUNDING = 1e-4
"""Of a whole number that was kept as a real one."""
_LARGEST_STEP = 0.02
"""Of stored numbers that are scaled; a label lies at most half a step beside its whole number."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LabelMap:
    """A label map in memory."""

    array: NDArray[np.integer]
    """Shape (Z, Y, X), C order, no value below 0."""
    geometry: Geometry
    """Its grid."""
    num_axes: int
    """2 for a plane, of which the array has one slice."""
    notes: tuple[str, ...] = ()
    """What had to be decided to read it, one sentence each."""

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distances of voxels, (z, y, x)."""
        x, y, z = self.geometry.spacing_mm
        return z, y, x


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class OpenVolume:
    """A label map or an image of which only the header is read."""

    path: Path
    header: ImageHeader
    files: tuple[Path, ...]
    """All that it is read from: the voxels of some headers are in another file."""
    is_read_by_itk: bool
    """Whether ITK reads files of this kind."""
    _read: Callable[[ReadBuffer], NDArray[np.generic]] = field(repr=False)
    _check_size: Callable[[], None] = field(repr=False)
    _check_whole: Callable[[], None] = field(repr=False)

    def labels(self, buffer: ReadBuffer) -> LabelMap:
        """Read the voxels as labels, which are good until the next file is read into the buffer; raises DataError."""
        with naming(self.path):
            labels = as_labels(self.stored(buffer), slope=self.header.slope, intercept=self.header.intercept)
        return LabelMap(
            array=labels, geometry=self.header.geometry, num_axes=self.header.num_axes, notes=self.header.notes
        )

    def stored(self, buffer: ReadBuffer) -> NDArray[np.generic]:
        """Read the numbers (z, y, x) as they are stored, good for as long as `labels`; raises Fault."""
        return self._read(buffer)

    def check_size(self) -> None:
        """Raise SourceError if the size or the end of the file shows that it is cut short; no voxel is read."""
        with naming(self.path):
            self._check_size()

    def check_whole(self) -> None:
        """Raise SourceError if the file is cut short or damaged, as far as its size and checksums tell; none is kept.

        Of `.nii.gz` its size is compared alone.
        """
        with naming(self.path):
            self._check_whole()


@contextmanager
def open_volume(path: Path, *, what: str = "a label map") -> Iterator[OpenVolume]:
    """Context with a volume whose header is read, which messages call `what`.

    Raises
    ------
    SourceError
        If the file is missing, no file, unreadable, or its header is damaged or contradicts itself; from `labels`, if
        its voxels are cut short, damaged or no labels.
    """
    if not path.is_file():
        raise SourceError.of(path, found=what_is_instead(path), expected=what, advice="Put a file there.")
    if not os.access(path, os.R_OK):
        raise SourceError.of(
            path,
            found="a file that this user may not read",
            expected=f"{what} that is readable",
            advice="Check its permissions.",
        )
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        with path.open("rb") as stream:
            with naming(path):
                file = NiftiFile(stream, must_be_gzip=name.endswith(".gz"))
            yield OpenVolume(
                path=path,
                header=file.header,
                files=(path,),
                is_read_by_itk=file.header.version == 1,
                _read=file.read,
                _check_size=file.check_size,
                _check_whole=file.check_size,
            )
        return
    with naming(path):
        if name.endswith(".mnc"):
            opened = _open_minc(path)
        elif name.endswith((".mha", ".mhd", ".nrrd", ".nhdr")):
            opened = _open_text_header(path)
        else:
            raise SourceError.of(
                path, found="a file of another kind", expected=f"one of {', '.join(SUFFIXES)}", advice="Convert it."
            )
    yield opened


def _open_minc(path: Path) -> OpenVolume:
    minc = MincFile(path)

    def check() -> None:
        """Its reader is that of nibabel, which refuses what is not there."""

    return OpenVolume(
        path=path,
        header=minc.header,
        files=(path,),
        is_read_by_itk=False,
        _read=minc.read,
        _check_size=check,
        _check_whole=check,
    )


def _open_text_header(path: Path) -> OpenVolume:
    header, stored = (parse_metaimage if path.name.lower().endswith((".mha", ".mhd")) else parse_nrrd)(path)
    return OpenVolume(
        path=path,
        header=header,
        files=tuple(dict.fromkeys((path, stored.path))),
        is_read_by_itk=stored.encoding is not Encoding.BZIP2,
        _read=partial(read_voxels, stored, header),
        _check_size=partial(check_size, stored, header),
        _check_whole=partial(check_whole, stored, header),
    )


def read_label_map(path: Path, *, buffer: ReadBuffer | None = None) -> LabelMap:
    """Read a label map; parameters and errors as `open_volume` and its `labels`."""
    with open_volume(path) as opened:
        return opened.labels(buffer or ReadBuffer())


@np.errstate(all="ignore")  # what overflows is found to be no label
def as_labels(stored: NDArray[np.generic], *, slope: float = 1.0, intercept: float = 0.0) -> NDArray[np.integer]:
    """Return stored numbers as labels of an integer type, in C order; what is an integer already stays as it is.

    Real numbers, and scaled ones, are labels if they are whole but for rounding: a label that was scaled to integers of
    16 bits comes back as 1.0000153.

    Raises
    ------
    Fault
        If a value is below 0 or no whole number.
    """
    if stored.dtype.kind in "iu" and (slope, intercept) == (1.0, 0.0):
        # A file may begin its voxels anywhere, and compiled code may not.
        labels = np.require(stored, dtype=stored.dtype.newbyteorder("="), requirements=["C", "A"])
        if labels.dtype.kind == "i" and labels.size and labels.min() < 0:
            raise _no_labels(labels.min(), labels.max())
        return labels
    step = abs(slope) if stored.dtype.kind in "iu" else 0.0
    tolerance = max(_ROUNDING, 0.51 * step if step <= _LARGEST_STEP else 0.0)
    lowest, highest = (float(number) * slope + intercept for number in (stored.min(), stored.max()))
    lowest, highest = min(lowest, highest), max(lowest, highest)
    # Written so that NaN fails as well.
    if not (lowest >= -tolerance and highest < 2**53) or 0.0 < highest < 0.5:
        raise _no_labels(lowest, highest)
    labels = np.empty(stored.shape, np.min_scalar_type(round(highest)))
    for plane, target in zip(stored, labels, strict=True):
        values = plane.astype(np.float64) * slope + intercept
        whole = np.rint(values)
        if not (np.abs(values - whole) <= tolerance).all():
            example = values[np.abs(values - whole) > tolerance].flat[0]
            raise Fault(
                f"holds the value {example:g}",
                expected="integer labels, not probabilities or an image",
                advice="Resample label maps without interpolation.",
            )
        target[:] = whole
    return labels


def mask_values(stored: NDArray[np.generic], header: ImageHeader) -> NDArray[np.generic]:
    """Return stored numbers as labels, or as the values that they are if they cannot be labels."""
    try:
        return as_labels(stored, slope=header.slope, intercept=header.intercept)
    except Fault:
        return scaled(stored, header)


def _no_labels(lowest: float, highest: float) -> Fault:
    return Fault(
        f"values from {lowest:g} to {highest:g}",
        expected="integer labels from 0",
        advice="Check that it is a label map.",
    )
