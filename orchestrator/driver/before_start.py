"""What is looked at before a run starts anything: data that it will read and has read, and the room for its files."""

import math
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.benchmark.costs import pace_of_workers
from orchestrator.benchmark.definition import Case
from orchestrator.benchmark.presets import Preset
from orchestrator.benchmark.trainings.ensembles import fitted_trainings
from orchestrator.configuration import listing
from orchestrator.driver.changed_data import NUM_READERS, Comparison, parts_of, remember
from orchestrator.driver.claim import keep_place_of_data, place_of_data, trainings_asked_for
from orchestrator.driver.redo import compare_with_downloads, derived_stages, redo_changed, refuse_changed
from orchestrator.driver.request import RunRequest, datasets_of, graph_of, trainings_of
from orchestrator.errors import ConfigError, IntegrityError, StorageError
from orchestrator.images.problem import Problem
from orchestrator.results.store import ResultsStore
from orchestrator.scheduling.critical_path import needed_stages
from orchestrator.scheduling.resources import node_of
from orchestrator.scheduling.scheduler import Schedule
from orchestrator.scheduling.training_need import Needs, needs_of, training_need
from orchestrator.stages.finished import finished_stages
from orchestrator.stages.local_download import local_download
from orchestrator.stages.records.cases import read_case_record
from orchestrator.stages.records.scores import is_scored_otherwise
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage
from orchestrator.storage.interface import Storage
from orchestrator.workflow.graph import Graph, Stage, expected_bytes
from orchestrator.workflow.keys import StageKey, StageKind

if TYPE_CHECKING:
    from orchestrator.sources.case import CaseRequest

NUM_HEADER_READERS = 8
"""That read headers of cases at a time."""
NUM_SIZES = 16
"""Of images, from which the size of all is learned before the first of a call is made."""


def check_before_start(request: RunRequest) -> tuple[Problem, ...]:
    """Return what is wrong with the downloads of what a run still has to read of them, as far as headers show it.

    What it is to read again, since it has changed, is read to the last voxel: much may be removed for it.
    """
    storage = open_storage(request.output)
    if request.data is None:
        return ()
    # The headers of files in a bucket take their whole files.
    by_headers = () if "://" in request.data else _inspect(request, _stages_needed(request, storage), thorough=False)
    by_voxels = _inspect(request, _stages_read_again(request, storage), thorough=True)
    return tuple(dict.fromkeys([*by_headers, *by_voxels]))


def _stages_needed(request: RunRequest, storage: Storage) -> list[Stage]:
    graph = graph_of(request)
    done = finished_stages(graph, storage, metrics=request.study.metrics)
    return [graph[key] for key in needed_stages(graph, done=done)]


def _stages_read_again(request: RunRequest, storage: Storage) -> list[Stage]:
    """Return the stages whose products are to be removed since their part of a download has changed, or its image."""
    if not request.redo_changed:
        return []
    comparison = compare_with_downloads(storage, data=request.data, datasets=datasets_of(request))
    graph = _graph_of_all(request, storage, asked_for=trainings_asked_for(storage))
    return [graph[key] for key in derived_stages(graph, comparison.changed)]


def _inspect(request: RunRequest, stages: Iterable[Stage], *, thorough: bool) -> tuple[Problem, ...]:
    """Return what is wrong with the parts of downloads that some stages read."""
    from orchestrator.sources.case import CaseRequest
    from orchestrator.sources.inspect import inspect_downloads

    parts: dict[Case, set[str]] = {}
    for stage in stages:
        if stage.case is not None and stage.kind in {StageKind.INGEST, StageKind.LABELS}:
            parts.setdefault(stage.case, set()).update(filter(None, [stage.key.label_set]))
    datasets = datasets_of(request)
    requests = [
        CaseRequest(
            dataset=datasets[case.dataset],
            case_name=case.name,
            # An image alone is looked at beside whatever mask the case has.
            label_sets=tuple(sorted(label_sets)) or datasets[case.dataset].label_sets[:1],
        )
        for case, label_sets in sorted(parts.items())
    ]
    location = request.data or ""
    if "://" in location:
        return tuple(_problems_of_copies(requests, location=location))
    num_threads, downloads = NUM_READERS if thorough else NUM_HEADER_READERS, Path(location)
    return inspect_downloads(requests, downloads=downloads, thorough=thorough, num_threads=num_threads).problems


def _problems_of_copies(requests: "Iterable[CaseRequest]", *, location: str) -> Iterator[Problem]:
    """Yield what is wrong with cases in a bucket, each of which is fetched and read whole."""
    from orchestrator.sources.inspect import inspect_downloads

    for request in requests:
        with local_download(location, request.dataset.folder, case_name=request.case_name) as local:
            for problem in inspect_downloads([request], downloads=local.folder, thorough=True).problems:
                yield replace(problem, path=problem.path.replace(str(local.folder), location))


def check_workers_asked_for(request: RunRequest) -> Needs:
    """Return what stages take; raises ConfigError if a training cannot have as many workers, as far as files tell."""
    pools = request.cluster.node_pools() if request.cluster.is_elsewhere else ()
    machines = [node_of(pool) for pool in pools]
    one = training_need(request.cluster, machines, preset=request.preset)
    return needs_of(request.trainings, one=one, preset=request.preset, config=request.cluster, machines=machines)


def training_hours(request: RunRequest) -> float:
    """Return the hours of all trainings, one after the other on one GPU, or core; each counts for all its workers."""
    needs = check_workers_asked_for(request)
    hours = 0.0
    for training in fitted_trainings(request.trainings):
        number = needs.asked[training.id]
        alone_s = request.preset.changed_by(training.model.changes, where=training.id).expected_training_s
        hours += alone_s / 3600 * number / pace_of_workers(number)
    return hours


def check_writable(storage: Storage) -> None:
    """Raise ConfigError if this user cannot write everywhere in the output location: others have begun there."""
    if closed := storage.unwritable_folders(among=run_paths.OF_RUN):
        raise ConfigError(
            f"{storage.location}: this user cannot write into {listing(closed)}; expected to be able to, everywhere in "
            "the output. Of a folder that a group shares let whoever began there give `chmod -R g+rwX` and set "
            "`umask 002`, or choose another --output"
        )


def check_space(stages: Iterable[Stage], *, storage: Storage, preset: Preset) -> None:
    """Raise ConfigError if the output location has less space than these stages will write, roughly."""
    needed, free = expected_bytes(stages, preset=preset), storage.free_bytes()
    if free is not None and free < needed:
        raise ConfigError(
            f"{storage.location}: {_size(free)} free; expected at least {_size(needed)} for what is to be written. "
            "Free space, choose another --output, or run a part with --only"
        )


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"


def check_unchanged(request: RunRequest) -> None:
    """Raise DataError as `run` would for data that are no longer those that it has read; nothing is written."""
    storage = open_storage(request.output)
    comparison = _comparison(request, storage)
    if comparison.changed and request.data is not None and not request.redo_changed:
        graph = _graph_of_all(request, storage, asked_for=trainings_asked_for(storage))
        refuse_changed(comparison.changed, graph=graph, storage=storage, data=request.data)


def settle_changed_data(
    request: RunRequest, storage: Storage, *, asked_for: Collection[str], note: Callable[[str], None]
) -> None:
    """Refuse, or remove what was made of, data that are no longer those that this run has read."""
    if request.data is None:
        return
    comparison = _comparison(request, storage)
    remember(storage, comparison)
    if comparison.changed:
        graph = _graph_of_all(request, storage, asked_for=asked_for)
        if not request.redo_changed:
            refuse_changed(comparison.changed, graph=graph, storage=storage, data=request.data)
        redo_changed(comparison.changed, graph=graph, storage=storage, note=note)
    before = place_of_data(storage)
    if before not in {None, request.data}:
        keep_place_of_data(storage, request.data)
        note(f"the data, which were in {before}, are in {request.data} now, and the run goes on with them")


def tell_scored_before(
    request: RunRequest, storage: Storage, *, needed: Collection[StageKey], note: Callable[[str], None]
) -> None:
    """Say which scores are not what the study asks for by now: those that are made again, and those that stay."""
    finished = ResultsStore(storage).finished()
    before = [
        one.id
        for one in trainings_of(request, ids=finished)
        if is_scored_otherwise(storage, one, metrics=request.study.metrics)
    ]
    again = [one for one in before if StageKey.score_of(one) in needed]
    if again:
        note(f"{listing(again)}: scored again, since the study asks for other metrics or facets by now")
    if stay := [one for one in before if one not in again]:
        note(
            f"{listing(stay)}: scored before the study asked for the metrics, or facets, that it has now. A call for "
            "them scores them again where their predictions are there"
        )


def _comparison(request: RunRequest, storage: Storage) -> Comparison:
    """Return what has become of the data of a run; raises ConfigError if they are elsewhere, and not the same."""
    datasets, before = datasets_of(request), place_of_data(storage)
    comparison = compare_with_downloads(storage, data=request.data, datasets=datasets)
    if request.data is not None and before not in {None, request.data}:
        num_read = sum(part.case.dataset in datasets for part in parts_of(storage))
        if num_read == len(comparison.gone) and (num_read or ResultsStore(storage).finished()):
            raise ConfigError(
                f"{storage.location}: holds a run with the data of {before}, of which nothing is found in "
                f"{request.data}; expected the same data, wherever they are. Pass --data with their folder or choose "
                "another --output"
            )
    return comparison


def _graph_of_all(request: RunRequest, storage: Storage, *, asked_for: Collection[str]) -> Graph:
    """Return the graph of all trainings that this call or an earlier one was asked for, or has left results of."""
    known = {*asked_for, *ResultsStore(storage).finished()}
    return graph_of(replace(request, trainings=trainings_of(request, ids=known)))


def tell_sizes(schedule: Schedule, storage: Storage) -> bool:
    """Let a schedule know how large some of the images are that earlier calls have made; returns whether any are."""
    images = [stage for stage in schedule.graph.values() if stage.kind is StageKind.INGEST]
    known = [stage for stage in images if stage.key in schedule.outcomes.done]
    for stage in known[:: 1 + len(known) // NUM_SIZES]:
        # It orders the queue, and no result follows from it; who needs the record says what is wrong with it.
        with suppress(StorageError, IntegrityError):
            *channels, record = stage.products
            voxels = math.prod(read_case_record(storage, record).size) * len(channels)
            schedule.expectations.measured(stage.key, voxels=voxels)
    return bool(known)


def tell_sizes_by_headers(schedule: Schedule, request: RunRequest) -> None:
    """Let a schedule know how large some of the images are that are still to be made."""
    if request.data is None or "://" in request.data:
        return
    from orchestrator.sources.inspect import voxels_by_header

    datasets, downloads = datasets_of(request), Path(request.data)
    images = [stage for stage in schedule.graph.values() if stage.kind is StageKind.INGEST]
    for stage in images[:: 1 + len(images) // NUM_SIZES]:
        if (case := stage.case) is not None:
            voxels = voxels_by_header(case, dataset=datasets[case.dataset], downloads=downloads)
            schedule.expectations.measured(stage.key, voxels=voxels)
