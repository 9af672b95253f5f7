"""One run from its request to its tables: what is checked before it begins, what is wired, what is left behind."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from orchestrator.benchmark.definition import Case, Training
from orchestrator.benchmark.trainings.ensembles import fitted_trainings
from orchestrator.driver.backend import Backend, Connect
from orchestrator.driver.before_start import (
    check_space,
    check_workers_asked_for,
    check_writable,
    settle_changed_data,
    tell_scored_before,
    tell_sizes,
    tell_sizes_by_headers,
)
from orchestrator.driver.claim import claim_output, keep_looks
from orchestrator.driver.event_recorder import EventRecorder
from orchestrator.driver.lease import Lease
from orchestrator.driver.looks import Looks, planned_looks
from orchestrator.driver.loop import RunLoop
from orchestrator.driver.observer import RunObserver
from orchestrator.driver.request import (
    RunRequest,
    datasets_of,
    definitions_of,
    graph_of,
    identity_of,
    name_of,
    trainings_of,
)
from orchestrator.driver.results.shown import compare_cases, shown_of, write_run_report
from orchestrator.errors import ConfigError, GpuError, OrchestratorError
from orchestrator.events import EventLog
from orchestrator.progress import ProgressListener, Snapshot
from orchestrator.report.reported import Reported
from orchestrator.report.study_tables.tables import write_tables
from orchestrator.results.aggregate import missing_predictions
from orchestrator.results.records import ResultRow
from orchestrator.results.store import ResultsStore, from_table
from orchestrator.scheduling.critical_path import needed_stages
from orchestrator.scheduling.ended import Failed
from orchestrator.scheduling.resources import Node, ResourceRequest, node_of
from orchestrator.scheduling.scheduler import Schedule
from orchestrator.scheduling.training_need import idle_gpus, needs_of, training_need
from orchestrator.stages.context import RunContext
from orchestrator.stages.finished import finished_stages
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage
from orchestrator.storage.interface import Storage
from orchestrator.training.nnunet.classes import planned_memory_gib
from orchestrator.workflow.graph import Graph, label_sets_by_case
from orchestrator.workflow.keys import StageKey, StageKind

logger = logging.getLogger(__name__)

MOST_LOADER_WORKERS = 6
"""Threads or processes that make batches for one training with a GPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOutcome:
    """What has become of a run."""

    num_done: int
    """Trainings of the request whose results are committed."""
    failures: Mapping[str, str]
    """By text of each stage that failed for good, a line that says why; below it, the end of its last attempt's log."""
    lost_trainings: tuple[str, ...]
    """Ids of the trainings of the request that cannot be done because of them."""
    unpredicted: Mapping[str, str]
    """One line for each training of the request that is done, though not for every case."""
    tables: tuple[str, ...]
    """Keys of the tables that were written."""
    report: str
    """Key of the page of the report; empty if it could not be written."""
    elapsed_s: float
    """Wall time of this call."""
    left_out: tuple[str, ...] = ()
    """Ids of the trainings of the request that no answer needs any more."""
    looks: tuple[str, ...] = ()
    """What each look has decided, where a run ends once its questions are answered."""


def run(request: RunRequest, *, connect: Connect, listener: ProgressListener) -> RunOutcome:
    """Carry out what is not done yet and write the tables of everything that is.

    Parameters
    ----------
    request
        What is to be run.
    connect
        Gives the cluster.
    listener
        Is told how far it is.

    Raises
    ------
    ConfigError
        If the output location belongs to another run, this user cannot write everywhere there, another driver is at
        work there, or the cluster is too small, or a training cannot have as many workers as it is to have.
    DataError
        If files have changed that this run has read, and `redo_changed` is not set.
    ClusterError
        If the cluster cannot be reached, or another driver has taken over.
    """
    started_s = time.monotonic()
    check_workers_asked_for(request)
    storage = open_storage(request.output)
    check_writable(storage)
    with Lease(storage, note=listener.note) as lease:
        events = EventLog(storage, run_started=datetime.now(UTC), clock=lambda: datetime.now(UTC))
        return _Call(
            request=request,
            storage=storage,
            lease=lease,
            events=events,
            connect=connect,
            listener=listener,
            started_s=started_s,
        ).carry_out()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Executed:
    """What has become of the stages that a call has carried out."""

    failures: Mapping[StageKey, Failed]
    """Of those that failed for good."""
    lost: frozenset[StageKey]
    """Those that cannot be done any more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Call:
    """A call of a run, and what it uses."""

    request: RunRequest
    storage: Storage
    lease: Lease
    events: EventLog
    connect: Connect
    listener: ProgressListener
    started_s: float

    def carry_out(self) -> RunOutcome:
        """Carry out what is not done, and show what is."""
        request, storage = self.request, self.storage
        plan, ids = planned_looks(request, storage), [training.id for training in request.trainings]
        asked_for = claim_output(
            storage,
            identity=identity_of(request),
            trainings=ids,
            fitted=[training.id for training in fitted_trainings(request.trainings)],
            definitions=definitions_of(request),
            note=self.listener.note,
        )
        if plan:
            keep_looks(storage, plan)
        settle_changed_data(request, storage, asked_for=asked_for, note=self.listener.note)
        looks = Looks(plan, request=request, storage=storage) if plan else None
        left_out = looks.latest.left_out if looks else ()
        wanted = tuple(training for training in request.trainings if training.id not in left_out)
        graph = graph_of(replace(request, trainings=wanted))
        done = finished_stages(graph, storage, metrics=request.study.metrics)
        needed = needed_stages(graph, done=done)
        tell_scored_before(request, storage, needed=needed, note=self.listener.note)
        check_space((graph[key] for key in needed), storage=storage, preset=request.preset)
        storage.sweep()
        self._tell_start(num_done=len(done), left_out=left_out)
        executed = _Executed(failures={}, lost=frozenset())
        if needed:
            executed = self._execute(graph, done=done, looks=looks)
        if request.generation and request.generation.until_epoch is not None:
            return self._end_generation(executed)
        return self._show(executed, asked_for=asked_for, has_news=bool(needed))

    def _execute(self, graph: Graph, *, done: set[StageKey], looks: Looks | None) -> _Executed:
        """Carry out the graph."""
        request = self.request
        with self.connect(request.cluster, name_of(request)) as backend:
            schedule = _schedule(request, graph, done=done, backend=backend, note=self.listener.note)
            if looks:
                schedule.withhold(map(StageKey.score_of, looks.withheld))
                self._note_looks(looks)
            need = schedule.needs.one
            if need.gpus and backend.is_embedded:
                _check_torch_here()
            if backend.dashboard:
                self.listener.note(f"Ray dashboard: {backend.dashboard}")
            # On a GPU a process must end for its memory to be given back.
            separate = not backend.is_embedded or need.gpus > 0
            backend.begin(_run_context(request, need), separate_trainings=separate)

            def publish(snapshot: Snapshot, seconds: Mapping[StageKind, float]) -> None:
                self.lease.tell_remaining(snapshot.eta_s)
                backend.publish(snapshot, seconds)

            observer = RunObserver(schedule, view=self.listener, publish=publish, clock=time.monotonic)
            loop = RunLoop(
                schedule,
                backend=backend,
                storage=self.storage,
                listeners=[EventRecorder(self.storage, events=self.events), observer],
                lease=self.lease,
                clock=time.monotonic,
            )
            loop.looks = looks
            try:
                loop.execute()
            finally:
                self.events.flush()
            outcomes = schedule.outcomes
            return _Executed(failures=loop.failures, lost=frozenset(outcomes.failed | outcomes.blocked))

    def _end_generation(self, executed: _Executed) -> RunOutcome:
        """Say what failed of a generation of a population, of which there is nothing to show yet."""
        failures = {key.text: it.line for key, it in executed.failures.items()}
        elapsed_s = self._tell_end(num_done=0, num_failed=len(failures))
        return RunOutcome(
            num_done=0,
            failures=failures,
            lost_trainings=(),
            unpredicted={},
            tables=(),
            report="",
            elapsed_s=elapsed_s,
        )

    def _show(self, executed: _Executed, *, asked_for: Sequence[str], has_news: bool) -> RunOutcome:
        """Write tables and report of everything that is committed."""
        storage, trainings = self.storage, self.request.trainings
        failures = {key.text: "\n".join([it.line, *it.last_lines]) for key, it in executed.failures.items()}
        lost = tuple(training.id for training in trainings if StageKey.score_of(training.id) in executed.lost)
        has_news = has_news or _is_older_than_results(storage)
        if has_news:
            compare_cases(self.request, storage, asked_for=asked_for)
        table = ResultsStore(storage).read()
        rows = from_table(table)
        ids = [training.id for training in trainings]
        num_done = len({row.training_id for row in rows}.intersection(ids))
        shown = shown_of(self.request, storage, table=table, asked_for=asked_for)
        tables = write_tables(storage, shown, failed=lost)
        has_report = not has_news or _write_report(shown, storage, failed=failures, note=self.listener.note)
        elapsed_s = self._tell_end(num_done=num_done, num_failed=len(failures))
        return RunOutcome(
            num_done=num_done,
            failures=failures,
            lost_trainings=lost,
            unpredicted=unpredicted_cases(rows, trainings),
            left_out=tuple(id_ for id_ in ids if id_ in shown.left_out) if self.request.until_decided else (),
            looks=shown.decisions.lines if shown.decisions else (),
            tables=tables,
            report=run_paths.REPORT_PAGE if has_report else "",
            elapsed_s=elapsed_s,
        )

    def _tell_end(self, *, num_done: int, num_failed: int) -> float:
        """Let the events know that this call ends; returns the seconds that it took."""
        elapsed_s = time.monotonic() - self.started_s
        told = {"trainings_done": num_done, "stages_failed": num_failed, "elapsed_s": round(elapsed_s, 3)}
        self.events.append("run_finished", **told)
        self.events.flush()
        return elapsed_s

    def _note_looks(self, looks: Looks) -> None:
        """Say what earlier calls have decided."""
        for look in looks.latest.looks:
            self.listener.note(look.line)

    def _tell_start(self, *, num_done: int, left_out: Iterable[str]) -> None:
        trainings = [training.id for training in self.request.trainings]
        self.events.append("run_started", trainings=trainings, stages_done=num_done, left_out=sorted(left_out))


def _is_older_than_results(storage: Storage) -> bool:
    """Return whether the report is not there, or was written before the latest result: a call can end in between."""
    _, written_at = storage.sizes_and_times(run_paths.REPORT).get(run_paths.REPORT_PAGE, (0, -1))
    return any(at > written_at for _, at in storage.sizes_and_times(run_paths.RESULTS).values())


def _write_report(shown: Reported, storage: Storage, *, failed: Mapping[str, str], note: Callable[[str], None]) -> bool:
    """Return whether the report is written now; what fails there says nothing about the results: they are committed."""
    try:
        write_run_report(shown, storage, failed=failed)
    except Exception as error:
        if not isinstance(error, OrchestratorError):
            logger.exception("the report is not written")
        note(f"the report is not written ({type(error).__name__}: {error}); `orchestrator report` tries it again")
        return False
    return True


def _schedule(
    request: RunRequest,
    graph: Graph,
    *,
    done: set[StageKey],
    backend: Backend,
    note: Callable[[str], None],
) -> Schedule:
    """Return the schedule of a run on the nodes of a cluster, and those that may come."""
    to_come = [node_of(pool) for pool in backend.pools]
    machines = [*backend.nodes, *to_come]
    planned_gib = planned_memory_gib(training.model for training in fitted_trainings(request.trainings))
    need = training_need(request.cluster, machines, preset=request.preset, planned_gib=planned_gib)
    needs = needs_of(request.trainings, one=need, preset=request.preset, config=request.cluster, machines=machines)
    _check_machines(request, needs.of_most, machines, note=note)
    schedule = Schedule(
        graph,
        done=done,
        nodes=backend.nodes,
        to_come=to_come,
        needs=needs,
        min_gain_s=request.cluster.min_preemption_gain_s,
    )
    if not tell_sizes(schedule, open_storage(request.output)):
        tell_sizes_by_headers(schedule, request)
    return schedule


def _check_machines(
    request: RunRequest, need: ResourceRequest, machines: Iterable[Node], *, note: Callable[[str], None]
) -> None:
    """Note what will be slow or idle."""
    if idle := idle_gpus(need, machines):
        note(idle)
    if not (need.gpus or request.preset.is_for_cpus):
        hours = request.preset.expected_training_s / 3600
        note(
            f"No GPU: trainings of --preset {request.preset.name} are meant for one, where each takes about "
            f"{hours:.2g} hours; on CPU cores it is many times that."
        )


def _check_torch_here() -> None:
    """Raise ConfigError if torch cannot use the GPUs of this machine, before every training fails for that."""
    from orchestrator.training.gpu import check_torch

    try:
        check_torch()
    except GpuError as error:
        raise ConfigError(str(error)) from None


def _run_context(request: RunRequest, need: ResourceRequest) -> RunContext:
    phantom_cases: dict[str, list[Case]] = {}
    datasets = datasets_of(request)
    if request.data is None:
        # Every case of the study under this preset: a later run with other trainings finds the same downloads.
        for case in sorted(label_sets_by_case(trainings_of(request))):
            phantom_cases.setdefault(datasets[case.dataset].folder, []).append(case)
    return RunContext(
        output=request.output,
        data=request.data,
        preset=request.preset,
        seed=request.seed,
        datasets=datasets,
        label_sets={label_set.name: label_set for label_set in request.study.label_sets},
        metrics=request.study.metrics,
        phantom_cases={download: tuple(cases) for download, cases in phantom_cases.items()},
        device="cuda" if need.gpus else "cpu",
        num_threads=max(1, int(need.cpus)),
        # With a single CPU, too, patches are made while the GPU works.
        num_loader_workers=max(1, min(MOST_LOADER_WORKERS, int(need.cpus) - 1)) if need.gpus else 0,
        cloud=request.cluster.provider,
        early_stopping=request.early_stopping,
        generation=request.generation,
        workers_per_training=request.cluster.workers_per_training,
    )


def unpredicted_cases(rows: Iterable[ResultRow], trainings: Iterable[Training]) -> dict[str, str]:
    """Return, for each training without a score for every case, how many lack and why the first does."""
    reasons = missing_predictions(rows)
    lines = {}
    for training in trainings:
        own = [(key, reason) for key, reason in reasons.items() if key[0] == training.id]
        if own:
            (_, evaluation_set, dataset, case), reason = own[0]
            lines[training.id] = f"{len(own)} without a score, the first {evaluation_set} {dataset}/{case}: {reason}"
    return lines
