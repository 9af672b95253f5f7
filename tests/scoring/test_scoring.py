"""Claims about scores of mask files."""

import gzip
import math
import struct
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from orchestrator.errors import ConfigError, DataError
from orchestrator.images import label_maps, stored_voxels
from orchestrator.images.label_maps import read_label_map
from orchestrator.results.records import ScoreStatus
from orchestrator.scoring.score import NoPrediction, score_files
from orchestrator.scoring.structures import ScoredStructure

LEFT = ScoredStructure(name="left_lung", reference_labels=(1,), prediction_labels=(1,), tolerance_mm=1.0)
INFECTION = ScoredStructure(name="infection", reference_labels=(3,), prediction_labels=(1,), tolerance_mm=3.0)


def write(path, array, *, spacing_xyz=(0.7, 0.8, 5.0), origin=(-120.0, 30.0, 0.0), direction=None):
    image = sitk.GetImageFromArray(np.asarray(array))
    image.SetSpacing(spacing_xyz)
    image.SetOrigin(origin)
    if direction is not None:
        image.SetDirection(direction)
    sitk.WriteImage(image, str(path))
    return path


def score_one(reference, prediction, *, structures):
    (scores,) = score_files(reference, [prediction], structures=structures)
    return scores


@pytest.fixture
def labels():
    array = np.zeros((4, 6, 8), np.uint8)
    array[1:3, 1:4, 1:4] = 1
    array[1:3, 1:4, 5:7] = 3
    return array


def test_mask_is_read_as_zyx_with_the_spacing_of_its_header(tmp_path, labels):
    mask = read_label_map(write(tmp_path / "a.nii.gz", labels))
    np.testing.assert_array_equal(mask.array, labels)
    # NIfTI keeps float32.
    assert mask.spacing_mm == tuple(float(np.float32(value)) for value in (5.0, 0.8, 0.7))
    assert mask.geometry.size == (8, 6, 4)
    assert mask.geometry.origin_mm == pytest.approx((-120.0, 30.0, 0.0))


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64])
def test_whole_numbers_of_any_type_are_labels(tmp_path, labels, dtype):
    np.testing.assert_array_equal(read_label_map(write(tmp_path / "a.nii.gz", labels.astype(dtype))).array, labels)


@pytest.mark.parametrize(
    ("value", "message"), [(0.5, "the value 0.5"), (-1.0, "from -1 to"), (1e300, "to 1e"), (math.nan, "nan")]
)
def test_what_is_not_a_label_is_refused_with_the_files_name(tmp_path, value, message):
    for name in ("a.nrrd", "a.nii.gz"):
        path = write(tmp_path / name, np.full((2, 2, 2), value, np.float64))
        with pytest.raises(DataError, match=rf"{name}.*(?i:{message})"):
            read_label_map(path)


def test_memory_that_is_short_says_nothing_about_a_file(tmp_path, labels, monkeypatch):
    paths = [tmp_path / name for name in ("a.nii", "a.nii.gz", "a.mha", "a.nrrd", "a.mnc")]
    for path in paths:
        sitk.WriteImage(sitk.GetImageFromArray(labels), str(path), useCompression=True)
    monkeypatch.setattr(stored_voxels, "available_bytes", lambda: 100)
    for path in paths:
        with pytest.raises(MemoryError, match=r"GiB of voxels, and 0\.0 GiB of memory left"):
            read_label_map(path)


def test_file_that_is_absent_cut_off_or_of_four_axes_is_refused_with_its_name(tmp_path, labels):
    with pytest.raises(DataError, match=r"none\.nii\.gz: found no such file"):
        read_label_map(tmp_path / "none.nii.gz")
    (tmp_path / "cut.nii.gz").write_bytes(write(tmp_path / "a.nii.gz", labels).read_bytes()[:60])
    with pytest.raises(DataError, match=r"cut\.nii\.gz: found a truncated or damaged"):
        read_label_map(tmp_path / "cut.nii.gz")
    sitk.WriteImage(sitk.Image([2, 2, 2, 2], sitk.sitkUInt8), str(tmp_path / "four.nii.gz"))
    with pytest.raises(DataError, match=r"four\.nii\.gz: .*4 axes"):
        read_label_map(tmp_path / "four.nii.gz")


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.mha", "a.mhd", "a.nrrd", "a.nhdr", "a.mnc"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_file_that_is_cut_short_anywhere_is_never_read_as_fewer_labels(tmp_path, name, dtype):
    """ITK alone fills what is missing with background in some formats, and a score would be of that."""
    labels = np.random.default_rng(0).integers(0, 3, (20, 30, 40)).astype(dtype)
    path = write(tmp_path / name, labels)
    voxels = max(tmp_path.iterdir(), key=lambda file: file.stat().st_size)
    whole = voxels.read_bytes()
    for share in (0.1, 0.5, 0.9, 0.999):
        voxels.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(DataError, match=rf"{name}: "):
            read_label_map(path)
    voxels.write_bytes(whole)
    np.testing.assert_array_equal(read_label_map(path).array, labels)


def test_damage_within_compressed_voxels_is_found(tmp_path, labels):
    path = write(tmp_path / "a.nii.gz", np.random.default_rng(0).integers(0, 3, (20, 30, 40)).astype(np.uint8))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.nii\.gz: found a truncated or damaged"):
        read_label_map(path)


@pytest.mark.parametrize("name", ["a.mha", "a.mhd", "a.nrrd", "a.nhdr"])
def test_damage_of_compressed_formats_whose_checksums_itk_skips_is_found(tmp_path, name):
    array = np.random.default_rng(0).integers(0, 3, (20, 30, 40)).astype(np.uint8)
    image = sitk.GetImageFromArray(array)
    sitk.WriteImage(image, str(tmp_path / name), useCompression=True)
    voxels = max(tmp_path.iterdir(), key=lambda file: file.stat().st_size)
    whole = voxels.read_bytes()
    assert len(whole) < array.size
    np.testing.assert_array_equal(read_label_map(tmp_path / name).array, array)
    for place in (len(whole) // 2, len(whole) - 2):
        voxels.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(DataError, match=rf"{name}: "):
            read_label_map(tmp_path / name)
    # Nothing but the stream itself says how long it is.
    without_size = b"\n".join(line for line in whole.split(b"\n") if not line.startswith(b"CompressedDataSize"))
    for number in (20, len(whole) // 2):
        voxels.write_bytes(without_size[:-number])
        with pytest.raises(DataError, match=rf"{name}: "):
            read_label_map(tmp_path / name)


def test_axes_that_are_not_at_right_angles_are_refused(tmp_path, labels):
    path = write(tmp_path / "a.nrrd", labels)
    text = path.read_bytes().replace(b"(0,0.80000000000000004,0)", b"(0.4,0.69282032302755,0)", 1)
    assert text != path.read_bytes()
    path.write_bytes(text)
    with pytest.raises(
        DataError, match=r"a\.nrrd: found sheared axes, at 60.00, 90.00 and 90.00 .*axes at right angles"
    ):
        read_label_map(path)


def test_a_nifti_header_with_two_spacings_is_refused(tmp_path, labels):
    path = tmp_path / "a.nii.gz"
    image = nibabel.Nifti1Image(labels.T, np.diag([0.7, 0.7, 5.0, 1.0]))
    image.header["pixdim"][1:4] = 1.0
    image.header.set_data_dtype(np.uint8)
    content = bytearray(image.to_bytes())
    struct.pack_into("<3f", content, 80, 1.0, 1.0, 1.0)
    path.write_bytes(gzip.compress(content))
    with pytest.raises(DataError, match=r"voxels of 1 x 1 x 1 mm .* by pixdim and of 0\.7 x 0\.7 x 5 mm by the sform"):
        read_label_map(path)


def test_a_file_of_the_other_byte_order_is_read_and_missed_voxels_are_found(tmp_path, labels):
    path = write(tmp_path / "a.nii", labels)
    little = nibabel.load(path)
    header = little.header.as_byteswapped(">")
    nibabel.save(nibabel.Nifti1Image(np.asarray(little.dataobj).astype(">f4"), little.affine, header), path)
    np.testing.assert_array_equal(read_label_map(path).array, labels)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DataError, match=r"a\.nii: found 540 bytes of the file; expected 544 bytes by its header"):
        read_label_map(path)


def test_equal_structures_score_1_although_their_labels_differ_between_the_maps(tmp_path, labels):
    reference = write(tmp_path / "r.nii.gz", labels)
    prediction = write(tmp_path / "p.nii.gz", (labels == 3).astype(np.uint8))
    (score,) = score_one(reference, prediction, structures=[INFECTION])
    assert (score.structure, score.status, score.dsc, score.nsd) == ("infection", ScoreStatus.SCORED, 1.0, 1.0)
    assert (score.num_reference_voxels, score.num_predicted_voxels) == (12, 12)
    assert score.spacing_mm == tuple(float(np.float32(value)) for value in (5.0, 0.8, 0.7))
    assert (score.tolerance_mm, score.message) == (3.0, "")


def test_spacing_of_the_file_decides_whether_a_shift_is_within_the_tolerance(tmp_path, labels):
    near, far = LEFT, ScoredStructure(name="far", reference_labels=(1,), prediction_labels=(1,), tolerance_mm=5.0)
    shifted = np.roll(labels, 1, axis=0)  # one slice, 5 mm
    reference, prediction = write(tmp_path / "r.nii.gz", labels), write(tmp_path / "p.nii.gz", shifted)
    assert score_one(reference, prediction, structures=[near])[0].nsd < 1.0
    assert score_one(reference, prediction, structures=[far])[0].nsd == 1.0
    assert score_one(reference, prediction, structures=[near])[0].dsc == 0.5


@pytest.mark.parametrize("degrees", [0, 5, 10, 30, 45])
@pytest.mark.parametrize("name", ["a.mha", "a.nrrd", "a.mnc"])
def test_a_surface_exactly_as_far_as_the_tolerance_is_within_it_however_the_axes_are_turned(tmp_path, name, degrees):
    labels = np.zeros((5, 6, 9), np.uint8)
    labels[1:4, 1:5, 1:5] = 1
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    direction = (cosine, -sine, 0.0, sine, cosine, 0.0, 0.0, 0.0, 1.0)
    (tmp_path / "r").mkdir()
    for spacing_xyz in ((0.7, 0.7, 2.0), (0.8, 0.8, 3.0), (1.1, 1.1, 1.0), (1.3, 1.3, 5.0)):
        reference = write(tmp_path / "r" / name, labels, spacing_xyz=spacing_xyz, direction=direction)
        shifted = np.roll(labels, 1, axis=2)
        prediction = write(tmp_path / name, shifted, spacing_xyz=spacing_xyz, direction=direction)
        (score,) = score_one(reference, prediction, structures=[replace(LEFT, tolerance_mm=spacing_xyz[0])])
        assert score.nsd == 1.0
        assert score.spacing_mm == spacing_xyz[::-1]


def test_status_tells_which_of_the_masks_is_empty(tmp_path, labels):
    full, empty = write(tmp_path / "full.nii.gz", labels), write(tmp_path / "empty.nii.gz", labels * 0)
    status = {(a.stem, b.stem): score_one(a, b, structures=[LEFT])[0] for a in (full, empty) for b in (full, empty)}
    names = {pair: score.status for pair, score in status.items()}
    assert names == {
        ("full.nii", "full.nii"): ScoreStatus.SCORED,
        ("full.nii", "empty.nii"): ScoreStatus.PREDICTION_EMPTY,
        ("empty.nii", "full.nii"): ScoreStatus.REFERENCE_EMPTY,
        ("empty.nii", "empty.nii"): ScoreStatus.BOTH_EMPTY,
    }
    one_empty = status["full.nii", "empty.nii"]
    assert (one_empty.dsc, one_empty.nsd) == (0.0, 0.0)
    assert math.isnan(status["empty.nii", "empty.nii"].dsc)
    assert math.isnan(status["empty.nii", "empty.nii"].nsd)


def assert_missing(scores, *, message):
    assert [score.status for score in scores] == [ScoreStatus.MISSING] * len(scores)
    for score in scores:
        assert math.isnan(score.dsc)
        assert math.isnan(score.nsd)
        assert message in score.message
        assert score.num_predicted_voxels == 0


def test_missing_and_unreadable_predictions_give_rows_that_say_why(tmp_path, labels):
    reference = write(tmp_path / "r.nii.gz", labels)
    other = ScoredStructure(name="infection", reference_labels=(3,), prediction_labels=(3,), tolerance_mm=3.0)
    scores = score_one(reference, NoPrediction(reason="its image is cut short"), structures=[LEFT, other])
    assert_missing(scores, message="its image is cut short")
    assert [score.num_reference_voxels for score in scores] == [18, 12]
    assert_missing(score_one(reference, tmp_path / "p.nii.gz", structures=[LEFT]), message="no such file")
    (tmp_path / "bad.nii.gz").write_bytes(b"not an image")
    assert_missing(score_one(reference, tmp_path / "bad.nii.gz", structures=[LEFT]), message="not a gzip file")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"spacing_xyz": (0.7, 0.8, 5.1)}, "spacing"),
        ({"origin": (-120.0, 31.0, 0.0)}, "origin"),
        ({"origin": (-120.0, 30.0, 0.1)}, "origin"),
        ({"origin": (-120.0, 30.0, 0.04)}, "origin"),
        ({"origin": (-120.05, 30.0, 0.0)}, "origin"),
        ({"direction": (-1, 0, 0, 0, -1, 0, 0, 0, 1)}, "direction"),
    ],
)
def test_prediction_on_another_grid_is_not_scored(tmp_path, labels, changed, message):
    reference = write(tmp_path / "r.nii.gz", labels)
    prediction = write(tmp_path / "p.nii.gz", labels, **changed)
    assert_missing(score_one(reference, prediction, structures=[LEFT]), message=message)


@pytest.mark.parametrize("orientation", ["RAS", "RPI", "SAL", "PIR"])
def test_a_prediction_whose_axes_run_in_another_order_is_scored_and_says_so(tmp_path, labels, orientation):
    shifted = np.roll(labels, 1, axis=2)
    reference, same = write(tmp_path / "r.nii.gz", labels), write(tmp_path / "same.nii.gz", shifted)
    sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(same)), orientation), str(tmp_path / "turned.nii.gz"))
    (expected,) = score_one(reference, same, structures=[LEFT])
    (found,) = score_one(reference, tmp_path / "turned.nii.gz", structures=[LEFT])
    assert found == replace(expected, message=f"axes reordered from {orientation} to LPS")
    assert 0 < found.dsc < 1


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32, np.int32, np.float32])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mha", "a.nrrd", "a.mnc"])
@pytest.mark.parametrize("compressed", [False, True])
def test_scores_depend_neither_on_the_format_nor_on_the_type_of_numbers(tmp_path, labels, name, dtype, compressed):
    shifted = np.roll(labels, 1, axis=2)
    expected = score_one(write(tmp_path / "r.nii.gz", labels), write(tmp_path / "p.nii.gz", shifted), structures=[LEFT])
    for folder, array in (("r", labels), ("p", shifted)):
        (tmp_path / folder).mkdir()
        image = sitk.GetImageFromArray(array.astype(dtype))
        image.SetSpacing((0.7, 0.8, 5.0))
        sitk.WriteImage(image, str(tmp_path / folder / name), useCompression=compressed)
    (found,) = score_one(tmp_path / "r" / name, tmp_path / "p" / name, structures=[LEFT])
    assert (found.dsc, found.nsd) == pytest.approx((expected[0].dsc, expected[0].nsd), rel=1e-6)
    assert found.message == ""


def test_voxels_that_begin_at_an_odd_byte_are_scored(tmp_path, labels):
    path = write(tmp_path / "a.nii", labels.astype(np.int16))
    content = bytearray(path.read_bytes())
    struct.pack_into("<f", content, 108, 353.0)
    path.write_bytes(content[:352] + b"\0" + content[352:])
    (score,) = score_one(write(tmp_path / "r.nii.gz", labels), path, structures=[LEFT])
    assert score.dsc == 1.0


@pytest.mark.parametrize("num_axes", [2, 3])
def test_a_single_slice_is_scored_as_a_volume_with_a_word(tmp_path, labels, num_axes):
    flat = labels[1] if num_axes == 2 else labels[1:2]
    for name in ("r.nii.gz", "p.nii.gz"):
        nibabel.save(nibabel.Nifti1Image(flat.T, np.diag([0.7, 0.8, 5.0, 1.0])), tmp_path / name)
    (score,) = score_one(tmp_path / "r.nii.gz", tmp_path / "p.nii.gz", structures=[LEFT])
    assert (score.nsd, score.spacing_mm) == (1.0, pytest.approx((5.0, 0.8, 0.7)))
    assert score.message == (
        "a single slice, scored as a volume: its faces are surface too (--dimension 2 scores contours)"
    )


def test_a_shift_by_a_slice_is_another_grid_however_far_away_the_volume_lies(tmp_path, labels):
    far = {"spacing_xyz": (1.0, 1.0, 1.0)}
    reference = write(tmp_path / "r.nii.gz", labels, origin=(0, 0, -1100), **far)
    prediction = write(tmp_path / "p.nii.gz", labels, origin=(0, 0, -1101), **far)
    assert_missing(score_one(reference, prediction, structures=[LEFT]), message="origin")


def test_prediction_of_another_size_is_not_scored(tmp_path, labels):
    prediction = write(tmp_path / "p.nii.gz", labels[:, :, :-1])
    scores = score_one(write(tmp_path / "r.nii.gz", labels), prediction, structures=[LEFT])
    assert_missing(scores, message="size (x, y, z) (7, 6, 4), expected (8, 6, 4)")


def test_header_rounding_is_not_another_grid(tmp_path, labels):
    reference = write(tmp_path / "r.nii.gz", labels)
    prediction = write(tmp_path / "p.nii.gz", labels, spacing_xyz=(0.7001, 0.8, 5.001), origin=(-120.01, 30.0, 1e-4))
    assert score_one(reference, prediction, structures=[LEFT])[0].status is ScoreStatus.SCORED


def test_unreadable_reference_is_an_error(tmp_path, labels):
    prediction = write(tmp_path / "p.nii.gz", labels)
    with pytest.raises(DataError, match=r"r\.nii\.gz: found no such file"):
        score_one(tmp_path / "r.nii.gz", prediction, structures=[LEFT])


def test_what_no_reader_has_foreseen_is_said_of_the_file_and_costs_no_other_score(tmp_path, labels, monkeypatch):
    def read(stored, header, buffer):
        raise KeyError("nobody has thought of this")

    reference, sound = write(tmp_path / "r.nii.gz", labels), write(tmp_path / "p.nii.gz", labels)
    odd = write(tmp_path / "odd.nrrd", labels)
    monkeypatch.setattr(label_maps, "read_voxels", read)
    scores = score_files(reference, [odd, sound], structures=[LEFT])
    assert_missing(scores[0], message="odd.nrrd: found what its reader cannot read (KeyError")
    assert [score.dsc for score in scores[1]] == [1.0]
    with pytest.raises(DataError, match=r"odd\.nrrd: found what its reader cannot read \(KeyError"):
        score_files(odd, [sound], structures=[LEFT])


def test_structures_of_one_name_or_none_are_refused(tmp_path, labels):
    reference = write(tmp_path / "r.nii.gz", labels)
    with pytest.raises(ConfigError, match=r"structures \['left_lung', 'left_lung'\]"):
        score_one(reference, reference, structures=[LEFT, LEFT])
    with pytest.raises(ConfigError, match="expected one or more with a name of its own each"):
        score_one(reference, reference, structures=[])


@pytest.mark.parametrize(
    "changed",
    [
        {"reference_labels": (0,)},
        {"prediction_labels": (1, 2**63)},
        {"reference_labels": ()},
        {"tolerance_mm": -1.0},
        {"tolerance_mm": math.inf},
    ],
)
def test_structure_with_a_bad_label_or_tolerance_is_refused(changed):
    good = {"name": "lung", "reference_labels": (1,), "prediction_labels": (1,), "tolerance_mm": 1.0}
    with pytest.raises(ConfigError, match="structure lung"):
        ScoredStructure(**(good | changed))
