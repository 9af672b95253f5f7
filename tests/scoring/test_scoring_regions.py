"""Claims about scores of structures that overlap, of voxels that nobody has annotated, and of 2D data."""

import csv
import math

import numpy as np
import pytest
import SimpleITK as sitk

from orchestrator.cli.evaluate import main
from orchestrator.errors import ConfigError
from orchestrator.results.records import ScoreStatus
from orchestrator.scoring.score import NoPrediction, score_files
from orchestrator.scoring.structures import ScoredStructure, score_structures

WHOLE = ScoredStructure(name="whole", reference_labels=(1, 2), prediction_labels=(1, 2), tolerance_mm=1.0)
CORE = ScoredStructure(name="core", reference_labels=(2,), prediction_labels=(2,), tolerance_mm=1.0)
ALL_METRICS = ("dsc", "nsd", "hd95", "assd")


def write(path, labels, *, spacing_xyz=(1.0, 1.0, 1.0)):
    volume = sitk.GetImageFromArray(labels)
    volume.SetSpacing(spacing_xyz)
    sitk.WriteImage(volume, str(path))
    return path


def boxes(*filled):
    """A label map of 12 x 12 x 12 voxels: pairs of a label and the range that it has along every axis."""
    labels = np.zeros((12, 12, 12), np.uint8)
    for label, (first, end) in filled:
        labels[first:end, first:end, first:end] = label
    return labels


def score(tmp_path, reference, prediction, *, structures=(WHOLE, CORE), **options):
    paths = write(tmp_path / "r.nii.gz", reference), write(tmp_path / "p.nii.gz", prediction)
    (scores,) = score_files(paths[0], [paths[1]], structures=structures, metrics=ALL_METRICS, **options)
    return scores


def test_a_region_is_the_union_of_its_labels_in_either_map(tmp_path):
    """Cubes: the whole has 6^3 = 216 voxels in both, the core 4^3 = 64 of them in one and 2^3 = 8 in the other."""
    reference, prediction = boxes((1, (2, 8)), (2, (3, 7))), boxes((1, (2, 8)), (2, (4, 6)))
    whole, core = score(tmp_path, reference, prediction)
    assert (whole.structure, whole.dsc, whole.nsd, whole.hd95_mm, whole.assd_mm) == ("whole", 1.0, 1.0, 0.0, 0.0)
    assert (whole.num_reference_voxels, whole.num_predicted_voxels) == (216, 216)
    assert (core.num_reference_voxels, core.num_predicted_voxels) == (64, 8)
    assert core.dsc == 2 * 8 / (64 + 8)
    # Faces of the cubes are 1 mm apart; only towards edges and corners it is further, up to sqrt(3).
    assert 1.0 <= core.hd95_mm <= math.sqrt(3)
    assert 1.0 <= core.assd_mm <= math.sqrt(3)


def test_labels_of_a_region_may_differ_between_the_maps(tmp_path):
    other = ScoredStructure(name="whole", reference_labels=(1, 2), prediction_labels=(7,), tolerance_mm=1.0)
    reference, prediction = boxes((1, (2, 8)), (2, (3, 7))), boxes((7, (2, 8)))
    (found,) = score(tmp_path, reference, prediction, structures=[other])
    assert (found.dsc, found.num_reference_voxels, found.num_predicted_voxels) == (1.0, 216, 216)


def test_one_label_may_be_scored_with_two_tolerances(tmp_path):
    wide = ScoredStructure(name="wide", reference_labels=(2,), prediction_labels=(2,), tolerance_mm=2.0)
    narrow = ScoredStructure(name="narrow", reference_labels=(2,), prediction_labels=(2,), tolerance_mm=0.5)
    reference, prediction = boxes((2, (3, 9))), boxes((2, (4, 8)))
    first, second = score(tmp_path, reference, prediction, structures=[wide, narrow])
    assert (first.structure, first.nsd, second.structure, second.nsd) == ("wide", 1.0, "narrow", 0.0)
    assert first.dsc == second.dsc == 2 * 64 / (216 + 64)


def test_structures_apart_and_together_score_as_each_alone():
    """Half of the structures overlap: a call for those with labels of their own, and one for each other."""
    random = np.random.default_rng(0)
    maps = [np.kron(random.integers(0, 5, (4, 4, 4)), np.ones((3, 3, 3), np.int64)).astype(np.uint16) for _ in "ab"]
    structures = [
        ScoredStructure(
            name="-".join(map(str, labels)), reference_labels=labels, prediction_labels=labels, tolerance_mm=1
        )
        for labels in ((3,), (1, 2), (4,), (2,))
    ]
    options = {"spacing_mm": (2.0, 1.0, 1.0), "metrics": ALL_METRICS}
    together = score_structures(*maps, structures=structures, **options)
    for structure, found in zip(structures, together, strict=True):
        masks = [np.isin(one, structure.reference_labels).astype(np.uint8) for one in maps]
        one = ScoredStructure(name="x", reference_labels=(1,), prediction_labels=(1,), tolerance_mm=1)
        (alone,) = score_structures(*masks, structures=[one], **options)
        for field in ("dsc", "nsd", "hd95_mm", "assd_mm", "num_reference_voxels", "num_predicted_voxels"):
            assert getattr(found, field) == getattr(alone, field), (structure.name, field)


def test_what_nobody_has_annotated_counts_nowhere(tmp_path):
    """Slices 6 to 11 are ignored: of a cube of 2..10 there are 4 slices of 64 voxels left."""
    reference, prediction = boxes((1, (2, 10))), boxes((1, (2, 10)))
    reference[6:] = 3
    (found,) = score(tmp_path, reference, prediction, structures=[WHOLE], ignored_label=3)
    assert (found.dsc, found.nsd, found.hd95_mm, found.assd_mm) == (1.0, 1.0, 0.0, 0.0)
    assert (found.num_reference_voxels, found.num_predicted_voxels) == (4 * 64, 4 * 64)
    (counted,) = score(tmp_path, reference, prediction, structures=[WHOLE])
    assert counted.num_predicted_voxels == 8 * 64
    assert counted.dsc == 2 * 256 / (256 + 512)


def test_a_structure_that_is_predicted_only_where_nobody_has_annotated_is_missing_in_both_maps(tmp_path):
    reference, prediction = boxes(), boxes((1, (7, 9)))
    reference[6:] = 3
    (found,) = score(tmp_path, reference, prediction, structures=[WHOLE], ignored_label=3)
    assert found.status is ScoreStatus.BOTH_EMPTY


def test_a_label_that_is_ignored_cannot_be_scored(tmp_path):
    with pytest.raises(ConfigError, match="label 2 is ignored and scored"):
        score(tmp_path, boxes(), boxes(), ignored_label=2)


def test_the_voxels_of_a_region_are_counted_where_there_is_no_prediction(tmp_path):
    reference = write(tmp_path / "r.nii.gz", boxes((1, (2, 8)), (2, (3, 7))))
    ((whole, core),) = score_files(reference, [NoPrediction(reason="cut short")], structures=[WHOLE, CORE])
    assert (whole.num_reference_voxels, core.num_reference_voxels) == (216, 64)


FLAT = {
    "one slice": ((1, 12, 12), 2),
    "a volume": ((2, 12, 12), 3),
}
"""Shape of a label map, and the dimension in which it is scored if nothing is said."""


@pytest.mark.parametrize("case", FLAT)
def test_data_of_one_slice_are_scored_by_contours_unless_it_is_said_otherwise(case, tmp_path):
    """Squares of side 6 and 4 with one middle: their contours are 1 mm apart but for the corners."""
    shape, dimension = FLAT[case]
    reference, prediction = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    reference[:, 3:9, 3:9] = prediction[:, 4:8, 4:8] = 1
    by_itself = score(tmp_path, reference, prediction, structures=[WHOLE], dimension=None)
    told = score(tmp_path, reference, prediction, structures=[WHOLE], dimension=dimension)
    assert by_itself == told
    if dimension == 2:
        assert by_itself[0].message == ""
        assert by_itself[0].hd95_mm <= math.sqrt(2)
        assert by_itself[0].dsc == 2 * 16 / (36 + 16)


def test_the_command_scores_regions_and_leaves_out_what_nobody_has_annotated(tmp_path, capsys):
    for folder in ("reference", "first"):
        (tmp_path / folder).mkdir()
    reference, prediction = boxes((1, (2, 8)), (2, (3, 7))), boxes((1, (2, 8)), (2, (4, 6)))
    reference[10:], prediction[10:] = 255, 2
    write(tmp_path / "reference" / "a.nii.gz", reference)
    write(tmp_path / "first" / "a.nii.gz", prediction)
    command = ["--reference", str(tmp_path / "reference"), "--prediction", str(tmp_path / "first"), "--workers", "1"]
    command += ["--label", "2+1=1.0", "--label", "2=1.0", "--ignored-label", "255"]
    assert main([*command, "--output", str(tmp_path / "scores.csv")]) == 0
    with (tmp_path / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["label"], float(row["dsc"]), row["num_predicted_voxels"]) for row in rows] == [
        ("1+2", 1.0, "216"),
        ("2", 2 * 8 / (64 + 8), "8"),
    ]
    assert "label 1+2: 1 scored" in capsys.readouterr().out
    assert main([*command, "--label", "1+2=3.0"]) == 2
    assert "each label once" in capsys.readouterr().err
