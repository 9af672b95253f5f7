"""The benchmark file gives the published matrix, and a broken one is refused."""

import shutil
from collections import Counter
from pathlib import Path

import pytest

from orchestrator.benchmark.loading import SPLITS, load_benchmark
from orchestrator.benchmark.matrix import split_sha256
from orchestrator.benchmark.presets import PRESETS
from orchestrator.benchmark.published import PublishedScores
from orchestrator.errors import ConfigError

PAPER, SMOKE = PRESETS["paper"], PRESETS["smoke"]


@pytest.fixture(scope="module")
def benchmark():
    return load_benchmark()


def test_core_has_15_trainings_of_task_1_5_of_task_2_and_25_of_task_3(benchmark):
    assert Counter(t.task for t in benchmark.trainings(preset=PAPER)) == {1: 15, 2: 5, 3: 25}


@pytest.mark.parametrize(
    ("matrix", "number"), [("core", 45), ("2d", 45), ("80-20", 10), ("msd-lung", 10), ("all", 110)]
)
def test_number_of_trainings(benchmark, matrix, number):
    trainings = benchmark.trainings(matrix=matrix, preset=PAPER)
    assert len({t.id for t in trainings}) == len(trainings) == number


def test_core_makes_2902_predictions_and_3882_label_evaluations(benchmark):
    sets = [s for t in benchmark.trainings(preset=PAPER) for s in t.evaluation_sets]
    assert sum(len(s.cases) for s in sets) == 2902
    assert sum(len(s.cases) * len(s.structures) for s in sets) == 3882


def test_585_volumes_are_used_in_all(benchmark):
    sizes = {dataset.name: len(dataset.case_names) for dataset in benchmark.datasets}
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
def test_sizes_of_the_parts_are_the_published_ones(benchmark, training_id, train, val, tests):
    (training,) = benchmark.trainings(matrix="all", only=(training_id,), preset=PAPER)
    assert (len(training.train), len(training.val)) == (train, val)
    assert {s.name: len(s.cases) for s in training.evaluation_sets} == tests
    assert not training.is_capped


def test_no_case_is_trained_on_and_tested(benchmark):
    for training in benchmark.trainings(matrix="all", preset=PAPER):
        tested = {case for s in training.evaluation_sets for case in s.cases}
        assert not tested & set(training.train)


def test_task_3_takes_its_patch_size_from_the_same_fold_of_task_1(benchmark):
    (training,) = benchmark.trainings(matrix="2d", only=("T3-lung-nsclc-2d-fold3",), preset=PAPER)
    assert training.plan_donor == "T1-lung-2d-fold3"


def test_16_core_trainings_test_on_a_patient_they_were_trained_on(benchmark):
    leaks = benchmark.patient_leaks(benchmark.trainings(preset=PAPER))
    assert len({training_id for leak in leaks for training_id in leak.training_ids}) == 16


def test_caps_keep_both_sources_of_covid_ct_seg_and_every_case_of_a_fold(benchmark):
    (training,) = benchmark.trainings(only=("T3-lung-nsclc-fold0",), preset=SMOKE)
    assert training.is_capped
    assert len(training.train) == SMOKE.caps.train + 4
    (test,) = [s for s in training.evaluation_sets if s.name == "test"]
    assert {case.name.split("_")[0] for case in test.cases} == {"coronacases", "radiopaedia"}


def test_the_split_digest_changes_with_the_cases(benchmark):
    trainings = benchmark.trainings(only=("T1-lung",), preset=PAPER)
    assert len({split_sha256(t) for t in trainings}) == 5
    assert split_sha256(trainings[0]) == split_sha256(benchmark.trainings(only=("T1-lung",), preset=PAPER)[0])


def test_a_pattern_without_a_match_names_what_is_close(benchmark):
    with pytest.raises(ConfigError, match=r"--only T1-lungs: matches none of the 45 trainings.*T1-lung"):
        benchmark.trainings(only=("T1-lungs",), preset=PAPER)


def test_an_unknown_matrix_names_the_known_ones(benchmark):
    with pytest.raises(ConfigError, match="--matrix cor: unknown; expected one of core, 2d"):
        benchmark.trainings(matrix="cor", preset=PAPER)


BROKEN = {
    "typo in a key": ("benchmark.yaml", "tolerance_mm: 3.0}", "tolerance: 3.0}", "did you mean 'tolerance_mm'"),
    "unknown top key": ("benchmark.yaml", "label_sets:\n", "labelsets: {}\nlabel_sets:\n", "unknown key 'labelsets'"),
    "wrong type": ("benchmark.yaml", "{label: 1,", "{label: one,", "expected int"),
    "unknown label set": ("benchmark.yaml", "[lung]}", "[lungs]}", "unknown label sets"),
    "unknown data set": ("benchmark.yaml", "dataset: structseg-lung,", "dataset: structsek,", "expected one of"),
    "key twice": ("benchmark.yaml", "datasets:\n", "label_sets: {}\ndatasets:\n", "stands twice"),
    "not yaml": ("benchmark.yaml", "label_sets:", "label_sets: [", "not valid YAML"),
    "case in two folds": ("folds.yaml", "[coronacases_004,", "[coronacases_007,", "coronacases_007 in two folds"),
    "case twice in a fold": ("folds.yaml", "coronacases_008,", "coronacases_007,", "stands twice"),
    "lost case": ("folds.yaml", "train_2, train_3,", "train_3,", "structseg-lung and structseg-gtv differ"),
    "train and val": ("folds.yaml", "lung_003, ", "lung_001, ", "in train and in val"),
    "effusion elsewhere": (
        "folds.yaml",
        "nsclc-pe:\n    train: [\n",
        "nsclc-pe:\n    train: [ LUNG1-999,\n",
        "LUNG1-999",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_definition_is_refused_with_its_file_and_place(tmp_path: Path, kind):
    file, old, new, message = BROKEN[kind]
    shutil.copytree(SPLITS, tmp_path / "splits")
    path = tmp_path / "splits" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        load_benchmark(tmp_path / "splits" / "benchmark.yaml")
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_missing_fold_file_is_refused(tmp_path: Path):
    shutil.copy(SPLITS / "benchmark.yaml", tmp_path)
    with pytest.raises(ConfigError, match=r"folds\.yaml: cannot be read"):
        load_benchmark(tmp_path / "benchmark.yaml")


def test_published_average_of_the_first_table_row():
    score = PublishedScores().find(group="T1-lung", fold="average", evaluation_set="test", structure="left_lung")
    assert (score.dsc_mean, score.dsc_std, score.nsd_mean, score.nsd_std) == (0.8582, 0.1052, 0.7117, 0.1384)


def test_a_score_that_is_known_to_be_wrong_says_so():
    published = PublishedScores()
    wrong = published.find(group="T1-lung", fold=4, evaluation_set="test", structure="left_lung")
    assert (wrong.dsc_std, wrong.dsc_erratum, wrong.nsd_erratum) == (0.7597, "t1-lung-fold4-std", "")
    assert published.find(group="T1-lung", fold=4, evaluation_set="test", structure="right_lung").dsc_erratum == ""


def test_overview_rows_fill_in_what_the_detailed_tables_lack():
    published = PublishedScores()
    score = published.find(
        group="T2-infection-msd", fold="average", evaluation_set="test-mosmed", structure="infection"
    )
    assert score.dsc_mean == 0.162
    assert published.find(group="T9", fold=0, evaluation_set="test", structure="infection") is None
