"""A study of data sets in nnU-Net's raw layout: few lines, its labels and cases from dataset.json, its own folds."""

import json
import re
from pathlib import Path

import pytest
from nnunetv2.utilities.crossval_split import generate_crossval_split

from orchestrator.benchmark.definition import Case
from orchestrator.benchmark.folds import read_patients
from orchestrator.benchmark.leaks import leak_lines
from orchestrator.benchmark.loading import load_study
from orchestrator.benchmark.presets import PRESETS
from orchestrator.benchmark.raw_dataset import RawDataset
from orchestrator.errors import ConfigError, DataError

PAPER = PRESETS["paper"]
CASES = tuple(f"case_{number:03}" for number in (1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144))
EVERYONE = "case,patient\n" + "".join(f"{name},{chr(97 + index)}\n" for index, name in enumerate(CASES))
STUDY = """title: Tumours
datasets:
  tumours: {nnunet: Dataset137_Tumours, folds: nnunet}
trainings:
  tumours: {train: [tumours/other-folds], val: [tumours/fold]}
"""


def described(folder: str, **changes: object) -> RawDataset:
    values: dict[str, object] = {
        "channels": ("T1", "FLAIR"),
        "labels": {"edema": (1,), "core": (2,)},
        "cases": CASES,
    }
    return RawDataset(folder=folder, **(values | changes))  # type: ignore[arg-type]


def load(folder: Path, text: str = STUDY, *, name: str = "study.yaml", **changes: object):
    path = folder / name
    path.write_text(text)
    return load_study(path, describe=lambda found: described(found, **changes))


def test_five_lines_are_five_trainings_on_the_very_folds_of_nnunet(tmp_path: Path):
    study = load(tmp_path)
    trainings = study.trainings(preset=PAPER)
    assert [training.id for training in trainings] == [f"tumours-fold{fold}" for fold in range(5)]
    for training, split in zip(trainings, generate_crossval_split(sorted(CASES)), strict=True):
        assert [case.name for case in training.train] == sorted(split["train"])
        assert [case.name for case in training.val] == sorted(split["val"])
    assert study.dataset("tumours").channels == ("T1", "FLAIR")
    assert [(s.name, s.label, s.tolerance_mm) for s in study.label_set("tumours").structures] == [
        ("edema", 1, 1.0),
        ("core", 2, 1.0),
    ]


def test_without_data_it_says_that_data_are_needed(tmp_path: Path):
    (tmp_path / "study.yaml").write_text(STUDY)
    with pytest.raises(ConfigError, match=r"datasets.tumours: .*dataset.json; expected --data with the folder of"):
        load_study(tmp_path / "study.yaml")


def test_the_digest_follows_what_dataset_json_says(tmp_path: Path):
    assert load(tmp_path).sha256 != load(tmp_path, cases=CASES[:-1]).sha256
    assert load(tmp_path).sha256 == load(tmp_path).sha256


def test_cases_of_a_patient_are_in_one_fold_and_one_on_both_sides_is_reported(tmp_path: Path):
    patients = {name: name if index > 5 else f"p{index // 2}" for index, name in enumerate(CASES)}
    rows = "".join(f"{name},{patient}\n" for name, patient in patients.items())
    (tmp_path / "patients.csv").write_text("\ufeffcase,patient\n" + rows)
    grouped = load(tmp_path, STUDY.replace("folds: nnunet", "folds: {number: 3, patients: patients.csv}"))
    trainings = grouped.trainings(preset=PAPER)
    assert len(trainings) == 3
    assert sorted(case.name for training in trainings for case in training.val) == list(CASES)
    assert grouped.patient_leaks(trainings) == ()
    mixed = STUDY + f"patients: [[tumours/{CASES[0]}, tumours/{CASES[1]}]]\n"
    leaks = load(tmp_path, mixed).patient_leaks(load(tmp_path, mixed).trainings(preset=PAPER))
    assert {leak.train_case.name for leak in leaks} <= {CASES[0], CASES[1]}


def test_spaces_and_empty_lines_in_a_file_of_patients_mean_nothing(tmp_path: Path):
    rows = "".join(f" {name} ,{' ' * index}p{index // 2}\n,\n" for index, name in enumerate(CASES))
    (tmp_path / "patients.csv").write_text(" case , patient\n" + rows)
    study = load(tmp_path, STUDY.replace("folds: nnunet", "folds: {number: 3, patients: patients.csv}"))
    assert study.patient_leaks(study.trainings(preset=PAPER)) == ()
    assert len(study.patients_with_several_scans) == len(CASES) // 2


def test_patients_of_a_data_set_are_reported_however_it_is_divided(tmp_path: Path):
    (tmp_path / "patients.csv").write_text(EVERYONE.replace("_001,a", "_001,z").replace("_002,b", "_002,z"))
    (tmp_path / "splits.json").write_text(json.dumps([{"train": list(CASES[1:]), "val": [CASES[0]]}]))
    own = load(tmp_path, STUDY.replace("folds: nnunet", "patients: patients.csv, folds: {file: splits.json}"))
    (leak,) = own.patient_leaks(own.trainings(preset=PAPER))
    assert (leak.train_case.name, leak.test_case.name) == ("case_002", "case_001")
    grouped = load(tmp_path, STUDY.replace("folds: nnunet", "patients: patients.csv, folds: {number: 3}"))
    assert grouped.patient_leaks(grouped.trainings(preset=PAPER)) == ()
    with pytest.raises(ConfigError, match="patients stand in folds as well"):
        load(tmp_path, STUDY.replace("folds: nnunet", "patients: patients.csv, folds: {patients: patients.csv}"))


def test_patients_who_share_a_scan_are_one(tmp_path: Path):
    text = STUDY + "patients: [[tumours/case_001, tumours/case_003], [tumours/case_003, tumours/case_002]]\n"
    (scans,) = load(tmp_path, text).patients_with_several_scans
    assert {case.name for case in scans} == {"case_001", "case_002", "case_003"}


TWICE = """title: x
datasets:
  a: {nnunet: Dataset001_A, label_sets: [a], folds: nnunet}
  b: {nnunet: Dataset001_A, label_sets: [a], folds: nnunet}
label_sets: {a: {edema: {label: 1}, core: {label: 2}}}
trainings:
  t: {train: [%s], val: [%s], label_set: a}
"""


@pytest.mark.parametrize("val", ["a/fold", "b/fold"])
def test_images_that_are_trained_on_and_tested_are_reported(tmp_path: Path, val: str):
    study = load(tmp_path, TWICE % ("a/all", val))
    trainings = study.trainings(preset=PAPER)
    leaks = study.patient_leaks(trainings)
    assert sorted(leak.test_case.id for leak in leaks) == [f"{val[0]}/{name}" for name in CASES]
    assert sorted(one for leak in leaks for one in leak.training_ids) == sorted(
        training.id for training in trainings for _ in training.val
    )
    lines = list(leak_lines(leaks))
    assert lines[0].startswith(f"{leaks[0].test_case.id} is trained on and scored in t-fold")
    assert lines[-1] == "1 further cases are trained on and scored."
    apart = load(tmp_path, TWICE % ("a/other-folds", val))
    assert apart.patient_leaks(apart.trainings(preset=PAPER)) == ()


@pytest.mark.parametrize(
    ("train", "words"),
    [("a/all, a/other-folds", "is there twice"), ("a/all, b/all", "is there as a/case_001 as well")],
)
def test_no_image_is_twice_in_a_part(tmp_path: Path, train: str, words: str):
    study = load(tmp_path, TWICE % (train, "a/fold"))
    with pytest.raises(ConfigError, match=f"trainings.t.train: ./case_... {words}; expected parts that share no image"):
        study.trainings(preset=PAPER)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("case,who\n", "expected case and patient"),
        (f"case,patient\n{CASES[0]},a\n", f"no patient for case {CASES[1]}"),
        (f"case,patient\n{CASES[0]},a\n{CASES[0]},b\n", "stands twice"),
        (EVERYONE + "case_300,p7\ncase_301,P7\n", "patients 'p7' and 'P7'; expected one spelling"),
        (EVERYONE + "case_300,7\ncase_301,7.0\n", "patients '7' and '7.0'; expected one spelling"),
        (EVERYONE + "case_300,0\ncase_301,00\n", "patients '0' and '00'; expected one spelling"),
        (
            EVERYONE + "case_300,M\u00fcller\ncase_301,Mu\u0308ller\n",
            r"'M\\xfcller' and 'Mu\\u0308ller'; expected one spelling",
        ),
        (EVERYONE.replace("patient", "patient,patient"), "expected case and patient among them, each once"),
        ("", "expected case and patient"),
        (
            f"case,patient\n{'x' * 200_000},a\n",
            "field larger than field limit .*; expected CSV in UTF-8",
        ),
    ],
)
def test_a_file_of_patients_that_is_not_whole_is_refused(tmp_path: Path, rows: str, words: str):
    (tmp_path / "patients.csv").write_text(rows)
    with pytest.raises(ConfigError, match=words):
        load(tmp_path, STUDY.replace("folds: nnunet", "folds: {patients: patients.csv}"))


@pytest.mark.parametrize(
    ("changed", "encoding"),
    [
        (lambda text: text.replace(",", ";").replace("case;patient", "Case; Patient"), "utf-8-sig"),
        (lambda text: "sep=;\n" + text.replace(",", ";"), "cp1252"),
        (lambda text: text.replace(",", "\t"), "utf-16"),
        (lambda text: text.replace("case_001", "Ma\u0308dchen"), "utf-8"),
    ],
    ids=["semicolons and capital letters", "delimiter that is said", "Unicode text of Excel", "accents as of macOS"],
)
def test_a_file_of_patients_may_be_written_as_spreadsheets_do(tmp_path: Path, changed, encoding: str):
    (tmp_path / "patients.csv").write_bytes(changed(EVERYONE).encode(encoding))
    cases = ("M\u00e4dchen", *CASES[1:]) if "\u0308" in changed(EVERYONE) else CASES
    found = read_patients(tmp_path / "patients.csv", cases)
    assert [found[name] for name in cases] == [line.split(",")[1] for line in EVERYONE.splitlines()[1:]]


@pytest.mark.parametrize("names", ["1_23 12_3", "0e12 0e34", "1.1 1.10", "inf Infinity", "10 100", "0 00a"])
def test_sites_and_numbers_of_patients_are_no_spellings_of_one_number(tmp_path: Path, names: str):
    first, second = names.split()
    (tmp_path / "patients.csv").write_text(EVERYONE + f"case_300,{first}\ncase_301,{second}\n")
    load(tmp_path, STUDY.replace("folds: nnunet", "folds: {patients: patients.csv}"))


def test_splits_final_is_taken_as_nnunet_takes_it_also_if_it_leaves_out_cases(tmp_path: Path):
    splits = [{"train": list(CASES[:4]), "val": [CASES[5]]}, {"train": list(CASES[3:7]), "val": list(CASES[:2])}]
    (tmp_path / "splits_final.json").write_text(json.dumps(splits))
    study = load(tmp_path, STUDY.replace("folds: nnunet", "folds: {file: splits_final.json}"))
    first, second = study.trainings(preset=PAPER)
    assert first.train == tuple(Case(dataset="tumours", name=name) for name in CASES[:4])
    assert [case.name for case in second.val] == list(CASES[:2])


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        ([{"train": ["case_001"], "val": ["nobody"]}], "'nobody' is not among"),
        ([{"train": ["case_001"], "val": ["case_001"]}], "stands twice"),
        ([{"train": ["case_001"], "val": ["case_002"], "test": ["case_003"]}], "and nothing else"),
        ([{"train": [], "val": ["case_002"]}], "found an empty list `train`; expected lists of cases"),
        ([{"train": ["case_002"], "val": []}], "found an empty list `val`; expected lists of cases"),
        ({}, "list of splits"),
        ([], "list of splits"),
    ],
)
def test_splits_that_nnunet_would_take_silently_are_refused(tmp_path: Path, splits: object, words: str):
    (tmp_path / "splits_final.json").write_text(json.dumps(splits))
    with pytest.raises(ConfigError, match=words):
        load(tmp_path, STUDY.replace("folds: nnunet", "folds: {file: splits_final.json}"))


def test_a_split_whose_accents_are_letters_of_their_own_is_told_from_what_it_looks_like(tmp_path: Path):
    (tmp_path / "splits_final.json").write_text(json.dumps([{"train": ["case_001"], "val": ["Ma\u0308dchen"]}]))
    text = STUDY.replace("folds: nnunet", "folds: {file: splits_final.json}")
    with pytest.raises(ConfigError, match=r"'Ma\\u0308dchen' is not among .* expected 'M\\xe4dchen', as its files"):
        load(tmp_path, text, cases=("M\u00e4dchen", *CASES))


def test_held_out_cases_and_those_of_images_ts_are_in_no_fold(tmp_path: Path):
    text = STUDY.replace("folds: nnunet", "folds: nnunet, held_out: {external: [case_144]}").replace(
        "val: [tumours/fold]", "val: [tumours/fold], test: {test: tumours/test, external: tumours/external}"
    )
    study = load(tmp_path, text, test_cases=("t1", "t2"))
    trainings = study.trainings(preset=PAPER)
    assert {case.name for training in trainings for case in training.val} == set(CASES[:-1])
    assert [case.name for case in trainings[0].evaluation_sets[1].cases] == ["t1", "t2"]
    assert [case.name for case in trainings[0].evaluation_sets[2].cases] == ["case_144"]
    text = text.replace("tumours/other-folds", "tumours/rest").replace("val: [tumours/fold], ", "")
    rest = load(tmp_path, text, test_cases=("t1", "t2"))
    assert [case.name for case in rest.trainings(preset=PAPER)[0].train] == list(CASES[:-1])


def test_regions_and_an_ignored_label_come_from_dataset_json(tmp_path: Path):
    labels = {"whole": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}
    study = load(tmp_path, labels=labels, regions_class_order=(1, 2, 3), ignored_label=4)
    own = study.label_set("tumours")
    assert [(s.name, s.label, s.labels) for s in own.structures] == [
        ("whole", 1, (1, 2, 3)),
        ("core", 2, (2, 3)),
        ("enhancing", 3, (3,)),
    ]
    assert own.has_regions
    assert own.ignored_label == 4
    assert own.labels == (1, 2, 3, 4)


def test_one_label_set_for_two_data_sets_whose_values_differ(tmp_path: Path):
    text = """title: Livers of two hospitals
label_sets:
  liver: {liver: {label: 1, tolerance_mm: 2.0}}
datasets:
  first: {nnunet: Dataset001_A, label_sets: [liver], values: {liver: 2}}
  second: {nnunet: Dataset002_B, label_sets: [liver]}
trainings:
  a: {train: [first/all], test: {other: second/all}}
"""
    labels = {"spleen": (1,), "hepar": (2,), "liver": (3,)}
    study = load(tmp_path, text, labels=labels)
    assert study.dataset("first").label_values == {"liver": {1: 0, 2: 1, 3: 0}}
    assert study.dataset("second").label_values == {"liver": {1: 0, 2: 0, 3: 1}}
    with pytest.raises(ConfigError, match=r"unknown structure of dataset.json 'liver'; did you mean 'livre'"):
        load(tmp_path, text, labels={"livre": (1,), "hepar": (2,)})
    with pytest.raises(ConfigError, match="masks have an ignored label"):
        load(tmp_path, text, labels=labels, ignored_label=4)


MAPPED = """title: x
label_sets: {{a: {label_set}}}
datasets:
  a: {{nnunet: Dataset001_A, label_sets: [a]{more}}}
trainings:
  t: {{train: [a/all]}}
"""
REGIONS = {"kidney": (1, 2), "tumour": (2,)}
TWO = "{edema: {label: 1}, core: {label: 2}}"
EVERYTHING = ", channels: [T1, FLAIR]"


@pytest.mark.parametrize(
    ("labels", "label_set", "more", "expected"),
    [
        (REGIONS, "{kidney: {label: 1}}", "", {1: 1, 2: 1}),
        (REGIONS, "{tumour: {label: 1}}", "", {1: 0, 2: 1}),
        (REGIONS, "{kidney: {label: 1}, tumour: {label: 2}}", "", "value 2 of the masks is kidney as well as tumour"),
        (
            REGIONS,
            "{kidney: {label: 2, region: [1, 2]}, tumour: {label: 1, region: [1]}}",
            "",
            "tumour is value 1 of the masks by label set a and value 2 by Dataset001_A/dataset.json",
        ),
        (REGIONS, "{whole: {label: 2, region: [1, 2]}, rim: {label: 1, region: [1]}}", "", {1: 1, 2: 2}),
        (
            REGIONS,
            "{whole: {label: 1, region: [1, 2]}}",
            ", values: {whole: 1}",
            "masks have its labels; expected none",
        ),
        ({"edema": (2,), "core": (1,)}, TWO, "", {1: 2, 2: 1}),
        ({"edema": (2,), "core": (1,)}, TWO, EVERYTHING, "edema is value 1 of the masks by label set a and value 2 by"),
        ({"edema": (1,), "core": (2,)}, TWO, EVERYTHING, {1: 1, 2: 2}),
        ({"edema": (1,)}, TWO, EVERYTHING, "takes value 2 from masks; Dataset001_A/dataset.json has 1"),
        ({"oedema": (1,), "core": (2,)}, TWO, ", values: {edema: 1}", {1: 1, 2: 2}),
        ({"edema": (1,), "core": (2,)}, TWO, ", values: {edma: 1}", "unknown structure 'edma'; did you mean 'edema'"),
        ({"edema": (1,), "core": (2,)}, TWO, ", values: {edema: 2}", "value 2 of the masks is edema as well as core"),
        ({"edema": (1,), "core": (2,)}, TWO, ", values: {core: 9}", "takes value 9 from masks"),
        ({"edema": (1,), "core": (2,)}, TWO, f"{EVERYTHING}, values: {{edema: 2}}", "two structures have one value"),
        ({"edema": (1,), "core": (2,)}, TWO, ", channels: [FLAIR, T1]", "expected the order of the files"),
        ({"edema": (1,), "core": (2,)}, TWO, ", channels: [CT, FLAIR]", {1: 1, 2: 2}),
    ],
)
def test_what_a_study_and_a_data_set_say_of_its_masks_must_agree(tmp_path: Path, labels, label_set, more, expected):
    (tmp_path / "folds.yaml").write_text("a: [p01_1, p01_2, p02, p03]\n")
    text = MAPPED.format(label_set=label_set, more=more)
    if isinstance(expected, str):
        with pytest.raises(ConfigError, match=re.escape(expected)):
            load(tmp_path, text, labels=labels)
    else:
        assert load(tmp_path, text, labels=labels).dataset("a").label_values == {"a": expected}


def test_a_study_that_says_everything_can_be_read_without_its_data(tmp_path: Path):
    def absent(folder: str) -> RawDataset:
        raise DataError(f"{folder}: no such folder")

    (tmp_path / "folds.yaml").write_text("a: [p01_1, p01_2, p02, p03]\n")
    (tmp_path / "study.yaml").write_text(MAPPED.format(label_set=TWO, more=EVERYTHING))
    found = [load_study(tmp_path / "study.yaml", describe=describe) for describe in (None, absent, described)]
    assert [study.dataset("a").label_values for study in found] == [{"a": {1: 1, 2: 2}}] * 3
    assert len({study.sha256 for study in found}) == 1


def test_data_sets_with_other_images_are_not_mixed(tmp_path: Path):
    (tmp_path / "study.yaml").write_text("""title: x
label_sets: {a: {edema: {label: 1}}}
datasets:
  a: {nnunet: Dataset001_A, label_sets: [a]}
  b: {nnunet: Dataset002_B, label_sets: [a]}
trainings:
  t: {train: [a/all], test: {b: b/all}, label_set: a}
""")

    def describe(folder: str) -> RawDataset:
        return described(folder, channels=("CT",) if folder.endswith("A") else ("T1", "FLAIR"))

    with pytest.raises(ConfigError, match="a has CT; b has T1, FLAIR; expected the same images"):
        load_study(tmp_path / "study.yaml", describe=describe)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("nnunet: Dataset137_Tumours, folds: nnunet", "folds: nnunet", "either `source` or `nnunet`"),
        ("Dataset137_Tumours", "Dataset137_Tumours, source: x", "either `source` or `nnunet`"),
        ("folds: nnunet", "folds: nnunett", "folds"),
        ("folds: nnunet", "folds: {number: 40}", "11 cases or patients for 40 folds"),
        ("folds: nnunet", "tolerance_mm: {corr: 2.0}", "unknown structure 'corr'; did you mean 'core'"),
        ("folds: nnunet", "held_out: {fold: [case_001]}", "always means the same"),
        ("folds: nnunet", "held_out: {x: [case_999]}", "'case_999' is not among"),
        ("train: [tumours/other-folds]", "train: [tumours/others]", "is no part"),
    ],
)
def test_a_study_that_does_not_fit_is_refused_with_its_place(tmp_path: Path, old: str, new: str, words: str):
    with pytest.raises(ConfigError, match=words):
        load(tmp_path, STUDY.replace(old, new))


def test_two_models_are_two_groups_in_one_matrix(tmp_path: Path):
    models = "models:\n  base: {}\n  resenc: {planner: nnUNetPlannerResEncM, trainer: nnUNetTrainer, suffix: -resenc}\n"
    trainings = load(tmp_path, STUDY + models).trainings(preset=PAPER)
    assert len(trainings) == 10
    assert {training.facets["model"] for training in trainings} == {"base", "resenc"}
    assert {training.model.planner for training in trainings} == {"ExperimentPlanner", "nnUNetPlannerResEncM"}
    with pytest.raises(ConfigError, match="3d_cascade"):
        load(tmp_path, STUDY + "models: {c: {configuration: 3d_cascade_fullres}}\n")
