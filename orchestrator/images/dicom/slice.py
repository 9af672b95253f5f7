"""One slice of a CT series as its header describes it, and what a DICOM file is if it is no such slice."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orchestrator.images.dicom.elements import EXPORT, MODALITIES, MR_IMAGE, Elements, PixelElement, Tag

_TRANSFER_SYNTAXES = frozenset(
    f"1.2.840.10008.1.2{end}"
    for end in ("", ".1", ".2", ".5", ".4.50", ".4.51", ".4.57", ".4.70", ".4.80", ".4.81", ".4.90", ".4.91")
)
"""Plain, RLE, JPEG, JPEG-LS and JPEG 2000: what GDCM decodes, as the tests show."""
_NO_SLICES = {
    "LOCALIZER": "localizer",
    "SCREEN SAVE": "screen shot",
    "DOSE": "dose report",
    "DOSE_INFO": "dose report",
    "PROT": "protocol page",
    **dict.fromkeys(("MIP", "MINIP", "MAXIP", "VRT", "PROJECTION IMAGE"), "projection"),
}
"""What the image types of scanners say of files of class and modality CT that are no slices."""
_HOUNSFIELD = ("", "HU", "HU_MOD", "US")
_INTEGERS = (np.uint8, np.uint16, np.uint32, np.int8, np.int16, np.int32)
_LARGEST_SIZE = 8192
_ROUNDING = 1e-3
"""Of direction cosines; some tools write them with four digits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredNumbers:
    """The numbers that stand for voxels, before they become Hounsfield units."""

    dtype: str
    """As numpy has it."""
    num_bits: int
    """In use."""
    num_allocated: int
    """Bits of a number."""
    lowest: int
    """The least that the bits in use can say."""
    highest: int
    """The most that they can say; of signed numbers, whose upper bits may be left 0, as of unsigned ones."""
    has_overlay: bool
    """Whether the bits above belong to something else."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """What the header of one slice says."""

    file: Path
    """The file."""
    patient: str
    """Identifier of the patient; empty if there is none."""
    frame_of_reference: str
    """UID of the coordinate system; empty if there is none."""
    acquisition: str
    """Number of the acquisition; empty if there is none."""
    size: tuple[int, int]
    """Columns and rows."""
    spacing_mm: tuple[float, float]
    """Distance between columns, and between rows."""
    origin_mm: tuple[float, float, float]
    """Position of the first voxel in LPS coordinates."""
    row: tuple[float, float, float]
    """Direction in which a row runs, from column to column."""
    column: tuple[float, float, float]
    """Direction in which a column runs, from row to row."""
    rescale: tuple[float, float]
    """Slope and intercept that make Hounsfield units of stored numbers."""
    padding_value: float | None
    """What stands outside of the field of view, None if it is not marked."""
    transfer_syntax: str
    """UID of the encoding."""
    pixels: PixelElement
    """Where the pixels lie."""
    stored: "StoredNumbers"
    """What numbers they are."""

    @property
    def value_dtype(self) -> np.dtype[np.generic]:
        """Type that GDCM gives the values: the smallest that holds what its bits can say, after the rescaling."""
        slope, intercept = self.rescale
        if not (slope.is_integer() and intercept.is_integer()):
            return np.dtype(np.float64)
        num_bits, is_signed = self.stored.num_bits, np.dtype(self.stored.dtype).kind == "i"
        lowest = -(1 << (num_bits - 1)) if is_signed else 0
        ends = sorted(int(slope * number + intercept) for number in (lowest, lowest + (1 << num_bits) - 1))
        return next((np.dtype(one) for one in _INTEGERS if _holds(one, ends)), np.dtype(np.float64))

    @property
    def corners_mm(self) -> NDArray[np.float64]:
        """Positions of the first voxel and of the last of its row, of its column and of all, shape (4, 3)."""
        right = np.asarray(self.row) * self.spacing_mm[0] * (self.size[0] - 1)
        down = np.asarray(self.column) * self.spacing_mm[1] * (self.size[1] - 1)
        corners: NDArray[np.float64] = np.asarray(self.origin_mm) + np.array([0 * right, right, down, right + down])
        return corners


def other_than_slice(elements: Elements, *, modalities: Collection[str]) -> str | None:
    """Say what a DICOM file is if it is not a slice of one of these modalities; None if it is one, sound or not.

    Raises SourceError if it does not say.
    """
    sop_class = elements.text(Tag.SOPClassUID)
    if not sop_class:
        raise elements.problem("a DICOM file that does not say what it is", "a SOPClassUID")
    modality = elements.text(Tag.Modality)
    of_class = MODALITIES.get(sop_class)
    if of_class not in modalities:
        name = _name_of(sop_class)
        # Enhanced images, and enhanced ones made of single slices.
        is_enhanced = sop_class.startswith(tuple(f"{single}." for single in MODALITIES))
        return f"{name} (many slices in one file)" if is_enhanced else name
    if modality not in {of_class, ""}:
        return f"modality {modality}"
    for value in elements.text(Tag.ImageType).upper().split("\\")[2:]:
        mark = value.strip().removeprefix("CT_SOM5 ").removeprefix("CT_SOM7 ")
        if mark in _NO_SLICES:
            return _NO_SLICES[mark]
    rescale_type = elements.text(Tag.RescaleType).upper()
    return None if sop_class == MR_IMAGE or rescale_type in _HOUNSFIELD else f"values in {rescale_type}"


def _name_of(uid: str) -> str:
    from pydicom.config import IGNORE
    from pydicom.uid import UID

    return UID(uid, validation_mode=IGNORE).name[:80]


def is_mr(elements: Elements) -> bool:
    """Whether a slice is one of MR, whose values have no unit."""
    return elements.text(Tag.SOPClassUID) == MR_IMAGE


def is_derived(elements: Elements) -> bool:
    """Whether the image type says that the values were computed from those of other slices."""
    image_type = elements.text(Tag.ImageType).upper().split("\\")
    return image_type[0] == "DERIVED" or image_type[1:2] == ["SECONDARY"]


def slice_of(elements: Elements) -> Slice:
    """Check the header of a slice; raises SourceError with the name of the file."""
    if elements.pixels is None:
        raise elements.problem("a slice that ends before its pixels", "PixelData")
    size = elements.whole(Tag.Columns), elements.whole(Tag.Rows)
    if not 2 <= min(size) <= max(size) <= _LARGEST_SIZE:
        raise elements.problem(f"a slice of {size[0]} x {size[1]} voxels", f"2 to {_LARGEST_SIZE} a side")
    row, column = _directions(elements)
    between_rows_mm, between_columns_mm = elements.numbers(Tag.PixelSpacing, count=2)
    if min(between_rows_mm, between_columns_mm) <= 0:
        raise elements.problem("a slice with PixelSpacing that is not positive", "2 distances in mm", advice=EXPORT)
    x, y, z = elements.numbers(Tag.ImagePositionPatient, count=3)
    slope, intercept = _rescale(elements)
    return Slice(
        file=elements.file,
        patient=elements.text(Tag.PatientID),
        frame_of_reference=elements.text(Tag.FrameOfReferenceUID),
        acquisition=elements.text(Tag.AcquisitionNumber),
        size=size,
        spacing_mm=(between_columns_mm, between_rows_mm),
        origin_mm=(x, y, z),
        row=row,
        column=column,
        rescale=(slope, intercept),
        padding_value=_padding_value(elements, slope=slope, intercept=intercept),
        stored=_stored_numbers(elements),
        transfer_syntax=elements.transfer_syntax,
        pixels=_checked_pixels(elements, elements.pixels, size=size),
    )


def _directions(elements: Elements) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Directions of rows and columns, made orthogonal within their rounding as ITK does."""
    cosines = np.reshape(elements.numbers(Tag.ImageOrientationPatient, count=6), (2, 3))
    if not np.allclose(cosines @ cosines.T, np.eye(2), rtol=0, atol=_ROUNDING):
        raise elements.problem(
            f"a slice with ImageOrientationPatient '{elements.text(Tag.ImageOrientationPatient)[:80]}'",
            "two unit vectors at a right angle",
            advice=EXPORT,
        )
    normal = np.cross(*cosines)
    normal /= np.linalg.norm(normal)
    row = np.cross(cosines[1], normal)
    row /= np.linalg.norm(row)
    down = np.cross(normal, row)
    return (float(row[0]), float(row[1]), float(row[2])), (float(down[0]), float(down[1]), float(down[2]))


def _holds(dtype: type[np.integer], values: Iterable[int]) -> bool:
    limits = np.iinfo(dtype)
    return all(limits.min <= value <= limits.max for value in values)


def _rescale(elements: Elements) -> tuple[float, float]:
    if is_mr(elements) and not elements.text(Tag.RescaleSlope) and not elements.text(Tag.RescaleIntercept):
        return 1.0, 0.0
    (slope,) = elements.numbers(Tag.RescaleSlope, count=1)
    (intercept,) = elements.numbers(Tag.RescaleIntercept, count=1)
    if slope == 0:
        raise elements.problem("a slice with RescaleSlope 0", "a slope that makes Hounsfield units", advice=EXPORT)
    return slope, intercept


def _padding_value(elements: Elements, *, slope: float, intercept: float) -> float | None:
    if len(elements.values.get(Tag.PixelPaddingValue, b"")) != 2:
        return None
    stored = elements.whole(Tag.PixelPaddingValue)
    # Many writers give the unsigned value of a signed number, and the other way round.
    if elements.whole(Tag.PixelRepresentation) and stored >= 1 << 15:
        stored -= 1 << 16
    return slope * stored + intercept


def _checked_pixels(elements: Elements, pixels: PixelElement, *, size: tuple[int, int]) -> PixelElement:
    problem, photometric = elements.problem, elements.text(Tag.PhotometricInterpretation)
    num_samples = elements.whole(Tag.SamplesPerPixel, default=1)
    # MONOCHROME1, where high values are shown dark, GDCM turns round: air would be metal.
    if num_samples != 1 or photometric != "MONOCHROME2":
        raise problem(
            f"a slice of {num_samples} value{'s'[: num_samples != 1]} a voxel, {photometric or 'of no kind'}",
            "one value a voxel, MONOCHROME2",
            advice="It is a picture, not a CT: take the original series.",
        )
    if elements.text(Tag.NumberOfFrames) not in {"", "1"}:
        raise problem(f"{elements.text(Tag.NumberOfFrames)} frames in one file", "a file a slice", advice=EXPORT)
    if elements.transfer_syntax not in _TRANSFER_SYNTAXES:
        raise problem(
            f"the encoding {_name_of(elements.transfer_syntax)}",
            "plain, RLE, JPEG, JPEG-LS or JPEG 2000",
            advice="Convert the series, for example with dcmconv or gdcmconv.",
        )
    needed = size[0] * size[1] * elements.whole(Tag.BitsAllocated) // 8
    if not pixels.is_compressed and pixels.num_bytes < needed:
        raise problem(
            f"a slice cut short: {pixels.num_bytes} bytes of pixels", f"{needed} for {size[0]} x {size[1]} voxels"
        )
    if not pixels.is_compressed and pixels.num_bytes - needed >= needed // size[1]:
        raise problem(
            f"{pixels.num_bytes} bytes of pixels, a row or more too many",
            f"{needed} for {size[0]} x {size[1]} voxels",
            advice=EXPORT,
        )
    return pixels


def _stored_numbers(elements: Elements) -> StoredNumbers:
    allocated, stored = elements.whole(Tag.BitsAllocated), elements.whole(Tag.BitsStored)
    high, sign = elements.whole(Tag.HighBit), elements.whole(Tag.PixelRepresentation)
    # Of 32 bits that are not all in use GDCM makes zeros, and of 12 it dies.
    if allocated not in {8, 16} or not 0 < stored <= allocated or high != stored - 1 or sign > 1:
        raise elements.problem(
            f"numbers of {stored} bits up to bit {high} in {allocated}, representation {sign}",
            "8 or 16 bits, of which the lower ones are used, representation 0 or 1",
            advice=EXPORT,
        )
    return StoredNumbers(
        dtype=f"{'<' if elements.is_little_endian else '>'}{'i' if sign else 'u'}{allocated // 8}",
        num_bits=stored,
        num_allocated=allocated,
        lowest=-(1 << (stored - 1)) if sign else 0,
        highest=(1 << stored) - 1,
        has_overlay=bool(elements.whole(Tag.OverlayBitPosition, default=0)),
    )
