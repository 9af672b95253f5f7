"""A difference over patients and trainings: as an analysis of variance has it, and where there is none."""

import math
from dataclasses import replace

import numpy as np
import pytest
from looked_at_study import FOLDS, PATIENTS, STUDY, request_for, rows_of
from scipy import stats

from orchestrator.benchmark.loading import load_study
from orchestrator.benchmark.tables import load_tables
from orchestrator.errors import ConfigError
from orchestrator.report.answers import answer
from orchestrator.report.content import make_page
from orchestrator.report.reported import Reported
from orchestrator.report.scores_frame import scores_frame
from orchestrator.report.texts.rendering import latex_tables, to_html, to_markdown
from orchestrator.results.store import to_table
from orchestrator.statistics.mixed import Crossed, mixed_model

SEEDS = (0, 1, 2)


def crossed(table, folds=None):
    """Return a table of patients (lines) and trainings (columns) as differences."""
    patients, trainings = map(np.ravel, np.indices(table.shape))
    folds = np.zeros(table.shape[1], int) if folds is None else np.asarray(folds)
    return Crossed(
        differences=table.ravel().tolist(),
        patients=patients.tolist(),
        folds=folds[trainings].tolist(),
        trainings=trainings.tolist(),
    )


def drawn(random, shape, *, patient_sd, training_sd, residual_sd):
    patients, trainings = random.normal(0, patient_sd, (shape[0], 1)), random.normal(0, training_sd, shape[1])
    return 0.02 + patients + trainings + random.normal(0, residual_sd, shape)


def test_a_balanced_table_has_the_numbers_of_its_analysis_of_variance():
    table = drawn(np.random.default_rng(0), (20, 5), patient_sd=0.03, training_sd=0.03, residual_sd=0.02)
    num_patients, num_trainings = table.shape
    rest = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
    # Mean squares, each with its degrees of freedom.
    of_patients = num_trainings * table.mean(1).var(ddof=1), num_patients - 1
    of_trainings = num_patients * table.mean(0).var(ddof=1), num_trainings - 1
    of_rest = (rest**2).sum() / ((num_patients - 1) * (num_trainings - 1)), (num_patients - 1) * (num_trainings - 1)
    variance = (of_patients[0] + of_trainings[0] - of_rest[0]) / table.size
    freedom = (variance * table.size) ** 2 / sum(
        square**2 / own for square, own in (of_patients, of_trainings, of_rest)
    )
    half = stats.t.ppf(0.975, freedom) * math.sqrt(variance)
    found = mixed_model(crossed(table))
    assert not found.problem
    assert found.difference == pytest.approx(table.mean())
    assert (found.low, found.high) == pytest.approx((table.mean() - half, table.mean() + half), abs=1e-6)
    assert found.freedom == pytest.approx(freedom, rel=1e-4)
    assert found.patient_sd == pytest.approx(math.sqrt((of_patients[0] - of_rest[0]) / num_trainings), rel=1e-4)
    assert found.training_sd == pytest.approx(math.sqrt((of_trainings[0] - of_rest[0]) / num_patients), rel=1e-4)
    assert found.residual_sd == pytest.approx(math.sqrt(of_rest[0]), rel=1e-4)
    assert math.isnan(found.fold_sd)
    assert (found.num_patients, found.num_trainings, found.num_folds, found.num_differences) == (20, 5, 1, 100)


def test_seeds_of_one_fold_are_no_folds():
    random = np.random.default_rng(3)
    of_fold = np.repeat(random.normal(0, 0.05, 5), 3)
    table = drawn(random, (30, 15), patient_sd=0.02, training_sd=0.01, residual_sd=0.02) + of_fold
    folds = np.repeat(range(5), 3)
    found = mixed_model(crossed(table, folds))
    # Nested analysis of variance: trainings within folds within the table.
    means = table.mean(0).reshape(5, 3)
    rest = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
    of_rest = (rest**2).sum() / (29 * 14)
    of_seeds, of_folds = 30 * means.var(axis=1, ddof=1).mean(), 90 * means.mean(1).var(ddof=1)
    assert found.training_sd == pytest.approx(math.sqrt((of_seeds - of_rest) / 30), rel=1e-3)
    assert found.fold_sd == pytest.approx(math.sqrt((of_folds - of_seeds) / 90), rel=1e-3)
    assert found.freedom == pytest.approx(4, abs=1)  # the five folds decide how sure it is
    of_all_alike = mixed_model(crossed(table))
    assert found.high - found.low > 1.3 * (of_all_alike.high - of_all_alike.low)


@pytest.mark.parametrize("seed", [3, 18, 31, 105, 108, 141])
def test_small_parts_are_found_and_not_taken_for_none(seed):
    random = np.random.default_rng(seed)
    of_fold = np.repeat(random.normal(0, 0.02, 4), 3)
    table = random.normal(0, 0.01, (12, 1)) + random.normal(0, 0.01, 12) + random.normal(0, 0.03, (12, 12)) + of_fold
    found = mixed_model(crossed(table, np.repeat(range(4), 3)))
    # Where all parts of its analysis of variance are above 0, these are the likeliest.
    means = table.mean(0).reshape(4, 3)
    rest = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
    of_rest = (rest**2).sum() / (11 * 11)
    of_patients = 12 * table.mean(1).var(ddof=1)
    of_seeds, of_folds = 12 * means.var(axis=1, ddof=1).mean(), 36 * means.mean(1).var(ddof=1)
    assert not found.problem
    assert found.patient_sd == pytest.approx(math.sqrt((of_patients - of_rest) / 12), rel=0.02)
    assert found.training_sd == pytest.approx(math.sqrt((of_seeds - of_rest) / 12), rel=0.02)
    assert found.fold_sd == pytest.approx(math.sqrt((of_folds - of_seeds) / 36), rel=0.02)


def test_without_differences_between_trainings_there_is_a_reason_and_no_number():
    table = drawn(np.random.default_rng(0), (20, 5), patient_sd=0.03, training_sd=0.0, residual_sd=0.02)
    table -= table.mean(0) - table.mean()  # the trainings have one mean
    found = mixed_model(crossed(table))
    assert "no variance between trainings" in found.problem
    assert math.isnan(found.difference)
    assert math.isnan(found.low)
    assert "equal" in mixed_model(crossed(np.full((6, 3), 0.1))).problem
    assert "nothing is left" in mixed_model(crossed(np.arange(8.0)[:, None] + np.array([0, 1, 5]))).problem
    patients = drawn(np.random.default_rng(1), (20, 5), patient_sd=0, training_sd=0.05, residual_sd=0.02)
    patients -= patients.mean(1, keepdims=True) - patients.mean()
    assert "no variance between patients" in mixed_model(crossed(patients)).problem


def test_there_is_no_model_of_few_trainings_few_patients_or_one_training_of_each_patient():
    assert crossed(np.zeros((6, 3))).can_be_modelled
    assert not crossed(np.zeros((6, 2))).can_be_modelled
    assert not crossed(np.zeros((5, 3))).can_be_modelled
    in_turn = range(12)
    assert not Crossed(
        differences=[0.0] * 12, patients=list(in_turn), folds=[0] * 12, trainings=[one % 3 for one in in_turn]
    ).can_be_modelled


@pytest.fixture(scope="module")
def with_seeds(tmp_path_factory):
    """Return a study of two networks in five folds with three seeds each, and what a report of it is about."""
    folder = tmp_path_factory.mktemp("seeds")
    request_for(folder, folder / "out")  # writes the files
    text = STUDY.replace("first: {}", "first: {seeds: [0, 1, 2]}").replace(
        "suffix: -second}", "suffix: -second, seeds: [0, 1, 2]}"
    )
    (folder / "study.yaml").write_text(text, encoding="utf-8")
    study = load_study(folder / "study.yaml")
    trainings = study.trainings(preset=study.preset("tiny"))
    rows = [row for one in trainings for row in _drawn_rows(one, study)]
    layout = load_tables(study)
    return study, Reported(study=study, trainings=trainings, table=to_table(rows), layout=layout)


def _drawn_rows(training, study):
    random = np.random.default_rng([training.fold, training.seed, training.model.name == "second"])
    shift = random.normal(0, 0.03)
    return [
        replace(row, score=replace(row.score, dsc=row.score.dsc + shift + random.normal(0, 0.005)))
        for row in rows_of(training, study=study, gain=0.03)
    ]


def test_a_model_with_seeds_has_a_training_for_each_of_a_fold(with_seeds):
    study, reported = with_seeds
    assert len(reported.trainings) == 2 * FOLDS * len(SEEDS)
    first = reported.trainings[0]
    assert (first.id, first.group, first.facets["training_seed"]) == ("organ-seed0-fold0", "organ", 0)
    assert first.num_in_group == FOLDS * len(SEEDS)
    preset = study.preset("tiny")
    assert len(study.trainings(only=["training_seed=2"], preset=preset)) == 2 * FOLDS
    assert len({one.id for one in reported.trainings}) == len(reported.trainings)


def test_the_report_of_several_seeds_has_the_model_beside_the_bootstrap(with_seeds):
    _, reported = with_seeds
    rows = scores_frame(reported)
    (found,) = (answer(spec, rows, trainings=reported.trainings) for spec in reported.layout.comparisons)
    (dsc,) = (one for one in found.differences if one.key.metric == "dsc")
    assert dsc.result.difference.num_clusters == PATIENTS
    assert (dsc.mixed.num_patients, dsc.mixed.num_trainings, dsc.mixed.num_folds) == (PATIENTS, 15, 5)
    wide = rows.pivot_table(index=["patient", "fold", "training_seed"], columns="model", values="dsc")
    assert len(wide) == dsc.mixed.num_differences == PATIENTS * len(SEEDS)
    assert dsc.mixed.difference == pytest.approx((wide["second"] - wide["first"]).mean(), abs=0.005)
    assert dsc.mixed.low < dsc.mixed.difference < dsc.mixed.high
    interval = dsc.result.difference
    assert dsc.mixed.high - dsc.mixed.low > interval.high - interval.low  # trainings differ, and it knows
    page = make_page(reported, rows, location="here", failures={}, events=[])
    for text in (to_html(page), to_markdown(page), latex_tables(page)):
        assert f"{100 * dsc.mixed.difference:+.1f} ({100 * dsc.mixed.low:+.1f} to {100 * dsc.mixed.high:+.1f})" in text
    assert "n = 15 pairs of trainings" in found.sentence_of_models


def test_one_seed_of_each_fold_of_a_cross_validation_has_no_model(tmp_path):
    request = request_for(tmp_path, tmp_path / "out")
    rows = [row for one in request.trainings for row in rows_of(one, study=request.study, gain=0.03)]
    reported = Reported(
        study=request.study, trainings=request.trainings, table=to_table(rows), layout=load_tables(request.study)
    )
    found = answer(reported.layout.comparisons[0], scores_frame(reported), trainings=request.trainings)
    assert found.differences
    assert not found.modelled
    assert not found.sentence_of_models


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ("first: {seeds: [1, 1]}", "expected each once"),
        ("first: {seeds: [-1]}", "seeds"),
        ("first: {seeds: [1]}\n  other: {suffix: -seed1}", "is a group and what seeds"),
    ],
)
def test_seeds_that_make_no_trainings_of_their_own_are_refused(tmp_path, models, message):
    request_for(tmp_path, tmp_path / "out")
    text = STUDY.replace("first: {}", models)
    (tmp_path / "study.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_study(tmp_path / "study.yaml")
