"""Tables whose columns are the values of a facet, against values worked out by hand."""

import csv
import io
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from test_tables import LAYOUT, PUBLISHED, STUDY, rows_of, training

from orchestrator.benchmark.definition import FurtherMetric, Model
from orchestrator.benchmark.loading import load_study
from orchestrator.benchmark.published import AVERAGE, PublishedScores
from orchestrator.benchmark.tables import TableSpec, load_tables
from orchestrator.errors import ConfigError
from orchestrator.report.reported import Reported
from orchestrator.report.study_tables.tables import write_tables
from orchestrator.results.store import to_table
from orchestrator.storage.filesystem import open_storage

ROOT = Path(__file__).parents[2]


@pytest.fixture
def written(tmp_path):
    def write(trainings, rows, *, layout, study=STUDY):
        storage = open_storage(tmp_path)
        about = Reported(study=study, trainings=tuple(trainings), table=to_table(rows), layout=layout)
        keys = write_tables(storage, about)
        return {key.removeprefix("tables/"): storage.read_bytes(key).decode() for key in keys}

    return write


def beside(*, rows=(), columns="model"):
    spec = TableSpec(name="models", title="Two networks", facets={"model": ("2d", "3d")}, rows=rows, columns=columns)
    return replace(LAYOUT, specs=(spec,), published=PUBLISHED)


def test_values_of_a_facet_stand_side_by_side_with_what_is_published_of_each(written):
    first, second = training(), training(1)
    flat = training(model="2d")
    rows = [
        *rows_of(first, (0.8, 0.5), (0.9, 0.7)),
        *rows_of(second, (0.7, 0.6), (0.8, 0.6)),
        *rows_of(flat, (0.5, 0.25)),
    ]
    text = written([first, second, flat], rows, layout=beside())["models.md"]
    titles = (
        "evaluated on | structure | cases | 2d DSC | 2d NSD | 3d DSC | 3d DSC published | 3d NSD | 3d NSD published"
    )
    assert f"| {titles} | remarks |" in text
    # Means and deviations as above; the 2D network has one case of one fold, so that there is no deviation.
    lacks = "3d: 2 of 5 folds: 3 not in this run, 2d: fold 0 alone, 2d: 1 of 2 cases have no row"
    cells = "COVID-19-CT-Seg | left lung | 4 / 1 | 50.0 | 25.0 | 80.0 ± 8.2 | 85.8 ± 10.5 | 60.0 ± 8.2 | 70.0 ± 12.5"
    assert f"| {cells} | {lacks} |" in text
    assert text.index(cells) < text.index("The same fold by fold:") < text.index("| T1-lung | ")


def test_seeds_are_no_further_cases(written):
    plain, model = training(), Model(name="2d", seeds=(0, 1))
    seeded = [replace(training(model="2d"), model=model, seed=seed) for seed in model.seeds]
    metric = FurtherMetric(name="hd99", field="hd99_mm", title="HD99 (mm)")
    scored = [((0.1, 0.3), (0.5, 0.5)), ((0.3, 0.5), (0.5, 0.5))]
    rows = rows_of(plain, (0.8, 0.5), (0.9, 0.7))
    for one, scores, distances_mm in zip(seeded, scored, ((2.0, 8.0), (4.0, math.nan)), strict=True):
        own = zip(rows_of(one, *scores), distances_mm, strict=True)
        rows += [replace(row, further={metric.field: distance_mm}) for row, distance_mm in own]
    layout = replace(beside(), published=PublishedScores(), metrics=(metric,))
    files = written([plain, *seeded], rows, layout=layout)
    # The first case has DSC 0.2 and NSD 0.4 over both seeds and 3 mm, the second 0.5 and 0.5 and 8 mm: mean 0.35, SD
    # 0.3 / root 2; mean 0.45, SD 0.1 / root 2; median 5.5 mm.
    assert "| left lung | 2 | 35.0 ± 21.2 | 45.0 ± 7.1 | 5.5 (4.25 to 6.75) | 85.0 ± 7.1 |" in files["models.md"]
    said = "mean ± sample SD over cases (averages pool all folds, of each case the mean over its seeds); other metrics"
    assert said in files["models.md"]
    assert "SD over cases, of each case the mean over its seeds; other metrics" in files["models.tex"]
    (average,) = [line for line in csv.DictReader(io.StringIO(files["models.csv"])) if line["fold"] == AVERAGE]
    assert (average["num_cases"], average["dsc_mean"]) == ("2", "0.35")
    assert "seeds" not in written([plain], rows_of(plain, (0.8, 0.5)), layout=layout)["models.md"]


def test_facets_make_the_lines_of_a_table(written):
    some = [training(task=task, source=source) for task, source in ((1, "covid"), (2, "msd"), (2, "nsclc"))]
    scores = ((0.1, 0.1), (0.2, 0.2), (0.3, 0.3))
    rows = [row for one, score in zip(some, scores, strict=True) for row in rows_of(one, score, score)]
    files = written(some, rows, layout=beside(rows=("source",), columns="task"))
    lines = files["models.md"].splitlines()
    titles = (
        "source | evaluated on | structure | cases | 1 DSC | 1 NSD | 2 DSC | 2 DSC published | 2 NSD | 2 NSD published"
    )
    first = lines.index(f"| {titles} | remarks |")
    assert lines[first + 2].startswith(
        "| covid | COVID-19-CT-Seg | left lung | 2 | 10.0 ± 0.0 | 10.0 ± 0.0 |  |  |  |  |"
    )
    published = "50.0 ± 10.5 | 20.0 ± 0.0 | 70.0 ± 12.5"
    assert lines[first + 3].startswith(f"| msd | COVID-19-CT-Seg | left lung | 2 |  |  | 20.0 ± 0.0 | {published} |")
    assert "nsclc & COVID-19-CT-Seg & left lung & 2 &  &  & 30.0 $\\pm$ 0.0 &  & 30.0" in files["models.tex"]
    assert len(files["models.csv"].splitlines()) == 1 + 3
    assert "fold by fold" not in files["summary.md"]


def test_scored_trainings_in_no_table_of_the_study_stand_in_one_of_their_own(written):
    held, other, waiting = training(), training(model="both", split="80-20"), training(task=2, source="msd", model="x")
    # Of the group that is scored, the fold that is not yet stands there too; nothing of `waiting` is scored.
    later = replace(other, fold=1)
    rows = [*rows_of(held, (0.5, 0.5), (0.5, 0.5)), *rows_of(other, (0.7, 0.6), (0.8, 0.6))]
    files = written([held, other, later, waiting], rows, layout=beside())
    assert "# Trainings that are in no table of the study\n" in files["others.md"]
    folds = [
        (line["group"], line["fold"], line["dsc_mean"]) for line in csv.DictReader(io.StringIO(files["others.csv"]))
    ]
    assert folds == [(other.group, "0", "0.75"), (other.group, "1", ""), (other.group, AVERAGE, "0.75")]
    assert f"| {other.group} | COVID-19-CT-Seg | left lung | average | 2 | 75.0 ± 7.1 |" in files["summary.md"]
    assert "[md](others.md), [csv](others.csv), [tex](others.tex)" in files["summary.md"]
    assert other.group not in files["models.md"]


def test_where_the_tables_of_a_study_hold_all_that_is_scored_there_is_no_further_one(written):
    held, waiting = training(), training(model="both", split="80-20")
    files = written([held, waiting], rows_of(held, (0.5, 0.5), (0.5, 0.5)), layout=beside())
    assert sorted(files) == ["models.csv", "models.md", "models.tex", "summary.md"]
    assert "in no table" not in files["summary.md"]


def test_the_table_of_what_is_in_no_other_takes_the_name_of_none(written):
    other = training(model="both", split="80-20")
    layout = beside()
    layout = replace(layout, specs=tuple(replace(layout.specs[0], name=name) for name in ("Others", "others-")))
    files = written([other], rows_of(other, (0.5, 0.5)), layout=layout)
    assert sorted(files) == ["others--.csv", "others--.md", "others--.tex", "summary.md"]


TABLES = "tables: {t: {title: x, facets: %s, %s}}"


@pytest.mark.parametrize(
    ("facets", "layout", "words"),
    [
        ("{}", "rows: [task]", "tables.t.rows: expected only with `columns`"),
        ("{}", "columns: modell", "unknown facet 'modell'; did you mean 'model'"),
        ("{}", "columns: model, rows: [taks]", "unknown facet 'taks'; did you mean 'task'"),
        ("{model: 3d}", "columns: task, rows: [split]", "T1-lung and T1-infection would stand in one cell"),
    ],
)
def test_a_table_that_cannot_be_laid_out_is_refused(tmp_path, facets, layout, words):
    (tmp_path / "tables.yaml").write_text(TABLES % (facets, layout))
    with pytest.raises(ConfigError, match=words):
        load_tables(replace(load_study(), path=tmp_path / "study.yaml"))


def test_models_stand_side_by_side_where_a_study_has_no_tables(tmp_path):
    brain = load_study(ROOT / "splits" / "brain_mri" / "study.yaml")
    (spec,) = load_tables(replace(brain, path=tmp_path / "study.yaml")).specs
    assert (spec.columns, spec.rows) == ("model", ())
    (spec,) = load_tables(replace(brain, path=tmp_path / "study.yaml", models=brain.models[:1])).specs
    assert spec.columns is None


TWO_DATA_SETS = """title: Two data sets
label_sets: {organ: {organ: {label: 1}}}
datasets:
  a: {nnunet: Dataset001_A, channels: [CT], label_sets: [organ]}
  b: {nnunet: Dataset002_B, channels: [CT], label_sets: [organ]}
models: {3d: {}, 2d: {configuration: 2d, suffix: -2d}}
trainings:
  a: {train: [a/train], val: [a/val]}
  b: {train: [b/train], val: [b/val]}
"""


def test_models_of_several_data_sets_stand_side_by_side_without_facets(tmp_path, written):
    (tmp_path / "study.yaml").write_text(TWO_DATA_SETS)
    (tmp_path / "folds.yaml").write_text("{a: {train: [a1], val: [a2]}, b: {train: [b1], val: [b2]}}")
    study = load_study(tmp_path / "study.yaml")
    layout = load_tables(study)
    assert layout.specs[0].columns == "model"
    trainings = study.trainings(preset=study.preset("paper"))
    lines = written(trainings, [], layout=layout, study=study)["summary.md"].splitlines()
    titles = "| group | evaluated on | structure | cases | 3d DSC | 3d NSD | 2d DSC | 2d NSD | remarks |"
    start = lines.index(titles)
    lacks = "3d: pending, 2d: pending"
    assert lines[start + 2 : start + 4] == [
        f"| {group} | validation | organ | 0 | - | - | - | - | {lacks} |" for group in ("a", "b")
    ]


def test_a_bar_in_a_name_divides_no_cell(written):
    some = [training(structures=("left|right",)), training(structures=("left|right",), model="2d")]
    some = [replace(one, facets={**one.facets, "arm": f"{one.model.name}|x"}) for one in some]
    spec = TableSpec(name="models", title="Two | <b> & more", columns="arm", rows=("task",))
    layout = replace(LAYOUT, specs=(spec,), published=PUBLISHED, set_titles={"test": "a | b"})
    rows = [row for one in some for row in rows_of(one, (0.5, 0.5), (0.5, 0.5))]
    files = written(some, rows, layout=layout)
    for name, num_tables in (("models.md", 1), ("summary.md", 2)):
        tables = re.findall(r"(?:^\|.*\|$\n?)+", files[name], flags=re.MULTILINE)
        assert len(tables) == num_tables
        for table in tables:
            lines = table.strip().splitlines()
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
        assert r"| task | evaluated on | structure | cases | 3d\|x DSC |" in files[name]
        assert r"| 1 | a \| b | left\|right | 2 |" in files[name]
        assert "# Two | &lt;b> & more" in files[name]
    assert r"| Two \| &lt;b> & more | [md](models.md), [csv](models.csv), [tex](models.tex) |" in files["summary.md"]
