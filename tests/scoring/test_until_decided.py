"""A run that ends once its questions are answered: what it leaves out, says, and does when it goes on."""

import json
import math
from dataclasses import replace

import pytest
from looked_at_study import ScoringBackend, request_for, rows_of

from orchestrator.api import load_study, make_request
from orchestrator.benchmark.tables import load_tables
from orchestrator.bundle.collect import inputs_of
from orchestrator.bundle.derived import derived_from
from orchestrator.driver.results.shown import report_now
from orchestrator.driver.run import run
from orchestrator.driver.status import read_status
from orchestrator.errors import ConfigError
from orchestrator.events import read_events
from orchestrator.progress import NoListener
from orchestrator.report.looks.decisions import decisions_of
from orchestrator.report.looks.planned import plan_looks
from orchestrator.report.reported import Reported
from orchestrator.report.scores_frame import patient_of_case, scores_frame
from orchestrator.results.records import ScoreStatus
from orchestrator.results.store import to_table
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage

FIRST_LOOK = {f"organ{suffix}-fold{fold}" for suffix in ("", "-second") for fold in (0, 1)}
LATER = {f"organ{suffix}-fold{fold}" for suffix in ("", "-second") for fold in (2, 3, 4)}


def carry_out(request, **behaviour):
    backend = ScoringBackend(request, **behaviour)
    return run(request, connect=backend.connect, listener=NoListener()), backend


def no_cluster(cluster, name):
    raise AssertionError("a finished run needs no cluster")


def verdicts(output):
    (answer,) = json.loads((output / "report" / "summary.json").read_text())["answers"]
    return {one["metric"]: one["verdict"] for one in answer["differences"]}


def test_a_clear_difference_ends_a_run_at_its_first_look_and_all_that_it_leaves_says_so(tmp_path):
    request = request_for(
        tmp_path / "study",
        tmp_path / "run",
    )
    outcome, backend = carry_out(request, gain=0.1)
    assert backend.trained == FIRST_LOOK
    assert (outcome.num_done, set(outcome.left_out), outcome.failures) == (4, LATER, {})
    assert outcome.looks[0].startswith("look 1 at 4 trainings: 2 differences are shown to be higher, 0 lower")
    assert verdicts(tmp_path / "run") == {"dsc": "higher", "nsd": "higher"}
    summary = json.loads((tmp_path / "run" / "report" / "summary.json").read_text())
    assert summary["state"].startswith("Whole: 4 of 10 trainings have scores, and 6 were left out")
    assert set(summary["looks"]["left_out"]) == LATER
    # 16 patients in two folds, all better: 2 in 2 ** 16 signs are as extreme. Two tests share 5 %; 2 / 5 is spent.
    evidence = summary["looks"]["tests"][0]["crossing"]
    assert evidence["num_as_extreme"] <= 5
    assert evidence["num_allowed"] == int(0.05 / 2 * 2 / 5 * evidence["num_flips"])
    tables = (tmp_path / "run" / run_paths.TABLES / "summary.md").read_text()
    assert "- organ-second-fold4: not needed\n" in tables
    assert "2 of 5 folds: 3 not needed" in tables
    page = (tmp_path / "run" / run_paths.REPORT_PAGE).read_text()
    assert "What was decided, and when" in page
    assert read_status(open_storage(tmp_path / "run")).left_out == LATER


def test_the_same_command_again_needs_no_cluster_and_decides_the_same(tmp_path):
    request = request_for(tmp_path / "study", tmp_path / "run")
    first, _ = carry_out(request, gain=0.1)
    again = run(request, connect=no_cluster, listener=NoListener())
    assert (again.num_done, again.left_out, again.looks) == (first.num_done, first.left_out, first.looks)
    assert read_status(open_storage(tmp_path / "run")).waiting == ()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing stops: its folder and its outcome."""
    folder = tmp_path_factory.mktemp("whole")
    outcome, _ = carry_out(request_for(folder / "study", folder / "run"), gain=0.004)
    return folder / "run", outcome


@pytest.mark.parametrize("stops_after", [0, 2, 3, 5])
def test_a_run_that_was_stopped_decides_as_one_that_was_not_whatever_ends_first(tmp_path, whole, stops_after):
    folder, expected = whole
    stopped = request_for(tmp_path / "study", tmp_path / "stopped")
    backend = ScoringBackend(stopped, gain=0.004, stops_after=stops_after)
    with pytest.raises(KeyboardInterrupt):
        run(stopped, connect=backend.connect, listener=NoListener())
    found, _ = carry_out(stopped, gain=0.004, reverses=True)
    assert (found.num_done, found.left_out, found.looks) == (expected.num_done, expected.left_out, expected.looks)
    assert len(expected.looks) > 1
    assert verdicts(tmp_path / "stopped") == verdicts(folder)


def test_equal_methods_are_undecided_and_what_is_hopeless_is_not_waited_for(tmp_path):
    outcome, _ = carry_out(request_for(tmp_path / "study", tmp_path / "run"), gain=0.0)
    assert verdicts(tmp_path / "run") == {"dsc": "undecided", "nsd": "undecided"}
    assert outcome.num_done + len(outcome.left_out) == 10
    (answer,) = json.loads((tmp_path / "run" / "report" / "summary.json").read_text())["answers"]
    assert "2 are undecided" in answer["sentence"]
    assert {one["result"]["p_corrected"] for one in answer["differences"]} == {None}


def test_a_training_that_fails_holds_up_the_looks_and_nothing_is_decided_without_it(tmp_path):
    request = request_for(tmp_path / "study", tmp_path / "run")
    outcome, backend = carry_out(request, gain=0.1, fails={"organ-fold1"})
    assert backend.trained == FIRST_LOOK
    assert (outcome.num_done, outcome.left_out, outcome.lost_trainings) == (3, (), ("organ-fold1",))
    assert outcome.looks == ("look 1 waits for the scores of organ-fold1",)
    assert verdicts(tmp_path / "run") == {"dsc": "undecided", "nsd": "undecided"}
    mended, _ = carry_out(request, gain=0.1)
    assert (mended.num_done, set(mended.left_out)) == (4, LATER)


def test_without_the_option_the_rest_is_trained_and_what_looks_have_decided_stays(tmp_path):
    request = request_for(tmp_path / "study", tmp_path / "run")
    carry_out(request, gain=0.1)
    before = json.loads((tmp_path / "run" / "report" / "summary.json").read_text())["looks"]["tests"]
    everything = request_for(tmp_path / "study", tmp_path / "run", until_decided=False)
    outcome, backend = carry_out(everything, gain=0.1)
    assert backend.trained == LATER
    assert (outcome.num_done, outcome.left_out) == (10, ())
    after = json.loads((tmp_path / "run" / "report" / "summary.json").read_text())
    assert after["looks"]["tests"] == before
    assert after["state"] == "Whole: all 10 trainings have scores."


def test_scores_that_are_known_already_are_not_looked_at_afterwards(tmp_path):
    request = request_for(tmp_path / "study", tmp_path / "run", until_decided=False)
    carry_out(request, gain=0.1)
    with pytest.raises(ConfigError, match="has scores already, without a plan of looks"):
        carry_out(request_for(tmp_path / "study", tmp_path / "run"), gain=0.1)


def test_a_plan_is_of_the_trainings_that_it_was_made_for(tmp_path):
    request = request_for(tmp_path / "study", tmp_path / "run")
    without = [one for one in request.trainings if one.fold < 4]
    carry_out(request_for(tmp_path / "study", tmp_path / "run", trainings=tuple(without)), gain=0.1)
    with pytest.raises(ConfigError, match=r"organ-fold4, organ-second-fold4: not in the plan of looks"):
        carry_out(request, gain=0.1)
    few = tuple(one for one in request.trainings if one.fold < 2)
    with pytest.raises(ConfigError, match="at most 2 of these trainings in each group"):
        carry_out(request_for(tmp_path / "study", tmp_path / "few", trainings=few), gain=0.1)
    alone = tuple(one for one in request.trainings if one.model.name == "first")
    with pytest.raises(ConfigError, match="no question of the study compares two groups"):
        carry_out(request_for(tmp_path / "study", tmp_path / "alone", trainings=alone), gain=0.1)


def test_a_plan_that_is_damaged_is_refused(tmp_path):
    request = request_for(tmp_path / "study", tmp_path / "run")
    carry_out(request, gain=0.1)
    storage = open_storage(tmp_path / "run")
    record = json.loads(storage.read_bytes(run_paths.RUN))
    tests = record["until_decided"]["tests"]
    for damaged in ([], {"tests": [["organ"]], "looks": [[]]}, {"tests": tests, "looks": [["organ-fold9"]]}):
        storage.write_bytes(run_paths.RUN, json.dumps({**record, "until_decided": damaged}).encode())
        with pytest.raises(ConfigError, match=r"until_decided|plan of looks"):
            carry_out(request, gain=0.1)


def test_a_bundle_tells_the_looks_as_the_run_does(tmp_path):
    request = request_for(tmp_path / "study", tmp_path / "run")
    carry_out(request, gain=0.1)
    storage = open_storage(tmp_path / "run")
    derived = derived_from(inputs_of(request, storage))
    assert derived.problems == ()
    report_now(request, storage)
    of_bundle, of_run = (
        json.loads(content)["looks"]
        for content in (derived.files["report/summary.json"], storage.read_bytes("report/summary.json"))
    )
    assert of_bundle == of_run


def test_looks_are_events_and_nothing_is_started_before_they_are_taken(tmp_path):
    request = request_for(tmp_path / "study", tmp_path / "run")
    carry_out(request, gain=0.004)
    events = read_events(open_storage(tmp_path / "run"))
    kinds = [(one["kind"], one.get("stage", one.get("look"))) for one in events]
    look = kinds.index(("look_taken", 1))
    assert {stage for kind, stage in kinds[:look] if kind == "stage_finished" and stage.startswith("score")} == {
        f"score {id_}" for id_ in FIRST_LOOK
    }
    assert not any(kind == "stage_started" and stage.split()[1] in LATER for kind, stage in kinds[:look])


def test_looks_do_not_show_a_method_to_be_higher_that_predicts_what_is_not_there(tmp_path):
    request = request_for(tmp_path / "study", tmp_path / "run")
    study, trainings, layout = request.study, request.trainings, load_tables(request.study)

    def counted(row):
        if int(row.case.removeprefix("case_")) % 4:
            return row
        sees_something = row.group == "organ-second"
        status, value = (ScoreStatus.REFERENCE_EMPTY, 0.0) if sees_something else (ScoreStatus.BOTH_EMPTY, math.nan)
        return replace(row, score=replace(row.score, status=status, dsc=value, nsd=value, hd95_mm=math.nan))

    # A little better in all patients but those in whom there is nothing.
    table = to_table([counted(row) for one in trainings for row in rows_of(one, study=study, gain=0.05)])
    rows = scores_frame(Reported(study=study, trainings=trainings, table=table, layout=layout))
    patients = patient_of_case(study)
    plan = plan_looks(trainings, layout.comparisons, patients=patients)
    tests = decisions_of(plan, rows, trainings=trainings, patients=patients).tests
    assert len(tests) == 2
    assert "higher" not in {one.verdict for one in tests}
    without = rows[rows["status"] == "scored"]
    seen = decisions_of(plan, without, trainings=trainings, patients=patients).tests
    assert {one.verdict for one in seen} == {"higher"}
    # All eight patients of each fold, and not those alone in whom there is something.
    assert [one.num_patients for one in tests] == [4 * one.num_trainings for one in tests]


def test_groups_with_fewer_folds_are_whole_at_an_earlier_look():
    study = load_study()
    trainings = study.trainings(only=("T[13]-infection*",), preset=study.preset("paper"))
    few = [one for one in trainings if one.group == "T1-infection" or one.fold == 0 or one.fold > 2]
    plan = plan_looks(few, load_tables(study).comparisons, patients=patient_of_case(study))
    sizes = [len(look) for look in plan.looks]
    groups = {one.group for one in few}
    assert sizes[0] == 2 * len(groups)
    assert set(plan.looks[-1]) == {"T1-infection-fold4"}
    assert plan.trainings == {one.id for one in few}
    assert all(one.baseline == "T1-infection" for one in plan.tests)


def test_nothing_is_planned_where_nobody_asks():
    request = make_request(load_study(), preset="paper", only=["T1-lung*"])
    with pytest.raises(ConfigError, match="no question of the study compares"):
        plan_looks(request.trainings, load_tables(request.study).comparisons, patients={})


def test_an_ensemble_of_compared_trainings_leaves_nothing_to_be_left_out(tmp_path):
    request = request_for(tmp_path / "study", tmp_path / "run")
    ensemble = replace(request.trainings[0], group="both", members=request.trainings[:2])
    with pytest.raises(ConfigError, match="both-fold0 averages organ-fold0, organ-fold1; none of these"):
        carry_out(replace(request, trainings=(*request.trainings, ensemble)), gain=0.1)
