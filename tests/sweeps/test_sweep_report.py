"""What a report says of a search: which settings mattered, what it cost, and whether it can be read again."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest

from orchestrator.errors import IntegrityError
from orchestrator.report.search import search_section
from orchestrator.report.search_figures import parallel_coordinates
from orchestrator.results.trials import Fidelity, SearchRecord, TrialRecord, read_search, search_of, write_search
from orchestrator.statistics.importance import FEWEST_TRIALS, importances
from orchestrator.storage.filesystem import open_storage

FIDELITIES = [{"preset": "quick", "folds": 2}]
ABOUT = {"training": "g-fold0", "metric": "dsc", "sampler": "random", "fidelities": FIDELITIES, "milestones": [1, 3]}
OF_RECORD = {**ABOUT, "milestones": (1, 3), "fidelities": (Fidelity(preset="quick", folds=2),)}


def trials(number: int = 12) -> tuple[TrialRecord, ...]:
    """Rates whose best is in the middle, an optimiser that matters, and a size that does not; each third ends early."""
    random = np.random.default_rng(0)
    found = []
    for index in range(number):
        rate, optimizer = float(10 ** random.uniform(-4, -1)), ("sgd", "adamw")[index % 2]
        score = 0.8 - 0.1 * (math.log10(rate) + 2.5) ** 2 + 0.02 * (index % 2)
        found.append(
            TrialRecord(
                number=index,
                settings={"initial_learning_rate": rate, "optimizer": optimizer, "batch_size": 2 + index % 3},
                dsc=score if index != 4 else None,
                nsd=None,
                num_epochs=9 if index % 3 else 3,
                is_whole=bool(index % 3) and index != 4,
                hours=0.5,
                fidelity=0,
                first_score=score if index != 4 else None,
                epochs_in_all=18 if index % 3 else 6,
            )
        )
    return tuple(found)


def search(found: tuple[TrialRecord, ...]) -> SearchRecord:
    whole = [one for one in found if one.is_whole and one.dsc is not None]
    best = max(whole, key=lambda one: one.dsc).number if whole else None
    return SearchRecord(**OF_RECORD, trials=found, best=best)


def test_a_setting_explains_what_a_parabola_over_its_ranks_does():
    # Ranks 1, 2, 3, 4, 4, 3, 2, 1 of scores (ties averaged) are no line over 1 to 8, but nearly a parabola.
    values, scores = list(range(8)), [1, 2, 3, 4, 4, 3, 2, 1]
    (one,) = importances({"rate": values}, scores)
    x = np.array(values) - 3.5
    design = np.stack([np.ones(8), x, x**2], axis=1)
    y = np.array([1.5, 3.5, 5.5, 7.5, 7.5, 5.5, 3.5, 1.5])
    rest = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    explained = 1 - rest @ rest / ((y - y.mean()) @ (y - y.mean()))
    assert one.share == pytest.approx(1 - (1 - explained) * 7 / 5)
    assert one.p < 0.05


def test_what_has_no_influence_explains_nothing_on_average_and_is_found_as_often_as_chance_says():
    random = np.random.default_rng(1)
    found = [
        importances({"rate": random.uniform(size=12).tolist()}, random.uniform(size=12).tolist())[0] for _ in range(300)
    ]
    # Two of a hundred standard errors: 0.05 +- 0.025.
    assert 0.02 < np.mean([one.p < 0.05 for one in found]) < 0.085
    assert np.mean([one.share for one in found]) < 0.12


def test_categories_count_by_name_and_one_value_or_too_few_trials_say_nothing():
    scores = [0.1, 0.2, 0.15, 0.8, 0.9, 0.85]
    (one,) = importances({"planner": list("aaabbb"), "epochs": [3] * 6}, scores)
    assert (one.setting, one.share > 0.6) == ("planner", True)
    assert importances({"planner": list("aabb")}, scores[:4]) == ()
    assert FEWEST_TRIALS == 6
    (each,) = importances({"planner": list("abcdef")}, scores)
    assert math.isnan(each.share)


def test_settings_in_a_figure_are_texts():
    values = ("a $x_{$", r"b\$^$")
    found = tuple(replace(one, settings={**one.settings, "planner_$_{$": values[one.number % 2]}) for one in trials())
    drawn = parallel_coordinates(search(found))
    assert all(f">{text}</text>" in drawn for text in (*values, "planner $ {$"))


def test_the_record_of_a_search_is_read_as_it_was_written(tmp_path):
    storage, found = open_storage(str(tmp_path)), trials()
    assert read_search(storage) is None
    write_search(storage, search_of(found, best=5, about=ABOUT), about=ABOUT)
    assert read_search(storage) == SearchRecord(**OF_RECORD, trials=found, best=5)
    record = json.loads((tmp_path / "sweep.json").read_text())
    assert record["best"] == {"trial": 5, "settings": found[5].settings}


@pytest.mark.parametrize(
    "changed",
    [
        {"trials": [{}]},
        {"trials": ["x"]},
        {"trials": [asdict(trials()[0]) | {"dsc": "high"}]},
        {"trials": [asdict(trials()[0]) | {"settings": 3}]},
        {"trials": [asdict(trials()[0]) | {"settings": "rate"}]},
        {"trials": [asdict(trials()[0]) | {"hours": math.inf}]},
        {"trials": [asdict(trials()[0]) | {"dsc": math.nan}]},
        {"trials": [asdict(trials()[0]), asdict(trials()[1]) | {"settings": {}}]},
        {"trials": [asdict(trials()[1])]},
        {"best": {"trial": 99}},
        {"best": None},
        {"milestones": 3},
        {"fidelities": [{"preset": "quick", "folds": 0}]},
        {"fidelities": [3]},
        {"trials": [asdict(trials()[0]) | {"fidelity": 1}]},
        {"trials": [asdict(trials()[0]) | {"epochs_in_all": None}]},
        {"trials": [asdict(trials()[0]) | {"schedule": [{}]}]},
        {"population": {"size": 3}},
        {"generations": [{"from_epoch": 0, "members": [{"trial": 0}]}]},
    ],
)
def test_a_damaged_record_of_a_search_is_refused_by_name(tmp_path, changed):
    storage, found = open_storage(str(tmp_path)), trials()
    write_search(storage, search_of(found, best=None, about=ABOUT), about=ABOUT)
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(IntegrityError, match=r"sweep\.json"):
        read_search(storage)


def test_a_record_of_a_search_of_before_schedules_is_read_and_a_wrong_value_is_named_by_its_place(tmp_path):
    storage, found = open_storage(str(tmp_path)), trials()
    write_search(storage, search_of(found, best=None, about=ABOUT), about=ABOUT)
    path = tmp_path / "sweep.json"
    record = json.loads(path.read_text())
    for one in record["trials"]:
        del one["schedule"]
    path.write_text(json.dumps(record))
    assert read_search(storage) == SearchRecord(**OF_RECORD, trials=found, best=None)
    record["trials"][2]["hours"] = "1"
    path.write_text(json.dumps(record))
    with pytest.raises(IntegrityError, match=r"trials\.2\.hours: Input should be a valid number"):
        read_search(storage)


def test_a_section_says_what_was_tried_at_which_cost_and_that_the_best_is_too_good():
    found = search_section(search(trials()))
    assert found.sentence.startswith(
        "12 trials on the training cases of g-fold0, chosen by the sampler random: 168 epochs and 6 hours of training. "
        "4 ended early, 1 without a score."
    )
    assert "too good" in found.sentence
    assert found.num_scored == 11
    assert found.importances[0].setting == "initial_learning_rate"
    assert [one.remark for one in found.trials].count("best") == 1
    assert found.trials[-1].remark == "no score"
    for svg in (found.best_so_far, found.parallel_coordinates):
        assert svg.startswith("<svg")
        assert "<script" not in svg
    for text in ("initial learning", "optimizer", "batch size", "adamw", "DSC"):
        assert f">{text}</text>" in found.parallel_coordinates
    assert "the best so far" in found.best_so_far
    # The same search is the same page.
    assert search_section(search(trials())) == found


def test_of_several_fidelities_it_is_said_who_went_on_and_only_scores_of_the_first_are_compared():
    looks = (Fidelity(preset="quick", folds=1), Fidelity(preset="paper", folds=5))
    plain = search(trials())
    # Those that went on have other scores there; what settings explain does not depend on it.
    found = tuple(
        replace(one, fidelity=1, dsc=0.9 + one.number / 1000)
        if one.is_whole and one.number > 6
        else replace(one, is_whole=False)
        for one in plain.trials
    )
    best = max((one for one in found if one.is_whole), key=lambda one: one.dsc).number
    section = search_section(replace(plain, fidelities=looks, trials=found, best=best))
    number = sum(one.fidelity == 1 for one in found)
    assert f"12 at quick, 1 fold; {number} at paper, 5 folds." in section.sentence
    assert section.importances == search_section(plain).importances
    assert section.trials[0].remark == "best"
    assert section.trials[number].remark == "quick, 1 fold"


@pytest.mark.parametrize("number", [1, 2])
def test_few_trials_are_drawn_and_nothing_is_said_of_settings(number):
    found = search_section(search(trials(number)))
    assert found.importances == ()
    assert len(found.trials) == number


def test_nothing_is_shown_before_a_trial_has_a_score():
    assert search_section(search(())) is None
    assert search_section(search(trials()[4:5])) is None
