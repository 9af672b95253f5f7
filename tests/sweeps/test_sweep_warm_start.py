"""Which sweeps another one may learn from: none that has seen what its training is validated or tested on."""

from pathlib import Path

import pytest
import yaml
from played_sweeps import Played, played, request_of, study_with_presets, words

from orchestrator.benchmark.loading import load_study
from orchestrator.cli.sweep import main
from orchestrator.errors import ConfigError

RATES = "initial_learning_rate: {loguniform: [0.0001, 0.1]}\n"
LEARN = ("--sampler", "optuna", "--name", "second", "--warm-start", "lr")


@pytest.fixture
def brain(tmp_path, monkeypatch) -> Path:
    """Return a study, on whose training `tumour-fold0` the sweep `lr` has searched."""
    path = study_with_presets(tmp_path)
    Played(monkeypatch)
    played(request_of(path, RATES))
    return path


def test_trials_on_the_same_cases_are_learnt_from(brain):
    assert len(played(request_of(brain, RATES, *LEARN)).results) == 4


def test_no_trial_is_learnt_from_that_has_seen_a_case_on_which_the_training_is_validated(brain, capsys):
    first, second = (load_study(brain).trainings(preset=load_study(brain).preset("paper"))[fold] for fold in (0, 1))
    assert set(first.train) & set(second.val)
    # Also where the preset of the sweep leaves some of these cases out.
    for others in ((), ("--simulate",)):
        assert main(words(brain, RATES, *LEARN, "--only", "tumour-fold1", *others)) == 2
        told = " ".join(capsys.readouterr().err.split())
        assert "--warm-start lr: was on the training cases of tumour-fold0" in told
        assert "tumour-fold1 is validated or tested on" in told


def test_an_image_that_was_seen_is_seen_below_the_name_that_another_data_set_has_for_it(brain, capsys):
    again = """
  again: {title: x, nnunet: Dataset901_BrainPhantoms, channels: [T1, FLAIR], label_sets: [tumour], folds: {number: 3}}
models:"""
    trainings = "trainings:\n  other: {label_set: tumour, train: [again/other-folds], val: [again/fold]}\n"
    text = brain.read_text().replace("\nmodels:", again).replace("trainings:\n", trainings)
    brain.write_text(text)
    folds = brain.with_name("folds.yaml")
    names = yaml.safe_load(folds.read_text())["brain"]
    folds.write_text(yaml.safe_dump({"brain": names, "again": names}))
    assert main(words(brain, RATES, *LEARN, "--only", "other-fold1", "--simulate")) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "other-fold1 is validated or tested on" in told
    assert "(brain/" in told


def test_what_a_sweep_has_learnt_from_is_what_it_has_seen(brain):
    """The trials of the second know what those of the first have seen, though their own cases are fewer."""
    request = request_of(brain, RATES, *LEARN)
    played(request)
    record = Path(request.output) / "sweep.json"
    alone = [case.id for case in request.training.train]
    assert all(f'"{case}"' in record.read_text() for case in alone)
    first = record.parent.parent / "lr" / "sweep.json"
    first.write_text(first.read_text().replace('"cases": [', '"cases": ["brain/another",'))
    played(request)
    assert '"brain/another"' in record.read_text()


@pytest.mark.parametrize(
    ("space", "others", "message"),
    [
        (RATES, ("--metric", "nsd"), "its metric is dsc; expected nsd"),
        (RATES, ("--preset", "less"), "its preset is tiny; expected less"),
        (RATES, ("--folds", "2"), "looks at its trials in another way first"),
        (RATES + "fidelities: [{preset: less}, {}]", (), "looks at its trials in another way first"),
        (RATES, ("--warm-start", "nosuch"), "--warm-start nosuch: no sweep in"),
    ],
)
def test_scores_of_something_else_are_not_learnt_from(brain, capsys, space, others, message):
    for simulated in ((), ("--simulate",)):
        assert main(words(brain, space, *LEARN, *others, *simulated)) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    assert not (brain.parent.parent / "run" / "sweeps" / "second").exists()


def test_a_record_that_does_not_say_its_cases_is_not_learnt_from(brain):
    path = brain.parent.parent / "run" / "sweeps" / "lr" / "sweep.json"
    path.write_text(path.read_text().replace('"cases"', '"other"'))
    with pytest.raises(ConfigError, match="of another version, which does not say its cases"):
        played(request_of(brain, RATES, *LEARN))
