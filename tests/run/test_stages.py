"""The graph of a run holds what its trainings need, once, and in an order that can be carried out."""

import os
from collections import Counter

import pytest

from orchestrator.benchmark.loading import load_study
from orchestrator.benchmark.presets import PRESETS
from orchestrator.driver.before_start import check_space, check_writable
from orchestrator.errors import ConfigError
from orchestrator.scheduling.critical_path import needed_stages
from orchestrator.stages.finished import finished_stages
from orchestrator.stages.records.predictions import PredictionRecord, write_prediction_record
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage
from orchestrator.storage.json_files import write_json
from orchestrator.workflow.graph import build_graph, evaluated_cases, expected_bytes, label_sets_by_case
from orchestrator.workflow.keys import StageKey, StageKind

PAPER = PRESETS["paper"]


@pytest.fixture(scope="module")
def study():
    return load_study()


def graph_of(study, *patterns, preset=PAPER, phantoms=False):
    trainings = study.trainings(only=patterns, preset=preset)
    return build_graph(
        trainings,
        donors=study.donors(trainings, preset=preset),
        datasets={dataset.name: dataset for dataset in study.datasets},
        preset=preset,
        phantoms=phantoms,
    )


def test_every_stage_comes_after_what_it_needs(study):
    seen = set()
    for stage in graph_of(study).values():
        assert seen.issuperset(stage.dependencies)
        seen.add(stage.key)


def test_core_graph_has_45_of_each_stage_of_a_training(study):
    counts = Counter(stage.kind for stage in graph_of(study, phantoms=True).values())
    for kind in (StageKind.PLAN, StageKind.TRAIN, StageKind.PREDICT, StageKind.SCORE):
        assert counts[kind] == 45
    assert counts[StageKind.DOWNLOAD] == 5
    # 20 + 50 + 50 + 402 + 78 + 63 + 50 cases of the seven labelled sets.
    assert counts[StageKind.INGEST] == 713
    # Task 1: 15 x 4; task 2: 50 + 402 + 63 + 50 + 78; task 3: five folds of each of these and 4 cases.
    assert counts[StageKind.PREPROCESS] == 60 + 643 + 5 * (643 + 5 * 4)


def test_a_case_is_ingested_once_and_each_label_set_that_is_needed_on_its_own(study):
    graph = graph_of(study, "T1-*")
    case = "covid-19-ct-seg/coronacases_001"
    of_case = [stage for stage in graph.values() if stage.case and stage.case.id == case and not stage.training]
    read = {
        stage.key.text: [*map(str, stage.dependencies)]
        for stage in of_case
        if stage.kind in {StageKind.INGEST, StageKind.LABELS}
    }
    assert read == {f"ingest {case}": []} | {
        f"labels {case} {name}": [f"ingest {case}"] for name in ("infection", "lung", "lung-and-infection")
    }


def test_a_training_needs_no_label_set_but_its_own(study):
    graph = graph_of(study, "T1-lung-fold0", "T1-infection-fold0")
    for subtask in ("lung", "infection"):
        open_keys, found = [StageKey.parse(f"score T1-{subtask}-fold0")], set()
        while open_keys:
            needs = graph[open_keys.pop()].dependencies
            found.update(needs)
            open_keys += needs
        assert {one.label_set for one in found if one.kind is StageKind.LABELS} == {subtask}


def test_task_2_alone_plans_its_donor_but_does_not_train_it(study):
    graph = graph_of(study, "T2-lung-structseg")
    assert StageKey.parse("plan T1-lung-fold0") in graph[StageKey.parse("plan T2-lung-structseg-fold0")].dependencies
    assert StageKey.parse("train T1-lung-fold0") not in graph


def test_no_test_case_is_measured_for_a_plan(study):
    graph = graph_of(study, "T1-lung-fold0")
    measured = {stage.case for stage in graph.values() if stage.kind is StageKind.FINGERPRINT}
    (training,) = study.trainings(only=("T1-lung-fold0",), preset=PAPER)
    assert measured == set(training.train)


def test_label_sets_of_mosmed_are_infection_even_for_the_joint_subtask(study):
    trainings = study.trainings(only=("T1-lung-and-infection",), preset=PAPER)
    mosmed = {sets for case, sets in label_sets_by_case(trainings).items() if case.dataset == "mosmed"}
    assert mosmed == {("infection",)}


def test_a_full_disk_is_seen_before_anything_starts(study, tmp_path, monkeypatch):
    graph = graph_of(study, "T1-lung-fold0")
    storage = open_storage(str(tmp_path))
    # 20 cases of 512 x 512 x 176 voxels, 2 bytes each; 4 of them as patches, 2 bytes each; checkpoints of 1 GB.
    expected = 512 * 512 * 176 * (20 * 2 + 4 * 2) + 1_000_000_000
    assert expected_bytes(graph.values(), preset=PAPER) == expected
    monkeypatch.setattr(type(storage), "free_bytes", lambda _: expected)
    check_space(graph.values(), storage=storage, preset=PAPER)
    monkeypatch.setattr(type(storage), "free_bytes", lambda _: expected - 1)
    with pytest.raises(ConfigError, match=r"3\.2 GB free; expected at least 3\.2 GB"):
        check_space(graph.values(), storage=storage, preset=PAPER)


def test_an_output_in_which_a_user_cannot_write_everywhere_is_refused_and_data_in_it_are_not(tmp_path, monkeypatch):
    storage = open_storage(str(tmp_path))
    for key in ("predictions/liver-fold0/ct/c1.nii.gz", "data/imagesTr/c1_0000.nii.gz"):
        storage.write_bytes(key, b"")
    check_writable(storage)
    monkeypatch.setattr(os, "access", lambda path, _: path.name != "imagesTr")
    check_writable(storage)
    monkeypatch.setattr(os, "access", lambda path, _: path.name != "ct")
    with pytest.raises(ConfigError, match=r"cannot write into .*/predictions/liver-fold0/ct; .* `chmod -R g\+rwX`"):
        check_writable(storage)


def test_what_nothing_needs_any_more_takes_no_space(study, tmp_path, monkeypatch):
    """Patches of a training may be removed once its results are there."""
    graph = graph_of(study, "T1-lung-fold[01]")
    done = {StageKey.parse("score T1-lung-fold0")}
    needed = [graph[key] for key in needed_stages(graph, done=done)]
    assert not any(stage.training and stage.training.id == "T1-lung-fold0" for stage in needed)
    free = expected_bytes(needed, preset=PAPER)
    assert free < 0.8 * expected_bytes(graph.values(), preset=PAPER)
    storage = open_storage(str(tmp_path))
    storage.write_bytes("score", b"")
    monkeypatch.setattr(type(storage), "free_bytes", lambda _: free)
    check_space(needed, storage=storage, preset=PAPER)


def test_a_stage_is_finished_only_when_all_of_its_products_are_there(study, tmp_path):
    storage = open_storage(str(tmp_path))
    graph = graph_of(study, "T1-lung-fold0")
    storage.write_bytes(run_paths.final_checkpoint("T1-lung-fold0"), b"weights")
    assert StageKey.parse("train T1-lung-fold0") not in finished_stages(graph, storage)
    storage.write_bytes(run_paths.training_record("T1-lung-fold0"), b"{}")
    assert {*map(str, finished_stages(graph, storage))} == {"train T1-lung-fold0"}


def test_predictions_of_another_checkpoint_are_not_finished_unless_they_are_scored(study, tmp_path):
    storage = open_storage(str(tmp_path))
    graph = graph_of(study, "T1-lung-fold0")
    write_json(storage, run_paths.training_record("T1-lung-fold0"), {"checkpoint_sha256": "second"})
    evaluated = [case.id for case in evaluated_cases(graph[StageKey.parse("train T1-lung-fold0")].training)]
    for checkpoint, expected in (("first", set()), ("second", {"predict T1-lung-fold0"})):
        record = PredictionRecord(checkpoint_sha256=checkpoint, failures=dict.fromkeys(evaluated, "cut short"))
        write_prediction_record(storage, "T1-lung-fold0", record)
        assert {*map(str, finished_stages(graph, storage))} == expected
    storage.delete(run_paths.training_record("T1-lung-fold0"))
    assert finished_stages(graph, storage) == set()
    storage.write_bytes(run_paths.results("T1-lung-fold0"), b"rows")
    assert {*map(str, finished_stages(graph, storage))} == {"predict T1-lung-fold0", "score T1-lung-fold0"}
