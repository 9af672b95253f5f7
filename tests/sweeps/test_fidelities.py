"""Claims about sweeps whose trials are looked at with little training or few folds first, the best of them closer."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from played_sweeps import Played, played, study_with_presets
from played_sweeps import words as words_of

from orchestrator.benchmark.loading import load_study
from orchestrator.cli.sweep import _request, build_parser, main
from orchestrator.driver.request import identity_of
from orchestrator.errors import ConfigError
from orchestrator.results.store import ResultsStore
from orchestrator.results.trials import Fidelity
from orchestrator.search.early_stopping import is_beaten
from orchestrator.search.samplers import Trial
from orchestrator.search.space import load_space
from orchestrator.storage.filesystem import open_storage
from orchestrator.sweeps.budget import Budget, expected_hours
from orchestrator.sweeps.request import SweepRequest
from orchestrator.sweeps.sweep import first_trials
from orchestrator.sweeps.trial_results import TrialResult, best_of, promoted

SPACE = """
initial_learning_rate: {grid: [0.0000001, 0.003, 0.004, 0.005]}
fidelities:
- {preset: less}
- {}
- {folds: 2}
"""


@pytest.fixture
def brain(tmp_path) -> Path:
    return study_with_presets(tmp_path)


def words(study: Path, space: str, *others: str) -> list[str]:
    return words_of(study, space, "--sampler", "grid", *others)


def request_of(study: Path, space: str = SPACE, *others: str) -> SweepRequest:
    return _request(build_parser().parse_args(words(study, space, *others)))


def result(number: int, *scores: float | None, hours: float = 1.0, is_whole: bool = False) -> TrialResult:
    known = [score for score in scores if score is not None]
    return TrialResult(
        trial=Trial(number=number, settings=(), fidelity=max(0, len(known) - 1)),
        dsc=known[-1] if known else None,
        nsd=None,
        num_cases=1,
        num_epochs=1,
        is_whole=is_whole,
        hours=hours,
        metric="dsc",
        scores=scores,
        epochs_in_all=1,
    )


def test_the_best_third_of_each_fidelity_goes_on_and_what_has_gone_on_or_failed_does_not_again():
    # 0.9 and 0.8 are above the 67th percentile of the others; so is 0.7, which stands just below both.
    scores = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    first = [result(number, score) for number, score in enumerate(scores)]
    assert [one.trial.number for one in promoted(first, fidelity=0, reduction=3)] == [6, 7, 8]
    for one in first:
        others = [score for score in scores if score != one.score]
        assert is_beaten(others, one.score, reduction=3) is (one.trial.number < 6)
    second = [*first[:6], result(6, 0.7, 0.75), result(7, 0.8, None), result(8, 0.9, 0.5)]
    assert promoted(second, fidelity=0, reduction=3) == []
    # Of two that have scores at the second, the better one.
    assert [one.trial.number for one in promoted(second, fidelity=1, reduction=3)] == [6]
    # One that came later and does better than before most is looked at closer as well.
    later = [*second, result(9, 0.85)]
    assert [one.trial.number for one in promoted(later, fidelity=0, reduction=3)] == [9]


def test_of_equal_trials_the_first_third_goes_on():
    equal = [result(number, 0.0) for number in range(9)]
    assert [one.trial.number for one in promoted(equal, fidelity=0, reduction=3)] == [0, 1, 2]
    # A third of ten, rounded up, is four: one more.
    later = [*(result(number, 0.0, 0.0) for number in range(3)), *equal[3:], result(9, 0.0)]
    assert [one.trial.number for one in promoted(later, fidelity=0, reduction=3)] == [3]
    # Nobody goes on without a score.
    assert promoted([result(0, None)], fidelity=0, reduction=3) == []


def test_the_winner_is_one_that_has_come_to_the_last_fidelity():
    trials = [result(0, 0.9), result(1, 0.6, 0.5, is_whole=True), result(2, 0.7, 0.4, is_whole=True)]
    assert best_of(trials).trial.number == 1


def test_a_trial_is_trained_for_every_preset_that_it_has_come_to_and_a_fold_only_once(brain):
    request = request_of(brain)
    assert request.fidelities == tuple(Fidelity(preset=p, folds=f) for p, f in (("less", 1), ("tiny", 1), ("tiny", 2)))
    assert request.stopping is None
    settings = (("initial_learning_rate", 0.003),)
    trials = [Trial(number=number, settings=settings, fidelity=number) for number in range(3)]
    run = request.request_for(trials)
    # By which a report of the sweep finds it.
    assert identity_of(run)["study"] == str(brain)
    own = {one.id: one for one in run.trainings}
    assert list(own) == [
        *("trial000-less-fold0", "trial001-less-fold0", "trial001-fold0"),
        *("trial002-less-fold0", "trial002-fold0", "trial002-fold1"),
    ]
    for name, one in own.items():
        preset = run.preset.changed_by(one.model.changes)
        is_less = "less" in name
        assert (preset.num_epochs, one.facets["fidelity"]) == ((1, "less") if is_less else (4, "tiny"))
        assert preset.initial_learning_rate == 0.003
        # Whatever the fidelity: nothing but training cases of the training that is searched on.
        assert set(one.cases) == set(request.training.train)
        assert not set(one.train) & set(one.val)


def test_what_a_trial_sets_itself_no_fidelity_changes(brain):
    request = request_of(brain)
    run = request.request_for([Trial(number=0, settings=(("num_epochs", 7),))])
    assert run.preset.changed_by(run.trainings[0].model.changes).num_epochs == 7


def test_hours_are_those_that_a_fidelity_adds_and_are_learned(brain):
    request = request_of(brain, SPACE, "--max-hours", "10")
    less, tiny, folds = expected_hours(request)
    assert (tiny / less, folds / tiny) == (4.0, 1.0)
    trials = [Trial(number=number, settings=()) for number in range(100)]
    # One hour is left. The slower trial took 8.5 hours for five times what the shortest look should take: 1.7 each.
    results = [result(0, 0.5, 0.5, hours=8.5), result(1, 0.5, hours=0.5)]
    budget = Budget(request, results)
    assert budget.take(trials, fidelity=1) == []
    assert budget.is_short
    # Nine hours are left. Cheap looks took 0.2 hours each, so a closer one takes 0.8: 11 of them, or 45 cheap ones.
    cheap = [result(0, 0.5, hours=0.2)] * 5
    assert len(Budget(request, cheap).take(trials, fidelity=1)) == 11
    assert len(Budget(request, cheap).take(trials, fidelity=0)) == 45


def test_a_forecast_has_a_third_of_the_trials_at_the_next_fidelity_each(brain):
    trials = first_trials(request_of(brain, SPACE, "--reduction", "2"))
    assert [one.fidelity for one in trials] == [2, 1, 0, 0]
    assert main(words(brain, SPACE, "--reduction", "2", "--simulate")) == 0


@pytest.mark.parametrize(
    ("space", "others", "message"),
    [
        ("[{}]", (), "at least 2"),
        ("[{}, {}]", (), "tiny, 1 fold before tiny, 1 fold; expected the cheaper one first"),
        ("[{folds: 2}, {}]", (), "tiny, 2 folds before tiny, 1 fold"),
        ("[{preset: lesser}, {}]", (), "did you mean 'less'"),
        ("[{}, {preset: less}]", (), "the last one is of preset less; expected tiny"),
        ("[{fold: 2}, {}]", (), "unknown key 'fold'"),
        ("[{folds: 0}, {}]", (), "folds is 0 \\(int\\); expected at least 1"),
        ("[{}, {folds: 9}]", (), "9 folds"),
        ("[{}, {folds: 2}]", ("--folds", "2"), "--folds: .*has fidelities"),
        ("[{}, {folds: 2}]", ("--first-epochs", "2"), "--first-epochs: .*has fidelities"),
        ("[{}, {folds: 2}]", ("--stopping", "none"), "--stopping none: .*has fidelities"),
    ],
)
def test_fidelities_that_mean_nothing_are_refused(brain, space, others, message):
    with pytest.raises(ConfigError, match=message):
        request_of(brain, f"batch_size: {{choice: [1, 2]}}\nfidelities: {space}\n", *others).request_for(
            [Trial(number=0, settings=(), fidelity=1)]
        )


def test_a_space_without_fidelities_has_none(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("batch_size: {choice: [1, 2]}", encoding="utf-8")
    assert load_space(path).fidelities == ()


def closeness(training) -> float:
    """To the cheap look, 0.004 and 0.005 are equal; looked at closer, 0.005 is the best."""
    best = 0.0045 if training.facets["fidelity"] == "less" else 0.005
    return 1 - 100 * abs(float(training.facets["initial_learning_rate"]) - best)


def runs_of(monkeypatch, *, most: int = 10**6) -> Played:
    return Played(
        monkeypatch,
        score=closeness,
        hours=lambda training: 1.0 if training.facets["fidelity"] == "less" else 4.0,
        most=most,
    )


def test_of_four_trials_two_and_then_one_are_looked_at_closer_wherever_it_is_interrupted(brain, monkeypatch):
    request = request_of(brain, SPACE, "--reduction", "2")
    runs = runs_of(monkeypatch)
    outcome = played(request)
    cheap = [f"trial00{number}-less-fold0" for number in range(4)]
    assert runs.trained == [*cheap, "trial002-fold0", "trial003-fold0", "trial003-fold1"]
    assert outcome.best.trial.number == 3
    assert dict(outcome.best.trial.settings)["initial_learning_rate"] == 0.005
    assert outcome.best.num_cases == 2
    table = Path(f"{request.output}/tables/trials.md").read_text(encoding="utf-8")
    assert [table.count(f"| {remark} |") for remark in ("best", "tiny, 1 fold", "less, 1 fold")] == [1, 1, 2]
    record = json.loads(Path(f"{request.output}/sweep.json").read_text(encoding="utf-8"))
    assert [one["epochs_in_all"] for one in record["trials"]] == [1, 1, 5, 9]
    for most in range(1, len(runs.trained)):
        again = replace(request, run=replace(request.run, output=f"{request.run.output}-{most}"))
        first = runs_of(monkeypatch, most=most)
        with pytest.raises(KeyboardInterrupt):
            played(again)
        rest = runs_of(monkeypatch)
        assert played(again).best.trial == outcome.best.trial
        assert first.trained + rest.trained == runs.trained


def test_no_trial_is_looked_at_closer_for_which_the_hours_do_not_last(brain, monkeypatch):
    # Four cheap looks of an hour each leave less than a closer one takes.
    runs = runs_of(monkeypatch)
    outcome = played(request_of(brain, SPACE, "--reduction", "2", "--max-hours", "7"))
    assert len(runs.trained) == 4
    assert outcome.stopped_for_hours
    assert outcome.best is None


def test_no_trial_is_looked_at_closer_before_there_are_others_to_beat_it(brain, monkeypatch):
    runs = runs_of(monkeypatch)
    played(request_of(brain, SPACE, "--reduction", "2", "--at-once", "1"))
    assert runs.trained[:2] == ["trial000-less-fold0", "trial001-less-fold0"]
    # Where there are no others, it is the best that there is.
    alone = runs_of(monkeypatch)
    played(request_of(brain, SPACE.replace("grid: [0.0000001, 0.003, 0.004, 0.005]", "grid: [0.005]"), "--name", "one"))
    assert alone.trained == ["trial000-less-fold0", "trial000-fold0", "trial000-fold1"]


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_sweep_looks_closer_at_the_best_and_its_rows_say_so(brain, capsys):
    given = words(brain, SPACE, "--reduction", "2")
    assert main(given) == 0
    out = capsys.readouterr().out
    folder = brain.parent.parent / "run" / "sweeps" / "lr"
    record = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    by_fidelity = [sum(one["fidelity"] >= place for one in record["trials"]) for place in range(3)]
    assert by_fidelity[0] == 4
    assert 4 > by_fidelity[1] >= by_fidelity[2] >= 1
    assert record["trials"][record["best"]["trial"]]["fidelity"] == 2
    assert "4 trials" in out
    table = ResultsStore(open_storage(str(folder))).read()
    rows = table.select(["training_id", "fidelity", "fold", "trial"]).to_pylist()
    assert {row["fidelity"] for row in rows} == {"less", "tiny"}
    assert {row["fold"] for row in rows if row["fidelity"] == "tiny"} == {0, 1}
    assert {row["fold"] for row in rows if row["fidelity"] == "less"} == {0}
    promotions = {path.name: path.read_bytes() for path in (folder / "promotions").iterdir()}
    # The same command has nothing to do.
    assert main(given) == 0
    assert {path.name: path.read_bytes() for path in (folder / "promotions").iterdir()} == promotions
    assert "went on to the next" in (folder / "report" / "index.html").read_text(encoding="utf-8")
    assert load_study(brain).sha256
