"""What an ingest takes of a download on S3: the files of its case, once a machine, as they are now."""

import multiprocessing
from pathlib import Path
from types import SimpleNamespace

import pytest
import SimpleITK as sitk
from fault_server import s3_of_environment
from layouts import DATASETS, write_downloads

from orchestrator.benchmark.definition import Case
from orchestrator.benchmark.loading import load_study
from orchestrator.benchmark.presets import PRESETS
from orchestrator.cluster.kinds.local import LocalCluster
from orchestrator.driver import before_start
from orchestrator.driver.changed_data import ChangedPart, Comparison, parts_of
from orchestrator.driver.claim import claim_output
from orchestrator.driver.request import RunRequest, identity_of
from orchestrator.errors import DataError
from orchestrator.images.geometry import geometry_of
from orchestrator.phantoms.raw_datasets import write_raw_phantoms
from orchestrator.shipped import shipped_file
from orchestrator.sources.registry import LAYOUTS, concerned_files
from orchestrator.sources.stamps import SourceStamp
from orchestrator.stages import cases as case_work
from orchestrator.stages.local_download import local_download
from orchestrator.stages.records.cases import CaseRecord, has_phantoms, original_grid, write_case_record
from orchestrator.storage import copies, run_paths
from orchestrator.storage.filesystem import open_storage

DATA = "s3://downloads/public"


@pytest.fixture
def door(tmp_path, monkeypatch):
    """Give an emulated S3 that counts requests, and a temporary folder of the machine of its own."""
    with s3_of_environment(tmp_path, monkeypatch, bucket="downloads") as door:
        yield door


def upload(folder):
    storage = open_storage(DATA)
    for path in folder.rglob("*"):
        if path.is_file():
            storage.write_bytes(path.relative_to(folder).as_posix(), path.read_bytes())


def num_fetched(door, key):
    return door.seen["GET", f"/downloads/public/{key}", ""]


def test_phantoms_that_come_as_data_are_known_as_such_wherever_they_lie(door, tmp_path):
    study = load_study(shipped_file("splits", "brain_mri", "study.yaml"))
    brain = next(one for one in study.datasets if one.name == "brain")
    name = brain.case_names[0]
    label_sets = {one.name: one for one in study.label_sets}
    folder = tmp_path / "data" / brain.folder
    write_raw_phantoms(folder, requests=[(brain, name)], label_sets=label_sets, spacing_mm=12.0, seed=0)
    upload(tmp_path / "data")
    write_downloads(tmp_path / "data")
    storage = open_storage(tmp_path / "run")
    context = SimpleNamespace(downloads=DATA, datasets={**DATASETS, brain.name: brain}, storage=storage)
    generated, real = Case(dataset=brain.name, name=name), Case(dataset="mosmed", name="study_0255")
    case_work.ingest(context, generated)
    context.downloads = str(tmp_path / "data")
    case_work.ingest(context, real)
    assert has_phantoms(storage, [real, generated])
    assert not has_phantoms(storage, [real])
    case_work.ingest(context, generated)
    assert has_phantoms(storage, [generated])


def seen_by(name, *, read=lambda folder: sorted(path.name for path in folder.rglob("*") if path.is_file())):
    dataset = DATASETS[name]
    with local_download(DATA, dataset.source, case_name=dataset.case_names[0]) as local:
        return read(local.folder)


def test_a_case_gets_its_own_files_and_what_is_of_all(door):
    for name in ("studies/CT-1/study_0255.nii.gz", "studies/CT-2/study_0256.nii.gz", "masks/study_0255_mask.nii.gz"):
        open_storage(DATA).write_bytes(f"mosmed/COVID19_1110/{name}", b"x")
    open_storage(DATA).write_bytes("mosmed/README.pdf", b"x")
    assert seen_by("mosmed") == ["README.pdf", "study_0255.nii.gz", "study_0255_mask.nii.gz"]
    assert num_fetched(door, "mosmed/COVID19_1110/studies/CT-2/study_0256.nii.gz") == 0
    # What is missing is told of the folder in which it is looked for.
    assert seen_by("mosmed", read=lambda folder: (folder / "mosmed/COVID19_1110/studies/CT-2").is_dir())


def test_a_file_is_fetched_once_and_again_only_where_it_has_changed(door):
    key = "structseg/Thoracic_OAR/7/data.nii.gz"
    open_storage(DATA).write_bytes(key, b"one")
    contents = [seen_by("structseg-lung", read=lambda folder: (folder / key).read_bytes()) for _ in range(2)]
    assert (contents, num_fetched(door, key)) == ([b"one", b"one"], 1)
    open_storage(DATA).write_bytes(key, b"two")
    assert seen_by("structseg-lung", read=lambda folder: (folder / key).read_bytes()) == b"two"


def test_processes_of_one_machine_fetch_an_archive_once_and_keep_one_copy(door, tmp_path):
    key = "msd/Task06_Lung.tar"
    open_storage(DATA).write_bytes(key, bytes(8 * 1024**2))
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=seen_by, args=("msd-lung-tumour",)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    # An archive of 8 MiB comes in one piece.
    assert num_fetched(door, key) == 1
    assert len([path for path in tmp_path.rglob("*.tar") if not path.is_symlink()]) == 1


def test_archives_of_a_case_stay_together_where_the_cache_has_no_room_for_them(door, tmp_path, monkeypatch):
    monkeypatch.setattr(copies, "CACHE_LIMIT_BYTES", 1)
    names = ["COVID-19-CT-Seg_20cases.zip", "Infection_Mask.zip", "Lung_Mask.zip"]
    for key in (*(f"covid-19-ct-seg/{name}" for name in names), "msd/Task06_Lung.tar"):
        open_storage(DATA).write_bytes(key, b"archive")
    assert seen_by("covid-19-ct-seg") == names
    seen_by("msd-lung-tumour")
    assert not list(tmp_path.rglob("*.zip"))


def test_a_download_that_is_not_there_is_named(door):
    with pytest.raises(DataError, match="s3://downloads/public/nsclc: no files found"):
        seen_by("nsclc-lung")


def test_what_replaces_changed_data_is_fetched_and_read_whole_before_anything_is_removed(door, tmp_path, monkeypatch):
    write_downloads(tmp_path / "data")
    key = "mosmed/COVID19_1110/studies/CT-1/study_0255.nii.gz"
    study, preset, output = load_study(), PRESETS["smoke"], open_storage(tmp_path / "run")
    request = RunRequest(
        study=study,
        trainings=study.trainings(only=("T2-infection-msd-fold0",), preset=preset),
        preset=preset,
        seed=0,
        data=DATA,
        output=str(tmp_path / "run"),
        cluster=LocalCluster(),
        redo_changed=True,
    )
    claim_output(output, identity=identity_of(request), trainings=[one.id for one in request.trainings])
    record = CaseRecord(sha256="", source=SourceStamp(files=(), sha256=""))
    write_case_record(output, run_paths.image_record(Case(dataset="mosmed", name="study_0255")), record)
    changed = tuple(ChangedPart(part=part, files=(key,)) for part in parts_of(output))
    found = Comparison(changed=changed, touched=(), gone=())
    monkeypatch.setattr(before_start, "compare_with_downloads", lambda *_, **__: found)
    upload(tmp_path / "data")
    assert before_start.check_before_start(request) == ()
    whole = open_storage(DATA).read_bytes(key)
    open_storage(DATA).write_bytes(key, whole[: len(whole) // 2])
    (problem,) = before_start.check_before_start(request)
    assert problem.path == f"{DATA}/{key}"
    assert num_fetched(door, "mosmed/COVID19_1110/studies/CT-2/study_0256.nii.gz") == 0


@pytest.mark.parametrize("name", DATASETS)
def test_what_is_left_out_is_not_needed_to_convert_a_case(name, tmp_path):
    """Each download of the tests holds one case of most data sets, in the layout of its owner: all of it is needed."""
    write_downloads(tmp_path)
    dataset = DATASETS[name]
    keys = [path.relative_to(tmp_path).as_posix() for path in (tmp_path / dataset.source).rglob("*.*")]
    storage = open_storage(tmp_path)
    for case_name in dataset.case_names:
        assert concerned_files(keys, storage=storage, download=dataset.source, case_name=case_name) == keys


@pytest.mark.parametrize(
    ("key", "case_name", "other"),
    [
        ("covid-19-ct-seg/Lung_Mask/coronacases_001.nii.gz", "coronacases_001", "coronacases_002"),
        ("structseg/Lung_GTV/7/label.nii.gz", "train_7", "train_17"),
        ("nsclc/LUNG1-001/study/series/1-01.dcm", "LUNG1-001", "LUNG1-011"),
        ("nsclc/masks/LUNG1-001_thor_cav_primary_reviewer.nii.gz", "LUNG1-001", "LUNG1-011"),
        ("msd/Task06_Lung/imagesTr/lung_001.nii.gz", "lung_001", "lung_002"),
        ("mosmed/masks/study_0255_mask.nii.gz", "study_0255", "study_0256"),
    ],
)
def test_a_file_concerns_the_case_whose_name_it_bears(key, case_name, other):
    download = Path(key).parts[0]
    assert download in LAYOUTS
    storage = open_storage("/nowhere")
    assert concerned_files([key], storage=storage, download=download, case_name=case_name) == [key]
    assert concerned_files([key], storage=storage, download=download, case_name=other) == []


def test_the_record_of_an_image_keeps_the_grid_of_its_file(tmp_path):
    write_downloads(tmp_path / "data")
    path = tmp_path / "data/mosmed/COVID19_1110/studies/CT-1/study_0255.nii.gz"
    turned = sitk.DICOMOrient(sitk.ReadImage(str(path)), "RAS")
    sitk.WriteImage(turned, str(path))
    case, storage = Case(dataset="mosmed", name="study_0255"), open_storage(tmp_path / "run")
    context = SimpleNamespace(downloads=str(tmp_path / "data"), datasets=DATASETS, storage=storage)
    case_work.ingest(context, case)
    grid = original_grid(storage, case)
    assert grid.orientation == "RAS"
    assert grid.size == turned.GetSize()
    assert grid.origin_mm == pytest.approx(turned.GetOrigin())
    assert geometry_of(sitk.ReadImage(str(storage.fetch(run_paths.case_image(case))))).orientation == "LPS"
    assert original_grid(storage, Case(dataset="mosmed", name="study_0256")) is None
