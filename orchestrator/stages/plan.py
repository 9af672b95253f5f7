"""The stage that makes the nnU-Net plans of a training."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from orchestrator.benchmark.definition import NNUNET_RAW, Training
from orchestrator.errors import IntegrityError
from orchestrator.scheduling.training_need import check_workers
from orchestrator.stages.context import RunContext
from orchestrator.storage import run_paths
from orchestrator.storage.interface import Storage

if TYPE_CHECKING:
    from orchestrator.training.nnunet.planning import Plan


def plan(context: RunContext, training: Training) -> None:
    """Make the nnU-Net plans of one training, with patch size and network of its donor if it has one."""
    from orchestrator.training.nnunet.planning import CaseFingerprint, make_plan

    _check_trainer(training.model.trainer)
    preset = context.preset_of(training)
    storage, dataset = context.storage, context.datasets[training.train[0].dataset]
    measured = []
    for case in (*training.train, *training.val):
        with _naming(storage, run_paths.fingerprint(case, label_set=training.label_set)) as key:
            measured.append(CaseFingerprint.from_bytes(storage.read_bytes(key)))
    donor = read_plan(storage, training.plans_from) if training.plans_from else None
    made = make_plan(
        measured,
        label_set=context.label_sets[training.label_set],
        configuration=training.model.configuration,
        planner=training.model.planner,
        preset=preset,
        donor=donor,
        name=training.id,
        channels=dataset.channels,
    )
    batch_size = made.plans["configurations"][made.configuration]["batch_size"]
    check_workers(context.workers_per_training or preset.workers, batch_size=batch_size, where=training.id)
    # Cases of public downloads are brought to one order of axes, those of nnU-Net's raw layout are left as they are.
    orientation = None if dataset.source == NNUNET_RAW else "LPS"
    made = made.for_files(file_ending=dataset.file_ending, reader=dataset.reader, orientation=orientation)
    storage.write_bytes(run_paths.plan(training.id), made.to_bytes())


def _check_trainer(name: str) -> None:
    """Raise ConfigError for a trainer that cannot train here, before anything is preprocessed for it."""
    from orchestrator.training.nnunet.classes import DEFAULT_TRAINER

    if name != DEFAULT_TRAINER:
        from orchestrator.training.nnunet.trainers.named_trainers import preset_trainer

        preset_trainer(name)


def read_plan(storage: Storage, training_id: str) -> "Plan":
    """Return the plans of a training; raises IntegrityError with their file and what to do if they are damaged."""
    from orchestrator.training.nnunet.planning import Plan

    with _naming(storage, run_paths.plan(training_id)) as key:
        return Plan.from_bytes(storage.read_bytes(key))


@contextmanager
def _naming(storage: Storage, key: str) -> Iterator[str]:
    """Context with the key of a file; says of which file an IntegrityError is, and what to do."""
    try:
        yield key
    except IntegrityError as error:
        raise IntegrityError(
            f"{storage.location}/{key}: {error}. Delete it: the same command makes it again"
        ) from error
