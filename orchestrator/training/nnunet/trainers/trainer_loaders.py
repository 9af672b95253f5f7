"""Which loaders make the batches of a training: ours, or nnU-Net's own where a trainer changes what ours stand for."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA

from orchestrator.training.feed.case_folders import CaseFolder
from orchestrator.training.feed.loader import BatchLoader
from orchestrator.training.feed.loader_settings import TrainerChoices, batch_settings, without_augmentation
from orchestrator.training.nnunet.trainers.trainer_overrides import overridden

if TYPE_CHECKING:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from orchestrator.training.nnunet.trainers.divided_trainer import DividedTrainer

_PIPELINE = ("get_tr_and_val_datasets", "get_training_transforms", "get_validation_transforms")
"""Methods that nnU-Net's `get_dataloaders` calls, and whose work our loaders do."""
_ROTATION = "configure_rotation_dummyDA_mirroring_and_inital_patch_size"


def reason_for_nnunets_pipeline(trainer: "nnUNetTrainer", *, named: type) -> str:
    """Return why the batches of a training are not those of our loaders; empty if they are.

    Parameters
    ----------
    trainer
        Initialised; whoever has made a class of one of ours may have methods of nnU-Net's anew in it.
    named
        The class before which ours is put, whose `get_dataloaders` is not called otherwise.
    """
    kind = type(trainer)
    if own := [*overridden(named, ["get_dataloaders"]), *overridden(kind, _PIPELINE)]:
        return f"{(named if overridden(named, own) else kind).__name__} has its own {', '.join(own)}"
    rotation = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()[0]
    if not (isinstance(rotation, tuple) and all(isinstance(angle, int | float) for angle in rotation)):
        return f"{(named if overridden(named, [_ROTATION]) else kind).__name__} draws its angles in its own way"
    return ""


def our_loaders(
    trainer: "DividedTrainer", *, folder: CaseFolder, train: Sequence[str], monitoring: Sequence[str], seed: int
) -> tuple[BatchLoader, BatchLoader]:
    """Return the loaders of training and monitoring batches.

    Parameters
    ----------
    trainer
        Initialised.
    folder
        Where the cases are.
    train, monitoring
        Identifiers of the cases of each.
    seed
        Of what is drawn.
    """
    rotation, in_plane, initial_shape, mirror_axes = (
        trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    )
    part = trainer.part_of_batch()
    settings = batch_settings(
        trainer.configuration_manager,
        trainer.label_manager,
        TrainerChoices(
            batch_size=part.batch_size,
            rotation_rad=rotation,
            in_plane=in_plane,
            initial_shape=initial_shape,
            mirror_axes=mirror_axes,
            deep_supervision_scales=trainer._get_deep_supervision_scales(),  # noqa: SLF001 - trainers override it
            oversample_foreground=part.oversample_foreground,
            draws_foreground=trainer.probabilistic_oversampling,
            own=part.own,
        ),
    )
    num_threads, pinned = get_allowed_n_proc_DA(), trainer.device.type == "cuda"
    plain, at_most_one = without_augmentation(settings), min(1, num_threads)
    return (
        BatchLoader(folder, train, settings=settings, seeds=(seed, 0), num_threads=num_threads, pinned=pinned),
        BatchLoader(folder, monitoring, settings=plain, seeds=(seed, 1), num_threads=at_most_one, pinned=pinned),
    )
