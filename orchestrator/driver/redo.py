"""What follows when a download has changed: nothing is mixed, what was made of the old content is refused or redone."""

from collections.abc import Callable, Mapping, Sequence

from orchestrator.benchmark.definition import Dataset
from orchestrator.configuration import listing
from orchestrator.driver.changed_data import ChangedPart, Comparison, compare, parts_of
from orchestrator.errors import DataError
from orchestrator.storage import run_paths
from orchestrator.storage.interface import Storage
from orchestrator.workflow.graph import Graph
from orchestrator.workflow.keys import StageKey, StageKind

REDO = "--redo-changed"


def compare_with_downloads(storage: Storage, *, data: str | None, datasets: Mapping[str, Dataset]) -> Comparison:
    """Compare what a run has read with the downloads as they are; phantoms are what the run itself has written."""
    if data is None:
        return Comparison(changed=(), touched=())
    return compare(parts_of(storage), data=data, datasets=datasets)


def refuse_changed(changed: Sequence[ChangedPart], *, graph: Graph, storage: Storage, data: str) -> None:
    """Raise DataError that names what has changed and what was made of it; nothing if nothing has."""
    if not changed:
        return
    files = list(dict.fromkeys(file for one in changed for file in one.files))
    of_old = [
        stage.training.id
        for stage in map(graph.__getitem__, derived_stages(graph, changed))
        if stage.training is not None and stage.kind in {StageKind.TRAIN, StageKind.SCORE}
        if any(map(storage.exists, stage.products))
    ]
    of_old = list(dict.fromkeys(of_old))
    parts = listing([one.part.name for one in changed])
    raise DataError(
        f"{data}: {listing(files)}: changed since this run has read {parts} of it; "
        f"expected the same content, since results of both would stand in one table. Trained or scored with the old: "
        f"{listing(of_old)}. Pass {REDO} to remove all that was made of it and make it anew, restore the files, or "
        "choose another --output"
    )


def redo_changed(
    changed: Sequence[ChangedPart], *, graph: Graph, storage: Storage, note: Callable[[str], None]
) -> None:
    """Remove everything that was made of what has changed, results first: a run that is killed amid it goes on so."""
    images = {one.part.case for one in changed if one.part.label_set is None}
    derived = derived_stages(graph, changed)
    for stage in map(graph.__getitem__, reversed(derived)):
        keys = list(stage.products)
        if stage.training is not None and stage.kind is StageKind.TRAIN:
            keys += storage.list_keys(run_paths.training(stage.training.id))
        elif stage.training is not None and stage.kind is StageKind.VALIDATE:
            keys += storage.list_keys(run_paths.validations(stage.training.id))
        elif stage.training is not None and stage.kind is StageKind.PREDICT:
            keys += [run_paths.prediction(stage.training.id, case) for case in images]
        for key in keys:
            storage.delete(key)
    # Where no training of this output uses a part any more, no stage tells of it.
    for one in changed:
        storage.delete(one.part.key)
        storage.delete(run_paths.case_overview(one.part.case))
    for one in changed:
        storage.delete(run_paths.kept_record(one.part.key))
    trainings = sum(graph[key].kind is StageKind.SCORE for key in derived)
    files = list(dict.fromkeys(file for one in changed for file in one.files))
    note(f"{listing(files)}: changed; what was made of it is made anew, also for {trainings} trainings")


def derived_stages(graph: Graph, changed: Sequence[ChangedPart]) -> list[StageKey]:
    """Return, in graph order, the stages that have made changed parts and all that read what these have made."""
    derived = {one.part.stage for one in changed}
    # Stages stand before those that need them.
    for key, stage in graph.items():
        if not derived.isdisjoint(stage.dependencies):
            derived.add(key)
    return [key for key in graph if key in derived]
