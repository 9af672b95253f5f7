"""What stands beside the page: Markdown, and LaTeX that compiles."""

import os
import re
import shutil
import subprocess
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import pytest
from markupsafe import escape
from test_results import row
from threadpoolctl import threadpool_info, threadpool_limits

from bench.report.scores import all_drawn_rows
from orchestrator.benchmark.definition import FurtherMetric
from orchestrator.benchmark.loading import load_study
from orchestrator.benchmark.presets import PRESETS
from orchestrator.benchmark.tables import load_tables
from orchestrator.inference.model_card import CardFacts, model_card
from orchestrator.report import write
from orchestrator.report.content import RANK_FILES, make_page
from orchestrator.report.data_dictionary import data_dictionary
from orchestrator.report.page import Page
from orchestrator.report.reported import Reported
from orchestrator.report.scores_frame import scores_frame
from orchestrator.report.texts.escaping import escaped, in_cell
from orchestrator.report.texts.page_tables import tables_of
from orchestrator.report.texts.rendering import latex_tables, to_html, to_markdown
from orchestrator.report.texts.table import Cell, Column, PageTable
from orchestrator.results.store import to_table
from orchestrator.storage.filesystem import open_storage

STUDY = replace(load_study(), title='100% of [all] <b>cases</b> & $more_than_$ {one} | #1 ~ ^ \\ "x"')
TRAININGS = STUDY.trainings(matrix="all", only=("T1-infection*",), preset=PRESETS["paper"])


@pytest.fixture(scope="module")
def page() -> Page:
    rows = [row for some in all_drawn_rows(TRAININGS, study=STUDY).values() for row in some]
    reported = Reported(study=STUDY, trainings=TRAININGS, table=to_table(rows), layout=load_tables(STUDY))
    return make_page(reported, scores_frame(reported), location="x", failures={"train <x>": "a|b\nc"}, events=[])


def test_threads_do_not_share_the_small_matrices_of_the_statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    numbers: set[int] = set()

    def looked_at(*arguments, **options):
        numbers.update(one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas")
        return make_page(*arguments, **options)

    monkeypatch.setattr(write, "make_page", looked_at)
    some = all_drawn_rows(TRAININGS, study=STUDY)["T1-infection-fold0"]
    reported = Reported(study=STUDY, trainings=TRAININGS, table=to_table(some), layout=load_tables(STUDY))
    with threadpool_limits(limits=2, user_api="blas"):
        write.page_of(open_storage(str(tmp_path)), reported=reported, failures={})
        assert {one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"} == {2}
    assert numbers == {1}


def test_ranks_of_before_do_not_stay_beside_a_page_that_has_none(tmp_path: Path):
    drawn = all_drawn_rows(TRAININGS, study=STUDY)
    storage, groups = open_storage(str(tmp_path)), ("T1-infection-fold0", "T1-infection-2d-fold0")
    for ids, is_ranked in ((groups, True), (groups[:1], False)):
        table = to_table([row for id_ in ids for row in drawn[id_]])
        about = Reported(study=STUDY, trainings=TRAININGS, table=table, layout=load_tables(STUDY))
        write.write_report(storage, reported=about, failures={})
        assert {path.exists() for path in (tmp_path / "report" / name for name, _ in RANK_FILES)} == {is_ranked}


def test_a_path_that_is_no_text_is_shown_with_its_bytes_escaped(page: Page):
    odd = replace(page, location=os.fsdecode(b"/M\xfcller/run"))
    for text in (to_html(odd), to_markdown(odd)):
        assert b"/M\\udcfcller/run" in text.encode()


def test_tables_of_markdown_have_as_many_cells_in_each_line(page: Page):
    text = to_markdown(page)
    tables = re.findall(r"(?:^\|.*\|$\n?)+", text, flags=re.MULTILINE)
    assert len(tables) >= 4
    for table in tables:
        lines = table.strip().splitlines()
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
        assert set(lines[1]) == set("|-")
    assert "<b>" not in text
    assert in_cell("a|b <c>\nd & &lt; &#60;") == r"a\|b &lt;c> d & &amp;lt; &amp;#60;"
    metric = FurtherMetric(name="own", field="own", title="|a - b|")
    assert r"| own | \|a - b\|; none" in data_dictionary(["own"], further=[metric])
    titles = {"val": "validation", "test": "COVID-19-CT-Seg"}
    assert "own domain; `test` is COVID-19-CT-Seg |" in data_dictionary(["evaluation_set"], set_titles=titles)
    # A heading, a list and a table begin after an empty line.
    assert not re.search(r"[^\n]\n(#|\| \w+ .*\n\|--)", text)


def card_of(rows, *, structure="liver"):
    plan = SimpleNamespace(
        dataset_json={"labels": {"background": 0, structure: 1}},
        channel_names={"0": "a|b"},
        configuration="2d",
        configuration_manager=SimpleNamespace(spacing=(1.0, 1.0)),
    )
    model = SimpleNamespace(plan=plan, trainer="nnUNetTrainer")
    settings = SimpleNamespace(orientation=None, tile_step_size=0.5, mirrors=False)
    facts = CardFacts(
        dataset="Dataset001_A",
        num_train_cases={"a": 1},
        preset="paper",
        seed=0,
        licences={},
        phantoms=True,
        rows=[replace(one, score=replace(one.score, structure=structure)) for one in rows],
    )
    return model_card(SimpleNamespace(name="a", model=model, settings=settings), facts)


def test_a_bar_in_a_name_divides_no_cell_of_the_card():
    card = card_of([row(0.5, 0.5)], structure="left|right")
    for line in (r"| structures (labels) | background (0), left\|right (1) |", r"| channels | a\|b |"):
        assert line in card.splitlines()
    assert r"| test | left\|right | 1, 0.500" in card


def test_the_card_has_no_spread_of_one_case_and_tells_cases_of_two_data_sets_apart():
    assert "| test | liver | 1, 0.500, - | " in card_of([row(0.5, 0.5)])
    # Three of each data set, with equal names: six, of which there is an interval.
    six = [
        replace(row(0.5 + number / 100, 0.5), dataset=dataset, case=f"case{number}")
        for dataset in ("a", "b")
        for number in range(3)
    ]
    assert re.search(r"\| test \| liver \| 6, 0\.510, 0\.009, 0\.\d+ to 0\.\d+ \|", card_of(six))


def test_tables_of_latex_are_whole(page: Page):
    text = latex_tables(replace(page, rankings=page.rankings))
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") >= 3
    for columns, body in re.findall(r"\\begin\{tabular\}\{(l+)\}(.*?)\\end\{tabular\}", text, flags=re.DOTALL):
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(columns) - 1}
    # Nothing that LaTeX takes for markup is left of a title.
    assert escaped(STUDY.title) == (
        r"100\% of {[}all{]} $<$b$>$cases$<$/b$>$ \& \$more\_than\_\$ \{one\} \textbar{} \#1 \textasciitilde{} "
        r"\textasciicircum{} \textbackslash{} \textquotedbl{}x\textquotedbl{}"
    )


def test_each_table_of_latex_has_what_must_be_said_beside_its_scores(page: Page):
    notes, errata = ("Generated phantoms.", "Capped, a_part."), ("E1: a known error",)
    text = latex_tables(replace(page, notes=notes, errata=errata))
    tables = text.split(r"\begin{table}")[1:]
    assert len(tables) >= 3
    for table in tables:
        below = table.partition(r"\end{tabular}")[2]
        assert [line for line in below.splitlines() if line.startswith(r"\par")][: len(notes)] == [
            r"\par\footnotesize Generated phantoms.",
            r"\par\footnotesize Capped, a\_part.",
        ]
        assert ("E1: a known error" in below) == (r"\label{tab:published}" in table)


def test_means_are_said_to_be_of_cases_and_intervals_of_patients_and_these_trainings(page: Page):
    once = "A case that several trainings are tested on counts once for each of them."
    for text in (to_html(page), to_markdown(page), latex_tables(page)):
        assert once in text
        assert "patients scored" in text
        assert re.search(r"of the mean difference of\s+each patient", text)
    submitted = replace(page, what="submissions", unit="case")
    assert once not in latex_tables(submitted)
    (interval,) = (meaning for word, meaning in page.definitions if word == "95 % interval")
    assert (
        "Over many draws of the patients, with these very trainings, intervals made like this hold the mean" in interval
    )
    assert "How other trainings of the same method would differ is not in it." in interval
    (interval,) = (meaning for word, meaning in submitted.definitions if word == "95 % interval")
    assert "Over many draws of the cases, intervals" in interval
    assert "trainings" not in interval


ODD = "*a|b_%& <i>~`x` [神] $^{}#\\"


def test_names_in_tables_are_texts_in_markdown_and_latex_and_paper_has_less_columns():
    column = Column("only <here>", is_number=True, on_screens_only=True)
    rows = [[ODD, Cell("1.0", hint="of 3 'cases' <b>"), 7], ["_x_", "a_b", "< 0.001"]]
    columns = [Column("name", names_row=True), column, "p"]
    table = PageTable.of("Is it so?", label="x", columns=columns, rows=rows, caption="Said.", notes=["A_note"])
    assert table.to_markdown().splitlines() == [
        r"| name | only &lt;here> | p |",
        "|---|---|---|",
        r"| \*a\|b\_%& &lt;i>\~\`x\` \[神] $^{}#\\ | 1.0 | 7 |",
        r"| \_x\_ | a_b | < 0.001 |",
    ]
    latex = table.to_latex()
    # A star that began a line would be one of the line before.
    odd = r"{*}a\textbar{}b\_\%\& $<$i$>$\textasciitilde{}\textasciigrave{}x\textasciigrave{} {[}神{]} "
    assert odd + r"\$\textasciicircum{}\{\}\#\textbackslash{} & 7 \\" in latex
    assert r"\caption{Is it so? Said.}" in latex
    assert r"\begin{tabular}{ll}" in latex
    assert r"\par\footnotesize A\_note" in latex
    assert "here" not in latex


def test_every_table_is_in_markdown_and_in_html_what_it_is_in_latex(page: Page):
    markdown, html = to_markdown(page), to_html(page)
    tables = list(tables_of(page))
    assert len(tables) >= 4
    assert len({one.label for one in tables}) == len(tables)
    for one in tables:
        assert one.to_markdown() in markdown
        assert f'aria-label="{escape(one.title)}"' in html
        for cell in chain.from_iterable(one.rows):
            assert f">{escape(cell.text)}</t" in html
            assert not cell.hint or f'title="{escape(cell.hint)}"' in html


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no LaTeX on this machine")
def test_tables_of_latex_compile(tmp_path: Path, page: Page):
    (tmp_path / "tables.tex").write_text(latex_tables(page), encoding="utf-8")
    title = escaped(STUDY.title)
    (tmp_path / "paper.tex").write_text(
        "\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage{textcomp}\\usepackage{booktabs}"
        f"\\begin{{document}}{title}\\input{{tables}}\\end{{document}}\n"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "paper.pdf").stat().st_size > 10_000
