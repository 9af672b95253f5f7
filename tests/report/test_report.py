"""The page says what the rows say: for a whole run, a partial one, one case, nothing but missing predictions."""

import html
import json
import re
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
import pytest
from scipy.stats import wilcoxon

from bench.report.scores import all_drawn_rows
from orchestrator.benchmark.loading import load_study
from orchestrator.benchmark.presets import PRESETS
from orchestrator.benchmark.study_file import GapEntry
from orchestrator.benchmark.tables import ComparisonSpec, TableLayout, TableSpec, load_tables
from orchestrator.report.answers import answer
from orchestrator.report.content import make_page, training_spans
from orchestrator.report.data_dictionary import COLUMNS
from orchestrator.report.figures import forest, overlap_and_surface, score_by_size, scores_by_group, timeline
from orchestrator.report.pictures import sides_of
from orchestrator.report.reported import Reported
from orchestrator.report.scores_frame import scores_frame
from orchestrator.report.texts.rendering import to_html
from orchestrator.report.write import write_report
from orchestrator.results.records import ScoreStatus
from orchestrator.results.store import SCHEMA, to_table
from orchestrator.storage.filesystem import open_storage
from orchestrator.usage import usage_of

STUDY = load_study()
TRAININGS = STUDY.trainings(matrix="all", only=("T1-infection*",), preset=PRESETS["paper"])
LAYOUT = load_tables(STUDY)
MODELS = ComparisonSpec(name="models", title="2d or 3d?", baseline={"model": "3d"}, against={"model": "2d"})


@pytest.fixture(scope="module")
def rows():
    return all_drawn_rows(TRAININGS, study=STUDY)


def reported(rows, *, study=STUDY, layout=LAYOUT) -> Reported:
    table = to_table([row for some in rows.values() for row in some]) if rows else SCHEMA.empty_table()
    return Reported(study=study, trainings=TRAININGS, table=table, layout=layout)


def report(folder: Path, rows, *, failures=MappingProxyType({}), study=STUDY, layout=LAYOUT) -> str:
    shown = reported(rows, study=study, layout=layout)
    key = write_report(open_storage(str(folder)), reported=shown, failures=failures)
    return (folder / key).read_text()


def text_of(page: str) -> str:
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<(style|svg).*?</\1>|<[^>]+>", " ", page, flags=re.DOTALL)))


def test_the_page_needs_nothing_else_and_equal_rows_are_equal_bytes(tmp_path: Path, rows):
    page = report(tmp_path / "a", rows)
    assert "<script" not in page
    assert not re.search(r"(src|href)\s*=\s*[\"'](?!#|data:)", page)
    assert not re.search(r"url\((?!#)|@import", page)
    assert page == report(tmp_path / "b", rows).replace(str(tmp_path / "b"), str(tmp_path / "a"))
    assert "Whole: all 15 trainings have scores." in text_of(page)


def test_means_of_the_page_are_those_of_the_rows(tmp_path: Path, rows):
    report(tmp_path, rows)
    scores = pd.read_csv(tmp_path / "report" / "scores.csv")
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    for row in summary["scores"]:
        own = scores[
            (scores["group"] == row["group"])
            & (scores["evaluation_set"] == row["evaluation_set"])
            & (scores["structure"] == row["structure"])
        ]
        assert row["dsc"]["mean"] == pytest.approx(own["dsc"].mean())
        assert row["nsd"]["mean"] == pytest.approx(own["nsd"].mean())
        assert row["hd95_mm"]["median"] == pytest.approx(own["hd95_mm"].median())
        assert row["num_missing"] == (own["status"] == "missing").sum()
        assert row["dsc"]["low"] <= row["dsc"]["mean"] <= row["dsc"]["high"]
    assert len(summary["scores"]) == scores.groupby(["group", "evaluation_set", "structure"]).ngroups


def test_an_answer_is_the_test_of_paired_cases_by_patient(rows):
    frame = scores_frame(reported(rows))
    found = answer(MODELS, frame, trainings=TRAININGS)
    one = next(d for d in found.differences if (d.key.evaluation_set, d.key.metric) == ("test", "dsc"))
    wide = frame[frame["evaluation_set"] == "test"].pivot_table(
        index=["fold", "case", "patient"], columns="group", values="dsc"
    )
    differences = (wide["T1-infection-2d"] - wide["T1-infection"]).dropna()
    assert one.result.difference.mean == pytest.approx(differences.mean())
    assert one.result.p == pytest.approx(wilcoxon(differences.groupby("patient").mean(), zero_method="pratt").pvalue)
    # The patient with two scans is one.
    assert one.result.difference.num_clusters == 19
    assert {d.key.against for d in found.differences} == {"T1-infection-2d"}
    assert found.num_tests == len(found.differences) == 4


def test_a_clear_difference_is_shown_and_none_is_not_called_equal(rows):
    changed = {
        name: [replace(r, score=replace(r.score, dsc=r.score.dsc / 2)) if r.group.endswith("2d") else r for r in some]
        for name, some in rows.items()
    }
    frame = scores_frame(reported(changed))
    found = answer(MODELS, frame, trainings=TRAININGS)
    verdicts = {(d.key.evaluation_set, d.key.metric): d.verdict for d in found.differences}
    assert verdicts["test", "dsc"] == verdicts["test-mosmed", "dsc"] == "lower"
    assert "2 lower" in found.sentence
    assert "Holm over 4 tests" in found.sentence


def test_groups_that_differ_in_more_than_the_question_are_not_compared(rows):
    frame = scores_frame(reported(rows))
    other = ComparisonSpec(name="x", title="x", baseline={"model": "3d"}, against={"model": "2d"}, same=("split",))
    assert {d.key.baseline for d in answer(other, frame, trainings=TRAININGS).differences} == {"T1-infection"}
    none = replace(MODELS, against={"model": "4d"})
    assert answer(none, frame, trainings=TRAININGS).sentence.startswith("Nothing to compare")


def test_a_run_without_scores_says_so(tmp_path: Path):
    text = text_of(report(tmp_path, {}, failures={"train T1-infection-fold0": "TrainingError: no\nlast line"}))
    assert "Not whole: 0 of 15 trainings have scores; 1 stages failed" in text
    assert "No training has scores yet." in text
    assert "last line" in text


def test_a_partial_run_shows_what_is_there(tmp_path: Path, rows):
    some = dict(list(rows.items())[:1])
    text = text_of(report(tmp_path, some))
    assert "Not whole: 1 of 15 trainings have scores" in text


def test_one_case_has_a_mean_and_no_interval(tmp_path: Path, rows):
    name, some = next(iter(rows.items()))
    one = next(row for row in some if row.score.status is ScoreStatus.SCORED)
    page = report(tmp_path, {name: [one]})
    assert f">{100 * one.score.dsc:.1f}</td>" in page
    assert "fewer than 6, so without an interval" in page


def test_equal_scores_have_a_mean_and_no_interval(tmp_path: Path, rows):
    name, some = next(iter(rows.items()))
    scored = next(row.score for row in some if row.score.status is ScoreStatus.SCORED)
    page = report(
        tmp_path, {name: [replace(row, score=replace(scored, structure=row.score.structure)) for row in some]}
    )
    assert "all equal, so without an interval" in page


def test_nothing_but_missing_predictions_is_a_page_that_says_so(tmp_path: Path, rows):
    nan = float("nan")
    missing = {
        name: [replace(r, score=replace(r.score, status=ScoreStatus.MISSING, dsc=nan, nsd=nan, hd95_mm=nan,
                                        assd_mm=nan)) for r in some]
        for name, some in rows.items()
    }  # fmt: skip
    text = text_of(report(tmp_path, missing))
    assert re.search(r"T1-infection COVID-19-CT-Seg infection 80 0 none none none none none 80 missing", text)
    assert "Missing or unusable predictions: " in text
    # Nor is a mean that there is not within a spread, or outside of it.
    assert re.search(r"infection DSC none 67.3 ± 22.3 none -", text)
    for name in ("report.md", "tables.tex"):
        (row, *_) = re.findall(r".*\bDSC\b.*67\.3.*", (tmp_path / "report" / name).read_text())
        assert re.search(r"none [|&] - *[|\\]", row)


def test_texts_of_strangers_are_texts(tmp_path: Path, rows):
    study = replace(STUDY, title="<script>alert(1)</script> & more")
    page = report(tmp_path, rows, study=study, failures={"<b>x</b>": "<img src=x>"})
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in page


def test_names_in_figures_are_texts(rows):
    names = ("tumour $x_{ core$", r"$5 \$^^", "_core", "神经", "W" * 100)
    frame = scores_frame(reported(rows))
    frame["structure"] = [names[place % len(names)] for place in range(len(frame))]
    frame["group"] = frame["structure"]
    for draw in (scores_by_group, overlap_and_surface, score_by_size):
        texts = html.unescape(draw(frame))
        assert all(f">{name}</text>" in texts for name in names)
    found = answer(MODELS, scores_frame(reported(rows)), trainings=TRAININGS)
    odd = replace(
        found,
        differences=[replace(one, key=one.key.model_copy(update={"structure": names[0]})) for one in found.differences],
    )
    assert f"{names[0]}, " in forest(odd, {})
    assert overlap_and_surface(frame[:0]).startswith("<svg")


def test_places_of_a_page_and_of_its_tables_have_one_name_each(tmp_path: Path, rows):
    names = ("scores", "ranks", "published", "scores-trainings", "a-b", "a_b")
    layout = replace(LAYOUT, comparisons=tuple(replace(MODELS, name=name) for name in names))
    page = report(tmp_path, rows, layout=layout)
    tables = (tmp_path / "report/tables.tex").read_text()
    for found in (re.findall(r'<h2 id="([^"]*)"', page), re.findall(r"\\label\{([^}]*)\}", tables)):
        assert len(found) > len(names)
        assert len(set(found)) == len(found)


def test_published_values_stand_beside_ours_with_their_errata(tmp_path: Path, rows):
    page = report(tmp_path, rows)
    published = json.loads((tmp_path / "report" / "summary.json").read_text())["published"]
    found = next(p for p in published if (p["group"], p["evaluation_set"], p["metric"])
                 == ("T1-infection", "test", "dsc"))  # fmt: skip
    known = LAYOUT.published.find(group="T1-infection", fold="average", evaluation_set="test", structure="infection")
    assert (found["mean"], found["std"]) == (known.dsc_mean, known.dsc_std)
    ours = found["ours"]
    mean, low, high = (f"{100 * (ours[name] - known.dsc_mean):+.1f}" for name in ("mean", "low", "high"))
    for text in (page, *((tmp_path / "report" / name).read_text() for name in ("report.md", "tables.tex"))):
        assert f"{mean} ({low} to {high})" in text
    assert f'<td title="n = {ours["num_cases"]}, patients scored: {ours["num_clusters"]}">' in page


def test_what_ranks_and_gaps_rest_on_is_seen_by_hovering_over_them(tmp_path: Path, rows):
    gap = GapEntry(title="x", baseline="test", against="test-mosmed")
    page = report(tmp_path, rows, layout=replace(LAYOUT, gaps=(gap,)))
    assert re.search(r'title="infection DSC: [12], infection NSD: [12]">1\.[05]0</td>', page)
    assert re.search(r'<td title="n = \d+ cases of both sets together">[+-]', page)


def test_every_column_is_in_the_data_dictionary(tmp_path: Path, rows):
    report(tmp_path, rows)
    assert set(SCHEMA.names) <= set(COLUMNS)
    text = (tmp_path / "report" / "data_dictionary.md").read_text()
    columns = {*pd.read_csv(tmp_path / "report" / "scores.csv").columns, *SCHEMA.names}
    assert {column: text.count(f"\n| {column} | ") for column in columns} == dict.fromkeys(columns, 1)


def test_the_spacing_of_each_axis_has_a_column_with_all_digits(tmp_path: Path, rows):
    spacing_mm = (8.38070011138916, 1 / 3, 0.1 + 0.2)
    name, (one, *_) = next(iter(rows.items()))
    report(tmp_path, {name: [replace(one, score=replace(one.score, spacing_mm=spacing_mm))]})
    scores = pd.read_csv(tmp_path / "report" / "scores.csv")
    assert tuple(scores[[f"spacing_{axis}_mm" for axis in "zyx"]].iloc[0]) == spacing_mm
    assert "spacing_mm" not in scores
    assert tuple(pd.read_parquet(tmp_path / "report" / "scores.parquet")["spacing_mm"][0]) == spacing_mm


def test_each_attempt_at_a_training_is_drawn_where_and_when_it_ran_as_its_hours_are_counted():
    def event(minute: int, kind: str, **fields: object) -> dict[str, object]:
        return {"time": f"2026-01-01T00:{minute:02}:00+00:00", "kind": kind, **fields}

    of_a, of_b = ({"stage": f"train {name}", "stage_kind": "train"} for name in "ab")
    events = [
        event(0, "run_started"),
        event(6, "stage_started", **of_a),
        event(12, "training_epoch", training="a", host="node1"),
        event(18, "stage_failed", **of_a),
        event(18, "stage_started", **of_a),
        event(24, "training_epoch", training="a", host="node2"),
        event(27, "training_epoch", training="other", host="node3"),
        event(30, "stage_finished", **of_a),
        event(30, "stage_started", **of_b),
        event(36, "training_epoch", training="b", host="node1"),
        # The driver is killed, and called again.
        event(48, "run_started"),
        event(48, "stage_started", **of_b),
        event(54, "stage_finished", **of_b),
        event(51, "attempt_started", training="b", host="node4"),
    ]
    spans = training_spans(events)
    assert spans == [
        ("a", pytest.approx(0.1), pytest.approx(0.3), "node1"),
        ("a", pytest.approx(0.3), pytest.approx(0.5), "node2"),
        ("b", pytest.approx(0.5), pytest.approx(0.6), "node1"),
        ("b", pytest.approx(0.8), pytest.approx(0.9), "node4"),
    ]
    (train,) = usage_of(events).stages
    assert train.hours == pytest.approx(sum(end - start for _, start, end, _ in spans))
    assert training_spans([]) == []


def test_the_figure_of_one_training_at_a_time_has_room_for_its_label():
    drawn = timeline([("a", 0.0, 1.0, "node")])
    assert "trainings at a time" in drawn
    (height,) = re.findall(r'viewBox="0 0 [0-9.]+ ([0-9.]+)"', drawn)
    assert float(height) >= 1.5 * 72


def test_figures_of_a_run_are_on_its_page(rows):
    frame = scores_frame(reported(rows))
    epochs = [
        {"time": f"2026-01-01T0{e}:00:00+00:00", "kind": "training_epoch", "training": "a", "epoch": e, "host": "n",
         "train_loss": -0.1 * e, "val_loss": None, "pseudo_dice": 0.1 * e}
        for e in range(3)
    ]  # fmt: skip
    layout = TableLayout(specs=(TableSpec(name="x", title="x"),))
    about = reported(rows, layout=layout)
    page = make_page(about, frame, location="x", failures={}, events=epochs)
    assert len(page.figures) == len(set(zip(frame["evaluation_set"], frame["structure"], strict=True))) + 3
    assert to_html(page).count("<figure>") == len(page.figures)
    assert np.isfinite([len(figure.svg) for figure in page.figures]).all()


def test_the_sides_of_a_picture_are_those_of_the_patient():
    # Columns of ITK's direction are where x, y and z grow, in LPS; letters are of z, y and x.
    assert sides_of((1, 0, 0, 0, 1, 0, 0, 0, 1)) == ("S", "P", "L")
    assert sides_of((-1, 0, 0, 0, -1, 0, 0, 0, 1)) == ("S", "A", "R")  # as most NIfTI files lie
    assert sides_of((0, 0, 1, 1, 0, 0, 0, -1, 0)) == ("L", "I", "P")  # a sagittal series from right to left


def test_one_fold_of_several_is_not_called_all_folds(tmp_path: Path, rows):
    # Asked for alone, so that the run is whole.
    own = tuple(one for one in TRAININGS if one.fold == 3)
    table = to_table([row for one in own for row in rows[one.id]])
    asked = Reported(study=STUDY, trainings=own, table=table, layout=LAYOUT)
    text = text_of((tmp_path / write_report(open_storage(str(tmp_path)), reported=asked, failures={})).read_text())
    assert "Not all folds have scores: 1 of 5 in T1-infection, T1-infection-2d" in text
    assert not re.search("all folds(?! (that )?have scores)", text)
    assert "They are 1 of 5 folds each of T1-infection, T1-infection-2d" in (tmp_path / "report/methods.md").read_text()
    # Beside it stands what was published of that fold, and not the average of all.
    found = next(p for p in json.loads((tmp_path / "report" / "summary.json").read_text())["published"]
                 if (p["group"], p["evaluation_set"], p["metric"]) == ("T1-infection", "test", "dsc"))  # fmt: skip
    where = {"group": "T1-infection", "evaluation_set": "test", "structure": "infection"}
    fold, average = (LAYOUT.published.find(fold=fold, **where) for fold in (3, "average"))
    assert fold.dsc_mean != average.dsc_mean
    assert (found["mean"], found["std"]) == (fold.dsc_mean, fold.dsc_std)


def test_the_methods_say_folds_cases_and_patients(tmp_path: Path, rows):
    page = report(tmp_path, rows)
    text = (tmp_path / "report" / "methods.md").read_text()
    assert "5 of 5 folds each of T1-infection, T1-infection-2d" in text
    scores = pd.read_csv(tmp_path / "report" / "scores.csv")
    own = scores[scores["evaluation_set"] == "test"]
    num_cases, num_patients = own[["dataset", "case"]].drop_duplicates().shape[0], own["patient"].nunique()
    assert (num_cases, num_patients) == (20, 19)
    assert "20 cases of 19 patients (COVID-19-CT-Seg)" in text
    fewest, *_, most = sorted(len(one.train) for one in TRAININGS)
    assert f"each was fitted to {fewest} to {most} cases of" in text
    assert "Not all folds" not in page


def test_a_question_of_which_one_side_has_no_scores_is_not_answered_and_does_not_vanish(tmp_path: Path, rows):
    asked = replace(LAYOUT, comparisons=(MODELS, replace(MODELS, name="none", title="4d?", against={"model": "4d"})))
    own = [row for some in rows.values() for row in some if not row.group.endswith("2d")]
    one_sided = Reported(study=STUDY, trainings=TRAININGS, table=to_table(own), layout=asked)
    for folder, shown in (
        ("one", one_sided),
        ("none", replace(one_sided, table=SCHEMA.empty_table())),
    ):
        write_report(open_storage(str(tmp_path / folder)), reported=shown, failures={})
        text = text_of((tmp_path / folder / "report" / "index.html").read_text())
        assert "2d or 3d? Nothing to compare yet: no case has scores of both." in text
        # Of trainings that the run does not have.
        assert "4d?" not in text
        assert "Nothing to compare yet" in (tmp_path / folder / "report" / "report.md").read_text()
