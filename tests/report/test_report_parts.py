"""Scores without leaking patients and by kinds of cases, differences between evaluation sets, and what to cite."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest

from bench.report.scores import all_drawn_rows
from orchestrator.benchmark.loading import load_study
from orchestrator.benchmark.presets import PRESETS
from orchestrator.benchmark.study_file import CaseGroupsEntry, GapEntry
from orchestrator.benchmark.tables import load_tables
from orchestrator.report.content import make_page
from orchestrator.report.parts import gaps_of, parts_of
from orchestrator.report.reported import Reported
from orchestrator.report.scores_frame import scores_frame
from orchestrator.report.texts import page_tables
from orchestrator.report.write import bibliography
from orchestrator.results.records import ScoreStatus
from orchestrator.results.store import to_table
from orchestrator.statistics.intervals import difference_of_means, mean_with_interval

STUDY = load_study()
LAYOUT = load_tables(STUDY)
TRAININGS = STUDY.trainings(only=("T1-infection", "T2-infection-msd"), preset=PRESETS["paper"])


@pytest.fixture(scope="module")
def rows():
    drawn = [row for some in all_drawn_rows(TRAININGS, study=STUDY).values() for row in some]
    return scores_frame(Reported(study=STUDY, trainings=TRAININGS, table=to_table(drawn), layout=LAYOUT))


def test_scores_without_patients_on_both_sides_of_a_split_are_of_the_other_cases(rows):
    leaks = STUDY.patient_leaks(TRAININGS)
    found, *_ = parts_of(rows, layout=LAYOUT, leaks=leaks)
    everything, without = found.parts
    assert (everything.name, without.name, everything.row.group) == ("all", "without them", "T1-infection")
    own = rows[(rows["group"] == "T1-infection") & (rows["evaluation_set"] == "test")]
    is_leaking = np.zeros(len(own), bool)
    for leak in leaks:
        is_leaking |= ((own["case"] == leak.test_case.name) & own["training_id"].isin(leak.training_ids)).to_numpy()
    assert is_leaking.sum() > 0
    assert everything.row.num_cases - without.row.num_cases == is_leaking.sum()
    assert without.row.dsc.mean == pytest.approx(own[~is_leaking]["dsc"].mean())
    # What does not train on the patient is not touched, nor is another evaluation set.
    assert {part.row.evaluation_set for part in found.parts} == {"test"}
    assert parts_of(rows, layout=replace(LAYOUT, case_groups=()), leaks=()) == ()


def test_kinds_of_cases_have_scores_of_their_own(rows):
    found = parts_of(rows, layout=LAYOUT, leaks=())
    (parts,) = found
    (one,) = (part for part in parts.parts if (part.name, part.row.group) == ("coronacases", "T1-infection"))
    own = rows[(rows["group"] == "T1-infection") & rows["case"].str.startswith("coronacases")]
    assert one.row.num_cases == len(own)
    assert one.row.nsd.mean == pytest.approx(own["nsd"].mean())
    nobody = replace(LAYOUT, case_groups=(CaseGroupsEntry(title="x", cases={"y": ["no/*"]}),))
    assert parts_of(rows, layout=nobody, leaks=()) == ()


def test_cases_that_the_mean_of_a_part_is_not_of_are_counted_beside_it():
    """Of two of them neither mask has a voxel, and in a third one mask is empty, which costs its distances alone."""
    drawn = [row for some in all_drawn_rows(TRAININGS, study=STUDY).values() for row in some]
    own = [row for row in drawn if row.group == "T1-infection" and row.case.startswith("coronacases")]
    nothing = {"status": ScoreStatus.BOTH_EMPTY, "dsc": math.nan, "nsd": math.nan, "hd95_mm": math.nan}
    changes = [nothing, nothing, {"status": ScoreStatus.PREDICTION_EMPTY, "dsc": 0.0, "nsd": 0.0, "hd95_mm": math.inf}]
    for row, values in zip(own, changes, strict=False):
        drawn[drawn.index(row)] = replace(row, score=replace(row.score, **values))
    about = Reported(study=STUDY, trainings=TRAININGS, table=to_table(drawn), layout=LAYOUT)
    page = make_page(about, scores_frame(about), location="x", failures={}, events=[])
    (table,) = (page_tables.parts(one, page) for one in page.parts if one.title == LAYOUT.case_groups[0].title)
    titles = [column.title for column in table.columns]
    (cells,) = (
        dict(zip(titles, (cell.text for cell in line), strict=True))
        for line in table.rows
        if (line[0].text, line[3].text) == ("T1-infection", "coronacases")
    )
    assert (cells["cases"], cells["left out"]) == (str(len(own)), "2 both empty")
    assert cells["patients scored"] == str(len({row.case for row in own[2:]}))


def test_a_gap_is_the_difference_of_means_of_two_evaluation_sets(rows):
    layout = replace(LAYOUT, gaps=(GapEntry(title="x", baseline="val", against="test", facets={"task": 2}),))
    (found,) = gaps_of(rows, layout=layout, trainings=TRAININGS)
    dsc, nsd = found.gaps
    assert (dsc.group, dsc.metric, nsd.metric) == ("T2-infection-msd", "dsc", "nsd")
    own = rows[rows["group"] == "T2-infection-msd"]
    sides = [own[own["evaluation_set"] == name]["dsc"].dropna() for name in ("val", "test")]
    assert dsc.difference.mean == pytest.approx(sides[1].mean() - sides[0].mean())
    assert dsc.difference.low < dsc.difference.mean < dsc.difference.high
    assert dsc.num_baseline == len(sides[0])
    # Trainings without such an evaluation set have no gap.
    other = replace(layout, gaps=(layout.gaps[0].model_copy(update={"facets": {"task": 1}}),))
    assert gaps_of(rows, layout=other, trainings=TRAININGS) == ()


def test_the_interval_of_a_difference_of_other_patients_covers_it():
    random = np.random.default_rng(5)
    covered = 0
    for _ in range(200):
        first, second = random.beta(20, 1, 20), random.beta(8, 0.8, 12)
        found = difference_of_means((first, range(20)), (second, range(12)))
        covered += found.low <= 8 / 8.8 - 20 / 21 <= found.high
    # Of 200 intervals that cover in 95 of 100, so many do in all but one of a thousand series.
    assert 179 <= covered <= 199


def test_a_difference_of_few_patients_has_no_interval_and_one_of_none_is_none():
    found = difference_of_means(([0.5, 0.7], "ab"), ([0.9] * 8, range(8)))
    assert (found.mean, found.has_interval, found.num_clusters) == (pytest.approx(0.3), False, 10)
    assert np.isnan(difference_of_means(([], []), ([0.9], "a")).mean)
    # Against values that are all zero, it is the mean with its interval.
    values = np.random.default_rng(0).beta(5, 2, 30)
    both = difference_of_means(([0.0] * 30, range(30)), (values, range(30)))
    alone = mean_with_interval(values, range(30))
    assert (both.low, both.high) == pytest.approx((alone.low, alone.high), abs=0.02)


def test_what_to_cite_is_bibtex_with_the_study_s_own():
    text = bibliography(LAYOUT)
    entries = re.findall(r"^@\w+\{([\w]+),$", text, flags=re.MULTILINE)
    assert len(entries) == len(set(entries)) == 8
    assert "ma2021covid" in entries
    assert text.count("{") == text.count("}")
    assert "ma2021covid" not in bibliography(replace(LAYOUT, references=""))


def test_a_study_may_be_drawn_with_as_many_rows_as_are_to_be_measured():
    few, many = (all_drawn_rows(TRAININGS, study=STUDY, least_rows=least) for least in (0, 1000))
    num_few, num_many = (sum(map(len, drawn.values())) for drawn in (few, many))
    assert num_few < 1000 <= num_many < 1100
    keys = {
        (row.training_id, row.evaluation_set, row.dataset, row.case, row.score.structure)
        for some in many.values()
        for row in some
    }
    assert len(keys) == num_many
    table = to_table([row for some in many.values() for row in some])
    assert len(scores_frame(Reported(study=STUDY, trainings=TRAININGS, table=table, layout=LAYOUT))) == num_many
