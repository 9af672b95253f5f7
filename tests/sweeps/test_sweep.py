"""Sweeps: what is varied and drawn, which trials end early, what a trial may see, and what becomes of the best one."""

import ctypes
import json
import math
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.benchmark.loading import load_study
from orchestrator.benchmark.presets import PRESETS
from orchestrator.cli.results.report import main as report
from orchestrator.cli.sweep import _request, build_parser, main
from orchestrator.errors import ConfigError
from orchestrator.results.trials import Fidelity
from orchestrator.search.early_stopping import EarlyStopping
from orchestrator.search.samplers import SAMPLERS, KnownTrial, Trial
from orchestrator.search.space import Space, load_space
from orchestrator.shipped import shipped_file
from orchestrator.storage.filesystem import open_storage
from orchestrator.sweeps.inner_study import inner_study

SPACE = """
initial_learning_rate: {loguniform: [0.0001, 0.1]}
max_patch_voxels: {randint: [20000, 40000]}
mirror_axes: {choice: [[], [0, 1]]}
"""
BRAIN = shipped_file("splits", "brain_mri", "study.yaml")


@pytest.fixture
def space(tmp_path) -> Space:
    path = tmp_path / "space.yaml"
    path.write_text(SPACE, encoding="utf-8")
    return load_space(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("initial_learning_rat: {uniform: [1, 2]}", "did you mean 'initial_learning_rate'"),
        ("tile_step_size: {uniform: [0.1, 0.5]}", "unknown setting 'tile_step_size'"),
        ("initial_learning_rate: {uniform: [2, 1]}", "two rising numbers"),
        ("initial_learning_rate: {loguniform: [0, 1]}", "above 0"),
        ("initial_learning_rate: {}", "one of choice"),
        ("initial_learning_rate: {choice: [0.1], uniform: [0, 1]}", "one of choice"),
        ("initial_learning_rate: {gaussian: [0, 1]}", "unknown key 'gaussian'"),
        ("optimizer: {choice: []}", "at least 1"),
        ("batch_size: {randint: [1.5, 2]}", "integer"),
        ("- optimizer", "expected settings with their ranges"),
    ],
)
def test_a_space_that_means_nothing_is_refused_by_name(tmp_path, text, message):
    path = tmp_path / "space.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_space(path)


def test_random_trials_depend_on_the_seed_alone_however_many_are_asked_for_at_once(space):
    random = SAMPLERS["random"]
    whole = random(space, (), num_trials=6, seed=1)
    known = [KnownTrial(settings=one, score=0.5) for one in whole[:4]]
    assert random(space, known, num_trials=2, seed=1) == whole[4:]
    assert random(space, (), num_trials=6, seed=2) != whole
    for settings in map(dict, whole):
        assert 0.0001 <= settings["initial_learning_rate"] <= 0.1
        assert 20000 <= settings["max_patch_voxels"] <= 40000
        assert settings["mirror_axes"] in {(), (0, 1)}


def test_both_ends_of_a_range_of_whole_numbers_are_drawn(tmp_path):
    (tmp_path / "s.yaml").write_text("batch_size: {randint: [1, 3]}", encoding="utf-8")
    drawn = SAMPLERS["random"](load_space(tmp_path / "s.yaml"), (), num_trials=60, seed=0)
    assert {dict(one)["batch_size"] for one in drawn} == {1, 2, 3}


def test_numbers_are_understood_as_people_write_them(tmp_path):
    (tmp_path / "s.yaml").write_text("initial_learning_rate: {loguniform: [1e-4, 1E-1]}\nbatch_size: {choice: [2, 4]}")
    assert load_space(tmp_path / "s.yaml").settings["initial_learning_rate"].values == (0.0001, 0.1)
    (tmp_path / "s.yaml").write_text("initial_learning_rate: {choice: [1e-06, 0.01]}")
    assert load_space(tmp_path / "s.yaml").settings["initial_learning_rate"].values == (0.000001, 0.01)


def test_a_grid_takes_every_combination_once_and_then_no_more(tmp_path):
    (tmp_path / "s.yaml").write_text("optimizer: {grid: [nnunet, adamw]}\nbatch_size: {choice: [1, 2, 3]}")
    space, grid = load_space(tmp_path / "s.yaml"), SAMPLERS["grid"]
    first = grid(space, (), num_trials=4, seed=0)
    assert [tuple(dict(one).values()) for one in first] == [("nnunet", 1), ("nnunet", 2), ("nnunet", 3), ("adamw", 1)]
    assert len(grid(space, [KnownTrial(settings=one, score=None) for one in first], num_trials=4, seed=0)) == 2
    with pytest.raises(ConfigError, match="grid takes its values in turn"):
        load_space(_grid(tmp_path)).domains()


def _grid(folder: Path) -> Path:
    path = folder / "grid.yaml"
    path.write_text("batch_size: {grid: [1, 2]}", encoding="utf-8")
    return path


def test_a_sampler_that_learns_goes_on_with_the_same_trials_and_draws_where_scores_were_good(tmp_path):
    (tmp_path / "s.yaml").write_text("initial_learning_rate: {loguniform: [0.00001, 1.0]}", encoding="utf-8")
    space, optuna = load_space(tmp_path / "s.yaml"), SAMPLERS["optuna"]

    def score(settings) -> float:
        """The best rate is 0.01."""
        return -abs(_log10(dict(settings)["initial_learning_rate"]) + 2)

    known: list[KnownTrial] = []
    for _ in range(8):
        chosen = optuna(space, known, num_trials=4, seed=3)
        assert chosen == optuna(space, known, num_trials=4, seed=3)
        known += [KnownTrial(settings=one, score=score(one)) for one in chosen]
    first, last = known[:8], known[-8:]
    assert sum(-one.score for one in last) < 0.6 * sum(-one.score for one in first)
    assert len({one.settings for one in known}) == len(known)


def _log10(value: float) -> float:
    return math.log10(value)


def test_a_trial_that_others_beat_ends_and_says_the_same_when_it_comes_again(tmp_path):
    storage = open_storage(str(tmp_path))
    rule = EarlyStopping(first_epochs=1, reduction=2, num_epochs=6)
    assert rule.milestones == (1, 2, 4)
    # The first has nobody to be compared with; then the limit is the median of those who came before.
    arrivals = [("a", 0.5, False), ("b", 0.4, True), ("c", 0.6, False), ("d", 0.45, True), ("e", 0.5, False)]
    for trial, value, ends in arrivals:
        assert rule.ends(storage, trial, epoch=1, value=value) is ends
    # After an interruption, whatever it measures now.
    for trial, _, ends in arrivals:
        assert rule.ends(storage, trial, epoch=1, value=1.0) is ends
    assert rule.ends(storage, "b", epoch=3, value=0.0) is False
    assert rule.ends(storage, "c", epoch=2, value=0.1) is False
    assert len(list((tmp_path / "milestones" / "000001").iterdir())) == 5


def _inner(study, training, *, trials, preset, folds=1):
    fidelities = (Fidelity(preset=preset.name, folds=folds),)
    return inner_study(study, training, trials=trials, fidelities=fidelities, preset=preset, sha256="0")


def test_no_case_but_the_training_cases_of_the_training_is_in_the_study_of_its_sweep():
    study = load_study()
    preset = PRESETS["paper"]
    for training in study.trainings(preset=preset):
        trials = [Trial(number=number, settings=(("initial_learning_rate", 0.1 * (number + 1)),)) for number in (0, 1)]
        inner = _inner(study, training, trials=trials, preset=preset)
        seen = {name: set(cases.everything) for name, cases in inner.cases.items()}
        assert {(name, case) for name, cases in seen.items() for case in cases} == {
            (case.dataset, case.name) for case in training.train
        }
        made = inner.trainings(preset=preset)
        assert [one.id for one in made] == ["trial000-fold0", "trial001-fold0"]
        for one in made:
            assert set(one.cases) == set(training.train)
            assert one.val
            assert not set(one.train) & set(one.val)
            assert one.plans_from is None
            assert preset.changed_by(one.model.changes).initial_learning_rate == pytest.approx(
                0.1 * (one.facets["trial"] + 1)
            )


@pytest.mark.parametrize("ids", ["{organ}_{model}_f{fold}", "mine_f{fold}", "{group}_{fold}"])
def test_trials_have_ids_of_their_own_however_a_study_names_its_trainings(tmp_path, ids):
    path = shutil.copytree(BRAIN.parent, tmp_path / "brain") / "study.yaml"
    text = path.read_text(encoding="utf-8").replace("  resenc:", "  # resenc:")
    text = text.replace("    train: [brain", "    facets: {organ: brain}\n    train: [brain")
    path.write_text(f"{text}ids: '{ids}'\n", encoding="utf-8")
    study, preset = load_study(path), PRESETS["paper"]
    training = study.trainings(preset=preset)[0]
    trials = [Trial(number=number, settings=(("initial_learning_rate", 0.1 * (number + 1)),)) for number in (0, 1)]
    made = _inner(study, training, trials=trials, preset=preset, folds=2).trainings(preset=preset)
    assert [one.id for one in made] == [f"trial00{number}-fold{fold}" for number in (0, 1) for fold in (0, 1)]
    assert training.id != "tumour-fold0"


def test_scans_of_a_patient_are_on_one_side_of_every_trial():
    study = load_study(BRAIN)
    (training, *_) = study.trainings(preset=PRESETS["paper"])
    inner = _inner(study, training, trials=[Trial(number=0, settings=())], preset=PRESETS["paper"], folds=2)
    made = inner.trainings(preset=PRESETS["paper"])
    assert len(made) == 2
    for one in made:
        patients = [{case.name[:3] for case in cases} for cases in (one.train, one.val)]
        assert not patients[0] & patients[1]
    with pytest.raises(ConfigError, match="9 folds"):
        _inner(study, training, trials=[Trial(number=0, settings=())], preset=PRESETS["paper"], folds=9)


TINY = """
presets:
  tiny: {like: smoke, num_epochs: 4, num_iterations_per_epoch: 4, num_val_iterations_per_epoch: 1, cases: {train: 4}}
"""


@pytest.fixture
def brain(tmp_path) -> Path:
    shutil.copytree(BRAIN.parent, tmp_path / "brain_mri")
    path = tmp_path / "brain_mri" / "study.yaml"
    path.write_text(path.read_text(encoding="utf-8") + TINY, encoding="utf-8")
    (tmp_path / "lr.yaml").write_text("initial_learning_rate: {loguniform: [0.0000001, 0.01]}\n", encoding="utf-8")
    return path


def _words(study: Path, *others: str) -> list[str]:
    space = study.parent.parent / "lr.yaml"
    words = ["--study", str(study), "--only", "tumour-fold0", "--space", str(space), "--preset", "tiny"]
    return [*words, "--trials", "3", "--output", str(study.parent.parent / "run"), *others]


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_sweep_that_is_killed_goes_on_reads_no_case_that_is_left_out_and_becomes_a_model(brain, tmp_path, capsys):
    from orchestrator.cli.phantoms import main as write_phantoms

    data = tmp_path / "data"
    assert write_phantoms(["--study", str(brain), "--output", str(data), "--preset", "tiny"]) == 0
    preset = load_study(brain).preset("tiny")
    training = load_study(brain).trainings(only=["tumour-fold0"], preset=preset)[0]
    words = _words(brain, "--data", str(data), "--first-epochs", "1", "--reduction", "2")
    command = [sys.executable, "-m", "orchestrator", "sweep", *words]
    folder = tmp_path / "run" / "sweeps" / "lr"
    with _opened_files(data) as opened:
        started = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        _wait_for(folder / "milestones", process=started)
        os.killpg(started.pid, signal.SIGKILL)
        started.wait()
        before = min((folder / "trials").iterdir()).read_bytes()
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=800)
    assert done.returncode == 0, done.stdout + done.stderr
    assert min((folder / "trials").iterdir()).read_bytes() == before
    of_cases = opened - {"dataset.json"}
    allowed = [case.name for case in training.train]
    assert of_cases
    assert {name for name in of_cases if not name.startswith(tuple(allowed))} == set()
    record = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    assert record["num_trials"] == 3
    assert "3 trials" in done.stdout
    table = (folder / "tables" / "trials.md").read_text(encoding="utf-8")
    assert table.count("| trial00") == 3
    assert table.count("| best |") == 1
    page = (folder / "report" / "index.html").read_text(encoding="utf-8")
    assert "3 trials on the training cases of tumour-fold0" in page
    (folder / "report" / "index.html").unlink()
    assert report(["--output", str(folder)]) == 0
    assert (folder / "report" / "index.html").read_text(encoding="utf-8") == page
    # Once more there is nothing to do, and then the best one is applied.
    assert main(words) == 0
    assert main([*words, "--apply", "tuned"]) == 0
    assert "model tuned, initial_learning_rate" in capsys.readouterr().out
    study = load_study(brain)
    assert study.models[-1].note.startswith("the best of 3 trials on the training cases of tumour-fold0")
    # The study has grown, and the sweep is still that of its training.
    assert report(["--output", str(folder), "--study", str(brain)]) == 0
    assert main(words) == 0


@pytest.mark.parametrize(
    ("words", "hours"),
    [
        ((), None),
        (("--max-hours", "3"), 3.0),
        (("--max-cost", "5", "--usd-per-hour", "2"), 2.5),
        (("--max-cost", "5", "--usd-per-hour", "2", "--max-hours", "1"), 1.0),
        (("--max-cost", "5", "--machine", "one"), 1.25),
    ],
)
def test_what_may_be_spent_is_so_many_hours_of_training(brain, words, hours):
    prices = brain.parent / "prices.yaml"
    prices.write_text("date: 2026-01-01\nusd_per_hour: {one: {on_demand: 4.0, spot: 1.0}}\n")
    options = build_parser().parse_args([*_words(brain), "--prices", str(prices), *words])
    assert _request(options).max_hours == hours


def test_a_sweep_says_what_is_wrong_before_anything_starts(brain, capsys):
    for others, message in [
        (("--trials", "0"), "--trials 0"),
        (("--only", "tumour-*"), "expected the name of one"),
        (("--reduction", "1"), "--reduction 1"),
        (("--max-hours", "0"), "--max-hours 0"),
        (("--max-cost", "nan", "--usd-per-hour", "1"), "--max-cost nan"),
        (("--max-cost", "5"), "expected either --usd-per-hour"),
        (("--max-cost", "5", "--usd-per-hour", "1", "--machine", "g6e.2xlarge"), "expected either --usd-per-hour"),
        (("--max-cost", "5", "--machine", "g99"), "no price of g99"),
        (("--usd-per-hour", "1"), "--usd-per-hour: only with --max-cost"),
        (("--apply", "tuned"), "no sweep has come to an end"),
        (("--warm-start", "other", "--sampler", "optuna"), "--warm-start other"),
        (("--warm-start", "other"), "sampler random learns of no trial"),
        (("--folds", "4"), "4 folds"),
    ]:
        assert main(_words(brain, *others)) == 2, others
        assert message in capsys.readouterr().err
    assert not (brain.parent.parent / "run" / "sweeps" / "lr" / "cases").exists()


def test_a_sweep_is_simulated_without_starting_anything(brain, capsys):
    assert main(_words(brain, "--simulate")) == 0
    assert "3 trainings with preset tiny, simulated" in capsys.readouterr().out
    assert not (brain.parent.parent / "run").exists()


def _wait_for(folder: Path, *, process: subprocess.Popen) -> None:
    while not folder.exists():
        assert process.poll() is None, "the sweep ended"
        time.sleep(0.1)


@contextmanager
def _opened_files(root: Path) -> Iterator[set[str]]:
    """Watch by inotify which files below a folder any process opens; their names are there at the end."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_NONBLOCK)
    opens = 0x20
    opened: set[str] = set()
    for folder in (root, *(path for path in root.rglob("*") if path.is_dir())):
        assert libc.inotify_add_watch(descriptor, str(folder).encode(), opens) >= 0
    try:
        yield opened
        content = b""
        while True:
            try:
                content += os.read(descriptor, 1 << 16)
            except BlockingIOError:
                break
    finally:
        os.close(descriptor)
    place = 0
    while place < len(content):
        _, mask, _, length = struct.unpack_from("iIII", content, place)
        name = content[place + 16 : place + 16 + length].rstrip(b"\0").decode()
        is_folder, has_overflowed = mask & 0x40000000, mask & 0x4000
        assert not has_overflowed
        if name and not is_folder:
            opened.add(name)
        place += 16 + length
