"""Image and label sets of a case convert on their own, and what they came from is noticed when it changes."""

import hashlib
import os
import shutil
import zipfile
from pathlib import Path

import layouts
import pytest

from orchestrator.benchmark.definition import Case
from orchestrator.errors import DataError
from orchestrator.sources.convert import convert_image, convert_labels, stamp_image_now, stamp_labels_now
from orchestrator.sources.stamps import changed_files


def case_and_folder(data: Path, dataset: str, case_name: str) -> tuple[Case, dict]:
    return Case(dataset=dataset, name=case_name), {"dataset": layouts.DATASETS[dataset], "downloads": data}


def test_one_bad_label_set_leaves_the_image_and_the_others_alone(data):
    (data / "covid-19-ct-seg" / "Lung_Mask.zip").unlink()
    case, where = case_and_folder(data, "covid-19-ct-seg", "coronacases_001")
    image = convert_image(case, label_sets=("infection", "lung"), **where).image
    assert convert_labels(case, label_set="infection", image=image, **where).labels.GetSize() == image.GetSize()
    with pytest.raises(DataError, match="Lung_Mask: found neither a folder nor an archive"):
        convert_labels(case, label_set="lung", image=image, **where)


def test_a_mask_is_compared_with_the_image_it_is_given(data):
    case, where = case_and_folder(data, "mosmed", "study_0255")
    image = layouts.image_of(layouts.ct_voxels(), origin=(-10.0, -20.0, 35.0))
    with pytest.raises(DataError, match=r"origin -10 x -20 x 30 mm in LPS.*; expected .* image .*study_0255\.nii\.gz"):
        convert_labels(case, label_set="infection", image=image, **where)
    # Of an image whose file is not there any more the case is named.
    (data / "mosmed" / "COVID19_1110" / "studies" / "CT-1" / "study_0255.nii.gz").unlink()
    with pytest.raises(DataError, match="as of its image mosmed/study_0255"):
        convert_labels(case, label_set="infection", image=image, **where)


def test_a_stamp_names_the_files_below_the_data_folder_and_digests_what_was_used(data):
    case, where = case_and_folder(data, "covid-19-ct-seg", "coronacases_001")
    source = convert_image(case, label_sets=("infection",), **where).source
    archive = data / "covid-19-ct-seg" / "COVID-19-CT-Seg_20cases.zip"
    (stamp,) = source.files
    assert stamp.name == "covid-19-ct-seg/COVID-19-CT-Seg_20cases.zip"
    assert (stamp.num_bytes, stamp.mtime_ns) == (archive.stat().st_size, archive.stat().st_mtime_ns)
    with zipfile.ZipFile(archive) as opened:
        assert source.sha256 == hashlib.sha256(opened.read("coronacases_org_001.nii.gz")).hexdigest()
    assert source.files == stamp_image_now(case, label_sets=("infection",), **where)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("covid-19-ct-seg", "covid-19-ct-seg/Infection_Mask.zip"),
        ("structseg-gtv", "structseg/Lung_GTV/7/label.nii.gz"),
        ("nsclc-pe", "nsclc/Thoracic_Cavities/LUNG1-001/LUNG1-001_effusion_first_reviewer.nii.gz"),
        ("msd-lung-tumour", "msd/Task06_Lung.tar"),
        ("mosmed", "mosmed/COVID19_1110/masks/study_0255_mask.nii.gz"),
    ],
)
def test_a_mask_that_was_replaced_looks_different(data, name, file):
    case, where = case_and_folder(data, name, layouts.DATASETS[name].case_names[0])
    before = stamp_labels_now(case, label_set="infection", **where)
    assert changed_files(before, stamp_labels_now(case, label_set="infection", **where)) == ()
    os.utime(data / file, (1, 1))
    assert changed_files(before, stamp_labels_now(case, label_set="infection", **where)) == (file,)


def test_a_slice_or_a_mask_that_comes_or_goes_is_noticed(data):
    case, where = case_and_folder(data, "nsclc-pe", "LUNG1-001")
    slices = "nsclc/NSCLC-Radiomics/LUNG1-001/09-18-2008-StudyID/0.000000-82046"
    before = stamp_image_now(case, label_sets=("infection",), **where)
    (data / slices / "1-05.dcm").rename(data / slices / "1-13.dcm")
    after = stamp_image_now(case, label_sets=("infection",), **where)
    assert changed_files(before, after) == (f"{slices}/1-05.dcm", f"{slices}/1-13.dcm")
    # Another reviewer's mask, which is preferred, is another source.
    before = stamp_labels_now(case, label_set="infection", **where)
    first = data / "nsclc/Thoracic_Cavities/LUNG1-001/LUNG1-001_effusion_first_reviewer.nii.gz"
    shutil.copy2(first, first.with_name("LUNG1-001_effusion_primary_reviewer.nii.gz"))
    assert len(changed_files(before, stamp_labels_now(case, label_set="infection", **where))) == 2
