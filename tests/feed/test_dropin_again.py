"""Claims about folders in which a training was before, and about classes made of the trainer of nnUNetv2_train."""

from pathlib import Path

import pytest
from dropin_trainings import FINAL, Asked, Ticking, log_of, trained, weights_of
from nnunetv2.run.run_training import maybe_load_checkpoint
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from tiny_training import assert_same_weights

from bench.stock_trainer.folders import KINDS, made_trainer, write_stock_folder
from orchestrator.training.dropin.checkpoint_file import PLACE, read_checkpoint
from orchestrator.training.dropin.trainer import BEST, BEST_NSD, CURVE, LATEST, nnUNetTrainerOrchestrator

FINAL_BEFORE, BEST_BEFORE = "checkpoint_final_before.pth", "checkpoint_best_before.pth"


@pytest.fixture(autouse=True)
def _no_plots(monkeypatch):
    monkeypatch.setattr(LocalLogger, "plot_progress_png", lambda *_: None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_stock_folder(tmp_path_factory.mktemp("stock"), KINDS["CT"])


class Killed(Asked):
    """Killed after some iterations, without a chance to save its place."""

    def _stop_reason(self):
        if super()._stop_reason():
            raise KeyboardInterrupt
        return ""


class LookingAsked(Asked, Ticking):
    pass


def checkpoints_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("checkpoint_*.pth")}


def go_on(folder, **changes):
    """Do what `--c` does."""
    trainer = made_trainer(Asked, folder, continues=True, **changes)
    maybe_load_checkpoint(trainer, continue_training=True, validation_only=False)
    trainer.run_training()
    return trainer


def test_a_training_that_begins_where_another_one_has_ended_is_the_one_that_goes_on(folder, tmp_path, monkeypatch):
    old = weights_of(trained(folder, tmp_path / "b", monkeypatch, kind=Asked))
    monkeypatch.setenv("ORCHESTRATOR_SEED", "77")
    whole = trained(folder, tmp_path / "a", monkeypatch)
    with pytest.raises(SystemExit, match="stopped at epoch 0, after 2 of its 3 iterations"):
        trained(folder, tmp_path / "b", monkeypatch, kind=Asked, after=2)
    assert set(checkpoints_of(tmp_path / "b")) == {LATEST, FINAL_BEFORE, BEST_BEFORE}
    resumed = go_on(folder)
    assert "goes on at epoch 0, after 2 of its 3 iterations" in log_of(resumed)
    assert_same_weights(weights_of(resumed), weights_of(whole))
    assert_same_weights(weights_of(resumed, FINAL_BEFORE), old)
    assert set(checkpoints_of(tmp_path / "b")) == {BEST, FINAL, FINAL_BEFORE, BEST_BEFORE}
    said = "Of a training that was here before, no longer gone on from: checkpoint_final_before.pth, checkpoint_best_b"
    logs = [path.read_text() for path in Path(resumed.output_folder).glob("training_log*.txt")]
    assert sum(said in text for text in logs) == 1


def test_a_stop_after_the_last_iteration_ends_the_command_before_the_validation(folder, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match=r"trained to its end, and not validated, since .*SIGTERM; .* --val does that"):
        trained(folder, tmp_path, monkeypatch, kind=Asked, after=3, num_epochs=1)
    assert set(checkpoints_of(tmp_path)) == {BEST, FINAL}
    assert go_on(folder, num_epochs=1).current_epoch == 1


def test_until_its_first_checkpoint_a_training_leaves_those_that_are_there_as_they_are(folder, tmp_path, monkeypatch):
    trainer = trained(folder, tmp_path, monkeypatch, kind=Killed, disable_checkpointing=True, num_epochs=1)
    output = Path(trainer.output_folder)
    for name in (FINAL, BEST, BEST_NSD, CURVE):
        (output / name).write_bytes(b"of before")
    before = checkpoints_of(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        trained(folder, tmp_path, monkeypatch, kind=Killed, after=2)
    assert checkpoints_of(tmp_path) == before
    assert (output / CURVE).exists()
    # As does one that writes none.
    trained(folder, tmp_path, monkeypatch, kind=Killed, disable_checkpointing=True, num_epochs=1)
    assert checkpoints_of(tmp_path) == before
    # By the end of its first epoch it has one.
    with pytest.raises(KeyboardInterrupt):
        trained(folder, tmp_path, monkeypatch, kind=Killed, after=4)
    assert set(checkpoints_of(tmp_path)) == {BEST} | {name.replace(".pth", "_before.pth") for name in before}
    assert not (output / CURVE).exists()


def test_what_looks_have_found_is_kept_by_a_part_of_the_training_that_does_not_look(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_CURVE_EVERY", "1")
    monkeypatch.setenv("ORCHESTRATOR_CURVE_SHARE", "1")
    changes = {"kind": LookingAsked, "num_epochs": 4, "num_val_iterations_per_epoch": 9}
    with pytest.raises(SystemExit):
        trained(folder, tmp_path, monkeypatch, after=7, **changes)
    path = next(tmp_path.rglob(LATEST))
    found = read_checkpoint(path)[PLACE]["curve"]
    assert found["spent_s"] > 0
    monkeypatch.delenv("ORCHESTRATOR_CURVE_EVERY")
    with pytest.raises(SystemExit):
        trained(folder, tmp_path, monkeypatch, continues=LATEST, after=3, **changes)
    assert read_checkpoint(path)[PLACE]["curve"] == found


class OwnTransforms(nnUNetTrainerOrchestrator):
    num_calls = 0

    @staticmethod
    def get_training_transforms(*given, **named):
        OwnTransforms.num_calls += 1
        return nnUNetTrainer.get_training_transforms(*given, **named)


class OwnCases(nnUNetTrainerOrchestrator):
    num_calls = 0

    def get_tr_and_val_datasets(self):
        OwnCases.num_calls += 1
        return super().get_tr_and_val_datasets()


class OwnLoaders(nnUNetTrainerOrchestrator):
    num_calls = 0

    def get_dataloaders(self):
        OwnLoaders.num_calls += 1
        return super().get_dataloaders()


@pytest.mark.parametrize(
    ("kind", "own"),
    [(OwnTransforms, "get_training_transforms"), (OwnCases, "get_tr_and_val_datasets"), (OwnLoaders, "")],
)
def test_a_class_made_of_it_makes_batches_in_its_own_way_where_it_has_one(kind, own, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    trainer = trained(folder, tmp_path, monkeypatch, kind=kind, num_epochs=1)
    assert kind.num_calls > 0
    said = f"batches are made by nnU-Net's own pipeline: {kind.__name__} has its own {own}"
    assert (said in log_of(trainer)) == bool(own)
