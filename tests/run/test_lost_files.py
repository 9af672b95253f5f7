"""A file of a run that was removed is made again where a later stage reads it, found missing before or amid a run."""

import pytest
from test_scheduler import schedule_of, stage, start_all

from orchestrator.benchmark.loading import load_study
from orchestrator.benchmark.presets import PRESETS
from orchestrator.scheduling.critical_path import needed_stages
from orchestrator.scheduling.ended import FailureKind
from orchestrator.scheduling.retries import GiveUp, Retry
from orchestrator.scheduling.scheduler import Schedule
from orchestrator.stages.finished import finished_stages, lost_stages
from orchestrator.stages.records.predictions import PredictionRecord, write_prediction_record
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage
from orchestrator.storage.json_files import write_json
from orchestrator.workflow.graph import build_graph, evaluated_cases
from orchestrator.workflow.keys import StageKey, StageKind

SMOKE = PRESETS["smoke"]
ID = "T2-infection-structseg-fold0"
DONOR = "T1-infection-fold0"


def lost_after(schedule: Schedule, stage_id: str, *lost: str) -> Retry | GiveUp:
    return schedule.fail(stage_id, kind=FailureKind.TRANSIENT, now_s=0, lost=lost)


def test_what_a_stage_has_not_found_is_made_again_before_it_is_tried_again():
    """The image of a trained model was removed: the prediction waits for it, and what was ready for it does too."""
    schedule = schedule_of(
        stage("image", kind=StageKind.INGEST),
        stage("train", "image"),
        stage("predict", "train", "image", kind=StageKind.PREDICT),
        stage("other", "image", kind=StageKind.PREDICT),
        done={"image", "train"},
    )
    assert start_all(schedule) == ["other"]
    assert lost_after(schedule, "other", "image") == Retry(attempt=2, reopened=("image",))
    assert start_all(schedule) == ["image"]
    schedule.finish("image", now_s=1)
    assert schedule.outcomes.done == {"image", "train"}
    for expected in ("other", "predict"):
        assert start_all(schedule, now_s=1) == [expected]
        schedule.finish(expected, now_s=1)
    assert schedule.is_over


def test_what_was_lost_with_what_it_is_made_from_is_made_again_in_order():
    schedule = schedule_of(
        stage("image", kind=StageKind.INGEST),
        stage("labels", "image", kind=StageKind.LABELS),
        stage("score", "labels", "image", kind=StageKind.SCORE),
        done={"image", "labels"},
        cpus=4,
    )
    assert start_all(schedule) == ["score"]
    assert lost_after(schedule, "score", "image", "labels") == Retry(attempt=2, reopened=("image", "labels"))
    for expected in ("image", "labels", "score"):
        assert start_all(schedule) == [expected]
        schedule.finish(expected, now_s=0)
    assert schedule.is_over


def test_stages_that_run_while_what_they_read_is_made_again_end_once():
    schedule = schedule_of(
        stage("image", kind=StageKind.INGEST),
        *(stage(f"fingerprint {i}", "image", kind=StageKind.FINGERPRINT) for i in range(3)),
        done={"image"},
        cpus=4,
    )
    assert len(start_all(schedule)) == 3
    assert lost_after(schedule, "fingerprint 0", "image").reopened == ("image",)
    # The second has not found it either; the third had opened it before.
    assert lost_after(schedule, "fingerprint 1", "image") == Retry(attempt=2)
    schedule.finish("fingerprint 2", now_s=0)
    assert start_all(schedule) == ["image"]
    schedule.finish("image", now_s=0)
    assert start_all(schedule) == ["fingerprint 0", "fingerprint 1"]
    for number in range(2):
        schedule.finish(f"fingerprint {number}", now_s=0)
    assert schedule.is_over
    assert len(schedule.outcomes.done) == 4


@pytest.mark.parametrize("is_given_up", [False, True])
def test_what_waits_before_another_attempt_runs_once_more_although_what_it_reads_is_made_again(is_given_up):
    schedule = schedule_of(
        stage("image", kind=StageKind.INGEST),
        *(stage(name, "image", kind=StageKind.LABELS) for name in ("waiting", "other")),
        done={"image"},
        cpus=4,
    )
    assert set(start_all(schedule)) == {"waiting", "other"}
    assert schedule.fail("waiting", kind=FailureKind.TRANSIENT, now_s=0) == Retry(attempt=2, wait_s=10)
    assert lost_after(schedule, "other", "image").reopened == ("image",)
    for expected in ("image", "other"):
        assert start_all(schedule, now_s=1) == [expected]
        schedule.finish(expected, now_s=1)
    assert start_all(schedule, now_s=10) == ["waiting"]
    if is_given_up:
        assert isinstance(schedule.fail("waiting", kind=FailureKind.DETERMINISTIC, now_s=11), GiveUp)
    else:
        schedule.finish("waiting", now_s=11)
    assert schedule.is_over
    assert start_all(schedule, now_s=20) == []


def test_what_cannot_be_made_again_ends_what_needs_it():
    schedule = schedule_of(
        stage("image", kind=StageKind.INGEST),
        stage("fingerprint", "image", kind=StageKind.FINGERPRINT),
        stage("predict", "image", kind=StageKind.PREDICT),
        done={"image"},
        cpus=4,
    )
    assert set(start_all(schedule)) == {"fingerprint", "predict"}
    assert lost_after(schedule, "fingerprint", "image").reopened == ("image",)
    assert start_all(schedule) == ["image"]
    schedule.fail("image", kind=FailureKind.DETERMINISTIC, now_s=0)
    assert schedule.outcomes.blocked == {"fingerprint", "predict"}
    # What had opened it before it was lost comes to its end all the same.
    schedule.finish("predict", now_s=0)
    assert (schedule.outcomes.blocked, schedule.is_over) == ({"fingerprint"}, True)


def test_what_is_lost_again_and_again_is_given_up():
    schedule = schedule_of(
        stage("image", kind=StageKind.INGEST), stage("score", "image", kind=StageKind.SCORE), done={"image"}
    )
    for attempt in range(2, 7):
        assert start_all(schedule) == ["score"]
        assert lost_after(schedule, "score", "image") == Retry(attempt=attempt, reopened=("image",))
        assert start_all(schedule) == ["image"]
        schedule.finish("image", now_s=0)
    assert start_all(schedule) == ["score"]
    assert isinstance(lost_after(schedule, "score", "image"), GiveUp)
    assert schedule.is_over


@pytest.fixture(scope="module")
def graph():
    study = load_study()
    donor, training = study.trainings(only=(DONOR, ID), preset=SMOKE)
    return build_graph(
        [training],
        donors={DONOR: donor},
        datasets={dataset.name: dataset for dataset in study.datasets},
        preset=SMOKE,
        phantoms=True,
    )


@pytest.fixture
def trained(tmp_path, graph):
    """An output in which everything is there but the scores."""
    storage = open_storage(tmp_path)
    for one in graph.values():
        for key in one.products:
            storage.write_bytes(key, b"{}")
        if one.kind is StageKind.DOWNLOAD:
            archive = f"downloads/{one.key.download}/archive.zip"
            storage.write_bytes(archive, b"")
            write_json(storage, run_paths.phantom_listing(one.key.download), {"files": [archive]})
    training = graph[StageKey.parse(f"train {ID}")].training
    write_json(storage, run_paths.training_record(ID), {"checkpoint_sha256": "of the model"})
    cases = evaluated_cases(training)
    for case in cases[1:]:
        storage.write_bytes(run_paths.prediction(ID, case), b"")
    failures = {cases[0].id: "DataError: cut short"}
    write_prediction_record(storage, ID, PredictionRecord(checkpoint_sha256="of the model", failures=failures))
    storage.delete(run_paths.results(ID))
    return storage


def needed(graph, storage):
    return [*map(str, needed_stages(graph, done=finished_stages(graph, storage)))]


def case_of(graph, part):
    training = graph[StageKey.parse(f"train {ID}")].training
    return {"train": training.train[0], "val": training.val[0], "test": training.evaluation_sets[-1].cases[-1]}[part]


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_a_score_has_images_and_label_maps_of_its_cases_made_again(trained, graph, part):
    assert needed(graph, trained) == [f"score {ID}"]
    case = case_of(graph, part)
    for key in (run_paths.image_record(case), run_paths.case_image(case)):
        trained.delete(key)
        assert needed(graph, trained) == [f"ingest {case.id}", f"score {ID}"]
        assert lost_stages(graph, trained, key=StageKey.parse(f"score {ID}")) == [StageKey.parse(f"ingest {case.id}")]
    trained.delete(run_paths.labels_record(case, label_set="infection"))
    assert needed(graph, trained) == [f"ingest {case.id}", f"labels {case.id} infection", f"score {ID}"]
    # A phantom of which nothing is left is generated again, too.
    (generated,) = graph[StageKey.parse(f"ingest {case.id}")].dependencies
    trained.delete(f"downloads/{generated.download}/archive.zip")
    assert needed(graph, trained)[0] == f"download {generated.download}"


def test_a_score_has_a_lost_prediction_made_again_and_with_it_a_lost_plan(trained, graph):
    training = graph[StageKey.parse(f"train {ID}")].training
    trained.delete(run_paths.plan(ID))
    assert needed(graph, trained) == [f"score {ID}"]  # it does not read the plan
    trained.delete(run_paths.prediction(ID, evaluated_cases(training)[-1]))
    assert needed(graph, trained) == [f"plan {ID}", f"predict {ID}", f"score {ID}"]
    trained.delete(run_paths.plan(DONOR))
    trained.delete(run_paths.fingerprint(case_of(graph, "train"), label_set="infection"))
    assert needed(graph, trained)[:3] == [
        f"fingerprint {case_of(graph, 'train').id} infection",
        f"plan {DONOR}",
        f"plan {ID}",
    ]


def test_a_final_checkpoint_is_trained_again_only_for_a_prediction(trained, graph):
    trained.delete(run_paths.final_checkpoint(ID))
    assert needed(graph, trained) == [f"score {ID}"]
    trained.delete(run_paths.prediction_record(ID))
    assert needed(graph, trained) == [f"train {ID}", f"predict {ID}", f"score {ID}"]


def test_preprocessing_has_made_again_what_it_reads(trained, graph):
    case = case_of(graph, "val")
    for key in (
        run_paths.record_of_patches(run_paths.patches(ID, case)),
        run_paths.plan(ID),
        run_paths.case_labels(case, label_set="infection"),
        run_paths.training_record(ID),
    ):
        trained.delete(key)
    expected = [f"labels {case.id} infection", f"plan {ID}", f"preprocess {ID} {case.id}", f"train {ID}"]
    assert needed(graph, trained) == [*expected, f"predict {ID}", f"score {ID}"]


def test_a_finished_run_needs_nothing_that_was_removed(trained, graph):
    trained.write_bytes(run_paths.results(ID), b"")
    for key in trained.list_keys():
        if not key.startswith(run_paths.RESULTS):
            trained.delete(key)
    assert needed(graph, trained) == []
