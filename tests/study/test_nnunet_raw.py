"""Data sets in nnU-Net's raw layout: what is in a folder, what is wrong with it, and what cases become."""

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import imageio.v3
import numpy as np
import pytest
import SimpleITK as sitk
from raw_datasets import NAMES, dataset_of, write, write_dataset

from orchestrator.benchmark.definition import Case
from orchestrator.benchmark.loading import load_study
from orchestrator.errors import DataError
from orchestrator.images.image_file import ImageFile
from orchestrator.sources.case import CaseRequest
from orchestrator.sources.convert import (
    convert_image,
    convert_labels,
    source_of_image_now,
    source_of_labels_now,
    stamp_image_now,
)
from orchestrator.sources.inspect import inspect_downloads
from orchestrator.sources.nnunet_raw.description import parse_description
from orchestrator.sources.nnunet_raw.survey import Describer, raw_folder_of_environment, survey

FOLDER = "Dataset137_Things"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    data = tmp_path_factory.mktemp("raw")
    write_dataset(data, shape=(4, 24, 20), test_names=("t1",))
    return data


@pytest.fixture
def data(written, tmp_path):
    shutil.copytree(written, tmp_path / "raw")
    return tmp_path / "raw"


def change_description(data: Path, **changes: object) -> None:
    path = data / FOLDER / "dataset.json"
    described = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in described.items() if value is not None}))


def test_a_data_set_says_what_is_in_it(data):
    found = Describer(str(data))(FOLDER)
    assert (found.channels, found.cases, found.test_cases) == (("CT", "T2"), tuple(sorted(NAMES)), ("t1",))
    assert found.labels == {"small": (1,), "large": (2,)}


@pytest.mark.parametrize("name", ["Dataset137", "137", "Dataset137_Things"])
def test_its_number_is_enough(data, name):
    assert Describer(str(data))(name).folder == FOLDER


def test_what_desktops_leave_is_nothing(data):
    for part in ("imagesTr", "labelsTr"):
        (data / FOLDER / part / "._case_001_0000.nii.gz").write_bytes(b"\0\5\x16\7")
        (data / FOLDER / part / ".DS_Store").write_bytes(b"\0")
        (data / FOLDER / part / ".#case_001_0000.nii.gz").symlink_to("me@host.1:2")
    (data / FOLDER / "notes").symlink_to("nowhere")
    assert Describer(str(data))(FOLDER).cases == tuple(sorted(NAMES))


def test_what_nnunet_1_wrote_is_refused_with_the_command_that_converts_it(data):
    change_description(data, labels={"0": "background", "1": "small"})
    with pytest.raises(DataError, match=r"of nnU-Net 1. Convert it with nnUNetv2_convert_old_nnUNet_dataset"):
        Describer(str(data))(FOLDER)
    with pytest.raises(DataError, match="nnUNetv2_convert_old_nnUNet_dataset"):
        Describer(str(data))("Task137_Things")


def test_a_folder_that_is_not_there_is_named_beside_those_that_are(data):
    with pytest.raises(DataError, match=r"Dataset138: found no such folder beside Dataset137_Things.*nnUNet_raw"):
        Describer(str(data))("Dataset138")
    with pytest.raises(DataError, match="this one is a data set itself"):
        Describer(str(data / FOLDER))(FOLDER)
    shutil.copytree(data / FOLDER, data / "Dataset137_Copy")
    with pytest.raises(DataError, match="2 folders of this number: Dataset137_Copy, Dataset137_Things"):
        Describer(str(data))("137")


def rename(part: str, old: str, new: str) -> Callable[[Path], object]:
    return lambda root: (root / part / old).rename(root / part / new)


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no label map": (
        lambda root: (root / "labelsTr" / "b-2.nii.gz").unlink(),
        r"labelsTr/b-2.nii.gz: found no such file; expected the label map of case b-2",
    ),
    "a label map with the number of a channel": (
        rename("labelsTr", "b-2.nii.gz", "b-2_0000.nii.gz"),
        "b-2_0000.nii.gz is there.*Label maps bear the name of the case alone",
    ),
    "a channel": (
        lambda root: (root / "imagesTr" / "b-2_0001.nii.gz").unlink(),
        r"imagesTr/b-2_0001.nii.gz: found no such file.*expected channel 1 \(T2\) of it",
    ),
    "one channel too many": (
        lambda root: shutil.copy(root / "imagesTr/b-2_0000.nii.gz", root / "imagesTr/b-2_0002.nii.gz"),
        "3 channels of case b-2; expected 2",
    ),
    "an image": (lambda root: [p.unlink() for p in root.glob("imagesTr/b-2_*")], "a label map without an image"),
    "images without a number": (
        rename("imagesTr", "b-2_0000.nii.gz", "b-2.nii.gz"),
        "1 images without the number of a channel: b-2.nii.gz .* expected names such as b-2_0000.nii.gz",
    ),
    "another ending": (
        lambda root: [p.rename(p.with_name(p.name.replace(".nii.gz", ".nii"))) for p in root.glob("imagesTr/*")],
        "no image that ends with .nii.gz",
    ),
    "a name that no file can have": (
        lambda root: [p.rename(p.with_name(p.name.replace("b-2", "b 2"))) for p in root.glob("*Tr/b-2*")],
        "expected letters, digits, _ . and -",
    ),
    "accents as of macOS": (
        lambda root: [
            p.rename(p.with_name(p.name.replace("b-2", "Bu\u0308" if p.parent.name == "labelsTr" else "B\u00fc")))
            for p in root.glob("*Tr/b-2*")
        ],
        "1 names whose accents are letters of their own, as macOS writes them .* expected names of letters",
    ),
    "a case twice": (
        lambda root: [
            shutil.copy(p, p.parent.with_name(p.parent.name.replace("Tr", "Ts"))) for p in root.glob("*Tr/b-2*")
        ],
        "a case of this name in imagesTr as well",
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_files_that_do_not_fit_are_named(data, kind):
    change, words = FILES[kind]
    change(data / FOLDER)
    with pytest.raises(DataError, match=words):
        Describer(str(data))(FOLDER)
    Describer(str(data), is_strict=False)(FOLDER)


def test_a_number_of_cases_that_disagrees_is_only_a_note(data):
    change_description(data, numTraining=99)
    (note,) = survey(str(data), FOLDER).cases.notes
    assert note.endswith("numTraining is 99, and there are 3 training cases")


DESCRIPTIONS: dict[str, tuple[object, str]] = {
    "not JSON": (b"{", "not JSON"),
    "nested too deep": (b"[" * 100_000, "not JSON"),
    "no text": (b"\xff\xfe\0", "not JSON"),
    "a list": ([], "JSON of list"),
    "a key twice": (b'{"labels": {"a": 1, "a": 2}}', "'a' stands twice"),
    "no channels": ({"channel_names": None}, "no key 'channel_names'"),
    "channels that begin with 1": ({"channel_names": {"1": "CT"}}, "names of the channels by number"),
    "channels that are no text": ({"channel_names": {"0": ["CT"]}}, "names of the channels by number"),
    "no labels": ({"labels": None}, "no key 'labels'"),
    "no background": ({"labels": {"a": 1}}, '"background": 0 among them'),
    "nothing beside the background": ({"labels": {"background": 0}}, "at least one structure"),
    "labels that are text": ({"labels": {"background": 0, "a": "1"}}, "whole numbers up to 255"),
    "labels that are true": ({"labels": {"background": 0, "a": True}}, "whole numbers up to 255"),
    "labels that are fractions": ({"labels": {"background": 0, "a": 1.0}}, "whole numbers up to 255"),
    "labels twice": ({"labels": {"background": 0, "a": 1, "b": 1}}, "another value for each"),
    "regions without an order": ({"labels": {"background": 0, "a": [1, 2], "b": 2}}, "a list of 2 labels"),
    "an ending of nobody": ({"file_ending": ".jpg"}, "expected one of .nii.gz"),
    "an ending without a dot": ({"file_ending": "nii.gz"}, "expected one of .nii.gz"),
    "no ending": ({"file_ending": None}, "no key 'file_ending'"),
    "a reader of others": ({"overwrite_image_reader_writer": "MyIO"}, "Readers of others are not run"),
    "a reader that is no name": ({"overwrite_image_reader_writer": {}}, "Readers of others are not run"),
    "files outside": ({"dataset": {"a": {"images": ["../x.nii.gz"], "label": "y"}}}, "inside of the folder"),
    "files elsewhere": ({"dataset": {"a": {"images": ["/etc/passwd"], "label": "y"}}}, "inside of the folder"),
    "files by variables": ({"dataset": {"a": {"images": ["$HOME/x"], "label": "y"}}}, "inside of the folder"),
    "files that are none": ({"dataset": {"a": {"images": [], "label": "y"}}}, "cases with their files"),
}


@pytest.mark.parametrize("kind", DESCRIPTIONS)
def test_a_description_that_does_not_fit_is_one_sentence(kind):
    content, words = DESCRIPTIONS[kind]
    if isinstance(content, dict):
        whole = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz"} | content
        content = {key: value for key, value in whole.items() if value is not None}
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    with pytest.raises(DataError, match=words):
        parse_description(raw, name="dataset.json")


def test_regions_an_ignored_label_and_the_channels_of_nnunet_1_are_understood():
    found = parse_description(
        json.dumps(
            {
                "modality": {"1": "FLAIR", "0": "T1"},
                "labels": {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3},
                "regions_class_order": [1, 2],
                "file_ending": ".nrrd",
            }
        ).encode(),
        name="dataset.json",
    )
    assert found.channels == ("T1", "FLAIR")
    assert (dict(found.labels), found.regions_class_order, found.ignored_label) == (
        {"whole": (1, 2), "core": (2,)},
        (1, 2),
        3,
    )


def test_cases_that_are_listed_are_those_of_the_list(data):
    root = data / FOLDER
    (root / "elsewhere").mkdir()
    for path in root.glob("imagesTr/b-2*"):
        path.rename(root / "elsewhere" / path.name.replace("b-2", "x"))
    files = {"images": ["elsewhere/x_0000.nii.gz", "./elsewhere/x_0001.nii.gz"], "label": "labelsTr/b-2.nii.gz"}
    change_description(data, dataset={"patient7": files})
    assert Describer(str(data))(FOLDER).cases == ("patient7",)
    dataset = dataset_of(names=("patient7",))
    found = convert("patient7", data=data, dataset=dataset)
    assert found.GetSize() == (24, 28, 4)
    change_description(data, dataset={"patient7": files | {"label": "labelsTr/nobody.nii.gz"}})
    with pytest.raises(DataError, match=r"which dataset.json lists for case patient7"):
        Describer(str(data))(FOLDER)


def convert(name: str, *, data: Path, dataset=None) -> sitk.Image:
    """Convert a case and return its first channel."""
    dataset = dataset or dataset_of()
    case = Case(dataset="things", name=name)
    image = convert_image(case, dataset=dataset, label_sets=["things"], downloads=data)
    convert_labels(case, dataset=dataset, label_set="things", image=image.image, downloads=data)
    assert len(image.further) == len(dataset.channels) - 1
    return image.image


def problems_of(data: Path, *, thorough: bool) -> list[str]:
    requests = [CaseRequest(dataset=dataset_of(), case_name=name, label_sets=("things",)) for name in sorted(NAMES)]
    return [found.line for found in inspect_downloads(requests, downloads=data, thorough=thorough).problems]


@pytest.mark.parametrize("thorough", [False, True])
def test_channels_and_masks_on_other_grids_are_refused(data, thorough):
    assert problems_of(data, thorough=thorough) == []
    for path, shift in (("imagesTr/b-2_0001", (0.0, 5.0, 0.0)), ("labelsTr/case_001", (0.0, 0.0, 9.0))):
        file = str(data / FOLDER / f"{path}.nii.gz")
        image = sitk.ReadImage(file)
        image.SetOrigin(np.add(image.GetOrigin(), shift).tolist())
        sitk.WriteImage(image, file)
    channel, mask = problems_of(data, thorough=thorough)
    assert "b-2_0001.nii.gz: found a channel of origin" in channel
    assert "Bring all channels of a case onto one grid" in channel
    assert "case_001.nii.gz: found a mask of origin" in mask


def test_values_that_the_study_does_not_know_are_named(data):
    dataset = dataset_of(values={1: 1})
    case = Case(dataset="things", name="b-2")
    image = convert_image(case, dataset=dataset, label_sets=["things"], downloads=data)
    with pytest.raises(DataError, match="unknown label values 2; expected only 0 and 1"):
        convert_labels(case, dataset=dataset, label_set="things", image=image.image, downloads=data)


def test_a_ct_that_is_not_in_hounsfield_units_and_an_empty_channel_are_warnings_with_numbers(data):
    for path in (data / FOLDER).glob("imagesTr/b-2_000*"):
        image = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        write(path, np.clip(image, 0, 255) if "0000" in path.name else 0 * image + 3, spacing_xyz=(0.75, 0.875, 5.0))
    case = Case(dataset="things", name="b-2")
    found = convert_image(case, dataset=dataset_of(), label_sets=["things"], downloads=data)
    assert "channel 0 (CT) has intensities from 0 to 255: a CT in Hounsfield units has air" in found.warnings[0]
    assert "channel 1 (T2) has intensities from 3 to 3: it is empty" in found.warnings[1]


def test_a_changed_channel_is_another_source(data):
    dataset, case = dataset_of(), Case(dataset="things", name="b-2")
    before = convert_image(case, dataset=dataset, label_sets=["things"], downloads=data).source
    assert [file.name for file in before.files] == [
        f"{FOLDER}/imagesTr/b-2_0000.nii.gz",
        f"{FOLDER}/imagesTr/b-2_0001.nii.gz",
    ]
    assert source_of_image_now(case, dataset=dataset, label_sets=["things"], downloads=data) == before
    second = data / FOLDER / "imagesTr" / "b-2_0001.nii.gz"
    write(second, sitk.GetArrayFromImage(sitk.ReadImage(str(second))) + 1, spacing_xyz=(0.75, 0.875, 5.0))
    assert stamp_image_now(case, dataset=dataset, label_sets=["things"], downloads=data) != before.files
    after = source_of_image_now(case, dataset=dataset, label_sets=["things"], downloads=data)
    assert after.sha256 != before.sha256


def test_the_source_of_labels_is_found_again(data):
    dataset, case = dataset_of(), Case(dataset="things", name="b-2")
    image = convert_image(case, dataset=dataset, label_sets=["things"], downloads=data).image
    made = convert_labels(case, dataset=dataset, label_set="things", image=image, downloads=data)
    assert source_of_labels_now(case, dataset=dataset, label_set="things", downloads=data) == made.source


@pytest.mark.parametrize("thorough", [False, True])
def test_files_that_are_cut_short_or_none_are_named(data, thorough):
    cut = data / FOLDER / "imagesTr" / "b-2_0001.nii.gz"
    cut.write_bytes(cut.read_bytes()[:-400])
    (data / FOLDER / "labelsTr" / "case_001.nii.gz").write_bytes(b"no image")
    lines = problems_of(data, thorough=thorough)
    assert len(lines) == 2
    assert any("b-2_0001.nii.gz" in line for line in lines)
    assert any("case_001.nii.gz: found not a gzip file" in line for line in lines)


def test_a_folder_may_be_given_from_where_one_is(data, monkeypatch):
    (data / "below").mkdir()
    monkeypatch.chdir(data / "below")
    assert Describer("..")(FOLDER).cases == tuple(sorted(NAMES))
    assert problems_of(Path(".."), thorough=True) == []


def test_how_much_work_a_case_is_follows_from_its_files_and_is_no_part_of_the_study(data):
    text = f"title: x\ndatasets: {{t: {{nnunet: {FOLDER}}}}}\ntrainings: {{t: {{train: [t/all]}}}}\n"
    (data / "study.yaml").write_text(text)
    before = load_study(data / "study.yaml", describe=Describer(str(data)))
    assert before.dataset("t").num_slices == 1
    # In every version, since runs and bundles say of which study they are: a new field with its default is no part.
    assert before.sha256.startswith("fb7f104e3a26ef9a")
    for path in (data / FOLDER).glob("imagesTr/*"):
        path.write_bytes(path.read_bytes() + bytes(3 * 512 * 512))
    after = load_study(data / "study.yaml", describe=Describer(str(data)))
    assert (after.dataset("t").num_slices, after.sha256) == (4, before.sha256)
    (data / "study.yaml").write_text(text.replace(FOLDER, f"{FOLDER}, slices: 77"))
    assert load_study(data / "study.yaml", describe=Describer(str(data))).dataset("t").num_slices == 77


def test_a_header_whose_voxels_lie_outside_of_the_data_is_refused(tmp_path):
    data = tmp_path / "raw"
    root = write_dataset(data, channels=("T1",), ending=".mhd", shape=(4, 24, 20))
    dataset = dataset_of(channels=("T1",))
    assert convert("b-2", data=data, dataset=dataset).GetSize() == (24, 28, 4)
    (root / "imagesTr" / "b-2_0000.raw").rename(tmp_path / "outside.raw")
    header = root / "imagesTr" / "b-2_0000.mhd"
    header.write_text(header.read_text().replace("b-2_0000.raw", "../../../outside.raw"))
    with pytest.raises(DataError, match=r"voxels are in .*outside.raw; expected a file beside it"):
        convert("b-2", data=data, dataset=dataset)


def test_a_mask_in_colours_and_one_of_0_and_255_say_what_is_wrong(tmp_path):
    data = tmp_path / "raw"
    root = write_dataset(data, channels=("grey",), ending=".png", shape=(24, 20))
    dataset = dataset_of(channels=("grey",))
    mask = imageio.v3.imread(root / "labelsTr" / "b-2.png")
    imageio.v3.imwrite(root / "labelsTr" / "b-2.png", np.dstack([mask] * 3))
    with pytest.raises(DataError, match=r"a picture in colours .3 values a pixel.; expected one value"):
        convert("b-2", data=data, dataset=dataset)
    imageio.v3.imwrite(root / "labelsTr" / "b-2.png", ((mask > 0) * 255).astype(np.uint8))
    with pytest.raises(DataError, match="unknown label values 255; expected only 0 and 1, 2"):
        convert("b-2", data=data, dataset=dataset)
    imageio.v3.imwrite(root / "imagesTr" / "b-2_0000.png", np.dstack([mask] * 3))
    with pytest.raises(DataError, match="3 channels in 1 files; expected 1: grey"):
        convert("b-2", data=data, dataset=dataset)


def test_a_stack_without_its_spacing_is_noted_and_a_bad_one_refused(tmp_path):
    data = tmp_path / "raw"
    root = write_dataset(data, channels=("T1",), ending=".tiff", shape=(6, 24, 20))
    case, dataset = Case(dataset="things", name="b-2"), dataset_of(channels=("T1",))
    found = convert_image(case, dataset=dataset, label_sets=["things"], downloads=data)
    assert found.image.GetSpacing() == (0.75, 0.875, 5.0)
    assert len(found.source.files) == 2
    (root / "imagesTr" / "b-2.json").write_text('{"spacing": [5.0, 0.0, 1.0]}')
    with pytest.raises(DataError, match="three numbers above 0"):
        convert_image(case, dataset=dataset, label_sets=["things"], downloads=data)
    (root / "imagesTr" / "b-2.json").unlink()
    found = convert_image(case, dataset=dataset, label_sets=["things"], downloads=data)
    assert found.image.GetSpacing() == (1.0, 1.0, 1.0)
    assert found.notes[0].endswith("no b-2.json with its spacing, taken as 1 mm as nnU-Net does")


@pytest.mark.parametrize("name", ["a.tiff", "a.png"])
def test_a_picture_that_is_cut_or_changed_anywhere_is_a_fault_of_the_file_and_nothing_else(tmp_path, name):
    path, random = tmp_path / name, np.random.default_rng(0)
    shape = (5, 9, 11) if name == "a.tiff" else (9, 11)
    write(path, random.integers(0, 255, shape).astype(np.uint8))
    whole = path.read_bytes()
    for number in range(0, len(whole), 3):
        path.write_bytes(whole[:number] + bytes([255 - whole[number]]) + whole[number + 1 :])
        with suppress(DataError, MemoryError):
            ImageFile(path=path).read()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=rf"{name}: found a file that cannot be read"):
        ImageFile(path=path).read()


@pytest.mark.parametrize(("value", "found"), [("", None), ('"/data/raw"', "/data/raw"), (" /data/raw ", "/data/raw")])
def test_the_variable_of_nnunet_is_read_as_people_set_it(monkeypatch, value, found):
    monkeypatch.setenv("nnUNet_raw", value)
    assert raw_folder_of_environment() == found
