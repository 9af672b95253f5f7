"""A sweep that is given again: what may have changed in the meantime, and what is refused and leaves all as it is."""

import json
import shlex
from pathlib import Path

import pytest
from played_sweeps import Played, played, request_of, study_with_presets, words

from orchestrator.cli.run.options import build_parser
from orchestrator.cli.sweep import main
from orchestrator.errors import ConfigError

RATES = "initial_learning_rate: {loguniform: [0.0001, 0.1]}\n"


@pytest.fixture
def brain(tmp_path) -> Path:
    return study_with_presets(tmp_path)


def folder_of(study: Path, name: str = "lr") -> Path:
    return study.parent.parent / "run" / "sweeps" / name


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "case",
    [
        (RATES, ("--only", "tumour-fold1"), "another training ('tumour-fold0', not 'tumour-fold1')"),
        (RATES, ("--preset", "less"), "another preset ('tiny', not 'less')"),
        (RATES, ("--metric", "nsd"), "another metric ('dsc', not 'nsd')"),
        (RATES, ("--sampler", "optuna"), "another sampler ('random', not 'optuna')"),
        (RATES, ("--seed", "1"), "another seed (0, not 1)"),
        (RATES, ("--folds", "2"), "another fidelities"),
        (RATES, ("--first-epochs", "3"), "another --stopping, --first-epochs, --reduction"),
        (RATES.replace("0.1]", "0.2]"), (), "another space"),
        ("optimizer: {choice: [nnunet, adamw]}", (), "another space"),
    ],
)
def test_another_sweep_of_the_same_name_is_refused_and_leaves_the_record_of_the_first(brain, monkeypatch, capsys, case):
    space, others, message = case
    Played(monkeypatch)
    assert played(request_of(brain, RATES)).best is not None
    before = files_of(folder_of(brain))
    assert main(words(brain, space, *others)) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert message in told
    assert "--name" in told
    assert files_of(folder_of(brain)) == before


def test_the_same_sweep_goes_on_with_more_trials_also_where_it_was_killed_before_the_first_ended(brain, monkeypatch):
    Played(monkeypatch, most=0)
    with pytest.raises(KeyboardInterrupt):
        played(request_of(brain, RATES))
    runs = Played(monkeypatch)
    assert len(played(request_of(brain, RATES, "--trials", "6")).results) == 6
    assert runs.num_at_once == [4, 2]


def test_a_sweep_whose_record_lacks_what_it_is_of_is_not_gone_on_with(brain, monkeypatch):
    Played(monkeypatch)
    played(request_of(brain, RATES))
    (folder_of(brain) / "sweep.json").write_text('{"training": "tumour-fold0"}')
    with pytest.raises(ConfigError, match="another version, which does not say its preset; expected --name"):
        played(request_of(brain, RATES))


def test_a_sweep_whose_digest_is_that_of_another_version_is_said_to_be_of_one(brain, monkeypatch):
    Played(monkeypatch)
    played(request_of(brain, RATES))
    record = json.loads((folder_of(brain) / "sweep.json").read_text())
    del record["definitions_format"]
    (folder_of(brain) / "sweep.json").write_text(json.dumps(record | {"sha256": "0" * 64}))
    with pytest.raises(
        ConfigError, match="another version, which does not say its definitions_format; expected --name"
    ):
        played(request_of(brain, RATES))


def test_the_best_of_a_sweep_is_applied_to_the_training_that_it_was_of_and_to_no_other(brain, monkeypatch, capsys):
    Played(monkeypatch)
    played(request_of(brain, RATES))
    before = brain.read_bytes()
    assert main(words(brain, RATES, "--only", "tumour-fold1", "--apply", "tuned")) == 2
    assert "expected --only tumour-fold0" in " ".join(capsys.readouterr().err.split())
    assert brain.read_bytes() == before
    assert main(words(brain, RATES, "--apply", "tuned")) == 0


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("folds: {number: 3,", "folds: {number: 3, seed: 7,"),
        ("unet: {}", "unet: {trainer: nnUNetTrainerDiceLoss}"),
        ("region: [3], tolerance_mm: 1.0", "region: [3], tolerance_mm: 1.5"),
    ],
)
def test_nothing_is_applied_to_a_training_that_is_another_than_was_searched_on(
    brain, monkeypatch, capsys, before, after
):
    Played(monkeypatch)
    played(request_of(brain, RATES))
    text = brain.read_text(encoding="utf-8")
    assert before in text
    brain.write_text(text.replace(before, after), encoding="utf-8")
    assert main(words(brain, RATES, "--apply", "tuned")) == 2
    assert "holds a sweep with another data, labels or other things" in " ".join(capsys.readouterr().err.split())
    assert brain.read_text(encoding="utf-8") == text.replace(before, after)


def test_the_best_is_applied_to_a_study_that_has_grown_and_with_no_preset_but_that_of_the_sweep(
    brain, monkeypatch, capsys
):
    Played(monkeypatch)
    played(request_of(brain, RATES))
    assert main(words(brain, RATES, "--preset", "less", "--apply", "tuned")) == 2
    assert "another preset ('tiny', not 'less')" in " ".join(capsys.readouterr().err.split())
    more = "unet: {note: the plain one}\n  other: {configuration: 2d, suffix: -other}"
    brain.write_text(brain.read_text(encoding="utf-8").replace("unet: {}", more), encoding="utf-8")
    for name in ("tuned", "again"):
        assert main(words(brain, RATES, "--apply", name)) == 0


@pytest.mark.parametrize("name", ["../../escaped", "a b", ".hidden", "a/b", "x" * 300])
def test_a_name_that_no_folder_of_a_sweep_can_have_is_refused(brain, capsys, name):
    for option, others in (("--name", ()), ("--warm-start", ("--sampler", "optuna"))):
        assert main(words(brain, RATES, *others, f"{option}={name}")) == 2
        assert f"{option} '{name[:10]}" in capsys.readouterr().err


def test_a_best_trial_that_is_applied_before_all_have_a_score_is_said_to_be_that_of_those_that_have(
    brain, monkeypatch, capsys
):
    Played(monkeypatch, most=3)
    with pytest.raises(KeyboardInterrupt):
        played(request_of(brain, RATES))
    Played(monkeypatch, most=0)
    with pytest.raises(KeyboardInterrupt):
        # The record is that of when it was begun again.
        played(request_of(brain, RATES))
    assert main(words(brain, RATES, "--apply", "tuned")) == 0
    assert "best of the 3 trials that have a score, of 4" in " ".join(capsys.readouterr().out.split())
    assert "the best of 3 trials" in brain.read_text(encoding="utf-8")


def test_with_the_model_comes_the_command_of_its_run_and_which_ensembles_change(brain, monkeypatch, capsys):
    ensembles = "ensembles:\n  any: {members: ['tumour*']}\n  two: {members: [model=unet, model=resenc]}\n"
    brain.write_text(f"{brain.read_text(encoding='utf-8')}{ensembles}", encoding="utf-8")
    Played(monkeypatch)
    played(request_of(brain, RATES, "--seed", "3"))
    assert main(words(brain, RATES, "--seed", "3", "--apply", "tuned")) == 0
    told = capsys.readouterr().out
    lines = [line for line in told.splitlines() if "this ensemble" in line]
    assert lines == [
        "tumour-any: this ensemble has other members now (tumour-tuned); if it is done, the next run makes it anew"
    ]
    command = shlex.split(told.splitlines()[-1].removeprefix("To train it: "))
    assert command[:2] == ["orchestrator", "run"]
    asked = vars(build_parser().parse_args(command[2:]))
    expected = {"study": brain, "preset": "tiny", "seed": 3, "only": ["model=tuned"]}
    expected["output"] = str(brain.parent.parent / "run")
    assert {name: asked[name] for name in expected} == expected
