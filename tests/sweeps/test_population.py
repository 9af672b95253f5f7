"""Population based training: what may change on the way, who goes on from whom, and what becomes of the best one."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_backend import NODE
from played_sweeps import Played, played, request_of, study_with_presets, words

from orchestrator.benchmark.loading import load_study
from orchestrator.cli.sweep import main
from orchestrator.driver.observer import RunObserver
from orchestrator.driver.request import graph_of
from orchestrator.report.search import search_section
from orchestrator.results.trials import read_search
from orchestrator.scheduling.resources import ResourceRequest
from orchestrator.scheduling.scheduler import Schedule
from orchestrator.scheduling.training_need import Needs
from orchestrator.search.population import Member, explored, next_generation
from orchestrator.search.space import load_space
from orchestrator.storage.filesystem import open_storage
from orchestrator.sweeps.chosen import trials_of
from orchestrator.workflow.keys import StageKey, StageKind

RATES = "initial_learning_rate: {loguniform: [0.0001, 0.1]}\n"
PBT = ("--stopping", "pbt", "--first-epochs", "1")


@pytest.fixture
def brain(tmp_path) -> Path:
    return study_with_presets(tmp_path)


def folder_of(study: Path) -> Path:
    return study.parent.parent / "run" / "sweeps" / "lr"


def near(rate: float):
    """Return how good members are: the nearer the rate of their generation to this one, the better."""
    return lambda training, generation=None: 1.0 / (1.0 + abs(rate_of(training) - rate))


def rate_of(training) -> float:
    return float(training.facets["initial_learning_rate"])


@pytest.fixture
def space(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text(RATES + "oversample_foreground: {choice: [0.0, 0.33, 0.66, 1.0]}\n", encoding="utf-8")
    return load_space(path)


def settings(rate: float, share: float = 0.33):
    return (("initial_learning_rate", rate), ("oversample_foreground", share))


def test_settings_go_up_or_down_a_fifth_or_a_place_or_are_drawn_anew_and_stay_in_their_range(space):
    before = random.getstate()
    found = [dict(explored(space, settings(0.09), seed=str(seed))) for seed in range(400)]
    assert random.getstate() == before
    assert found[:20] == [dict(explored(space, settings(0.09), seed=str(seed))) for seed in range(20)]
    rates = [one["initial_learning_rate"] for one in found]
    assert all(0.0001 <= rate <= 0.1 for rate in rates)
    # 0.09 x 1.2 is beyond the range, 0.09 x 0.8 is not; a quarter is drawn anew.
    numbers = [rates.count(0.1), rates.count(0.072)]
    assert all(110 < number < 190 for number in numbers)
    assert 60 < 400 - sum(numbers) < 140
    shares = [one["oversample_foreground"] for one in found]
    assert set(shares) == {0.0, 0.33, 0.66, 1.0}
    assert shares.count(0.0) + shares.count(0.66) > 300


def test_the_worst_quarter_and_what_failed_go_on_from_the_best_quarter_and_all_others_from_themselves(space):
    values = [0.5, 0.9, None, 0.1, 0.7, 0.2, 0.8, 0.6, 0.4]
    members = {number: (settings(0.001 * (number + 1)), value) for number, value in enumerate(values)}
    found = next_generation(space, members, reduction=4, most=9, seed="0")
    assert found == next_generation(space, members, reduction=4, most=9, seed="0")
    # Of the eight that have a value, two are a quarter: 1 and 6 are the best, 5 and 3 the worst.
    copies = {one.trial: one for one in found if one.source != one.trial}
    assert set(copies) == {2, 3, 5}
    assert {one.source for one in copies.values()} <= {1, 6}
    assert all(one.settings != members[one.source][0] for one in copies.values())
    assert [one for one in found if one.trial not in copies] == [
        Member(trial=number, value=values[number], source=number, settings=members[number][0])
        for number in (0, 1, 4, 6, 7, 8)
    ]
    assert next_generation(space, members, reduction=4, most=9, seed="1") != found


def test_with_fewer_that_go_on_these_are_the_best_and_one_alone_is_copied_by_none(space):
    members = {number: (settings(0.01), value) for number, value in enumerate([0.1, 0.3, 0.2, None])}
    found = next_generation(space, members, reduction=4, most=2, seed="0")
    assert [one.source for one in found] == [None, 1, 1, None]
    found = next_generation(space, members, reduction=4, most=1, seed="0")
    assert [one.source for one in found] == [None, 1, None, None]
    alone = {0: (settings(0.01), None), 1: (settings(0.02), 0.1)}
    assert [one.source for one in next_generation(space, alone, reduction=4, most=2, seed="0")] == [1, 1]


REFUSED = {
    "batch_size: {choice: [2, 4]}": "batch_size cannot change during a training: the plan follows from it",
    "planner: {choice: [ExperimentPlanner]}": "planner cannot change during a training: the plan follows from it",
    "optimizer: {choice: [nnunet, adamw]}": "optimizer cannot change during a training: what an optimiser remembers",
    "num_epochs: {choice: [2, 4]}": "num_epochs cannot change during a training: the decay",
    "mirror_axes: {choice: [[], [0, 1]]}": "mirror_axes cannot change during a training: a model predicts",
    "momentum: {choice: [null, 0.9]}": "momentum: null among its values",
    "momentum: {grid: [0.8, 0.9]}": "momentum: a grid takes its values in turn",
}


@pytest.mark.parametrize("space", REFUSED)
def test_what_cannot_change_during_a_training_is_refused_by_name_with_the_reason(brain, capsys, space):
    assert main(words(brain, space + "\n", *PBT)) == 2
    assert REFUSED[space] in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("others", "space", "message"),
    [
        (("--sampler", "optuna"), RATES, "--sampler optuna: learns from trials that have ended"),
        (("--at-once", "2"), RATES, "--at-once: a population begins together"),
        (
            ("--first-epochs", "4"),
            RATES,
            "--first-epochs 4: expected fewer than the 4 of tumour-fold0 with preset tiny",
        ),
        ((), RATES + "fidelities: [{preset: less}, {}]\n", "has fidelities, which say"),
    ],
)
def test_what_means_nothing_for_a_population_is_refused(brain, capsys, others, space, message):
    assert main(words(brain, space, *PBT, *others)) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_model_with_a_schedule_has_no_population_and_no_trials_of_what_it_says(brain, capsys):
    text = brain.read_text(encoding="utf-8")
    scheduled = "  unet: {preset: {schedule: [{from_epoch: 2, momentum: 0.5}]}}\n"
    assert text.count("  unet: {}\n") == 1
    brain.write_text(text.replace("  unet: {}\n", scheduled), encoding="utf-8")
    assert main(words(brain, RATES, *PBT, "--simulate")) == 2
    assert "has a schedule that says its momentum" in " ".join(capsys.readouterr().err.split())
    assert main(words(brain, "momentum: {uniform: [0.5, 0.9]}\n", "--simulate")) == 2
    assert main(words(brain, RATES, "--simulate")) == 0


def with_epochs(study: Path, num_epochs: int) -> Path:
    """Return a study whose model has its own number of epochs, where the preset has 4."""
    text = study.read_text(encoding="utf-8")
    assert text.count("  unet: {}\n") == 1
    study.write_text(text.replace("unet: {}", f"unet: {{preset: {{num_epochs: {num_epochs}}}}}"), encoding="utf-8")
    return study


def test_epochs_are_those_of_the_model_where_it_has_its_own(brain, monkeypatch, capsys):
    assert request_of(with_epochs(brain, 18), RATES).milestones == (2, 6)
    assert request_of(brain, RATES, "--stopping", "pbt").milestones == (2, 4, 6, 8, 10, 12, 14, 16)
    brain.write_text(brain.read_text(encoding="utf-8").replace("num_epochs: 18", "num_epochs: 1"), encoding="utf-8")
    assert request_of(brain, RATES).milestones == ()
    assert main(words(brain, RATES, "--stopping", "pbt")) == 2
    assert "--first-epochs 1: expected fewer than the 1 of tumour-fold0" in " ".join(capsys.readouterr().err.split())


def test_a_population_of_a_model_with_its_own_epochs_ends_with_these_and_its_hours_last_for_these(brain, monkeypatch):
    runs = Played(monkeypatch, dice=near(0.003), score=near(0.003))
    hours = {f"trial{number:03}-fold0": 1.0 for number in range(4)}
    monkeypatch.setattr("orchestrator.sweeps.trial_results._hours_of_attempts", lambda storage: hours)
    outcome = played(request_of(with_epochs(brain, 2), RATES, *PBT, "--max-hours", "6"))
    # Four hours are spent after the first of two epochs; the other two last for two members.
    assert runs.num_at_once == [4, 2]
    assert sorted((one.num_epochs, one.is_whole) for one in outcome.results) == [(1, False)] * 2 + [(2, True)] * 2


def record_of(folder: Path) -> list[object]:
    generations = [json.loads(path.read_text()) for path in sorted((folder / "generations").iterdir())]
    return [generations, json.loads((folder / "sweep.json").read_text())["best"]]


def test_a_population_that_is_killed_anywhere_decides_the_same_and_has_the_same_winner(brain, monkeypatch):
    words_of = (brain, RATES, *PBT, "--trials", "5", "--reduction", "3")
    runs = Played(monkeypatch, dice=near(0.003), score=near(0.003))
    outcome = played(request_of(*words_of))
    # Five members, three generations and the last one.
    assert runs.num_at_once == [5, 5, 5, 5]
    expected = record_of(folder_of(brain))
    assert len(expected[0]) == 3
    for most in (1, 4, 5, 7, 10, 14, 16, 19):
        shutil.rmtree(folder_of(brain))
        Played(monkeypatch, dice=near(0.003), score=near(0.003), most=most)
        with pytest.raises(KeyboardInterrupt):
            played(request_of(*words_of))
        runs = Played(monkeypatch, dice=near(0.003), score=near(0.003))
        again = played(request_of(*words_of))
        assert len(runs.trained) == 20 - most
        assert record_of(folder_of(brain)) == expected
        assert again.best == outcome.best


def test_who_goes_on_from_another_has_the_history_of_that_one_and_the_best_becomes_a_model_by_its_schedule(
    brain, monkeypatch, capsys
):
    request = request_of(brain, RATES, *PBT, "--trials", "5", "--reduction", "3")
    Played(monkeypatch, dice=near(0.003), score=near(0.003))
    best = played(request).best.trial
    storage = open_storage(request.output)
    trials = trials_of(storage)
    generations = [json.loads(path.read_text()) for path in sorted((folder_of(brain) / "generations").iterdir())]
    first = json.loads((folder_of(brain) / "trials" / "00000.json").read_text())["trials"]
    # Backwards, by hand: from whom each had what.
    for trial in trials:
        number, course = trial.number, []
        for generation in reversed(generations):
            (member,) = (one for one in generation["members"] if one["trial"] == number)
            course.append((generation["from_epoch"], member["settings"]["initial_learning_rate"]))
            number = member["source"]
        course.append((0, first[number]["initial_learning_rate"]))
        preset = request.run.preset.changed_by(trial.changes)
        assert {epoch: preset.at_epoch(epoch).initial_learning_rate for epoch, _ in course} == dict(course)
    assert any(len(one.schedule) > 1 for one in trials)
    assert best.steps
    assert main(words(brain, RATES, *PBT, "--trials", "5", "--reduction", "3", "--apply", "tuned")) == 0
    assert "model tuned, from epoch 0 initial_learning_rate" in capsys.readouterr().out
    model = load_study(brain).models[-1]
    assert request.run.preset.changed_by(model.changes) == request.run.preset.changed_by(best.changes)
    assert model.note.startswith(
        "the best of 5 trials on the training cases of tumour-fold0, with a schedule for 4 epochs; "
    )


def test_tables_and_report_say_of_each_generation_who_goes_on_from_whom(brain, monkeypatch):
    request = request_of(brain, RATES, *PBT, "--trials", "5", "--reduction", "3")
    Played(monkeypatch, dice=near(0.003), score=near(0.003))
    played(request)
    search = read_search(open_storage(request.output))
    assert search.population == {"size": 5, "reduction": 3}
    rows = search.rows_of_generations()
    assert [row[0] for row in rows] == [str(number) for number in (1, 2, 3, 4) for _ in range(5)]
    copied = [(row[2], row[3]) for row in rows if row[3]]
    assert len(copied) == 6
    table = (folder_of(brain) / "tables" / "trials.md").read_text(encoding="utf-8")
    assert "| generation | from epoch | trial | goes on from | patch Dice | initial_learning_rate |" in table
    assert all(f"| {' | '.join(row)} |" in table for row in rows)
    section = search_section(search)
    assert section.generations[0][:3] == ("generation", "from epoch", "trial")
    assert len(section.generations) == 21
    assert section.importances == ()
    assert "after 1, 2, 3 epochs the worst one in 3 went on from one of the best" in section.sentence


def test_one_that_fails_goes_on_from_another_and_if_all_fail_the_sweep_ends(brain, monkeypatch):
    def dice(training, generation):
        return None if training.facets["trial"] == 2 and generation.number == 0 else 0.5

    Played(monkeypatch, dice=dice)
    outcome = played(request_of(brain, RATES, *PBT))
    assert outcome.results[2].is_whole
    assert outcome.results[2].trial.schedule
    Played(monkeypatch, dice=lambda training, generation: None)
    assert played(request_of(brain, RATES, *PBT, "--name", "failed")).best is None


def test_where_hours_are_short_the_worst_end_early_and_at_least_one_goes_on(brain, monkeypatch):
    # An hour an epoch by the events; four members of four epochs would take 16.
    Played(monkeypatch, dice=near(0.003), score=near(0.003))
    hours = {}
    monkeypatch.setattr("orchestrator.sweeps.trial_results._hours_of_attempts", lambda storage: hours)
    hours |= {f"trial{number:03}-fold0": 1.0 for number in range(4)}
    request = request_of(brain, RATES, *PBT, "--max-hours", "11")
    outcome = played(request)
    # Four are spent after the first generation: seven last for two members and three epochs each.
    assert outcome.stopped_for_hours
    ended = [one.trial.ended_after for one in outcome.results]
    assert sorted(ended, key=str) == [1, 1, None, None]
    assert all(one.score is None and one.num_epochs == 1 for one in outcome.results if one.trial.ended_after)
    table = (folder_of(brain) / "tables" / "trials.md").read_text(encoding="utf-8")
    assert table.count("| ended early |") == 2
    assert table.count("| ended |") == 2
    section = search_section(read_search(open_storage(request.output)))
    assert "10 epochs and 4 hours of training. 2 ended early. They" in section.sentence


def test_another_population_of_the_same_name_is_refused_and_none_teaches_another_sweep(brain, monkeypatch, capsys):
    Played(monkeypatch)
    played(request_of(brain, RATES, *PBT))
    for others, message in [
        ((*PBT, "--trials", "5"), "another population"),
        ((*PBT, "--reduction", "2"), "another population"),
        (("--stopping", "pbt", "--first-epochs", "2"), "another --stopping, --first-epochs, --reduction"),
        ((), "holds a sweep with another"),
        (("--name", "n", "--sampler", "optuna", "--warm-start", "lr"), "its trials changed their settings"),
    ]:
        assert main(words(brain, RATES, *others)) == 2, others
        assert message in " ".join(capsys.readouterr().err.split())


def test_no_member_sees_a_case_that_is_not_a_training_case_of_the_training(brain, monkeypatch):
    request = request_of(brain, RATES, *PBT, "--folds", "2")
    seen = []
    runs = Played(monkeypatch, dice=near(0.003))

    def run(one, **others):
        seen.append(one)
        return runs.run(one, **others)

    monkeypatch.setattr("orchestrator.sweeps.population.run", run)
    played(request)
    assert len(seen) == 4
    for one in seen:
        assert {case for training in one.trainings for case in training.cases} == set(request.training.train)
        assert not any(set(training.train) & set(training.val) for training in one.trainings)
        # Each goes on from the same fold.
        assert all(own[-1] == source[-1] for own, source in one.generation.sources.items())
    assert [len(one.generation.sources) for one in seen] == [0, 8, 8, 8]


def test_a_population_is_simulated_as_all_of_its_trainings(brain, capsys):
    assert main(words(brain, RATES, *PBT, "--simulate")) == 0
    told = capsys.readouterr().out
    assert "4 trials, 4 of them to the end, about" in told
    assert "4 trainings with preset tiny, simulated" in told


def test_a_generation_ends_with_its_trainings_and_keeps_them_beside_what_the_training_leaves(brain, monkeypatch):
    request, made = request_of(brain, RATES, *PBT), []
    runs = Played(monkeypatch)

    def run(one, **others):
        made.append(graph_of(one))
        return runs.run(one, **others)

    monkeypatch.setattr("orchestrator.sweeps.population.run", run)
    played(request)
    key, folder = StageKey(kind=StageKind.TRAIN, training="trial000-fold0"), "trainings/trial000-fold0"
    assert made[1][key].products[0] == f"{folder}/generation001/checkpoint_final.ckpt"
    assert made[3][key].products[0] == f"{folder}/checkpoint_final.ckpt"
    assert made[1][key].expected_s == pytest.approx(request.run.preset.expected_training_s / 4)
    for graph, last in ((made[1], StageKind.TRAIN), (made[3], StageKind.SCORE)):
        needed = {need for one in graph.values() for need in one.dependencies}
        assert {one.kind for one in graph if one not in needed} == {last}
        schedule = Schedule(graph, done=(), nodes=[NODE], needs=Needs(one=ResourceRequest(cpus=1)), min_gain_s=600.0)
        observer = RunObserver(schedule, view=None, publish=None, clock=lambda: 0.0)
        assert observer.snapshot(schedule).num_trainings == 4


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_population_on_ray_that_is_killed_decides_as_one_that_is_not_and_its_best_is_trained_by_its_schedule(brain):
    space = "initial_learning_rate: {loguniform: [0.0000001, 0.01]}\n"
    command = [sys.executable, "-m", "orchestrator"]
    sweep = {
        name: [*command, "sweep", *words(brain, space, *PBT, "--trials", "3", "--name", name)] for name in ("a", "b")
    }
    subprocess.run(sweep["a"], check=True, stdout=subprocess.DEVNULL, timeout=800)
    whole, killed = (folder_of(brain).parent / name for name in sweep)
    for waited_for in ("milestones/000001/00001.json", "generations/00002.json"):
        started = subprocess.Popen(sweep["b"], stdout=subprocess.DEVNULL, start_new_session=True)
        while not (killed / waited_for).exists():
            assert started.poll() is None, "the sweep ended"
            time.sleep(0.1)
        os.killpg(started.pid, signal.SIGKILL)
        started.wait()
    subprocess.run(sweep["b"], check=True, stdout=subprocess.DEVNULL, timeout=800)
    assert record_of(killed) == record_of(whole)
    # Nothing is left of what was gone on from.
    assert not list(killed.glob("trainings/*/generation*/*.ckpt"))
    subprocess.run([*sweep["a"], "--apply", "tuned"], check=True, stdout=subprocess.DEVNULL)
    run = ["--study", str(brain), "--preset", "tiny", "--output", str(whole.parent.parent)]
    only = ["--only", "tumour-tuned-fold0"]
    subprocess.run([*command, "run", *run, *only], check=True, stdout=subprocess.DEVNULL, timeout=800)
    told = json.loads((whole.parent.parent / "trainings" / "tumour-tuned-fold0" / "training.json").read_text())
    assert told["num_epochs"] == 4
    assert not told["ended_early"]
