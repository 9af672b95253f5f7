"""The study that comes along gives the published matrix, and a broken one is refused."""

import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.benchmark.definition import LabelSet
from orchestrator.benchmark.loading import DEFAULT_STUDY, load_study
from orchestrator.benchmark.predicted import load_predicted
from orchestrator.benchmark.presets import PRESETS
from orchestrator.benchmark.study import split_sha256
from orchestrator.benchmark.tables import load_tables
from orchestrator.benchmark.trainings.selection import select
from orchestrator.cluster.prices import load_prices
from orchestrator.cluster.registry import load_cluster
from orchestrator.errors import ConfigError
from orchestrator.shipped import LOCAL_CLUSTER, PRICES
from orchestrator.sources.registry import check_sources

PAPER, SMOKE = PRESETS["paper"], PRESETS["smoke"]


@pytest.fixture(scope="module")
def study():
    return load_study()


def test_core_has_15_trainings_of_task_1_5_of_task_2_and_25_of_task_3(study):
    assert Counter(t.facets["task"] for t in study.trainings(preset=PAPER)) == {1: 15, 2: 5, 3: 25}


@pytest.mark.parametrize(
    ("matrix", "number"), [("core", 45), ("2d", 45), ("80-20", 10), ("msd-lung", 10), ("all", 110)]
)
def test_number_of_trainings(study, matrix, number):
    trainings = study.trainings(matrix=matrix, preset=PAPER)
    assert len({t.id for t in trainings}) == len(trainings) == number


def test_a_study_prints_as_one_line_that_says_what_it_is_limited_to(study):
    assert repr(study) == f"<Study {study.title!r} of {study.path}; groups: 16; models: 2; data sets: 7>"
    assert repr(study.select("T1-*")).endswith("data sets: 7; selected by T1-*>")


def test_core_makes_2902_predictions_and_3882_label_evaluations(study):
    sets = [s for t in study.trainings(preset=PAPER) for s in t.evaluation_sets]
    assert sum(len(s.cases) for s in sets) == 2902
    assert sum(len(s.cases) * len(s.structures) for s in sets) == 3882


def test_585_volumes_are_used_in_all(study):
    sizes = {dataset.name: len(dataset.case_names) for dataset in study.datasets}
    assert sizes == {
        "covid-19-ct-seg": 20,
        "structseg-lung": 50,
        "structseg-gtv": 50,
        "nsclc-lung": 402,
        "nsclc-pe": 78,
        "msd-lung-tumour": 63,
        "mosmed": 50,
    }


@pytest.mark.parametrize(
    ("training_id", "train", "val", "tests"),
    [
        ("T1-lung-fold0", 4, 0, {"test": 16}),
        ("T1-lung-and-infection-fold4", 4, 0, {"test": 16, "test-mosmed": 50}),
        ("T2-lung-nsclc-fold0", 322, 80, {"val": 80, "test": 20}),
        ("T2-infection-nsclc-pe-fold0", 63, 15, {"val": 15, "test": 20, "test-mosmed": 50}),
        ("T3-infection-msd-fold2", 55, 12, {"val": 12, "test": 16, "test-mosmed": 50}),
        ("T1-infection-80-20-fold1", 16, 0, {"test": 4}),
    ],
)
def test_sizes_of_the_parts_are_the_published_ones(study, training_id, train, val, tests):
    (training,) = study.trainings(matrix="all", only=(training_id,), preset=PAPER)
    assert (len(training.train), len(training.val)) == (train, val)
    assert {s.name: len(s.cases) for s in training.evaluation_sets} == tests
    assert not training.is_capped


def test_no_case_is_trained_on_and_tested(study):
    for training in study.trainings(matrix="all", preset=PAPER):
        tested = {case for s in training.evaluation_sets for case in s.cases}
        assert not tested & set(training.train)


def test_task_3_takes_its_patch_size_from_the_same_fold_of_task_1(study):
    (training,) = study.trainings(matrix="2d", only=("T3-lung-nsclc-2d-fold3",), preset=PAPER)
    assert training.plans_from == "T1-lung-2d-fold3"


def test_16_core_trainings_test_on_a_patient_they_were_trained_on(study):
    leaks = study.patient_leaks(study.trainings(preset=PAPER))
    assert len({training_id for leak in leaks for training_id in leak.training_ids}) == 16


def test_caps_keep_both_sources_of_covid_ct_seg_and_every_case_of_a_fold(study):
    (training,) = study.trainings(only=("T3-lung-nsclc-fold0",), preset=SMOKE)
    assert training.is_capped
    assert len(training.train) == SMOKE.case_limits["train"] + 4
    (test,) = [s for s in training.evaluation_sets if s.name == "test"]
    assert {case.name.split("_")[0] for case in test.cases} == {"coronacases", "radiopaedia"}


def test_the_split_digest_changes_with_the_cases(study):
    trainings = study.trainings(only=("T1-lung",), preset=PAPER)
    assert len({split_sha256(t) for t in trainings}) == 5
    assert split_sha256(trainings[0]) == split_sha256(study.trainings(only=("T1-lung",), preset=PAPER)[0])


def test_a_pattern_without_a_match_names_what_is_close(study):
    with pytest.raises(ConfigError, match=r"--only T1-lungs: matches none of the 45 trainings.*T1-lung"):
        study.trainings(only=("T1-lungs",), preset=PAPER)


def test_an_unknown_matrix_names_the_known_ones(study):
    with pytest.raises(ConfigError, match="--matrix cor: unknown; expected one of core, 2d"):
        study.trainings(matrix="cor", preset=PAPER)


def test_caps_of_a_preset_are_its_own_but_for_what_the_study_says(study):
    (training,) = study.trainings(only=("T2-infection-msd",), preset=SMOKE)
    assert {s.name: len(s.cases) for s in training.evaluation_sets} == {"val": 2, "test": 4, "test-mosmed": 2}


def test_facets_select_trainings_as_ids_and_groups_do(study):
    of_task_2 = study.trainings(only=("task=2",), preset=PAPER)
    assert [t.id for t in of_task_2] == [t.id for t in study.trainings(only=("T2-*",), preset=PAPER)]
    with pytest.raises(ConfigError, match=r"--only task=4: matches none of the 45 trainings.*close to it: task="):
        study.trainings(only=("task=4",), preset=PAPER)


@pytest.mark.parametrize(("value", "pattern"), [("a[1]", "a[1]"), ("a[1]", "a[[]1]"), ("b*", "b*"), ("why?", "why?")])
def test_a_facet_is_selected_by_its_very_value_though_it_looks_like_a_pattern(study, value, pattern):
    first, *others = study.trainings(preset=PAPER)
    some = [replace(first, facets={**first.facets, "source": value}), *others]
    assert select(some, only=(f"source={pattern}",), asked="--only", of="all") == (some[0],)


def test_the_training_folds_partition_the_cases_with_two_of_either_source_each(study):
    folds = [fold.own for fold in study.cases["covid-19-ct-seg"].folds]
    assert sorted(name for fold in folds for name in fold) == list(study.dataset("covid-19-ct-seg").case_names)
    sources = {tuple(sorted(Counter(name.split("_")[0] for name in fold).items())) for fold in folds}
    assert sources == {(("coronacases", 2), ("radiopaedia", 2))}


def test_structseg_has_one_split_and_effusion_cases_are_lung_cases_of_which_14_validate_that_were_trained_on(study):
    assert study.cases["structseg-lung"] == study.cases["structseg-gtv"]
    lung, effusion = (study.cases[name].parts for name in ("nsclc-lung", "nsclc-pe"))
    assert {*effusion["train"], *effusion["val"]} <= {*lung["train"], *lung["val"]}
    assert len(set(effusion["val"]) & set(lung["train"])) == 14


BROKEN = {
    "typo in a key": ("study.yaml", "tolerance_mm: 3.0}", "tolerance: 3.0}", "did you mean 'tolerance_mm'"),
    "unknown top key": ("study.yaml", "label_sets:\n", "labelsets: {}\nlabel_sets:\n", "did you mean 'label_sets'"),
    "wrong type": ("study.yaml", "{label: 1,", "{label: one,", "label is 'one' (str); expected integer"),
    "key missing": ("study.yaml", "    label_set: lung\n", "", "trainings.T1-lung: key 'label_set' is missing"),
    "unknown label set": ("study.yaml", "[lung], slices: 95}", "[lungs], slices: 95}", "did you mean 'lung'"),
    "unknown data set": (
        "study.yaml",
        "[structseg-lung/train]",
        "[structsek-lung/train]",
        "you mean 'structseg-lung'",
    ),
    "unknown part": (
        "study.yaml",
        "[structseg-lung/train]",
        "[structseg-lung/trian]",
        "expected one of structseg-lung/tr",
    ),
    "folds of none": ("study.yaml", "[structseg-lung/train]", "[structseg-lung/fold]", "is no part of the data set"),
    "label set of another": ("study.yaml", "[structseg-lung/train]", "[structseg-gtv/train]", "has no label set lung"),
    "labels with a gap": ("study.yaml", "right_lung: {label: 2", "right_lung: {label: 4", "labels are [1, 4]"),
    "unknown model": (
        "study.yaml",
        "models: {3d: core",
        "models: {3b: core",
        "unknown model '3b'; expected one",
    ),
    "unknown donor": ("study.yaml", "plans_from: T1-lung\n", "plans_from: T1-lang\n", "did you mean 'T1-lung'"),
    "plans in a circle": ("study.yaml", "plans_from: T1-lung\n", "plans_from: T2-lung-structseg\n", "is a circle"),
    "two models of one name": ("study.yaml", ", suffix: -2d", "", "T1-lung would be two groups"),
    "unknown patient": (
        "study.yaml",
        "seg/radiopaedia_10_85902_3]",
        "seg/nobody]",
        "nobody is no case",
    ),
    "facet of two types": ("study.yaml", "task: 2, subtask: lung", "task: two, subtask: lung", "expected int"),
    "facet of every study": (
        "study.yaml",
        "{task: 1, subtask: lung,",
        "{fold: 1, subtask: lung,",
        "is a column",
    ),
    "name that is no file name": ("study.yaml", "  T1-infection:\n", "  T1/infection:\n", "T1/infection"),
    "key twice": ("study.yaml", "datasets:\n", "label_sets: {}\ndatasets:\n", "stands twice"),
    "not yaml": ("study.yaml", "label_sets:", "label_sets: [", "not valid YAML"),
    "case in two folds": ("folds.yaml", "[coronacases_004,", "[coronacases_007,", "coronacases_007 stands twice"),
    "train and val": ("folds.yaml", "lung_003, ", "lung_001, ", "stands twice"),
    "data set without cases": (
        "folds.yaml",
        "mosmed: [",
        "mosmet: [",
        "unknown data set 'mosmet'; did you mean 'mosmed'?",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_study_is_refused_with_its_file_and_place(tmp_path: Path, kind):
    file, old, new, message = BROKEN[kind]
    shutil.copytree(DEFAULT_STUDY.parent, tmp_path / "study")
    path = tmp_path / "study" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        load_study(tmp_path / "study" / "study.yaml")
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_fold_file_is_refused(tmp_path: Path):
    shutil.copy(DEFAULT_STUDY, tmp_path)
    with pytest.raises(ConfigError, match=r"folds\.yaml: cannot be read"):
        load_study(tmp_path / "study.yaml")


@pytest.fixture(scope="module")
def published(study):
    return load_tables(study).published


def test_published_average_of_the_first_table_row(published):
    score = published.find(group="T1-lung", fold="average", evaluation_set="test", structure="left_lung")
    assert (score.dsc_mean, score.dsc_std, score.nsd_mean, score.nsd_std) == (0.8582, 0.1052, 0.7117, 0.1384)


def test_published_averages_are_the_means_of_their_folds_as_far_as_the_printed_digits_go(published):
    """Which finds an error of typing in any mean of the trainings with five folds; errata say where the paper errs."""
    num_compared = 0
    for group, fold, evaluation_set, structure in published.scores:
        rows = [
            published.find(group=group, fold=number, evaluation_set=evaluation_set, structure=structure)
            for number in (*range(5), fold)
        ]
        if fold != "average" or None in rows:
            continue
        for of in ("dsc", "nsd"):
            *folds, average = (getattr(row, f"{of}_mean") for row in rows)
            if not any(getattr(row, f"{of}_erratum") for row in rows):
                assert average == pytest.approx(sum(folds) / 5, abs=1.01e-4), (group, evaluation_set, structure, of)
                num_compared += 1
    assert num_compared == 2 * 24 - 8


def test_a_score_that_is_known_to_be_wrong_says_so(published):
    wrong = published.find(group="T1-lung", fold=4, evaluation_set="test", structure="left_lung")
    assert (wrong.dsc_std, wrong.dsc_erratum, wrong.nsd_erratum) == (0.7597, "t1-lung-fold4-std", "")
    assert published.find(group="T1-lung", fold=4, evaluation_set="test", structure="right_lung").dsc_erratum == ""


def test_overview_rows_fill_in_what_the_detailed_tables_lack(published):
    score = published.find(
        group="T2-infection-msd", fold="average", evaluation_set="test-mosmed", structure="infection"
    )
    assert score.dsc_mean == 0.162
    assert published.find(group="T9", fold=0, evaluation_set="test", structure="infection") is None


def test_files_that_come_along_are_named_as_in_the_docs_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_study(Path("splits/brain_mri/study.yaml")).datasets[0].name == "brain"
    assert load_cluster(Path("clusters/local.yaml")).path == LOCAL_CLUSTER
    assert load_prices(Path("clusters/prices.yaml")) == load_prices(PRICES)
    assert load_predicted(Path("splits/covid19/study.yaml")).codes
    with pytest.raises(ConfigError, match=r"^splits/mine/study\.yaml: cannot be read"):
        load_study(Path("splits/mine/study.yaml"))
    own = tmp_path / "splits" / "brain_mri" / "study.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("title: [mine]")
    with pytest.raises(ConfigError, match=r"title is \['mine'\]"):
        load_study(Path("splits/brain_mri/study.yaml"))


def test_the_study_of_the_docs_is_what_they_say(tmp_path: Path):
    text = (Path(__file__).parents[2] / "docs" / "studies.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    for name, block in zip(("study.yaml", "folds.yaml"), blocks[:2], strict=True):
        (tmp_path / name).write_text(block, encoding="utf-8")
    study = load_study(tmp_path / "study.yaml")
    check_sources(study.datasets, where="study.yaml")
    assert study.matrices == ("main", "extra", "all")
    trainings = study.trainings(preset=SMOKE)
    assert [training.id for training in trainings] == ["liver-a-fold0", "liver-a-fold1"]
    assert [case.name for case in trainings[0].val] == ["case_001", "case_003"]  # of three, two are kept
    assert [s.name for s in trainings[0].evaluation_sets] == ["val", "clinic-b"]
    assert [t.id for t in study.trainings(only=("source=a",), matrix="extra", preset=PAPER)] == [
        "liver-a-2d-fold0",
        "liver-a-2d-fold1",
    ]
    (leak, _) = study.patient_leaks(study.trainings(preset=PAPER))
    assert leak.line.startswith("case_003 and case_017 are scans of one patient")
    assert [spec.name for spec in load_tables(study).specs] == ["results"]


@pytest.mark.parametrize("name", ["image", "case"])
def test_a_label_set_is_not_named_as_a_file_beside_its_label_maps(name):
    with pytest.raises(ConfigError, match=f"label set {name}: a run keeps a file of that name"):
        LabelSet(name=name, structures=())
