"""Claims about presets as data: those that come along, and those of a study."""

from dataclasses import replace

import pytest
import yaml
from jsonschema import Draft202012Validator

from orchestrator.benchmark.loading import load_study
from orchestrator.benchmark.presets import PRESETS, read_presets
from orchestrator.benchmark.trainings.definitions import definitions
from orchestrator.cli.schemas import schemas
from orchestrator.errors import ConfigError
from orchestrator.shipped import shipped_file
from orchestrator.training.nnunet.classes import check_models

STUDY = """
title: Two cases
label_sets: {liver: {liver: {label: 1, tolerance_mm: 1.0}}}
datasets: {clinic: {source: msd, label_sets: [liver]}}
trainings:
  liver: {train: [clinic/own], test: {outer: clinic/other}}
"""
FOLDS = "clinic: {own: [a, b, c, d], other: [e, f, g, h]}"


def study_with(folder, presets=""):
    (folder / "study.yaml").write_text(STUDY + presets)
    (folder / "folds.yaml").write_text(FOLDS)
    return load_study(folder / "study.yaml")


def test_the_shipped_presets_are_what_they_always_were():
    smoke, quick, paper = PRESETS.values()
    assert (smoke.name, quick.name, paper.name) == ("smoke", "quick", "paper")
    assert (paper.num_epochs, paper.num_iterations_per_epoch, paper.num_val_iterations_per_epoch) == (1000, 250, 50)
    assert (paper.optimizer, paper.mirror_axes, paper.mirror_at_prediction) == ("nnunet", None, True)
    assert (quick.num_epochs, quick.mirror_axes, quick.case_limits) == (50, (0, 1), {"train": 40, "val": 10})
    assert (smoke.mirror_axes, smoke.base_num_features, smoke.max_patch_voxels) == ((), 8, 32**3)
    assert smoke.case_limits == {"train": 6, "val": 2, "test": 4}
    assert [preset.is_for_cpus for preset in PRESETS.values()] == [True, False, False]


def test_a_study_may_define_a_preset_like_another(tmp_path):
    study = study_with(
        tmp_path,
        """
presets:
  mine: {like: quick, num_epochs: 7, mirror_axes: null, initial_learning_rate: 1, cases: {train: 2, outer: 1}}
  less: {like: mine, num_epochs: 3, cases: {outer: 3}}
""",
    )
    changes = {"name": "mine", "num_epochs": 7, "mirror_axes": None, "initial_learning_rate": 1.0}
    assert study.preset("mine") == replace(PRESETS["quick"], **changes)
    assert study.preset("less").mirror_axes is None
    assert study.preset("smoke") is PRESETS["smoke"]
    for name, numbers in {"mine": (2, 1), "less": (2, 3), "paper": (4, 4)}.items():
        (training,) = study.trainings(preset=study.preset(name))
        assert (len(training.train), len(training.evaluation_sets[0].cases)) == numbers


def test_a_study_may_change_a_preset_for_itself_alone(tmp_path):
    study = study_with(tmp_path, "presets: {smoke: {num_epochs: 2, cases: {train: 1}}}")
    assert study.preset("smoke") == replace(PRESETS["smoke"], num_epochs=2)
    assert PRESETS["smoke"].num_epochs == 6
    (training,) = study.trainings(preset=study.preset("smoke"))
    assert len(training.train) == 1


def test_a_preset_of_its_own_may_say_everything_itself(tmp_path):
    said = {
        "num_epochs": 2,
        "num_iterations_per_epoch": 3,
        "num_val_iterations_per_epoch": 1,
        "checkpoint_every_s": 0,
        "expected_s_per_iteration": 0.5,
    }
    made = read_presets({"own": said}, known={}, where="x")["own"]
    assert (made.expected_training_s, made.checkpoint_every_s, made.optimizer) == (3.0, 0, "nnunet")


def test_a_model_may_have_a_schedule_and_follows_from_it(tmp_path):
    text = "models: {a: {}, b: {suffix: -b, preset: {schedule: [{from_epoch: 0, momentum: 0.9}, {from_epoch: 4}]}}}\n"
    study = study_with(tmp_path, text)
    plain, scheduled = study.trainings(preset=study.preset("quick"))
    preset = study.preset("quick").changed_by(scheduled.model.changes)
    assert [preset.at_epoch(epoch).momentum for epoch in (0, 5)] == [0.9, 0.9]
    assert [one.from_epoch for one in preset.schedule] == [0, 4]
    assert study.preset("quick").changed_by(plain.model.changes).schedule == ()
    before = definitions(study, preset=study.preset("quick"), phantoms=False)
    after = definitions(study_with(tmp_path, text.replace("0.9", "0.8")), preset=study.preset("quick"), phantoms=False)
    assert [id_ for id_ in before if before[id_] != after[id_]] == [scheduled.id]
    check_models(study.models)


WRONG = {
    "an unknown key": (
        "{like: quick, num_epoch: 3}",
        r"presets\.mine: unknown key 'num_epoch'; did you mean 'num_epochs'",
    ),
    "an unknown preset": ("{like: quik}", r"presets\.mine: unknown preset 'quik'; did you mean 'quick'"),
    "a name that is a path": ("{like: quick, name: ../x}", "unknown key 'name'"),
    "a missing key": ("{num_epochs: 3}", r"presets\.mine: key 'num_iterations_per_epoch' is missing"),
    "too few": ("{like: quick, num_epochs: 0}", r"presets\.mine: num_epochs is 0 \(int\); expected at least 1"),
    "no time": ("{like: quick, expected_s_per_iteration: 0}", "expected_s_per_iteration is 0 .*expected more than 0"),
    "a truth": ("{like: quick, num_epochs: true}", r"presets\.mine: num_epochs is True"),
    "a text": ("{like: quick, tile_step_size: wide}", r"tile_step_size is 'wide' \(str\)"),
    "a date": ("{like: quick, num_epochs: 2020-01-01}", "num_epochs is '2020-01-01'"),
    "an axis": ("{like: quick, mirror_axes: [3]}", "expected at most 2"),
    "an axis twice": ("{like: quick, mirror_axes: [0, 0]}", r"mirror_axes is \[0, 0\] .*expected each axis once"),
    "no number": ("{like: quick, initial_learning_rate: .nan}", "initial_learning_rate"),
    "a choice": ("{like: quick, optimizer: sgd}", "expected 'nnunet' or 'adamw'"),
    "no mapping": ("7", r"presets: mine is 7"),
    "cases": ("{like: quick, cases: {train: 0}}", r"cases: train is 0"),
}
"""What an entry says, and what is said of it."""


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_one_line_with_file_key_and_what_was_expected(case, tmp_path):
    entry, message = WRONG[case]
    with pytest.raises(ConfigError, match=message) as caught:
        study_with(tmp_path, f"presets:\n  mine: {entry}\n")
    assert str(tmp_path / "study.yaml") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_names_of_all_presets_of_a_study_are_offered(tmp_path):
    study = study_with(tmp_path, "presets: {mine: {like: quick}}")
    with pytest.raises(ConfigError, match="--preset min: unknown; expected one of smoke, quick, paper, mine"):
        study.preset("min")


def test_the_shipped_file_is_what_its_schema_says():
    (text,) = [text for name, text in schemas() if name == "presets.json"]
    content = yaml.safe_load(shipped_file("splits", "presets.yaml").read_text())
    validator = Draft202012Validator(yaml.safe_load(text))
    assert not list(validator.iter_errors(content))
    assert list(validator.iter_errors({"mine": {"num_epoch": 3}}))
