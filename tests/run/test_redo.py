"""What was made of data that have changed is refused by name, or removed with all that follows from it and no more."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from orchestrator.benchmark.loading import load_study
from orchestrator.benchmark.presets import PRESETS
from orchestrator.cluster.kinds.local import LocalCluster
from orchestrator.driver import before_start, run
from orchestrator.driver.changed_data import ChangedPart, Comparison, parts_of
from orchestrator.driver.claim import claim_output, place_of_data
from orchestrator.driver.request import RunRequest, graph_of, identity_of
from orchestrator.errors import ConfigError, DataError
from orchestrator.images.problem import Problem
from orchestrator.progress import NoListener
from orchestrator.sources import inspect
from orchestrator.sources.stamps import SourceStamp
from orchestrator.stages.records.cases import CaseRecord, write_case_record
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage
from orchestrator.storage.json_files import write_json
from orchestrator.workflow.keys import StageKind

FIRST, SECOND = "T1-infection-fold0", "T1-infection-fold1"
LUNG = "T1-lung-fold0"
FILE = "covid-19-ct-seg/Infection_Mask.zip"


@pytest.fixture
def request_for_first(tmp_path):
    """An output in which two trainings of infection and one of lungs are done; a call for the first alone."""
    study = load_study()
    preset = PRESETS["smoke"]
    request = RunRequest(
        study=study,
        trainings=study.trainings(only=(FIRST, SECOND, LUNG), preset=preset),
        preset=preset,
        seed=0,
        data=str(tmp_path / "downloads"),
        output=str(tmp_path / "run"),
        cluster=LocalCluster(),
    )
    storage = open_storage(request.output)
    claim_output(storage, identity=identity_of(request), trainings=[t.id for t in request.trainings])
    for stage in graph_of(request).values():
        for key in stage.products:
            storage.write_bytes(key, b"")
        if stage.kind in {StageKind.INGEST, StageKind.LABELS}:
            record = CaseRecord(sha256="", source=SourceStamp(files=(), sha256=""))
            write_case_record(storage, stage.products[-1], record)
        elif stage.kind is StageKind.PREDICT:
            for case in stage.training.cases:
                storage.write_bytes(run_paths.prediction(stage.training.id, case), b"")
        elif stage.kind is StageKind.TRAIN:
            storage.write_bytes(run_paths.checkpoint_slots(stage.training.id)[0], b"")
            write_json(storage, run_paths.training_progress(stage.training.id), {})
    first = study.trainings(only=(FIRST,), preset=preset)
    return replace(request, trainings=first), storage


def changing(monkeypatch, storage, *names, all_gone=False):
    """Let these parts, by name, be made of another content now."""
    parts = {part.name: part for part in parts_of(storage)}
    changed = tuple(ChangedPart(part=parts[name], files=(FILE,)) for name in names)
    found = Comparison(changed=changed, touched=(), gone=tuple(parts.values()) if all_gone else ())
    monkeypatch.setattr(before_start, "compare_with_downloads", lambda *_, **__: found)


def trained_on(request, name):
    (training,) = request.study.trainings(only=(name,), preset=request.preset)
    return training.train[0]


def look(request, storage):
    """Do what a run does before it begins; returns what it notes and removes."""
    notes, before = [], set(storage.list_keys())
    asked_for = (FIRST, SECOND, LUNG)
    before_start.settle_changed_data(request, storage, asked_for=asked_for, note=notes.append)
    return notes, before - set(storage.list_keys())


def no_cluster(config, name):
    raise AssertionError("nothing may be started")


def test_changed_data_are_refused_with_files_trainings_and_what_to_do(request_for_first, monkeypatch):
    request, storage = request_for_first
    case = trained_on(request, FIRST)
    changing(monkeypatch, storage, f"{case.id} infection")
    before = storage.list_keys()
    refusals = [
        lambda: look(request, storage),
        lambda: before_start.check_unchanged(request),
        lambda: run.run(request, connect=no_cluster, listener=NoListener()),
    ]
    for refused in refusals:
        with pytest.raises(DataError) as caught:
            refused()
        text = str(caught.value)
        assert f"{FILE}: changed since this run has read {case.id} infection of it" in text
        # The second is tested on the case.
        assert f"Trained or scored with the old: {FIRST}, {SECOND}. Pass --redo-changed" in text
    assert [key for key in storage.list_keys() if not key.startswith("drivers/")] == before
    before_start.check_unchanged(replace(request, redo_changed=True))


def test_a_changed_mask_takes_with_it_what_was_trained_on_it_and_the_scores_that_were_measured_on_it(
    request_for_first, monkeypatch
):
    request, storage = request_for_first
    case = trained_on(request, FIRST)
    changing(monkeypatch, storage, f"{case.id} infection")
    notes, removed = look(replace(request, redo_changed=True), storage)
    assert notes == [f"{FILE}: changed; what was made of it is made anew, also for 2 trainings"]
    of_case = {
        run_paths.case_labels(case, label_set="infection"),
        run_paths.labels_record(case, label_set="infection"),
        run_paths.kept_record(run_paths.labels_record(case, label_set="infection")),
        run_paths.fingerprint(case, label_set="infection"),
    }
    of_first = {key for key in removed if FIRST in key}
    assert removed == of_case | of_first | {run_paths.results(SECOND)}
    folders = {key.partition("/")[0] for key in of_first}
    assert folders == {"plans", "patches", "trainings", "predictions", "results"}
    assert not storage.list_keys(run_paths.training(FIRST))
    assert storage.exists(run_paths.case_image(case))
    assert storage.exists(run_paths.prediction_record(SECOND))


def test_a_changed_image_is_predicted_anew_and_with_all_of_its_label_sets(request_for_first, monkeypatch):
    """It is trained on in no training of this output but tested in three: their other predictions stay."""
    request, storage = request_for_first
    trainings = request.study.trainings(only=(FIRST, SECOND, LUNG), preset=request.preset)
    fitted = {case for training in trainings for case in training.train}
    case = next(case for case in trainings[0].cases if case not in fitted and case.dataset == "covid-19-ct-seg")
    changing(monkeypatch, storage, f"{case.id} image")
    _, removed = look(replace(request, redo_changed=True), storage)
    expected = {run_paths.case_image(case), run_paths.image_record(case)}
    expected.add(run_paths.kept_record(run_paths.image_record(case)))
    for label_set in ("infection", "lung"):
        keys = {run_paths.case_labels(case, label_set=label_set), run_paths.labels_record(case, label_set=label_set)}
        expected |= keys
    for name in (FIRST, SECOND, LUNG):
        expected |= {run_paths.prediction(name, case), run_paths.prediction_record(name), run_paths.results(name)}
    assert removed == expected


def test_data_that_have_not_changed_remove_nothing(request_for_first, monkeypatch):
    request, storage = request_for_first
    changing(monkeypatch, storage)
    assert look(replace(request, redo_changed=True), storage) == ([], set())


@pytest.mark.parametrize("part", ["infection", "image"])
def test_what_would_take_the_place_of_changed_data_is_read_whole_before_anything_is_removed(
    request_for_first, monkeypatch, part
):
    """A call for other trainings than those that were made of it looks at it as well."""
    request, storage = request_for_first
    case = trained_on(request, FIRST)
    asked, cut = [], Problem(path=FILE, found="half of it", expected="all of it", advice="Download it again.")

    def inspect_downloads(requests, *, thorough, **_):
        asked.extend((one.case, one.label_sets) for one in requests if thorough)
        return SimpleNamespace(problems=(cut,) if thorough and requests else ())

    monkeypatch.setattr(inspect, "inspect_downloads", inspect_downloads)
    changing(monkeypatch, storage, f"{case.id} {part}")
    (lung,) = request.study.trainings(only=(LUNG,), preset=request.preset)
    for trainings in (request.trainings, (lung,)):
        again = replace(request, trainings=trainings, redo_changed=True)
        assert before_start.check_before_start(again) == (cut,)
    # With its image go all label sets that were made beside it.
    assert asked == [(case, ("infection", "lung") if part == "image" else ("infection",))] * 2
    assert before_start.check_before_start(request) == ()
    changing(monkeypatch, storage)
    assert before_start.check_before_start(replace(request, redo_changed=True)) == ()


def test_a_run_goes_on_with_data_that_are_elsewhere_now_as_long_as_they_are_what_it_has_read(
    request_for_first, monkeypatch, tmp_path
):
    request, storage = request_for_first
    before, after = request.data, str(tmp_path / "moved")
    moved = replace(request, data=after)

    def calls(**more):
        claim_output(storage, identity=identity_of(moved), trainings=[FIRST])
        return look(replace(moved, **more), storage)

    case = trained_on(request, FIRST)
    changing(monkeypatch, storage, f"{case.id} infection")
    with pytest.raises(DataError, match="changed since this run has read"):
        calls()
    changing(monkeypatch, storage, all_gone=True)
    for refused in (calls, lambda: calls(redo_changed=True), lambda: before_start.check_unchanged(moved)):
        with pytest.raises(ConfigError, match=f"the data of {before}, of which nothing is found in {after}"):
            refused()
    assert place_of_data(storage) == before
    changing(monkeypatch, storage)
    before_start.check_unchanged(moved)
    assert calls() == ([f"the data, which were in {before}, are in {after} now, and the run goes on with them"], set())
    assert place_of_data(storage) == after
    assert calls() == ([], set())


def test_data_elsewhere_are_refused_where_nothing_tells_any_more_what_a_run_has_read(request_for_first, monkeypatch):
    request, storage = request_for_first
    for key in [*storage.list_keys(run_paths.CASES), *storage.list_keys(run_paths.SOURCES)]:
        storage.delete(key)
    with pytest.raises(ConfigError, match="expected the same data, wherever they are"):
        look(replace(request, data=f"{request.data}-moved"), storage)
