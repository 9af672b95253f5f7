"""What a run shows of its results: tables and a report of all that is committed, and of what is asked for."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from orchestrator.benchmark.tables import load_tables
from orchestrator.driver.claim import looks_of, trainings_asked_for
from orchestrator.driver.request import RunRequest, trainings_of
from orchestrator.driver.status import RunStatus, read_status
from orchestrator.events import read_events
from orchestrator.report.looks.decisions import decisions_of
from orchestrator.report.reported import Reported
from orchestrator.report.scores_frame import patient_of_case, scores_frame
from orchestrator.results.store import ResultsStore
from orchestrator.stages.records.alike import compare_images, read_alike
from orchestrator.stages.records.cases import warnings_about
from orchestrator.storage import run_paths
from orchestrator.storage.interface import Storage
from orchestrator.usage import Cost
from orchestrator.workflow.graph import used_label_sets
from orchestrator.workflow.looks import LookPlan

if TYPE_CHECKING:
    import pyarrow as pa


def shown_of(request: RunRequest, storage: Storage, *, table: "pa.Table", asked_for: Collection[str]) -> Reported:
    """Return what tables and report of a run are about."""
    trainings = trainings_of(request, ids={*asked_for, *table["training_id"].to_pylist()})
    # Phantoms are what they are.
    labels = [] if request.data is None else [pair for one in trainings for pair in used_label_sets(one)]
    return with_decisions(
        Reported(
            study=request.study,
            trainings=trainings,
            table=table,
            layout=load_tables(request.study),
            warnings=tuple(warnings_about(storage, labels)) if labels else (),
            alike=read_alike(storage),
        ),
        plan=looks_of(storage),
    )


def compare_cases(request: RunRequest, storage: Storage, *, asked_for: Collection[str]) -> None:
    """Find out which cases of the trainings that a run was asked for show the same image."""
    trainings = trainings_of(request, ids=set(asked_for))
    compare_images(storage, {case for training in trainings for case in training.cases})


def with_decisions(shown: Reported, *, plan: LookPlan | None) -> Reported:
    """Return the same with what the looks of a run have decided, if it has a plan of looks."""
    if plan is None:
        return shown
    patients = patient_of_case(shown.study)
    decisions = decisions_of(plan, scores_frame(shown), trainings=shown.trainings, patients=patients)
    return replace(shown, decisions=decisions)


def write_run_report(shown: Reported, storage: Storage, *, failed: Mapping[str, str]) -> str:
    """Write the report of a run; returns the key of its page. `failed` are stages with the text of their failure."""
    # matplotlib takes a second to import.
    from orchestrator.report.write import write_report

    return write_report(storage, reported=shown, failures=failed, events=read_events(storage))


def report_now(request: RunRequest, storage: Storage, *, cost: Cost | None = None) -> str:
    """Write the report of a run as it stands, also while it goes on; returns the key of its page.

    `cost` is that of its GPU hours, where that is known. Raises ConfigError where no run has been started.
    """
    failed = failures_of(storage, read_status(storage))
    asked_for = trainings_asked_for(storage)
    compare_cases(request, storage, asked_for=asked_for)
    shown = shown_of(request, storage, table=ResultsStore(storage).read(), asked_for=asked_for)
    return write_run_report(replace(shown, cost=cost), storage, failed=failed)


def failures_of(storage: Storage, status: RunStatus) -> dict[str, str]:
    """Return what the stages that failed for good left behind."""
    return {stage: _text(storage, stage, line=line) for stage, line in status.failed.items()}


def _text(storage: Storage, stage: str, *, line: str) -> str:
    """Return what a stage that failed left behind."""
    key = run_paths.stage_failure(stage)
    return storage.read_bytes(key).decode(errors="replace") if storage.exists(key) else line
