"""What is said of the questions of a study: with every test in one family, and nothing left out in silence."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from looked_at_study import PATIENTS, STUDY, request_for, rows_of
from scipy.stats import wilcoxon

from orchestrator.benchmark.loading import load_study
from orchestrator.benchmark.tables import compared_groups, load_tables
from orchestrator.report import answers
from orchestrator.report.answers import answer, paired_scores
from orchestrator.report.content import make_page
from orchestrator.report.reported import Reported
from orchestrator.report.scores_frame import scores_frame
from orchestrator.report.study_tables.cells import score_text
from orchestrator.report.texts.numbers import points, with_interval
from orchestrator.report.texts.rendering import latex_tables, to_html, to_markdown
from orchestrator.results.records import ScoreStatus
from orchestrator.results.store import to_table
from orchestrator.statistics.comparison import compare_paired, corrected_by_holm
from orchestrator.statistics.intervals import MeanWithInterval, cut_difference
from orchestrator.statistics.mixed import MixedModel


@pytest.fixture(scope="module")
def three_models(tmp_path_factory):
    """Return a study of three networks in five folds, and rows of its trainings."""
    folder = tmp_path_factory.mktemp("study")
    request_for(folder, folder / "out")  # writes the files
    more = "suffix: -second}\n  third: {configuration: 2d, suffix: -third}"
    (folder / "study.yaml").write_text(STUDY.replace("suffix: -second}", more), encoding="utf-8")
    study = load_study(folder / "study.yaml")
    trainings = study.trainings(preset=study.preset("tiny"))
    rows = [row for one in trainings for row in rows_of(one, study=study, gain=0.004)]
    return study, trainings, [_of_third(row) if row.group == "organ-third" else row for row in rows]


def _of_third(row):
    """Return a row with a difference of its own: drawn rows are alike but for the second network."""
    dsc, nsd = np.random.default_rng(int(row.case.removeprefix("case_")) + 1000).normal(0.002, 0.01, 2)
    return scored(row, dsc=row.score.dsc + dsc, nsd=row.score.nsd + nsd)


def reported(found, *, changed=lambda row: row):
    study, trainings, rows = found
    table = to_table([changed(row) for row in rows])
    return Reported(study=study, trainings=trainings, table=table, layout=load_tables(study))


def answered(found, **changes):
    shown = reported(found, **changes)
    (spec,) = shown.layout.comparisons
    return answer(spec, scores_frame(shown), trainings=shown.trainings)


def page_of(found, **changes):
    shown = reported(found, **changes)
    return make_page(shown, scores_frame(shown), location="here", failures={}, events=[])


def scored(row, **values):
    return replace(row, score=replace(row.score, **values))


def missing(row):
    return scored(row, status=ScoreStatus.MISSING, dsc=math.nan, nsd=math.nan, hd95_mm=math.nan, assd_mm=math.nan)


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        (np.linspace(0.01, 0.02, 40), "higher"),
        (np.linspace(-0.01, -0.02, 40), "lower"),
        # Ranks speak for the second, and their test is below 0.05; its mean is lower by far, and the interval below 0.
        ([*np.linspace(0.01, 0.012, 34), *np.linspace(-0.5, -0.52, 6)], "not shown"),
        # One patient is lost, and the mean still is a little higher.
        ([0.05] * 18 + [-0.85], "not shown"),
    ],
)
def test_a_difference_is_shown_where_test_and_interval_say_the_same(three_models, differences, verdict):
    drawn = answered(three_models).differences[0]
    (result,) = corrected_by_holm([compare_paired(differences, range(len(differences)))])
    assert result.p_corrected < 0.05
    assert replace(drawn, result=result).verdict == verdict


def test_all_models_against_the_first_are_one_question(three_models):
    found = answered(three_models)
    assert found.spec.title == "Models against first"
    pairs = [(one.group, other.group) for one, other in compared_groups(found.spec, three_models[1])]
    assert pairs == [("organ", "organ-second"), ("organ", "organ-third")]
    assert found.num_tests == 4
    assert "Holm over 4 tests" in found.sentence
    frame = scores_frame(reported(three_models))
    p_values = {}
    for group in ("organ-second", "organ-third"):
        for metric in ("dsc", "nsd"):
            wide = frame.pivot_table(index="patient", columns="group", values=metric)
            p_values[group, metric] = wilcoxon(wide[group] - wide["organ"], zero_method="pratt").pvalue
    ordered = sorted(p_values, key=p_values.get)
    steps = np.maximum.accumulate([p_values[name] * (4 - place) for place, name in enumerate(ordered)])
    expected = {name: min(1.0, float(step)) for name, step in zip(ordered, steps, strict=True)}
    corrected = {(one.key.against, one.key.metric): one.result.p_corrected for one in found.differences}
    assert corrected == pytest.approx(expected)


def test_the_sentence_says_why_a_difference_has_no_test_and_calls_a_set_by_its_title(three_models):
    found = answered(three_models)
    first, *others = found.differences

    def without_test(values):
        return replace(first, result=compare_paired(values, range(len(values))))

    few, equal = without_test([0.1, 0.2]), without_test([0.0] * PATIENTS)
    alike = without_test([-0.1] * PATIENTS)
    for added, said in (
        ([few], ", 1 of them for want of a test: too few patients."),
        ([equal], ", 1 of them for want of a test: no difference in any patient."),
        ([alike], ", 1 of them for want of an interval: the same difference in all patients."),
        ([few, equal, equal], "test: too few patients, 2 of them for want of a test: no difference in any patient."),
    ):
        text = replace(found, differences=(*others, *added), set_titles={"val": "validation"}).sentence
        assert said in text
        assert " of organ (validation), " in text


def test_no_interval_of_a_difference_is_beyond_what_a_difference_of_shares_can_be(three_models, monkeypatch):
    """Of ten patients three are lost, which a resample makes of nearly all."""
    far = compare_paired([-0.98, -0.97, -0.95, *[0.0] * 7], range(10))
    assert far.difference.low < -1
    monkeypatch.setattr(answers, "compare_paired", lambda *_: far)
    assert {one.result.difference.low for one in answered(three_models).differences} == {-1.0}
    model = MixedModel(num_patients=9, num_folds=3, num_trainings=3, num_differences=27, problem="", low=-0.2, high=1.1)
    assert (cut_difference(model).low, cut_difference(model).high) == (-0.2, 1.0)


def test_a_training_of_which_no_case_has_a_score_is_not_called_whole_without_a_word(three_models):
    lost = page_of(three_models, changed=lambda row: missing(row) if row.group == "organ" else row)
    assert "for no case" not in page_of(three_models).state
    num = len({row.training_id for row in three_models[2] if row.group == "organ"})
    assert f"{num} of them have a number for no case" in lost.state


def test_what_becomes_of_shown_differences_is_told_only_where_there_are_any(three_models):
    found = answered(
        three_models, changed=lambda row: scored(row, dsc=row.score.dsc - 0.1 * (row.group[-5:] == "third"))
    )
    numbers = {"num_patients": 9, "num_folds": 3, "num_trainings": 3, "num_differences": 27, "problem": ""}
    model = MixedModel(**numbers, difference=0.0, low=-0.1, high=0.1)
    shown = [replace(one, mixed=model) for one in found.differences if one.verdict == "lower"]
    others = [replace(one, mixed=model) for one in found.differences if one.verdict == "not shown"]
    assert shown
    assert others
    text = replace(found, differences=tuple(others)).sentence_of_models
    assert text.endswith(f"{len(others)} of {len(others)} differences have 0 in their 95 % interval.")
    text = replace(found, differences=tuple(shown)).sentence_of_models
    assert text.endswith(f"95 % interval, among them {len(shown)} of the {len(shown)} that are shown.")


def test_the_sentence_names_the_largest_difference_with_its_interval(three_models):
    found = answered(
        three_models, changed=lambda row: scored(row, dsc=row.score.dsc - 0.1 * (row.group[-5:] == "third"))
    )
    largest = next(one for one in found.differences if (one.key.against, one.key.metric) == ("organ-third", "dsc"))
    interval = largest.result.difference
    assert (
        f"The largest that is shown: organ-third less organ, DSC of organ (val), {100 * interval.mean:+.1f} points "
        f"({100 * interval.low:+.1f} to {100 * interval.high:+.1f}), n = {PATIENTS}, p (Holm) < 0.001."
    ) in found.sentence
    assert interval.mean == pytest.approx(-0.1, abs=0.01)


@pytest.mark.parametrize(
    ("value", "signed", "text"),
    [
        (0.0148, True, "+1.5"),
        (-0.0004, True, "-0.04"),  # not -0.0, as if it were 0
        (0.00037, True, "+0.037"),
        (0.00051, True, "+0.1"),
        (0.0, True, "+0.0"),
        (-1e-17, True, "+0.0"),  # of summing
        (0.0002, False, "0.02"),
        (0.931, False, "93.1"),
        (0.7055, False, "70.6"),  # a half up, though it is 0.70549999999999996
        (-0.0225, True, "-2.3"),
    ],
)
def test_what_is_not_0_is_not_written_as_0(value, signed, text):
    assert points(value, signed=signed) == text
    interval = MeanWithInterval(mean=value, low=value, high=value, num_cases=9, num_clusters=9)
    assert with_interval(interval, signed=signed) == f"{text} ({text} to {text})"


@pytest.mark.parametrize("value", [0.7055, 0.6435, 0.2595, 0.6415, 0.64, 0.5])
def test_the_page_and_the_tables_round_a_number_alike(value):
    assert score_text(value, math.nan) == points(value)


def test_a_tiny_difference_that_is_shown_has_an_interval_without_0(three_models):
    def changed(row):
        gain = 0.0002 + 1e-6 * int(row.case.removeprefix("case_")) if row.group == "organ-third" else 0.0
        return scored(row, dsc=0.9 + gain, nsd=0.9 + gain)

    found = answered(three_models, changed=changed)
    third = next(one.result.difference for one in found.differences if one.key.against == "organ-third")
    assert f"+0.022 points ({points(third.low, signed=True)} to {points(third.high, signed=True)})" in found.sentence
    assert "+0.0 " not in found.sentence


def test_cases_that_one_of_both_lacks_are_said(three_models):
    lacking = {"case_00", "case_07", "case_11"}
    found = answered(
        three_models, changed=lambda row: missing(row) if row.group == "organ-third" and row.case in lacking else row
    )
    assert "cases that only one of both has a score of, 0 to 3 in each difference" in found.sentence
    assert "only one of both" not in answered(three_models).sentence


def both_empty(row):
    return replace(
        missing(row), score=replace(missing(row).score, status=ScoreStatus.BOTH_EMPTY, num_reference_voxels=0)
    )


def _seeing_things(row):
    """Return the row of a patient with nothing to find, in every other one: the third network finds something there."""
    if int(row.case.removeprefix("case_")) % 2 == 0:
        return row
    if row.group != "organ-third":
        return both_empty(row)
    return scored(row, status=ScoreStatus.REFERENCE_EMPTY, dsc=0.0, nsd=0.0, num_reference_voxels=0)


def test_predicting_what_is_not_there_is_worse_than_two_empty_masks(three_models):
    found = answered(three_models, changed=_seeing_things)
    verdicts = {one.key.against: one for one in found.differences if one.key.metric == "nsd"}
    third, second = verdicts["organ-third"], verdicts["organ-second"]
    frame = scores_frame(reported(three_models, changed=_seeing_things)).set_index("case")
    first = frame.loc[frame["group"] == "organ", "nsd"]
    half = PATIENTS // 2
    assert third.baseline_mean == pytest.approx((first.sum() + half) / PATIENTS)
    assert third.against_mean == pytest.approx(frame.loc[frame["group"] == "organ-third", "nsd"].sum() / PATIENTS)
    assert third.result.difference.mean == pytest.approx(third.against_mean - third.baseline_mean)
    assert (third.verdict, third.num_unpaired, third.result.num_worse >= half) == ("lower", 0, True)
    # Neither of the others finds anything there: nothing to compare in those patients.
    assert (second.result.difference.num_clusters, second.num_unpaired) == (half, 0)
    assert second.baseline_mean == pytest.approx(first.mean())


def test_where_nothing_is_to_be_found_in_anybody_there_is_a_difference_to_who_finds_something(three_models):
    def changed(row):
        zero = scored(row, status=ScoreStatus.REFERENCE_EMPTY, dsc=0.0, nsd=0.0, num_reference_voxels=0)
        return zero if row.group == "organ-third" else both_empty(row)

    found = answered(three_models, changed=changed)
    assert [(one.key.against, one.result.difference.mean, one.result.num_worse) for one in found.differences] == [
        ("organ-third", -1.0, PATIENTS)
    ] * 2


def test_two_empty_masks_in_some_trainings_of_a_case_count_beside_what_others_predict(three_models):
    rows = scores_frame(reported(three_models))
    (spare,) = rows[(rows["group"] == "organ") & (rows["case"] == "case_00")].to_dict("records")
    nothing = {**spare, "status": "both_empty", "dsc": math.nan, "nsd": math.nan}
    zero = {**spare, "status": "reference_empty", "dsc": 0.0, "nsd": 0.0}
    none = {**nothing, "status": "missing"}
    other = {"group": "organ-third"}
    frame = pd.DataFrame([nothing, nothing, zero, {**nothing, **other}, {**none, **other}])
    (pair,) = paired_scores(frame, baseline="organ", against="organ-third", by=()).to_dict("records")
    assert (pair["dsc_baseline"], pair["nsd_against"]) == (pytest.approx(2 / 3), 1.0)
    # By fold: where both have two empty masks, and the same training has not in another fold, they are equal.
    by_fold = frame[1:4].assign(fold=[0, 1, 0])
    first, second = paired_scores(by_fold, baseline="organ", against="organ-third", by=("fold",)).to_dict("records")
    assert (first["dsc_baseline"], first["dsc_against"], second["dsc_baseline"]) == (1.0, 1.0, 0.0)
    # Nobody has a score.
    (pair,) = paired_scores(frame[3:].assign(group=["a", "b"]), baseline="a", against="b", by=()).to_dict("records")
    assert math.isnan(pair["dsc_baseline"])
    assert math.isnan(pair["dsc_against"])


def test_the_page_and_the_methods_say_how_two_empty_masks_count(three_models):
    shown = reported(three_models, changed=_seeing_things)
    page = make_page(shown, scores_frame(shown), location="here", failures={}, events=[])
    said = ", with two empty masks as 1 where either method predicted something"
    assert said in page.methods
    assert said not in page_of(three_models).methods
    for text in (to_html(page), to_markdown(page), latex_tables(page)):
        words = " ".join(text.split())
        assert "two empty masks as 1 where either predicts" in words or "two empty masks count as 1" in words


def test_equal_methods_have_no_test_for_that_reason(three_models):
    equal = answered(three_models, changed=lambda row: scored(row, dsc=0.9, nsd=0.9))
    assert equal.sentence == f"No difference in any patient, so there is no test (n = {PATIENTS})."
    few = answered(three_models, changed=lambda row: row if row.case < "case_03" else missing(row))
    assert few.sentence == "Too few patients for a test (n = 3)."


@pytest.mark.parametrize(
    ("num_patients", "num_equal", "least"),
    [
        (6, 0, "0.125"),  # 4 x 2 / 2^6
        (7, 0, "0.062"),
        (8, 0, None),  # 4 x 2 / 2^8 = 0.031
        (8, 1, "0.062"),
    ],
)
def test_a_question_with_too_few_patients_for_its_tests_could_not_show_anything(
    three_models, num_patients, num_equal, least
):
    def changed(row):
        number = int(row.case.removeprefix("case_"))
        lower = 0.0 if row.group == "organ" or number < num_equal else 0.3 + 0.001 * number
        return scored(row, dsc=0.9 - lower, nsd=0.9 - lower) if number < num_patients else missing(row)

    sentence = answered(three_models, changed=changed).sentence
    said = f"4 tests of at most {num_patients - num_equal} patients who differ give no p (Holm) below {least}, and 0.05"
    assert ("None of them could be shown, however large" in sentence) == (least is not None)
    assert (said in sentence) == (least is not None)
    assert ("4 lower" in sentence) == (least is None)


def test_nobody_is_first_where_nobody_has_a_score(three_models):
    page = page_of(three_models, changed=missing)
    assert not page.rankings
    assert [one.sentence for one in page.answers] == ["Nothing to compare yet: no case has scores of both."]
    for text in (to_html(page), to_markdown(page)):
        assert "Nothing to compare yet" in text
    assert page_of(three_models).rankings
