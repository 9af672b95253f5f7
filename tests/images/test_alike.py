"""Copies of an image are found from their voxels, and other images are not taken for copies."""

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from raw_datasets import write_dataset
from scipy.ndimage import affine_transform, spline_filter

from bench.alike.copies import COPIES, likeness_of, phantom_images
from bench.bundle.sealed_run import sealed_run
from bench.report.scores import all_drawn_rows
from orchestrator.benchmark.definition import Case
from orchestrator.benchmark.leaks import AlikeCases, alike_leaks
from orchestrator.benchmark.loading import load_study
from orchestrator.benchmark.presets import PRESETS
from orchestrator.benchmark.tables import load_tables
from orchestrator.bundle.archive import read_archive
from orchestrator.bundle.seal import check_bundle, write_bundle
from orchestrator.cli import doctor
from orchestrator.errors import IntegrityError
from orchestrator.images.alike import pairs
from orchestrator.images.alike.pairs import LEAST_LIKENESS, alike_images
from orchestrator.images.alike.thumbnail import Thumbnail, make_thumbnail, thumbnail_of
from orchestrator.report.reported import Reported
from orchestrator.report.write import write_report
from orchestrator.results.store import to_table
from orchestrator.stages.records.alike import compare_images, keep_thumbnail, read_alike
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage

STUDY = load_study()
TRAININGS = STUDY.trainings(only=("T1-infection",), preset=PRESETS["paper"])
CASES = [Case(dataset="a", name=f"case_{number}") for number in range(3)]


@pytest.fixture(scope="module")
def images():
    return phantom_images(6, spacing_mm=6.0)


@pytest.fixture(scope="module")
def originals(images) -> list[Thumbnail]:
    return [make_thumbnail(*image) for image in images]


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_is_found(name, images, originals):
    for image, original in zip(images[:2], originals, strict=False):
        assert likeness_of(original, make_thumbnail(*COPIES[name](image))) >= LEAST_LIKENESS


def test_other_patients_are_not_alike(originals):
    assert alike_images(originals) == []
    assert max(likeness_of(*pair) for pair in combinations(originals, 2)) < LEAST_LIKENESS - 0.1


def test_every_pair_of_copies_is_named_once(images, originals):
    copies = [make_thumbnail(*COPIES[name](images[1])) for name in ("flipped along x", "window -1250 to 250")]
    found = alike_images([originals[0], *copies, originals[1]])
    assert [(one.first, one.second) for one in found] == [(1, 2), (1, 3), (2, 3)]
    assert all(LEAST_LIKENESS <= one.likeness <= 1 for one in found)


def test_a_placement_is_as_scipy_calculates_it():
    """By affine_transform, which takes fifty times as long: what follows for copies is the same."""
    numbers = np.random.default_rng(0)
    for _ in range(60):
        shape = numbers.integers(4, 14, 3)
        turn = pairs._TURNS[numbers.integers(len(pairs._TURNS))]
        one = numbers.normal(size=shape).astype(np.float32)
        other = numbers.normal(size=np.abs(turn @ shape).astype(int)).astype(np.float32)
        corner = numbers.uniform(-1.4, 1.4, 3)
        low = np.maximum(np.ceil(corner), 0).astype(int)
        high = np.minimum(np.floor(corner + other.shape), other.shape).astype(int)
        shift = corner - np.minimum(turn @ (shape - 1), 0)
        for order in (1, 3):
            values = spline_filter(one, order=3, mode="nearest") if order == 3 else one
            moved = affine_transform(
                values,
                turn.T,
                offset=turn.T @ (low - shift),
                output_shape=tuple(high - low),
                order=order,
                mode="nearest",
                prefilter=False,
            )
            turned = pairs._turned(values, turn)
            found = pairs._between(turned, start=low - corner, size=high - low, order=order)
            np.testing.assert_allclose(found, moved, atol=1e-5)
            there = other[tuple(map(slice, low, high))]
            expected = np.corrcoef(moved.ravel(), there.ravel())[0, 1]
            assert abs(pairs._correlation(found, there) - expected) < 1e-5


def test_landmarks_that_a_turn_brings_together_are_never_left_out():
    numbers = np.random.default_rng(0)
    for turn in pairs._TURNS:
        places = numbers.integers(0, 40, (12, 3)).astype(np.float32)
        others = places @ turn.T.astype(np.float32) + numbers.integers(0, 2, (12, 3)) + 7
        others[8:] = numbers.integers(0, 40, (4, 3))
        assert pairs._placed(places, others).num_alike >= 8
        assert pairs._may_lie_alike(places, others)
    far = numbers.integers(0, 40, (12, 3)).astype(np.float32)
    assert not pairs._may_lie_alike(far, numbers.integers(0, 40, (12, 3)).astype(np.float32))


def test_the_splines_of_an_image_are_calculated_once_for_all_pairs(images, originals, monkeypatch):
    calls = []

    def count(*given, **options):
        calls.append(given)
        return spline_filter(*given, **options)

    monkeypatch.setattr(pairs, "spline_filter", count)
    assert (
        len(alike_images([originals[0], *(make_thumbnail(*COPIES["noise of 20"](images[0])) for _ in range(3))])) == 6
    )
    assert len(calls) == 3


def test_copies_in_other_formats_are_alike(images, originals, tmp_path: Path):
    voxels, spacing_mm = images[0]
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(spacing_mm[::-1])
    for name in ("a.nii.gz", "a.nrrd", "a.mha"):
        sitk.WriteImage(sitk.DICOMOrient(image, "RAI"), str(tmp_path / name))
        copy = thumbnail_of(sitk.ReadImage(str(tmp_path / name)))
        assert likeness_of(originals[0], copy) > 0.99


def test_what_is_small_or_flat_has_no_likeness():
    assert make_thumbnail(np.full((9, 9, 9), 7), (1.0, 1.0, 1.0)) is None
    assert make_thumbnail(np.full((1, 1, 1), 7), (1.0, 1.0, 1.0)) is None
    assert make_thumbnail(np.full((9, 9, 9), np.nan), (1.0, 1.0, 1.0)) is None
    # A picture of nnU-Net's 2D layout, whose only slice is 999 mm thick: equal ones are alike, others not.
    pictures = [np.random.default_rng(seed).integers(0, 255, (1, 90, 80)) for seed in (1, 1, 2)]
    found = alike_images([make_thumbnail(picture, (999.0, 1.0, 1.0)) for picture in pictures])
    assert [(one.first, one.second, one.likeness) for one in found] == [(0, 1, 1.0)]


def test_a_small_image_is_written_and_read(originals):
    content = originals[0].to_bytes()
    back = Thumbnail.from_bytes(content, name="x")
    assert np.array_equal(back.voxels, originals[0].voxels)
    assert back.step_mm == originals[0].step_mm == 8.0
    assert len(content) < 100_000


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}\n",
        b"[1]\nx",
        b'{"shape": [2, 2, 2], "step_mm": 8.0}\nno zlib',
        b'{"shape": [9000, 9000, 9000], "step_mm": 8.0}\n',
        b'{"shape": [2, 2], "step_mm": 8.0}\n',
        b'{"shape": [-2, -2, 2], "step_mm": 8.0}\n',
        b'{"shape": [2, 2, 2], "step_mm": NaN}\n',
        b'{"shape": ["a", 2, 2], "step_mm": 8.0}\n',
    ],
)
def test_another_file_is_refused(content):
    with pytest.raises(IntegrityError, match=r"x: not a small image"):
        Thumbnail.from_bytes(content, name="x")


def test_a_small_image_that_is_cut_short_or_too_long_is_refused(originals):
    content = originals[0].to_bytes()
    larger = Thumbnail(voxels=np.zeros((50, 50, 51), np.uint8), step_mm=8.0).to_bytes().partition(b"\n")[2]
    for spoiled in (content[:-20], content.partition(b"\n")[0] + b"\n" + larger):
        with pytest.raises(IntegrityError):
            Thumbnail.from_bytes(spoiled, name="x")


def keep(storage, case: Case, image) -> None:
    voxels, spacing_mm = image
    volume = sitk.GetImageFromArray(np.ascontiguousarray(voxels))
    volume.SetSpacing(spacing_mm[::-1])
    keep_thumbnail(storage, case, volume)
    storage.write_bytes(run_paths.image_record(case), b"{}")


def test_a_run_remembers_which_cases_are_alike(images, tmp_path: Path):
    storage = open_storage(tmp_path)
    assert read_alike(storage) == ()
    compare_images(storage, CASES)
    assert read_alike(storage) == ()
    for case, image in zip(CASES, [images[0], images[1], COPIES["flipped along x"](images[0])], strict=True):
        keep(storage, case, image)
    compare_images(storage, CASES)
    (pair,) = read_alike(storage)
    assert (pair.first, pair.second) == (CASES[0], CASES[2])
    # The same images are not compared again, others are, and what is damaged is left out.
    record = json.loads((tmp_path / run_paths.ALIKE).read_text())
    (tmp_path / run_paths.ALIKE).write_text(json.dumps({**record, "pairs": []}))
    compare_images(storage, CASES)
    assert read_alike(storage) == ()
    keep(storage, CASES[1], images[2])
    compare_images(storage, CASES)
    assert len(read_alike(storage)) == 1
    storage.write_bytes(run_paths.case_thumbnail(CASES[2]), b"damaged")
    compare_images(storage, CASES)
    assert read_alike(storage) == ()
    # An image that is made anew has no record for a while.
    keep(storage, CASES[2], images[0])
    storage.delete(run_paths.image_record(CASES[2]))
    compare_images(storage, CASES)
    assert read_alike(storage) == ()
    storage.write_bytes(run_paths.ALIKE, b'{"pairs": [{"first": "a"}]}')
    with pytest.raises(IntegrityError, match="images that show the same"):
        read_alike(storage)
    compare_images(storage, CASES)
    assert read_alike(storage) == ()


def a_pair() -> AlikeCases:
    """Return a case that the first training is trained on, and one that it is tested on."""
    training = TRAININGS[0]
    tested = next(one for one in training.evaluation_sets if one.name == "test").cases
    return AlikeCases(first=training.train[0], second=tested[0], likeness=0.934)


def test_a_leak_is_a_copy_on_both_sides_of_a_split():
    pair = a_pair()
    leaks = alike_leaks([pair], TRAININGS, declared=())
    told = {(leak.train_case, leak.test_case): leak.training_ids for leak in leaks}
    assert TRAININGS[0].id in told[pair.first, pair.second]
    for (trained, tested), ids in told.items():
        for training in TRAININGS:
            in_test = any(tested in one.cases for one in training.evaluation_sets)
            assert (training.id in ids) == (trained in training.train and in_test)
    assert alike_leaks([pair], TRAININGS, declared=leaks) == ()
    assert "details agree by 0.93 of 1" in leaks[0].line


def test_the_report_names_a_copy_and_shows_scores_without_it(tmp_path: Path):
    pair = a_pair()
    rows = [row for some in all_drawn_rows(TRAININGS, study=STUDY).values() for row in some]
    study = replace(STUDY, patients_with_several_scans=())
    about = Reported(study=study, trainings=TRAININGS, table=to_table(rows), layout=load_tables(STUDY), alike=(pair,))
    write_report(open_storage(tmp_path), reported=about, failures={})
    text = (tmp_path / "report" / "report.md").read_text()
    assert f"{pair.first.id} and {pair.second.id} show the same image" in text
    assert "## With and without patients on both sides of a split" in text
    everything, without = (line for line in text.splitlines() if "| all |" in line or "| without them |" in line)
    assert int(everything.split("|")[5]) - int(without.split("|")[5]) == sum(
        len(leak.training_ids) for leak in about.leaks
    )


def test_a_bundle_knows_copies_without_the_images(tmp_path: Path):
    request = sealed_run(tmp_path)
    storage = open_storage(request.output)
    first, second = request.trainings[0].train[0], request.trainings[0].val[0]
    record = {"compared": "", "pairs": [{"first": first.id, "second": second.id, "likeness": 0.9}]}
    storage.write_bytes(run_paths.ALIKE, json.dumps(record).encode())
    write_bundle(request, storage, target=tmp_path / "x.zip")
    files = read_archive(tmp_path / "x.zip").files
    assert f"{first.id} and {second.id} show the same image" in files["report/report.md"].decode()
    assert json.loads(files["run.json"])["alike"] == record["pairs"]
    assert check_bundle(tmp_path / "x.zip").problems == ()


def test_the_doctor_finds_a_copy_on_both_sides_of_a_split(images, tmp_path: Path, capsys):
    names = [f"case_{number}" for number in range(5)]
    root = write_dataset(tmp_path, channels=("CT",), names=tuple(names), labels={"background": 0, "a": 1, "b": 2})
    for name, image in zip(names, [*images[:4], COPIES["flipped along x"](images[2])], strict=True):
        volume = sitk.GetImageFromArray(np.ascontiguousarray(image[0]))
        volume.SetSpacing(image[1][::-1])
        sitk.WriteImage(volume, str(root / "imagesTr" / f"{name}_0000.nii.gz"))
        labels = np.zeros(image[0].shape, np.uint8)
        labels[3:6, 3:6, 3:6], labels[3:6, 9:12, 3:6] = 1, 2
        mask = sitk.GetImageFromArray(labels)
        mask.CopyInformation(volume)
        sitk.WriteImage(mask, str(root / "labelsTr" / f"{name}.nii.gz"))
    study = "title: x\ndatasets:\n  things: {nnunet: Dataset137_Things, folds: nnunet}\n"
    study += "trainings:\n  things: {train: [things/other-folds], val: [things/fold]}\n"
    (tmp_path / "study.yaml").write_text(study)
    options = ["--data", str(tmp_path), "--study", str(tmp_path / "study.yaml")]
    assert doctor.main(options) == 0
    told = capsys.readouterr().out
    assert "warning: things/case_2 and things/case_4 show the same image" in told
    assert "warning: things/case_4 and things/case_2 show the same image" in told
    assert told.count("show the same image") == 2
    assert doctor.main([*options, "--quick"]) == 0
    assert "show the same image" not in capsys.readouterr().out
