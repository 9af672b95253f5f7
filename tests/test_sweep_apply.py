"""What becomes of a study file that gets the best trial of a search as a model."""

import pytest

from orchestrator.benchmark.loading import load_study
from orchestrator.benchmark.presets import PRESETS
from orchestrator.errors import ConfigError
from orchestrator.sources.nnunet_raw.survey import Describer
from orchestrator.sweeps.apply import apply_best
from orchestrator.sweeps.written import SweepRecord
from tests.raw_datasets import write_dataset

FLOW = """title: t  # kept
datasets: {d: {nnunet: Dataset001_D}}
models: {a: {planner: nnUNetPlannerResEncM}, b: {suffix: -b}}  # two
trainings:
  g: {train: [d/all], models: {a: core, b: more}}
"""
BLOCK = """datasets: {d: {nnunet: Dataset001_D}}
models:
  # the first
  a:
    preset: {optimizer: adamw}
  b: {suffix: -b}  # the last

title: t
trainings:
  g:
    train: [d/all]
"""
NONE = """title: t
datasets: {d: {nnunet: Dataset001_D}}
# what is trained
trainings:
  g: {train: [d/all]}
"""


@pytest.mark.parametrize("text", [FLOW, BLOCK, NONE], ids=["flow", "block", "none"])
def test_the_best_trial_becomes_a_model_and_nothing_else_of_the_file_changes(tmp_path, text):
    data = tmp_path / "data"
    write_dataset(data, folder="Dataset001_D", names=tuple(f"c{i}" for i in range(4)))
    path = tmp_path / "study.yaml"
    path.write_text(text, encoding="utf-8")
    describe = Describer(str(data))
    training = load_study(path, describe=describe).trainings(preset=PRESETS["paper"])[0]
    best = (("initial_learning_rate", 0.003), ("mirror_axes", (0, 1)), ("configuration", "2d"))
    record = SweepRecord(training=training.id, num_trials=16, best=best)
    apply_best(path, training, record, name="tuned")
    study = load_study(path, describe=describe)
    assert [model.name for model in study.models][-1] == "tuned"
    tuned = study.models[-1]
    assert (tuned.configuration, tuned.planner, tuned.suffix) == ("2d", training.model.planner, "-tuned")
    assert dict(tuned.changes) == {
        **dict(training.model.changes),
        "initial_learning_rate": 0.003,
        "mirror_axes": (0, 1),
    }
    assert "16 trials" in tuned.note
    assert "g-tuned-fold0" in [one.id for one in study.trainings(preset=PRESETS["paper"])]
    changed = path.read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if "#" in line and "{" not in line] == [
        line for line in changed.splitlines() if "#" in line and "{" not in line
    ]
    with pytest.raises(ConfigError, match="has a model tuned already"):
        apply_best(path, training, record, name="tuned")
    assert path.read_text(encoding="utf-8") == changed
