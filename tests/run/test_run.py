"""Claims about a run before it begins and after it has ended: whose output location it is, and what it lacks."""

import json
import math
import os
from dataclasses import replace
from unittest import mock

import pytest
from test_results import row

from orchestrator.benchmark.loading import load_study
from orchestrator.benchmark.presets import PRESETS
from orchestrator.cluster.kinds.local import LocalCluster
from orchestrator.driver.claim import claim_output
from orchestrator.driver.request import RunRequest, identity_of
from orchestrator.driver.run import run
from orchestrator.errors import ConfigError, StorageError
from orchestrator.progress import NoListener
from orchestrator.ray_backend.on_demand import connect_to_ray
from orchestrator.results.records import ScoreStatus
from orchestrator.results.store import ResultsStore
from orchestrator.sources.stamps import SourceStamp
from orchestrator.stages.records.cases import CaseRecord, write_case_record
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage

SMOKE = PRESETS["smoke"]
CLUSTER = LocalCluster()


@pytest.fixture
def request_for(tmp_path):
    study = load_study()

    def request(preset=SMOKE, **changes):
        trainings = study.trainings(only=("T1-infection-fold0",), preset=preset)
        known = {"study": study, "trainings": trainings, "preset": preset, "seed": 0, "data": None}
        return RunRequest(**{**known, "output": str(tmp_path), "cluster": CLUSTER, **changes})

    return request


def claim(request):
    ids = [training.id for training in request.trainings]
    return claim_output(open_storage(request.output), identity=identity_of(request), trainings=ids)


def test_a_run_of_before_planners_and_trainers_had_names_is_the_same_run(request_for):
    """Its record says nnU-Net's own values where a preset now leaves them to the planner and the trainer."""
    preset = identity_of(request_for(preset=PRESETS["paper"]))["preset"]
    own = ("gpu_memory_gib", "initial_learning_rate", "oversample_foreground", "mirror_axes")
    assert [preset[name] for name in own] == [8.0, 1e-2, 0.33, None]


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"seed": 7}, "seed (0 there, 7 asked for)"),
        ({"data": "/ct"}, "data (phantoms there, /ct asked for)"),
        ({"preset": replace(SMOKE, num_epochs=7)}, "preset.num_epochs (6 there, 7 asked for)"),
        (
            {"preset": replace(SMOKE, mirror_axes=None, case_limits=SMOKE.case_limits | {"val": 3}), "seed": 1},
            "preset.mirror_axes ([] there, None asked for), preset.case_limits.val (2 there, 3 asked for), "
            "seed (0 there, 1 asked for)",
        ),
        ({"preset": PRESETS["quick"]}, "preset.name (smoke there, quick asked for)"),
    ],
)
def test_a_run_with_other_results_is_refused_with_what_differs(request_for, tmp_path, changes, difference):
    claim(request_for())
    with pytest.raises(ConfigError) as caught:
        claim(request_for(**changes))
    assert f": holds a run with another {difference}; expected the same one" in str(caught.value)


def test_a_field_that_the_record_of_a_run_lacks_is_a_difference(request_for, tmp_path):
    storage = open_storage(tmp_path)
    claim(request_for())
    record = json.loads(storage.read_bytes(run_paths.RUN))
    del record["preset"]["augmentation"]
    record["preset"]["shuffled"] = True
    storage.write_bytes(run_paths.RUN, json.dumps(record).encode())
    with pytest.raises(ConfigError) as caught:
        claim(request_for())
    assert (
        "another preset.augmentation (nothing there, kernels asked for), "
        "preset.shuffled (True there, nothing asked for);" in str(caught.value)
    )


def test_what_a_training_is_expected_to_take_does_not_make_another_run(request_for, tmp_path):
    storage = open_storage(tmp_path)
    claim(request_for())
    before = storage.read_bytes(run_paths.RUN)
    claim(request_for(replace(SMOKE, expected_s_per_iteration=9.0)))
    assert storage.read_bytes(run_paths.RUN) == before


def test_results_of_which_nobody_knows_the_seed_are_not_added_to(request_for, tmp_path):
    storage = open_storage(tmp_path)
    storage.write_bytes(run_paths.results("T1-lung-fold0"), b"")
    with pytest.raises(ConfigError, match=r"run\.json: there are results, but not this file, so the seed, .*Restore"):
        claim(request_for())
    assert not storage.exists(run_paths.RUN)


def test_a_finished_run_tells_at_every_call_which_cases_have_no_score(request_for, tmp_path):
    request = request_for()
    (training,) = request.trainings
    rows = []
    for case, status, message in (
        ("study_0255", ScoreStatus.BOTH_EMPTY, ""),
        ("study_0256", ScoreStatus.MISSING, "DataError: cut short"),
        ("study_0257", ScoreStatus.MISSING, "DataError: another"),
    ):
        one = row(math.nan, math.nan, case=case, status=status, message=message)
        of = {"training_id": training.id, "evaluation_set": "test-mosmed", "dataset": "mosmed"}
        rows.append(replace(one, score=replace(one.score, structure="infection"), **of))
    claim(request)
    ResultsStore(open_storage(tmp_path)).commit(training.id, rows)
    for _ in range(2):
        outcome = run(request, connect=connect_to_ray, listener=NoListener())
        assert outcome.num_done == 1
        assert outcome.unpredicted == {
            training.id: "2 without a score, the first test-mosmed mosmed/study_0256: DataError: cut short"
        }


def scored(training):
    """Commit one row of a training."""
    one = row(0.5, 0.25, case="coronacases_001")
    of = {"training_id": training.id, "group": training.group, "fold": training.fold, "facets": training.facets}
    one = replace(one, **of, evaluation_set="test", dataset="covid-19-ct-seg")
    return replace(one, score=replace(one.score, structure="infection"))


def test_tables_are_of_all_that_is_committed_whatever_a_call_asks_for(request_for, tmp_path):
    """Two trainings of two tables are done, a third was asked for before; the call names the first alone."""
    names = ("T1-infection-fold0", "T1-infection-fold1", "T2-infection-structseg-fold0", "T3-infection-structseg-fold1")
    everything = request_for(trainings=load_study().trainings(only=names, preset=SMOKE))
    claim(everything)
    for training in everything.trainings:
        if training.id in {names[0], names[2]}:
            ResultsStore(open_storage(tmp_path)).commit(training.id, [scored(training)])
    outcome = run(request_for(), connect=connect_to_ray, listener=NoListener())
    assert outcome.num_done == 1
    tables = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / run_paths.TABLES).glob("*.md")}
    assert sorted(tables) == ["summary.md", "table_IV.md", "table_VI.md", "task_3_infection.md"]
    summary = tables["summary.md"]
    assert "| T2-infection-structseg | COVID-19-CT-Seg | infection | 0 | 1 | 50.0 |" in summary
    assert "| T1-infection | COVID-19-CT-Seg | infection | average | 1 | 50.0 |" in summary
    assert "- T1-infection-fold1: pending\n- T3-infection-structseg-fold1: pending\n" in summary
    assert names[0] not in summary.partition("## Trainings without results")[2]


def test_a_report_that_an_earlier_call_did_not_come_to_is_written_by_the_next(request_for, tmp_path, monkeypatch):
    """Nothing else is left to do for it; an older page would be taken for one of these results."""
    names = ("T1-infection-fold0", "T1-infection-fold1")
    both = request_for(trainings=load_study().trainings(only=names, preset=SMOKE))
    claim(both)
    page, store, notes = tmp_path / run_paths.REPORT_PAGE, ResultsStore(open_storage(tmp_path)), []
    listener = mock.Mock(note=notes.append)

    def call():
        return run(both, connect=connect_to_ray, listener=listener).report, page.read_text(encoding="utf-8")

    for training in both.trainings:
        store.commit(training.id, [scored(training)])
    report, first = call()
    assert report == run_paths.REPORT_PAGE
    page.write_text("of before", encoding="utf-8")
    assert call() == (report, "of before")
    os.utime(page, ns=(0, 0))

    with monkeypatch.context() as patched:
        patched.setattr("orchestrator.driver.run.write_run_report", mock.Mock(side_effect=StorageError("read-only")))
        assert call() == ("", "of before")
    assert notes[-1] == "the report is not written (StorageError: read-only); `orchestrator report` tries it again"
    report, again = call()
    assert (report, len(again)) == (run_paths.REPORT_PAGE, len(first))


def test_warnings_about_the_data_of_shown_trainings_stand_with_the_tables(request_for, tmp_path):
    request = request_for(data=str(tmp_path / "downloads"))
    (training,) = request.trainings
    storage = open_storage(tmp_path)
    claim(request)
    ResultsStore(storage).commit(training.id, [scored(training)])
    source = SourceStamp(files=(), sha256="")
    for label_set, warning in (("infection", "90 % of it lies outside of the lungs"), ("lung", "of no training here")):
        record = CaseRecord(sha256="", source=source, warnings=(warning,))
        write_case_record(storage, run_paths.labels_record(training.train[0], label_set=label_set), record)
    run(request, connect=connect_to_ray, listener=NoListener())
    summary = (tmp_path / run_paths.TABLES / "summary.md").read_text(encoding="utf-8")
    assert "> Hardly right, and taken as it is: 90 % of it lies outside of the lungs\n" in summary
    assert "of no training here" not in summary
