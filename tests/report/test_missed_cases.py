"""A case in which nothing is found is in means of DSC and NSD, and in no median of distances: the tables say so."""

import math
from dataclasses import replace

import pytest
from test_further_metrics import SIMILARITY, STUDY

from bench.report.scores import all_drawn_rows
from orchestrator.benchmark.presets import PRESETS
from orchestrator.benchmark.tables import load_tables
from orchestrator.report.content import make_page
from orchestrator.report.reported import Reported
from orchestrator.report.scores_frame import scores_frame
from orchestrator.report.texts.rendering import latex_tables, to_html, to_markdown
from orchestrator.results.records import ScoreStatus
from orchestrator.results.store import to_table

(TRAINING,) = STUDY.trainings(only=("T1-infection-fold0",), preset=PRESETS["paper"])


def scored(row, *, place: int):
    """Return a row of a case that is found, and of every second one that is not."""
    if place % 2:
        values = {"status": ScoreStatus.PREDICTION_EMPTY, "dsc": 0.0, "nsd": 0.0, "hd95_mm": math.inf}
        return replace(row, score=replace(row.score, assd_mm=math.inf, **values), further={SIMILARITY.field: math.inf})
    values = {"status": ScoreStatus.SCORED, "dsc": 0.9, "nsd": 0.9, "hd95_mm": 3.0, "assd_mm": 1.0}
    return replace(row, score=replace(row.score, **values), further={SIMILARITY.field: 0.95})


@pytest.fixture(scope="module")
def page():
    drawn = [row for row in all_drawn_rows([TRAINING], study=STUDY)[TRAINING.id] if row.evaluation_set == "test"][:16]
    rows = [scored(row, place=place) for place, row in enumerate(drawn)]
    about = Reported(study=STUDY, trainings=(TRAINING,), table=to_table(rows), layout=load_tables(STUDY))
    return make_page(about, scores_frame(about), location="x", failures={}, events=[])


@pytest.mark.parametrize("text_of", [to_html, to_markdown, latex_tables])
def test_medians_are_said_to_be_of_the_cases_that_were_found(page, text_of):
    text = text_of(page)
    assert page.rows[0].num_cases == 16
    assert "3.0 (3.0 to 3.0), n = 8" in text
    assert "0.95 (0.95 to 0.95), n = 8" in text
    assert "8 without distances" in text
