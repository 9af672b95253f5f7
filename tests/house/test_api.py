"""Claims about what a program asks for."""

import io
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK
from small_study import write_study

import orchestrator
from orchestrator.api import make_request
from orchestrator.errors import ConfigError, DataError
from orchestrator.shipped import LOCAL_CLUSTER

AWS = LOCAL_CLUSTER.with_name("aws.yaml")


def test_the_package_is_imported_without_what_takes_seconds():
    code = "import sys, orchestrator; print(*{'torch', 'ray', 'SimpleITK', 'numpy', 'rich'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert shown.stdout.strip() == ""


def test_a_command_is_imported_without_changing_what_its_name_means():
    code = "import orchestrator.evaluate; orchestrator.evaluate('nowhere', 'nowhere', tolerances_mm={1: 1.0})"
    shown = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert shown.stderr.splitlines()[-1].endswith("nowhere: no such folder; expected one with label maps")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'fit'"):
        _ = orchestrator.fit


def test_a_part_of_a_study_is_what_runs():
    study = orchestrator.load_study().select("T1-lung", "task=2")
    request = make_request(study)
    assert len(request.trainings) == 5 + 5
    assert request.cluster.num_gpus == 0  # a miniature leaves GPUs alone
    assert len(study.all_trainings(preset=request.preset)) == 110


def test_one_pattern_needs_no_list():
    assert [t.group for t in make_request(orchestrator.load_study(), only="T1-lung").trainings] == ["T1-lung"] * 5


def test_an_option_that_is_none_is_a_type_error():
    with pytest.raises(TypeError, match="unknown option 'presett'; expected some of matrix, only, preset, cluster"):
        orchestrator.run(orchestrator.load_study(), presett="smoke")
    with pytest.raises(TypeError, match="unknown option 'worker'; expected some of dimension, ignored_label"):
        orchestrator.evaluate("a", "b", tolerances_mm={1: 1.0}, worker=2)


def test_a_pattern_that_matches_nothing_is_refused_when_it_is_used():
    with pytest.raises(ConfigError, match="matches none of the 45 trainings"):
        make_request(orchestrator.load_study().select("T9-*"))


@pytest.mark.parametrize(("kind", "name"), [("trainer", "nnUNetTrainerAdm"), ("planner", "nnUNetPlannerResencM")])
def test_a_model_that_nnunet_does_not_have_is_refused_before_anything_starts(kind, name):
    study = orchestrator.load_study()
    models = tuple(replace(model, **{kind: name}) for model in study.models)
    with pytest.raises(ConfigError, match=f"unknown {kind} '{name}'; did you mean"):
        make_request(replace(study, models=models))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"preset": "papre"}, ConfigError, "unknown; expected one of smoke"),
        ({"preset": "paper"}, ConfigError, "expected --data with their folder"),
        ({"seed": -1}, ConfigError, "seed -1: expected a number from 0"),
        ({"cluster": AWS, "output": "s3://bucket/run"}, ConfigError, "starts machines, which takes an answer"),
        ({"data": "{folder}"}, DataError, "found no such folder; expected the download"),
        ({"data": __file__}, ConfigError, "test_api.py: is a file; expected the folder with the data sets"),
    ],
)
def test_what_does_not_fit_is_raised_before_anything_starts(tmp_path, arguments, error, message):
    given = {name: tmp_path if value == "{folder}" else value for name, value in arguments.items()}
    with pytest.raises(error, match=message):
        orchestrator.run(orchestrator.load_study(), **{"output": tmp_path / "run", **given})
    assert not (tmp_path / "run").exists()


def write_cube(path, *, shift):
    """Write 10 x 10 x 10 voxels of label 1 and one of label 2."""
    path.parent.mkdir(exist_ok=True)
    voxels = np.zeros((20, 20, 20), np.uint8)
    voxels[5:15, 5:15, 5 + shift : 15 + shift], voxels[0, 0, 0] = 1, 2
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(voxels), str(path))


def test_folders_are_scored_to_a_table(tmp_path):
    for case in ("a", "b"):
        write_cube(tmp_path / "labels" / f"{case}.nii.gz", shift=0)
    write_cube(tmp_path / "ours" / "a.nii.gz", shift=1)
    write_cube(tmp_path / "ours" / "stray.nii.gz", shift=0)
    seen = []
    scores = orchestrator.evaluate(
        tmp_path / "labels",
        tmp_path / "ours",
        tolerances_mm={1: 1.0, 2: 1.0},
        metrics=("dsc", "nsd"),
        workers=1,
        on_case=lambda done, total: seen.append((done, total)),
    )
    table = scores.to_pandas()
    assert table[["case", "label", "status"]].to_numpy().tolist() == [
        ["a.nii.gz", 1, "scored"],
        ["a.nii.gz", 2, "scored"],
        ["b.nii.gz", 1, "missing"],
        ["b.nii.gz", 2, "missing"],
    ]
    # Nine of ten layers are common; a surface moved by a voxel is within a voxel's tolerance.
    assert table["dsc"][:2].tolist() == pytest.approx([0.9, 1.0])
    assert table["nsd"][:2].tolist() == pytest.approx([1.0, 1.0])
    assert table["dsc"][2:].isna().all()
    assert scores.to_arrow().column_names == list(table.columns)
    assert scores.without_reference == (f"{tmp_path / 'ours'}/stray.nii.gz",)
    assert seen == [(1, 2), (2, 2)]


def test_labels_and_tolerances_may_be_numbers_of_numpy(tmp_path):
    write_cube(tmp_path / "labels" / "a.nii.gz", shift=0)
    labels = np.unique(np.array([0, 1, 2], np.uint8))[1:]
    tolerances_mm = {**dict.fromkeys(labels, np.float32(1)), (labels[0], labels[1]): 1}
    scores = orchestrator.evaluate(
        tmp_path / "labels", tmp_path / "labels", tolerances_mm=tolerances_mm, metrics="dsc", workers=1
    )
    assert [(row.score.structure, row.score.dsc) for row in scores.rows] == [("1", 1), ("2", 1), ("1+2", 1)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prediction": "nowhere"}, "nowhere: no such folder"),
        ({"prediction": ()}, "found no folder"),
        ({"prediction": None}, "found no folder"),
        ({"tolerances_mm": {}}, "found no label"),
        ({"tolerances_mm": {0: 1.0}}, "reference_labels 0; expected 1 to"),
        ({"tolerances_mm": {1: -1.0}}, "tolerance_mm -1.0; expected at least 0"),
        ({"tolerances_mm": 1.0}, "tolerances_mm 1.0: expected a dict"),
        *(
            ({"tolerances_mm": {label: 1.0}}, f"tolerances_mm: label {label!r}; expected a whole number, or several")
            for label in ("1", "lung", 1.5)
        ),
        ({"tolerances_mm": {1: "1.0"}}, "tolerances_mm: '1.0' for label 1; expected a number of mm"),
        ({"tolerances_mm": {1: 10**400}}, "tolerances_mm: 1000.* for label 1; expected a number of mm"),
        ({"tolerances_mm": {1: None}}, "--label 1: found no tolerance of its NSD; expected one in mm"),
        ({"metrics": "dice"}, "--metrics dice: expected some of dsc"),
        *(({"metrics": metrics}, "--metrics .*: expected some of dsc") for metrics in (None, [1], [["dsc"]], ())),
        ({"dimension": 4}, "--dimension 4: expected 2 or 3"),
        ({"workers": 0}, "--workers 0: expected a whole number of at least 1"),
        ({"workers": "2"}, "--workers '2': expected a whole number of at least 1"),
        *(
            ({"ignored_label": label}, "--ignored-label .*: expected a whole number from 0, or None")
            for label in ("255", "x", b"255", 255.0, (254, 255), [255], {255}, -1, 2**64)
        ),
    ],
)
def test_what_cannot_be_scored_is_refused(tmp_path, arguments, message):
    write_cube(tmp_path / "labels" / "a.nii.gz", shift=0)
    given = {"prediction": tmp_path / "labels", "tolerances_mm": {1: 1.0}, **arguments}
    with pytest.raises(ConfigError, match=message):
        orchestrator.evaluate(tmp_path / "labels", **given)


def test_the_lines_of_a_researcher(tmp_path, capfd):
    import orchestrator as orch

    study = orch.load_study(write_study(tmp_path))
    progress = io.StringIO()
    options = {"preset": "tiny", "cluster": LOCAL_CLUSTER, "output": tmp_path / "first"}
    outcome = orch.run(study.select("organs-fold0"), progress=progress, **options)
    assert (outcome.num_done, outcome.failures) == (1, {})
    scores = orch.open_results(tmp_path / "first").to_pandas()
    assert set(scores["training_id"]) == {"organs-fold0"}
    assert "of 1 trainings done" in progress.getvalue()
    # What is done is not done again, and nothing is printed by what does not own the terminal.
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "first" / "trainings").rglob("*"))
    assert orch.run(study.select("organs-fold0"), **options).num_done == 1
    assert sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "first" / "trainings").rglob("*")) == before
    predictions = tmp_path / "first" / "predictions" / "organs-fold0" / "ct"
    table = orch.evaluate(predictions, predictions, tolerances_mm={1: 2.0, 2: 2.0}).to_pandas()
    assert set(table["status"]) <= {"scored", "both_empty"}
    assert "trainings done" not in capfd.readouterr().out
