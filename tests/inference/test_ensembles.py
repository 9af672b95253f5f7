"""Ensembles of a study: what they are made of and tested on, how they are chosen, and whose labels they give."""

import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.ensembling.ensemble import merge_files
from nnunetv2.inference import predict_from_raw_data
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from small_study import STUDY, write_study

import orchestrator
from orchestrator.api.runs import request_of_run
from orchestrator.benchmark.loading import load_study
from orchestrator.benchmark.presets import PRESETS
from orchestrator.benchmark.study import Study
from orchestrator.benchmark.tables import compared_groups, load_tables
from orchestrator.driver.request import graph_of
from orchestrator.errors import ConfigError
from orchestrator.inference.exporting import export_models
from orchestrator.stages.finished import finished_stages
from orchestrator.stages.records.ensembles import declaration_sha256
from orchestrator.storage.filesystem import open_storage
from orchestrator.training.nnunet.model_folder import find_model_folder, load_model_folder
from orchestrator.workflow.graph import graph_of_study
from orchestrator.workflow.keys import StageKey, StageKind

PAPER = PRESETS["paper"]
ENSEMBLES = """
# Both networks, chosen or not.
ensembles:
  both: {members: [organs*]}
  pair: {members: [model=*], choose: pair}
  best:
    members: [organs, organs-2d]
    choose: 1
    by: nsd
  folds: {members: [organs], over: [fold]}
  all: {members: [source=own], over: [fold, model], choose: pair, facets: {source: all}}
"""


def load(folder: Path, ensembles: str = ENSEMBLES, *, study: str = STUDY) -> Study:
    return load_study(write_study(folder, study + ensembles))


def by_id(study: Study):
    return {training.id: training for training in study.trainings(preset=PAPER)}


def test_members_differ_in_what_is_said_and_in_nothing_else(tmp_path):
    trainings = by_id(load(tmp_path))
    of = {name: [member.id for member in one.members] for name, one in trainings.items() if one.members}
    each = {
        f"organs-{name}-fold{fold}": [f"organs-fold{fold}", f"organs-2d-fold{fold}"]
        for name in ("both", "pair", "best")
        for fold in (0, 1)
    }
    assert of == each | {
        "organs-folds-fold0": ["organs-fold0", "organs-fold1"],
        "organs-all-fold0": ["organs-fold0", "organs-fold1", "organs-2d-fold0", "organs-2d-fold1"],
    }
    assert trainings["organs-both-fold0"].facets == {"source": "own", "model": "both"}
    # One of each model could be there.
    assert trainings["organs-folds-fold0"].facets == {"source": "own", "model": "3d-folds"}
    assert trainings["organs-all-fold0"].facets == {"source": "all", "model": "all"}
    assert [trainings[f"organs-{name}-fold0"].num_folds for name in ("both", "folds", "all")] == [2, 1, 1]


def test_the_score_that_chooses_is_said_and_makes_another_choice(tmp_path):
    trainings = by_id(load(tmp_path))
    chosen_by = {name: trainings[f"organs-{name}-fold0"].chosen_by for name in ("both", "pair", "best")}
    assert chosen_by == {"both": "", "pair": "dsc", "best": "nsd"}
    assert "by the NSD of validation cases" in trainings["organs-best-fold0"].model.note
    best = trainings["organs-best-fold0"]
    assert declaration_sha256(best) != declaration_sha256(replace(best, chosen_by="dsc"))


def test_its_cases_are_those_that_no_member_was_trained_on(tmp_path):
    trainings = by_id(load(tmp_path))
    for one in (one for one in trainings.values() if one.members):
        seen = {case for member in one.members for case in member.train}
        assert {case for member in one.members for case in member.train} == set(one.train)
        assert not seen & {case for tested in one.evaluation_sets for case in tested.cases}
    assert [s.name for s in trainings["organs-both-fold0"].evaluation_sets] == ["val", "external"]
    # What validates one fold trains the other.
    assert [s.name for s in trainings["organs-folds-fold0"].evaluation_sets] == ["external"]


CROSS = STUDY.replace("held_out: {external: [c07, c08]}", "held_out: {}").replace("ct/external", "ct/fold")


@pytest.mark.parametrize(
    ("study", "ensembles", "message"),
    [
        (
            CROSS,
            "{members: [organs], over: [fold]}",
            r"external of organs-fold0: tests ct/c0\d \(of organs-fold\d\).* which a member",
        ),
        (CROSS, "{members: [organs*], choose: pair}", "chosen by 4 cases on which it is tested, such as ct/c0"),
        (
            STUDY.replace("\n    val: [ct/fold]", ""),
            "{members: [organs*], choose: 1}",
            "have no validation case in common",
        ),
        (
            STUDY.replace("\n    test: {external: ct/external}", ""),
            "{members: [organs], over: [fold]}",
            "there is no case on which all of",
        ),
        (
            STUDY,
            "{members: [organs-3d]}",
            "members: organs-3d: matches none of the 4 trainings.*close to it: organs-2d",
        ),
        (STUDY, "{members: [organs]}", "no two of 2 trainings differ in model alone"),
        (STUDY, "{members: [organs*], over: [sourse]}", "unknown facet 'sourse'; did you mean 'source'"),
        (STUDY, "{members: [organs*], choose: 2}", "chooses 2 of 2 groups, organs, organs-2d; expected at least 3"),
        (
            STUDY,
            "{members: [organs], over: [fold], choose: pair}",
            "chooses pair of 1 groups, organs; expected at least 2",
        ),
        (STUDY, "{members: [organs*], choose: 0}", "choose"),
        (STUDY, "{members: [organs*], by: nsd}", "by without choose; expected both"),
        (STUDY, "{members: [organs*], choose: 1, by: hd95}", "expected 'dsc' or 'nsd'"),
        (STUDY, "{members: [organs*], choose: best}", "choose"),
        (STUDY, "{members: []}", "members"),
        (STUDY, "{members: [organs*], facets: {model: x}}", "'model' is a column of every study"),
        (STUDY, "{members: [organs*], facets: {source: 3}}", "source is 3; expected str"),
    ],
)
def test_what_cannot_be_averaged_or_was_seen_is_refused_before_the_start(tmp_path, study, ensembles, message):
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, f"ensembles:\n  both: {ensembles}\n", study=study).trainings(preset=PAPER)


def test_two_of_one_name_and_one_with_the_name_of_a_model_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"ensembles\.2d: is a model, too"):
        load(tmp_path, "ensembles:\n  2d: {members: [organs*]}\n")
    other = "  organs-both: {train: [ct/other-folds], test: {external: ct/external}}\npresets:\n"
    study = load(
        tmp_path,
        "ensembles:\n  both: {members: [organs, organs-2d]}\n",
        study=STUDY.replace("presets:\n", other),
    )
    with pytest.raises(ConfigError, match="ensembles: organs-both-fold0 would be two"):
        study.trainings(preset=PAPER)
    study = load(
        tmp_path,
        "ensembles:\n  Both: {members: [organs, organs-2d]}\n",
        study=STUDY.replace("presets:\n", other),
    )
    with pytest.raises(ConfigError, match="'organs-both-fold0' and 'organs-Both-fold0' differ in the case of letters"):
        study.trainings(preset=PAPER)


def test_an_ensemble_may_be_added_to_a_study_that_was_run(tmp_path):
    without = load(tmp_path, "").sha256
    assert load(tmp_path).sha256 == without
    amid = STUDY.replace("presets:\n", f"{ENSEMBLES.strip()}\n\npresets:\n")
    assert load(tmp_path, "", study=amid.replace("\n# Both", "\n\n# Both")).sha256 != without  # a blank line of its own
    assert load(tmp_path, "", study=STUDY.replace("presets:\n", f"{ENSEMBLES.strip()}\npresets:\n")).sha256 == without
    assert load(tmp_path, study=STUDY.replace("slices: 24", "slices: 25")).sha256 != without


def test_nothing_else_changes_and_an_ensemble_needs_the_models_of_its_members_alone(tmp_path):
    bare, study = load(tmp_path, ""), load(tmp_path)
    plain, everything = (
        graph_of_study(one, one.trainings(preset=PAPER), preset=PAPER, phantoms=True) for one in (bare, study)
    )
    assert {key: everything[key] for key in plain} == plain
    graph = graph_of_study(study, study.trainings(only=["model=both"], preset=PAPER), preset=PAPER, phantoms=True)
    kinds = [key.text for key in graph if key.kind in {StageKind.TRAIN, StageKind.PREDICT, StageKind.ENSEMBLE}]
    assert sorted(kinds) == sorted(
        [f"train organs{suffix}-fold{fold}" for suffix in ("", "-2d") for fold in (0, 1)]
        + [f"{kind} organs-both-fold{fold}" for kind in ("ensemble", "predict") for fold in (0, 1)]
    )
    seen = set()
    for stage in everything.values():
        assert seen.issuperset(stage.dependencies)
        seen.add(stage.key)


def test_a_choice_reads_no_case_but_validation_cases(tmp_path):
    study = load(tmp_path)
    graph = graph_of_study(study, study.trainings(preset=PAPER), preset=PAPER, phantoms=True)
    trainings = by_id(study)
    for name, folds in (("organs-pair-fold0", (0,)), ("organs-all-fold0", (0, 1))):
        stage = graph[StageKey(kind=StageKind.VALIDATE, training=name)]
        read = {key.case for key in stage.dependencies if key.case is not None}
        assert read == {case for fold in folds for case in trainings[f"organs-fold{fold}"].val}
    by_rows = graph[StageKey(kind=StageKind.ENSEMBLE, training="organs-best-fold1")].dependencies
    assert {key.text for key in by_rows if key.kind is StageKind.SCORE} == {
        "score organs-fold1",
        "score organs-2d-fold1",
    }


def test_each_ensemble_is_compared_with_the_first_model(tmp_path):
    study = load(tmp_path)
    (spec,) = load_tables(study).comparisons
    pairs = compared_groups(spec, study.trainings(preset=PAPER))
    # `all` averages trainings of another source as well.
    assert [against.group.removeprefix("organs-") for _, against in pairs] == ["2d", "both", "pair", "best", "folds"]
    assert {baseline.group for baseline, _ in pairs} == {"organs"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """Return the output of a run of everything."""
    folder = tmp_path_factory.mktemp("ensembles")
    load(folder)
    command = [sys.executable, "-m", "orchestrator", "run", "--study", str(folder / "study.yaml"), "--preset", "tiny"]
    done = subprocess.run(
        [*command, "--output", str(folder / "run")], capture_output=True, text=True, check=False, timeout=850
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "run"


def record_of(output: Path, ensemble: str) -> dict:
    return json.loads((output / "trainings" / ensemble / "ensemble.json").read_text())


def rows_of(output: Path):
    rows = orchestrator.open_results(output).to_pandas()
    return rows.set_index(["training_id", "evaluation_set", "case", "structure"]).sort_index()


@pytest.mark.timeout(900)
def test_labels_of_an_ensemble_are_those_of_nnunet(finished, tmp_path, monkeypatch):
    exported = partial(predict_from_raw_data.export_prediction_from_logits, num_threads_torch=1)
    monkeypatch.setattr(predict_from_raw_data, "export_prediction_from_logits", exported)
    export_models(str(finished), str(tmp_path / "models"))
    for ensemble in ("organs-both-fold0", "organs-folds-fold0"):
        members = record_of(finished, ensemble)["members"]
        folders = [unpacked(tmp_path / "models" / f"{member}.zip", tmp_path / member) for member in members]
        for case in ("c07", "c08"):
            expected = merged(folders, finished / f"cases/ct/{case}/image.nii.gz", tmp_path / f"{ensemble}-{case}")
            found = sitk.ReadImage(str(finished / f"predictions/{ensemble}/ct/{case}.nii.gz"))
            np.testing.assert_array_equal(sitk.GetArrayFromImage(found), expected)
            assert expected.any()
    listed = (tmp_path / "models" / "organs-both-fold0.yaml").read_text()
    assert listed.splitlines()[1:] == ["models:", "  - {model: organs-fold0.zip}", "  - {model: organs-2d-fold0.zip}"]


def unpacked(archive: Path, folder: Path) -> Path:
    if not folder.exists():
        zipfile.ZipFile(archive).extractall(folder)
    return find_model_folder(folder)


def merged(models, image: Path, folder: Path) -> np.ndarray:
    """Let nnU-Net predict with each model, keep the probabilities, and merge them as its `ensemble_folders` does."""
    saved = []
    for number, model in enumerate(models):
        (folder / f"{number}").mkdir(parents=True)
        predictor = nnUNetPredictor(0.75, True, False, False, torch.device("cpu"), allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(model), None)
        target = folder / f"{number}" / "case"
        predictor.predict_from_files_sequential([[str(image)]], [str(target)], save_probabilities=True)
        saved.append(f"{target}.npz")
    plan = load_model_folder(models[0]).plan
    reader = plan.plans_manager.image_reader_writer_class()
    merge_files(saved, str(folder / "merged"), ".nii.gz", reader, plan.label_manager)
    return sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "merged.nii.gz")))


@pytest.mark.timeout(900)
def test_the_same_model_predicts_beyond_its_run(finished, tmp_path):
    images = finished / "cases/ct/c07/image.nii.gz"
    orchestrator.predict(finished, images, output=tmp_path, training="organs-both-fold0", device="cpu")
    labels = [tmp_path / "image.nii.gz", finished / "predictions/organs-both-fold0/ct/c07.nii.gz"]
    np.testing.assert_array_equal(*(sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in labels))


@pytest.mark.timeout(900)
def test_the_best_are_chosen_by_validation_cases_as_nnunet_does(finished):
    everything = rows_of(finished)
    rows = everything["dsc"]

    def mean(training: str, metric: str = "dsc") -> float:
        # nnU-Net's: of each structure over its cases, then over structures; without cases that have none.
        return everything[metric][training, "val"].groupby("structure").mean().mean()

    for fold in (0, 1):
        found = {
            tuple(one["groups"]): one["dsc"] for one in record_of(finished, f"organs-pair-fold{fold}")["candidates"]
        }
        assert list(found) == [("organs",), ("organs-2d",), ("organs", "organs-2d")]
        assert found["organs", "organs-2d"] == pytest.approx(mean(f"organs-both-fold{fold}"), abs=1e-12)
        # A model alone takes the largest logit; of its probabilities, two may be equal.
        assert found["organs",] == pytest.approx(mean(f"organs-fold{fold}"), abs=2e-3)
        best = max(found, key=found.get)
        assert record_of(finished, f"organs-pair-fold{fold}")["members"] == [f"{group}-fold{fold}" for group in best]
        alone = max(("organs", "organs-2d"), key=lambda group: mean(f"{group}-fold{fold}", "nsd"))
        of_surfaces = record_of(finished, f"organs-best-fold{fold}")["candidates"]
        assert [one["nsd"] for one in of_surfaces] == pytest.approx(
            [mean(f"{group}-fold{fold}", "nsd") for group in ("organs", "organs-2d")]
        )
        assert record_of(finished, f"organs-best-fold{fold}")["members"] == [f"{alone}-fold{fold}"]
        # One model is that model.
        assert rows[f"organs-best-fold{fold}", "external"].equals(rows[f"{alone}-fold{fold}", "external"])
    together = json.loads((finished / "trainings/organs-all-fold0/validation.json").read_text())
    assert together["num_cases"] == 6


@pytest.mark.timeout(900)
def test_it_stands_in_results_tables_and_report_like_a_training(finished):
    scores = orchestrator.open_results(finished).to_pandas()
    assert set(scores["model"]) == {"3d", "2d", "both", "pair", "best", "3d-folds", "all"}
    of_both = scores[scores["training_id"] == "organs-both-fold0"]
    assert set(of_both["configuration"]) == {"3d_fullres + 2d"}
    members = scores[scores["training_id"].isin(["organs-fold0", "organs-2d-fold0"])].drop_duplicates("training_id")
    assert of_both["train_elapsed_s"].iloc[0] == pytest.approx(members["train_elapsed_s"].sum())
    table = (finished / "tables/results.md").read_text()
    assert "| organs-both |" in table
    assert "pair: the best of 2 models and their pairs, by the DSC of validation cases" in table
    page = (finished / "report/index.html").read_text()
    assert "Models against 3d" in page
    methods = (finished / "report/methods.md").read_text()
    assert methods.startswith("4 models of the study")
    assert "8 ensembles average the probabilities" in methods


@pytest.mark.timeout(900)
def test_it_is_made_anew_when_the_study_says_something_else_of_it(finished, tmp_path):
    storage = open_storage(str(finished))
    request = request_of_run(storage, study=finished.parent / "study.yaml")
    graph = graph_of(request)
    assert finished_stages(graph, storage) == set(graph)
    both = next(one for one in request.trainings if one.id == "organs-both-fold0")
    others = replace(both, members=both.members[::-1])
    changed = graph_of(replace(request, trainings=tuple(others if one is both else one for one in request.trainings)))
    assert {key.text for key in set(changed) - finished_stages(changed, storage)} == {
        f"{kind} organs-both-fold0" for kind in ("ensemble", "predict", "score")
    }
    others = replace(both, facets={**both.facets, "kind": "joint"})
    changed = graph_of(replace(request, trainings=tuple(others if one is both else one for one in request.trainings)))
    assert {key.text for key in set(changed) - finished_stages(changed, storage)} == {"score organs-both-fold0"}
