"""What becomes of a study file that gets the best trial of a search as a model."""

from functools import partial
from pathlib import Path

import pytest
from raw_datasets import write_dataset

from orchestrator import shipped
from orchestrator.benchmark.definition import Training
from orchestrator.benchmark.loading import load_study
from orchestrator.benchmark.presets import PRESETS
from orchestrator.errors import ConfigError
from orchestrator.sources.nnunet_raw.survey import Describer
from orchestrator.sweeps.apply import apply_best
from orchestrator.sweeps.written import SweepRecord

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


TRAILING = """title: t
datasets: {d: {nnunet: Dataset001_D}}
models: {
  a: {}, # the first
  b: {suffix: -b}, # the last
}
trainings:
  g:
    train: [d/all]
    models: {a: core, b: more,}
"""
ALIAS = """title: t
datasets: {d: {nnunet: Dataset001_D}}
models:
  a: &a {}
  b: {suffix: -b, preset: &p {batch_size: 2}}
  c: {suffix: -c, preset: *p}
trainings:
  g: {train: [d/all]}
"""
SCALAR = """title: t
datasets: {d: {nnunet: Dataset001_D}}
models:
  a: {}
  b:
    suffix: -b
    note: |
      two lines
      of text

# about trainings
trainings:
  g: {train: [d/all]}
"""
AT_END = """title: t
datasets: {d: {nnunet: Dataset001_D}}
trainings:
  g: {train: [d/all]}
models:
  a: {}
  b: {suffix: -b}"""
TEXTS = {
    "flow": FLOW,
    "block": BLOCK,
    "none": NONE,
    "trailing": TRAILING,
    "alias": ALIAS,
    "scalar": SCALAR,
    "at end": AT_END,
}
ELSEWHERE = """title: t
datasets: {d: {nnunet: Dataset001_D}}
presets:
  paper: &p {batch_size: 2}
models:
  a: {}
  b:
    suffix: -b
    preset: *p
trainings:
  g: {train: [d/all]}
"""
BEST = (("initial_learning_rate", 0.003), ("mirror_axes", (0, 1)), ("configuration", "2d"))


@pytest.fixture
def load(tmp_path):
    data = tmp_path / "data"
    write_dataset(data, folder="Dataset001_D", names=tuple(f"c{i}" for i in range(4)))
    return partial(load_study, describe=Describer(str(data)))


def apply(path: Path, load, *, name: str = "tuned") -> Training:
    """Apply a trial to the first training of a study file; returns that."""
    training = load(path).trainings(preset=PRESETS["paper"])[0]
    record = SweepRecord(training=training.id, num_trials=20, num_scored=16, best=BEST)
    apply_best(path, training, record, name=name, load=load)
    return training


@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_the_best_trial_becomes_a_model_and_nothing_else_of_the_file_changes(tmp_path, load, text, newline):
    path = tmp_path / "study.yaml"
    path.write_bytes(text.replace("\n", newline).encode())
    training = apply(path, load)
    study = load(path)
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
    changed = path.read_bytes().decode()
    assert changed.count("\n") == changed.count(newline)
    # What is there in the order of the file, and only what is new between.
    rest = iter(changed)
    assert all(letter in rest for letter in text.replace("\n", newline))
    with pytest.raises(ConfigError, match="has a model tuned already"):
        apply(path, load)
    assert path.read_bytes().decode() == changed


@pytest.mark.parametrize("name", ["yes", "1", "1.5", "null", "m" * 99, "A_b.c"])
def test_any_name_that_a_model_may_have_is_that_of_the_new_one(tmp_path, load, name):
    path = tmp_path / "study.yaml"
    path.write_text(BLOCK, encoding="utf-8")
    apply(path, load, name=name)
    assert load(path).models[-1].name == name


@pytest.mark.parametrize("name", ["a b", "a/b", "-x", "a#b", "x: {y", "é", "_", "m" * 100])
def test_a_name_that_no_model_may_have_is_refused_and_the_file_stays(tmp_path, load, name):
    path = tmp_path / "study.yaml"
    path.write_text(BLOCK, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"^--apply .*expected up to 99 letters"):
        apply(path, load, name=name)
    assert path.read_text(encoding="utf-8") == BLOCK


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # Group g of the new model would have the name of that of b.
        (BLOCK.replace("suffix: -b", "suffix: -tuned"), "two groups"),
        # What an alias stands for is somewhere else in the file.
        (ELSEWHERE, "no program can add"),
    ],
)
def test_a_file_that_would_be_that_of_no_study_stays_and_is_named_itself(tmp_path, load, text, message):
    path = tmp_path / "study.yaml"
    path.write_text(text, encoding="utf-8")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ConfigError, match=message) as refused:
        apply(path, load)
    assert str(refused.value).startswith(f"{path}: ")
    assert path.read_text(encoding="utf-8") == text
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("named", ["as in the docs", "where it lies"])
def test_a_study_of_an_installed_package_stays_as_it_is(named, tmp_path, monkeypatch):
    along = tmp_path / "site-packages" / "orchestrator" / "shipped"
    study = along / "splits" / "mine" / "study.yaml"
    study.parent.mkdir(parents=True)
    study.write_text(NONE)
    monkeypatch.setattr(shipped, "_CHECKOUT", tmp_path / "site-packages")
    monkeypatch.setattr(shipped, "_INSTALLED", along)
    monkeypatch.chdir(tmp_path)
    path = Path("splits/mine/study.yaml") if named == "as in the docs" else study
    with pytest.raises(ConfigError, match="part of the installed package; expected --study with a copy of its folder"):
        apply_best(path, None, None, name="tuned", load=load_study)
    assert study.read_text() == NONE
