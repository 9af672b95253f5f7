"""What a sweep may vary: refused before anything is written where no model may have it, and drawn once each."""

import json
import math
from pathlib import Path

import pytest
from played_sweeps import Played, played, request_of, study_with_presets, words

from orchestrator.api import open_results
from orchestrator.cli.sweep import main
from orchestrator.errors import ConfigError
from orchestrator.search.samplers import SAMPLERS, KnownTrial
from orchestrator.search.space import Space, load_space


@pytest.fixture
def brain(tmp_path) -> Path:
    return study_with_presets(tmp_path)


def space_of(folder: Path, text: str) -> Space:
    path = folder / "space.yaml"
    path.write_text(text, encoding="utf-8")
    return load_space(path)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            "initial_learning_rate: {uniform: [-0.4, 0.1]}",
            "initial_learning_rate is -0.4 (float); expected more than 0",
        ),
        ("oversample_foreground: {uniform: [0.1, 1.5]}", "oversample_foreground is 1.5 (float); expected at most 1"),
        ("batch_size: {uniform: [2, 4]}", "batch_size is 2.0 (float); expected integer"),
        ("batch_size: {choice: [2, 0]}", "batch_size is 0 (int); expected at least 1"),
        ("mirror_axes: {choice: [[0, 1], [5]]}", "expected at most 2"),
        ("mirror_axes: {choice: [[0, 1], [1, 1]]}", "mirror_axes is [1, 1] (list); expected each axis once"),
        ("optimizer: {choice: [nnunet, null]}", "optimizer is None (nothing); expected 'nnunet' or 'adamw'"),
        ("planner: {choice: [nnUNetPlannerResEncM, NopePlanner]}", "unknown planner 'NopePlanner'"),
        ("planner: {choice: [nnUNetPlannerResEncMM]}", "did you mean 'nnUNetPlannerResEncM'?"),
        ("trainer: {uniform: [0, 1]}", "trainer is 0.0 (float); expected string"),
        ("trainer: {choice: [null]}", "trainer is None (nothing); expected string"),
        (
            "configuration: {choice: [2d, 4d]}",
            "configuration is '4d' (str); expected '3d_fullres', '3d_lowres' or '2d'",
        ),
        ("", "found nothing; expected settings with their ranges"),
        ("{}", "found nothing; expected settings with their ranges"),
        ("- optimizer", "found a list; expected settings with their ranges"),
        ("fidelities: [{}, {folds: 2}]", "found fidelities alone"),
        ("optimizer: {choice: [nnunet]}\nfidelities: [3, {}]", "0 is 3 (int); expected dictionary"),
        ("initial_learning_rate: {uniform: [1, 2, 3]}", "uniform is [1, 2, 3] (list); expected at most 2 of them"),
        ("optimizer: {choice: []}", "choice is [] (list); expected at least 1 of them"),
        ("initial_learning_rate: [0.1, 0.2]", "initial_learning_rate is [0.1, 0.2]; expected one of choice, grid"),
        ("initial_learning_rate: {uniform: [0.1, .inf]}", "expected a finite number"),
        ("initial_learning_rate: {loguniform: [0.1, .inf]}", "expected a finite number"),
    ],
)
def test_what_no_model_may_have_is_refused_in_a_line_and_the_mended_space_goes(
    brain, monkeypatch, capsys, space, message
):
    assert main(words(brain, space)) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert message in told
    assert "lr.yaml" in told
    Played(monkeypatch)
    assert len(played(request_of(brain, "initial_learning_rate: {uniform: [0.01, 0.1]}")).results) == 4


def test_what_only_settings_together_may_not_be_is_refused_before_it_is_written_down(brain, monkeypatch, tmp_path):
    monkeypatch.setattr("orchestrator.sweeps.request.check_values", lambda *_, **__: None)
    with pytest.raises(ConfigError, match="expected at least 1"):
        played(request_of(brain, "batch_size: {choice: [0]}"))
    assert not (tmp_path / "run").exists()


def test_null_is_what_nnunet_does_itself(brain, monkeypatch):
    Played(monkeypatch)
    space = "mirror_axes: {choice: [null, [0]]}\ngpu_memory_gib: {grid: [8, null]}"
    outcome = played(request_of(brain, space, "--sampler", "grid"))
    assert [dict(one.trial.settings) for one in outcome.results] == [
        {"mirror_axes": axes, "gpu_memory_gib": memory} for axes in (None, (0,)) for memory in (8, None)
    ]
    assert len(played(request_of(brain, space, "--sampler", "grid")).results) == 4


def test_whole_numbers_may_be_written_with_an_exponent(tmp_path):
    for text in ("[1e4, 1e5]", "[1.0e+4, 1.0e+5]", "[10000, 100000]"):
        values = space_of(tmp_path, f"max_patch_voxels: {{lograndint: {text}}}").settings["max_patch_voxels"].values
        assert values == (10000, 100000)
        assert all(type(value) is int for value in values)


@pytest.mark.parametrize("kind", ["uniform", "loguniform"])
def test_a_narrow_range_does_not_collapse(tmp_path, kind):
    space = space_of(tmp_path, f"oversample_foreground: {{{kind}: [0.333333, 0.333344]}}")
    drawn = [dict(one)["oversample_foreground"] for one in SAMPLERS["random"](space, (), num_trials=20, seed=0)]
    # Four digits of a width of 0.000011: in steps of 0.00000001.
    assert all(0.333333 <= value <= 0.333344 and round(value, 8) == value for value in drawn)
    assert max(drawn) - min(drawn) > 0.000005


def test_numbers_of_a_wide_range_have_four_digits(tmp_path):
    space = space_of(tmp_path, "initial_learning_rate: {loguniform: [0.0001, 0.1]}")
    for one in SAMPLERS["random"](space, (), num_trials=20, seed=0):
        value = dict(one)["initial_learning_rate"]
        assert float(f"{value:.4g}") == value


TWO = "optimizer: {choice: [nnunet, adamw]}"
SIX = "optimizer: {choice: [nnunet, adamw, nnunet]}\nbatch_size: {randint: [1, 3]}"


@pytest.mark.parametrize("sampler", ["random", "optuna", "grid"])
@pytest.mark.parametrize(("text", "number"), [(TWO, 2), (SIX, 6)])
def test_no_settings_are_tried_twice_and_it_ends_when_all_are_tried(tmp_path, sampler, text, number):
    if sampler == "grid":
        text = text.replace("randint: [1, 3]", "choice: [1, 2, 3, 1]")
    space, choose = space_of(tmp_path, text), SAMPLERS[sampler]
    known: list[KnownTrial] = []
    while chosen := choose(space, known, num_trials=4, seed=0):
        assert chosen == choose(space, known, num_trials=4, seed=0)
        known += [KnownTrial(settings=one, score=0.5) for one in chosen]
    assert len(known) == len({one.settings for one in known}) == number


def test_a_sweep_that_has_tried_everything_says_so(brain, monkeypatch, capsys):
    runs = Played(monkeypatch)
    monkeypatch.setattr("orchestrator.ray_backend.on_demand.connect_to_ray", None)
    for _ in range(2):
        assert main(words(brain, TWO, "--trials", "6")) == 0
        assert "2 of 6 trials: there are no other settings in" in " ".join(capsys.readouterr().out.split())
    assert len(runs.trained) == 2


def test_any_seed_of_a_run_is_one_of_a_sampler(tmp_path):
    space = space_of(tmp_path, "initial_learning_rate: {loguniform: [0.0001, 0.1]}")
    for sampler in ("random", "optuna"):
        assert len(SAMPLERS[sampler](space, (), num_trials=2, seed=2**32)) == 2


def test_optuna_is_asked_without_a_warning(tmp_path, monkeypatch):
    told: list[object] = []
    monkeypatch.setattr("ray.tune.search.optuna.optuna_search.logger.warning", lambda *texts: told.append(texts))
    space = space_of(tmp_path, "initial_learning_rate: {loguniform: [0.0001, 0.1]}\n" + SIX)
    known = [KnownTrial(settings=one, score=0.5) for one in SAMPLERS["optuna"](space, (), num_trials=2, seed=0)]
    assert SAMPLERS["optuna"](space, known, num_trials=2, seed=0)
    assert told == []


def test_the_number_of_settings_is_known(tmp_path):
    assert space_of(tmp_path, SIX).num_points == 6
    assert space_of(tmp_path, "initial_learning_rate: {uniform: [0.1, 0.2]}\n" + TWO).num_points == math.inf


def test_trials_are_written_down_as_they_are_read(brain, monkeypatch):
    Played(monkeypatch)
    request = request_of(brain, "mirror_axes: {grid: [null, [0, 2]]}", "--sampler", "grid")
    played(request)
    record = json.loads(Path(f"{request.output}/trials/00000.json").read_text(encoding="utf-8"))
    assert record == {"first": 0, "trials": [{"mirror_axes": None}, {"mirror_axes": [0, 2]}]}


def test_rows_are_found_by_the_numbers_of_their_trials(brain, monkeypatch):
    Played(monkeypatch)
    request = request_of(brain, "momentum: {grid: [null, 0.5, 0.09]}", "--sampler", "grid")
    played(request)
    found = open_results(request.output).query("SELECT trial FROM scores WHERE TRY_CAST(momentum AS DOUBLE) < 0.1")
    assert found.to_pylist() == [{"trial": 2}]


def test_the_run_of_sweeps_answers_for_the_trials_of_all_of_them(brain, monkeypatch):
    Played(monkeypatch)
    first = request_of(brain, "momentum: {grid: [null, 0.5]}", "--sampler", "grid")
    second = request_of(brain, "optimizer: {grid: [adamw]}", "--sampler", "grid", "--name", "other")
    played(first)
    played(second)
    run = open_results(first.run.output)
    found = run.query("SELECT sweep, trial, momentum, optimizer FROM Trials ORDER BY ALL").to_pylist()
    assert found == [
        {"sweep": "lr", "trial": 0, "momentum": "None", "optimizer": None},
        {"sweep": "lr", "trial": 1, "momentum": "0.5", "optimizer": None},
        {"sweep": "other", "trial": 0, "momentum": None, "optimizer": "adamw"},
    ]
    assert open_results(brain.parent / "none").query("SELECT * FROM trials").num_rows == 0
    with pytest.raises(ConfigError, match="no results, and no run has been started there"):
        run.query("SELECT * FROM scores")
