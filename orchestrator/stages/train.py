"""The stage that fits a model."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.benchmark.definition import Case, Training
from orchestrator.errors import IntegrityError, StorageError
from orchestrator.results.curves import CurveRow, write_curve
from orchestrator.stages.attempt import AttemptClaim, AttemptEvents, TrainingLog
from orchestrator.stages.context import RunContext
from orchestrator.stages.plan import read_plan
from orchestrator.stages.preprocess import preprocess
from orchestrator.stages.records.latest_epoch import EpochRecorder
from orchestrator.storage import run_paths
from orchestrator.storage.best_effort import best_effort
from orchestrator.storage.interface import Storage
from orchestrator.storage.json_files import write_json

if TYPE_CHECKING:
    from orchestrator.stages.repair import TrainingPatches
    from orchestrator.training.nnunet.planning import Plan
    from orchestrator.training.reports import EpochReport, TrainingListener, TrainOutcome
    from orchestrator.training.stop_request import Watch
    from orchestrator.training.trainer import TrainingSettings
    from orchestrator.training.workers import Worker

logger = logging.getLogger(__name__)


def train(
    context: RunContext,
    training: Training,
    *,
    watches: Sequence["Watch"] = (),
    node: str = "",
    worker: "Worker | None" = None,
) -> None:
    """Fit one model, from its latest checkpoint if there is one, and leave a progress record after every epoch.

    Of several workers, given as `worker`, only the first one leaves anything. Raises PreemptedError, with a checkpoint
    saved, once a signal, the driver, the cloud or one of `watches` asks any of them, and SupersededError, with nothing
    more saved, once another attempt has begun.
    """
    from orchestrator.training.reports import TrainingListener
    from orchestrator.training.stop_request import StopRequest
    from orchestrator.training.workers import ALONE

    worker = worker or ALONE
    if not worker.is_first:
        with StopRequest(watches) as stop_request:
            listener = TrainingListener(on_epoch=lambda _: None, stop_reason=stop_request.reason)
            _fit(context, training, worker=worker, log=logger.info, listener=listener, check=lambda: None)
        return
    storage = context.storage
    claim = AttemptClaim(storage, training_id=training.id)
    record = run_paths.training_record(context.place_of(training))
    # It may be of a final checkpoint that was deleted since, and must not say of the next one that it is done.
    storage.delete(record)
    plan_sha256 = read_plan(storage, training.id).sha256
    with (
        StopRequest([*_own_watches(context, training), *watches]) as stop_request,
        TrainingLog(storage, run_paths.log(training.id)) as log,
        AttemptEvents(storage, training_id=training.id) as events,
    ):
        epochs = EpochRecorder(storage, training_id=training.id, node=node)
        listener = TrainingListener(
            on_epoch=lambda epoch: _report(_of_stage(context, epoch), epochs=epochs, claim=claim, log=log),
            on_milestone=events.add,
            stop_reason=stop_request.reason,
            is_enough=partial(_is_enough, context, training.id, log=log),
            on_curve=partial(_keep_curve, storage, training, claim=claim),
        )
        outcome = _fit(context, training, worker=worker, log=log.write, listener=listener, check=claim.check)
    write_json(storage, record, {**asdict(outcome), "plan_sha256": plan_sha256})
    if context.generation:
        # It says how far this generation is, and would say it of the next one.
        storage.delete(run_paths.training_progress(training.id))


def _fit(
    context: RunContext,
    training: Training,
    *,
    worker: "Worker",
    log: Callable[[str], None],
    listener: "TrainingListener",
    check: Callable[[], None],
) -> "TrainOutcome":
    """Fit the model as one worker; `check` is called before a checkpoint is written."""
    from orchestrator.patches.gathered import gathered_patches
    from orchestrator.training.checkpoint import CheckpointStore
    from orchestrator.training.trainer import train as fit

    storage = context.storage
    plan, patches = read_plan(storage, training.id), _training_patches(context, training)
    generation = context.generation
    checkpoint = CheckpointStore(
        storage,
        training_id=context.place_of(training),
        check=check,
        source=generation.source(training.id) if generation else None,
        keeps_full_state=generation is not None and generation.until_epoch is not None,
    )
    worker.first_then_all("patches", partial(patches.repair, note=log))
    with gathered_patches(storage, patches.records()) as folder:
        try:
            return fit(
                _settings(context, training, plan=plan, patches=folder),
                checkpoint=checkpoint,
                log=log,
                listener=listener,
                worker=worker,
            )
        except IntegrityError as error:
            if not patches.repair(note=log):
                raise
            raise StorageError(f"{error}; it is written again, and the training goes on from its checkpoint") from error


def _own_watches(context: RunContext, training: Training) -> "list[Watch]":
    """Return what a training looks at on any machine to know whether it must stop."""
    from orchestrator.stages.preemption import watch_marker, watch_spot_notices

    watches = [watch_marker(context.storage, training_id=training.id)]
    return [*watches, watch_spot_notices()] if context.cloud == "aws" else watches


def _of_stage(context: RunContext, epoch: "EpochReport") -> "EpochReport":
    """Return the report of an epoch as one of those of this stage: of a population it trains a part of them."""
    if (generation := context.generation) is None:
        return epoch
    first, end = generation.first_epoch, generation.until_epoch or epoch.num_epochs
    return replace(epoch, epoch=epoch.epoch - first, num_epochs=end - first)


def _report(epoch: "EpochReport", *, epochs: EpochRecorder, claim: AttemptClaim, log: TrainingLog) -> None:
    """Leave a progress record of an epoch."""
    with best_effort("progress of an epoch"):
        claim.check()
        log.flush()
        epochs.write(epoch)


def _keep_curve(storage: Storage, training: Training, rows: Sequence[CurveRow], *, claim: AttemptClaim) -> None:
    """Keep the scores of whole validation cases after an epoch."""
    names = {_identifier(case): case.id for case in training.val}
    with best_effort("scores of validation cases"):
        claim.check()
        write_curve(
            storage, run_paths.validation_curve(training.id), [replace(row, case=names[row.case]) for row in rows]
        )


def _is_enough(context: RunContext, training_id: str, dice: Sequence[float], *, log: TrainingLog) -> bool:
    """Whether a trial of a search ends here: since others do better, or with a generation of its population."""
    rule = context.generation or context.early_stopping
    if rule is None:
        return False
    num_epochs, value = len(dice), rule.value_of(dice)
    is_enough = rule.ends(context.storage, training_id, epoch=num_epochs, value=value)
    if is_enough and context.generation:
        log.write(f"{training_id}: patch Dice {value:.4f} after {num_epochs} epochs, where its population is compared")
    elif is_enough:
        log.write(f"{training_id}: ends after {num_epochs} epochs, since other trials do better")
    return is_enough


def _settings(context: RunContext, training: Training, *, plan: "Plan", patches: Path) -> "TrainingSettings":
    from orchestrator.training.trainer import TrainingSettings

    return TrainingSettings(
        training_id=training.id,
        plan=plan,
        preset=context.preset_of(training),
        train_cases=tuple(map(_identifier, training.train)),
        val_cases=tuple(map(_identifier, training.val)),
        patches=patches,
        seed=_seed(context.seed, training.id),
        device=context.device,
        num_loader_workers=context.num_loader_workers,
        trainer_name=training.model.trainer,
        structures=context.label_sets[training.label_set].structures,
    )


def _training_patches(context: RunContext, training: Training) -> "TrainingPatches":
    from orchestrator.stages.repair import TrainingPatches

    return TrainingPatches(
        storage=context.storage,
        training_id=training.id,
        cases=(*training.train, *training.val),
        write_again=lambda case: preprocess(context, training, case=case),
    )


def _identifier(case: Case) -> str:
    """Return the name of a case within one nnU-Net data set."""
    return f"{case.dataset}--{case.name}"


def _seed(run_seed: int, training_id: str) -> int:
    """Return a seed of 32 bits that differs between trainings and is the same in every run."""
    return int.from_bytes(hashlib.sha256(f"{run_seed} {training_id}".encode()).digest()[:4], "big")
