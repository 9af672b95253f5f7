"""Names in a study's files that would be taken for others, or for files elsewhere, are refused with their place."""

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest
from test_study_of_nnunet_data import PAPER
from test_study_of_nnunet_data import STUDY as DESCRIBED
from test_study_of_nnunet_data import load as load_described

import kernels
from kernels.metrics.metric import Metric
from orchestrator.benchmark.checks.names import RESERVED_FACETS
from orchestrator.benchmark.loading import load_study
from orchestrator.benchmark.raw_dataset import RawDataset
from orchestrator.errors import ConfigError
from orchestrator.report.data_dictionary import COLUMNS
from orchestrator.results.records import CaseScore, Provenance, ResultRow
from orchestrator.results.store import SCHEMA

STUDY = """title: Things
label_sets:
  things: {thing: {label: 1}}
datasets:
  one: {nnunet: Dataset137_Things, label_sets: [things], channels: [CT]}
trainings:
  big: {facets: {organ: liver}, train: [one/tr], test: {later: one/te}}
"""
FOLDS = "one: {tr: [a, b], te: [c]}\n"
SECOND_SET = "  One: {nnunet: Dataset137_Things, label_sets: [things], channels: [CT]}\ntrainings:"


def load(folder: Path, *, study: str = STUDY, folds: str = FOLDS):
    (folder / "study.yaml").write_text(study)
    (folder / "folds.yaml").write_text(folds)
    return load_study(folder / "study.yaml")


def refused(folder: Path, **files: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, **files)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{folder}/", "")


def test_no_facet_can_have_the_name_of_a_column_or_of_what_makes_a_row():
    of_rows = {field.name for kind in (ResultRow, CaseScore, Provenance) for field in fields(kind)}
    added = {"patient", "volume_error", "order"}
    assert of_rows | set(SCHEMA.names) | set(COLUMNS) | added | {"model", "training_seed"} == RESERVED_FACETS
    assert {name.casefold() for name in RESERVED_FACETS} == RESERVED_FACETS


@pytest.mark.parametrize("name", ["score", "provenance", "facets", "further", "hd95_voxel_mm", "order", "Fold", "DSC"])
def test_a_facet_that_is_a_column_in_letters_of_whatever_case_is_refused(tmp_path, name):
    text = refused(tmp_path, study=STUDY.replace("organ: liver", f"{name}: 1"))
    assert text == f"study.yaml: trainings.big.facets: {name!r} is a column of every study; expected another name"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"study": STUDY.replace("organ: liver", "organ: liver, Organ: x")}, "big.facets: facets 'organ' and 'Organ'"),
        ({"study": STUDY + "  Big: {train: [one/tr]}\n"}, "trainings: groups 'big' and 'Big'"),
        ({"study": STUDY + "  b: {train: [one/tr], test: {Later: one/te}}\n"}, "evaluation sets 'later' and 'Later'"),
        ({"study": STUDY.replace("trainings:", SECOND_SET)}, "study.yaml: datasets: data sets 'one' and 'One'"),
        ({"study": STUDY.replace("things: {t", "Things: {o: {label: 1}}\n  things: {t")}, "label sets 'Things' and"),
        ({"folds": "one: {tr: [a, Case], te: [case]}\n"}, "folds.yaml: one: cases 'Case' and 'case'"),
    ],
)
def test_names_that_differ_in_the_case_of_letters_alone_are_refused(tmp_path, files, said):
    text = refused(tmp_path, **files)
    assert said in text
    assert text.endswith("differ in the case of letters alone; expected names that differ in more")


def test_cases_of_a_data_set_in_nnunets_layout_that_differ_in_the_case_of_letters_alone_are_refused(tmp_path):
    text = (
        "title: T\ndatasets: {one: {nnunet: Dataset137, folds: nnunet}}\ntrainings: {t: {train: [one/other-folds]}}\n"
    )
    (tmp_path / "study.yaml").write_text(text)
    names = ("Case_1", "case_1", "c", "d", "e")
    said = RawDataset(folder="Dataset137_Things", channels=("CT",), labels={"thing": (1,)}, cases=names)
    with pytest.raises(ConfigError, match=r"datasets\.one: Dataset137_Things: cases 'Case_1' and 'case_1' differ"):
        load_study(tmp_path / "study.yaml", describe=lambda _: said)


@pytest.mark.parametrize(("name", "meaning"), [("val", "validation"), ("train", "training"), ("Val", "validation")])
def test_no_evaluation_set_is_named_like_cases_that_every_training_may_have(tmp_path, name, meaning):
    text = refused(tmp_path, study=STUDY.replace("later:", f"{name}:"))
    assert f"trainings.big.test: {name!r} always means the {meaning} cases of a training" in text


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1])
def test_a_facet_is_a_number_that_a_column_can_hold(tmp_path, number):
    assert f"{number}" in refused(tmp_path, study=STUDY.replace("liver", str(number)))


@pytest.mark.parametrize("number", [2**63 - 1, -(2**63)])
def test_the_last_numbers_that_a_column_can_hold_are_facets(tmp_path, number):
    (group,) = load(tmp_path, study=STUDY.replace("liver", str(number))).groups
    assert group.facets == {"organ": number}


@pytest.mark.parametrize("value", ["", " ", "A ", "\tA", "a\nb", "a\u200bb"])
@pytest.mark.parametrize("place", ["organ: liver", "ensembles"])
def test_a_facet_that_is_not_told_from_another_or_from_none_in_a_table_is_refused(tmp_path, value, place):
    of_ensemble = f"ensembles: {{both: {{members: ['*'], facets: {{organ: {json.dumps(value)}}}}}}}\n"
    study = STUDY.replace("liver", json.dumps(value)) if place == "organ: liver" else STUDY + of_ensemble
    text = refused(tmp_path, study=study)
    assert ".facets: organ is " in text
    assert text.endswith("expected a text that can be read in one line, without spaces around it")


@pytest.mark.parametrize("value", ["a | b", "größe", "0", "a[1]"])
def test_any_other_text_of_one_line_is_a_facet(tmp_path, value):
    (group,) = load(tmp_path, study=STUDY.replace("liver", json.dumps(value))).groups
    assert group.facets == {"organ": value}


def with_metric(monkeypatch, **fields: str) -> None:
    """Add metrics as files of their own do, by their names and fields."""
    further = {
        name: Metric(name=name, field=field, title=name, larger_is_better=True, calculate=lambda *_: 0.0)
        for name, field in fields.items()
    }
    monkeypatch.setattr(kernels, "FURTHER", further)
    monkeypatch.setattr(kernels, "FIELDS", {**kernels.OWN_FIELDS, **fields})
    monkeypatch.setattr(kernels, "TITLES", {**kernels.TITLES, **dict.fromkeys(fields, "x")})


@pytest.mark.parametrize("field", ["volume_error", "seed", "Seed", "order", "hd95_voxel_mm", "model"])
def test_a_metric_of_ones_own_has_no_column_that_is_another(tmp_path, monkeypatch, field):
    with_metric(monkeypatch, own=field)
    assert refused(tmp_path, study=STUDY + "metrics: [own]\n") == (
        f"study.yaml: metrics: own has the field {field!r}, which is another column of the results; expected another "
        "`field` of its METRIC"
    )
    load(tmp_path)


def test_metrics_have_columns_of_their_own(tmp_path, monkeypatch):
    with_metric(monkeypatch, first="own_mm", second="own_mm")
    assert "metrics: second has the field 'own_mm', which is another" in refused(
        tmp_path, study=STUDY + "metrics: [first, second]\n"
    )
    with_metric(monkeypatch, first="own_mm", second="other_mm")
    found = load(tmp_path, study=STUDY + "metrics: [first, hd95-voxel, second]\n").metrics
    assert [one.field for one in found] == ["own_mm", "hd95_voxel_mm", "other_mm"]


def test_a_metric_is_not_named_like_a_facet_of_an_ensemble(tmp_path, monkeypatch):
    with_metric(monkeypatch, own="own_mm")
    study = STUDY + "metrics: [own]\nensembles: {both: {members: ['*'], facets: {Own_mm: 1}}}\n"
    assert "metrics: the column of own is named like a facet" in refused(tmp_path, study=study)


@pytest.mark.parametrize("name", ["../../../../out", "", "a/b", ".", "..", "*", "a b", '"a\\n"', "-a", "x" * 201])
@pytest.mark.parametrize(
    "folds", ["one: {{tr: [{0}, b], te: [c]}}\n", "one: {{folds: [[{0}], [b]]}}\n", "one: [{0}]\n"]
)
def test_a_case_that_no_file_can_be_named_after_is_refused(tmp_path, name, folds):
    text = refused(tmp_path, folds=folds.format(name if name.startswith('"') else f"'{name}'"))
    assert text.startswith("folds.yaml: one: case ")


def test_a_preset_limits_parts_that_there_are(tmp_path):
    preset = "presets: {{smoke: {{cases: {{{0}: 1}}}}}}\n"
    for part in ("train", "val", "test", "later"):
        load(tmp_path, study=STUDY + preset.format(part))
    assert refused(tmp_path, study=STUDY + preset.format("trian")) == (
        "study.yaml: presets.smoke.cases: unknown part of a training 'trian'; did you mean 'train'?"
    )


def test_a_key_that_stands_twice_in_a_file_of_splits_is_refused(tmp_path):
    (tmp_path / "splits.json").write_text('[{"train": ["a"], "train": ["b"], "val": ["c"]}]')
    study = STUDY.replace("one: {", "one: {folds: {file: splits.json}, ")
    assert "splits.json: not JSON (key 'train' stands twice)" in refused(
        tmp_path, study=study, folds="one: [a, b, c]\n"
    )


def test_why_there_is_no_cascade_is_said(tmp_path):
    assert refused(tmp_path, study=STUDY + "models: {a: {configuration: 3d_cascade_fullres}}\n") == (
        "study.yaml: models.a: configuration is '3d_cascade_fullres' (str); expected 3d_fullres, 3d_lowres or 2d: a "
        "cascade needs the predictions of another training and is not offered"
    )


def test_a_pickle_of_splits_is_not_opened(tmp_path: Path):
    (tmp_path / "splits_final.pkl").write_bytes(b"\x80\x04N.")
    with pytest.raises(
        ConfigError, match=r"splits_final.pkl: a pickle of nnU-Net 1.* expected the `splits_final.json`"
    ):
        load_described(tmp_path, DESCRIBED.replace("folds: nnunet", "folds: {file: splits_final.pkl}"))


def test_a_case_of_images_ts_cannot_be_held_out_once_more(tmp_path: Path):
    text = DESCRIBED.replace("folds: nnunet", "folds: nnunet, held_out: {ext: [case_144, t1]}")
    with pytest.raises(
        ConfigError, match=r"held_out.ext: t1 is in the part `test` already; expected cases that are in"
    ):
        load_described(tmp_path, text, test_cases=("t1", "t2"))


NAMED = """title: x
ids: '%s'
datasets:
  a: {nnunet: Dataset001_A, folds: nnunet}
models:
  3d: {}
  2d: {configuration: 2d, suffix: -2d, seeds: [4, 5]}
trainings:
  first: {facets: {split: all}, train: [a/other-folds], val: [a/fold]}
  second: {facets: {split: few}, train: [a/other-folds], val: [a/fold], plans_from: first}
"""


def test_ids_follow_the_template_of_a_study(tmp_path: Path):
    study = load_described(tmp_path, NAMED % "{split}.{model}{seed}_{fold}")
    trainings = {training.id: training for training in study.trainings(preset=PAPER)}
    assert len(trainings) == 2 * 5 + 2 * 2 * 5
    few = trainings["few.2d5_3"]
    assert (few.group, few.fold, few.seed, few.plans_from) == ("second-2d", 3, 5, "all.2d5_3")
    assert study.donors([few], preset=PAPER) == {"all.2d5_3": trainings["all.2d5_3"]}
    assert [one.id for one in study.trainings(only=("all.3d_*",), preset=PAPER)] == [f"all.3d_{i}" for i in range(5)]
    assert study.sha256 != load_described(tmp_path, NAMED % "{split}.{model}{seed}-{fold}").sha256


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{group}-{fold}", "makes first-2d-0 of two trainings; expected fields in which they differ"),
        ("{group}", "of two trainings"),
        ("{groop}-{fold}", "unknown field 'groop'; did you mean 'group'"),
        ("{group/{fold}", "is no template"),
        ("{group}/{seed}/{fold}", "makes 'first//0'; expected a name of letters"),
        ("-{group}{seed}{fold}", "expected a name of letters"),
        ("{group.__class__}{fold}", "unknown field 'group.__class__'"),
        ("{group!r}{fold}", "a format in {group}; expected names alone"),
        ("{fold:>90}{group}{seed}", "a format in {fold}; expected names alone"),
    ],
)
def test_a_template_that_makes_no_names_is_refused(tmp_path: Path, template: str, words: str):
    with pytest.raises(ConfigError, match=re.escape(words)):
        load_described(tmp_path, NAMED % template)
