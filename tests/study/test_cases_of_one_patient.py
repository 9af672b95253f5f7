"""Claims about cases of one patient in several data sets: scans that are listed, and one image below two names."""

from pathlib import Path

import pytest

from orchestrator.benchmark.definition import Training
from orchestrator.benchmark.leaks import AlikeCases, alike_leaks
from orchestrator.benchmark.loading import load_study
from orchestrator.benchmark.presets import PRESETS
from orchestrator.benchmark.study import Study
from orchestrator.errors import ConfigError
from orchestrator.results.trials import Fidelity
from orchestrator.search.samplers import Trial
from orchestrator.sweeps.inner_study import inner_study

PAPER = PRESETS["paper"]
CASES = [f"c{number}" for number in range(8)]
STUDY = """title: x
label_sets: {{a: {{liver: {{label: 1, tolerance_mm: 1.0}}}}}}
datasets:
  a: {{title: A, nnunet: Dataset001_A, channels: [CT], label_sets: [a], folds: {{number: 4}}}}
  b: {{title: B, nnunet: {folder}, channels: [CT], label_sets: [a], folds: {{number: 2}}{more}}}
models: {{3d: {{}}, 2d: {{configuration: 2d, suffix: -2d}}}}
trainings:
  g: {training}
presets: {{chooses: {{like: paper, curve_every: 2, checkpoint: best_nsd}}}}
"""


def load(tmp_path: Path, training: str, *, folder: str = "Dataset001_A", more: str = "", end: str = "") -> Study:
    (tmp_path / "study.yaml").write_text(STUDY.format(training=training, folder=folder, more=more) + end)
    (tmp_path / "folds.yaml").write_text(f"a: [{', '.join(CASES)}]\nb: [{', '.join(CASES)}]\n")
    return load_study(tmp_path / "study.yaml")


def test_another_scan_of_a_patient_is_told_whatever_data_set_its_image_is_trained_from(tmp_path):
    study = load(
        tmp_path, "{train: [b/other-folds], val: [b/fold]}", folder="Dataset001_A", end="patients: [[a/c0, a/c1]]\n"
    )
    patient = {case.id for scans in study.patients_with_several_scans for case in scans if case.name in {"c0", "c1"}}
    assert patient == {"a/c0", "a/c1", "b/c0", "b/c1"}
    folds = study.cases["b"].folds
    is_apart = not any({"c0", "c1"} <= set(fold.own) for fold in folds)
    leaks = study.patient_leaks(study.trainings(preset=PAPER))
    assert {(leak.train_case.id, leak.test_case.id) for leak in leaks} == (
        {("b/c0", "b/c1"), ("b/c1", "b/c0")} if is_apart else set()
    )
    assert is_apart


class Counted(list[Training]):
    """Trainings that count how often they are gone through."""

    num_times = 0

    def __iter__(self):
        self.num_times += 1
        return super().__iter__()


def test_trainings_are_not_gone_through_again_for_each_patient(tmp_path):
    lines = ["patients: [[a/c0, a/c1]]\n", "patients: [[a/c0, a/c1], [a/c2, a/c3], [a/c4, a/c5], [a/c6, a/c7]]\n"]
    found = []
    for line in lines:
        study = load(tmp_path, "{train: [a/other-folds], val: [a/fold]}", end=line)
        trainings = Counted(study.trainings(preset=PAPER))
        leaks = study.patient_leaks(trainings)
        alike = [AlikeCases(first=one.train_case, second=one.test_case, likeness=1.0) for one in leaks]
        assert len(alike_leaks(alike, trainings, declared=())) == 2 * len(leaks)
        found.append((len(leaks), trainings.num_times))
    (_, num_times), (num_leaks, num_times_of_many) = found
    assert num_times == num_times_of_many < num_leaks


def test_one_image_below_two_names_is_told_once(tmp_path):
    study = load(tmp_path, "{train: [a/all], test: {held: b/all}}", end="patients: [[a/c0, a/c1]]\n")
    leaks = study.patient_leaks(study.trainings(only=("g-fold0",), preset=PAPER))
    assert sum(leak.is_one_image for leak in leaks) == len(CASES)
    assert sorted((leak.train_case.id, leak.test_case.id) for leak in leaks if not leak.is_one_image) == [
        ("a/c0", "b/c1"),
        ("a/c1", "b/c0"),
    ]


def test_nothing_is_chosen_by_an_image_that_is_tested_below_another_name(tmp_path):
    training = "{train: [a/other-folds], val: [a/fold], test: {held: b/all}}"
    study = load(tmp_path, training)
    assert study.trainings(preset=PAPER)
    with pytest.raises(ConfigError, match=r"chooses a checkpoint by .* 2 of which are tested as held, such as a/c"):
        study.trainings(preset=study.preset("chooses"))
    chosen = load(tmp_path, training, end="ensembles: {e: {members: ['g*'], choose: pair}}\n")
    with pytest.raises(ConfigError, match="would be chosen by 2 cases on which it is tested, such as a/c"):
        chosen.trainings(preset=PAPER)


def test_scans_that_study_and_data_set_join_together_are_on_one_side_of_every_trial(tmp_path):
    rows = "".join(f"{name},{'p' if name in {'c0', 'c1'} else name}\n" for name in CASES)
    (tmp_path / "patients.csv").write_text("case,patient\n" + rows)
    study = load(
        tmp_path,
        "{train: [a/all, b/all]}",
        folder="Dataset002_B",
        more=", patients: patients.csv",
        end="patients: [[a/c0, b/c0]]\n",
    )
    fidelity, patient = Fidelity(preset="paper", folds=5), {"a/c0", "b/c0", "b/c1"}
    training = study.trainings(preset=PAPER)[0]
    inner = inner_study(
        study, training, trials=[Trial(number=0, settings=())], fidelities=[fidelity], preset=PAPER, sha256=""
    )
    trials = inner.trainings(preset=PAPER)
    assert len(trials) == 5
    for one in trials:
        assert len(patient & {case.id for case in one.val}) in {0, 3}
    assert inner.patient_leaks(trials) == ()
