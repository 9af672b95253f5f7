"""What differences of two methods vary by, and how large a comparison must be."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
from looked_at_study import PATIENTS, STUDY, request_for, rows_of
from statsmodels.regression.mixed_linear_model import MixedLM, VCSpec
from statsmodels.stats.power import TTestPower

from bench.report.scores import drawn_rows
from orchestrator.api import load_study, make_request, plan_comparison
from orchestrator.benchmark.tables import load_tables
from orchestrator.cli.console import consoles
from orchestrator.cli.results import plan_comparison as plan_comparison_command
from orchestrator.cli.results.plan_comparison import _show, build_parser, main
from orchestrator.driver.claim import claim_output
from orchestrator.driver.request import identity_of
from orchestrator.driver.results.planned import planned_comparisons
from orchestrator.report.reported import Reported
from orchestrator.results.records import ScoreStatus
from orchestrator.results.store import ResultsStore, to_table
from orchestrator.statistics.planning import (
    Design,
    VarianceComponents,
    false_positives,
    fewest_patients,
    fewest_tested,
    power_of,
    smallest_difference,
    variance_components,
)
from orchestrator.storage.filesystem import open_storage

SDS = ("patient_sd", "training_sd", "residual_sd")


def _drawn(random, *, num_patients, num_trainings, sds, folds=False):
    """Return differences, patients and trainings; with folds each patient is tested in one training."""
    patient_sd, training_sd, residual_sd = sds
    of_patient, of_training = random.normal(0, patient_sd, num_patients), random.normal(0, training_sd, num_trainings)
    pairs = [(p, t) for p in range(num_patients) for t in range(num_trainings) if not folds or p % num_trainings == t]
    values = [0.02 + of_patient[p] + of_training[t] + random.normal(0, residual_sd) for p, t in pairs]
    return values, [p for p, _ in pairs], [t for _, t in pairs]


def test_components_of_four_patients_in_two_trainings_by_hand():
    # Patients 1, 2, 3, 4 and a training that adds 2, and nothing else: a balanced table without a rest.
    found = variance_components([1, 2, 3, 4, 3, 4, 5, 6], [0, 1, 2, 3] * 2, [0] * 4 + [1] * 4)
    assert found.difference == pytest.approx(3.5)
    assert found.patient_sd**2 == pytest.approx(5 / 3)  # variance of 1, 2, 3, 4
    assert found.training_sd**2 == pytest.approx(2.0)  # variance of 0 and 2
    assert found.residual_sd == pytest.approx(0.0, abs=1e-7)
    assert (found.num_patients, found.num_trainings, found.share_tested) == (4, 2, 1.0)


def test_components_of_balanced_data_are_those_of_restricted_likelihood():
    random = np.random.default_rng(1)
    values, patients, trainings = _drawn(random, num_patients=30, num_trainings=6, sds=(0.03, 0.02, 0.02))
    found = variance_components(values, patients, trainings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its search ends where it begins to round
        fitted = _fitted(values, patients, trainings)
    assert found.patient_sd**2 == pytest.approx(fitted.vcomp[0], rel=0.01)
    assert found.training_sd**2 == pytest.approx(fitted.vcomp[1], rel=0.01)
    assert found.residual_sd**2 == pytest.approx(fitted.scale, rel=0.01)


def _fitted(values, patients, trainings):
    return MixedLM(
        np.array(values),
        np.ones((len(values), 1)),
        groups=np.zeros(len(values)),
        exog_vc=VCSpec(
            ["patient", "training"],
            [[[str(p) for p in range(30)]], [[str(t) for t in range(6)]]],
            [[np.eye(30)[patients]], [np.eye(6)[trainings]]],
        ),
    ).fit(reml=True)


@pytest.mark.parametrize("folds", [False, True])
def test_components_are_right_on_average(folds):
    random = np.random.default_rng(2)
    sds = (0.03, 0.02, 0.015)
    drawn = [
        variance_components(*_drawn(random, num_patients=40, num_trainings=5, sds=sds, folds=folds)) for _ in range(400)
    ]
    patient, training, rest = (
        np.mean([getattr(one, name) ** 2 for one in drawn]) for name in ("patient_sd", "training_sd", "residual_sd")
    )
    # In cross-validation a patient is scored once: what is left cannot be told from the patient.
    expected = (0.03**2 + 0.015**2, 0.02**2, 0.0) if folds else (0.03**2, 0.02**2, 0.015**2)
    assert (patient, training, rest) == pytest.approx(expected, rel=0.1, abs=1e-9)
    assert drawn[0].share_tested == pytest.approx(0.2 if folds else 1.0)


def test_components_are_near_the_truth_where_patients_are_tested_in_different_trainings():
    """20 patients, each in 4 of 5 trainings, which differ more than patients do: the spread of method 3 in theory."""
    random = np.random.default_rng(3)
    sds = (0.05, 0.2, 0.065)
    drawn = []
    for _ in range(400):
        values, patients, trainings = _drawn(random, num_patients=20, num_trainings=5, sds=sds)
        kept = [place for place, (p, t) in enumerate(zip(patients, trainings, strict=True)) if p % 5 != t]
        drawn.append(variance_components(*([of[place] for place in kept] for of in (values, patients, trainings))))
    patient, training, rest = (np.array([getattr(one, name) ** 2 for one in drawn]) for name in SDS)
    assert [part.mean() for part in (patient, training, rest)] == pytest.approx(np.square(sds), rel=0.1)
    # 80 scores less 20 patients and 4 trainings leave 56 degrees of freedom: an SD of sqrt(2 / 56) of the variance.
    assert rest.std() == pytest.approx(0.065**2 * math.sqrt(2 / 56), rel=0.2)
    assert patient.std() < 0.6 * 0.05**2
    assert (patient > 0).mean() > 0.98


def test_scans_of_patients_who_are_tested_once_are_told_from_patients():
    random = np.random.default_rng(4)
    patients = np.repeat(np.arange(60), 2)
    drawn = []
    for _ in range(200):
        values = random.normal(0, 0.03, 60)[patients] + random.normal(0, 0.02, 5)[patients % 5]
        values = values + random.normal(0, 0.015, len(patients))
        drawn.append(variance_components(values.tolist(), patients.tolist(), (patients % 5).tolist()))
    means = [np.mean([getattr(one, name) ** 2 for one in drawn]) for name in SDS]
    assert means == pytest.approx(np.square((0.03, 0.02, 0.015)), rel=0.15)


def test_one_training_says_nothing_of_others():
    found = variance_components([0.1, 0.2, 0.4], ["a", "b", "c"], [0, 0, 0])
    assert math.isnan(found.training_sd)
    assert math.isnan(power_of(Design(num_patients=9, num_trainings=1), found, difference=0.1))
    assert math.isnan(false_positives(Design(num_patients=9, num_trainings=1), found))


def test_one_patient_says_nothing_of_others():
    found = variance_components([0.1, 0.2], ["a", "a"], [0, 1])
    assert found.difference == pytest.approx(0.15)
    assert all(map(math.isnan, (found.patient_sd, found.training_sd, found.residual_sd)))
    assert math.isnan(power_of(Design(num_patients=9, num_trainings=2), found, difference=0.1))
    with pytest.raises(ValueError, match="no differences"):
        variance_components([], [], [])


def _components(patient_sd=0.03, training_sd=0.0, residual_sd=0.0, share=1.0):
    return VarianceComponents(
        difference=0.0,
        patient_sd=patient_sd,
        training_sd=training_sd,
        residual_sd=residual_sd,
        num_patients=20,
        num_trainings=5,
        share_tested=share,
    )


def test_power_without_differences_of_trainings_is_that_of_a_paired_t_test():
    for num, difference in [(10, 0.02), (30, 0.01), (80, 0.01)]:
        found = power_of(Design(num_patients=num, num_trainings=5), _components(), difference=difference)
        assert found == pytest.approx(TTestPower().power(difference / 0.03, nobs=num, alpha=0.05), abs=1e-6)
    needed = fewest_patients(_components(), num_trainings=5, difference=0.01)
    assert needed == math.ceil(TTestPower().solve_power(0.01 / 0.03, power=0.8, alpha=0.05))


def test_the_power_of_one_seed_of_a_cross_validation_is_that_of_a_paired_t_test_of_patients():
    # Pilots with several seeds tell patients and rest apart; with one seed each patient has one score, with both in it.
    components = _components(0.0098, residual_sd=0.048, share=0.2)
    sd = math.hypot(0.0098, 0.048)
    for num_patients in (40, 200):
        found = power_of(Design(num_patients=num_patients, num_trainings=5), components, difference=0.01)
        assert found == pytest.approx(TTestPower().power(0.01 / sd, nobs=num_patients, alpha=0.05), abs=1e-6)
    needed = fewest_patients(components, num_trainings=5, difference=0.01)
    assert needed == math.ceil(TTestPower().solve_power(0.01 / sd, power=0.8, alpha=0.05))
    # Of three seeds the rest is averaged.
    assert fewest_patients(components, num_trainings=15, difference=0.01) < needed / 2


@pytest.mark.parametrize(("num_tests", "fewest"), [(1, 6), (2, 7), (4, 8), (14, 10)])
def test_no_plan_needs_fewer_patients_than_a_report_can_show_anything_of(num_tests, fewest):
    # 2 / 2^n of n patients who all differ in the same direction, times the number of tests, must be below 0.05.
    assert 2 / 2**fewest * num_tests < 0.05
    assert fewest == 6 or 2 / 2 ** (fewest - 1) * num_tests >= 0.05
    alpha = 0.05 / num_tests
    tiny = _components(0.0001)
    assert fewest_tested(alpha) == fewest == fewest_patients(tiny, num_trainings=5, difference=0.01, alpha=alpha)
    below = Design(num_patients=fewest - 1, num_trainings=5)
    assert power_of(below, tiny, difference=0.01, alpha=alpha) == 0.0
    assert smallest_difference(below, tiny, alpha=alpha) == math.inf
    assert power_of(replace(below, num_patients=fewest), tiny, difference=0.01, alpha=alpha) > 0.99
    varies_in_trainings = replace(tiny, training_sd=math.nan)
    assert math.isnan(power_of(below, varies_in_trainings, difference=0.01, alpha=alpha))


@pytest.mark.parametrize(
    "components",
    [
        # One score of each patient with one seed; with two the rest must not be less well known than it was.
        _components(0.0, residual_sd=0.00774, share=0.2),
        _components(0.0, training_sd=0.00038, residual_sd=0.0083, share=0.2),
        _components(0.002, training_sd=0.001, residual_sd=0.006),
    ],
)
def test_more_seeds_do_not_need_more_patients(components):
    needed = [fewest_patients(components, num_trainings=5 * seeds, difference=0.01) for seeds in (1, 2, 3, 5, 10)]
    assert None not in needed
    assert needed == sorted(needed, reverse=True)


def test_a_number_of_patients_is_found_where_power_falls_again():
    # Of two trainings that hardly differ nothing can be said from so many patients that only these are left to vary.
    components, alpha = _components(0.0058, training_sd=0.0003), 0.05 / 24
    many = Design(num_patients=100_000, num_trainings=2)
    assert power_of(many, components, difference=0.01, alpha=alpha) < 0.8
    needed = fewest_patients(components, num_trainings=2, difference=0.01, alpha=alpha)
    powers = [
        power_of(replace(many, num_patients=num), components, difference=0.01, alpha=alpha)
        for num in (needed - 1, needed)
    ]
    assert powers[0] < 0.8 <= powers[1]


def test_no_number_of_patients_makes_up_for_few_trainings():
    noisy = _components(training_sd=0.02)
    assert fewest_patients(noisy, num_trainings=5, difference=0.01) is None
    enough = fewest_patients(noisy, num_trainings=60, difference=0.01)
    assert enough is not None
    design = Design(num_patients=enough, num_trainings=60)
    assert power_of(design, noisy, difference=0.01) >= 0.8
    assert smallest_difference(design, noisy) == pytest.approx(0.01, rel=0.02)


def test_power_and_false_positives_are_those_of_simulated_comparisons():
    random = np.random.default_rng(3)
    sds = (0.03, 0.02, 0.01)
    components = _components(*sds)
    design = Design(num_patients=20, num_trainings=5)
    means, errors = [], []
    for _ in range(4000):
        values, patients, _ = _drawn(random, num_patients=20, num_trainings=5, sds=sds)
        by_patient = np.bincount(patients, values) / 5
        means.append(by_patient.mean() - 0.02)
        errors.append(by_patient.std(ddof=1) / math.sqrt(20))
    variance = 0.03**2 / 20 + 0.02**2 / 5 + 0.01**2 / 100
    assert np.var(means) == pytest.approx(variance, rel=0.06)
    claimed = np.mean(np.abs(means) > 1.96 * np.array(errors))
    assert false_positives(design, components) == pytest.approx(claimed, abs=0.03)
    assert false_positives(design, _components()) == pytest.approx(0.05, abs=1e-9)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return two runs of one study with other seeds, with drawn scores: trainings differ by an SD of 0.03."""
    locations = []
    for seed in (0, 1):
        location = tmp_path_factory.mktemp("runs") / f"seed{seed}"
        request = make_request(load_study(), preset="paper", seed=seed, output=location, only=["T[13]-infection*"])
        storage, store = open_storage(str(location)), ResultsStore(open_storage(str(location)))
        ids = [training.id for training in request.trainings]
        claim_output(storage, identity=identity_of(request), trainings=ids)
        for training in request.trainings:
            store.commit(training.id, drawn_rows(training, study=request.study, seed=seed))
        locations.append(location)
    return locations


def test_runs_of_several_seeds_are_more_trainings(runs):
    one, both = plan_comparison(runs[0]), plan_comparison(runs)
    assert [plan.components.num_trainings for plan in one] == [5] * len(one)
    assert [plan.components.num_trainings for plan in both] == [10] * len(both)
    assert {plan.num_tests for plan in one} == {len(one)}
    assert all(16 < plan.hours_a_pair < 24 for plan in one)
    # Each training has a skill of SD 0.03, and a pair two of them.
    found = [plan.components.training_sd for plan in both if plan.metric == "dsc"]
    assert np.mean(found) == pytest.approx(0.03 * math.sqrt(2), rel=0.5)


def test_a_rate_that_is_as_it_should_be_is_not_called_another(runs, capsys, monkeypatch):
    monkeypatch.setattr(plan_comparison_command, "false_positives", lambda *_, **__: 0.0512)
    assert main(["--output", str(runs[0]), "--smallest", "0.05"]) == 0
    shown = capsys.readouterr().out
    assert "different in 5% of such comparisons, as it should: trainings hardly differ here" in shown
    assert "and not in" not in shown


def test_the_command_prints_what_is_known_and_what_would_be_enough(runs, capsys):
    words = [word for run in runs for word in ("--output", str(run))]
    assert main([*words, "--smallest", "0.05", "--usd-per-hour", "2", "--metric", "nsd"]) == 0
    shown = capsys.readouterr().out
    assert "T3-infection-structseg against T1-infection, infection, test-mosmed" in shown
    assert "10 pairs of trainings" in shown
    assert "of such comparisons, and not in 5%, since other trainings would differ otherwise" in shown
    assert "USD" in shown
    assert "DSC" not in shown
    assert main([*words, "--smallest", "2"]) == 2
    assert "--smallest 2: expected a number above 0 and below 1" in capsys.readouterr().err
    assert main([*words, "--structure", "liver"]) == 2
    assert "expected scores of both sides" in capsys.readouterr().err
    assert main(["--output", str(runs[0] / "nothing")]) == 2


@pytest.fixture(scope="module")
def pilot(tmp_path_factory):
    """Return the trainings of two networks with three seeds in five folds, 40 patients, and rows of the first fold."""
    folder = tmp_path_factory.mktemp("pilot")
    request_for(folder, folder / "out")  # writes the files
    text = STUDY.replace("first: {}", "first: {seeds: [0, 1, 2]}").replace("-second}", "-second, seeds: [0, 1, 2]}")
    (folder / "study.yaml").write_text(text, encoding="utf-8")
    study = load_study(folder / "study.yaml")
    trainings = [one for one in study.trainings(preset=study.preset("tiny")) if one.fold == 0]
    rows = {one.id: rows_of(one, study=study, gain=0.01) for one in trainings}
    return study, trainings, rows


def _planned(study, trainings, rows):
    table = to_table([row for one in trainings for row in rows[one.id]])
    layout = load_tables(study)
    return planned_comparisons([Reported(study=study, trainings=tuple(trainings), table=table, layout=layout)])


def test_a_pilot_of_one_fold_plans_folds_that_test_each_patient_once(pilot):
    dsc, _ = _planned(*pilot)
    assert (dsc.components.num_patients, dsc.components.num_trainings, dsc.components.share_tested) == (8, 3, 1.0)
    # The study: 40 patients, each in one of five folds.
    assert (dsc.num_patients, dsc.share_tested, dsc.num_folds) == (PATIENTS, 0.2, 5)


def test_patients_without_a_score_in_a_pilot_are_as_many_in_its_study(pilot):
    study, trainings, rows = pilot
    empty = {
        name: [
            replace(row, score=replace(row.score, status=ScoreStatus.BOTH_EMPTY, dsc=math.nan, nsd=math.nan))
            if row.case in {"case_00", "case_05"}
            else row
            for row in own
        ]
        for name, own in rows.items()
    }
    dsc, _ = _planned(study, trainings, empty)
    assert (dsc.components.num_patients, dsc.num_patients) == (6, 30)


def test_a_pilot_of_one_patient_is_planned_from_as_far_as_that_goes(pilot):
    study, trainings, rows = pilot
    of_one = {name: [row for row in own if row.case == "case_05"] for name, own in rows.items()}
    dsc, _ = _planned(study, trainings, of_one)
    assert (dsc.components.num_patients, dsc.components.num_trainings) == (1, 3)
    assert math.isnan(dsc.components.patient_sd)


def _shown(plan, capsys):
    options = build_parser().parse_args(["--output", "x"])
    _show(plan, options, console=consoles()[0])
    return capsys.readouterr().out


def test_the_table_is_of_the_patients_and_folds_of_the_study(pilot, capsys):
    dsc, _ = _planned(*pilot)
    found = replace(dsc.components, patient_sd=0.0098, training_sd=0.0, residual_sd=0.048)
    shown = _shown(replace(dsc, components=found, num_tests=1), capsys)
    assert "power with 40 patients" in shown
    needed = math.ceil(TTestPower().solve_power(0.01 / math.hypot(0.0098, 0.048), power=0.8, alpha=0.05))
    (first,) = (line.split() for line in shown.splitlines() if line.split()[:2] == ["1", "10"])
    assert first[-1] == str(needed)


def test_what_cannot_be_told_is_said_and_no_number(pilot, capsys):
    dsc, _ = _planned(*pilot)
    of_one = replace(dsc.components, num_patients=1, **dict.fromkeys(SDS, math.nan))
    shown = _shown(replace(dsc, components=of_one), capsys)
    assert "SD of patients unknown, of trainings unknown (n = 1 patients" in shown
    assert "one patient does not tell how much patients differ" in shown
    assert "patients needed" not in shown
    unknown = _shown(replace(dsc, components=replace(dsc.components, training_sd=math.nan)), capsys)
    assert "one pair of trainings does not tell" in unknown
    assert "no number" not in unknown
    equal = replace(dsc.components, patient_sd=0.0, training_sd=0.0, residual_sd=0.0)
    shown = _shown(replace(dsc, components=equal), capsys)
    assert "all differences are equal" in shown
    assert "nan" not in shown
    assert "patients needed" not in shown


def test_no_plan_shows_differences_that_there_cannot_be(pilot, capsys):
    dsc, _ = _planned(*pilot)
    found = replace(dsc.components, patient_sd=0.1349, training_sd=0.2047, residual_sd=0.1031, num_patients=2)
    shown = _shown(replace(dsc, components=found, num_patients=2), capsys)
    assert "n is too small to plan from: the SD of 2 patients" in shown
    rows = [line.split() for line in shown.splitlines() if line.split()[:1] in (["1"], ["10"])]
    # Power, shows from, patients needed: with two patients only a difference above 1 would be shown.
    assert [row[4:] for row in rows] == [["no", "number", "no", "number"]] * 2
    assert "too small" not in _shown(dsc, capsys)
