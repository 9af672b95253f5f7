"""The image of a case as a model wants it, whatever file it comes in.

What the model's own reader of nnU-Net reads is left to it, file by file, once it is known to be whole: ITK fills up
with zeros what a file lacks. Everything else that this project reads (DICOM series, MINC, NIfTI-2, NRRD with a header
of its own or packed by bzip2) goes through its own readers, and so does every image of a model whose cases were brought
to one order of axes before it was trained: such a model would take left for right in an image that is stored in another
order. So do files that measure in another unit than mm, for models of this project, which has converted such lengths
when they were trained. nnU-Net takes them for mm, as it did when models of others were trained.
"""

import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import SimpleITK as sitk

from orchestrator.errors import DataError, OrchestratorError
from orchestrator.images.dicom.volume import DicomVolume
from orchestrator.images.formats.gipl import check_gipl
from orchestrator.images.geometry import Geometry, geometry_of, grid_difference, lps_order, reordered
from orchestrator.images.image_file import FileHeader, ImageFile, digest_of
from orchestrator.images.label_maps import SUFFIXES, open_volume
from orchestrator.images.pictures import PICTURE_SUFFIXES
from orchestrator.images.source_file import SourceFile
from orchestrator.inference.cases import InputCase, dicom_folders
from orchestrator.storage.json_values import JsonMapping

if TYPE_CHECKING:
    from orchestrator.training.nnunet.planning import Plan
    from orchestrator.training.nnunet.prediction_memory import StoredImage

LPS = "LPS"
"""Order of axes to the left, the back and the head: that of the cases of a run, but for nnU-Net's own raw data sets."""
_NIFTI = ".nii.gz"
_ITK_ENDINGS = (_NIFTI, ".nii", ".nrrd", ".mha", ".mhd", ".gipl")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFiles:
    """Which files a model's own reader reads, and in which order of axes its images lie."""

    own_endings: tuple[str, ...]
    ending: str
    """Of the label maps that it writes."""
    orientation: str | None = None
    """`LPS`, or None where axes are taken as a file has them."""
    is_of_project: bool = False
    """Whether lengths were taken in the unit that a header says when it was trained."""

    @classmethod
    def of(cls, reader: type, *, ending: str, orientation: str | None, is_of_project: bool) -> "ModelFiles":
        """Return those of a class of nnU-Net that reads and writes."""
        endings = tuple(map(str, getattr(reader, "supported_file_endings", ())))
        if any(base.__name__ == "SimpleITKIO" for base in reader.__mro__):
            endings = tuple(dict.fromkeys([*_ITK_ENDINGS, *endings]))
        return cls(own_endings=endings, ending=ending, orientation=orientation, is_of_project=is_of_project)

    @property
    def endings(self) -> tuple[str, ...]:
        """Of all files that can be predicted; longer ones first, where one ends like another."""
        further = SUFFIXES if _NIFTI in self.own_endings else ()
        own = self.own_endings if self.orientation is None else ()
        return tuple(sorted(dict.fromkeys([*own, *further]), key=len, reverse=True))

    def reads(self, case: InputCase) -> bool:
        """Whether the model's own reader takes the files of a case as they are."""
        return self.orientation is None and not case.is_dicom and all(map(self._reads_file, case.files))

    def _reads_file(self, file: Path) -> bool:
        if not file.name.lower().endswith(self.own_endings):
            return False
        if not file.name.lower().endswith(SUFFIXES):
            return True
        try:
            with open_volume(file, what="an image") as opened:
                return opened.is_read_by_itk and (opened.header.unit == "mm" or not self.is_of_project)
        except (DataError, OSError):
            # What is wrong with it is said when it is read.
            return True


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadableImage:
    """Files that nnU-Net's reader reads."""

    files: tuple[Path, ...]
    grid: Geometry | None = None
    """Where the label map belongs; None if that of the files, which nnU-Net's own writer keeps."""
    direction: tuple[float, ...] | None = None
    """Of its axes in the patient; None where nothing is known of them."""
    notes: tuple[str, ...] = ()
    """What was decided when the image was read."""


@contextmanager
def readable_image(case: InputCase, model: ModelFiles) -> Iterator[ReadableImage]:
    """Context with the image of a case as files that the model's reader reads; they may be temporary ones.

    Raises
    ------
    DataError
        If the image cannot be read, is none, or its channels do not lie on one grid.
    """
    if model.reads(case):
        headers = _headers(case.files)
        _check_whole(case.files)
        direction = next((header.geometry.direction for header in headers.values()), None)
        yield ReadableImage(files=case.files, direction=direction, notes=tuple(_units_for_mm(headers)))
        return
    if case.is_dicom and _NIFTI not in model.own_endings:
        raise DataError(
            f"{case.files[0]}: a DICOM series; expected a file that ends with {', '.join(model.own_endings)}, which "
            "the model was trained on"
        )
    with tempfile.TemporaryDirectory(prefix="image-") as folder:
        grid: Geometry | None = None
        files: list[Path] = []
        notes: list[str] = []
        for channel, source in enumerate(case.files):
            image, said = _read(case, source)
            found = geometry_of(image)
            grid = grid or found
            if difference := grid_difference(grid, found):
                raise DataError(f"{source}: not on the grid of {case.files[0].name}: {difference.words}")
            notes += said
            files.append(Path(folder) / f"image_{channel:04d}.nii")
            written = reordered(image, lps_order(found)) if model.orientation == LPS else image
            sitk.WriteImage(written, str(files[-1]))
            del image, written
        direction = None if grid is None else grid.direction
        yield ReadableImage(files=tuple(files), grid=grid, direction=direction, notes=tuple(notes))


def dicom_volume(case: InputCase) -> DicomVolume:
    """Return the series of a case, chosen by the same rule as that of a training case without masks."""
    (folder,) = case.files
    return DicomVolume(dicom_folders(folder), name=str(folder), masks=None, modalities=case.modalities)


def modalities_of(plan: "Plan") -> tuple[str, ...]:
    """Return of which modalities a DICOM series may be: of CT alone where a channel is named, or normalised, as CT."""
    names = {str(name).upper() for name in plan.channel_names.values()}
    is_of_ct = "CT" in names or "CTNormalization" in plan.configuration_manager.normalization_schemes
    return ("CT",) if is_of_ct else ("CT", "MR")


def header_of(case: InputCase, model: ModelFiles) -> "StoredImage | None":
    """Return what is known of an image before it is read; None if it cannot be, which reading it will tell."""
    from orchestrator.training.nnunet.prediction_memory import StoredImage, read_header

    try:
        if model.reads(case):
            _headers(case.files)
            headers = [read_header(file) for file in case.files]
            known = [header for header in headers if header is not None]
            if len(known) < len(headers):
                return None
            return replace(
                known[0],
                voxel_bytes=max(header.voxel_bytes for header in known),
                is_scaled=any(header.is_scaled for header in known),
                unscaled_bytes=max(header.unscaled_bytes for header in known),
            )
        geometry, voxel_bytes = _grid_and_bytes(case)
    except (OrchestratorError, OSError):
        return None
    if model.orientation == LPS:
        geometry = geometry.to_lps()
    x, y, z = geometry.size
    x_mm, y_mm, z_mm = geometry.spacing_mm
    return StoredImage(shape=(z, y, x), spacing_mm=(z_mm, y_mm, x_mm), voxel_bytes=voxel_bytes)


def _grid_and_bytes(case: InputCase) -> tuple[Geometry, int]:
    """Return the grid of an image, and the bytes of a voxel that is read, of its largest channel."""
    if case.is_dicom:
        stack = dicom_volume(case).stack()
        return stack.geometry, stack.value_bytes
    headers = [ImageFile(path=file).header() for file in case.files]
    return headers[0].geometry, max(header.value_bytes or 0 for header in headers)


def source_files(case: InputCase) -> tuple[Path, ...]:
    """Return the files of a case and those with their voxels or spacing; a DICOM series is a folder."""
    try:
        return case.files if case.is_dicom else tuple(_files_of(case))
    except DataError:
        return case.files


def image_digests(case: InputCase) -> dict[str, str]:
    """Return what tells an image from any other: a digest of its content, and one of the places and times of its files.

    Raises DataError if they cannot be read.
    """
    files = tuple(_files_of(case))
    return {"sha256": _content(files), "files_sha256": _places_and_times(files)}


def is_image_of(case: InputCase, known: JsonMapping) -> bool:
    """Whether an image is that of digests; files that were not touched since are not read again."""
    files = tuple(_files_of(case))
    return known.get("files_sha256") == _places_and_times(files) or known.get("sha256") == _content(files)


def _files_of(case: InputCase) -> Iterator[Path]:
    """Yield all files that an image is read from; other series and objects beside a DICOM series are none of them."""
    if case.is_dicom:
        yield from (one.file for one in dicom_volume(case).stack().slices)
        return
    for file in case.files:
        if file.name.lower().endswith((*SUFFIXES, *PICTURE_SUFFIXES)):
            yield from ImageFile(path=file, spacing_files=(file.with_name(f"{case.name}.json"),)).files()
        else:
            yield file


def _content(files: Iterable[Path]) -> str:
    return digest_of(SourceFile(path=file) for file in files)


def _places_and_times(files: Iterable[Path]) -> str:
    """Return the digest of where files are, how large, and when they were changed.

    Uncompressed images of two patients may have one size, and programs set the time of the content; nobody sets that
    of the last change (ctime).
    """
    found = ((str(file.resolve()), file.stat()) for file in files)
    told = [(place, status.st_size, status.st_mtime_ns, status.st_ctime_ns) for place, status in found]
    return hashlib.sha256(repr(told).encode()).hexdigest()


def _headers(files: Sequence[Path]) -> dict[Path, FileHeader]:
    """Return the headers of files that are ours to read.

    Raises DataError for a file whose header is damaged, or promises more than there is: ITK fills up with zeros.
    """
    return {file: ImageFile(path=file).header() for file in files if file.name.lower().endswith(SUFFIXES)}


def _units_for_mm(headers: Mapping[Path, FileHeader]) -> Iterator[str]:
    """Yield what is to be said of files whose lengths nnU-Net takes for mm; those of NIfTI are converted by ITK."""
    for file, header in headers.items():
        if header.unit != "mm" and not file.name.lower().endswith((_NIFTI, ".nii")):
            yield f"{file}: its header measures in {header.unit}, which nnU-Net takes for mm: so are its volumes"


def _check_whole(files: Sequence[Path]) -> None:
    """Raise DataError for a file that is cut short or damaged; `read_with_nnunet` compares the checksum of gzip."""
    for file in files:
        if file.name.lower().endswith(".gipl"):
            check_gipl(file)
        elif file.name.lower().endswith(SUFFIXES):
            with open_volume(file, what="an image") as opened:
                opened.check_whole()


def _read(case: InputCase, source: Path) -> tuple[sitk.Image, Sequence[str]]:
    if case.is_dicom:
        volume = dicom_volume(case).read()
        return volume.image, volume.notes
    loaded = ImageFile(path=source).read()
    if len(loaded.channels) != 1:
        raise DataError(f"{source}: {len(loaded.channels)} values a voxel; expected an image of one")
    return loaded.channels[0], loaded.notes
