"""Raw data sets through the stages of a case: on S3, of several channels, of one slice; and their phantoms."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from fault_server import s3_of_environment
from raw_datasets import NAMES, dataset_of, write_dataset

from orchestrator.benchmark.definition import Case, LabelSet, Structure
from orchestrator.benchmark.loading import load_study
from orchestrator.benchmark.presets import PRESETS
from orchestrator.driver.changed_data import compare, parts_of
from orchestrator.errors import DataError
from orchestrator.phantoms.raw_datasets import write_raw_phantoms
from orchestrator.shipped import shipped_file
from orchestrator.sources.nnunet_raw.survey import Describer
from orchestrator.stages.cases import fingerprint, generate_download, ingest, ingest_labels
from orchestrator.stages.context import RunContext
from orchestrator.storage import run_paths, s3
from orchestrator.storage.filesystem import open_storage
from orchestrator.training.nnunet.planning import Plan

FOLDER = "Dataset137_Things"
THINGS = LabelSet(
    name="things",
    structures=(
        Structure(name="small", label=1, tolerance_mm=1.0),
        Structure(name="large", label=2, tolerance_mm=1.0),
    ),
)


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    with s3_of_environment(tmp_path, monkeypatch, bucket="raw"):
        yield "s3://raw/nnUNet_raw"


def context_of(data: str | None, output: Path, **datasets) -> RunContext:
    return RunContext(
        output=str(output),
        data=data,
        preset=PRESETS["smoke"],
        seed=0,
        datasets=datasets or {"things": dataset_of()},
        label_sets={"things": THINGS},
        phantom_cases={},
        device="cpu",
        num_threads=1,
        num_loader_workers=0,
    )


def upload(folder: Path, location: str) -> None:
    storage = open_storage(location)
    for path in folder.rglob("*"):
        if path.is_file():
            storage.write_bytes(path.relative_to(folder).as_posix(), path.read_bytes())


@pytest.mark.parametrize("is_listed", [False, True])
def test_a_data_set_on_s3_is_described_and_read_like_one_here(tmp_path, bucket, monkeypatch, is_listed):
    data = tmp_path / "raw"
    root = write_dataset(data, shape=(4, 24, 20))
    if is_listed:
        described = json.loads((root / "dataset.json").read_text())
        for path in root.glob("imagesTr/b-2*"):
            path.rename(root / path.name.replace("b-2", "elsewhere"))
        files = {"images": ["elsewhere_0000.nii.gz", "elsewhere_0001.nii.gz"], "label": "labelsTr/b-2.nii.gz"}
        (root / "dataset.json").write_text(json.dumps(described | {"dataset": {"b-2": files}}))
    upload(data, bucket)
    assert Describer(bucket)("Dataset137") == Describer(str(data))("Dataset137")
    fetched = []
    fetch = s3.S3Storage.fetch
    monkeypatch.setattr(s3.S3Storage, "fetch", lambda self, key: fetched.append(key) or fetch(self, key))
    case = Case(dataset="things", name="b-2")
    there, here = context_of(bucket, tmp_path / "there"), context_of(str(data), tmp_path / "here")
    for context in (there, here):
        ingest(context, case)
        ingest_labels(context, case, label_set="things")
    for key in (*run_paths.case_images(case, num_channels=2), run_paths.case_labels(case, label_set="things")):
        assert there.storage.read_bytes(key) == here.storage.read_bytes(key)
    assert len(set(fetched)) == 4
    assert compare(parts_of(there.storage), data=bucket, datasets=there.datasets, thorough=True).changed == ()


def test_a_channel_that_is_replaced_is_another_case_and_one_that_is_lost_is_made_again(tmp_path):
    data = tmp_path / "raw"
    write_dataset(data, shape=(4, 24, 20))
    context, case = context_of(str(data), tmp_path / "run"), Case(dataset="things", name="b-2")
    assert ingest(context, case) == 2 * 4 * 28 * 24
    second = run_paths.case_image(case, channel=1)
    before = context.storage.read_bytes(second)
    context.storage.delete(second)
    ingest(context, case)
    assert context.storage.read_bytes(second) == before
    path = data / FOLDER / "imagesTr" / "b-2_0001.nii.gz"
    image = sitk.ReadImage(str(path))
    sitk.WriteImage(image + 1, str(path))
    (changed,) = compare(parts_of(context.storage), data=str(data), datasets=context.datasets).changed
    assert changed.files == (f"{FOLDER}/imagesTr/b-2_0001.nii.gz",)
    with pytest.raises(DataError, match=r"image-1.nii.gz: made again from .* it is another one"):
        ingest(context, case)


def test_a_case_of_one_slice_goes_through_all_of_its_stages(tmp_path):
    data = tmp_path / "raw"
    write_dataset(data, channels=("grey",), ending=".png", shape=(40, 36))
    dataset = dataset_of(channels=("grey",))
    context, case = context_of(str(data), tmp_path / "run", things=dataset), Case(dataset="things", name="b-2")
    ingest(context, case)
    ingest_labels(context, case, label_set="things")
    fingerprint(context, case, label_set="things")
    record = json.loads(context.storage.read_bytes(run_paths.fingerprint(case, label_set="things")))
    assert record["spacing_mm"] == [999.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("ending", "named", "reader"),
    [(".nii.gz", None, "SimpleITKIO"), (".png", None, "NaturalImage2DIO"), (".mha", "NibabelIO", "NibabelIO")],
)
def test_a_model_that_is_handed_out_reads_the_files_of_its_data_set(tmp_path, ending, named, reader):
    flat = {"shape": (40, 36)} if ending == ".png" else {}
    options = {"overwrite_image_reader_writer": named} if named else {}
    write_dataset(tmp_path, channels=("CT",), ending=ending, **flat, **options)
    found = Describer(str(tmp_path))(FOLDER)
    assert (found.file_ending, found.reader) == (ending, reader)
    plain = Plan(
        plans={"image_reader_writer": "SimpleITKIO", "configurations": {}},
        dataset_json={"file_ending": ".nii.gz"},
        configuration="2d",
    )
    plan = plain.for_files(file_ending=found.file_ending, reader=found.reader)
    assert (plan == plain) is (ending == ".nii.gz")
    # The run itself goes on to read its own NIfTI.
    assert plan.plans["image_reader_writer"] == "SimpleITKIO"
    out = plan.handed_out()
    assert out.plans == {"image_reader_writer": reader, "configurations": {}}
    assert out.dataset_json == {"file_ending": ending}


def test_phantoms_of_the_second_study_have_its_channels_regions_and_cases(tmp_path):
    study = load_study(shipped_file("splits", "brain_mri", "study.yaml"))
    (dataset,) = study.datasets
    requests = [(dataset, name) for name in dataset.case_names[:3]]
    label_sets = {label_set.name: label_set for label_set in study.label_sets}
    for folder in ("one", "two"):
        target = tmp_path / folder / dataset.folder
        write_raw_phantoms(target, requests=requests, label_sets=label_sets, spacing_mm=8.0, seed=1)
    found = Describer(str(tmp_path / "one"))(dataset.folder)
    assert (found.channels, found.cases) == (("T1", "FLAIR"), dataset.case_names[:3])
    assert found.labels == {"whole": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}
    for path in sorted((tmp_path / "one").rglob("*.nii.gz")):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()
    mask = sitk.GetArrayFromImage(sitk.ReadImage(str(next((tmp_path / "one").rglob("labelsTr/*")))))
    numbers = np.bincount(mask.ravel())
    assert len(numbers) == 4
    assert numbers.min() > 20


def test_phantoms_are_of_one_slice_where_cases_are_and_have_the_values_of_the_files(tmp_path):
    dataset = replace(dataset_of(channels=("CT",), values={1: 0, 7: 2, 3: 1}), num_slices=1)
    context = replace(
        context_of(None, tmp_path / "run", things=dataset),
        phantom_cases={FOLDER: tuple(Case(dataset="things", name=name) for name in NAMES)},
    )
    generate_download(context, FOLDER)
    case = Case(dataset="things", name="b-2")
    ingest(context, case)
    ingest_labels(context, case, label_set="things")
    labels = sitk.GetArrayFromImage(
        sitk.ReadImage(str(context.storage.fetch(run_paths.case_labels(case, label_set="things"))))
    )
    assert labels.shape == (1, 30, 30)
    assert set(np.unique(labels)) == {0, 1, 2}


def test_files_of_somebody_else_are_not_taken_for_phantoms(tmp_path):
    root = write_dataset(tmp_path, shape=(4, 24, 20))
    with pytest.raises(DataError, match="they are not our phantoms"):
        write_raw_phantoms(
            root, requests=[(dataset_of(), "b-2")], label_sets={"things": THINGS}, spacing_mm=8.0, seed=0
        )
