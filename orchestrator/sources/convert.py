"""From a data folder to cases: the image of a case, and each of its label sets."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import SimpleITK as sitk

from orchestrator.benchmark.definition import Case, Dataset
from orchestrator.images.geometry import check_same_geometry, geometry_of
from orchestrator.images.image_file import digest_of
from orchestrator.images.problem import SourceError, reading
from orchestrator.images.source_file import SourceFile
from orchestrator.images.volume import Volume
from orchestrator.sources.case import ConvertedImage, ConvertedLabels
from orchestrator.sources.intensity import to_stored_type
from orchestrator.sources.labels import map_labels
from orchestrator.sources.layout import Layout
from orchestrator.sources.registry import open_layout
from orchestrator.sources.stamps import FileStamp, SourceStamp, stamp_files


def convert_image(case: Case, *, dataset: Dataset, label_sets: Sequence[str], downloads: Path) -> ConvertedImage:
    """Turn the image of one case of a download into the form that trainings use.

    A public download is brought to LPS orientation by permuting and flipping axes only.

    Parameters
    ----------
    case
        The case; belongs to `dataset`.
    dataset
        Says which download holds it.
    label_sets
        Names of the label sets that are wanted of the case: where it ships several images, they choose.
    downloads
        Data folder with one folder for each download.

    Raises
    ------
    DataError
        At the first thing that is missing or wrong; the message names the file, what was found and what was expected.
    """
    layout = open_layout(dataset, downloads=downloads)
    volume = layout.find_image(case.name, label_set=label_sets[0])
    return image_from(volume, case=case, layout=layout, downloads=downloads)


def convert_labels(
    case: Case, *, dataset: Dataset, label_set: str, image: sitk.Image, downloads: Path
) -> ConvertedLabels:
    """Turn one mask of a case into a label map in the geometry of `image`, which `convert_image` has made of the case.

    Compared in size, spacing, origin and direction; labels are mapped and the sides of paired structures verified.
    Further parameters and errors as `convert_image`.
    """
    layout = open_layout(dataset, downloads=downloads)
    layout.rule(label_set)
    mask = layout.find_labels(case.name, label_set=label_set)
    return labels_from(
        mask,
        case=case,
        label_set=label_set,
        beside=Beside(image=image, name=_name_of_image(case, label_set=label_set, layout=layout)),
        layout=layout,
        downloads=downloads,
    )


def _name_of_image(case: Case, *, label_set: str, layout: Layout) -> str:
    """Return the name of the image for messages; that of the case if its file is no longer there."""
    try:
        return layout.find_image(case.name, label_set=label_set).name
    except SourceError:
        return case.id


def stamp_image_now(
    case: Case, *, dataset: Dataset, label_sets: Sequence[str], downloads: Path
) -> tuple[FileStamp, ...]:
    """Return how the files look now that `convert_image` would read: sizes and times, nothing is read.

    Raises SourceError if they cannot be found any more. `changed_files` compares with a stamp of before.
    """
    volume = open_layout(dataset, downloads=downloads).find_image(case.name, label_set=label_sets[0])
    return stamp_files(volume.paths(), downloads=downloads)


def stamp_labels_now(case: Case, *, dataset: Dataset, label_set: str, downloads: Path) -> tuple[FileStamp, ...]:
    """Return how the file looks now that `convert_labels` would read, as `stamp_image_now`."""
    layout = open_layout(dataset, downloads=downloads)
    layout.rule(label_set)
    mask = layout.find_labels(case.name, label_set=label_set)
    return stamp_files(layout.label_files(mask), downloads=downloads)


def source_of_image_now(case: Case, *, dataset: Dataset, label_sets: Sequence[str], downloads: Path) -> SourceStamp:
    """Return what `convert_image` would make an image from now: as `stamp_image_now`, and the content is read.

    What cannot be read is another content than any, with an empty digest.
    """
    volume = open_layout(dataset, downloads=downloads).find_image(case.name, label_set=label_sets[0])
    files = stamp_files(volume.paths(), downloads=downloads)
    try:
        with reading(volume.name):
            sha256 = volume.read().sha256
    except SourceError:
        sha256 = ""
    return SourceStamp(files=files, sha256=sha256)


def source_of_labels_now(case: Case, *, dataset: Dataset, label_set: str, downloads: Path) -> SourceStamp:
    """Return what `convert_labels` would make a label map from now, as `source_of_image_now`."""
    layout = open_layout(dataset, downloads=downloads)
    layout.rule(label_set)
    mask = layout.find_labels(case.name, label_set=label_set)
    read_from = layout.label_files(mask)
    files = stamp_files(read_from, downloads=downloads)
    # What it holds is not looked at: a mask that cannot be read is another one, too.
    further = [SourceFile(path=path) for path in read_from if path != mask.path]
    return SourceStamp(files=files, sha256=digest_of([mask, *further]))


def image_from(volume: Volume, *, case: Case, layout: Layout, downloads: Path) -> ConvertedImage:
    """Convert the image of a case that was found."""
    files = stamp_files(volume.paths(), downloads=downloads)
    with reading(volume.name):
        loaded = volume.read()
        oriented = [layout.oriented(image) for image in (loaded.image, *loaded.further)]
    grid = geometry_of(oriented[0])
    layout.check_grid(grid, name=volume.name)
    images, notes = [], [*loaded.notes]
    warnings = [*layout.odd_grid(grid, name=volume.name)]
    for channel, stored in enumerate(oriented):
        voxels = layout.intensities(sitk.GetArrayViewFromImage(stored), channel=channel, name=volume.name)
        images.append(sitk.GetImageFromArray(to_stored_type(voxels.array)))
        images[-1].CopyInformation(stored)
        notes += voxels.notes
        warnings += voxels.warnings
    return ConvertedImage(
        case=case,
        image=images[0],
        further=tuple(images[1:]),
        original_grid=geometry_of(loaded.image),
        source=SourceStamp(files=files, sha256=loaded.sha256),
        notes=tuple(notes),
        warnings=tuple(warnings),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Beside:
    """The image beside which a mask lies."""

    image: sitk.Image
    name: str
    """For messages."""


def labels_from(
    mask: SourceFile,
    *,
    case: Case,
    label_set: str,
    beside: Beside | None,
    layout: Layout,
    downloads: Path,
) -> ConvertedLabels:
    """Convert a mask of a case that was found; without an image beside it, it keeps its own geometry."""
    with reading(mask):
        files = stamp_files(layout.label_files(mask), downloads=downloads)
        loaded = layout.read_labels(mask)
        oriented = layout.oriented(loaded.image)
    note = None
    if beside is not None:
        image_geometry = geometry_of(beside.image)
        note = check_same_geometry(image_geometry, geometry_of(oriented), image_name=beside.name, mask_name=str(mask))
    mapped = map_labels(sitk.GetArrayViewFromImage(oriented), rule=layout.rule(label_set), name=str(mask))
    label_map = sitk.GetImageFromArray(mapped.labels)
    label_map.CopyInformation(oriented if beside is None else beside.image)
    return ConvertedLabels(
        case=case,
        label_set=label_set,
        labels=label_map,
        labels_present=mapped.present,
        source=SourceStamp(files=files, sha256=loaded.sha256),
        notes=(*loaded.notes, *([note] if note else []), *mapped.notes),
        warnings=()
        if beside is None
        else layout.implausible(beside.image, label_map, label_set=label_set, name=str(mask)),
    )


def warnings_between(labels: Sequence[ConvertedLabels], *, layout: Layout) -> tuple[str, ...]:
    """Return what is hardly right about the label sets of a case beside each other."""
    return tuple(
        warning
        for part, other in permutations(labels, 2)
        for warning in layout.implausible_beside(
            part.labels, other.labels, label_sets=(part.label_set, other.label_set), name=part.case.id
        )
    )
