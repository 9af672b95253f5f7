"""Whole small tables against values worked out by hand."""

import csv
import io
import math
import re
from dataclasses import replace

import pytest

from orchestrator.benchmark.definition import Case, EvaluationSet, Model, Training
from orchestrator.benchmark.leaks import AlikeCases, PatientLeak
from orchestrator.benchmark.loading import load_study
from orchestrator.benchmark.presets import PRESETS
from orchestrator.benchmark.published import AVERAGE, Erratum, PublishedScore, PublishedScores
from orchestrator.benchmark.tables import load_tables
from orchestrator.report.reported import Reported
from orchestrator.report.study_tables.cells import score_text
from orchestrator.report.study_tables.tables import write_tables
from orchestrator.results.records import CaseScore, Provenance, ResultRow, ScoreStatus
from orchestrator.results.store import to_table
from orchestrator.storage.filesystem import open_storage

STUDY = load_study()
LAYOUT = load_tables(STUDY)
COVID = "covid-19-ct-seg"
CASES = tuple(Case(dataset=COVID, name=name) for name in ("coronacases_001", "coronacases_002"))
FOLD_1 = ("T1-lung", 1, "test", "left_lung")
ERRATUM = Erratum(id="fold1", text="Fold 1: 90% & more is a misprint.", rows=[list(FOLD_1)], values=["dsc"])


PUBLISHED = PublishedScores(
    scores={
        (group, fold, "test", "left_lung"): PublishedScore(
            dsc_mean=mean, dsc_std=0.105, nsd_mean=0.7, nsd_std=0.125, dsc_erratum=erratum, nsd_erratum=""
        )
        for group, fold, mean, erratum in (
            ("T1-lung", 1, 0.9, "fold1"),
            ("T1-lung", AVERAGE, 0.858, ""),
            ("T2-lung-msd", AVERAGE, 0.5, ""),
        )
    },
    errata=(ERRATUM, Erratum(id="other", text="The paper says 62.", groups=["T2-lung-msd"])),
)
"""Of the lung: one of fold 1, whose DSC an erratum touches, and averages."""


def training(fold=0, *, task=1, subtask="lung", source="covid", structures=("left_lung",), num_published=None, **more):
    test = EvaluationSet(name="test", label_set=subtask, structures=structures, cases=CASES)
    split, model = more.pop("split", "20-80"), more.pop("model", "3d")
    parts = [f"T{task}", subtask, *([source] if task > 1 else []), *([split] if split == "80-20" else [])]
    return Training(
        group="-".join([*parts, *([model] if model == "2d" else [])]),
        fold=fold,
        num_folds=1 if task == 2 else 5,
        facets={"task": task, "subtask": subtask, "source": source, "split": split, "model": model},
        label_set=subtask,
        model=Model(name=model),
        plans_from=None,
        train=(),
        val=(),
        evaluation_sets=(test,),
        num_uncapped_cases=len(CASES) if num_published is None else num_published,
    )


def rows_of(of, *scores, preset="paper", phantoms=False, is_capped=False):
    """Return a row for each case and structure; a score is (DSC, NSD) or a status without scores."""
    provenance = Provenance(
        preset=preset,
        seed=0,
        versions="{}",
        data_sha256="",
        split_sha256="",
        plan_sha256="",
        checkpoint_sha256="",
        phantoms=phantoms,
        is_capped=is_capped,
        train_elapsed_s=1.0,
    )
    rows = []
    for case, found in zip(CASES, scores, strict=False):
        status, (dsc, nsd) = (found, (math.nan,) * 2) if isinstance(found, ScoreStatus) else ("scored", found)
        for structure in of.evaluation_sets[0].structures:
            score = CaseScore(
                structure=structure,
                status=ScoreStatus(status),
                dsc=dsc,
                nsd=nsd,
                tolerance_mm=1.0,
                spacing_mm=(1.0, 1.0, 1.0),
                num_reference_voxels=1,
                num_predicted_voxels=1,
            )
            rows.append(
                ResultRow(
                    training_id=of.id,
                    group=of.group,
                    fold=of.fold,
                    configuration=of.model.configuration,
                    facets=of.facets,
                    evaluation_set="test",
                    dataset=case.dataset,
                    case=case.name,
                    score=score,
                    provenance=provenance,
                )
            )
    return rows


@pytest.fixture
def written(tmp_path):
    storage = open_storage(tmp_path)

    def write(trainings, rows, *, failed=(), layout=None, **doubts):
        layout = replace(LAYOUT, published=PUBLISHED) if layout is None else layout
        about = Reported(study=STUDY, trainings=tuple(trainings), table=to_table(rows), layout=layout, **doubts)
        keys = write_tables(storage, about, failed=failed)
        assert sorted(keys) == storage.list_keys("tables")
        return {key.removeprefix("tables/"): storage.read_bytes(key).decode() for key in keys}

    return write


def five_folds():
    """Return five folds: two whole, one with a missing and an empty case, one failed, one pending."""
    folds = [training(fold) for fold in range(5)]
    rows = [
        *rows_of(folds[0], (0.8, 0.5), (0.9, 0.7)),
        *rows_of(folds[1], (0.7, 0.6), (0.8, 0.6)),
        *rows_of(folds[2], ScoreStatus.MISSING, ScoreStatus.BOTH_EMPTY),
    ]
    return folds, rows


def test_a_table_in_markdown(written):
    # Fold 0: DSC 0.85, SD 0.1 / sqrt(2) = 0.0707; NSD 0.6, SD 0.2 / sqrt(2) = 0.1414. Fold 1: DSC 0.75.
    # Average of 0.8 0.9 0.7 0.8: 0.8, SD sqrt(0.02 / 3) = 0.0816; NSD of 0.5 0.7 0.6 0.6: 0.6, SD 0.0816.
    folds, rows = five_folds()
    text = written(folds, rows, failed={"T1-lung-fold3"})["table_IV.md"]
    assert (
        text
        == """\
# Table IV. Task 1, few-shot learning

> Missing or unusable predictions: 1. Their scores are left out of the means and counted beside them; the results \
store says why.

> † Fold 1: 90% & more is a misprint.

DSC and NSD in percent, mean ± sample SD over cases (averages pool all folds).

| trainings | evaluated on | structure | fold | cases | DSC | DSC published | NSD | NSD published | remarks |
|---|---|---|---|---|---|---|---|---|---|
| T1-lung | COVID-19-CT-Seg | left lung | 0 | 2 | 85.0 ± 7.1 |  | 60.0 ± 14.1 |  |  |
| T1-lung | COVID-19-CT-Seg | left lung | 1 | 2 | 75.0 ± 7.1 | 90.0 ± 10.5 † | 60.0 ± 0.0 | 70.0 ± 12.5 |  |
| T1-lung | COVID-19-CT-Seg | left lung | 2 | 2 | - |  | - |  | 1 both empty, 1 missing |
| T1-lung | COVID-19-CT-Seg | left lung | 3 | 0 | - |  | - |  | failed |
| T1-lung | COVID-19-CT-Seg | left lung | 4 | 0 | - |  | - |  | pending |
| **T1-lung** | **COVID-19-CT-Seg** | **left lung** | **average** | **6** | **80.0 ± 8.2** | **85.8 ± 10.5** | \
**60.0 ± 8.2** | **70.0 ± 12.5** | **3 of 5 folds: 1 pending, 1 failed, 1 both empty, 1 missing** |
"""
    )


def test_a_table_in_latex(written):
    folds, rows = five_folds()
    text = written(folds[1:2], rows)["table_IV.tex"]
    assert (
        text == r"""% needs \usepackage{booktabs}
\begin{table}
\caption{Table IV. Task 1, few-shot learning. Percent, mean $\pm$ sample SD over cases.}
\begin{tabular}{llllllllll}
\toprule
trainings & evaluated on & structure & fold & cases & DSC & DSC published & NSD & NSD published & remarks \\
\midrule
T1-lung & COVID-19-CT-Seg & left lung & 1 & 2 & 75.0 $\pm$ 7.1 & 90.0 $\pm$ 10.5 $\dagger$ & 60.0 $\pm$ 0.0 & """
        r"""70.0 $\pm$ 12.5 &  \\
\bottomrule
\end{tabular}
\par\footnotesize $\dagger$ Fold 1: 90\% \& more is a misprint.
\end{table}
"""
    )


def test_a_table_as_csv_has_all_digits(written):
    folds, rows = five_folds()
    text = written(folds, rows, failed={"T1-lung-fold3"})["table_IV.csv"]
    lines = list(csv.DictReader(io.StringIO(text)))
    assert [line["state"] for line in lines] == ["", "", "", "failed", "pending", "3 of 5 folds: 1 pending, 1 failed"]
    assert (lines[1]["group"], lines[1]["evaluation_set"], lines[1]["structure"]) == ("T1-lung", "test", "left_lung")
    assert float(lines[0]["dsc_std"]) == pytest.approx(0.1 / math.sqrt(2), rel=1e-15)
    assert (lines[1]["published_dsc_mean"], lines[1]["published_dsc_erratum"]) == ("0.9", "fold1")
    assert lines[1]["published_nsd_erratum"] == ""
    assert (lines[2]["num_cases"], lines[2]["num_both_empty"], lines[2]["num_missing"]) == ("2", "1", "1")
    assert (lines[3]["dsc_mean"], lines[3]["published_dsc_mean"]) == ("", "")
    assert float(lines[5]["dsc_std"]) == pytest.approx(math.sqrt(0.02 / 3), rel=1e-12)


def test_the_summary_has_averages_what_lacks_the_errata_and_the_files(written):
    folds, rows = five_folds()
    text = written(folds, rows, failed={"T1-lung-fold3"})["summary.md"]
    assert (
        "\n| T1-lung | COVID-19-CT-Seg | left lung | average | 6 | 80.0 ± 8.2 | 85.8 ± 10.5 | 60.0 ± 8.2 | 70.0 ± 12.5 "
        "| 3 of 5 folds: 1 pending, 1 failed, 1 both empty, 1 missing |\n"
    ) in text
    assert "| left lung | 0 |" not in text
    assert "\n- T1-lung-fold3: failed\n- T1-lung-fold4: pending\n" in text
    assert "\n- † Fold 1: 90% & more is a misprint.\n\n" in text
    assert "[md](table_IV.md), [csv](table_IV.csv), [tex](table_IV.tex)" in text
    assert "`results/*.parquet`" in text


def test_only_errata_of_the_rows_of_a_run_are_listed(written):
    fold, other = training(0), training(task=2, source="msd")
    assert "errors of the published material" not in written([fold], [])["summary.md"]
    files = written([fold, other], [])
    assert "\n- The paper says 62.\n" in files["summary.md"]
    assert "misprint" not in files["summary.md"]
    assert "> The paper says 62." in files["table_V.md"]
    assert "The paper says" not in files["table_IV.md"]


def test_each_erratum_begins_with_trainings_that_it_is_about():
    for erratum in LAYOUT.published.errata:
        groups = {row[0] for row in erratum.rows} or {group for group in erratum.groups if not group.endswith("-2d")}
        assert set(erratum.text.partition(":")[0].replace(",", "").split()) >= groups


def test_a_whole_average_needs_no_remark(written):
    folds = [training(fold) for fold in range(5)]
    rows = [row for fold in folds for row in rows_of(fold, (0.5, 0.5), (0.5, 0.5))]
    files = written(folds, rows)
    assert "| **average** | **10** | **50.0 ± 0.0** | **85.8 ± 10.5** |" in files["table_IV.md"]
    assert "| average | 10 | 50.0 ± 0.0 | 85.8 ± 10.5 | 50.0 ± 0.0 | 70.0 ± 12.5 |  |" in files["summary.md"]
    assert "Trainings without results" not in files["summary.md"]


def test_an_average_of_a_part_of_the_folds_says_so(written):
    folds = [training(fold) for fold in (0, 1)]
    rows = [row for fold in folds for row in rows_of(fold, (0.5, 0.5), (0.5, 0.5))]
    assert "| **2 of 5 folds: 3 not in this run** |" in written(folds, rows)["table_IV.md"]


def test_a_single_fold_has_no_average_and_stands_in_the_summary(written):
    fold = training(1)
    files = written([fold], rows_of(fold, (0.5, 0.5), (0.5, 0.5)))
    assert "average" not in files["table_IV.csv"]
    assert "| left lung | 1 | 2 | 50.0 ± 0.0 | 90.0 ± 10.5 † |" in files["summary.md"]


def test_the_only_fold_of_task_2_stands_beside_the_published_average(written):
    only = training(task=2, source="msd")
    files = written([only], rows_of(only, (0.5, 0.5), (0.5, 0.5)))
    assert "| T2-lung-msd | COVID-19-CT-Seg | left lung | 0 | 2 | 50.0 ± 0.0 | 50.0 ± 10.5 |" in files["table_V.md"]


def test_a_case_without_a_row_is_said(written):
    fold = training()
    assert "| 1 of 2 cases have no row |" in written([fold], rows_of(fold, (0.5, 0.5)))["table_IV.md"]


def test_an_average_says_how_many_cases_have_no_row(written):
    folds = [training(fold) for fold in range(5)]
    rows = [row for fold in folds[1:] for row in rows_of(fold, (0.5, 0.5), (0.5, 0.5))]
    files = written(folds, [*rows, *rows_of(folds[0], (0.5, 0.5))])
    assert (
        "| average | 9 | 50.0 ± 0.0 | 85.8 ± 10.5 | 50.0 ± 0.0 | 70.0 ± 12.5 | 1 cases have no row |"
        in files["summary.md"]
    )


@pytest.mark.parametrize(("share", "text"), [(0.7055, "70.6"), (0.2595, "26.0"), (0.64149, "64.1"), (1.0, "100.0")])
def test_a_half_is_rounded_up_as_in_the_paper(share, text):
    assert score_text(share, math.nan) == text


def test_one_scored_case_has_no_deviation(written):
    fold = training()
    rows = rows_of(fold, (0.5, 0.25), ScoreStatus.BOTH_EMPTY)
    assert "| 2 | 50.0 | 25.0 | 1 both empty |" in written([fold], rows)["table_IV.md"]


def test_rows_of_trainings_that_were_not_asked_for_are_left_out(written):
    rows = [*rows_of(training(0), (0.5, 0.5), (0.5, 0.5)), *rows_of(training(1), (0.9, 0.9), (0.9, 0.9))]
    assert "90.0" not in written([training(0)], rows)["table_IV.md"]


def test_phantoms_and_caps_are_the_headline_of_every_file(written):
    fold = training(num_published=70)
    rows = rows_of(fold, (0.5, 0.5), (0.5, 0.5), preset="smoke", phantoms=True, is_capped=True)
    files = written([fold], rows)
    for name in ("summary.md", "table_IV.md"):
        quotes = [line for line in files[name].splitlines() if line.startswith("> ")]
        assert quotes[0].startswith("> Computed on generated phantoms with preset smoke:")
        assert quotes[0].endswith("They are not comparable with the published values.")
        assert quotes[1] == "> Capped: the preset uses a part of the cases of each split."
    assert "not comparable with the published values" in files["table_IV.tex"]
    lines = list(csv.DictReader(io.StringIO(files["table_IV.csv"])))
    assert [(line["preset"], line["phantoms"], line["capped"]) for line in lines] == [("smoke", "yes", "yes")]


def test_a_row_of_a_csv_says_what_its_scores_come_from(written):
    tuned = Model(name="3d", note="the best of 3 trials")
    folds = [replace(training(fold), model=tuned) for fold in range(3)]
    rows = rows_of(folds[0], (0.5, 0.5), (0.5, 0.5)) + rows_of(folds[1], (0.5, 0.5), (0.5, 0.5), preset="quick")
    lines = list(csv.DictReader(io.StringIO(written(folds, rows)["table_IV.csv"])))
    found = [(line["fold"], line["preset"], line["phantoms"], line["capped"]) for line in lines]
    assert found == [
        ("0", "paper", "no", "no"),
        ("1", "quick", "no", "no"),
        ("2", "", "", ""),
        (AVERAGE, "paper, quick", "no", "no"),
    ]
    assert [(list(line)[-1], line["note"]) for line in lines] == [("note", tuned.note)] * 4


def test_a_short_preset_on_real_data_is_said(written):
    fold = training()
    rows = rows_of(fold, (0.5, 0.5), (0.5, 0.5), preset="quick")
    assert "> Trained with preset quick, not with nnU-Net's own schedule" in written([fold], rows)["summary.md"]


def test_the_paper_preset_on_whole_splits_needs_no_note(written):
    fold = training()
    assert ">" not in written([fold], rows_of(fold, (0.5, 0.5), (0.5, 0.5)))["table_IV.md"]


def test_a_prediction_that_lacks_for_two_structures_is_one(written):
    fold = training(structures=("left_lung", "right_lung"))
    rows = rows_of(fold, ScoreStatus.MISSING, (0.5, 0.5))
    assert "> Missing or unusable predictions: 1." in written([fold], rows)["table_IV.md"]


def test_a_patient_in_train_and_test_is_said_in_every_table(written):
    trained = Case(dataset=COVID, name="coronacases_003")
    same = AlikeCases(first=trained, second=CASES[0], likeness=0.97)
    leak = PatientLeak(train_case=trained, test_case=CASES[0], training_ids=("T1-lung-fold0",), likeness=0.97)
    files = written([replace(training(), train=(trained,))], [], alike=(same,))
    assert f"> {leak.line}" in files["table_IV.md"]
    assert f"> {leak.line}" in files["summary.md"]


def test_the_tables_of_a_run_are_those_of_its_trainings(written):
    eighty = training(subtask="infection", split="80-20")
    files = written([training(task=3), training(subtask="infection", model="2d"), eighty], [])
    assert {name.split(".")[0] for name in files} == {"summary", "task_3_lung", "table_IV_2d", "task_1_80_20"}


@pytest.fixture(scope="module")
def all_trainings():
    return load_study().trainings(matrix="all", preset=PRESETS["paper"])


def test_each_of_the_110_trainings_stands_in_one_table(all_trainings):
    assert len(all_trainings) == 110
    assert [t.id for t in all_trainings if sum(spec.holds(t) for spec in LAYOUT.specs) != 1] == []


def test_the_whole_benchmark_before_it_is_run(written, all_trainings):
    files = written(all_trainings, [], layout=LAYOUT)
    assert len(files) == 1 + 3 * len(LAYOUT.specs)
    assert len(re.findall(r"^- T.*: pending$", files["summary.md"], re.MULTILINE)) == 110
    # Tables V and VI: 2 sources x 2 sets x 2 structures, and 3 sources x (val, test, MosMed); all were published.
    for name, num_rows in {"table_V.csv": 8, "table_VI.csv": 9}.items():
        lines = list(csv.DictReader(io.StringIO(files[name])))
        assert len(lines) == num_rows
        assert [line for line in lines if not line["published_dsc_mean"]] == []
    averages = [line for line in csv.DictReader(io.StringIO(files["table_IV.csv"])) if line["fold"] == AVERAGE]
    found = {
        (line["group"], line["evaluation_set"], line["structure"]): line["published_dsc_mean"] for line in averages
    }
    assert found["T1-lung", "test", "left_lung"] == "0.8582"
    assert all(found.values())
    assert "> † T1-lung, fold 4, left lung: SD of DSC" in files["table_IV.md"]
    assert " 76.0 † |  |  | 75.8 ± 11.0 |" not in files["table_IV.md"]


def test_what_is_hardly_right_about_the_data_stands_with_every_table(written):
    one = training()
    warnings = tuple(f"mask {number}: 62 % of the lung mask is no air" for number in range(12))
    tables = written([one], rows_of(one, (0.5, 0.5)), warnings=warnings)
    for name in ("summary.md", "table_IV.md"):
        assert "> Hardly right, and taken as it is: mask 9: 62 % of the lung mask is no air\n" in tables[name]
        assert "mask 10" not in tables[name]
        assert "> 2 further warnings about label maps are in the records of their cases.\n" in tables[name]
    assert r"62 \% of the lung mask" in tables["table_IV.tex"]


def test_what_a_study_says_of_a_structure_stands_with_its_scores_alone(written):
    note = "> The structure infection is what the data set of a row annotates: infection in COVID-19-CT-Seg and MosMed,"
    infection = training(subtask="infection", structures=("infection",))
    lung = training(task=3, source="msd")
    files = written((infection, lung), [*rows_of(infection, (0.5, 0.5)), *rows_of(lung, (0.5, 0.5))])
    assert {name for name, text in files.items() if note in text} == {"table_IV.md", "summary.md"}
    assert LAYOUT.notes_on(["left_lung"]) == ()
