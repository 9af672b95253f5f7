"""What `tables.yaml` names and the study does not have is refused before anything starts, with the nearest name."""

from pathlib import Path

import pytest

from orchestrator import api
from orchestrator.benchmark.loading import load_study
from orchestrator.benchmark.tables import load_tables
from orchestrator.cli import study
from orchestrator.errors import ConfigError

STUDY = """title: Things
label_sets:
  things: {thing: {label: 1}, other: {label: 2}}
datasets:
  one: {nnunet: Dataset137_Things, label_sets: [things], channels: [CT]}
models:
  3d: {}
  2d: {configuration: 2d, suffix: -2d}
trainings:
  big: {facets: {organ: liver, task: 1}, train: [one/tr], val: [one/va], test: {later: one/te}}
ensembles:
  both: {members: ["big*"]}
"""
FOLDS = "one: {tr: [case_a, case_b], va: [case_c], te: [case_d]}\n"
TABLE = "tables: {main: {title: All, facets: {model: [3d, 2d, both]}}}\n"
SCORES = "level,group,fold,evaluation_set,structure,dsc_mean,dsc_std,nsd_mean,nsd_std\n"
PUBLISHED = f"{TABLE}published: {{scores: a.csv, errata: b.yaml}}\n"
ERRATA = "- {id: x, text: y, groups: [big-2d]}\n"


def write(folder: Path, tables: str, *, scores: str = "", errata: str = ERRATA) -> Path:
    texts = {
        "study.yaml": STUDY,
        "folds.yaml": FOLDS,
        "tables.yaml": tables,
        "a.csv": SCORES + scores,
        "b.yaml": errata,
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder / "study.yaml"


def refused(folder: Path, tables: str, **files: str) -> str:
    path = write(folder, tables, **files)
    with pytest.raises(ConfigError) as caught:
        load_tables(load_study(path))
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{folder}/", "")


@pytest.mark.parametrize("tables", ["segments: {thing: {type: [SCT, '1', Thing]}}\n", "{tables: {}}\n"])
def test_a_file_without_tables_has_one_of_everything(tmp_path, tables):
    found = load_tables(load_study(write(tmp_path, tables)))
    (tmp_path / "tables.yaml").unlink()
    missing = load_tables(load_study(tmp_path / "study.yaml"))
    assert (found.specs, found.comparisons, found.set_titles) == (
        missing.specs,
        missing.comparisons,
        missing.set_titles,
    )
    assert [spec.title for spec in found.specs] == ["Things"]


def test_tables_may_name_everything_that_a_study_has(tmp_path):
    tables = f"""{PUBLISHED}references: a.csv
evaluation_sets: {{val: Validation, later: Later}}
segments: {{thing: {{type: [SCT, "1", Thing]}}}}
derived: {{share: {{title: Share, part: [thing], whole: [other], rather_than: [thing]}}}}
gaps: {{gap: {{title: Gap, baseline: val, against: later, facets: {{task: 1}}}}}}
case_groups: {{kinds: {{title: Kinds, cases: {{first: ["one/case_[ab]"]}}}}}}
comparisons:
  nets: {{title: Nets, baseline: {{model: 3d}}, against: {{model: both}}, same: [organ], evaluation_sets: [later]}}
"""
    layout = load_tables(load_study(write(tmp_path, tables, scores="1,big-2d,0,later,thing,0.5,0.1,1,0\n")))
    assert layout.published.find(group="big-2d", fold=0, evaluation_set="later", structure="thing").nsd_mean == 1
    assert [spec.name for spec in layout.comparisons] == ["nets"]


COMPARED = "comparisons: {c: {title: C, baseline: {model: 3d}, against: {model: 2d}"
UNKNOWN = {
    "tables: {t: {title: T, facets: {modell: 3d}}}": "tables.t.facets: unknown facet 'modell'; did you mean 'model'?",
    "tables: {t: {title: T, facets: {organ: [liver, livre]}}}": "facets.organ: unknown value 'livre'; did you mean",
    "tables: {t: {title: T, facets: {task: '1'}}}": "tables.t.facets.task: '1'; expected 1 as in the study",
    "tables: {Summary: {title: T, facets: {}}}": "tables.Summary: is the page beside the tables; expected another name",
    "tables: {a: {title: T, facets: {}}, A: {title: T, facets: {}}}": "tables 'a' and 'A' differ in the case",
    f"{TABLE}evaluation_sets: {{latter: L}}": "evaluation_sets: unknown evaluation set 'latter'; did you mean 'later'?",
    f"{TABLE}segments: {{thign: {{type: [a, b, c]}}}}": "segments: unknown structure 'thign'; did you mean 'thing'?",
    f"{TABLE}derived: {{d: {{title: D, part: [thign], whole: [other]}}}}": "derived.d.part: unknown structure 'thign'",
    f"{TABLE}derived: {{d: {{title: D, part: [thing], whole: [othr]}}}}": "derived.d.whole: unknown structure 'othr'",
    f"{TABLE}gaps: {{g: {{title: G, baseline: vall, against: later}}}}": "gaps.g.baseline: unknown evaluation set",
    f"{TABLE}gaps: {{g: {{title: G, baseline: val, against: x}}}}": "gaps.g.against: unknown evaluation set 'x'",
    f"{TABLE}gaps: {{g: {{title: G, baseline: val, against: val, facets: {{tusk: 1}}}}}}": "unknown facet 'tusk'",
    f"{TABLE}case_groups: {{g: {{title: G, cases: {{k: [one/caes_a]}}}}}}": "such as one/case_a",
    f"{TABLE}{COMPARED.replace('3d', '3b')}}}}}": "comparisons.c.baseline.model: unknown value '3b'; expected one",
    f"{TABLE}{COMPARED}, same: [orgn]}}}}": "comparisons.c.same: unknown facet 'orgn'; did you mean 'organ'?",
    f"{TABLE}{COMPARED}, structures: [thingg]}}}}": "comparisons.c.structures: unknown structure 'thingg'",
    f"{TABLE}references: refs/x.bib": "references is 'refs/x.bib' (str); expected the name of a file beside this one",
    f"{TABLE}published: {{scores: sub/a.csv, errata: b.yaml}}": "scores is 'sub/a.csv' (str); expected the name of",
    f"{TABLE}published: {{scores: a.csv, errata: ../b.yaml}}": "errata is '../b.yaml' (str); expected the name of",
}


@pytest.mark.parametrize("tables", UNKNOWN)
def test_what_tables_name_and_is_not_there_is_refused_with_its_place(tmp_path, tables):
    text = refused(tmp_path, tables)
    assert text.startswith("tables.yaml: ")
    assert UNKNOWN[tables] in text


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("1,bigg,0,val,thing,0.5,0.1,0.5,0.1", "a.csv: unknown group 'bigg'; did you mean 'big'?"),
        ("1,big,0,latr,thing,0.5,0.1,0.5,0.1", "a.csv: unknown evaluation set 'latr'; did you mean 'later'?"),
        ("1,big,0,val,thign,0.5,0.1,0.5,0.1", "a.csv: unknown structure 'thign'; did you mean 'thing'?"),
        ("1,big,0,val,thing,50,0.1,0.5,0.1", "a.csv: dsc_mean of big, 0, val, thing is 50; expected a share"),
        ("1,big,0,val,thing,0.5,nan,0.5,0.1", "a.csv: dsc_std of big, 0, val, thing is nan; expected a share"),
        ("1,big,0,val,thing,0.5,0.1,-0.5,0.1", "a.csv: nsd_mean of big, 0, val, thing is -0.5; expected a share"),
        ("1,big,0,val,thing,0.5,0.1,0.5,inf", "a.csv: nsd_std of big, 0, val, thing is inf; expected a share"),
    ],
)
def test_published_scores_are_shares_of_what_a_study_has(tmp_path, row, said):
    assert refused(tmp_path, PUBLISHED, scores=f"{row}\n").startswith(said)


def test_an_erratum_is_of_a_group_that_a_study_has(tmp_path):
    text = refused(tmp_path, PUBLISHED, errata="- {id: x, text: y, groups: [big-3d]}\n")
    assert text == "b.yaml: x.groups: unknown group 'big-3d'; did you mean 'big-2d'?"


def test_published_scores_may_begin_with_a_byte_order_mark(tmp_path):
    path = write(tmp_path, PUBLISHED, scores="1,big,0,val,thing,0.5,0.1,0.5,0.1\n")
    scores = tmp_path / "a.csv"
    scores.write_bytes(b"\xef\xbb\xbf" + scores.read_bytes())
    assert len(load_tables(load_study(path)).published.scores) == 1


def test_tables_with_a_mistake_are_refused_when_a_run_is_asked_for_and_when_a_study_is_checked(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.delenv("nnUNet_raw", raising=False)
    path = write(tmp_path, TABLE.replace("title", "titel"))
    said = "tables.main: unknown key 'titel'; did you mean 'title'?"
    with pytest.raises(ConfigError) as caught:
        api.make_request(load_study(path), output=tmp_path / "run")
    assert said in str(caught.value)
    assert study.main([str(path), "--check"]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
