"""The worst, a median and the best case of each structure: slices in three planes with both contours.

Which cases these are is a rule and no choice: of all cases of a structure that have a DSC, sorted by it, the first, the
middle and the last. It is 0 where one map is empty, so a case in which nothing was found is among the worst. Slices
go through the middle of what is labelled in either map.
"""

import base64
import io
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from orchestrator.benchmark.definition import Case, Training
from orchestrator.benchmark.study import Study
from orchestrator.errors import OrchestratorError
from orchestrator.images.geometry import order_onto
from orchestrator.images.label_maps import open_volume, read_label_map
from orchestrator.images.source_file import SourceFile
from orchestrator.images.stored_voxels import ReadBuffer
from orchestrator.images.volume import read_nifti
from orchestrator.report.figures import COLOURS, new_figure
from orchestrator.report.reported import Reported
from orchestrator.results.records import ONE_EMPTY
from orchestrator.storage import run_paths
from orchestrator.storage.copies import keeping_copies
from orchestrator.storage.interface import Storage
from orchestrator.storage.json_values import JsonMapping

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

logger = logging.getLogger(__name__)

MOST_STRUCTURES = 8
"""Of which there are pictures: whole-body label maps have a hundred."""
_ORDER = ("training_id", "evaluation_set", "dataset", "case")
"""Of cases with the same DSC."""
_BAR_MM = 50.0
_SIDES = (("L", "R"), ("P", "A"), ("S", "I"))
"""Of the patient: where x, y and z of ITK grow, and the other way."""
_PERCENTILES = (0.5, 99.5)
"""Of the intensities of the slices that are black and white."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One case."""

    png_base64: str
    caption: str


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Volumes:
    """A case on the grid of its image, arrays (z, y, x)."""

    image: NDArray[np.generic]
    reference: NDArray[np.bool_]
    prediction: NDArray[np.bool_]
    spacing_mm: tuple[float, float, float]
    sides: tuple[str, ...]
    """Of z, y and x: the side of the patient towards which each grows; empty for a single slice."""


def pictures(rows: "pd.DataFrame", *, reported: Reported, storage: Storage) -> Iterator[Picture]:
    """Yield pictures of the chosen cases; those whose files are not there any more are left out."""
    by_id = {training.id: training for training in reported.trainings}
    scored = rows[rows["dsc"].notna()]
    structures = list(dict.fromkeys(scored["structure"]))[:MOST_STRUCTURES]
    for structure in structures:
        own = scored[scored["structure"] == structure].sort_values(["dsc", "status", *_ORDER])
        chosen = {0: "worst", len(own) // 2: "median", len(own) - 1: "best"}
        for place, name in chosen.items():
            row = own.iloc[place].to_dict()
            try:
                volumes = _volumes(row, study=reported.study, training=by_id[row["training_id"]], storage=storage)
            except (OrchestratorError, OSError) as error:
                logger.info("no picture of %s of %s: %s", row["case"], row["training_id"], error)
                continue
            is_ct = reported.study.dataset(row["dataset"]).channels[0] == "CT"
            yield _picture(volumes, name=name, row=row, unit=" HU" if is_ct else "")


@keeping_copies()
def _volumes(row: JsonMapping, *, study: Study, training: Training, storage: Storage) -> _Volumes:
    case = Case(dataset=row["dataset"], name=row["case"])
    (evaluation,) = (found for found in training.evaluation_sets if found.name == row["evaluation_set"])
    image = read_nifti(SourceFile(path=storage.fetch(run_paths.case_image(case))), is_volume=False).image
    truth = read_label_map(storage.fetch(run_paths.case_labels(case, label_set=evaluation.label_set)))
    prediction_path: Path = storage.fetch(run_paths.prediction(training.id, case))
    with open_volume(prediction_path) as opened:
        order = order_onto(truth.geometry, opened.header.geometry)
        guess = order.array(opened.labels(ReadBuffer()).array)

    label_sets = [study.label_set(name) for name in (evaluation.label_set, training.label_set)]
    of_reference, of_prediction = (found.structure(row["structure"]).labels for found in label_sets)
    return _Volumes(
        image=sitk.GetArrayFromImage(image).reshape(truth.array.shape),
        reference=np.isin(truth.array, of_reference),
        prediction=np.isin(guess, of_prediction),
        spacing_mm=truth.spacing_mm,
        sides=sides_of(image.GetDirection()) if image.GetDimension() == 3 and min(truth.array.shape) > 1 else (),
    )


def sides_of(direction: Sequence[float]) -> tuple[str, ...]:
    """Return towards which side of the patient z, y and x grow, of a direction as ITK has it (LPS)."""
    columns = np.reshape(direction, (3, 3)).T[::-1]
    main = [int(np.argmax(np.abs(column))) for column in columns]
    return tuple(_SIDES[axis][0 if column[axis] > 0 else 1] for axis, column in zip(main, columns, strict=True))


def _orient(axis: "Axes", *, down: str, right: str) -> None:
    """Turn a slice as radiologists look at it (right and anterior on the left side, anterior or superior above)."""
    from matplotlib.patheffects import withStroke

    opposite = {one: other for pair in _SIDES for one, other in (pair, pair[::-1])}
    if down in "SA":
        axis.invert_yaxis()
        down = opposite[down]
    if right in "RA":
        axis.invert_xaxis()
        right = opposite[right]
    for text, x, y in ((opposite[right], 0.03, 0.5), (right, 0.97, 0.5), (opposite[down], 0.5, 0.95)):
        # With a dark line around them: bones are white, too.
        outline = [withStroke(linewidth=1.5, foreground="black")]
        axis.text(
            x, y, text, transform=axis.transAxes, color="white", fontsize=7, ha="center", va="center",
            path_effects=outline,
        )  # fmt: skip


def _picture(volumes: _Volumes, *, name: str, row: JsonMapping, unit: str) -> Picture:
    places = [int(np.median(found)) for found in np.nonzero(volumes.reference | volumes.prediction)]
    planes = [axis for axis in (0, 1, 2) if min(np.delete(volumes.image.shape, axis)) > 1]
    slices = [np.take(volumes.image, places[axis], axis) for axis in planes]
    low, high = np.percentile(np.concatenate([one.ravel() for one in slices]), _PERCENTILES)
    bar = ""
    with new_figure(height_in=2.6, columns=len(planes)) as (figure, axes):
        for axis, shown, image in zip(axes, planes, slices, strict=True):
            down_mm, right_mm = np.delete(volumes.spacing_mm, shown)
            axis.imshow(image, cmap="gray", vmin=low, vmax=high + 1e-6, aspect=down_mm / right_mm)
            for mask, colour in ((volumes.reference, COLOURS[2]), (volumes.prediction, COLOURS[1])):
                plane = np.take(mask, places[shown], shown)
                if plane.any() and min(plane.shape) > 1:
                    axis.contour(plane, levels=[0.5], colors=[colour], linewidths=0.9)
            share = _BAR_MM / right_mm / image.shape[1]
            if share < 0.95:
                bar = f"; bar {_BAR_MM:g} mm"
                axis.plot([0.04, 0.04 + share], [0.05, 0.05], color="white", linewidth=2, transform=axis.transAxes)
            if volumes.sides:
                down, right = np.delete(volumes.sides, shown)
                _orient(axis, down=str(down), right=str(right))
            axis.set_axis_off()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    empty = f", {row['status'].replace('_', ' ')}" if row["status"] in ONE_EMPTY else ""
    caption = (
        f"{row['structure']}, {name} DSC: {row['training_id']}, {row['dataset']}/{row['case']}, DSC {row['dsc']:.3f}, "
        f"NSD {row['nsd']:.3f} at {row['tolerance_mm']:g} mm{empty}. Reference green, "
        f"prediction orange; black is {low:.4g}{unit}, white {high:.4g}{unit}{bar}."
    )
    return Picture(png_base64=base64.b64encode(buffer.getvalue()).decode(), caption=caption)
