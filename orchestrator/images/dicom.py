"""CT series of one patient, found among the DICOM files of a patient folder and checked for missing slices."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from orchestrator.images.geometry import Geometry
from orchestrator.images.problem import SourceError
from orchestrator.images.volume import LoadedVolume, Volume

_MODALITY = "0008|0060"
_GAP_TOLERANCE = 0.1
"""Share of the slice distance by which one gap may differ; scanners round positions, a lost slice doubles a gap."""
_ROUNDING = 1e-3
"""Of direction cosines and of spacings of one series."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Series:
    files: tuple[str, ...]
    uid: str


class DicomVolume(Volume):
    """The CT series below the folders of one patient; the largest one if there are several."""

    def __init__(self, folders: tuple[Path, ...], *, name: str) -> None:
        self.name = name
        self._folders = folders

    def paths(self) -> tuple[Path, ...]:
        """Return all files of the folders: a further series or slice can change what is read."""
        return tuple(file for folder in self._folders for file in sorted(folder.iterdir()) if file.is_file())

    def read_geometry(self) -> Geometry:
        """Read the header of every slice and check that they form one gapless stack."""
        series, _ = self._ct_series()
        return self._stack_geometry(series)

    def read(self) -> LoadedVolume:
        """Read the series; the digest covers the digests of its files in the order of their positions."""
        series, notes = self._ct_series()
        self._stack_geometry(series)
        reader = sitk.ImageSeriesReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileNames(series.files)
        try:
            image = reader.Execute()
        except RuntimeError as error:
            raise self._problem(
                f"slices that cannot be read as one volume ({str(error).strip().splitlines()[-1]})",
                "slices of one size, all readable",
            ) from error
        digests = (hashlib.sha256(Path(file).read_bytes()).digest() for file in series.files)
        return LoadedVolume(image=image, sha256=hashlib.sha256(b"".join(digests)).hexdigest(), notes=notes)

    def _ct_series(self) -> tuple[_Series, tuple[str, ...]]:
        found: list[_Series] = []
        modalities: set[str] = set()
        for folder in self._folders:
            for uid in sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder)):
                files = tuple(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid))
                modality = _modality(files[0])
                modalities.add(modality)
                if modality == "CT":
                    found.append(_Series(files=files, uid=uid))
        if not found:
            raise self._problem(
                f"no CT series among {len(self._folders)} folders with DICOM files"
                f" (modalities: {', '.join(sorted(modalities)) or 'none'})",
                "one series of modality CT",
            )
        found.sort(key=lambda series: (-len(series.files), series.uid))
        if len(found) == 1:
            return found[0], ()
        return found[0], (f"{self.name}: {len(found)} CT series; took the one of {len(found[0].files)} slices",)

    def _stack_geometry(self, series: _Series) -> Geometry:
        headers = [self._slice_header(file) for file in series.files]
        if len(headers) < 2:
            raise self._problem("a CT series of one slice", "a CT series of at least 2 slices")
        first = headers[0]
        normal = np.asarray(first.direction).reshape(3, 3)[:, 2]
        heights = np.array([np.dot(header.origin_mm, normal) for header in headers])
        gaps = np.diff(heights)
        distance = float(np.median(gaps))
        bad = np.flatnonzero(~(np.abs(gaps - distance) <= _GAP_TOLERANCE * abs(distance)))
        if bad.size or distance <= 0:
            at = int(bad[0]) if bad.size else 0
            raise self._problem(
                f"slices {heights[at]:.2f} mm and {heights[at + 1]:.2f} mm, {gaps[at]:.2f} mm apart,"
                f" next to each other among {len(headers)} slices",
                f"one slice every {abs(distance):.2f} mm",
            )
        if any(header.size[:2] != first.size[:2] for header in headers):
            raise self._problem("slices of different sizes in one series", "slices of one size")
        if not all(_are_parallel(header, first) for header in headers):
            raise self._problem(
                "slices that are turned to each other or have other voxels", "parallel slices with voxels of one size"
            )
        # Of a tilted gantry each slice is moved by as much against the one before.
        steps = np.diff([header.origin_mm for header in headers], axis=0)
        sideways = steps - np.outer(gaps, normal)
        beside = np.abs(sideways - np.median(sideways, axis=0)).max(axis=1)
        if (beside > _GAP_TOLERANCE * distance).any():
            at = int(beside.argmax())
            raise self._problem(
                f"a slice at {heights[at + 1]:.2f} mm that lies {beside[at]:.2f} mm beside the one before",
                "slices on one line",
            )
        # As ITK's series reader has it: the mean distance along the stack.
        mean_mm = float(heights[-1] - heights[0]) / (len(headers) - 1)
        return Geometry(
            size=(*first.size[:2], len(headers)),
            spacing_mm=(*first.spacing_mm[:2], mean_mm),
            origin_mm=first.origin_mm,
            direction=first.direction,
        )

    def _slice_header(self, file: str) -> Geometry:
        reader = _header_reader(file)
        if reader is None or reader.GetDimension() != 3:
            raise self._problem(f"a slice that cannot be read, {Path(file).name}", "readable slices")
        return Geometry(
            size=tuple(reader.GetSize()),
            spacing_mm=tuple(reader.GetSpacing()),
            origin_mm=tuple(reader.GetOrigin()),
            direction=tuple(reader.GetDirection()),
        )

    def _problem(self, found: str, expected: str) -> SourceError:
        return SourceError.of(
            self.name, found=found, expected=expected, advice="Download the CT of this patient again."
        )


def _are_parallel(slice_: Geometry, other: Geometry) -> bool:
    return bool(
        np.allclose(slice_.direction, other.direction, atol=_ROUNDING)
        and np.allclose(slice_.spacing_mm[:2], other.spacing_mm[:2], rtol=_ROUNDING)
    )


def _header_reader(file: str) -> sitk.ImageFileReader | None:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(file)
    try:
        reader.ReadImageInformation()
    except RuntimeError:  # structure sets and damaged files: not images
        return None
    return reader


def _modality(file: str) -> str:
    reader = _header_reader(file)
    if reader is None or not reader.HasMetaDataKey(_MODALITY):
        return "not an image"
    return str(reader.GetMetaData(_MODALITY)).strip()
