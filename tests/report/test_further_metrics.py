"""What a study asks for besides DSC, NSD, HD95 and ASSD is a column of its results, tables and report."""

import csv
import math
import re
from dataclasses import replace
from pathlib import Path
from statistics import quantiles

import pytest
from test_report import report, text_of

from bench.report.scores import all_drawn_rows
from orchestrator.benchmark.definition import FurtherMetric
from orchestrator.benchmark.loading import load_study
from orchestrator.benchmark.presets import PRESETS
from orchestrator.benchmark.tables import load_tables
from orchestrator.errors import ConfigError
from orchestrator.report.reported import Reported
from orchestrator.report.study_tables.tables import write_tables
from orchestrator.results.records import ScoreStatus
from orchestrator.results.store import ResultsStore, from_table, to_table
from orchestrator.storage.filesystem import open_storage

SIMILARITY = FurtherMetric(name="volume-similarity", field="volume_similarity", title="volume similarity")
STUDY = replace(load_study(), metrics=(SIMILARITY,))
TRAININGS = STUDY.trainings(matrix="all", only=("T1-infection*",), preset=PRESETS["paper"])
FILES = """title: Things
label_sets: {things: {thing: {label: 1}}}
datasets: {one: {nnunet: Dataset137_Things, label_sets: [things], channels: [CT]}}
trainings: {big: {facets: {organ: liver}, train: [one/all]}}
"""


def value_of(place: int, status: ScoreStatus) -> float:
    """Return a number of two digits; where one mask is empty there is none."""
    return 0.01 * (place % 37) if status is ScoreStatus.SCORED else math.inf


@pytest.fixture(scope="module")
def rows():
    drawn = all_drawn_rows(TRAININGS, study=STUDY)
    return {
        training: [
            replace(row, further={SIMILARITY.field: value_of(place, row.score.status)})
            for place, row in enumerate(some)
        ]
        for training, some in drawn.items()
    }


def test_it_is_a_column_of_the_results(tmp_path: Path, rows):
    store = ResultsStore(open_storage(str(tmp_path)))
    some = rows["T1-infection-fold0"]
    store.commit("T1-infection-fold0", some)
    found = store.query("SELECT avg(volume_similarity) AS mean FROM scores").to_pylist()[0]["mean"]
    values = [row.further[SIMILARITY.field] for row in some if row.score.status == ScoreStatus.SCORED]
    assert found == pytest.approx(sum(values) / len(values))
    back = from_table(store.read())
    assert [row.facets for row in back] == [row.facets for row in some]
    assert [row.further[SIMILARITY.field] for row in back if row.score.status == ScoreStatus.SCORED] == values


def test_what_was_scored_before_it_was_asked_for_has_none(tmp_path: Path, rows):
    store = ResultsStore(open_storage(str(tmp_path)))
    store.commit("T1-infection-fold0", rows["T1-infection-fold0"])
    store.commit("T1-infection-fold1", [replace(row, further={}) for row in rows["T1-infection-fold1"]])
    back = {row.training_id: row.further for row in from_table(store.read())}
    assert back["T1-infection-fold0"]
    assert math.isnan(back["T1-infection-fold1"][SIMILARITY.field])


def test_who_was_scored_before_it_was_asked_for_is_named_beside_the_tables_and_in_the_report(tmp_path: Path, rows):
    before = ("T1-infection-fold1", "T1-infection-fold2", "T1-infection-fold3", "T1-infection-fold4")
    some = {
        training: [replace(row, further={}) for row in own] if training in before else own
        for training, own in rows.items()
    }
    storage, layout = open_storage(str(tmp_path)), load_tables(STUDY)
    expected = (
        "Without volume similarity: T1-infection-fold1, T1-infection-fold2, T1-infection-fold3, T1-infection-fold4. "
        "They were scored before the study asked for it, or none of their cases has one."
    )
    for found, is_said in ((some, True), (rows, False)):
        every_row = [row for own in found.values() for row in own]
        table = to_table(every_row)
        write_tables(storage, Reported(study=STUDY, trainings=TRAININGS, table=table, layout=layout))
        for name in ("table_IV", "summary"):
            assert (expected in (tmp_path / "tables" / f"{name}.md").read_text()) is is_said
    assert expected in text_of(report(tmp_path / "report", some, study=STUDY, layout=layout))


@pytest.mark.parametrize("columns", [None, "model"])
def test_tables_show_median_and_quartiles(tmp_path: Path, rows, columns):
    storage, layout = open_storage(str(tmp_path)), load_tables(STUDY)
    (spec,) = (replace(one, columns=columns) for one in layout.specs if one.name == "table_IV")
    layout, every_row = replace(layout, specs=(spec,)), [row for some in rows.values() for row in some]
    write_tables(storage, Reported(study=STUDY, trainings=TRAININGS, table=to_table(every_row), layout=layout))
    pooled = [row for row in every_row if (row.group, row.evaluation_set) == ("T1-infection", "test")]
    values = [row.further[SIMILARITY.field] for row in pooled if row.score.status == ScoreStatus.SCORED]
    low, median, high = quantiles(values, n=4, method="inclusive")
    table = list(csv.DictReader((tmp_path / "tables" / "table_IV.csv").read_text().splitlines()))
    (average,) = (
        row for row in table
        if (row["group"], row["evaluation_set"], row["fold"]) == ("T1-infection", "test", "average")
    )  # fmt: skip
    numbers = [float(average[f"volume_similarity_{part}"]) for part in ("median", "quartile_1", "quartile_3")]
    assert numbers == pytest.approx([median, low, high])
    shown = f"{median:.3g} ({low:.3g} to {high:.3g})"
    for ending in ("md", "tex"):
        text = (tmp_path / "tables" / f"table_IV.{ending}").read_text()
        assert "volume similarity" in text
        assert shown in text
        assert "other metrics: median and quartiles" in text
    lines = [line for line in (tmp_path / "tables" / "table_IV.md").read_text().splitlines() if line[:1] == "|"]
    assert len({line.count("|") for line in lines}) == (2 if columns else 1)


def test_the_report_and_its_files_show_it(tmp_path: Path, rows):
    page = text_of(report(tmp_path, rows, study=STUDY, layout=load_tables(STUDY)))
    assert "volume error (%) volume similarity left out" in page
    assert re.search(r"0\.\d+ \(0\.\d+ to 0\.\d+\)", page)
    for name in ("report.md", "tables.tex", "data_dictionary.md"):
        assert "volume similarity" in (tmp_path / "report" / name).read_text()
    assert "volume_similarity" in (tmp_path / "report" / "scores.csv").read_text().splitlines()[0].split(",")


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ("[hd95-voxl]", "metrics: unknown metric 'hd95-voxl'; did you mean 'hd95-voxel'?"),
        ("[dsc]", "metrics: unknown metric 'dsc'; expected one of hd95-voxel, "),
        ("[hd95-voxel, masd-voxel, hd95-voxel]", "metrics: hd95-voxel twice; expected each once"),
    ],
)
def test_what_a_study_cannot_ask_for_is_refused_by_name(tmp_path: Path, metrics, said):
    (tmp_path / "folds.yaml").write_text("one: [a, b, c]\n")
    (tmp_path / "study.yaml").write_text(f"{FILES}metrics: {metrics}\n")
    with pytest.raises(ConfigError) as caught:
        load_study(tmp_path / "study.yaml")
    assert said in str(caught.value)
