"""A file of a download that was replaced is noticed before anything starts; what was made of it is made anew."""

import json
import os
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace

import layouts
import numpy as np
import pytest
from fault_server import s3_of_environment

from orchestrator.benchmark.definition import Case
from orchestrator.benchmark.presets import PRESETS
from orchestrator.cli import verify
from orchestrator.driver import changed_data
from orchestrator.driver.changed_data import compare, parts_of, remember
from orchestrator.errors import IntegrityError
from orchestrator.stages.cases import ingest, ingest_labels
from orchestrator.stages.context import RunContext
from orchestrator.stages.records import cases as case_records
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    data = tmp_path_factory.mktemp("shipped") / "downloads"
    layouts.write_downloads(data)
    return data


@pytest.fixture
def s3_bucket(tmp_path, monkeypatch):
    with s3_of_environment(tmp_path, monkeypatch, bucket="changed"):
        yield "changed"


def place_of(data, output):
    return RunContext(
        output=str(output),
        data=str(data),
        preset=PRESETS["smoke"],
        seed=0,
        datasets=layouts.DATASETS,
        label_sets={},
        phantom_cases={},
        device="cpu",
        num_threads=1,
        num_loader_workers=0,
    )


def read_all(place):
    for name, dataset in layouts.DATASETS.items():
        for case_name in dataset.case_names:
            case = Case(dataset=name, name=case_name)
            ingest(place, case)
            for label_set in dataset.label_sets:
                ingest_labels(place, case, label_set=label_set)
    return place.storage


@pytest.fixture
def data(shipped, tmp_path):
    return Path(shutil.copytree(shipped, tmp_path / "downloads"))


@pytest.fixture
def storage(data, tmp_path):
    """An output that has read every case of all downloads."""
    return read_all(place_of(data, tmp_path / "run"))


def look(storage, data, **more):
    found = compare(parts_of(storage), data=str(data), datasets=layouts.DATASETS, **more)
    return {one.part.name: one.files for one in found.changed}, {part.name for part, _ in found.touched}


def replace_member(archive, name, content):
    """Write an archive anew with another content of one file, and the others as they were."""
    with zipfile.ZipFile(archive) as old:
        members = {info.filename: old.read(info) for info in old.infolist()}
    assert name in members
    with zipfile.ZipFile(archive, "w") as new:
        for other, bytes_ in members.items():
            new.writestr(other, content if other == name else bytes_)


def mask_bytes(folder, *, moved=0):
    path = folder / "mask.nii.gz"
    voxels = np.roll(layouts.mask_voxels("infection"), moved, axis=0)
    layouts.write_nifti(layouts.image_of(voxels), path)
    return path.read_bytes()


def test_data_that_nobody_has_touched_are_as_they_were_read(storage, data):
    assert len(parts_of(storage)) == 21
    assert look(storage, data) == ({}, set())
    assert look(storage, data, thorough=True) == ({}, set())


def test_a_case_has_one_overview_of_all_that_was_ever_made_of_it(storage):
    records = {part.label_set or "image": part.record for part in parts_of(storage) if part.case.name == "lung_001"}
    overview = json.loads(storage.read_bytes("cases/msd-lung-tumour/lung_001/case.json"))
    assert overview["sha256"] == {name: record.sha256 for name, record in records.items()}
    assert overview["source_sha256"] == {name: record.source.sha256 for name, record in records.items()}
    assert sorted(records) == ["image", "infection", "lung"]


def test_an_overview_is_written_anew_where_another_record_has_come_meanwhile(storage, monkeypatch):
    case = Case(dataset="msd-lung-tumour", name="lung_001")
    key = run_paths.labels_record(case, label_set="lung")
    late, write = storage.read_bytes(key), case_records.write_json
    storage.delete(key)

    def write_and_be_overtaken(to, name, record):
        write(to, name, record)
        to.write_bytes(key, late)

    monkeypatch.setattr(case_records, "write_json", write_and_be_overtaken)
    case_records.write_overview(storage, case)
    assert sorted(json.loads(storage.read_bytes(run_paths.case_overview(case)))["sha256"]) == [
        "image",
        "infection",
        "lung",
    ]


def test_a_file_that_was_copied_anew_is_read_once_and_remembered(storage, data, monkeypatch):
    for path in data.rglob("*.*"):
        os.utime(path, (1e9, 1e9))
    changed, touched = look(storage, data)
    assert (changed, len(touched)) == ({}, 21)
    remember(storage, compare(parts_of(storage), data=str(data), datasets=layouts.DATASETS))

    def read(*_, **__):
        raise AssertionError("read again")

    monkeypatch.setattr(changed_data, "_source_now", read)
    assert look(storage, data) == ({}, set())


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("structseg/Lung_GTV/7/label.nii.gz", "structseg-gtv/train_7 infection"),
        ("nsclc/Thoracic_Cavities/LUNG1-001/LUNG1-001_effusion_first_reviewer.nii.gz", "nsclc-pe/LUNG1-001 infection"),
        ("mosmed/COVID19_1110/masks/study_0255_mask.nii.gz", "mosmed/study_0255 infection"),
        ("mosmed/COVID19_1110/studies/CT-1/study_0255.nii.gz", "mosmed/study_0255 image"),
    ],
)
@pytest.mark.parametrize("cut", [0, 20])
def test_a_file_that_was_replaced_is_named_with_what_was_made_of_it(storage, data, file, name, cut):
    content = mask_bytes(data.parent, moved=1)
    (data / file).write_bytes(content[: len(content) - cut])
    changed, touched = look(storage, data)
    # The images of NSCLC are chosen by their masks: these were looked at, too.
    assert touched <= {"nsclc-pe/LUNG1-001 image", "nsclc-lung/LUNG1-001 image"}
    assert changed == {name: (file,)}


def test_of_an_archive_that_was_replaced_only_the_cases_count_that_are_others_in_it(storage, data, tmp_path):
    archive = data / "covid-19-ct-seg" / "Infection_Mask.zip"
    with zipfile.ZipFile(archive) as opened:
        (member,) = (name for name in opened.namelist() if "coronacases" in name and "._" not in name)
    replace_member(archive, member, mask_bytes(tmp_path, moved=2))
    changed, touched = look(storage, data)
    assert changed == {"covid-19-ct-seg/coronacases_001 infection": ("covid-19-ct-seg/Infection_Mask.zip",)}
    assert touched == {"covid-19-ct-seg/radiopaedia_10_85902_1 infection"}


def test_a_slice_that_was_exported_anew_is_noticed(storage, data):
    path = next((data / "nsclc" / "NSCLC-Radiomics").rglob("1-05.dcm"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    changed, _ = look(storage, data)
    assert set(changed) == {"nsclc-lung/LUNG1-001 image", "nsclc-pe/LUNG1-001 image"}
    assert all(files == (path.relative_to(data).as_posix(),) for files in changed.values())


def test_a_data_folder_that_was_moved_is_what_was_read(storage, data):
    assert look(storage, data.rename(data.with_name("elsewhere"))) == ({}, set())


def test_an_archive_that_was_unpacked_beside_itself_is_looked_into(storage, data, tmp_path):
    """A folder goes before the archive of its name: as long as it holds the same there is nothing to tell."""
    folder = data / "covid-19-ct-seg"
    with zipfile.ZipFile(folder / "Infection_Mask.zip") as archive:
        archive.extractall(folder / "Infection_Mask")
    changed, touched = look(storage, data)
    assert (changed, len(touched)) == ({}, 2)
    (path,) = (path for path in (folder / "Infection_Mask").rglob("coronacases*") if path.is_file())
    path.write_bytes(mask_bytes(tmp_path, moved=1))
    changed, _ = look(storage, data)
    assert set(changed) == {"covid-19-ct-seg/coronacases_001 infection"}


def test_what_was_read_is_known_where_the_cases_were_removed(storage, data):
    """Scores of before are still there: the old content and the new must not stand in one table."""
    before = parts_of(storage)
    shutil.rmtree(Path(storage.location) / "cases")
    assert parts_of(storage) == before
    assert look(storage, data) == ({}, set())
    mask = "mosmed/COVID19_1110/masks/study_0255_mask.nii.gz"
    (data / mask).write_bytes(mask_bytes(data.parent, moved=1))
    assert look(storage, data) == ({"mosmed/study_0255 infection": (mask,)}, set())


def test_what_is_gone_is_no_change(storage, data):
    (data / "covid-19-ct-seg" / "Infection_Mask.zip").unlink()
    shutil.rmtree(data / "mosmed")
    assert look(storage, data) == ({}, set())


def test_data_on_s3_are_compared_by_size_and_time_there(data, tmp_path, s3_bucket):
    remote = open_storage(f"s3://{s3_bucket}/public")
    for download in ("mosmed", "covid-19-ct-seg"):
        for path in (data / download).rglob("*.*"):
            remote.write_bytes(path.relative_to(data).as_posix(), path.read_bytes())
    place = place_of(remote.location, tmp_path / "run")
    case = Case(dataset="mosmed", name="study_0255")
    ingest(place, case)
    ingest_labels(place, case, label_set="infection")
    ingest(place, Case(dataset="covid-19-ct-seg", name="coronacases_001"))
    assert look(place.storage, remote.location) == ({}, set())
    mask = "mosmed/COVID19_1110/masks/study_0255_mask.nii.gz"
    remote.write_bytes(mask, mask_bytes(tmp_path, moved=1))
    assert look(place.storage, remote.location) == ({"mosmed/study_0255 infection": (mask,)}, set())
    remote.delete(mask)
    assert look(place.storage, remote.location) == ({}, set())


def test_verify_reads_all_downloads_and_names_what_is_not_what_was_read(storage, data, tmp_path, monkeypatch, capsys):
    known = SimpleNamespace(datasets=tuple(layouts.DATASETS.values()))
    monkeypatch.setattr(verify, "load_study", lambda *_, **__: known)
    command = ["--output", storage.location, "--data", str(data)]
    assert verify.main(command) == 0
    assert capsys.readouterr().out == "21 of 21 images and label maps are of the downloads as they are\n"
    # A byte that changes neither size nor time is seen only where all is read.
    name = "mosmed/COVID19_1110/masks/study_0255_mask.nii.gz"
    path, time_ns = data / name, (data / name).stat().st_mtime_ns
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(time_ns, time_ns))
    (data / "structseg" / "Lung_GTV" / "7" / "label.nii.gz").unlink()
    assert look(storage, data) == ({}, set())
    assert verify.main(command) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"changed: {data}: {name}: mosmed/study_0255 infection would be made of another content now",
        f"gone: {data}: nothing is found there for structseg-gtv/train_7 infection",
        "19 of 21 images and label maps are of the downloads as they are",
    ]
    assert verify.main(["--output", str(tmp_path / "none"), "--data", str(data)]) == 2
    assert "no cases; expected the --output of a run that has read downloads" in capsys.readouterr().err


def test_a_damaged_record_is_named(storage, data):
    key = parts_of(storage)[0].key
    for content in (b"{", b"[]", b"{}", b'{"sha256": 1, "source": {"files": []}}', b'{"source": null}', b"\xff"):
        storage.write_bytes(key, content)
        with pytest.raises(IntegrityError, match=rf"{key}: not .*[Rr]emove"):
            parts_of(storage)
