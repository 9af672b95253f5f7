"""Claims about one training, with nnU-Net's true trainer on ellipsoids."""

import itertools
import os
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from tiny_training import (
    CASES,
    Killed,
    Run,
    assert_same_weights,
    tiny_plan,
    tiny_preset,
    write_all_patches,
    write_ball,
)

from orchestrator.errors import IntegrityError, PreemptedError, TrainingError
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage
from orchestrator.training import trainer as trainer_module
from orchestrator.training.checkpoint import CheckpointStore
from orchestrator.training.nnunet.trainers import exact_trainer

PRESET = tiny_preset()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("balls")
    return [write_ball(folder, index) for index in range(4)]


@pytest.fixture(scope="module", params=["3d_fullres"])
def setting(request, files, tmp_path_factory):
    plan = tiny_plan(files, preset=PRESET, configuration=request.param)
    return plan, write_all_patches(tmp_path_factory.mktemp("preprocessed") / "patches", files, plan)


@pytest.fixture(scope="module")
def whole(setting, tmp_path_factory):
    """A training of three epochs without an interruption."""
    return Run(tmp_path_factory.mktemp("whole"), setting).go()


def test_every_epoch_is_reported_and_the_loss_falls(whole):
    assert [(report.epoch, report.num_epochs) for report in whole.reports] == [(0, 3), (1, 3), (2, 3)]
    assert whole.reports[-1].train_loss < whole.reports[0].train_loss
    # The first one of an attempt takes longer than those to come where the network is compiled.
    assert [report.is_typical for report in whole.reports] == [False, True, True]
    for report in whole.reports:
        assert 0 <= report.pseudo_dice <= 1
        assert 0 < report.loader_wait_s < report.elapsed_s
    outcome = whole.outcome
    assert (outcome.num_epochs, outcome.train_loss) == (3, whole.reports[-1].train_loss)
    assert outcome.elapsed_s == pytest.approx(sum(report.elapsed_s for report in whole.reports))
    assert outcome.checkpoint_sha256 == whole.store.load_final().sha256


def test_the_final_checkpoint_holds_what_prediction_needs(whole):
    state = whole.store.load_final().state
    # nnU-Net's trainer takes `continue_training` out of the plans it is given.
    assert state["plans"] == {key: value for key, value in whole.plan.plans.items() if key != "continue_training"}
    assert state["dataset_json"] == whole.plan.dataset_json
    assert state["configuration"] == "3d_fullres"
    assert state["trainer_name"] == "nnUNetTrainer"
    assert state["inference_allowed_mirroring_axes"] == ()
    assert whole.storage.list_keys() == [run_paths.final_checkpoint("T1-infection-fold0")]


def test_the_log_is_nnunets_and_nothing_is_printed(setting, tmp_path, capfd):
    run = Run(tmp_path, setting, preset=replace(PRESET, num_epochs=1)).go()
    assert "Current learning rate: 0.005" in run.text
    assert "epoch 1/1: train loss" in run.text
    assert "No validation cases" not in run.text
    assert capfd.readouterr().out == ""


def test_the_same_seed_gives_the_same_model_and_another_seed_another(whole, setting, tmp_path):
    again = Run(tmp_path / "again", setting).go()
    assert_same_weights(again.weights, whole.weights)
    other = Run(tmp_path / "other", setting, seed=6, preset=replace(PRESET, num_epochs=1)).go()
    assert other.reports[0].train_loss != whole.reports[0].train_loss


@pytest.mark.parametrize("kill_after", [1, 2])
def test_a_killed_training_goes_on_and_ends_with_the_very_same_weights(whole, setting, tmp_path, kill_after):
    killed = Run(tmp_path, setting, kill_after=kill_after)
    with pytest.raises(Killed):
        killed.go()
    resumed = Run(tmp_path, setting).go()
    assert f"resumed at epoch {kill_after} of 3" in resumed.text
    assert [report.epoch for report in resumed.reports] == list(range(kill_after, 3))
    assert_same_weights(resumed.weights, whole.weights)
    # What the killed attempt took is part of what the model cost.
    total_s = sum(report.elapsed_s for report in killed.reports + resumed.reports)
    assert resumed.outcome.elapsed_s == pytest.approx(total_s)


class Polls:
    """Lets a training do some iterations, and then kills it or gives a reason to stop."""

    def __init__(self, num_iterations, *, reason=""):
        self.num_iterations, self.reason = num_iterations, reason
        self.num_asked = 0

    def __call__(self):
        self.num_asked += 1
        if self.num_asked <= self.num_iterations:
            return ""
        if not self.reason:
            raise Killed
        return self.reason


def test_a_training_that_is_killed_three_times_amid_its_epochs_ends_with_the_very_same_weights(
    whole, setting, tmp_path
):
    # By this clock every iteration takes a second: every other one is followed by a checkpoint.
    preset = replace(PRESET, checkpoint_every_s=2.0)
    places = []
    for num_iterations in (3, 3, 3, 99):
        polls = Polls(num_iterations)
        run = Run(
            tmp_path,
            setting,
            preset=preset,
            stop_reason=polls,
            clock=lambda polls=polls: float(polls.num_asked),
            on_milestone=places.append,
        )
        with nullcontext() if num_iterations == 99 else pytest.raises(Killed):
            run.go()
    starts = [(place.epoch, place.iteration) for place in places if place.kind == "attempt_started"]
    assert starts == [(0, 0), (0, 2), (1, 1), (1, 3)]
    assert_same_weights(run.weights, whole.weights)
    assert run.reports[-1].train_loss == whole.reports[-1].train_loss
    assert run.outcome.pseudo_dice == whole.outcome.pseudo_dice


@pytest.mark.parametrize("num_iterations", [0, 2, 3, 4])
def test_a_training_that_is_asked_to_stop_saves_its_place_and_goes_on_from_there(
    whole, setting, tmp_path, num_iterations
):
    preset = replace(PRESET, checkpoint_every_s=1e9)
    asked = Run(tmp_path, setting, preset=preset, stop_reason=Polls(num_iterations, reason="the node is drained"))
    with pytest.raises(PreemptedError, match=r"T1-infection-fold0: stopped at epoch .*since the node is drained"):
        asked.go()
    epoch, iteration = divmod(num_iterations, 3)
    resumed = Run(tmp_path, setting, preset=preset).go()
    assert f"resumed at epoch {epoch} of 3, after {iteration} of its 3 iterations" in resumed.text
    assert_same_weights(resumed.weights, whole.weights)


def test_checkpoints_are_saved_when_the_interval_is_over_and_not_before(setting, tmp_path):
    for every_s, expected in ((0.0, [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3)]), (1e9, [])):
        places = []
        preset = replace(PRESET, num_epochs=2, num_iterations_per_epoch=3, checkpoint_every_s=every_s)
        Run(tmp_path / str(every_s), setting, preset=preset, on_milestone=places.append).go()
        saved = [(place.epoch, place.iteration) for place in places if place.kind == "checkpoint_saved"]
        assert [place for place in saved if place[1]] == expected


def test_the_state_says_how_many_batches_were_taken(setting, tmp_path):
    with pytest.raises(PreemptedError):
        Run(tmp_path, setting, stop_reason=Polls(4, reason="a test asks")).go()
    state = CheckpointStore(open_storage(str(tmp_path)), training_id="T1-infection-fold0").load_latest()
    assert state["num_batches_taken"] == {"train": 4, "val": 1}
    assert len(state["losses_of_epoch"]) == 1
    # What nnU-Net has logged of the epoch under way is left out.
    assert {len(values) for values in state["logging"].values()} == {1}


def test_a_clock_that_jumps_back_changes_neither_durations_nor_weights(whole, setting, tmp_path, monkeypatch):
    wall = itertools.count(2e9, -3600.0)
    monkeypatch.setattr("time.time", lambda: next(wall))
    run = Run(tmp_path, setting).go()
    assert all(report.elapsed_s > 0 for report in run.reports)
    assert_same_weights(run.weights, whole.weights)


def test_a_torn_checkpoint_costs_an_interval_and_changes_nothing(whole, setting, tmp_path):
    with pytest.raises(Killed):
        Run(tmp_path, setting, kill_after=2).go()
    # One after each of three iterations and one after each epoch: the eighth is that of the second epoch's end.
    key, _ = run_paths.checkpoint_slots("T1-infection-fold0")
    storage = open_storage(str(tmp_path))
    storage.write_bytes(key, storage.read_bytes(key)[:1000])
    resumed = Run(tmp_path, setting).go()
    assert "resumed at epoch 1 of 3, after 3 of its 3 iterations" in resumed.text
    assert_same_weights(resumed.weights, whole.weights)


def test_a_finished_training_is_reported_and_not_repeated(whole, setting, tmp_path):
    again = Run(whole.storage.location, setting).go()
    assert again.reports == []
    assert again.outcome == whole.outcome


def test_a_training_tells_with_what_each_attempt_ran_that_led_to_its_end(whole, setting, tmp_path, monkeypatch):
    (environment,) = whole.outcome.environments
    assert environment["device"] == "cpu"
    # torch itself names its build as well.
    assert torch.__version__.startswith(environment["torch"])
    for name, kill_after in (("old", 1), ("old", 1), ("lost", 0), ("new", None)):
        monkeypatch.setattr(exact_trainer, "environment_of", lambda _, name=name, **_others: {"torch": name})
        # An attempt that is stopped before it has saved anything has not led anywhere.
        stop = {"on_milestone": _killed} if kill_after == 0 else {}
        run = Run(tmp_path, setting, kill_after=kill_after, **stop)
        with pytest.raises(Killed) if kill_after is not None else nullcontext():
            run.go()
    assert run.outcome.environments == ({"torch": "old"}, {"torch": "new"})
    assert Run(tmp_path, setting).go().outcome == run.outcome


def test_a_checkpoint_that_does_not_say_with_what_it_was_made_counts_as_an_unknown_attempt(
    setting, tmp_path, monkeypatch
):
    with pytest.raises(Killed):
        Run(tmp_path, setting, kill_after=1).go()
    load = CheckpointStore.load_latest

    def without(self):
        return {key: value for key, value in load(self).items() if key != "environments"}

    monkeypatch.setattr(CheckpointStore, "load_latest", without)
    before, own = Run(tmp_path, setting).go().outcome.environments
    assert before == {}
    assert own["device"] == "cpu"


def _killed(_):
    raise Killed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 6}, "has seed 5; expected 6"),
        ({"train_cases": CASES[:2]}, "has train_cases .*case_2.*expected .*case_1'"),
        ({"preset": replace(PRESET, num_epochs=9)}, "has num_epochs 3; expected 9"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(setting, tmp_path, changes, message):
    with pytest.raises(Killed):
        Run(tmp_path, setting, kill_after=1).go()
    with pytest.raises(TrainingError, match=message):
        Run(tmp_path, setting, **changes).go()


def test_without_validation_cases_the_log_says_what_the_dice_is_of(setting, tmp_path):
    run = Run(tmp_path, setting, val_cases=(), preset=replace(PRESET, num_epochs=1)).go()
    assert "No validation cases: the patch Dice below is of training cases" in run.text
    assert len(run.reports) == 1


def test_without_training_cases_nothing_is_trained(setting, tmp_path):
    with pytest.raises(TrainingError, match="T1-infection-fold0: no training cases"):
        Run(tmp_path, setting, train_cases=()).go()


def test_a_missing_patch_file_is_named(setting, tmp_path):
    with pytest.raises(IntegrityError, match=r"balls--case_9\.arrow"):
        Run(tmp_path, setting, train_cases=("balls--case_9",)).go()


def test_nnunets_own_pipeline_can_augment_and_its_processes_are_gone_afterwards(setting, tmp_path):
    import multiprocessing

    preset = replace(PRESET, num_epochs=1, augmentation="nnunet")
    run = Run(tmp_path, setting, num_loader_workers=1, preset=preset).go()
    assert len(run.reports) == 1
    assert multiprocessing.active_children() == []


def test_threads_that_make_batches_change_no_weight_and_are_gone_afterwards(whole, setting, tmp_path):
    import threading

    before = set(threading.enumerate())
    run = Run(tmp_path, setting, num_loader_workers=2).go()
    assert_same_weights(run.weights, whole.weights)
    assert not {thread for thread in set(threading.enumerate()) - before if thread.name.startswith("patches")}


def test_the_environment_is_left_as_it_was(setting, tmp_path):
    before = dict(os.environ)
    Run(tmp_path, setting, preset=replace(PRESET, num_epochs=1)).go()
    assert dict(os.environ) == before


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_gpu_looks_for_its_fastest_convolutions_as_with_nnunets_command(device, setting, tmp_path, monkeypatch):
    def begin(*_):
        raise Killed

    monkeypatch.setattr(trainer_module, "preset_trainer", lambda _: begin)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    with pytest.raises(Killed):
        Run(tmp_path, setting, device=device).go()
    assert torch.backends.cudnn.benchmark == (device == "cuda")


@pytest.mark.parametrize("augmentation", ["kernels", "nnunet"])
def test_a_2d_network_is_trained_with_either_augmentation(files, tmp_path, augmentation):
    plan = tiny_plan(files, preset=PRESET, configuration="2d")
    patches = write_all_patches(tmp_path / "patches", files, plan)
    preset = replace(PRESET, num_epochs=1, augmentation=augmentation)
    run = Run(tmp_path / "run", (plan, patches), preset=preset).go()
    assert len(run.reports) == 1
    assert run.reports[0].train_loss < 2
