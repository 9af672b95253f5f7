"""Data sets in nnU-Net's raw layout: `DatasetNNN_Name` with imagesTr, labelsTr, imagesTs, labelsTs and dataset.json.

Images are taken as nnU-Net reads them, their axes in the order of the files: what is trained here must see what nnU-Net
itself would show to the model.
"""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from orchestrator.benchmark.definition import NNUNET_RAW, Dataset
from orchestrator.configuration import listing
from orchestrator.errors import ConfigError
from orchestrator.images.geometry import Geometry, axis_order, check_same_geometry, placed
from orchestrator.images.image_file import ImageFile, LoadedFile, digest_of
from orchestrator.images.label_maps import mask_values
from orchestrator.images.problem import SourceError
from orchestrator.images.source_file import SourceFile, leads_nowhere, what_is_instead
from orchestrator.images.volume import LoadedVolume, Volume
from orchestrator.sources.intensity import Intensities
from orchestrator.sources.labels import LabelRule
from orchestrator.sources.layout import Layout
from orchestrator.sources.nnunet_raw.files import FETCH, TESTING, TRAINING
from orchestrator.sources.nnunet_raw.survey import DESCRIPTION, find_folder, read_description
from orchestrator.sources.plausibility import VOXEL_MM
from orchestrator.storage.filesystem import open_storage

_RAS = np.diag([-1.0, -1.0, 1.0])
_AIR_HU = -200.0
"""Below it, a CT in HU has the air around the body, or in it."""
_LEAST_HU = -10_000.0


class RawVolume(Volume):
    """The channels of a case."""

    def __init__(self, files: Sequence[ImageFile], *, channels: Sequence[str], root: Path) -> None:
        self.name = str(files[0].path)
        self._files = files
        self._channels = channels
        self._root = root

    def paths(self) -> tuple[Path, ...]:
        """Return every file of it."""
        return tuple(path for file in self._files for path in _inside(file.files(), root=self._root))

    def read_geometry(self) -> Geometry:
        """Read headers only, of all channels."""
        headers = [file.header() for file in self._files]
        self._check_number(sum(header.num_channels for header in headers))
        for file, header in zip(self._files[1:], headers[1:], strict=True):
            self._check_grid(headers[0].geometry, header.geometry, file=file)
        return headers[0].geometry

    def read(self) -> LoadedVolume:
        """Read all channels."""
        geometry = self.read_geometry()
        loaded = [file.read() for file in self._files]
        # All with the very grid of the first: headers may differ by rounding.
        first, *further = [placed(image, geometry) for file in loaded for image in file.channels]
        return LoadedVolume(
            image=first,
            further=tuple(further),
            sha256=digest_of(SourceFile(path=path) for path in self.paths()),
            notes=tuple(note for file in loaded for note in file.notes),
        )

    def _check_number(self, number: int) -> None:
        if number != len(self._channels):
            raise SourceError.of(
                self.name,
                found=f"{number} channels in {len(self._files)} files",
                expected=f"{len(self._channels)}: {', '.join(self._channels)}",
                advice=f"Add the file of the missing one, or mend channel_names of {DESCRIPTION}.",
            )

    def _check_grid(self, first: Geometry, other: Geometry, *, file: ImageFile) -> None:
        try:
            check_same_geometry(first, other, image_name=self.name, mask_name=str(file.path))
        except SourceError as error:
            raise SourceError.of(
                file.path,
                found=error.problem.found.replace("a mask of", "a channel of").replace(" in LPS", ""),
                expected=error.problem.expected.replace("its image", "the first channel"),
                advice="Bring all channels of a case onto one grid.",
            ) from error


class NnunetRaw(Layout):
    """One data set."""

    name: ClassVar = NNUNET_RAW
    origin: ClassVar = "whoever made the data set"
    rules: ClassVar = {}

    def __init__(self, dataset: Dataset, *, downloads: Path) -> None:
        self.dataset = dataset
        self._root = downloads
        storage = open_storage(str(downloads))
        self.folder = downloads / find_folder(storage, dataset.folder)
        self._description = read_description(storage, self.folder.name)
        if len(self._description.channels) != len(dataset.channels):
            raise SourceError.of(
                self.folder / DESCRIPTION,
                found=f"{len(self._description.channels)} channels",
                expected=f"{len(dataset.channels)} as the study has: {', '.join(dataset.channels)}",
                advice="Mend the one that is wrong.",
            )

    @classmethod
    def may_concern(cls, path: PurePosixPath, *, case_name: str) -> bool:
        """Whether a file can be needed for a case; `concerned_keys` knows better."""
        del case_name
        return not path.name.startswith(".")

    def find_image(self, case_name: str, *, label_set: str) -> Volume:
        """Find the channels of a case."""
        del label_set
        files = [self._image_file(path) for path in self._images(case_name)]
        return RawVolume(files, channels=self.dataset.channels, root=self._root)

    def find_labels(self, case_name: str, *, label_set: str) -> SourceFile:
        """Find the label map of a case."""
        del label_set
        listed = self._description.listed
        if listed is not None and case_name in listed:
            candidates = [self.folder / listed[case_name].label]
        else:
            candidates = [
                self.folder / part / f"{case_name}{self._description.file_ending}" for part in (TRAINING[1], TESTING[1])
            ]
        for path in candidates:
            if path.is_file():
                return SourceFile(path=path)
        raise self._missing(candidates[0], what=f"the label map of case {case_name}")

    def rule(self, label_set: str) -> LabelRule:
        """Meaning of the values of its masks in a label set of the study."""
        if label_set not in self.dataset.label_values:
            raise ConfigError(
                f"{self.dataset.name}: no label set {label_set!r}; expected one of "
                f"{', '.join(self.dataset.label_values)}"
            )
        return LabelRule(values=self.dataset.label_values[label_set])

    def oriented(self, image: sitk.Image) -> sitk.Image:
        """Leave the axes as they are, unless the data set names a reader of nnU-Net's that turns them."""
        return sitk.DICOMOrient(image, "RAS") if self._description.is_turned else image

    def oriented_grid(self, grid: Geometry) -> Geometry:
        """Return a grid with its axes as `oriented` has them."""
        return axis_order(grid, _RAS).geometry(grid) if self._description.is_turned else grid

    def odd_grid(self, geometry: Geometry, *, name: str) -> tuple[str, ...]:
        """Say of a CT if its voxels are too small or too large for a patient: other animals are scanned as well."""
        least, most = VOXEL_MM
        is_ct = "ct" in map(str.casefold, self.dataset.channels) and min(geometry.size) > 1
        if not is_ct or all(least <= step <= most for step in geometry.spacing_mm):
            return ()
        steps = " x ".join(f"{step:.4g}" for step in geometry.spacing_mm)
        return (f"{name}: a CT with voxels of {steps} mm; those of patients have edges of {least:g} to {most:g} mm",)

    def intensities(self, voxels: NDArray[np.generic], *, channel: int, name: str) -> Intensities:
        """Take intensities as they are."""
        channel_name = self.dataset.channels[channel]
        lowest, highest = float(voxels.min()), float(voxels.max())
        words = f"{name}: channel {channel} ({channel_name}) has intensities from {lowest:g} to {highest:g}"
        warnings = []
        if lowest == highest:
            warnings.append(f"{words}: it is empty")
        elif channel_name.casefold() == "ct" and not _LEAST_HU < lowest < _AIR_HU:
            warnings.append(f"{words}: a CT in Hounsfield units has air near -1000, by which nnU-Net normalises it")
        return Intensities(array=voxels, warnings=tuple(warnings))

    def read_labels(self, mask: SourceFile) -> LoadedVolume:
        """Read a mask."""
        file = self._label_file(mask)
        loaded = file.read(values=mask_values)
        self._check_plain(loaded, mask)
        return LoadedVolume(image=loaded.channels[0], sha256=loaded.sha256, notes=loaded.notes)

    def read_labels_grid(self, mask: SourceFile) -> Geometry:
        """Read the header of a mask."""
        return self._label_file(mask).header().geometry

    def label_files(self, mask: SourceFile) -> tuple[Path, ...]:
        """Return all files that a mask is read from."""
        return _inside(self._label_file(mask).files(), root=self._root)

    def _images(self, case_name: str) -> list[Path]:
        listed = self._description.listed
        if listed is not None and case_name in listed:
            paths = [self.folder / name for name in listed[case_name].images]
            if missing := next((path for path in paths if not path.is_file()), None):
                raise self._missing(missing, what=f"an image of case {case_name}")
            return paths
        for part in (TRAINING[0], TESTING[0]):
            numbered = [
                self.folder / part / f"{case_name}_{number:04}{self._description.file_ending}"
                for number in range(len(self.dataset.channels))
            ]
            if found := [path for path in numbered if path.is_file()]:
                # Of pictures, one may hold all colours; how many there are is seen when they are read.
                if found != numbered and not self._image_file(found[0]).is_picture:
                    missing = next(path for path in numbered if path not in found)
                    raise self._missing(missing, what=f"a channel of case {case_name}")
                return found
        raise self._missing(
            self.folder / TRAINING[0] / f"{case_name}_0000{self._description.file_ending}",
            what=f"the image of case {case_name}",
        )

    def _image_file(self, path: Path) -> ImageFile:
        # Beside `case_0000.tif` it is `case.json`.
        stem = path.name[: -len(self._description.file_ending)]
        return self._file(path, spacing_files=(path.with_name(f"{stem[:-5]}.json"),))

    def _label_file(self, mask: SourceFile) -> ImageFile:
        stem = mask.name[: -len(self._description.file_ending)]
        own = mask.path.with_name(f"{stem}.json")
        # nnU-Net takes the spacing of the image whatever a mask says.
        images = mask.path.parent.with_name(mask.path.parent.name.replace("labels", "images"))
        return self._file(mask.path, spacing_files=(own, images / f"{stem}.json"))

    def _file(self, path: Path, *, spacing_files: tuple[Path, ...]) -> ImageFile:
        return ImageFile(path=path, must_be_stack=self._description.must_be_stack, spacing_files=spacing_files)

    def _check_plain(self, loaded: LoadedFile, mask: SourceFile) -> None:
        if len(loaded.channels) > 1:
            raise SourceError.of(
                mask,
                found=f"a picture in colours ({len(loaded.channels)} values a pixel)",
                expected="one value a pixel, which is its label",
                advice="Write it in grey, each label as its number.",
            )

    def _missing(self, path: Path, *, what: str) -> SourceError:
        there = sorted(other.name for other in path.parent.iterdir()) if path.parent.is_dir() else []
        near = [name for name in there if name.startswith(path.name[:4])] or there
        return SourceError.of(
            path,
            found=what_is_instead(path) if path.is_symlink() else f"no such file beside {listing(near)}",
            expected=what,
            advice=FETCH if leads_nowhere(path) else "Add it, or leave out the case.",
        )


def _inside(files: Sequence[Path], *, root: Path) -> tuple[Path, ...]:
    """Return files that are read; raises SourceError if a header names one outside of the data folder."""
    for path in files:
        if not path.is_relative_to(root) or ".." in path.relative_to(root).parts:
            raise SourceError.of(
                files[0],
                found=f"a header whose voxels are in {path}",
                expected="a file beside it",
                advice="Put it there.",
            )
    return tuple(files)
